"""Comparison of methods with the ground truth, on patients that no network was trained on.

A method is a model, or a baseline without a network.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.evaluation.case_metrics import BINS, Case, Comparison, Histogram, compare
from brainseg_tf.metrics import average_precision
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import Score, SegmentationOptions
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.segmentation import lesion_score, segment_slices
from brainseg_tf.slices import Stack, from_stack, onto_stack, select_slices, to_stack
from brainseg_tf.training import cohort
from brainseg_tf.training.scans import PatientScans, read_patient

# Slice-wise metrics use the slices with at least this share of brain, in this central share of the brain's height.
# These are 54 % of the BraTS slices; the paper uses "about half" (section 5.1). The rule is the same for all models.
MIN_BRAIN, CENTRAL = 0.15, 0.7

# Four ways to turn a score into a mask. The first two use no lesion labels.
MIXTURE_CUT, FALSE_POSITIVE_CUT, VALIDATION_CUT, ORACLE_CUT = "mixture", "5 % false", "validation", "oracle"
CUTS = {
    MIXTURE_CUT: "the stages after the network: mixture, morphology and boundary refinement",
    FALSE_POSITIVE_CUT: "the threshold that 5 % of the brain in healthy validation slices exceed",
    VALIDATION_CUT: "the threshold with the best mean Dice on the validation patients",
    ORACLE_CUT: "the threshold with the best mean Dice on the test patients",
}
_FALSE_POSITIVE_SHARE = 0.05

# The baselines without a network.
NO_NETWORK, EQUALISED = "no network", "equalised"
BASELINES = (NO_NETWORK, EQUALISED)
# With fewer tumour-free slices than this, ``Comparison.tumour_free_ml`` is not measured.
_LEAST_TUMOUR_FREE_SLICES = 10


@dataclass(frozen=True)
class Method:
    """A model or a baseline, with its post-processing.

    Attributes:
        name: of the model, or one of ``BASELINES``.
        card: of the model; a baseline has the card of the model whose slices it uses.
        model: the reconstructor; that of a baseline returns its input.
        options: of the stages after the network.
        has_mixture: whether ``MIXTURE_CUT`` is measured; without it the method is a score without a mask.
    """

    name: str
    card: ModelCard
    model: Reconstructor
    options: SegmentationOptions
    has_mixture: bool = True


class NoNetwork:
    """The reconstructor of the baselines: its reconstruction is the input."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(images)


def baseline(name: str, card: ModelCard, options: SegmentationOptions, healthy_threshold: float) -> Method:
    """A method without a network, on the first modality of a model's slices.

    The score of ``NO_NETWORK`` is the input itself, after erosion and median filter. The score of ``EQUALISED`` is the
    input after histogram equalisation (Meissen 2021); only thresholds turn it into a mask.

    Args:
        name: one of ``BASELINES``.
        card: of the model whose slices are used.
        options: of the stages after the network.
        healthy_threshold: of the score ``input``.
    """
    kind: Score = "input" if name == NO_NETWORK else "equalised"
    card = replace(card, modalities=card.modalities[:1], score=kind, healthy_levels={"input": healthy_threshold})
    # A threshold from the user is in units of the model's score. Only 0, which turns it off, applies to both scores.
    options = replace(
        options, score=None, healthy_threshold=None if options.healthy_threshold else options.healthy_threshold
    )
    return Method(name, card, NoNetwork(), options, has_mixture=name == NO_NETWORK)


