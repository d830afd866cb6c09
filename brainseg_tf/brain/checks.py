"""Checks whether a brain mask can be that of a brain: its volume, its shape, and whether the field of view cuts it."""

import numpy as np

from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import some_voxels

# Brain volumes that were measured in adults and children are between these.
SMALLEST_BRAIN_ML, LARGEST_BRAIN_ML = 600.0, 2200.0
# The brain is cut off if its section at a side of the field of view is larger than this. That of the brain stem is not.
_LARGEST_SECTION_MM2 = 1500.0
# Number of voxels on which the shape is measured.
_SAMPLES = 6_000
# The share of a brain that is also brain when mirrored: along the left-right axis above 0.95, along the others below.
_SYMMETRIC, _MARGIN = 0.95, 0.03
# A brain is longer (from anterior to posterior) than high, by a factor of about 1.2; BraTS 2013_20, which the field of
# view cuts at the front and back, by 0.94. With the two axes exchanged the factor is about 0.83.
_LENGTH_TO_HEIGHT = 0.9
# Where the centre of a brain is between its ends: from anterior to posterior at 0.51 to 0.55 of the length, from
# inferior to superior at 0.50 to 0.57 of the height (30 BraTS patients and 59 heads). The ends are the first and the
# last section with at least a fiftieth of the largest area. 90 % of the brains that are turned over are beyond the
# second limit, all of those that are turned back to front beyond the first.
_LEAST_POSTERIOR, _LEAST_SUPERIOR, _END_SECTION = 0.5, 0.485, 0.02
# Air in CT images has about -1000 Hounsfield units.
_AIR_HU, _HU_TOLERANCE = -1000.0, 100.0


def mask_warnings(scan: Volume, brain: np.ndarray) -> list[str]:
    """Warnings about a brain mask that is not like that of a brain, and about a scan that is not like an MR image.

    Args:
        scan: the scan.
        brain: (X, Y, Z) bool, on its grid.
    """
    found = [_about_volume(scan, brain)]
    sides = cut_sides(scan, brain)
    if sides:
        found.append(f"the field of view cuts off the brain ({', '.join(sides)})")
    else:
        found.append(_about_shape(scan, brain))
    if is_ct(scan):
        found.append("the values look like Hounsfield units of a CT; the networks were trained on MR images")
    return [f"{scan.path}: {text}" for text in found if text]


def is_ct(scan: Volume) -> bool:
    """Whether the values look like Hounsfield units: the smallest is that of air."""
    return abs(float(scan.data.min()) - _AIR_HU) < _HU_TOLERANCE


def cut_sides(scan: Volume, brain: np.ndarray) -> list[str]:
    """The sides at which the field of view cuts off the brain: right, left, anterior, posterior, inferior, superior."""
    names = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
    found = []
    for axis, sides in enumerate(names):
        pixel = float(np.prod(np.delete(scan.spacing, axis)))
        for index, side in zip((0, -1), sides, strict=True):
            if np.count_nonzero(brain.take(index, axis)) * pixel > _LARGEST_SECTION_MM2:
                found.append(side)
    return found


def _about_volume(scan: Volume, brain: np.ndarray) -> str | None:
    ml = np.count_nonzero(brain) * scan.voxel_ml
    if SMALLEST_BRAIN_ML <= ml <= LARGEST_BRAIN_ML:
        return None
    than = "less than a whole" if ml < SMALLEST_BRAIN_ML else "more than any"
    return (
        f"the brain mask has {ml:.0f} ml, {than} brain, so the lesion mask may be wrong; check the brain mask "
        "(--save-brain-mask), or give one with --brain-mask"
    )


def _about_shape(scan: Volume, brain: np.ndarray) -> str | None:
    """A sentence about a mask with the shape of a phantom, or of a head in another position; None for a brain's."""
    if np.count_nonzero(brain) < 1000:
        return None
    index = some_voxels(brain, _SAMPLES)
    left_right, *others = (_mirrored_share(brain, index, axis) for axis in range(3))
    if min(left_right, *others) > _SYMMETRIC:
        return "what was found has the shape of a phantom, not of a brain; check that the scan shows a head"
    _, length, height = (float(np.ptp(index[:, axis])) * step for axis, step in enumerate(scan.spacing))
    if max(others) > left_right + _MARGIN or length < _LENGTH_TO_HEIGHT * height:
        return (
            f"the brain is {length:.0f} mm long and {height:.0f} mm high, or symmetric about another plane than that "
            "between left and right; the orientation or the voxel sizes in the header may be wrong"
        )
    turned = [
        name
        for axis, least, name in ((1, _LEAST_POSTERIOR, "back to front"), (2, _LEAST_SUPERIOR, "upside down"))
        if _centre_between_ends(brain, axis) < least
    ]
    if turned:
        return f"the brain seems to be {' and '.join(turned)}; the orientation in the header may be wrong"
    return None


def _centre_between_ends(brain: np.ndarray, axis: int) -> float:
    """Position of the centre of mass between the ends of the brain along an axis: 0 at the first, 1 at the last one."""
    areas = np.count_nonzero(brain, axis=tuple(other for other in range(3) if other != axis))
    sections = np.flatnonzero(areas >= _END_SECTION * areas.max())
    first, last = sections[0], sections[-1]
    if first == last:
        return 0.5
    positions = (np.arange(first, last + 1) - first) / (last - first)
    return float(np.average(positions, weights=areas[first : last + 1]))


def _mirrored_share(brain: np.ndarray, index: np.ndarray, axis: int) -> float:
    """The share of voxels that are in the brain too when mirrored along an axis at the brain's centre."""
    mirrored = index.astype(float)
    mirrored[:, axis] = 2 * index[:, axis].mean() - index[:, axis]
    mirrored = np.rint(mirrored).astype(int)
    inside = ((mirrored >= 0) & (mirrored < np.array(brain.shape))).all(axis=1)
    return float(np.count_nonzero(brain[tuple(mirrored[inside].T)]) / len(index))
