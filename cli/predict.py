"""``brainseg-tf predict``."""

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf.options import PredictOptions
from brainseg_tf_cli.option_factory import GroupedCommand, apply, from_field, option
from brainseg_tf_cli.options import FILE, post_processing, segmentation_options, shipped_names
from brainseg_tf_cli.tensorflow_import import import_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.prediction.batch import Batch, Progress
    from brainseg_tf.prediction.jobs import Job, Outcome
    from brainseg_tf.prediction.predictor import Predictor
    from brainseg_tf.reconstruction import Reconstructor
    from brainseg_tf.saved_model import ModelFolder

# Options for one scan with --out, by parameter.
_ONE_SCAN = {
    "modality": "--modality",
    "brain_mask": "--brain-mask",
    "truth": "--truth",
    "figure": "--figure",
    "save_residual": "--save-residual",
    "save_probability": "--save-probability",
    "save_uncertainty": "--save-uncertainty",
    "save_dicom_seg": "--save-dicom-seg",
    "save_reconstruction": "--save-reconstruction",
    "save_suspicion": "--save-suspicion",
    "report": "--report",
}
INPUT, OUTPUT, BRAIN, MODEL = "Input", "Output", "Brain", "Model"
MANY, SERVER = "Many scans", "Server"


def _command(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Checks a skull-stripping command before anything else is done."""
    if value is None:
        return None
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; quote it as for a shell") from None
    for place in ("{scan}", "{mask}"):
        if not any(place in word for word in words[1:]):
            raise click.BadParameter(f"has no {place}; say where the tool takes the scan and where it leaves the mask")
    return value


def _modalities(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """NAME=FILE options by name."""
    pairs = [value.partition("=") for value in values]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise click.BadParameter(f"{name}: expected NAME=FILE")
    return {name: Path(file) for name, _, file in pairs}


_options = apply(
    [
        option(
            "--modality",
            group=INPUT,
            multiple=True,
            metavar="NAME=FILE",
            callback=_modalities,
            help="Scan of a further modality on the same grid, for instance t2=t2.nii.gz.",
        ),
        option("--truth", group=INPUT, type=FILE, help="Ground truth on the scan's grid; adds the Dice and a panel."),
        option("--out", group=OUTPUT, type=FILE, help="Lesion mask of one scan, .nii or .nii.gz."),
        option(
            "--out-dir", group=OUTPUT, type=FILE, help="Folder for the masks, reports and figures of several scans."
        ),
        option("--report", group=OUTPUT, type=FILE, help="JSON report: volumes, components, seconds, model, options."),
        option("--figure", group=OUTPUT, type=FILE, help="PNG of input, reconstruction, residual and result."),
        option(
            "--html",
            group=OUTPUT,
            type=FILE,
            help="Page for a browser: viewer, lesions, what was run. With --out-dir: an index, and a page per scan.",
        ),
        option(
            "--save-probability",
            group=OUTPUT,
            type=FILE,
            help="Posterior probability of a lesion, float32, on the scan's grid.",
        ),
        option(
            "--save-suspicion",
            group=OUTPUT,
            type=FILE,
            help="Mask of what is abnormal but not in the lesion mask, on the scan's grid.",
        ),
        option(
            "--save-residual",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Input minus reconstruction, on the scan's grid.",
        ),
        option(
            "--save-reconstruction",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="The network's reconstruction, on the scan's grid.",
        ),
        option(
            "--save-uncertainty",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Standard deviation of the score over noisy copies of the scan, on the scan's grid.",
        ),
        from_field(PredictOptions, "copies", group=OUTPUT, advanced=True),
        option(
            "--save-dicom-seg",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Lesion mask of a DICOM series as a DICOM segmentation, .dcm.",
        ),
        from_field(PredictOptions, "overwrite", group=OUTPUT),
        option("--brain-mask", group=BRAIN, type=FILE, help="Brain mask on the scan's grid."),
        from_field(PredictOptions, "skull_strip", group=BRAIN, metavar="COMMAND", callback=_command),
        option(
            "--model",
            group=MODEL,
            shell_complete=shipped_names,
            help="Name of a shipped model, or a model folder (./FOLDER). shipped:NAME[/VERSION] is always a shipped "
            "model.  [default: the best one for FLAIR and what --modality adds]",
        ),
    ]
)
_run_options = apply(
    [
        option(
            "--workers",
            group=MANY,
            type=click.IntRange(1),
            default=2,
            show_default=True,
            help="Number of scans that are processed at the same time.",
        ),
        option("--continue", "proceed", group=MANY, is_flag=True, help="Keep what an earlier run finished."),
        option(
            "--scheduler", group=MANY, metavar="URL", help="Address of a Dask scheduler to run on, tcp://host:8786."
        ),
        option(
            "--server",
            group=SERVER,
            metavar="URL",
            help="TensorFlow Serving that runs the model: grpc[s]:// or http[s]://host:port.",
        ),
        option(
            "--server-model", group=SERVER, advanced=True, help="Name of the model there.  [default: the model's own]"
        ),
        option(
            "--server-version",
            group=SERVER,
            advanced=True,
            type=click.IntRange(1),
            help="Version of the model there.  [default: the newest]",
        ),
        option("--server-label", group=SERVER, advanced=True, help="Label of the version there, for instance stable."),
        option(
            "--server-ca",
            group=SERVER,
            advanced=True,
            type=FILE,
            help="PEM file of certificates that the server's certificate is checked with.  [default: the system's]",
        ),
        option(
            "--server-timeout",
            group=SERVER,
            advanced=True,
            type=click.FloatRange(0.1, 86400),
            default=60.0,
            show_default=True,
            help="Seconds for one request, from the connection to the last byte of the answer.",
        ),
    ]
)


@click.command(cls=GroupedCommand, short_help="Segment the lesions in scans.")
@click.argument("scans", nargs=-1, required=True, type=FILE)
@_options
@post_processing
@_run_options
@click.pass_context
def predict(context: click.Context, /, scans: tuple[Path, ...], **given: Any) -> None:
    """Segment the lesions in SCANS: NIfTI or other files, folders of DICOM slices, or folders of these.

    One scan goes to --out. Several scans go to --out-dir: each gets NAME_mask.nii.gz, NAME_report.json and
    NAME_figure.png, and a row in summary.csv. A BIDS dataset gives a BIDS derivative. The mask (uint8, 1 in a lesion)
    has the grid of the scan.
    """
    _check_usage(scans, given)
    if given["html"] is not None:
        from brainseg_tf.prediction import pages

        pages.check_installed()

    from brainseg_tf.prediction.predictor import Predictor
    from brainseg_tf.saved_model import best_for, find

    name, server = given["model"], given["server"]
    found = find(name) if name is not None else best_for(["flair", *given["modality"]])
    if server:
        found.check()  # A model that is loaded here is checked when it is loaded.
    options = PredictOptions(
        segmentation_options(context, given), given["skull_strip"], given["copies"], given["overwrite"]
    )
    # A server joins requests of many clients into one batch, whose slices must be of one size.
    card = replace(found.card, trim=0) if server else found.card
    predictor = Predictor(card, _loader(found, given), options, server=server)
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
    if (out is None) == (out_dir is None):
        raise click.UsageError("give --out FILE for one scan, or --out-dir FOLDER for several")
    if out is not None and (len(scans) > 1 or _is_folder_of_scans(scans[0])):
        raise click.UsageError("--out takes one scan; give --out-dir for several scans or a folder of them")
    if given["brain_mask"] and given["skull_strip"]:
        raise click.UsageError("give --brain-mask or --skull-strip, not both")
    if out is not None and (given["proceed"] or given["scheduler"]):
        raise click.UsageError("--continue and --scheduler go with --out-dir")
    if given["scheduler"] and given["server"]:
        raise click.UsageError("give --scheduler or --server, not both")
    single = [flag for name, flag in _ONE_SCAN.items() if given[name]]
    if out_dir is not None and single:
        raise click.UsageError(f"{', '.join(single)}: for one scan with --out only")
    if given["server_version"] and given["server_label"]:
        raise click.UsageError("give --server-version or --server-label, not both")
    if given["server"] is None and any(given[f"server_{name}"] for name in ("model", "version", "label", "ca")):
        raise click.UsageError("--server-model, --server-version, --server-label and --server-ca go with --server")


def _loader(found: "ModelFolder", given: dict[str, Any]) -> "Callable[[], Reconstructor]":
    """What loads the model in this process, or connects to the server that has it."""

    def load() -> "Reconstructor":
        from brainseg_tf.resources import limit_threads

        import_tensorflow()
        limit_threads()
        if given["server"] is None:
            return found.load()
        from brainseg_tf.serving.endpoint import Endpoint
        from brainseg_tf.serving.remote import connect

        endpoint = Endpoint(
            given["server"],
            given["server_model"] or found.card.name,
            given["server_version"],
            given["server_label"],
            given["server_ca"],
            given["server_timeout"],
        )
        return connect(endpoint, found.card)

    return load


def _job(scan: Path, given: dict[str, Any]) -> "Job":
    """The job of one scan with --out."""
    from brainseg_tf.images.formats import stem
    from brainseg_tf.prediction.batch import BRAIN as BRAIN_MASK
    from brainseg_tf.prediction.jobs import Job, Outputs

    out = given["out"]
    outputs = Outputs(
        out,
        figure=given["figure"],
        residual=given["save_residual"],
        reconstruction=given["save_reconstruction"],
        probability=given["save_probability"],
        uncertainty=given["save_uncertainty"],
        suspicion=given["save_suspicion"],
        brain_mask=out.with_name(f"{stem(out)}{BRAIN_MASK}") if given["skull_strip"] else None,
        dicom=given["save_dicom_seg"],
        page=given["html"],
        report=given["report"],
    )
    return Job(scan, outputs, given["modality"], brain=given["brain_mask"], truth=given["truth"])


def _predict_many(
    scans: tuple[Path, ...],
    predictor: "Predictor",
    found: "ModelFolder",
    options: PredictOptions,
    given: dict[str, Any],
) -> None:
    """Runs all scans with --out-dir, here or on a cluster."""
    batch = _plan(scans, found.card.modalities[0], given)
    running: Iterator[Outcome]
    if given["scheduler"]:
        from brainseg_tf.prediction.cluster import run_on_cluster

        running = run_on_cluster(given["scheduler"], found.reference, options, batch.jobs, proceed=given["proceed"])
    else:
        from brainseg_tf.prediction.batch import run_all
        from brainseg_tf.resources import workers_for_memory

        workers, remark = workers_for_memory(given["workers"])
        if remark:
            _warn(remark)
        running = run_all(predictor, batch.jobs, workers=workers, proceed=given["proceed"])
    _run_batch(batch, running, given["out_dir"], given["html"])


def _plan(scans: tuple[Path, ...], modality: str, given: dict[str, Any]) -> "Batch":
    """The jobs of several scans; refuses what an earlier run made unless it may be kept or replaced."""
    from brainseg_tf.files import check_writable
    from brainseg_tf.prediction.batch import SUMMARY, check_index, plan_batch
    from brainseg_tf.prediction.results_table import check

    out_dir, html = given["out_dir"], given["html"]
    overwrite = given["overwrite"] or given["proceed"]
    if html is not None:
        check_index(html, overwrite=overwrite)
    batch = plan_batch(scans, out_dir, index=html, strip=given["skull_strip"] is not None, modality=modality)
    check(out_dir / SUMMARY, [job.outputs.mask for job in batch.jobs], overwrite=overwrite)
    if html is not None:
        check_writable(html, overwrite=True)
    for file, reason in batch.left_out:
        _warn(f"{file}: left out, {reason}")
    return batch


def _run_batch(batch: "Batch", running: "Iterator[Outcome]", out_dir: Path, html: Path | None) -> None:
    """Shows each outcome as it comes, and keeps table and index up to date."""
    from brainseg_tf.prediction.batch import Progress

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
        progress.write_index()
    failures = sum(outcome.error is not None for outcome in progress.outcomes)
    if failures:
        click.echo(f"Error: {failures} of {len(progress.outcomes)} scans failed", err=True)
        sys.exit(1)


def _is_folder_of_scans(place: Path) -> bool:
    if not place.is_dir():
        return False
    from brainseg_tf.images.dicom import is_series

    return not is_series(place)


def _warn(text: str) -> None:
    from brainseg_tf.files import printable

    click.echo(f"Warning: {printable(text)}", err=True)


def _show_outcome(outcome: "Outcome", progress: "Progress") -> None:
    """One line for each of several scans, with the number of finished scans; on a terminal also the time left."""
    from brainseg_tf.files import printable

    left = f", {progress.time_left}" if sys.stdout.isatty() and progress.time_left else ""
    if outcome.report is None:
        click.echo(f"Error: [{progress}] {printable(outcome.error)}", err=True)
    else:
        _show(outcome.job, outcome.report, f"[{progress}{left}] ")


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
    agreement = f", Dice {report['dice']:.3f}" if "dice" in report else ""
    click.echo(f"{prefix}{printable(job.outputs.mask)}: {what}{agreement}")