@dataclass
class Result:
    """Results of all methods on the patients of a split.

    Attributes:
        comparisons: of the test patients, with the cut ``MIXTURE_CUT``.
        test: by method, the test patients and the histograms of their scores.
        validation: by method, the histograms of the validation patients' scores.
        problems: one line about each patient that could not be read.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    test: dict[str, list[tuple[Case, Histogram]]] = field(default_factory=dict)
    validation: dict[str, list[Histogram]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def cut(self) -> Iterator[Comparison]:
        """Comparisons of the test patients with the two thresholds that are chosen on the validation patients.

        Without a healthy slice in the validation patients there is no threshold of false positives.
        """
        for method, histograms in self.validation.items():
            if not histograms:
                continue
            healthy = np.sum([histogram.healthy() for histogram in histograms], axis=0)
            thresholds = {VALIDATION_CUT: best_threshold(histograms)}
            if healthy[0]:
                false_positives = int(np.argmax(healthy <= _FALSE_POSITIVE_SHARE * healthy[0]))
                thresholds = {FALSE_POSITIVE_CUT: max(1, false_positives), **thresholds}
            for cut, threshold in thresholds.items():
                for patient, histogram in self.test[method]:
                    yield histogram.cut(method, cut, patient, threshold)


def best_threshold(histograms: Sequence[Histogram]) -> int:
    """The threshold, in units of 1 / BINS, with the best mean Dice."""
    return 1 + int(np.argmax(np.mean([histogram.dice() for histogram in histograms], axis=0)[1:BINS]))


def oracle(results: Sequence[Result]) -> Iterator[Comparison]:
    """Comparisons of the test patients of all splits with the single threshold that is best for them."""
    for method in results[0].test if results else ():
        tested = [pair for result in results for pair in result.test.get(method, [])]
        if tested:
            threshold = best_threshold([histogram for _, histogram in tested])
            for patient, histogram in tested:
                yield histogram.cut(method, ORACLE_CUT, patient, threshold)


def evaluate(
    methods: Sequence[Method],
    validation: Sequence[cohort.Patient],
    test: Sequence[cohort.Patient],
    say: Callable[[Comparison], None] = lambda comparison: None,
) -> Result:
    """Runs methods on the patients of one split.

    Args:
        methods: the methods; the patients must have every modality that they need.
        validation, test: patients that no network was trained on.
        say: called with each test comparison.
    """
    result = Result(validation={method.name: [] for method in methods}, test={method.name: [] for method in methods})
    for patients, is_test in ((validation, False), (test, True)):
        for patient in patients:
            try:
                _run(methods, patient, read_patient(patient), result, say if is_test else None)
            except InputError as error:
                result.problems.append(f"{patient.name}: left out, {error}")
    return result


def _run(
    methods: Sequence[Method],
    patient: cohort.Patient,
    scans: PatientScans,
    result: Result,
    say: Callable[[Comparison], None] | None,
) -> None:
    """Runs all methods on one patient: a validation patient if ``say`` is None, else a test patient."""
    first, brain, truth = scans.volumes[0], scans.brain, scans.truth
    assert truth is not None  # ``read_cohort`` leaves out patients without a segmentation.
    by_modality = dict(zip(patient.scans, scans.volumes, strict=True))
    # Axial slices of an LPS volume are along its last axis.
    rule = replace(methods[0].card.slices, min_brain=MIN_BRAIN, central=CENTRAL)
    used = select_slices(np.moveaxis(brain, -1, 0), rule, brain[..., 0].size)
    case = Case(patient.name, truth, brain, used, first.spacing, patient.cohort)
    histograms: dict[str, Histogram] = {}
    comparisons = []
    for method in methods:
        volumes = [by_modality[modality] for modality in method.card.modalities]
        stack = to_stack(volumes, brain, method.card.slices, method.card.trim)
        outline = (
            segment_slices(stack, method.model, method.card, method.options).outline if method.has_mixture else None
        )
        score = from_stack(outline.score if outline else _score(stack, method), stack, first)
        histograms[method.name] = Histogram(case, score)
        if outline and say:
            mask = (from_stack(outline.found, stack, first) > 0.5) & brain
            posterior = np.clip(from_stack(outline.probability, stack, first), 0, 1)
            comparison = replace(
                compare(method.name, MIXTURE_CUT, case, mask, posterior=posterior),
                average_precision=average_precision(score[brain], truth[brain]),
                tumour_free_ml=_tumour_free_ml(stack, onto_stack(truth, first, stack), method),
            )
            comparisons.append(comparison)
    # They are added after all methods have run: a patient on whom one method fails must not count for the others.
    for name, histogram in histograms.items():
        if say:
            result.test[name].append((case, histogram))
        else:
            result.validation[name].append(histogram)
    for comparison in comparisons:
        result.comparisons.append(comparison)
        if say:
            say(comparison)


def _score(stack: Stack, method: Method) -> np.ndarray:
    """The score of a method without a mixture."""
    return lesion_score(stack, method.model.reconstruct(stack.images), method.card.score, method.options)[1]


def _tumour_free_ml(stack: Stack, truth: np.ndarray, method: Method) -> float:
    """Volume of a method's mask if it gets only a patient's tumour-free slices; NaN if there are too few of them."""
    tumour_free = ~(truth > 0).any(axis=(1, 2)) & stack.brain.any(axis=(1, 2))
    if tumour_free.sum() < _LEAST_TUMOUR_FREE_SLICES:
        return float("nan")
    slices = replace(stack, images=stack.images[tumour_free], brain=stack.brain[tumour_free])
    outline = segment_slices(slices, method.model, method.card, method.options).outline
    return float(outline.found.sum() * stack.voxel_ml)
