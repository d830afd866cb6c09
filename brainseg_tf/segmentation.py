"""The main road (section 5.3): a scan and a model in, a mask and the maps it was made from out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainseg_tf.bias_field import flatten
from brainseg_tf.errors import InputError
from brainseg_tf.model_card import ModelCard
from brainseg_tf.postprocessing.edge import excess, settle
from brainseg_tf.postprocessing.mixture import Mixture, MixtureOptions, fit_mixture
from brainseg_tf.postprocessing.morphology import Lesion, close, lesions, remove_low, remove_small
from brainseg_tf.postprocessing.residual import Score, above, erode, match_range, score_map, smooth
from brainseg_tf.saved_model import Reconstruction, Reconstructor
from brainseg_tf.slices import (
    Stack,
    brain_mask,
    cut_to_head,
    from_stack,
    sample,
    skull_warning,
    to_stack,
    volume_warning,
)
from brainseg_tf.volume import Volume

# Share of the brain in healthy slices that a lesion's mean score has to stand above.
HEALTHY_QUANTILE = 0.985
# A residual is speckled within its slice. A probability is smooth there, but each slice was judged alone: they vote.
MEDIANS: dict[str, tuple[int, int, int]] = {"probability": (13, 3, 3)}
_MEDIAN = (3, 5, 5)
# Tissue below this share of healthy tissue's highest score shapes the bias field.
_DOUBT = 0.5
# The field is so smooth that every third slice says enough of it.
_EVERY = 3
# A lesion of which the network saw less than this share before the bias field was taken out was made by the field.
_SEEN = 0.25
# Of what makes a lesion plain, this share is enough beside one that is: a tumour's outliers are fainter than it.
_BESIDE = 0.5


@dataclass(frozen=True)
class SegmentationOptions:
    """The stages after the network.

    Attributes:
        score: what is compared with healthy tissue, see ``residual.score_map``; None takes the model's own.
        match_range: min-max normalise the reconstruction to the input first (section 5.3, step 1). A blurred
            reconstruction is stretched by it and the residual shrinks: off unless asked for.
        flatten: take the bias field out of the slices once the network has said what is not healthy, and ask it again;
            None does so if the score is a probability, which helped there and nowhere else.
        rim: millimetres taken off the brain's surface.
        median: edges of the median filter over (slices, rows, columns); None takes ``MEDIANS``.
        components: numbers of components that are tried in turn, until the lesion's stands apart. The paper has three:
            healthy brain, tumour and background; the background is not in the brain mask, so two come first. Where
            healthy tissue takes both of them, because the lesion is small or faint, a third can be the lesion's.
        separation: how many standard deviations apart that is.
        mixture: see ``MixtureOptions``.
        level: there is no lesion unless its component's mean lies above this. None takes the level that was measured
            on healthy slices when the model was made.
        closing: radius of the binary closing in millimetres.
        edge: how far the mask's edge may move to where the image changes, in millimetres, see ``edge.settle``.
        faintest: components are removed whose excess brightness (``edge.excess``), weighted by the score, has a mean
            below this, if the score is a probability: what is neither bright nor sure is no lesion. Beside a
            component that reaches it, half of it is enough.
        smallest: components below this many millilitres are removed, on the model's grid and on the scan's.
    """

    score: Score | None = None
    match_range: bool = False
    flatten: bool | None = None
    rim: float = 3.75
    median: tuple[int, int, int] | None = None
    components: tuple[int, ...] = (2, 3)
    separation: float = 4.0
    mixture: MixtureOptions = field(default_factory=MixtureOptions)
    level: float | None = None
    closing: float = 3.0
    edge: float = 4.0
    faintest: float = 0.3
    smallest: float = 2.0

    def window(self, kind: Score) -> tuple[int, int, int]:
        """Of the median filter."""
        return self.median or MEDIANS.get(kind, _MEDIAN)


@dataclass(frozen=True)
class Outline:
    """A mask on the model's slices.

    Attributes:
        kind: of score.
        score: (N, H, W), what the mixture was fitted to; 0 outside ``inside``, (N, H, W) bool.
        mixture: the fitted mixture; ``level``: what its lesion component's mean was held against.
        found: (N, H, W) bool.
    """

    kind: Score
    score: np.ndarray
    inside: np.ndarray
    mixture: Mixture
    level: float
    found: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """The posterior of the lesion component, (N, H, W) float32; 0 everywhere if that is held for healthy."""
        return lesion_posterior(self.mixture, self.level)


@dataclass(frozen=True)
class Located:
    """What of one patient's slices is a lesion.

    Attributes:
        stack: the slices that the network saw at last.
        reconstruction: what it made of them; ``outline``: the mask on them.
    """

    stack: Stack
    reconstruction: Reconstruction
    outline: Outline


@dataclass(frozen=True)
class Segmentation:
    """A mask, and what it was made from.

    Attributes:
        mask: (X, Y, Z) bool, on the grid of the scan as it was read (LPS).
        brain: (X, Y, Z) bool, what of the scan was looked at.
        stack: the slices that the network saw.
        reconstruction: (N, H, W, C); ``residual``: (N, H, W, C), input minus reconstruction.
        outline: the mask on the model's slices, and how it came about.
        lesions: the mask's components, largest first.
        warnings: sentences for the user.
        seconds: by stage.
    """

    mask: np.ndarray
    brain: np.ndarray
    stack: Stack
    reconstruction: np.ndarray
    residual: np.ndarray
    outline: Outline
    lesions: list[Lesion]
    warnings: list[str]
    seconds: dict[str, float]


def segment(
    scans: Sequence[Volume],
    model: Reconstructor,
    card: ModelCard,
    options: SegmentationOptions | None = None,
    brain: np.ndarray | None = None,
) -> Segmentation:
    """Outlines the lesions of one patient.

    Args:
        scans: one volume per modality of the model, in the card's order, on one grid.
        model: turns slices into their healthy reconstructions.
        card: of that model.
        options: stages after the network.
        brain: (X, Y, Z) bool on the scans' grid, from which air is removed; found in the first scan if None.

    Raises:
        InputError: no brain in the scan, or not as many scans as the model has modalities.
    """
    options = options or SegmentationOptions()
    check_modalities(scans, card)
    seconds: dict[str, float] = {}
    scan = scans[0]
    with _clock(seconds, "slices"):
        brain, warnings = find_brain(scan, brain)
        stack = to_stack(scans, brain, card.slices, card.trim)
    try:
        located = locate(stack, model, card, options, seconds)
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error
    stack, images = located.stack, located.reconstruction.images
    with _clock(seconds, "grid"):
        mask = (from_stack(located.outline.found, stack, scan) > 0.5) & brain
        # A component that is large enough on the model's grid can fall apart on a coarser one.
        mask = remove_small(mask, scan.voxel_ml, options.smallest)
        residual = np.where(stack.brain[..., None], stack.images - images, 0)
        middle = nib.affines.apply_affine(scan.affine, ndimage.center_of_mass(brain))[0]
        components = lesions(mask, sample(residual.mean(axis=-1), stack, scan, mask), scan.affine, middle)
    return Segmentation(mask, brain, stack, images, residual, located.outline, components, warnings, seconds)


def find_brain(scan: Volume, given: np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
    """The brain in a scan, (X, Y, Z) bool, and warnings if it cannot be the brain alone.

    Args:
        scan: the scan.
        given: (X, Y, Z) bool, a brain mask that came with it; None takes the scan for skull-stripped.

    Raises:
        InputError: there is no brain.
    """
    if given is None:
        brain = brain_mask(scan)
        warnings = [skull_warning(scan, brain)]
    else:
        brain, cut = cut_to_head(given, scan)
        warnings = [cut, volume_warning(scan, brain)]
    return brain, [warning for warning in warnings if warning]


def locate(
    stack: Stack,
    model: Reconstructor,
    card: ModelCard,
    options: SegmentationOptions,
    seconds: dict[str, float] | None = None,
) -> Located:
    """From slices to a mask on them.

    Args:
        stack: the slices.
        model: turns slices into their healthy reconstructions; ``card``: its card.
        options: stages after the network.
        seconds: takes the seconds of each stage.

    Raises:
        InputError: nothing of the brain is left within the rim, or the model does not give the score.
    """
    seconds = {} if seconds is None else seconds
    kind = options.score or card.score
    flat = kind == "probability" if options.flatten is None else options.flatten
    doubtful = None
    if flat:
        stack, doubtful = _flattened(stack, model, card, kind, options, seconds)
    with _clock(seconds, "model"):
        reconstruction = model.reconstruct(stack.images)
    return Located(stack, reconstruction, outline(stack, reconstruction, card, options, doubtful, seconds))


def _flattened(
    stack: Stack,
    model: Reconstructor,
    card: ModelCard,
    kind: Score,
    options: SegmentationOptions,
    seconds: dict[str, float],
) -> tuple[Stack, np.ndarray]:
    """The slices without their bias field, which is fitted to what the network does not doubt; and what it doubts."""
    few = replace(
        stack,
        images=stack.images[::_EVERY],
        brain=stack.brain[::_EVERY],
        affine=stack.affine @ np.diag([1, 1, _EVERY, 1]),
    )
    with _clock(seconds, "model"):
        reconstruction = model.reconstruct(few.images)
    with _clock(seconds, "bias field"):
        inside, score = _raw_score(few, reconstruction, kind, options)
        slices, rows, columns = options.window(kind)
        window = (2 * (slices // (2 * _EVERY)) + 1, rows, columns)
        doubtful = above(score, _DOUBT * card.healthy_levels[kind], inside, window)
        doubtful = np.repeat(doubtful, _EVERY, axis=0)[: len(stack.brain)]
        images = flatten(stack.images, stack.brain, doubtful, card.slices.normalisation)
    return replace(stack, images=images), doubtful


def outline(
    stack: Stack,
    reconstruction: Reconstruction,
    card: ModelCard,
    options: SegmentationOptions,
    doubtful: np.ndarray | None = None,
    seconds: dict[str, float] | None = None,
) -> Outline:
    """Residual, mixture, morphology, edge: from slices and what a network makes of them to a mask on them.

    Args:
        stack, reconstruction: the slices and their reconstruction.
        card: of the model that made it.
        options: the stages'.
        doubtful: (N, H, W) bool, what the network did not hold for healthy before the slices were flattened, if they
            were. A field that is fitted badly, to part of a brain say, brightens healthy tissue; it may take lesions
            away but makes none.
        seconds: takes the seconds of each stage.

    Raises:
        InputError: nothing of the brain is left within the rim, or the model does not give the score.
    """
    seconds = {} if seconds is None else seconds
    kind = options.score or card.score
    with _clock(seconds, "residual"):
        inside, score = lesion_score(stack, reconstruction, kind, options)
    if not inside.any():
        raise InputError(f"nothing of the brain is left {options.rim:g} mm inside it; lower --rim")
    with _clock(seconds, "mixture"):
        mixture = _separate_mixture(score, inside, options)
    with _clock(seconds, "morphology"):
        level = card.healthy_levels[kind] if options.level is None else options.level
        found = lesion_posterior(mixture, level) > 0.5
        # Closing bridges gaps of the brain's surface too: what lies outside counts for no component's size.
        found = close(found, stack.spacing, options.closing) & stack.brain
        if doubtful is not None:
            found = remove_low(found, doubtful, _SEEN)
        found = remove_small(found, stack.voxel_ml, options.smallest)
    with _clock(seconds, "edge"):
        image = stack.images[..., 0]
        found = settle(found, image, stack.brain, stack.spacing, options.edge)
        found = remove_small(found, stack.voxel_ml, options.smallest)
        if kind == "probability":
            plain = score * excess(found, image, stack.brain, stack.spacing)
            found = remove_low(found, plain, options.faintest, beside=_BESIDE)
    return Outline(kind, score, inside, mixture, level, found)


def lesion_posterior(mixture: Mixture, level: float) -> np.ndarray:
    """A mixture's posterior of its lesion, (N, H, W); 0 if the lesion's mean lies below the level of healthy tissue."""
    posterior = mixture.posterior[mixture.lesion]
    return posterior if mixture.means[mixture.lesion] > level else np.zeros_like(posterior)


def lesion_score(
    stack: Stack, reconstruction: Reconstruction, kind: Score, options: SegmentationOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Where a lesion is looked for, (N, H, W) bool, and how unlike healthy tissue each pixel there is, (N, H, W)."""
    inside, score = _raw_score(stack, reconstruction, kind, options)
    return inside, smooth(score, inside, options.window(kind))


def _raw_score(
    stack: Stack, reconstruction: Reconstruction, kind: Score, options: SegmentationOptions
) -> tuple[np.ndarray, np.ndarray]:
    images = reconstruction.images
    if options.match_range:
        images = match_range(images, stack.images, stack.brain)
    inside = erode(stack.brain, stack.spacing, options.rim)
    return inside, score_map(stack.images, images, kind, reconstruction.probability)


def _separate_mixture(score: np.ndarray, inside: np.ndarray, options: SegmentationOptions) -> Mixture:
    """The mixture with the fewest components whose lesion stands apart, or the one with most."""
    for components in options.components:
        mixture = fit_mixture(score, inside, components, options.mixture)
        if mixture.separation >= options.separation:
            break
    return mixture


def check_modalities(scans: Sequence[object], card: ModelCard) -> None:
    """Refuses a number of scans that is not the model's number of modalities.

    Raises:
        InputError: the numbers differ.
    """
    if len(scans) != len(card.modalities):
        wanted = " and ".join(card.modalities)
        raise InputError(f"model {card.name}: needs {wanted}, {len(scans)} scan(s) given; add --modality NAME=FILE")


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(seconds.get(stage, 0) + time.perf_counter() - start, 3)
