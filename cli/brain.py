"""``brainseg-tf brain``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf.options import Engine, PredictOptions
from brainseg_tf_cli.option_factory import GroupedCommand, from_field, option
from brainseg_tf_cli.options import FILE, resource_options, with_names
from brainseg_tf_cli.predict_options import BRAIN, OUTPUT, brain_method
from brainseg_tf_cli.tensorflow_import import prepare_runtime

if TYPE_CHECKING:
    from brainseg_tf.brain.network import BrainNetwork


@click.command(cls=GroupedCommand, short_help="Find the brain in scans.")
@click.argument("scans", nargs=-1, required=True, type=FILE)
@option("--out", group=OUTPUT, type=FILE, help="Brain mask of one scan, .nii or .nii.gz.")
@option("--out-dir", group=OUTPUT, type=FILE, help="Folder for the brain masks of several scans, and brain.csv.")
@from_field(PredictOptions, "overwrite", group=OUTPUT)
@from_field(PredictOptions, "brain", group=BRAIN, metavar="METHOD", callback=brain_method)
@option(
    "--model",
    group=BRAIN,
    metavar="MODEL",
    help="Brain network: the folder of a run of fit --model brain. By default it is that of the package.",
)
@from_field(PredictOptions, "engine", group=BRAIN, advanced=True)
@resource_options(BRAIN)
def brain(
    scans: tuple[Path, ...],
    out: Path | None,
    out_dir: Path | None,
    overwrite: bool,
    brain: str,
    model: str | None,
    engine: Engine,
    device: str,
    threads: int | None,
) -> None:
    """Find the brain in SCANS: NIfTI or other files, folders of DICOM slices, or folders of these.

    FLAIR, T1 (with or without contrast agent) and T2 images are supported, with or without skull. One scan goes to
    --out. Several scans go to --out-dir: each gets NAME_brain.nii.gz and a row in brain.csv. In a BIDS dataset these
    are the FLAIR, T1w and T2w images, whose masks get the names of BIDS derivatives. A mask (uint8, 1 in the brain) has
    the grid of its scan.
    """
    if (out is None) == (out_dir is None):
        raise click.UsageError("give --out FILE for one scan, or --out-dir FOLDER for several")
    if model is not None and brain not in ("auto", "network"):
        raise click.UsageError(f"--model does not go with --brain {brain}, which uses no brain network")
    scans = with_names(scans)
    out_dir = out_dir.resolve() if out_dir is not None and ".." in out_dir.parts else out_dir
    network = _network(model, engine, device, threads)
    if out is not None:
        if len(scans) > 1:
            raise click.UsageError("--out takes one scan; give --out-dir for several scans or a folder of them")
        from brainseg_tf.prediction.brain_masks import write_brain_mask

        _show(out, write_brain_mask(scans[0], out, method=brain, network=network, overwrite=overwrite))
    elif out_dir is not None:
        _several(scans, out_dir, brain, network, overwrite=overwrite)


def _several(
    scans: tuple[Path, ...], out_dir: Path, method: str, network: "Callable[[], BrainNetwork]", *, overwrite: bool
) -> None:
    """Brain masks of all scans; a scan that fails does not stop the others."""
    from brainseg_tf.errors import InputError
    from brainseg_tf.files import check_name_length, check_writable, printable
    from brainseg_tf.prediction.batch import BRAIN_TABLE, plan_batch
    from brainseg_tf.prediction.brain_masks import add_to_table, read_table, write_brain_mask

    batch = plan_batch(scans, out_dir, modality=None)
    table = out_dir / BRAIN_TABLE
    check_writable(table, overwrite=True)
    read_table(table)  # Another file with this name is refused before any work.
    failures = len(batch.failed)
    for file, reason in batch.left_out:
        click.echo(f"Warning: {printable(file)}: left out, {printable(reason)}", err=True)
        add_to_table(table, {"scan": file, "status": "left out", "error": reason})
    for outcome in batch.failed:
        click.echo(f"Error: {printable(outcome.error)}", err=True)
        add_to_table(table, {"scan": outcome.job.scan, "status": "failed", "error": outcome.error})
    for job in batch.jobs:
        mask = job.outputs.mask
        refused = False
        row: dict[str, Any] = {"scan": job.scan}
        try:
            check_name_length(mask)
            refused = mask.exists() and not overwrite
            found = write_brain_mask(job.scan, mask, method=method, network=network, overwrite=overwrite)
        except (InputError, MemoryError) as problem:
            error = problem if isinstance(problem, InputError) else f"{job.scan}: there is not enough memory"
            row |= {"status": "failed", "error": error}
            failures += 1
            click.echo(f"Error: {printable(error)}", err=True)
        else:
            row |= {"status": "done", "mask": mask, **found, "warnings": len(found["warnings"])}
            _show(mask, found)
        if not refused:  # Otherwise the row of the mask stays.
            add_to_table(table, row, mask)
    if failures:
        click.echo(f"Error: {failures} of {len(batch.jobs) + len(batch.failed)} scans failed", err=True)
        sys.exit(1)


def _network(model: str | None, engine: Engine, device: str, threads: int | None) -> "Callable[[], BrainNetwork]":
    """What loads the brain network, once.

    Raises:
        InputError: the model is no brain network.
    """
    from brainseg_tf.saved_model import find_brain_network, shipped_brain_network

    given = None if model is None else find_brain_network(model)
    loaded: list[BrainNetwork] = []

    def load() -> "BrainNetwork":
        if not loaded:
            found = given or shipped_brain_network()
            loaded.append(found.load(prepare_runtime(engine, device, threads)))
        return loaded[0]

    return load


def _show(mask: Path, found: dict[str, Any]) -> None:
    from brainseg_tf.files import printable

    for warning in found["warnings"]:
        click.echo(f"Warning: {printable(warning)}", err=True)
    click.echo(f"{printable(mask)}: {found['brain_ml']:.0f} ml of brain ({found['source']})")
