"""The brain mask of a scan: given with it, or found in a scan whose skull was removed."""

import numpy as np
from scipy import ndimage

from brainseg_tf.errors import InputError
from brainseg_tf.images.background import find_background, foreground, head
from brainseg_tf.images.volume import Volume

# The largest brains measured are below 2100 ml; a head with skull and neck is larger.
LARGEST_BRAIN_ML = 2200.0
# A given brain mask of which more than this share is air is restricted to the head.
_MOST_AIR = 0.1


def find_brain(scan: Volume, given: np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
    """The brain in a scan, (X, Y, Z) bool, and warnings if it cannot be the brain alone.

    Args:
        scan: the scan.
        given: (X, Y, Z) bool, a brain mask that came with it; with None the scan must be skull-stripped.

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


def brain_mask(volume: Volume) -> np.ndarray:
    """The brain of a skull-stripped scan, (X, Y, Z) bool: what differs from the background, holes filled.

    A scan whose border is not uniform gets an Otsu threshold instead.

    Raises:
        InputError: nothing remains.
    """
    mask = foreground(volume.data)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    mask = ndimage.binary_fill_holes(mask)
    if mask.sum() < 8:
        raise InputError(f"{volume.path}: no brain found in it; give one with --brain-mask")
    return mask


def cut_to_head(brain: np.ndarray, volume: Volume) -> tuple[np.ndarray, str | None]:
    """Removes air from a brain mask that came with a scan.

    Normalisation and healthy level are those of brain tissue: a mask over air would shift both, and healthy tissue
    would be taken for a lesion.

    Args:
        brain: (X, Y, Z) bool.
        volume: its scan.

    Returns:
        The mask, as it was if at most a tenth of it is air; and a sentence for the user if it was changed.

    Raises:
        InputError: nothing of the mask lies in the head.
    """
    inside = brain & head(volume.data)
    air = 1 - np.count_nonzero(inside) / np.count_nonzero(brain)
    if air <= _MOST_AIR:
        return brain, None
    if not inside.any():
        raise InputError(f"{volume.path}: the brain mask covers nothing but background; check --brain-mask")
    return inside, f"{volume.path}: {air:.0%} of the brain mask is background, which was removed; check --brain-mask"


def volume_warning(volume: Volume, brain: np.ndarray) -> str | None:
    """A sentence if a brain mask is larger than any brain, else None."""
    ml = brain.sum() * volume.voxel_ml
    if ml <= LARGEST_BRAIN_ML:
        return None
    return f"{volume.path}: the brain mask has {ml:.0f} ml, more than any brain; the lesion mask will be wrong"


def skull_warning(volume: Volume, brain: np.ndarray) -> str | None:
    """A sentence if the scan looks as if it still had its skull, else None."""
    ml = brain.sum() * volume.voxel_ml
    if ml > LARGEST_BRAIN_ML:
        sign = f"{ml:.0f} ml of tissue, more than any brain"
    elif find_background(volume.data) is None:
        sign = "its background is not constant"
    else:
        return None
    return (
        f"{volume.path}: seems to have its skull still ({sign}); the mask will be wrong. "
        "Give --skull-strip with a tool of yours (HD-BET, SynthStrip), or --brain-mask"
    )
