"""The two kinds of evaluation: of exported models on unseen patients, and of their recipes by cross-validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from brainseg_tf.architectures import recipe_to_repeat
from brainseg_tf.errors import InputError
from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.evaluation.cross_validation import recorded_folds, train
from brainseg_tf.evaluation.methods import Method, Result, baseline, evaluate, oracle
from brainseg_tf.options import SegmentationOptions, SliceOptions
from brainseg_tf.saved_model import ModelFolder
from brainseg_tf.training.calibration import healthy_levels
from brainseg_tf.training.cohort import Cohort, Patient, split_patients
from brainseg_tf.training.runs import RunSettings

Show = Callable[[Comparison], None]
# By seed, a result for each split.
Results = dict[int, list[Result]]


@dataclass(frozen=True)
class Experiment:
    """What is compared on which patients.

    Attributes:
        cohort: all patients.
        models: the models, or the models whose recipes are trained, by the name of the method.
        baselines: some of ``methods.BASELINES``.
        options: of the stages after the network.
        show: called with each comparison.
    """

    cohort: Cohort
    models: Mapping[str, ModelFolder]
    baselines: Sequence[str]
    options: SegmentationOptions
    show: Show

    def test(self, names: Sequence[str]) -> Result:
        """Tests the models and baselines on patients of the cohort.

        Thresholds are chosen on those validation patients of the first model that are not tested.

        Args:
            names: of the patients to test.
        """
        first = next(iter(self.models.values()))
        validation = [name for name in first.card.data.validation if name not in names]
        methods = [Method(name, one.card, one.load(), self.options) for name, one in self.models.items()]
        return self._evaluate(methods, self.cohort.named(validation), names)

    def train_and_test(self, training: Cohort, seeds: Sequence[int], out: Path, say: Callable[[str], None]) -> Results:
        """Trains each model's recipe once per seed on other cohorts, and tests it on all patients of the cohort.

        Args:
            training: the patients to train on; a share of them selects the best epoch.
            seeds: of the split and the runs.
            out: folder of the runs. If they exist already, they are reused.
            say: called with each progress line.

        Returns:
            By seed, one result.
        """
        patients = [patient.name for patient in training.patients]
        subjects = training.subjects(patients)
        tested = [patient.name for patient in self.cohort.patients]
        results: Results = {}
        for seed in seeds:
            methods = []
            for name, one in self.models.items():
                options = replace(recipe_to_repeat(one.card), seed=seed, test=0.0)
                split = training.of_subjects(split_patients(subjects, options.validation, 0.0, seed), patients)
                say(f"seed {seed}: {name}")
                run = out / "runs" / name / f"seed{seed}"
                settings = RunSettings(split=split, cache=out / "cache", say=say)
                trained = train(training.folders, run, options, settings, [*tested, *self.cohort.subjects(tested)])
                methods.append(Method(name, trained.card, trained.load(), self.options))
            validation = training.named(methods[0].card.data.validation)
            results[seed] = [self._evaluate(methods, validation, tested)]
        return results

    def cross_validate(self, count: int, seeds: Sequence[int], out: Path, say: Callable[[str], None]) -> Results:
        """Trains each model's recipe once per seed and fold, and tests it on that fold's patients.

        The folds and the runs are stored in ``out``. If they exist already, they are reused.

        Args:
            count: number of folds.
            seeds: of the folds and runs.
            out: folder of the folds and runs.
            say: called with each progress line.

        Returns:
            By seed, a result for each fold.
        """
        for one in self.models.values():
            one.check()  # The recipe is read from the card, so the card must be undamaged.
        share = next(iter(self.models.values())).card.training["validation"]
        results: Results = {}
        for seed in seeds:
            patients = [patient.name for patient in self.cohort.patients]
            subjects = self.cohort.subjects(patients)
            splits = recorded_folds(out / f"folds-seed{seed}.json", subjects, count, share, seed)
            for number, of_subjects in enumerate(splits):
                split = self.cohort.of_subjects(of_subjects, patients)
                tested = [*split.test, *of_subjects.test]
                methods = []
                settings = RunSettings(split=split, cache=out / "cache", say=say)
                for name, one in self.models.items():
                    say(f"seed {seed}, fold {number + 1} of {count}: {name}")
                    run = out / "runs" / name / f"seed{seed}-fold{number + 1}"
                    options = replace(recipe_to_repeat(one.card), seed=seed)
                    trained = train(self.cohort.folders, run, options, settings, tested)
                    methods.append(Method(name, trained.card, trained.load(), self.options))
                results.setdefault(seed, []).append(
                    self._evaluate(methods, self.cohort.named(split.validation), split.test)
                )
        return results

    def _evaluate(self, methods: Sequence[Method], validation: Sequence[Patient], test: Sequence[str]) -> Result:
        """Evaluates methods and baselines.

        The validation patients give the healthy threshold of the baselines; without healthy slices in them it is that
        of the first method.
        """
        card = methods[0].card
        level = _input_level(validation, card.slices)
        if level is None:
            level = card.healthy_levels["input"]
        baselines = [baseline(name, card, self.options, level) for name in self.baselines]
        return evaluate([*methods, *baselines], validation, self.cohort.named(test), self.show)


def _input_level(validation: Sequence[Patient], options: SliceOptions) -> float | None:
    """The healthy threshold of the first modality's intensities; None without a healthy slice.

    Scans that cannot be read are skipped here; ``methods.evaluate`` names them.
    """
    levels: list[float] = []
    for patient in validation:
        first_modality = replace(patient, scans=dict(list(patient.scans.items())[:1]))
        try:
            levels += healthy_levels([first_modality], None, options).values()
        except InputError:
            continue
    return float(np.mean(levels)) if levels else None


def all_cuts(results: Mapping[int, Sequence[Result]]) -> list[tuple[int, Comparison]]:
    """All comparisons with their seeds, for all four cuts.

    A cut that is missing in a split is left out of all, since its mean would be over fewer patients than the others.
    """
    rows = []
    splits = [{one.cut for one in result.cut()} for of_seed in results.values() for result in of_seed]
    missing = {cut for found in splits for cut in found if not all(cut in other for other in splits)}
    for seed, of_seed in results.items():
        for result in of_seed:
            rows += [(seed, one) for one in (*result.comparisons, *result.cut()) if one.cut not in missing]
        rows += [(seed, one) for one in oracle(of_seed)]
    return rows
