"""``brainseg-tf evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf_cli.option_factory import GroupedCommand, option
from brainseg_tf_cli.options import FILE, post_processing, resource_options, segmentation_options, shipped_names
from brainseg_tf_cli.tensorflow_import import prepare_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.evaluation.case_metrics import Comparison
    from brainseg_tf.model_card import ModelCard
    from brainseg_tf.saved_model import ModelFolder
    from brainseg_tf.training.cohort import Cohort


MODELS, PATIENTS, OUTPUT = "Methods", "Patients", "Output"


def _names(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    names = [name for one in given for name in one.split(",")]
    if not all(names):
        raise click.BadParameter("a name is empty; give names or folders of models, separated by commas")
    return tuple(dict.fromkeys(names))


def _baselines(context: click.Context, parameter: click.Parameter, given: str) -> list[str]:
    from brainseg_tf.evaluation.methods import BASELINES, NO_NETWORK

    names = {name.replace(" ", "-"): name for name in BASELINES}
    requested = [name for name in given.split(",") if name]
    for name in requested:
        if name not in names:
            raise click.BadParameter(f"{name}: is not a baseline; choose from {', '.join(names)}")
    selected = [names[name] for name in names if name in requested]
    if NO_NETWORK not in selected:
        raise click.BadParameter("no-network is required, because results cannot be interpreted without it")
    return selected


def _select_patients(side: str, cohort: "Cohort", cards: "list[ModelCard]") -> list[str]:
    """The names of the patients of a cohort that --patients selects.

    Args:
        side: the value of --patients.
        cohort: all patients.
        cards: of the models.
    """
    from brainseg_tf.images.modality_names import subject_and_session

    names = [patient.name for patient in cohort.patients]
    if side == "all":
        return names
    if side == "unseen":
        # Another examination of a subject is not unseen. Cards of older versions have names of examinations only, for
        # instance sub-01_ses-1.
        examinations = [name for card in cards for name in card.data.seen]
        named = {subject_and_session(name)[0] for name in examinations} - {""}
        seen = {*examinations, *named, *cohort.subjects(examinations)}
        return [patient.name for patient in cohort.patients if patient.subject not in seen]
    return [name for name in names if name in getattr(cards[0].data, side)]


def _by_method(models: "list[ModelFolder]", typed: tuple[str, ...], *, trains: bool) -> "dict[str, ModelFolder]":
    """The models by the names of their methods: their own names, or as they were typed if two have the same name.

    Args:
        models: the models.
        typed: their names and folders on the command line.
        trains: whether their recipes are trained, into folders with these names.

    Raises:
        InputError: then two have the same name.
    """
    from brainseg_tf.errors import InputError

    names = [one.card.name for one in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice and trains:
        raise InputError(f"{twice}: two of the models have this name; train them one by one, each with its own --out")
    return {
        name if names.count(name) == 1 else reference: one
        for name, reference, one in zip(names, typed or names, models, strict=True)
    }


def _seeds(given: str) -> list[int]:
    """The seeds, each once.

    Raises:
        click.BadParameter: one of them is no integer, or is negative.
    """
    try:
        seeds = list(dict.fromkeys(int(seed) for seed in given.split(",")))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise click.BadParameter(f"{given}: expected integers from 0 on, separated by commas", param_hint="--seeds")
    return seeds


@click.command(cls=GroupedCommand, short_help="Compare models and baselines without a network with the ground truth.")
@click.argument("data", nargs=-1, required=True, type=FILE)
@option(
    "--models",
    "--model",
    "models",
    group=MODELS,
    multiple=True,
    callback=_names,
    shell_complete=shipped_names,
    help="Names of shipped models, shipped:NAME[/VERSION], or model folders (./FOLDER), separated by commas.  "
    "[default: the default model of predict]",
)
@option(
    "--baselines",
    group=MODELS,
    default="no-network,equalised",
    show_default=True,
    callback=_baselines,
    help="Baselines without a network, separated by commas. Without equalised the evaluation is faster.",
)
@option(
    "--patients",
    "side",
    group=PATIENTS,
    type=click.Choice(["unseen", "validation", "train", "all"]),
    default="unseen",
    show_default=True,
    help="Patients of DATA. unseen: those that no model was trained or validated on; validation, train: those of the "
    "first model's split; all.",
)
@option(
    "--folds",
    group=PATIENTS,
    type=click.IntRange(2),
    help="Cross-validation: train each model's recipe on the other folds, so that every patient is tested once. Needs "
    "--out.",
)
@option(
    "--train-on",
    group=PATIENTS,
    multiple=True,
    type=FILE,
    help="Train each model's recipe on this folder, and test it on all patients of DATA; repeat it for several "
    "folders. Needs --out.",
)
@option("--seeds", group=PATIENTS, default="0", show_default=True, help="Seeds of folds and runs, separated by commas.")
@option(
    "--out",
    group=OUTPUT,
    type=FILE,
    help="Folder for comparisons.csv, summary.json, dice.png, calibration.png and, with --folds, the runs.",
)
@option("--update-card", group=OUTPUT, is_flag=True, help="Write the results into the models' cards.")
@option("--overwrite", group=OUTPUT, is_flag=True, help="Replace results that exist.")
@resource_options(MODELS)
@post_processing
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    data: tuple[Path, ...],
    models: tuple[str, ...],
    baselines: list[str],
    side: str,
    folds: int | None,
    train_on: tuple[Path, ...],
    seeds: str,
    out: Path | None,
    update_card: bool,
    overwrite: bool,
    device: str,
    threads: int | None,
    **stages: Any,
) -> None:
    """Segment the patients of DATA and compare the masks with the ground truth.

    DATA is one or several folders in the BraTS 2019 layout, or tables of scans with the column seg (see fit). Several
    are reported together and each by itself.

    The brain is found as in predict; an ID_brain.nii.gz beside a scan is its brain mask.

    There are two baselines without a network: the same post-processing applied to the input itself ("no network"), and
    a threshold on the input after histogram equalisation ("equalised").

    Each method's score is turned into a mask in four ways: by mixture and morphology; by the threshold with 5 % false
    positives on healthy validation slices, if there are any; by the best threshold on the validation patients; and by
    the best threshold on the test patients themselves, which is an upper bound. The first two use no outline of a
    lesion.
    """
    from brainseg_tf import model_card
    from brainseg_tf.errors import InputError
    from brainseg_tf.files import check_writable, make_folder
    from brainseg_tf.saved_model import best_for, find
    from brainseg_tf.training.cohort import read_cohort

    if (folds or train_on) and not out:
        raise click.UsageError(f"{'--folds' if folds else '--train-on'} trains models; give --out FOLDER for them")
    if folds and train_on:
        raise click.UsageError("--folds trains on DATA, so --train-on does not go with it")
    if train_on and update_card:
        raise click.UsageError("--update-card: --train-on tests newly trained networks, and not those with the cards")
    numbers = _seeds(seeds)
    if len(numbers) > 1 and not (folds or train_on):
        raise click.UsageError("several --seeds go with --folds or --train-on, which train models")
    found = [find(model) for model in models] or [best_for(("flair",))]
    methods = _by_method(found, models, trains=bool(folds or train_on))
    modalities = tuple(dict.fromkeys(name for one in found for name in one.card.modalities))
    cohort = read_cohort(data, modalities)
    training = read_cohort(train_on, modalities) if train_on else None
    names: list[str] = []
    if training:
        # A patient must not be on both sides, also if the folders have different names.
        both = read_cohort([*data, *train_on], modalities)
        tested, trained = (set(one.subjects([patient.name for patient in one.patients])) for one in (cohort, training))
        if twice := tested & trained:
            raise InputError(
                f"{both.title}: subject {min(twice)} is on both sides, with different examinations; remove one of them"
            )
        side = f"trained on {', '.join(training.names)}"
    elif not folds:
        names = _select_patients(side, cohort, [one.card for one in found])
        if not names:
            raise InputError(
                f"{cohort.title}: has no {side} patients for this model; give --patients all, or --folds 5"
            )
    if out:
        make_folder(out)
        for name in ("comparisons.csv", "summary.json", "dice.png", "calibration.png"):
            check_writable(out / name, overwrite=overwrite)
    if update_card:
        for one in found:
            make_folder(one.path / model_card.FILE.parent)
    for problem in (*cohort.problems, *(training.problems if training else ())):
        click.echo(f"Warning: {problem}", err=True)

    prepare_tensorflow(device, threads)
    from brainseg_tf.evaluation import experiments, figures, reports
    from brainseg_tf.files import write_json
    from brainseg_tf.keras_backend import use_defaults

    use_defaults()

    def say(comparison: "Comparison") -> None:
        click.echo(f"{comparison.patient:28} {comparison.method:14} Dice {comparison.dice:.3f}")

    options = segmentation_options(context, stages)
    experiment = experiments.Experiment(cohort, methods, baselines, options, say)
    if folds and out:
        results = experiment.cross_validate(folds, numbers, out, click.echo)
    elif training and out:
        results = experiment.train_and_test(training, numbers, out, click.echo)
    else:
        results = {numbers[0]: [experiment.test(names)]}
    for problem in {problem for of_seed in results.values() for one in of_seed for problem in one.problems}:
        click.echo(f"Warning: {problem}", err=True)
    comparisons = experiments.all_cuts(results)
    if not comparisons:
        raise InputError(f"{cohort.title}: no patient could be read; see the warnings above")
    summaries = reports.by_method_and_cut([one for _, one in comparisons])
    click.echo()
    click.echo(reports.table(summaries))
    by_cohort = reports.by_cohort([one for _, one in comparisons])
    for name, of_cohort in by_cohort.items():
        click.echo(f"\n{name}")
        click.echo(reports.table(of_cohort))
    click.echo()
    click.echo(reports.worst(summaries))
    click.echo(
        "median: of the Dice. missed: patients with more than 2 ml of lesion and a Dice below 0.1. F1 lesion: "
        "detection by lesion. false ml: volume of the mask in the tumour-free slices of a patient. free ml: volume of "
        "the mask if the method gets only the tumour-free slices. any: share of the patients in which this volume is "
        "above 0."
    )
    patients = f"{' + '.join(cohort.names)}, {f'{folds} folds' if folds else side}, seeds {seeds}"
    if out:
        reports.write_csv(out / "comparisons.csv", comparisons)
        cohorts = {name: reports.nested(of_cohort) for name, of_cohort in by_cohort.items()}
        content = {"patients": patients, "methods": reports.nested(summaries), "cohorts": cohorts}
        write_json(out / "summary.json", content)
        figures.dice_by_patient([one for _, one in comparisons], out / "dice.png")
        figures.reliability(reports.reliability(summaries), out / "calibration.png")
    if update_card:
        for name, one in methods.items():
            reports.update_card(one, name, summaries, patients, folds or 0, options)
