"""``brainseg-tf calibrate``."""

from pathlib import Path

import click

from brainseg_tf_cli.option_factory import GroupedCommand, option
from brainseg_tf_cli.options import FILE, resource_options, shipped_names
from brainseg_tf_cli.tensorflow_import import prepare_tensorflow


@click.command(
    cls=GroupedCommand, short_help="Measure a model's healthy threshold on lesion-free scans of one scanner."
)
@click.argument("model", shell_complete=shipped_names)
@click.argument("scans", nargs=-1, required=True, type=FILE)
@option(
    "--out",
    group="Output",
    type=FILE,
    required=True,
    help="Folder for the new version of the model, and what was measured.",
)
@resource_options("Model")
def calibrate(model: str, scans: tuple[Path, ...], out: Path, device: str, threads: int | None) -> None:
    """Measure the healthy threshold of MODEL on SCANS, and write a version of the model with it.

    SCANS are folders in the BraTS 2019 layout, BIDS datasets, folders of scans or tables of scans (see fit). They are
    assumed to be lesion-free, except for slices with a lesion in a segmentation. A handful is enough. The weights do
    not change; `brainseg-tf fit --from MODEL` changes them.

    OUT gets the model's next version, calibration.csv with what would be flagged in each scan before and after, and
    calibration.png.
    """
    from brainseg_tf.files import make_folder, printable
    from brainseg_tf.saved_model import find
    from brainseg_tf.training import calibration
    from brainseg_tf.training.cohort import read_cohort

    found = find(model)
    cohort = read_cohort(scans, found.card.modalities, labels=None, requires_truth=False)
    for problem in cohort.problems:
        click.echo(f"Warning: {problem}", err=True)
    make_folder(out)
    target = calibration.check_target(found, out)
    prepare_tensorflow(device, threads)

    def say(scan: "calibration.CalibrationScan") -> None:
        click.echo(f"{scan.name:28} {scan.before_ml:8.1f} ml before, {scan.after_ml:.1f} ml after")

    result = calibration.calibrate(found, cohort, say)
    calibration.write(result, found, target)
    for problem in result.problems:
        click.echo(f"Warning: {problem}", err=True)
    kind = found.card.score
    click.echo(
        f"healthy threshold of the score {kind}: {found.card.healthy_levels[kind]:.3f} before, "
        f"{result.levels[kind]:.3f} after"
    )
    if kind == "probability":
        click.echo(
            "A probability's threshold is at least 0.5. If healthy tissue is flagged, fine-tune the model: brainseg-tf "
            f"fit SCANS --from {model} --out RUN"
        )
    click.echo(f"model: {printable(target)}")
