"""The brain mask of a scan: given, taken from a stripped scan, found by the brain network, or made by another tool."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from brainseg_tf.brain.checks import LARGEST_BRAIN_ML, SMALLEST_BRAIN_ML, mask_warnings
from brainseg_tf.brain.network import BrainNetwork, NetworkMask, network_mask
from brainseg_tf.brain.tools import strip
from brainseg_tf.errors import InputError
from brainseg_tf.images.background import find_background, foreground_mask, head_mask
from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import fill_holes, largest_component

# How the brain is found without a mask or a tool, see ``find_brain``.
METHODS = ("auto", "stripped", "network")
Source = Literal["given", "tool", "stripped", "cleaned", "network"]

# A given brain mask is restricted to the head if a larger share of it is air.
_LARGEST_AIR_SHARE = 0.1
# A mask is loose if a larger share of it is more than this distance outside what the network finds. Masks of different
# tools differ by less.
_LOOSE_SHARE, _MARGIN_MM = 0.1, 6.0
# Mean probabilities of the network's mask below this mean that the image is not like any head it has seen.
_LEAST_CERTAINTY = 0.9
# A network's mask that is less than a whole brain, and less than this share of another mask, is a part of the brain.
_LEAST_PART = 0.5


@dataclass(frozen=True)
class Brain:
    """A brain mask, and where it comes from.

    Attributes:
        mask: (X, Y, Z) bool, on the grid of the scan.
        source: given: by the user; tool: by a skull-stripping tool; stripped: what is not background in a
            skull-stripped scan; cleaned: the same without what the network does not take for brain; network: what the
            brain network found.
        warnings: sentences for the user.
    """

    mask: np.ndarray
    source: Source
    warnings: list[str] = field(default_factory=list)


def find_brain(
    scan: Volume,
    *,
    given: np.ndarray | None = None,
    method: str = "auto",
    network: Callable[[], BrainNetwork | None] | None = None,
) -> Brain:
    """Finds the brain in a scan.

    Args:
        scan: the scan.
        given: (X, Y, Z) bool, a brain mask from the user.
        method: if no mask is given: ``stripped``: what is not background; ``network``: the brain network's mask;
            ``auto``: the first for a skull-stripped scan, else the second; or a skull-stripping tool, see
            ``tools.strip``.
        network: loads the brain network; gives None if a server does not have it. Without it nothing is compared with
            the network's mask, and ``auto`` is ``stripped``.

    Raises:
        InputError: there is no brain, or the tool fails.
    """
    source: Source = "given"
    if given is None and method not in METHODS:
        given, source = strip(method, scan), "tool"
    loaded = None if network is None or method == "stripped" else network()
    if loaded is None and method == "network":
        raise InputError(
            "--brain network: there is no brain network; add it to the server with brainseg-tf export brain, or give a "
            "brain mask with --brain-mask"
        )
    found = None if loaded is None else network_mask(scan, loaded)
    if given is not None:
        brain = _checked(given, scan, found, source)
    elif found is None:
        brain = Brain(brain_mask(scan), "stripped")
        warning = skull_warning(scan, brain.mask)
        if warning:
            return replace(brain, warnings=[warning])
    elif method == "auto" and (foreground := stripped_brain(scan)) is not None:
        brain = _cleaned(foreground, scan, found)
    else:
        brain = _from_network(scan, found)
    return replace(brain, warnings=[*brain.warnings, *mask_warnings(scan, brain.mask)])


def stripped_brain(scan: Volume) -> np.ndarray | None:
    """The brain mask of a scan that seems to be skull-stripped, (X, Y, Z) bool; None if it seems to have a skull.

    A stripped scan has a constant background, and not more tissue than a brain.
    """
    background = find_background(scan.data)
    if background is None:
        return None
    mask = _largest_foreground(scan, background)
    return mask if np.count_nonzero(mask) * scan.voxel_ml <= LARGEST_BRAIN_ML else None


def brain_mask(volume: Volume) -> np.ndarray:
    """The brain mask of a skull-stripped scan, (X, Y, Z) bool.

    The mask is the largest component of the voxels that differ from the background, with holes filled. If the border of
    the scan is not uniform, an Otsu threshold separates foreground and background.

    Raises:
        InputError: no brain was found.
    """
    return _largest_foreground(volume, find_background(volume.data))


def _largest_foreground(volume: Volume, background: tuple[float, float] | None) -> np.ndarray:
    """As ``brain_mask``, with what ``find_background`` found."""
    mask = fill_holes(largest_component(foreground_mask(volume.data, background)))
    if mask.sum() < 8:
        raise InputError(f"{volume.path}: no brain found in the scan; give a brain mask with --brain-mask")
    return mask


def cut_to_head(brain: np.ndarray, volume: Volume) -> tuple[np.ndarray, str | None]:
    """Removes air from a brain mask.

    The normalisation and the healthy threshold assume brain tissue. Air in the mask shifts both, so that healthy tissue
    is segmented as a lesion.

    Args:
        brain: (X, Y, Z) bool, the brain mask.
        volume: the scan.

    Returns:
        The mask, unchanged if at most a tenth of it is air; and a warning if it was changed, else None.

    Raises:
        InputError: the mask and the head do not overlap.
    """
    inside = brain & head_mask(volume.data)
    air = 1 - np.count_nonzero(inside) / np.count_nonzero(brain)
    if air <= _LARGEST_AIR_SHARE:
        return brain, None
    if not inside.any():
        raise InputError(f"{volume.path}: the brain mask covers only background; check --brain-mask")
    return inside, f"{volume.path}: {air:.0%} of the brain mask is background, which was removed; check --brain-mask"


def skull_warning(volume: Volume, brain: np.ndarray) -> str | None:
    """A warning if a scan seems not to be skull-stripped, else None."""
    ml = brain.sum() * volume.voxel_ml
    if ml > LARGEST_BRAIN_ML:
        reason = f"{ml:.0f} ml of tissue, more than any brain"
    elif find_background(volume.data) is None:
        reason = "the background is not constant"
    else:
        return None
    return (
        f"{volume.path}: the scan seems not to be skull-stripped ({reason}), so the mask is probably wrong; find "
        "the brain with --brain auto (a server needs the model brain for it), or give --brain-mask"
    )


def _checked(given: np.ndarray, scan: Volume, found: NetworkMask | None, source: Source) -> Brain:
    """A given mask without air, and without what is far outside the network's mask if that is much."""
    mask, air_warning = cut_to_head(given, scan)
    warnings = [air_warning] if air_warning else []
    loose = 0.0 if found is None else _share_outside(mask, found, scan)
    if found is not None and loose > _LOOSE_SHARE:
        outside = f"{scan.path}: {loose:.0%} of the brain mask is outside the brain that the brain network finds"
        if doubt := _doubt(found, mask, scan):
            return Brain(
                mask, source, [*warnings, f"{outside}, but {doubt}, so nothing was removed; check --brain-mask"]
            )
        mask = mask & found.mask
        if not mask.any():
            raise InputError(f"{outside}; check --brain-mask; --brain stripped does not compare it with the network")
        warnings.append(f"{outside}, and was removed; check --brain-mask; --brain stripped keeps it")
    return Brain(mask, source, warnings)


