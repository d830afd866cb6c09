"""Rough affine alignment of a brain with the MNI template, from the shape of its brain mask alone.

It does not depend on the contrast of the scan, and needs no further package. It is good for naming a lobe and for
comparing patients, not for voxel-wise statistics: ``benchmarks/regions.py`` measures its error.
"""

from functools import cache
from importlib.resources import files
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.brain.head_alignment import head_axes
from brainseg_tf.masks import some_voxels

FILE = "template.npz"
# Limits of a reliable alignment: the error in millimetres, and the share of the surface that is cut off.
LARGEST_ERROR_MM, LARGEST_CUT = 4.5, 0.1
# Fewest points on a surface that can be aligned.
_FEWEST_POINTS = 100
# Smaller voxels are left out until those that remain have about this size, in millimetres.
_COARSE_MM = 2.0
# Number of points on the surface of a brain, and of iterations.
_POINTS, _ITERATIONS = 2_000, 60
# Residuals above this distance have less influence, in millimetres: brain masks end at different heights of the
# brainstem, and leave out or include the meninges.
_OUTLIER_MM = 4.0
# Penalties that keep the fit of an incomplete brain reasonable: a rotation of 20 degrees or a factor of 1.2 to the mean
# size costs as much as an error of one outlier distance at this share of the points.
_ROTATION_DEG, _SCALE, _PENALTY = 20.0, 0.18, 0.2


class Template(NamedTuple):
    """The brain of the MNI ICBM 152 template.

    Attributes:
        brain: (X, Y, Z) bool.
        affine: (4, 4), voxel indices to MNI space in millimetres.
        distance: (X, Y, Z), signed distance to its surface in millimetres, negative inside.
    """

    brain: np.ndarray
    affine: np.ndarray
    distance: np.ndarray


class TemplateAlignment(NamedTuple):
    """A rough affine alignment with the template.

    Attributes:
        matrix: (4, 4), from millimetres in RAS world space to millimetres in MNI space.
        error_mm: median distance between the two brains' surfaces after it; None if the brain has no surface.
        cut_share: share of the brain's surface that is cut off by the edge of the scan.
    """

    matrix: np.ndarray
    error_mm: float | None
    cut_share: float

    @property
    def agrees(self) -> bool:
        """Whether the surfaces agree, so that the sides of the head are known."""
        return self.error_mm is not None and self.error_mm <= LARGEST_ERROR_MM

    @property
    def is_reliable(self) -> bool:
        """Whether places in MNI space can be named: the surfaces agree, and the brain is nearly complete."""
        return self.agrees and self.cut_share <= LARGEST_CUT


@cache
def template() -> Template:
    """The template that is in the package."""
    with files("brainseg_tf.brain").joinpath(FILE).open("rb") as file, np.load(file) as stored:
        affine, shape = stored["affine"], tuple(stored["shape"])
        brain = np.unpackbits(stored["brain"], count=int(np.prod(shape))).reshape(shape).astype(bool)
    step = float(affine[0, 0])
    outside, inside = (ndimage.distance_transform_edt(one, step) for one in (~brain, brain))
    return Template(brain, affine, (outside - inside).astype(np.float32))


