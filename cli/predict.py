"""``brainseg-tf predict``."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf_cli.options import FILE, segmentation_options, shipped_names, stages
from brainseg_tf_cli.quiet import import_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.batch import Batch, Outcome, Progress
    from brainseg_tf.prediction import Job
    from brainseg_tf.saved_model import Reconstructor


def _command(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
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


@click.command(short_help="Outline the lesions in a scan.")
@click.argument("scans", nargs=-1, required=True, type=FILE)
@click.option("--out", type=FILE, help="The mask of one scan, .nii or .nii.gz.")
@click.option("--out-dir", type=FILE, help="Folder for the masks, reports and figures of several scans.")
@click.option(
    "--model",
    shell_complete=shipped_names,
    help="A shipped model's name, or a model folder (./FOLDER). shipped:NAME[/VERSION] is a shipped model only.  "
    "[default: the best that takes FLAIR and what --modality adds]",
)
@click.option("--modality", "others", multiple=True, metavar="NAME=FILE", help="Further modality on the scan's grid.")
@click.option("--brain-mask", type=FILE, help="Where the brain is, on the scan's grid.")
@click.option(
    "--skull-strip",
    metavar="COMMAND",
    callback=_command,
    help="Find the brain with a tool of your own: 'mri_synthstrip -i {scan} -m {mask}'. Its mask is kept as "
    "NAME_brain.nii.gz.",
)
@click.option("--truth", type=FILE, help="Ground truth on the scan's grid: Dice and a further panel.")
@click.option("--figure", type=FILE, help="PNG of input, reconstruction, residual and result.")
@click.option("--save-residual", type=FILE, help="Input minus reconstruction, on the scan's grid.")
@click.option("--save-probability", type=FILE, help="The mixture's posterior of a lesion, float32, on the scan's grid.")
@click.option(
    "--save-uncertainty", type=FILE, help="The score's standard deviation over noisy copies, on the scan's grid."
)
@click.option("--copies", type=click.IntRange(2), default=8, show_default=True, help="Of these, their number.")
@click.option("--save-dicom-seg", type=FILE, help="The mask of a DICOM series as a DICOM segmentation, .dcm.")
@click.option("--save-reconstruction", type=FILE, help="The healthy scan that the network made, on the scan's grid.")
@click.option("--report", type=FILE, help="JSON: volumes, components, seconds, model, options.")
@click.option(
    "--html",
    type=FILE,
    help="A page to look at in a browser: viewer, lesions, what ran. With --out-dir: an index, and a page per scan.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--scheduler", metavar="URL", help="With --out-dir: a Dask cluster's, tcp://host:8786, to run on.")
@click.option("--continue", "proceed", is_flag=True, help="With --out-dir: keep what an earlier run finished.")
@click.option(
    "--workers", type=click.IntRange(1), default=2, show_default=True, help="With --out-dir: scans under way at once."
)
@click.option(
    "--server", metavar="URL", help="A TensorFlow Serving that runs the model: grpc[s]:// or http[s]://host:port."
)
@click.option("--server-model", help="The model's name there.  [default: the model's own]")
@click.option("--server-version", type=click.IntRange(1), help="Its version there.  [default: the newest]")
@click.option("--server-label", help="Its version by label, such as stable.")
@click.option("--server-ca", type=FILE, help="Certificates (PEM) to check the server's with.  [default: the system's]")
@click.option(
    "--server-timeout",
    type=click.FloatRange(0.1, 86400),
    default=60.0,
    show_default=True,
    help="Seconds for one request, from the connection to the last byte of the answer.",
)
@stages
def predict(
    scans: tuple[Path, ...],
    out: Path | None,
    out_dir: Path | None,
    model: str | None,
    others: tuple[str, ...],
    brain_mask: Path | None,
    skull_strip: str | None,
    truth: Path | None,
    figure: Path | None,
    save_residual: Path | None,
    save_probability: Path | None,
    save_uncertainty: Path | None,
    copies: int,
    save_dicom_seg: Path | None,
    save_reconstruction: Path | None,
    report: Path | None,
    html: Path | None,
    overwrite: bool,
    scheduler: str | None,
    proceed: bool,
    workers: int,
    server: str | None,
    server_model: str | None,
    server_version: int | None,
    server_label: str | None,
    server_ca: Path | None,
    server_timeout: float,
    **stage_options: Any,
) -> None:
    """Outline the lesions in SCANS: NIfTI or other files, folders of DICOM slices, or folders of these.

    One scan goes to --out; several go to --out-dir, where each gets NAME_mask.nii.gz, NAME_report.json and
    NAME_figure.png, and summary.csv a line for each. A BIDS dataset gives a BIDS derivative. The mask (uint8, 1 in a
    lesion) lies exactly on the scan.
    """
    single = {
        "--modality": others,
        "--brain-mask": brain_mask,
        "--truth": truth,
        "--figure": figure,
        "--save-residual": save_residual,
        "--save-probability": save_probability,
        "--save-uncertainty": save_uncertainty,
        "--save-dicom-seg": save_dicom_seg,
        "--save-reconstruction": save_reconstruction,
        "--report": report,
    }
    if (out is None) == (out_dir is None):
        raise click.UsageError("give --out FILE for one scan, or --out-dir FOLDER for several")
    if out is not None and (len(scans) > 1 or _is_folder_of_scans(scans[0])):
        raise click.UsageError("--out takes one scan; give --out-dir for several scans or a folder of them")
    if brain_mask and skull_strip:
        raise click.UsageError("give --brain-mask or --skull-strip, not both")
    if out is not None and (proceed or scheduler):
        raise click.UsageError("--continue and --scheduler go with --out-dir")
    if scheduler and server:
        raise click.UsageError("give --scheduler or --server, not both")
    if out_dir is not None and any(single.values()):
        names = ", ".join(name for name, value in single.items() if value)
        raise click.UsageError(f"{names}: for one scan with --out only")
    if server_version and server_label:
        raise click.UsageError("give --server-version or --server-label, not both")
    if server is None and (server_model or server_version or server_label or server_ca):
        raise click.UsageError("--server-model, --server-version, --server-label and --server-ca go with --server")
    modalities = _modalities(others)

    if html is not None:
        from brainseg_tf import pages

        pages.check_installed()

    from brainseg_tf.batch import BRAIN
    from brainseg_tf.formats import stem
    from brainseg_tf.prediction import Job, Predictor
    from brainseg_tf.saved_model import best_for, find

    found = best_for(["flair", *modalities]) if model is None else find(model)
    if server:
        found.check()  # A model that is loaded here is checked when it is loaded.

    def load() -> "Reconstructor":
        from brainseg_tf.resources import limit_threads

        import_tensorflow()
        limit_threads()
        if server is None:
            return found.load()
        from brainseg_tf.serving.endpoint import Endpoint
        from brainseg_tf.serving.remote import connect

        name = server_model or found.card.name
        return connect(Endpoint(server, name, server_version, server_label, server_ca, server_timeout), found.card)

    options = segmentation_options(**stage_options)
    # A server joins requests of many clients into one batch, whose slices must be of one size.
    card = replace(found.card, trim=0) if server else found.card
    predictor = Predictor(
        card, load, options, overwrite=overwrite, skull_strip=skull_strip, copies=copies, server=server
    )
    if out is not None:
        job = Job(
            scans[0],
            out,
            modalities,
            brain=brain_mask,
            truth=truth,
            figure=figure,
            residual=save_residual,
            reconstruction=save_reconstruction,
            probability=save_probability,
            uncertainty=save_uncertainty,
            stripped=out.with_name(f"{stem(out)}{BRAIN}") if skull_strip else None,
            dicom=save_dicom_seg,
            page=html,
            report=report,
        )
        _show(job, predictor.run(job))
        return
    assert out_dir is not None  # Either of the two, see above.
    strip, replaced = skull_strip is not None, overwrite or proceed
    batch = _plan(scans, out_dir, card.modalities[0], html, strip=strip, overwrite=replaced)
    running: Iterator[Outcome]
    if scheduler:
        from brainseg_tf.cluster import run_on_cluster

        running = run_on_cluster(
            scheduler,
            found.reference,
            options,
            batch.jobs,
            skull_strip=skull_strip,
            overwrite=overwrite,
            proceed=proceed,
        )
    else:
        from brainseg_tf.batch import run_all
        from brainseg_tf.resources import workers_for_memory

        workers, remark = workers_for_memory(workers)
        if remark:
            _warn(remark)
        running = run_all(predictor, batch.jobs, workers=workers, proceed=proceed)
    _run_batch(batch, running, out_dir, html)


def _plan(
    scans: tuple[Path, ...], out_dir: Path, modality: str, html: Path | None, *, strip: bool, overwrite: bool
) -> "Batch":
    """The jobs of several scans; what an earlier run made is refused unless it may be kept or replaced."""
    from brainseg_tf.batch import SUMMARY, check_index, plan_batch
    from brainseg_tf.files import check_writable
    from brainseg_tf.results_table import check

    if html is not None:
        check_index(html, overwrite=overwrite)
    batch = plan_batch(scans, out_dir, index=html, strip=strip, modality=modality)
    check(out_dir / SUMMARY, [job.mask for job in batch.jobs], overwrite=overwrite)
    if html is not None:
        check_writable(html, overwrite=True)
    for file, reason in batch.left_out:
        _warn(f"{file}: left out, {reason}")
    return batch


def _run_batch(batch: "Batch", running: "Iterator[Outcome]", out_dir: Path, html: Path | None) -> None:
    """Shows each outcome as it comes, and keeps table and index up to date."""
    from brainseg_tf.batch import Progress

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
    from brainseg_tf.dicom import is_series

    return not is_series(place)


def _modalities(others: tuple[str, ...]) -> dict[str, Path]:
    """NAME=FILE options by name."""
    pairs = [other.partition("=") for other in others]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise click.BadParameter(f"{name}: expected NAME=FILE", param_hint="--modality")
    return {name: Path(file) for name, _, file in pairs}


def _warn(text: str) -> None:
    from brainseg_tf.files import printable

    click.echo(f"Warning: {printable(text)}", err=True)


def _show_outcome(outcome: "Outcome", progress: "Progress") -> None:
    """A line for a scan of several, with how far the batch has come; on a terminal also how long it will take."""
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
    click.echo(f"{prefix}{printable(job.mask)}: {what}{agreement}")
