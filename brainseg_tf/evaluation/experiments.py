"""The protocol's two forms: models as they are on patients they never saw, or their recipes in cross-validation."""

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
    """Tests models, and some of ``BASELINES``, on the patients ``names``; thresholds come from the first model's
    validation.
    """
    validation = [patient for patient in cohort.named(found[0].card.data.validation) if patient.name not in names]
    methods = [Method(one.card.name, one.card, one.load(), options) for one in found]
    spared = [patient.name for patient in validation]
    return _beside_baselines(methods, baselines, cohort, spared, names, options, show)


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

    Runs, and the folds themselves, are kept in ``out``; what is there is not made again.

    Returns:
        By seed, a result for each fold.
    """
    for one in found:
        one.check()  # Its recipe is read from the card.
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
            result = _beside_baselines(methods, baselines, cohort, split.validation, split.test, options, show)
            results.setdefault(seed, []).append(result)
    return results


def all_cuts(results: Mapping[int, Sequence[Result]]) -> list[tuple[int, Comparison]]:
    """Every comparison of every seed, cut in each of the four ways."""
    rows = []
    for seed, some in results.items():
        for result in some:
            rows += [(seed, one) for one in (*result.comparisons, *result.cut())]
        rows += [(seed, one) for one in oracle(some)]
    return rows


def _beside_baselines(
    methods: Sequence[Method],
    baselines: Sequence[str],
    cohort: Cohort,
    validation: Sequence[str],
    test: Sequence[str],
    options: SegmentationOptions,
    show: Show,
) -> Result:
    card = methods[0].card
    spared = cohort.named(validation)
    first = [replace(patient, scans=dict(list(patient.scans.items())[:1])) for patient in spared]
    levels = healthy_levels(first, None, card.slices) if first else card.healthy_levels
    without = [baseline(name, card, options, levels["input"]) for name in baselines]
    return evaluate([*methods, *without], spared, cohort.named(test), show)
