"""The protocol: methods against ground truth on patients that none of them saw, always beside no network at all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.errors import InputError
from brainseg_tf.evaluation.case_metrics import BINS, Comparison, Histogram, Patient, compare
from brainseg_tf.images.volume import Volume, read_segmentation, read_volume
from brainseg_tf.metrics import average_precision
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import Score, SegmentationOptions
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.segmentation import lesion_score, segment_slices
from brainseg_tf.slices import Stack, from_stack, onto_stack, select_slices, to_stack
from brainseg_tf.training import cohort

# The slices that slice-wise metrics count: with this rule 54 % of BraTS' slices remain, the paper's "about half"
# (section 5.1). It is the same for every model, whatever slices that model learned from.
MIN_BRAIN, CENTRAL = 0.15, 0.7

# Four ways to cut a score. Only the first two use no label of a lesion.
MIXTURE_CUT, FALSE, VALIDATION, ORACLE = "mixture", "5 % false", "validation", "oracle"
CUTS = {
    MIXTURE_CUT: "the method's own way: mixture and morphology",
    FALSE: "the threshold that 5 % of the brain in healthy validation slices lie above",
    VALIDATION: "the threshold with the best mean Dice on the validation patients",
    ORACLE: "the threshold with the best mean Dice on the test patients themselves",
}
_FALSE_SHARE = 0.05

NO_NETWORK, EQUALISED = "no network", "equalised"
# All that there are without a network.
BASELINES = (NO_NETWORK, EQUALISED)


@dataclass(frozen=True)
class Method:
    """A model, or a baseline without a network, and its stages.

    Attributes:
        name: a model's, ``NO_NETWORK`` or ``EQUALISED``.
        card: of the model; a baseline has that of the model whose slices it takes.
        model: a baseline's gives back what it is shown.
        options: of the stages after the network.
        cuts: whether it has a way of its own to cut its score.
    """

    name: str
    card: ModelCard
    model: Reconstructor
    options: SegmentationOptions
    cuts: bool = True


class NoNetwork:
    """What stands in a model's place: its reconstruction is the input."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(images)


def baseline(name: str, card: ModelCard, options: SegmentationOptions, level: float) -> Method:
    """A method without a network, on the first modality of a model's slices.

    ``NO_NETWORK`` uses the input itself as the score; its thresholds are those of FLAIR after erosion and median
    filter. ``EQUALISED`` equalises the histogram first (Meissen 2021) and can only be cut by a threshold.

    Args:
        level: of healthy tissue, in the input.
    """
    kind: Score = "input" if name == NO_NETWORK else "equalised"
    card = replace(card, modalities=card.modalities[:1], score=kind, healthy_levels={"input": level})
    # A level that the user gives is in units of the model's score; only "none" means the same for both.
    options = replace(
        options, score=None, healthy_threshold=None if options.healthy_threshold else options.healthy_threshold
    )
    return Method(name, card, NoNetwork(), options, cuts=name == NO_NETWORK)


@dataclass
class Result:
    """What a split's methods did: comparisons of the test patients, and histograms to cut scores by.

    Attributes:
        comparisons: of test patients, cut in each method's own way.
        test, validation: by method, the patients and their histograms.
        problems: a line about each patient that could not be read.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    test: dict[str, list[tuple[Patient, Histogram]]] = field(default_factory=dict)
    validation: dict[str, list[Histogram]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def cut(self) -> Iterator[Comparison]:
        """The test patients' comparisons at the thresholds that the validation patients give."""
        for method, histograms in self.validation.items():
            if not histograms:
                continue
            healthy = np.sum([histogram.healthy() for histogram in histograms], axis=0)
            thresholds = {
                FALSE: max(1, int(np.argmax(healthy <= _FALSE_SHARE * healthy[0]))),
                VALIDATION: best_threshold(histograms),
            }
            for cut, threshold in thresholds.items():
                for patient, histogram in self.test[method]:
                    yield histogram.cut(method, cut, patient, threshold)