def _cleaned(foreground: np.ndarray, scan: Volume, found: NetworkMask) -> Brain:
    """What is not background in a stripped scan, without orbits, dura and skull if there are remains of them."""
    if not found.mask.any():
        warning = f"{scan.path}: the brain network finds no brain in this scan, so the mask may be meaningless"
        return Brain(foreground, "stripped", [warning])
    remains = _share_outside(foreground, found, scan)
    if remains <= _LOOSE_SHARE:
        return Brain(foreground, "stripped")
    outside = f"{scan.path}: {remains:.0%} of what is not background is outside the brain that the brain network finds"
    if doubt := _doubt(found, foreground, scan):
        return Brain(foreground, "stripped", [f"{outside}, but {doubt}, so nothing was removed; see --brain network"])
    return Brain(foreground & found.mask, "cleaned", [f"{outside}, and was removed; --brain stripped keeps it"])


def _doubt(found: NetworkMask, other: np.ndarray, scan: Volume) -> str | None:
    """Why the network's mask may be worse than another one; None if it may overrule that.

    In slabs, and in images unlike those that it has learned from, the network finds parts of the brain only.
    """
    size = np.count_nonzero(found.mask)
    if found.certainty < _LEAST_CERTAINTY:
        return f"the network is uncertain (mean probability {found.certainty:.2f})"
    if size * scan.voxel_ml < SMALLEST_BRAIN_ML and size < _LEAST_PART * np.count_nonzero(other):
        return f"it finds {size * scan.voxel_ml:.0f} ml only"
    return None


def _from_network(scan: Volume, found: NetworkMask) -> Brain:
    if np.count_nonzero(found.mask) < 8:
        raise InputError(
            f"{scan.path}: the brain network finds no brain in the scan; check that it shows a head, or give a brain "
            "mask with --brain-mask"
        )
    warnings = []
    if found.certainty < _LEAST_CERTAINTY:
        warnings.append(
            f"{scan.path}: the brain network is uncertain (mean probability {found.certainty:.2f}), so the brain mask "
            "may be wrong; check it (--save-brain-mask), or give one with --brain-mask"
        )
    return Brain(found.mask, "network", warnings)


def _share_outside(mask: np.ndarray, found: NetworkMask, scan: Volume) -> float:
    """The share of a mask that is outside the network's mask by more than the margin."""
    outside = mask & ~found.mask
    size = np.count_nonzero(mask)
    # Measuring distances takes a second; most masks agree.
    if not size or np.count_nonzero(outside) <= _LOOSE_SHARE * size:
        return 0.0
    if not found.mask.any():
        return 1.0
    distance = ndimage.distance_transform_edt(~found.mask, scan.spacing)
    return float(np.count_nonzero(outside & (distance > _MARGIN_MM)) / size)
