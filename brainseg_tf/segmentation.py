"""The main road (section 5.3): from scans and a model to a mask and the maps that it was made from."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from brainseg_tf.brain.mask import Brain, find_brain
from brainseg_tf.brain.template import TemplateAlignment, to_template
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import Box, affine_of_box, bounding_box
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import Score, SegmentationOptions
from brainseg_tf.postprocessing.bias_field import correct_bias_field
from brainseg_tf.postprocessing.boundary import refine_boundary
from brainseg_tf.postprocessing.conspicuity import conspicuity, local_contrast
from brainseg_tf.postprocessing.growth import GROWS_IN, grow
from brainseg_tf.postprocessing.lesions import Lesion, Maps, lesions, place_of
from brainseg_tf.postprocessing.mixture import Mixture, fit_mixture
from brainseg_tf.postprocessing.morphology import close, remove_low, remove_small
from brainseg_tf.postprocessing.residual import erode, match_range, median_exceeds, score_map, smooth
from brainseg_tf.postprocessing.suspicion import (
    History,
    Suspect,
    Suspicion,
    suspected_pixels,
    suspects,
    suspicion_warning,
    threshold_clause,
)
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.slices import Stack, from_stack, sample, to_stack

# Pixels whose score exceeds this share of the healthy threshold are suspicious: the bias field is not fitted to them.
_SUSPICIOUS_SHARE = 0.5
# The least mean probability of a lesion that only a mixture of more components separates from a larger area. In
# simulated heads without lesions such components reach 0.70.
_CERTAIN = 0.8
# The bias field is smooth: every third slice is enough to find what is suspicious.
_SLICE_STEP = 3


@dataclass(frozen=True)
class Outline:
    """A mask on the model's slices.

    Attributes:
        kind: of score.
        score: (N, H, W), what the mixture was fitted to; 0 outside ``inside``, (N, H, W) bool.
        mixture: the fitted mixture.
        healthy_threshold: what the mean of its lesion component was compared with.
        found: (N, H, W) bool.
        suspicion: what is abnormal but not in the mask, and why.
    """

    kind: Score
    score: np.ndarray
    inside: np.ndarray
    mixture: Mixture
    healthy_threshold: float
    found: np.ndarray
    suspicion: Suspicion

    @property
    def probability(self) -> np.ndarray:
        """Posterior of the lesion component, (N, H, W) float32; 0 if its mean is below the healthy threshold."""
        return lesion_posterior(self.mixture, self.healthy_threshold)


@dataclass(frozen=True)
class SliceSegmentation:
    """Lesions on the model's slices.

    Attributes:
        stack: the slices, after the correction of the bias field if there was one.
        reconstruction: of these slices.
        outline: the mask on them.
    """

    stack: Stack
    reconstruction: Reconstruction
    outline: Outline


@dataclass(frozen=True)
class Segmentation:
    """A mask, and what it was made from.

    Attributes:
        mask: (X, Y, Z) bool, on the grid of the scan as it was read (LPS).
        brain: the brain mask that was used.
        stack: the slices that the network saw.
        reconstruction: (N, H, W, C); ``residual``: (N, H, W, C), input minus reconstruction.
        outline: the mask on the model's slices.
        lesions: the mask's components, largest first.
        suspected: (X, Y, Z) bool, what is abnormal but not in the mask; ``suspects``: its components, largest first.
        alignment: the rough alignment of the brain with the MNI template.
        warnings: sentences for the user.
        seconds: by stage.
    """

    mask: np.ndarray
    brain: Brain
    stack: Stack
    reconstruction: np.ndarray
    residual: np.ndarray
    outline: Outline
    lesions: list[Lesion]
    suspected: np.ndarray
    suspects: list[Suspect]
    alignment: TemplateAlignment
    warnings: list[str]
    seconds: dict[str, float]


def segment(
    scans: Sequence[Volume],
    model: Reconstructor,
    card: ModelCard,
    options: SegmentationOptions | None = None,
    brain: Brain | None = None,
) -> Segmentation:
    """Segments the lesions of one patient.

    Args:
        scans: one volume per modality of the model, in the card's order, on one grid.
        model: reconstructs slices.
        card: of that model.
        options: stages after the network.
        brain: the brain mask on the scans' grid, see ``find_brain``; if None, the scans must be skull-stripped.

    Raises:
        InputError: there is no brain in the scan, or the number of scans is not the model's number of modalities.
    """
    options = options or SegmentationOptions()
    check_modalities(scans, card)
    seconds: dict[str, float] = {}
    scan = scans[0]
    with _clock(seconds, "slices"):
        brain = brain or find_brain(scan)
        stack = to_stack(scans, brain.mask, card.slices, card.trim)
    try:
        segmented = segment_slices(stack, model, card, options, seconds)
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error
    stack, images = segmented.stack, segmented.reconstruction.images
    with _clock(seconds, "grid"):
        mask = (from_stack(segmented.outline.found, stack, scan) > 0.5) & brain.mask
        # A component that is large enough on the model's grid can fall apart on a coarser one.
        mask = remove_small(mask, scan.voxel_ml, options.min_size_ml)
        residual = np.where(stack.brain[..., None], stack.images - images, 0)
        suspicion, suspected = segmented.outline.suspicion, np.zeros_like(mask)
        if suspicion.explanations:
            suspected = (from_stack(suspicion.components > 0, stack, scan) > 0.5) & brain.mask & ~mask
            suspected = remove_small(suspected, scan.voxel_ml, options.min_size_ml)
    with _clock(seconds, "location"):
        alignment = to_template(brain.mask, scan.affine)
        # A map of a whole scan can have hundreds of megabytes.
        abnormal = mask | suspected
        box = bounding_box(abnormal)
        found, missing, where, affine = mask[box], suspected[box], abnormal[box], affine_of_box(scan.affine, box)
        place = place_of(brain.mask, scan.affine, alignment)._replace(affine=affine)
        maps = Maps(
            sample(residual.mean(axis=-1), stack, affine, where),
            sample(segmented.outline.probability, stack, affine, where),
            sample(segmented.outline.score, stack, affine, where),
            _relative_intensity(scan.data, abnormal, brain.mask, box),
        )
        components = lesions(found, maps, place)
        left_out: list[Suspect] = []
        if missing.any():
            # Interpolated, a component reaches at most one pixel further.
            explained = sample(ndimage.maximum_filter(suspicion.components, 3), stack, affine, missing, order=0)
            left_out = suspects(missing, lesions(missing, maps, place), explained, suspicion.explanations)
    warning = suspicion_warning(scan, components, left_out)
    return Segmentation(
        mask,
        brain,
        stack,
        images,
        residual,
        segmented.outline,
        components,
        suspected,
        left_out,
        alignment,
        [*brain.warnings, *([warning] if warning else [])],
        seconds,
    )


def _relative_intensity(data: np.ndarray, abnormal: np.ndarray, brain: np.ndarray, box: Box) -> np.ndarray | None:
    """The scan in a box, in units of its median in healthy brain; None if that is not positive.

    It is not positive, for instance, after a z-score.
    """
    healthy = brain & ~abnormal
    median = np.median(data[healthy if healthy.any() else brain])
    return data[box] / median if median > 0 else None


def segment_slices(
    stack: Stack,
    model: Reconstructor,
    card: ModelCard,
    options: SegmentationOptions,
    seconds: dict[str, float] | None = None,
) -> SliceSegmentation:
    """Network, residual, mixture, morphology: from slices to a mask on them.

    Args:
        stack: the slices.
        model: reconstructs slices; ``card``: its card.
        options: stages after the network.
        seconds: receives the seconds of each stage.

    Raises:
        InputError: the erosion leaves nothing of the brain, or the model has no such score.
    """
    seconds = {} if seconds is None else seconds
    kind = options.score or card.score
    # It improves scores that are probabilities and no other (docs/experiments.md).
    corrects = kind == "probability" if options.correct_bias_field is None else options.correct_bias_field
    suspicious_mask = None
    if corrects:
        stack, suspicious_mask = _without_bias_field(stack, model, card, kind, options, seconds)
    with _clock(seconds, "model"):
        reconstruction = model.reconstruct(stack.images)
    found = outline(stack, reconstruction, card, options, suspicious_mask, seconds)
    return SliceSegmentation(stack, reconstruction, found)


def _without_bias_field(
    stack: Stack,
    model: Reconstructor,
    card: ModelCard,
    kind: Score,
    options: SegmentationOptions,
    seconds: dict[str, float],
) -> tuple[Stack, np.ndarray]:
    """The slices without the bias field, fitted outside what is suspicious; and the suspicious mask, (N, H, W) bool."""
    few = replace(
        stack,
        images=stack.images[::_SLICE_STEP],
        brain=stack.brain[::_SLICE_STEP],
        affine=stack.affine @ np.diag([1, 1, _SLICE_STEP, 1]),
    )
    with _clock(seconds, "model"):
        reconstruction = model.reconstruct(few.images)
    with _clock(seconds, "bias field"):
        inside, score = _unfiltered_score(few, reconstruction, kind, options)
        slices, rows, columns = options.median_of(kind)
        window = (2 * (slices // (2 * _SLICE_STEP)) + 1, rows, columns)
        suspicious = median_exceeds(score, _SUSPICIOUS_SHARE * card.healthy_levels[kind], inside, window)
        suspicious = np.repeat(suspicious, _SLICE_STEP, axis=0)[: len(stack.brain)]
        images = correct_bias_field(stack.images, stack.brain, suspicious, card.slices.normalisation)
    return replace(stack, images=images), suspicious


def outline(
    stack: Stack,
    reconstruction: Reconstruction,
    card: ModelCard,
    options: SegmentationOptions,
    suspicious_mask: np.ndarray | None = None,
    seconds: dict[str, float] | None = None,
) -> Outline:
    """Residual, mixture, morphology, boundary: from slices and their reconstruction to a mask on them.

    Args:
        stack, reconstruction: the slices and their reconstruction.
        card: of the model.
        options: of these stages.
        suspicious_mask: (N, H, W) bool, what was suspicious before the bias field was corrected, None if it was not
            corrected: it does not count as healthy tissue around a lesion.
        seconds: receives the seconds of each stage.

    Raises:
        InputError: the erosion leaves nothing of the brain, or the model has no such score.
    """
    seconds = {} if seconds is None else seconds
    kind = options.score or card.score
    with _clock(seconds, "residual"):
        inside, score = lesion_score(stack, reconstruction, kind, options)
    if not inside.any():
        erosion = options.erosion_of(kind)
        raise InputError(f"an erosion of {erosion:g} mm leaves nothing of the brain; lower --erosion-mm")
    threshold = card.healthy_levels[kind] if options.healthy_threshold is None else options.healthy_threshold
    with _clock(seconds, "mixture"):
        mixture = _separated_mixture(score, inside, options, threshold, kind)
    with _clock(seconds, "morphology"):
        found = lesion_posterior(mixture, threshold) > 0.5
        # Closing also bridges gaps in the brain's surface; what lies outside the brain must not count for the size.
        found = close(found, stack.spacing, options.closing_mm) & stack.brain
        candidates, history = found, History(found, stack.voxel_ml)
        kept = remove_small(found, stack.voxel_ml, options.min_size_ml)
        found = history.keep(kept, "min_size", least=options.min_size_ml, when="")
    with _clock(seconds, "boundary"):
        image = stack.images[..., 0]
        kept = refine_boundary(found, image, stack.brain, stack.spacing, options.boundary_mm)
        found = history.keep(kept, "boundary")
        kept = remove_small(found, stack.voxel_ml, options.min_size_ml)
        when = " after the refinement of its boundary"
        found = history.keep(kept, "min_size", least=options.min_size_ml, when=when)
        if kind == "probability":
            healthy = stack.brain & ~found
            if suspicious_mask is not None:
                healthy &= ~suspicious_mask
            contrast = local_contrast(found, image, healthy, stack.spacing)
            values, least = conspicuity(score, contrast), options.min_conspicuity
            kept = remove_low(found, values, least)
            found = history.keep(kept, "inconspicuous", conspicuity=values, least=least, score=score, contrast=contrast)
            # Half the card's healthy threshold is rare in healthy tissue, whatever threshold the user gives. For a
            # residual it is not rare: only what a rule removed is suspected then.
            candidates = candidates | (score > _SUSPICIOUS_SHARE * card.healthy_levels[kind])
        if card.modalities[0] == GROWS_IN:
            found = grow(found, image, stack.brain, stack.spacing, options.growth)
        suspected = suspected_pixels(
            candidates & stack.brain,
            found,
            stack.spacing,
            margin_mm=options.boundary_mm,
            min_size_ml=options.min_size_ml,
        )
        suspicion = history.suspicion(suspected, score, threshold_clause(mixture, threshold))
    return Outline(kind, score, inside, mixture, threshold, found, suspicion)


def lesion_posterior(mixture: Mixture, healthy_threshold: float) -> np.ndarray:
    """Posterior of the lesion component, (N, H, W); 0 if its mean does not exceed the healthy threshold."""
    posterior = mixture.posterior[mixture.lesion]
    return posterior if mixture.means[mixture.lesion] > healthy_threshold else np.zeros_like(posterior)


def lesion_score(
    stack: Stack, reconstruction: Reconstruction, kind: Score, options: SegmentationOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels in which lesions are searched, (N, H, W) bool, and their score after the median filter, (N, H, W)."""
    inside, score = _unfiltered_score(stack, reconstruction, kind, options)
    return inside, smooth(score, inside, options.median_of(kind))