def best_threshold(histograms: Sequence[Histogram]) -> int:
    """The threshold (in ``BINS``) with the best mean Dice."""
    return 1 + int(np.argmax(np.mean([histogram.dice() for histogram in histograms], axis=0)[1:BINS]))


def oracle(results: Sequence[Result]) -> Iterator[Comparison]:
    """The test patients of all splits at the one threshold that is best for them."""
    for method in results[0].test if results else ():
        tested = [pair for result in results for pair in result.test.get(method, [])]
        if tested:
            threshold = best_threshold([histogram for _, histogram in tested])
            for patient, histogram in tested:
                yield histogram.cut(method, ORACLE, patient, threshold)


def evaluate(
    methods: Sequence[Method],
    validation: Sequence[cohort.Patient],
    test: Sequence[cohort.Patient],
    say: Callable[[Comparison], None] = lambda comparison: None,
) -> Result:
    """Runs methods on the patients of one split.

    Args:
        methods: each patient's scans hold every modality that they need.
        validation, test: patients that no network was trained on.
        say: takes each test comparison as it is made.
    """
    result = Result(validation={method.name: [] for method in methods}, test={method.name: [] for method in methods})
    for patients, tested in ((validation, False), (test, True)):
        for patient in patients:
            try:
                scans = {name: read_volume(path) for name, path in patient.scans.items()}
                truth = read_segmentation(patient.truth, next(iter(scans.values())))
                _run(methods, patient.name, scans, truth, result, say if tested else None)
            except InputError as error:
                result.problems.append(f"{patient.name}: left out, {error}")
    return result


def _run(
    methods: Sequence[Method],
    name: str,
    scans: Mapping[str, Volume],
    truth: np.ndarray,
    result: Result,
    say: Callable[[Comparison], None] | None,
) -> None:
    """All methods on one patient; a test patient if there is something to ``say``."""
    first = next(iter(scans.values()))
    brain = brain_mask(first)
    # Axial slices of an LPS volume lie along its last axis.
    rule = replace(methods[0].card.slices, min_brain=MIN_BRAIN, central=CENTRAL)
    used = select_slices(np.moveaxis(brain, -1, 0), rule)
    patient = Patient(name, truth, brain, used, first.spacing)
    done = []
    for method in methods:
        volumes = [scans[modality] for modality in method.card.modalities]
        stack = to_stack(volumes, brain, method.card.slices, method.card.trim)
        drawn = segment_slices(stack, method.model, method.card, method.options).outline if method.cuts else None
        score = from_stack(drawn.score if drawn else _score(stack, method), stack, first)
        histogram = Histogram(patient, score)
        if say is None:
            result.validation[method.name].append(histogram)
            continue
        result.test[method.name].append((patient, histogram))
        if drawn:
            mask = (from_stack(drawn.found, stack, first) > 0.5) & brain
            free = _tumour_free(stack, onto_stack(truth, first, stack), method)
            precision = average_precision(score[brain], truth[brain])
            posterior = np.clip(from_stack(drawn.probability, stack, first), 0, 1)
            compared = compare(
                method.name,
                MIXTURE_CUT,
                patient,
                mask,
                posterior=posterior,
                average_precision=precision,
                tumour_free_ml=free,
            )
            done.append(compared)
    # A patient counts for all methods or for none.
    for comparison in done:
        result.comparisons.append(comparison)
        if say:
            say(comparison)


def _score(stack: Stack, method: Method) -> np.ndarray:
    """The score of a method that has no way of its own to cut it."""
    return lesion_score(stack, method.model.reconstruct(stack.images), method.card.score, method.options)[1]


def _tumour_free(stack: Stack, truth: np.ndarray, method: Method) -> float:
    """Millilitres that a method flags when it gets a patient's tumour-free slices alone; NaN if there are too few."""
    free = ~(truth > 0).any(axis=(1, 2)) & stack.brain.any(axis=(1, 2))
    if free.sum() < 10:
        return float("nan")
    slices = replace(stack, images=stack.images[free], brain=stack.brain[free])
    drawn = segment_slices(slices, method.model, method.card, method.options).outline
    return float(drawn.found.sum() * stack.voxel_ml)
