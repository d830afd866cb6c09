"""``brainseg-tf evaluate``."""

from pathlib import Path
from typing import Any

import click

from brainseg_tf_cli.options import FILE, segmentation_options, stages
from brainseg_tf_cli.quiet import import_tensorflow

_COLUMNS = (
    ("iou_slice", "IoU slice"),
    ("dice_slice", "Dice slice"),
    ("iou_patient", "IoU patient"),
    ("dice_patient", "Dice patient"),
    ("iou_pooled", "IoU pooled"),
    ("dice_pooled", "Dice pooled"),
    ("false_ml_median", "false ml"),
)


@click.command(short_help="Compare masks with ground truth, beside no network at all.")
@click.argument("data", type=FILE)
@click.option("--model", default="cvae", show_default=True, help="A shipped model's name, or a model folder.")
@click.option(
    "--patients",
    "side",
    type=click.Choice(["test", "validation", "train", "all"]),
    default="test",
    show_default=True,
    help="Which side of the model's own split; `all` takes every patient of DATA.",
)
@click.option("--csv", "table", type=FILE, help="A line per patient and method, and one per method for all.")
@click.option("--update-card", is_flag=True, help="Write the result into the model's card.")
@click.option("--overwrite", is_flag=True, help="Replace a CSV that exists.")
@stages
def evaluate(
    data: Path, model: str, side: str, table: Path | None, update_card: bool, overwrite: bool, **stage_options: Any
) -> None:
    """Segment the patients of DATA (BraTS 2019 layout) and compare with their ground truth.

    Beside the model stands the same post-processing on the input itself, without a network. By slice: mean over the
    chosen slices that show a lesion. By patient: mean over whole volumes. Pooled: all voxels together. False ml: median
    volume flagged in slices without lesion.
    """
    from brainseg_tf import model_card
    from brainseg_tf.cohort import read_cohort
    from brainseg_tf.errors import InputError
    from brainseg_tf.files import check_writable, make_folder
    from brainseg_tf.saved_model import find

    found = find(model)
    card = found.card
    cohort = read_cohort(data, card.modalities)
    patients = cohort.patients if side == "all" else cohort.named(getattr(card.data, side))
    if not patients:
        raise InputError(f"{data}: none of the model's {side} patients is there; give --patients all")
    if table:
        check_writable(table, overwrite=overwrite)
    if update_card:
        make_folder(found.path / model_card.FILE.parent)
    for problem in cohort.problems:
        click.echo(f"Warning: {problem}", err=True)

    import_tensorflow()
    from brainseg_tf import evaluation

    options = segmentation_options(**stage_options)
    comparisons: list[evaluation.Comparison] = []
    for one in evaluation.evaluate(patients, found.load(), card, options):
        if isinstance(one, str):
            click.echo(f"Warning: {one}", err=True)
            continue
        comparisons.append(one)
        click.echo(f"{one.patient:28} {one.method:12} Dice {one.dice:.3f}  IoU {one.iou:.3f}")
    if not comparisons:
        raise InputError(f"{data}: no patient could be read")
    summaries = {
        method: evaluation.summarise([one for one in comparisons if one.method == method])
        for method in (card.name, evaluation.BASELINE)
    }
    click.echo()
    click.echo(" ".join([f"{'method':12}", *(f"{title:>12}" for _, title in _COLUMNS)]))
    for method, numbers in summaries.items():
        click.echo(" ".join([f"{method:12}", *(f"{numbers[key]:12.3f}" for key, _ in _COLUMNS)]))
    first = summaries[card.name]
    click.echo(
        f"{first['patients']} patients, {first['slices']} slices; healthy slices are tumour-free slices of patients"
    )
    if table:
        evaluation.write_csv(table, comparisons, summaries)
    if update_card:
        evaluation.update_card(found.path, card, side, summaries, options)
