"""The two kinds of evaluation: of exported models on unseen patients, and of their recipes by cross-validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.evaluation.cross_validation import recorded_folds, train_fold
from brainseg_tf.evaluation.methods import Method, Result, baseline, evaluate, oracle
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.saved_model import ModelFolder
from brainseg_tf.training.calibration import healthy_levels
from brainseg_tf.training.cohort import Cohort

Show = Callable[[Comparison], None]


def test(
    cohort: Cohort,
    found: Sequence[ModelFolder],
    baselines: Sequence[str],
    names: Sequence[str],
    options: SegmentationOptions,
    show: Show,
) -> Result:
    """Tests models and baselines on patients of a cohort.

    Thresholds are chosen on those validation patients of the first model that are not tested.

    Args:
        cohort: all patients.
        found: the models.
        baselines: some of ``methods.BASELINES``.
        names: of the patients to test.
        options: of the stages after the network.
        show: called with each comparison.
    """
    validation = [name for name in found[0].card.data.validation if name not in names]
    methods = [Method(one.card.name, one.card, one.load(), options) for one in found]
    return _evaluate_with_baselines(methods, baselines, cohort, validation, names, options, show)


def cross_validate(
    data: Path,
    cohort: Cohort,
    found: Sequence[ModelFolder],
    baselines: Sequence[str],
    count: int,
    seeds: Sequence[int],
    out: Path,
    options: SegmentationOptions,
    show: Show,
    say: Callable[[str], None],
) -> dict[int, list[Result]]:
    """Trains each model's recipe once per seed and fold, and tests it on that fold's patients.

    The folds and the runs are stored in ``out``. If they exist already, they are reused.

    Args:
        data: folder of the cohort.
        cohort: its patients.
        found: the models whose recipes are tested.
        baselines: some of ``methods.BASELINES``.
        count: number of folds.
        seeds: of the folds and runs.
        out: folder of the folds and runs.
        options: of the stages after the network.
        show: called with each comparison.
        say: called with each progress line.

    Returns:
        By seed, a result for each fold.
    """
    for one in found:
        one.check()  # The recipe is read from the card, so the card must be undamaged.
    share = found[0].card.training["validation"]
    results: dict[int, list[Result]] = {}
    for seed in seeds:
        names = [patient.name for patient in cohort.patients]
        splits = recorded_folds(out / f"folds-seed{seed}.json", names, count, share, seed)
        for number, split in enumerate(splits):
            methods = []
            for one in found:
                say(f"seed {seed}, fold {number + 1} of {count}: {one.card.name}")
                run = out / "runs" / one.card.name / f"seed{seed}-fold{number + 1}"
                trained = train_fold(data, one.card, split, seed, run, out / "cache", say)
                methods.append(Method(one.card.name, trained.card, trained.load(), options))
            result = _evaluate_with_baselines(methods, baselines, cohort, split.validation, split.test, options, show)
            results.setdefault(seed, []).append(result)
    return results


def all_cuts(results: Mapping[int, Sequence[Result]]) -> list[tuple[int, Comparison]]:
    """All comparisons with their seeds, for all four cuts."""
    rows = []
    for seed, of_seed in results.items():
        for result in of_seed:
            rows += [(seed, one) for one in (*result.comparisons, *result.cut())]
        rows += [(seed, one) for one in oracle(of_seed)]
    return rows


def _evaluate_with_baselines(
    methods: Sequence[Method],
    baselines: Sequence[str],
    cohort: Cohort,
    validation: Sequence[str],
    test: Sequence[str],
    options: SegmentationOptions,
    show: Show,
) -> Result:
    """Evaluates methods and baselines; the validation patients give the healthy threshold of the baselines."""
    card = methods[0].card
    validation_patients = cohort.named(validation)
    # The baselines use the first modality only.
    first_modality = [replace(patient, scans=dict(list(patient.scans.items())[:1])) for patient in validation_patients]
    levels = healthy_levels(first_modality, None, card.slices) if first_modality else card.healthy_levels
    baseline_methods = [baseline(name, card, options, levels["input"]) for name in baselines]
    return evaluate([*methods, *baseline_methods], validation_patients, cohort.named(test), show)
