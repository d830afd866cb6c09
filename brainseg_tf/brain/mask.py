"""Brain masks: computed from a skull-stripped scan, or given by the user and checked."""

import numpy as np
from scipy import ndimage

from brainseg_tf.errors import InputError
from brainseg_tf.images.background import find_background, foreground_mask, head_mask
from brainseg_tf.images.volume import Volume

# The largest brains that were measured are below 2100 ml. A head with skull and neck is larger.
LARGEST_BRAIN_ML = 2200.0
# A given brain mask is restricted to the head if a larger share of it is air.
_LARGEST_AIR_SHARE = 0.1


def find_brain(scan: Volume, given: np.ndarray | None = None) -> tuple[np.ndarray, list[str]]:
    """Finds the brain in a scan.

    Args:
        scan: the scan.
        given: (X, Y, Z) bool, a brain mask from the user; without it the scan must be skull-stripped.

    Returns:
        The brain mask, (X, Y, Z) bool; and warnings if the mask seems to include more than the brain.

    Raises:
        InputError: there is no brain.
    """
    if given is None:
        brain = brain_mask(scan)
        warnings = [skull_warning(scan, brain)]
    else:
        brain, air_warning = cut_to_head(given, scan)
        warnings = [air_warning, volume_warning(scan, brain)]
    return brain, [warning for warning in warnings if warning]


def brain_mask(volume: Volume) -> np.ndarray:
    """The brain mask of a skull-stripped scan, (X, Y, Z) bool.

    The mask is the largest component of the voxels that differ from the background, with holes filled. If the border of
    the scan is not uniform, an Otsu threshold separates foreground and background.

    Raises:
        InputError: no brain was found.
    """
    mask = foreground_mask(volume.data)
    labels, count = ndimage.label(mask)
    if count > 1:
        mask = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    mask = ndimage.binary_fill_holes(mask)
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


def volume_warning(volume: Volume, brain: np.ndarray) -> str | None:
    """A warning if a brain mask is larger than any brain, else None."""
    ml = brain.sum() * volume.voxel_ml
    if ml <= LARGEST_BRAIN_ML:
        return None
    return (
        f"{volume.path}: the brain mask has {ml:.0f} ml, more than any brain, so the lesion mask is probably wrong; "
        "check --brain-mask"
    )


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
        f"{volume.path}: the scan seems not to be skull-stripped ({reason}), so the mask is probably wrong; give "
        "--skull-strip with an external tool (HD-BET, SynthStrip), or --brain-mask"
    )