def _unfiltered_score(
    stack: Stack, reconstruction: Reconstruction, kind: Score, options: SegmentationOptions
) -> tuple[np.ndarray, np.ndarray]:
    images = reconstruction.images
    if options.match_range:
        images = match_range(images, stack.images, stack.brain)
    inside = erode(stack.brain, stack.spacing, options.erosion_of(kind))
    if options.mixture_region == "slice":
        inside = np.ones_like(inside)
    return inside, score_map(stack.images, images, kind, reconstruction.probability)


def _separated_mixture(
    score: np.ndarray, inside: np.ndarray, options: SegmentationOptions, healthy_threshold: float, kind: Score
) -> Mixture:
    """The mixture with the fewest components whose lesion component is separated; the last one if none is.

    A lesion and a larger area of a moderate probability can be in one component, which is separated from the rest but
    below the healthy threshold. So the mixtures with more components are tried then too. They count only if their
    lesion component is certain.
    """
    below = None
    for components in options.components:
        with_background = options.mixture_region == "slice"
        mixture = fit_mixture(score, inside, components, options.mixture, with_background=with_background)
        if mixture.separation < options.separation:
            continue
        mean = mixture.means[mixture.lesion]
        if below is None:
            if mean > healthy_threshold or kind != "probability":
                return mixture
            below = mixture
        elif mean >= _CERTAIN:
            return mixture
    return below or mixture


def check_modalities(scans: Sequence[object], card: ModelCard) -> None:
    """Checks that there is one scan for each modality of a model.

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