def to_template(brain: np.ndarray, affine: np.ndarray) -> TemplateAlignment:
    """The affine movement from a scan's world space to MNI space.

    The surface of the brain is brought to that of the template by a translation, a rotation and a scaling along the
    three axes of the head (9 parameters), by least squares of the distances with a soft L1 loss. Where the brain is cut
    off by the edge of the scan, it has no surface.

    Args:
        brain: (X, Y, Z) bool, with axes that are LPS as nearly as the grid allows. Not empty.
        affine: (4, 4), voxel indices to millimetres in RAS world space.
    """
    from scipy.optimize import least_squares

    steps = np.maximum(1, _COARSE_MM // nib.affines.voxel_sizes(affine) + 0.01).astype(int)
    coarse = brain[tuple(slice(None, None, step) for step in steps)]
    if coarse.any():
        brain, affine = coarse, affine @ np.diag([*steps, 1])
    points, cut_share = _surface(brain)
    surface = nib.affines.apply_affine(affine, points)
    target = template()
    # From left, posterior, superior to right, anterior, superior.
    axes = head_axes(brain, affine) * [-1, -1, 1]
    inside = nib.affines.apply_affine(affine, some_voxels(brain, _POINTS))
    centre = inside.mean(axis=0)
    local = (surface - centre) @ axes
    middle = nib.affines.apply_affine(target.affine, np.argwhere(target.brain)).mean(axis=0)
    to_index = np.linalg.inv(target.affine)

    def moved(parameters: np.ndarray) -> np.ndarray:
        rotation = Rotation.from_rotvec(parameters[3:6]).as_matrix()
        return local @ (rotation * np.exp(parameters[6:])[:, None]).T + middle + parameters[:3]

    def distances(parameters: np.ndarray) -> np.ndarray:
        index = nib.affines.apply_affine(to_index, moved(parameters)).T
        distance = ndimage.map_coordinates(target.distance, index, order=1, mode="nearest")
        # Beyond the template's grid the distance grows further.
        limit = np.array(target.brain.shape)[:, None] - 1
        beyond = np.linalg.norm(index - np.clip(index, 0, limit), axis=0) * target.affine[0, 0]
        return distance + beyond

    def residuals(parameters: np.ndarray) -> np.ndarray:
        unlikely = np.concatenate([parameters[3:6] / np.radians(_ROTATION_DEG), parameters[6:] / _SCALE])
        # Repeated instead of weighted, because the loss is linear for large residuals.
        penalty = np.repeat(_OUTLIER_MM * unlikely, max(1, round(_PENALTY * len(surface))))
        return np.concatenate([distances(parameters), penalty])

    if len(surface) < _FEWEST_POINTS:
        # Only the centre and the axes are known.
        return TemplateAlignment(_matrix(np.zeros(9), axes, centre, middle), None, cut_share)
    found = least_squares(
        residuals,
        np.zeros(9),
        x_scale=np.array([5.0] * 3 + [0.1] * 6),
        loss="soft_l1",
        f_scale=_OUTLIER_MM,
        max_nfev=_ITERATIONS,
    ).x
    error_mm = float(np.median(np.abs(distances(found))))
    return TemplateAlignment(_matrix(found, axes, centre, middle), error_mm, cut_share)


def _matrix(parameters: np.ndarray, axes: np.ndarray, centre: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The movement from world space to MNI space, (4, 4).

    Args:
        parameters: translation in millimetres, rotation vector, logarithms of the scales.
        axes: (3, 3), right, anterior and superior directions of the head in its columns.
        centre, middle: of the brain in world space, and of the template.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = (Rotation.from_rotvec(parameters[3:6]).as_matrix() * np.exp(parameters[6:])[:, None]) @ axes.T
    matrix[:3, 3] = middle + parameters[:3] - matrix[:3, :3] @ centre
    return matrix


def coverage(shape: tuple[int, ...], affine: np.ndarray, matrix: np.ndarray) -> float:
    """The share of the template's brain that lies within the field of view of a scan.

    Args:
        shape: (X, Y, Z) of the scan.
        affine: (4, 4) of the scan.
        matrix: of ``to_template``.
    """
    target = template()
    world = nib.affines.apply_affine(np.linalg.inv(matrix @ affine) @ target.affine, np.argwhere(target.brain))
    return float(((world > -0.5) & (world < np.array(shape) - 0.5)).all(axis=1).mean())


def _surface(brain: np.ndarray) -> tuple[np.ndarray, float]:
    """Indices of points on the surface of a brain, (points, 3), and the share of it that the edge of the scan cuts off.

    Where the edge cuts the brain, it has no points.
    """
    points = np.argwhere(brain & ~ndimage.binary_erosion(brain, border_value=1)).astype(float)
    faces = (np.take(brain, end, axis) for axis in range(3) for end in (0, -1))
    cut = sum(int(face.sum()) for face in faces)
    return points[:: max(1, len(points) // _POINTS)], cut / max(1, cut + len(points))
