"""The scans of a patient of a cohort, and random views of them: other directions of the slices, and thick slices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from brainseg_tf.brain.checks import is_ct
from brainseg_tf.brain.mask import find_brain
from brainseg_tf.brain.network import BrainNetwork
from brainseg_tf.errors import InputError
from brainseg_tf.images.registration import bring_to
from brainseg_tf.images.volume import Volume, has_same_grid, read_mask, read_segmentation, read_volume
from brainseg_tf.slices import check_coverage
from brainseg_tf.training.cohort import Patient

# Largest rotation of a view about the left, posterior and superior axis, in degrees. A prediction corrects rotations
# about the other axes than the first (``brain.head_alignment``), but not all of them.
_LARGEST_ROTATION = np.array([20.0, 10.0, 8.0])
# Share of the views with thick slices, and their range in millimetres.
_THICK_SHARE, _THICKNESS_MM = 0.5, (2.0, 6.0)


@dataclass(frozen=True)
class PatientScans:
    """What is known of a patient.

    Attributes:
        volumes: one per modality, on one grid.
        brain, truth: (X, Y, Z) bool, on that grid; ``truth`` is None if there is no segmentation.
    """

    volumes: Sequence[Volume]
    brain: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True)
class View:
    """Scans, and the directions that they are cut into slices along.

    Attributes:
        scans: of the patient.
        rotation: (3, 3), see ``slices.to_stack``; None for the axes of the head.
    """

    scans: PatientScans
    rotation: np.ndarray | None = None


def read_patient(patient: Patient) -> PatientScans:
    """Reads the scans of a patient. The brain is found as in a prediction, see ``find_brain``.

    Raises:
        InputError: a file cannot be read, there is no brain, a further modality does not cover it, or it is a CT.
    """
    first, *others = (read_volume(path) for path in patient.scans.values())
    volumes = [first, *(one if has_same_grid(one, first) else bring_to(one, first)[0] for one in others)]
    if is_ct(volumes[0]):
        raise InputError(f"{volumes[0].path}: looks like a CT (Hounsfield units); give MR images")
    truth = read_segmentation(patient.truth, volumes[0]) if patient.truth else None
    given = read_mask(patient.brain, volumes[0]) if patient.brain else None
    brain = find_brain(volumes[0], given=given, network=None if patient.brain else _brain_network)
    check_coverage(volumes, brain.mask)
    return PatientScans(volumes, brain.mask, truth)


@lru_cache(maxsize=1)
def _brain_network() -> BrainNetwork:
    from brainseg_tf.saved_model import shipped_brain_network

    return shipped_brain_network().load()


def random_views(scans: PatientScans, name: str, count: int) -> Iterator[View]:
    """The scans along the axes of the head, then in random directions, some of them with thick slices.

    The same patient gives the same views.

    Args:
        scans: of a patient.
        name: of the patient.
        count: number of views.
    """
    yield View(scans)
    for number in range(1, count):
        random = np.random.default_rng([number, *name.encode("utf-8", "surrogateescape")])
        angles = random.uniform(-_LARGEST_ROTATION, _LARGEST_ROTATION)
        seen = scans
        if random.random() < _THICK_SHARE:
            # Most scans with thick slices are axial.
            axis = int(random.choice(3, p=(0.15, 0.15, 0.7)))
            seen = thick_slices(scans, axis, random.uniform(*_THICKNESS_MM))
        yield View(seen, Rotation.from_euler("xyz", angles, degrees=True).as_matrix())


def thick_slices(scans: PatientScans, axis: int, thickness_mm: float) -> PatientScans:
    """The scans with thicker slices: each is the mean of neighbouring slices. Those left over at the end are dropped.

    Scans whose slices are as thick already are not changed.

    Args:
        scans: of a patient.
        axis: of the grid, along which the slices are joined.
        thickness_mm: thickness of the new slices in millimetres; rounded to whole slices.
    """
    count = round(thickness_mm / scans.volumes[0].spacing[axis])
    if count < 2:
        return scans

    def blocks(values: np.ndarray) -> np.ndarray:
        along = np.moveaxis(values, axis, 0)
        whole = len(along) // count
        return np.moveaxis(along[: whole * count].reshape(whole, count, *along.shape[1:]), (0, 1), (axis, -1))

    step, centre = np.ones(4), np.zeros(4)
    step[axis], centre[axis] = count, (count - 1) / 2
    to_fine = np.diag(step)
    to_fine[:, 3] += centre
    volumes = [
        replace(volume, data=blocks(volume.data).mean(axis=-1), affine=volume.affine @ to_fine)
        for volume in scans.volumes
    ]
    truth = None if scans.truth is None else blocks(scans.truth).max(axis=-1)
    return PatientScans(volumes, blocks(scans.brain).mean(axis=-1) > 0.5, truth)
