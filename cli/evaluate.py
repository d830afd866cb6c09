"""``brainseg-tf evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf_cli.options import FILE, segmentation_options, shipped_names, stages
from brainseg_tf_cli.quiet import import_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.comparison import Comparison
    from brainseg_tf.model_card import ModelCard


def _names(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    names = [name for one in given for name in one.split(",")]
    if not all(names):
        raise click.BadParameter("a name is empty; give models' names or folders, with commas between")
    return tuple(dict.fromkeys(names))


def _baselines(context: click.Context, parameter: click.Parameter, given: str) -> list[str]:
    from brainseg_tf.evaluation import BASELINES, MIXTURE

    names = {name.replace(" ", "-"): name for name in BASELINES}
    asked = [name for name in given.split(",") if name]
    for name in asked:
        if name not in names:
            raise click.BadParameter(f"{name}: is none; there are {', '.join(names)}")
    chosen = [names[name] for name in names if name in asked]
    if MIXTURE not in chosen:
        raise click.BadParameter("no-network is always among them: an accuracy without it says nothing")
    return chosen


def _on(side: str, names: list[str], cards: "list[ModelCard]") -> list[str]:
    """Those of a cohort's patients that --patients means."""
    if side == "all":
        return names
    if side == "unseen":
        seen = {name for card in cards for name in (*card.data.train, *card.data.validation)}
        return [name for name in names if name not in seen]
    return [name for name in names if name in getattr(cards[0].data, side)]


@click.command(short_help="Compare masks with ground truth, beside no network at all.")
@click.argument("data", type=FILE)
@click.option(
    "--models",
    "--model",
    "models",
    multiple=True,
    callback=_names,
    shell_complete=shipped_names,
    help="Shipped models' names, shipped:NAME[/VERSION], or model folders (./FOLDER); several with commas.  "
    "[default: as predict takes it]",
)
@click.option(
    "--baselines",
    default="no-network,equalised",
    show_default=True,
    callback=_baselines,
    help="What the models are held against, with commas between. Without equalised it is sooner done.",
)
@click.option(
    "--patients",
    "side",
    type=click.Choice(["unseen", "validation", "train", "all"]),
    default="unseen",
    show_default=True,
    help="Those of DATA that no model was trained or validated on; a side of the first model's own split; or all.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Train each model's recipe anew on the other folds, so that every patient is tested once. Takes --out.",
)
@click.option("--seeds", default="0", show_default=True, help="Of the folds and runs; several with commas.")
@click.option(
    "--out",
    type=FILE,
    help="Folder for comparisons.csv, summary.json, dice.png, calibration.png; with --folds, the runs.",
)
@click.option("--update-card", is_flag=True, help="Write the result into the models' cards.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist.")
@stages
def evaluate(
    data: Path,
    models: tuple[str, ...],
    baselines: list[str],
    side: str,
    folds: int | None,
    seeds: str,
    out: Path | None,
    update_card: bool,
    overwrite: bool,
    **stage_options: Any,
) -> None:
    """Segment the patients of DATA (BraTS 2019 layout) and compare with their ground truth.

    Beside the models stand two baselines without a network: the same post-processing on the input itself ("no
    network"), and the input with its histogram equalised, cut by a threshold. Each method's score is cut in four ways:
    its own (no label used); the threshold that gives 5 % false positives on healthy validation slices (no lesion
    labelled); the best threshold on validation patients; the best on the test patients themselves (oracle: a bound).
    """
    from brainseg_tf import model_card
    from brainseg_tf.cohort import read_cohort
    from brainseg_tf.errors import InputError
    from brainseg_tf.files import check_writable, make_folder
    from brainseg_tf.saved_model import best_for, find

    if folds and not out:
        raise click.UsageError("--folds trains models: give --out FOLDER for them")
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise click.BadParameter(f"{seeds}: expected numbers with commas between", param_hint="--seeds") from None
    found = [find(model) for model in models] or [best_for(("flair",))]
    modalities = tuple(dict.fromkeys(name for one in found for name in one.card.modalities))
    cohort = read_cohort(data, modalities)
    names = [patient.name for patient in cohort.patients]
    if not folds:
        names = _on(side, names, [one.card for one in found])
        if not names:
            raise InputError(f"{data}: has no {side} patients for this model; give --patients all, or --folds 5")
    if out:
        make_folder(out)
        for name in ("comparisons.csv", "summary.json", "dice.png", "calibration.png"):
            check_writable(out / name, overwrite=overwrite)
    if update_card:
        for one in found:
            make_folder(one.path / model_card.FILE.parent)
    for problem in cohort.problems:
        click.echo(f"Warning: {problem}", err=True)

    import_tensorflow()
    from brainseg_tf import figures, protocol, reports
    from brainseg_tf.files import write_json
    from brainseg_tf.keras_backend import use_defaults
    from brainseg_tf.resources import limit_threads

    use_defaults()
    limit_threads()

    def say(comparison: "Comparison") -> None:
        click.echo(f"{comparison.patient:28} {comparison.method:14} Dice {comparison.dice:.3f}")

    options = segmentation_options(**stage_options)
    if folds and out:
        results = protocol.cross_validate(data, cohort, found, baselines, folds, numbers, out, options, say, click.echo)
    else:
        results = {numbers[0]: [protocol.test(cohort, found, baselines, names, options, say)]}
    for problem in {problem for some in results.values() for one in some for problem in one.problems}:
        click.echo(f"Warning: {problem}", err=True)
    comparisons = protocol.all_cuts(results)
    if not comparisons:
        raise InputError(f"{data}: no patient could be read")
    summaries = reports.by_method_and_cut([one for _, one in comparisons])
    click.echo()
    click.echo(reports.table(summaries))
    click.echo(
        "healthy slices are tumour-free slices of patients; false ml: flagged there, free ml: flagged there alone, "
        "any: in which share of the patients"
    )
    patients = f"{data.name}, {f'{folds} folds' if folds else side}, seeds {seeds}"
    if out:
        reports.write_csv(out / "comparisons.csv", comparisons)
        write_json(out / "summary.json", {"patients": patients, "methods": reports.nested(summaries)})
        figures.dice_by_patient([one for _, one in comparisons], out / "dice.png")
        figures.reliability(reports.reliability(summaries), out / "calibration.png")
    if update_card:
        for one in found:
            reports.update_card(one, summaries, patients, folds or 0, options)
