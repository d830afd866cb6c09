"""What is suspected but not in the mask, and which rule left it out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import bounding_box
from brainseg_tf.postprocessing.lesions import Lesion, numbered_components
from brainseg_tf.postprocessing.mixture import Mixture
from brainseg_tf.postprocessing.morphology import remove_small

Reason = Literal["below_threshold", "min_size", "boundary", "inconspicuous"]
# Why a component is not in the mask, in the order of the rules.
REASONS: dict[str, str] = {
    "below_threshold": "below the detection threshold",
    "min_size": "above the detection threshold, but smaller than --min-size-ml",
    "boundary": "not bright enough in the image when the boundary was refined (--boundary-mm)",
    "inconspicuous": "not conspicuous enough: probability and contrast together are too low (--min-conspicuity)",
}
# The same as clauses, with the values that the rule compared.
_TEXTS: dict[str, str] = {
    "below_threshold": "{most} is below the detection threshold: the network's mean probability is {score:.3f}, and "
    "{threshold}",
    "min_size": "{part} is too small: {largest_ml:.3f} ml{when}, less than {least:g} ml (--min-size-ml)",
    "boundary": "{part} is not bright enough in the image: the refinement of the boundary removed it (--boundary-mm)",
    "inconspicuous": "{part} is not conspicuous enough: {conspicuity:.3f}, less than {least:g} (--min-conspicuity); "
    "after the refinement of its boundary the network's mean probability is {score:.3f}, the contrast {contrast:.3f}",
}
# A rule explains a component if it removed at least this share of it.
_LEAST_SHARE = 0.1
# Of a component of which this share is above the detection threshold, no part is named.
_NEARLY_ALL = 0.95
# The user is warned if what is suspected has at least this many times the volume of the mask.
_MUCH_MORE = 2.0
_NEIGHBOURS = np.ones((3, 3, 3))


@dataclass(frozen=True)
class Suspect(Lesion):
    """A connected component of what is suspected.

    Attributes:
        reason: why it is not in the mask, a key of ``REASONS``: the last rule that removed a tenth of it or more.
        explanation: the same as a clause, with the values that the rule compared.
    """

    reason: Reason
    explanation: str


class Explanation(NamedTuple):
    """``reason`` and ``explanation`` of a ``Suspect``."""

    reason: Reason
    text: str


class Suspicion(NamedTuple):
    """What is suspected on the model's slices.

    Attributes:
        components: (N, H, W) int, the number of the connected component (26 neighbours), from 1; 0 outside.
        explanations: of each component, in that order.
    """

    components: np.ndarray
    explanations: list[Explanation]


class _Removal(NamedTuple):
    reason: Reason
    pixels: np.ndarray
    values: dict[str, np.ndarray | float | str]


class History:
    """What each rule removed from a mask.

    Args:
        found: (N, H, W) bool, the mask before the first rule.
        voxel_ml: volume of a voxel in millilitres.
    """

    def __init__(self, found: np.ndarray, voxel_ml: float) -> None:
        self._found, self._voxel_ml = found, voxel_ml
        self._removals: list[_Removal] = []

    def keep(self, kept: np.ndarray, reason: Reason, **values: np.ndarray | float | str) -> np.ndarray:
        """Records a rule that replaces the mask.

        Args:
            kept: (N, H, W) bool, the new mask.
            reason: why the rest was removed.
            **values: of the explanation: maps (N, H, W), which are averaged over what was removed, numbers or texts.

        Returns:
            ``kept``.
        """
        self._removals.append(_Removal(reason, self._found & ~kept, dict(values)))
        self._found = kept
        return kept

    def suspicion(self, suspected: np.ndarray, score: np.ndarray, threshold: str) -> Suspicion:
        """Explains what is suspected.

        Args:
            suspected: (N, H, W) bool.
            score: (N, H, W).
            threshold: a clause that says what the score of a lesion must exceed.
        """
        components, count = ndimage.label(suspected, _NEIGHBOURS)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        # What no rule removed was never in the mask.
        never = _Removal("below_threshold", suspected, {"score": score, "threshold": threshold})
        removals = [never, *self._removals]
        removed = np.array([np.bincount(components[one.pixels], minlength=count + 1) for one in removals])
        above = removed[1:].sum(axis=0).clip(max=sizes)
        explanations = []
        for one in range(1, count + 1):
            reason = int(np.flatnonzero(removed[:, one] >= _LEAST_SHARE * sizes[one])[-1])
            share = above[one] / sizes[one]
            part = "it" if share >= _NEARLY_ALL else f"its part above the detection threshold ({share:.0%})"
            most = "most of it" if above[one] else "it"
            explanations.append(self._explain(components == one, removals[reason], part=part, most=most))
        return Suspicion(components, explanations)

    def _explain(self, component: np.ndarray, removal: _Removal, **texts: str) -> Explanation:
        """The explanation for a component, (N, H, W) bool, by the values in what the rule removed there."""
        parts, _ = ndimage.label(removal.pixels, _NEIGHBOURS)
        there = np.isin(parts, np.unique(parts[component & removal.pixels]))
        values = {
            name: float(value[there].mean()) if isinstance(value, np.ndarray) else value
            for name, value in removal.values.items()
        }
        largest_ml = float(np.bincount(parts[there]).max() * self._voxel_ml)
        return Explanation(removal.reason, _TEXTS[removal.reason].format(**values, **texts, largest_ml=largest_ml))


def threshold_clause(mixture: Mixture, healthy_threshold: float) -> str:
    """A clause that says what the score of a lesion must exceed."""
    lesion = float(mixture.means[mixture.lesion])
    if lesion <= healthy_threshold:
        return (
            f"the mean of the mixture's lesion component, {lesion:.3f}, does not exceed {healthy_threshold:.3g} "
            "(--healthy-threshold)"
        )
    means = [f"{mean:.2f}" for number, mean in enumerate(mixture.means) if number != mixture.lesion]
    return (
        f"the mixture assigns it to healthy tissue (mean {' and '.join(means)}) and not to lesion (mean {lesion:.2f})"
    )


def suspected_pixels(
    candidates: np.ndarray,
    found: np.ndarray,
    spacing: tuple[float, float, float],
    *,
    margin_mm: float,
    min_size_ml: float,
) -> np.ndarray:
    """What is abnormal but not in the mask: candidates that a rule removed or that the mixture did not separate.

    Args:
        candidates, found: (N, H, W) bool, abnormal pixels in the brain, and the mask.
        spacing: millimetres along each axis.
        margin_mm: width of the mask's surroundings, which are left out: a score fades over some millimetres.
        min_size_ml: smaller components are left out, in millilitres.

    Returns:
        (N, H, W) bool.
    """
    candidates = candidates & ~found
    if found.any():
        box = bounding_box(found, [math.ceil(margin_mm / step) for step in spacing])
        candidates[box] &= ndimage.distance_transform_edt(~found[box], spacing) > margin_mm
    return remove_small(candidates, math.prod(spacing) / 1000.0, min_size_ml)


def suspects(
    suspected: np.ndarray, components: Sequence[Lesion], explained: np.ndarray, explanations: Sequence[Explanation]
) -> list[Suspect]:
    """Adds the explanations to the components on the scan's grid.

    Args:
        suspected: (X, Y, Z) bool.
        components: of it, see ``lesions``.
        explained: (X, Y, Z), the number of the explanation of each voxel, from 1.
        explanations: of ``Suspicion``.
    """
    numbers = numbered_components(suspected)
    found = []
    for number, one in enumerate(components, start=1):
        # Resampling can join components; the explanation is that of the larger one.
        votes = np.bincount(explained[numbers == number].astype(int), minlength=len(explanations) + 1)
        reason, text = explanations[int(votes[1:].argmax())]
        found.append(Suspect(**vars(one), reason=reason, explanation=text))
    return found


def suspicion_warning(scan: Volume, found: Sequence[Lesion], suspects: Sequence[Suspect]) -> str | None:
    """A sentence if the mask is empty or much smaller than what is suspected, else None.

    Args:
        scan: the scan.
        found, suspects: components of the mask and of what is suspected, largest first.
    """
    mask_ml, suspected_ml = (sum(one.ml for one in some) for some in (found, suspects))
    if not suspects or suspected_ml < _MUCH_MORE * mask_ml:
        return None
    place = ", ".join(f"{value:.0f}" for value in suspects[0].centroid_mm)
    what = f"the mask has {mask_ml:.1f} ml" if found else "no lesion found"
    which = "it" if len(suspects) == 1 else f"the largest of {len(suspects)} components"
    return (
        f"{scan.path}: {what}; {suspected_ml:.1f} ml suspected near ({place}) mm, see --save-suspicion; {which} is not "
        f"in the mask because {suspects[0].explanation}"
    )
