"""``brainseg-tf compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf.options import CompareOptions, PredictOptions
from brainseg_tf_cli.option_factory import GroupedCommand, apply, from_field, option
from brainseg_tf_cli.options import (
    FILE,
    post_processing,
    resource_options,
    segmentation_options,
    shipped_names,
    with_names,
)
from brainseg_tf_cli.predict import brain_network_loader, choose_model, model_loader
from brainseg_tf_cli.predict_options import BRAIN, CONTRASTS, INPUT, MODEL, OUTPUT, brain_method

if TYPE_CHECKING:
    from brainseg_tf.prediction.predictor import Predictor

LESIONS = "Lesions"

_options = apply(
    [
        option(
            "--before-mask", group=INPUT, type=FILE, help="Lesion mask of BEFORE, on its grid.  [default: predicted]"
        ),
        option("--after-mask", group=INPUT, type=FILE, help="Lesion mask of AFTER, on its grid.  [default: predicted]"),
        option(
            "--days",
            group=INPUT,
            type=click.IntRange(-100_000, 100_000),
            help="Days between the scans.  [default: from the dates of DICOM series]",
        ),
        option("--out", group=OUTPUT, type=FILE, required=True, help="JSON report: lesions, volumes, registration."),
        option("--table", group=OUTPUT, type=FILE, help="Table with a row for each lesion, .tsv."),
        option("--html", group=OUTPUT, type=FILE, help="Page for a browser: both scans in linked viewers, lesions."),
        option("--figure", group=OUTPUT, type=FILE, help="PNG of both scans and the change map."),
        option(
            "--save-change",
            group=OUTPUT,
            type=FILE,
            help="Change map on the grid of BEFORE: 1 unchanged, 2 new or grown, 3 gone or shrunk, 4 not covered.",
        ),
        from_field(PredictOptions, "overwrite", group=OUTPUT),
        from_field(CompareOptions, "min_growth", group=LESIONS),
        from_field(CompareOptions, "min_shrinkage", group=LESIONS),
        from_field(CompareOptions, "min_change_ml", group=LESIONS),
        from_field(CompareOptions, "tolerance_mm", group=LESIONS),
        option(
            "--model",
            group=MODEL,
            shell_complete=shipped_names,
            help="Name or folder of the model that predicts the masks, see predict.  [default: the best one for "
            "--contrast]",
        ),
        option(
            "--contrast",
            group=MODEL,
            type=click.Choice(CONTRASTS),
            help="Contrast of both scans.  [default: as predict]",
        ),
        from_field(PredictOptions, "engine", group=MODEL, advanced=True),
        resource_options(MODEL),
        from_field(PredictOptions, "brain", group=BRAIN, metavar="METHOD", callback=brain_method, advanced=True),
    ]
)


@click.command(cls=GroupedCommand, short_help="Compare the lesions of two time points.")
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
@_options
@post_processing
@click.pass_context
def compare(context: click.Context, /, before: Path, after: Path, **given: Any) -> None:
    """Compare the lesions in two scans of one subject, BEFORE and AFTER.

    AFTER is registered to BEFORE. Each lesion is new, grown, stable, shrunk or gone, or not covered by the other scan.
    Volumes are measured on the grid of each mask. Masks that are not given are predicted, as by predict.
    """
    if given["html"] is not None:
        from brainseg_tf.prediction import pages

        pages.check_installed()
    if given["table"] is not None and given["table"].suffix != ".tsv":
        raise click.UsageError("--table: the name must end in .tsv")

    from brainseg_tf.brain.mask import find_brain
    from brainseg_tf.files import printable
    from brainseg_tf.prediction.comparison_job import ComparisonJob, ComparisonOutputs, run

    # A series in the current folder, ``.``, has a name too.
    before, after = with_names((before, after))
    outputs = ComparisonOutputs(given["out"], given["table"], given["save_change"], given["figure"], given["html"])
    job = ComparisonJob(before, after, outputs, given["before_mask"], given["after_mask"], given["days"])
    limits = CompareOptions(given["tolerance_mm"], given["min_growth"], given["min_shrinkage"], given["min_change_ml"])
    network = brain_network_loader(given | {"server": None})
    report = run(
        job,
        lambda: _predictor(context, (before, after), given),
        limits,
        find=lambda scan: find_brain(scan, method=given["brain"], network=network),
        overwrite=given["overwrite"],
    )
    for warning in report["warnings"]:
        click.echo(f"Warning: {printable(warning)}", err=True)
    share = "" if report["change_percent"] is None else f" ({report['change_percent']:+.0f} %)"
    counts = ", ".join(f"{count} {status}" for status, count in report["counts"].items() if count)
    click.echo(
        f"{printable(given['out'])}: {report['before']['lesion_ml']:.1f} ml before, "
        f"{report['after']['lesion_ml']:.1f} ml after{share}; lesions: {counts or 'none'}"
    )


def _predictor(context: click.Context, scans: tuple[Path, ...], given: dict[str, Any]) -> "Predictor":
    """What segments a scan whose mask is not given."""
    from brainseg_tf.prediction.predictor import Predictor

    found = choose_model(scans, given)
    options = PredictOptions(segmentation_options(context, given), given["brain"], given["engine"])
    here = given | {"server": None}
    return Predictor(found.card, model_loader(found, here), options, load_brain=brain_network_loader(here))
