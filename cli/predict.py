"""``brainseg-tf predict``."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf.errors import InputError
from brainseg_tf.options import PredictOptions
from brainseg_tf_cli.option_factory import GroupedCommand
from brainseg_tf_cli.options import FILE, post_processing, segmentation_options, with_names
from brainseg_tf_cli.predict_options import CONTRASTS, input_output_and_model, many_scans_and_server
from brainseg_tf_cli.tensorflow_import import prepare_runtime, prepare_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.brain.network import BrainNetwork
    from brainseg_tf.prediction.batch import Batch
    from brainseg_tf.prediction.jobs import Job, Outcome
    from brainseg_tf.prediction.predictor import Predictor
    from brainseg_tf.prediction.progress import Progress
    from brainseg_tf.reconstruction import Reconstructor
    from brainseg_tf.resources import Runtime
    from brainseg_tf.saved_model import ModelFolder
    from brainseg_tf.serving.endpoint import Endpoint

# Stands for the name of each scan in the patterns that --out-dir takes.
NAME = "{name}"
# Options for one scan with --out, by parameter: --out-dir names these files itself.
_ONE_SCAN = {
    "figure": "--figure",
    "save_dicom_seg": "--save-dicom-seg",
    "save_brain_mask": "--save-brain-mask",
    "report": "--report",
}
# Files that --out-dir writes only if a pattern of their name is given, by the field of ``Outputs``.
_MAPS = ("residual", "reconstruction", "probability", "uncertainty", "suspicion", "lesions", "rtstruct")


@click.command(cls=GroupedCommand, short_help="Segment the lesions in scans.")
@click.argument("scans", nargs=-1, required=True, type=FILE)
@input_output_and_model
@post_processing
@many_scans_and_server
@click.pass_context
def predict(context: click.Context, /, scans: tuple[Path, ...], **given: Any) -> None:
    """Segment the lesions in SCANS: NIfTI or other files, folders of DICOM slices, or folders of these.

    One scan goes to --out. Several scans go to --out-dir: each gets NAME_mask.nii.gz, NAME_report.json and
    NAME_figure.png, and a row in summary.csv. A BIDS dataset gives a BIDS derivative. The mask (uint8, 1 in a lesion)
    has the grid of the scan.

    With --out-dir, further modalities are found by their names, in a BIDS dataset, or in a table of scans (.tsv, .csv;
    see fit) that is given instead of scans. --modality, --brain-mask, --truth and the maps (--save-...) take patterns,
    for instance --brain-mask '{name}_brain.nii.gz', relative to the folder of the scan or of its mask.
    """
    scans = with_names(scans)
    _check_usage(scans, given)
    if given["html"] is not None:
        from brainseg_tf.prediction import pages

        pages.check_installed()

    from brainseg_tf.prediction.predictor import Predictor

    server = given["server"]
    found = choose_model(scans, given, tuple(given["modality"]))
    if server:
        found.check()  # A model that is loaded here is checked when it is loaded.
    options = PredictOptions(
        segmentation_options(context, given),
        given["brain"],
        given["engine"],
        given["register"],
        given["copies"],
        given["overwrite"],
    )
    # A server joins requests of many clients into one batch, whose slices must be of one size.
    card = replace(found.card, trim=0) if server else found.card
    predictor = Predictor(
        card, model_loader(found, given), options, load_brain=brain_network_loader(given), server=server
    )
    if given["out"] is not None:
        job = _job(scans[0], given)
        _show(job, predictor.run(job))
    else:
        _predict_many(scans, predictor, found, options, given)


def _check_usage(scans: tuple[Path, ...], given: dict[str, Any]) -> None:
    """Refuses options that do not go together.

    Raises:
        click.UsageError: names them.
    """
    out, out_dir = given["out"], given["out_dir"]
    if out_dir is not None and ".." in out_dir.parts:
        # Tables find the results of an earlier run by the name of the folder.
        out_dir = given["out_dir"] = out_dir.resolve()
    if (out is None) == (out_dir is None):
        raise click.UsageError("give --out FILE for one scan, or --out-dir FOLDER for several")
    if out is not None and (len(scans) > 1 or _is_folder_of_scans(scans[0])):
        raise click.UsageError("--out takes one scan; give --out-dir for several scans or a folder of them")
    if given["brain_mask"] and given["brain"] not in ("auto", "stripped"):
        raise click.UsageError(f"give --brain-mask or --brain {given['brain']}, not both")
    if out is not None and (given["proceed"] or given["scheduler"]):
        raise click.UsageError("--continue and --scheduler go with --out-dir")
    if given["proceed"] and given["overwrite"]:
        raise click.UsageError("give --continue, which keeps results, or --overwrite, which replaces them, not both")
    if given["scheduler"] and given["server"]:
        raise click.UsageError("give --scheduler or --server, not both")
    if given["scheduler"] and given["threads"]:
        raise click.UsageError("--threads does not go with --scheduler; give dask worker --nthreads")
    if given["scheduler"] and given["device"] != "auto":
        raise click.UsageError("--device does not go with --scheduler; the workers choose it")
    single = [flag for name, flag in _ONE_SCAN.items() if given[name]]
    if out_dir is not None and single:
        raise click.UsageError(f"{', '.join(single)}: for one scan with --out only")
    files = {"--brain-mask": given["brain_mask"], "--truth": given["truth"]}
    files |= {f"--modality {name}": file for name, file in given["modality"].items()}
    files |= {f"--save-{name}": given[f"save_{name}"] for name in _MAPS}
    fixed = [flag for flag, file in files.items() if file is not None and NAME not in str(file)]
    if out_dir is not None and fixed:
        raise click.UsageError(
            f"{', '.join(fixed)}: with --out-dir, give a pattern with {NAME}, which stands for the name of each scan"
        )
    if given["server_version"] and given["server_label"]:
        raise click.UsageError("give --server-version or --server-label, not both")
    if given["server"] is None and any(given[f"server_{name}"] for name in ("model", "version", "label", "ca")):
        raise click.UsageError("--server-model, --server-version, --server-label and --server-ca go with --server")


def choose_model(scans: tuple[Path, ...], given: dict[str, Any], further: tuple[str, ...] = ()) -> "ModelFolder":
    """The model of --model, or else the best one for --contrast or for the contrast that the scans name.

    Args:
        scans: the scans.
        given: the options, with ``model`` and ``contrast``.
        further: names of further modalities.

    Raises:
        click.UsageError: --contrast is not that of --model.
    """
    from brainseg_tf.files import is_folder
    from brainseg_tf.saved_model import best_for, find

    name = given["model"]
    contrast = given["contrast"] or _contrast_in_names(scans)
    found = find(name) if name is not None else best_for([contrast, *further])
    if given["contrast"] not in (None, found.card.modalities[0]):
        raise click.UsageError(
            f"--contrast {given['contrast']} does not go with model {found.card.name}, whose main scan is "
            f"{found.card.modalities[0]}"
        )
    if not name and not given["contrast"] and contrast != CONTRASTS[0]:
        said = "names or series descriptions" if any(map(is_folder, scans)) else "names"
        click.echo(f"Contrast {contrast}, from the {said} of the scans; model {found.card.name}", err=True)
    return found


def _contrast_in_names(scans: tuple[Path, ...]) -> str:
    """The contrast of all scans by their names or series descriptions, if it is that of a model; else FLAIR."""
    from brainseg_tf.images.modality_names import last_modality
    from brainseg_tf.training.layouts import TABLES

    # The names of folders and tables say nothing about the scans in them.
    several = [_is_folder_of_scans(scan) or scan.suffix.lower() in TABLES for scan in scans]
    named = {None if some else last_modality(scan) for scan, some in zip(scans, several, strict=True)}
    return next((one for one in CONTRASTS if named == {one}), CONTRASTS[0])


def model_loader(found: "ModelFolder", given: dict[str, Any]) -> "Callable[[], Reconstructor]":
    """What loads the model in this process, or connects to the server that has it."""

    def load() -> "Reconstructor":
        from brainseg_tf.resources import limit_threads

        model: Reconstructor
        if given["server"] is None:
            model = found.load(_runtime(given))
        else:
            prepare_tensorflow(given["device"], given["threads"])
            from brainseg_tf.serving.remote import connect

            name = given["server_model"] or found.card.name
            model = connect(_endpoint(given, name, given["server_version"], given["server_label"]), found.card)
        if given.get("save_uncertainty") is not None:
            prepare_tensorflow(given["device"], given["threads"])  # It corrupts the slices.
        if found.card.score == "probability":
            # For the correction of the bias field. It is imported here while the brain network runs.
            import sklearn.linear_model  # noqa: F401
        limit_threads()
        return model

    return load


def brain_network_loader(given: dict[str, Any]) -> "Callable[[], BrainNetwork | None]":
    """What loads the brain network in this process, or connects to the server that has it."""

    def load() -> "BrainNetwork | None":
        from brainseg_tf.saved_model import shipped_brain_network

        found = shipped_brain_network()
        if given["server"] is None:
            return found.load(_runtime(given))
        prepare_tensorflow(given["device"], given["threads"])
        from brainseg_tf.serving.remote import connect_brain_network

        return connect_brain_network(_endpoint(given, found.card.name), found.card)

    return load


def _runtime(given: dict[str, Any]) -> "Runtime":
    return prepare_runtime(given["engine"], given["device"], given["threads"])


def _endpoint(given: dict[str, Any], model: str, version: int | None = None, label: str | None = None) -> "Endpoint":
    from brainseg_tf.serving.endpoint import Endpoint

    return Endpoint(given["server"], model, version, label, given["server_ca"], given["server_timeout"])


def _job(scan: Path, given: dict[str, Any]) -> "Job":
    """The job of one scan with --out."""
    from brainseg_tf.prediction.jobs import Job, Outputs

    outputs = Outputs(
        given["out"],
        figure=given["figure"],
        residual=given["save_residual"],
        reconstruction=given["save_reconstruction"],
        probability=given["save_probability"],
        uncertainty=given["save_uncertainty"],
        suspicion=given["save_suspicion"],
        lesions=given["save_lesions"],
        brain_mask=given["save_brain_mask"],
        dicom=given["save_dicom_seg"],
        rtstruct=given["save_rtstruct"],
        page=given["html"],
        report=given["report"],
    )
    if given["viewer_tables"]:
        outputs = outputs.with_tables()
    return Job(scan, outputs, given["modality"], brain=given["brain_mask"], truth=given["truth"])


def _predict_many(
    scans: tuple[Path, ...],
    predictor: "Predictor",
    found: "ModelFolder",
    options: PredictOptions,
    given: dict[str, Any],
) -> None:
    """Runs all scans with --out-dir, here or on a cluster."""
    batch = _plan(scans, found.card.modalities, given)
    running: Iterator[Outcome]
    if given["scheduler"]:
        from brainseg_tf.prediction.cluster import run_on_cluster

        running = run_on_cluster(given["scheduler"], found.reference, options, batch.jobs, proceed=given["proceed"])
    else:
        from brainseg_tf.prediction.running import run_all
        from brainseg_tf.resources import workers_for_memory

        workers, remark = workers_for_memory(given["workers"])
        if remark:
            _warn(remark)
        running = run_all(predictor, batch.jobs, workers=workers, proceed=given["proceed"])
    _run_batch(batch, running, given["out_dir"], given["html"])


def _plan(scans: tuple[Path, ...], modalities: tuple[str, ...], given: dict[str, Any]) -> "Batch":
    """The jobs of several scans; refuses what an earlier run made unless it may be kept or replaced."""
    from brainseg_tf.files import check_writable
    from brainseg_tf.prediction import cohort_tables
    from brainseg_tf.prediction.batch import SUMMARY, check_index, plan_batch
    from brainseg_tf.prediction.companions import Companions
    from brainseg_tf.prediction.results_table import check

    out_dir, html = given["out_dir"], given["html"]
    overwrite = given["overwrite"] or given["proceed"]
    if html is not None:
        check_index(html, overwrite=overwrite)
    brain_mask, truth = (None if given[name] is None else str(given[name]) for name in ("brain_mask", "truth"))
    for name in given["modality"]:
        if name not in modalities[1:]:
            raise InputError(f"the model uses {' and '.join(modalities)}, not {name}; choose another --model")
    companions = Companions(
        modalities[1:],
        {name: str(file) for name, file in given["modality"].items()},
        brain_mask,
        truth,
        {name: str(given[f"save_{name}"]) for name in _MAPS if given[f"save_{name}"] is not None},
        tables=given["viewer_tables"],
    )
    batch = plan_batch(
        scans,
        out_dir,
        index=html,
        brain_masks=given["brain"] != "stripped",
        modality=modalities[0],
        companions=companions,
        overwrite=given["overwrite"],
    )
    cohort_tables.check(out_dir, [*scans, *(file for job in batch.jobs for file in job.inputs)])
    check(out_dir / SUMMARY, [(job.scan, job.outputs.mask) for job in batch.jobs], overwrite=overwrite)
    if html is not None:
        check_writable(html, overwrite=True)
    for file, reason in batch.left_out:
        _warn(f"{file}: left out, {reason}")
    return batch


def _run_batch(batch: "Batch", running: "Iterator[Outcome]", out_dir: Path, html: Path | None) -> None:
    """Shows each outcome as it comes, and keeps table and index up to date."""
    from brainseg_tf.prediction.progress import Progress

    progress = Progress(out_dir, batch, html)
    try:
        for outcome in chain(batch.failed, running):
            progress.add(outcome)
            _show_outcome(outcome, progress)
    except KeyboardInterrupt:
        total = len(batch.jobs) + len(batch.failed)
        click.echo(
            f"Error: interrupted after {len(progress.outcomes)} of {total} scans; --continue does the others", err=True
        )
        sys.exit(130)
    finally:
        # Without any outcome, for instance if the cluster cannot be reached, there is nothing to write.
        if progress.outcomes:
            progress.finish()
    failures = sum(outcome.error is not None for outcome in progress.outcomes)
    if failures:
        click.echo(f"Error: {failures} of {len(progress.outcomes)} scans failed", err=True)
        sys.exit(1)


def _is_folder_of_scans(place: Path) -> bool:
    from brainseg_tf.files import is_folder

    if not is_folder(place):
        return False
    from brainseg_tf.images.dicom import is_series

    return not is_series(place)


def _warn(text: str) -> None:
    from brainseg_tf.files import printable

    click.echo(f"Warning: {printable(text)}", err=True)


def _show_outcome(outcome: "Outcome", progress: "Progress") -> None:
    """One line for each of several scans, with the number of finished scans; on a terminal also the time left."""
    from brainseg_tf.files import printable

    kept = ", kept" if outcome.kept else ""
    left = f", {progress.time_left}" if sys.stdout.isatty() and progress.time_left else ""
    if outcome.report is None:
        click.echo(f"Error: [{progress}] {printable(outcome.error)}", err=True)
    else:
        _show(outcome.job, outcome.report, f"[{progress}{kept}{left}] ")


def _show(job: "Job", report: dict[str, Any], prefix: str = "") -> None:
    from brainseg_tf.files import printable

    for warning in report["warnings"]:
        _warn(warning)
    count = len(report["lesions"])
    what = (
        f"{report['lesion_ml']:.1f} ml in {count} lesion{'s' * (count != 1)}"
        if count
        else "no lesion found, empty mask"
    )
    if report["suspected_ml"]:
        what += f"; {report['suspected_ml']:.1f} ml suspected"
    agreement = f", Dice {report['dice']:.3f}" if "dice" in report else ""
    click.echo(f"{prefix}{printable(job.outputs.mask)}: {what}{agreement}")
