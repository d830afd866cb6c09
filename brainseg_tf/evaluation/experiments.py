"""The two kinds of evaluation: of exported models on unseen patients, and of their recipes by cross-validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brainseg_tf.architectures import recipe_of
from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.evaluation.cross_validation import recorded_folds, train_fold
from brainseg_tf.evaluation.methods import Method, Result, baseline, evaluate, oracle
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.saved_model import ModelFolder
from brainseg_tf.training.calibration import healthy_levels
from brainseg_tf.training.cohort import Cohort
from brainseg_tf.training.runs import RunSettings

Show = Callable[[Comparison], None]


@dataclass(frozen=True)
class Experiment:
    """What is compared on which patients.

    Attributes:
        cohort: all patients.
        models: the models, or the models whose recipes are trained.
        baselines: some of ``methods.BASELINES``.
        options: of the stages after the network.
        show: called with each comparison.
    """

    cohort: Cohort
    models: Sequence[ModelFolder]
    baselines: Sequence[str]
    options: SegmentationOptions
    show: Show

    def test(self, names: Sequence[str]) -> Result:
        """Tests the models and baselines on patients of the cohort.

        Thresholds are chosen on those validation patients of the first model that are not tested.

        Args:
            names: of the patients to test.
        """
        validation = [name for name in self.models[0].card.data.validation if name not in names]
        methods = [Method(one.card.name, one.card, one.load(), self.options) for one in self.models]
        return self._evaluate(methods, validation, names)

    def cross_validate(
        self, count: int, seeds: Sequence[int], out: Path, say: Callable[[str], None]
    ) -> dict[int, list[Result]]:
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
        for one in self.models:
            one.check()  # The recipe is read from the card, so the card must be undamaged.
        share = self.models[0].card.training["validation"]
        results: dict[int, list[Result]] = {}
        for seed in seeds:
            names = [patient.name for patient in self.cohort.patients]
            splits = recorded_folds(out / f"folds-seed{seed}.json", names, count, share, seed)
            for number, split in enumerate(splits):
                methods = []
                settings = RunSettings(split=split, cache=out / "cache", say=say)
                for one in self.models:
                    say(f"seed {seed}, fold {number + 1} of {count}: {one.card.name}")
                    run = out / "runs" / one.card.name / f"seed{seed}-fold{number + 1}"
                    trained = train_fold(self.cohort.folder, run, replace(recipe_of(one.card), seed=seed), settings)
                    methods.append(Method(one.card.name, trained.card, trained.load(), self.options))
                results.setdefault(seed, []).append(self._evaluate(methods, split.validation, split.test))
        return results

    def _evaluate(self, methods: Sequence[Method], validation: Sequence[str], test: Sequence[str]) -> Result:
        """Evaluates methods and baselines; the validation patients give the healthy threshold of the baselines."""
        card = methods[0].card
        patients = self.cohort.named(validation)
        # The baselines use the first modality only.
        first_modality = [replace(patient, scans=dict(list(patient.scans.items())[:1])) for patient in patients]
        levels = healthy_levels(first_modality, None, card.slices) if first_modality else card.healthy_levels
        baselines = [baseline(name, card, self.options, levels["input"]) for name in self.baselines]
        return evaluate([*methods, *baselines], patients, self.cohort.named(test), self.show)


def all_cuts(results: Mapping[int, Sequence[Result]]) -> list[tuple[int, Comparison]]:
    """All comparisons with their seeds, for all four cuts."""
    rows = []
    for seed, of_seed in results.items():
        for result in of_seed:
            rows += [(seed, one) for one in (*result.comparisons, *result.cut())]
        rows += [(seed, one) for one in oracle(of_seed)]
    return rows
