"""Random training examples of the brain network: deformed heads, and stripped brains in random heads.

A network that has seen one contrast works on that contrast. So intensities are drawn at random, as SynthSeg (Billot
2023) and SynthStrip (Hoopes 2022) do: those of a head are mapped by a random curve, and a stripped brain is wrapped in
layers of fluid, skull and scalp of random thickness and intensity, with eyes, face and neck.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.brain.grid import block_means, normalise
from brainseg_tf.options import RandomHeadOptions

Random = np.random.Generator
# The shapes of the examples, in voxels: flat, medium and tall fields.
SHAPES = ((112, 120, 64), (96, 112, 80), (88, 104, 96))
# Stripped scans are padded by this, so that there is space for a head.
_FARTHEST_MM = 60.0
# About the edge of the voxels that examples are made from: a little smaller than those of the examples.
_VOXEL_MM = 1.6


@dataclass(frozen=True)
class Subject:
    """One scan of a subject with its brain mask, on voxels of about 1.6 mm within the slice.

    Attributes:
        image: (X, Y, Z) uint8 in LPS.
        brain: (X, Y, Z) uint8, the share of each voxel that is brain, times 255.
        spacing: (3,), millimetres.
        centre: (3,), the brain's centre of mass in voxels.
        distance: (X, Y, Z) uint8, half millimetres outside the brain, if the scan is skull-stripped; None for a head.
    """

    image: np.ndarray
    brain: np.ndarray
    spacing: np.ndarray
    centre: np.ndarray
    distance: np.ndarray | None


def reduced(scan: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A volume on voxels of about 1.6 mm, and their edges; slices that are thicker stay as they are.

    Args:
        scan: (X, Y, Z).
        spacing: (3,), millimetres.
    """
    factor = np.maximum(1, np.rint(_VOXEL_MM / spacing)).astype(int)
    return block_means(scan, factor), spacing * factor


def padding_for_head(spacing: np.ndarray) -> list[tuple[int, int]]:
    """How many voxels a stripped scan is padded by along each axis, so that there is space for a head."""
    return [(round(_FARTHEST_MM / step), round(_FARTHEST_MM / step)) for step in spacing]


def distance_outside(brain: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance from a brain's outer surface in half millimetres, 0 inside, (X, Y, Z) uint8.

    Args:
        brain: (X, Y, Z), the share of each voxel that is brain.
        spacing: (3,), millimetres.
    """
    # The skull follows the brain's outer surface, not its sulci.
    surface = ndimage.gaussian_filter(brain.astype(np.float32), 4 / spacing) > 0.4
    distance = ndimage.distance_transform_edt(~surface & (brain < 0.5), spacing)
    return np.minimum(2 * distance, 255).astype(np.uint8)


def random_example(
    subject: Subject, random: Random, options: RandomHeadOptions, voxel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """A training example.

    Args:
        subject: the subject.
        random: the source of all random numbers.
        options: what is varied.
        voxel_mm: edge of the example's voxels.

    Returns:
        Image (x, y, z) float32 in [0, 1]; the share of each voxel that is brain, (x, y, z) float32.
    """
    shape = SHAPES[random.integers(len(SHAPES))]
    if random.random() < options.no_brain:
        return normalise(_degraded(_shapes_only(random, shape), random, options)), np.zeros(shape, np.float32)
    matrix, offset = _placement(subject, random, options, shape, voxel_mm)
    warp = _Warp(matrix, offset, shape, random if random.random() < options.elastic else None)
    image, share = warp(subject.image) / 255, warp(subject.brain) / 255
    brain = share > 0.5
    if random.random() < options.blobs and brain.any():
        image = _with_blob(image, brain, random)
    if subject.distance is not None:
        inside = image
        if random.random() < options.recoloured:
            inside = _recoloured(inside, random)
        inside = inside * np.float32(random.uniform(0.4, 1.3))
        if random.random() < options.wrapped:
            head = _head(
                warp(subject.distance, outside=255) / 2,
                _positions(subject, matrix, offset, shape),
                random,
                inside[brain],
            )
            image = share * inside + (1 - share) * head
        else:
            image = np.where(share > 0.05, inside, 0)
    elif random.random() < options.recoloured:
        image = _recoloured(image, random)
    if random.random() < options.stripped and brain.any():
        # As other tools leave it: with a rim of skull, dura or orbits.
        rim = random.uniform(0, options.rim_mm) * (1 + 0.5 * _field(random, shape, 6))
        image = np.where(ndimage.distance_transform_edt(~brain, voxel_mm) <= np.maximum(rim, 0), image, 0)
        return normalise(_degraded(image, random, options, noise=False)), share
    image = normalise(_degraded(image, random, options))
    _cut_field(image, share, random, options)
    return image, share


def _placement(
    subject: Subject, random: Random, options: RandomHeadOptions, shape: tuple[int, ...], voxel_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """A random rotation, scaling and position: matrix and offset from the example's voxels to the subject's."""
    # Most heads are nearly straight.
    widest = options.rotation if random.random() < 0.3 else options.rotation / 3
    yaw, pitch, roll = random.uniform(-widest, widest, 3)
    rotation = Rotation.from_euler("ZXY", (yaw, pitch, -roll), degrees=True).as_matrix()
    scale = np.exp(random.uniform(-1, 1)) ** np.log(options.scaling) * np.exp(random.normal(0, 0.05, 3))
    if subject.distance is None or random.random() < 0.5:
        # The distance of the slices is often wrong in the header.
        scale[2] *= np.exp(random.uniform(*np.log(options.height)))
    if random.random() < 0.5:
        scale[0] *= -1
    matrix = np.diag(1 / subject.spacing) @ rotation @ np.diag(voxel_mm / scale)
    far = options.shift_mm * (3 if random.random() < options.far else 1)
    shift = random.normal(0, far, 3) * (0.6, 0.6, 1.2)
    middle = (np.array(shape) - 1) / 2 + shift / voxel_mm
    return matrix, subject.centre - matrix @ middle


class _Warp:
    """Resamples volumes of a subject to an example, the same way each time.

    Args:
        matrix, offset: from the example's voxels to the subject's.
        shape: of the example.
        random: draws an elastic deformation; None for none.
    """

    def __init__(self, matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, ...], random: Random | None) -> None:
        self._matrix, self._offset, self._shape = matrix, offset, shape
        self._coordinates: np.ndarray | None = None
        if random is not None:
            index = np.indices(shape, np.float32)
            strength = random.uniform(0.5, 2.5)
            index += np.stack([strength * _field(random, shape, 5) for _ in range(3)])
            coordinates = np.tensordot(matrix.astype(np.float32), index, 1)
            self._coordinates = coordinates + offset.astype(np.float32)[:, None, None, None]

    def __call__(self, volume: np.ndarray, outside: float = 0) -> np.ndarray:
        """The volume as float32, with a value for what is outside its field of view."""
        if self._coordinates is None:
            return ndimage.affine_transform(
                volume, self._matrix, self._offset, self._shape, np.float32, order=1, mode="constant", cval=outside
            )
        return ndimage.map_coordinates(volume, self._coordinates, np.float32, order=1, mode="constant", cval=outside)


def _positions(subject: Subject, matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Millimetres (left, posterior, superior) from the brain's centre, (3, x, y, z) float32."""
    to_mm, shift = np.diag(subject.spacing) @ matrix, subject.spacing * (offset - subject.centre)
    x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]
    rows = [row[0] * x + row[1] * y + row[2] * z + move for row, move in zip(to_mm, shift, strict=True)]
    return np.stack(rows).astype(np.float32)


def _head(distance: np.ndarray, mm: np.ndarray, random: Random, brain_values: np.ndarray) -> np.ndarray:
    """A random head around a brain.

    Args:
        distance: (x, y, z), millimetres outside the brain.
        mm: (3, x, y, z), see ``_positions``.
        random: the source of all random numbers.
        brain_values: the intensities in the brain.

    Returns:
        (x, y, z) float32, about 0 to 1.
    """
    shape = distance.shape
    left, posterior, superior = mm
    thickness = np.exp(0.35 * _field(random, shape, 5))
    fluid = random.uniform(0.3, 5) * thickness
    bone = fluid + random.uniform(3, 9) * np.exp(0.3 * _field(random, shape, 5))
    skin = bone + random.uniform(3, 14) * np.exp(0.3 * _field(random, shape, 4))
    level = float(np.median(brain_values)) if brain_values.size else 0.5

    # Tissue of face and neck: patches of four random intensities.
    patches = np.digitize(_field(random, shape, int(random.integers(8, 20))), (-0.8, 0, 0.8))
    soft = random.uniform(0, 1.1, 4).astype(np.float32)[patches]
    narrow = random.uniform(0.85, 1.15)
    neck = (left / 58) ** 2 + ((posterior - 12) / 62) ** 2 < narrow
    neck &= superior < -25
    face = (left / 66) ** 2 + ((posterior + 45) / 52) ** 2 < narrow
    face &= (superior < -15) & (superior > -random.uniform(60, 140))

    head = np.where(neck | face, soft, 0)
    head = np.where(distance < skin, np.where(random.random() < 0.5, random.uniform(0.3, 1.3), soft), head)
    marrow = random.uniform(0.1, 1) if random.random() < 0.4 else None
    hard = random.uniform(0, 0.25)
    head = np.where(distance < bone, hard, head)
    if marrow is not None:
        depth = (distance - fluid) / np.maximum(bone - fluid, 0.1)
        head = np.where((depth > 0.3) & (depth < 0.7), marrow, head)
    dura = random.uniform(0.3, 1.3) if random.random() < 0.3 else hard
    head = np.where(distance < fluid + 1.5, dura, head)
    head = np.where(distance < fluid, random.uniform(0, 1.2), head)
    inside = distance <= 0
    if inside.any():
        front = posterior[inside].min()
        bottom = superior[inside].min()
        for side in (-1, 1):
            centre = (side * random.uniform(28, 36), front + random.uniform(-8, 12), random.uniform(-38, -18))
            ball = sum((axis - c) ** 2 for axis, c in zip(mm, centre, strict=True))
            head = np.where((ball < random.uniform(11, 14) ** 2) & (distance > 1), random.uniform(0, 1.2), head)
        low = inside & (superior < bottom + 4)
        cord = (left - left[low].mean()) ** 2 + (posterior - posterior[low].mean()) ** 2
        if random.random() < 0.7:
            head = np.where((cord < 18**2) & (superior < bottom + 8) & (distance > 0), random.uniform(0, 1.0), head)
            head = np.where((cord < 9**2) & (superior < bottom + 8) & (distance > 0), level, head)
    texture = 1 + random.uniform(0, 0.2) * _field(random, shape, 24)
    return np.maximum(head * texture, 0).astype(np.float32)


def _shapes_only(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """A field without a brain: boxes and ellipsoids of random intensity, for instance a phantom or a limb."""
    image = np.zeros(shape, np.float32)
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    for _ in range(random.integers(1, 5)):
        centre = [random.uniform(0.2, 0.8) * n for n in shape]
        radius = [random.uniform(0.1, 0.5) * n for n in shape]
        scaled = [np.abs(axis - c) / r for axis, c, r in zip(grid, centre, radius, strict=True)]
        if random.random() < 0.5:
            inside = np.maximum(np.maximum(scaled[0], scaled[1]), scaled[2]) < 1
        else:
            axes = scaled if random.random() < 0.5 else scaled[:2]
            inside = sum(axis**2 for axis in axes) < np.ones(shape)
        image = np.where(inside, np.float32(random.uniform(0, 1)), image)
    if random.random() < 0.5:
        image = (image * (1 + 0.3 * _field(random, shape, int(random.integers(4, 24))))).astype(np.float32)
    return image


def _with_blob(image: np.ndarray, brain: np.ndarray, random: Random) -> np.ndarray:
    """An irregular region of any intensity in or at the brain, as a tumour or a surgical defect."""
    places = np.argwhere(brain)
    centre = places[random.integers(len(places))]
    radius = np.exp(random.uniform(np.log(4), np.log(18)))
    grid = np.ogrid[tuple(slice(0, n) for n in image.shape)]
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)))
    inside = (distance < radius * (1 + 0.25 * _field(random, image.shape, 10))) & brain
    level = random.uniform(0, 1.2)
    return np.where(inside, level * (1 + 0.1 * _field(random, image.shape, 20)), image).astype(np.float32)


def _recoloured(image: np.ndarray, random: Random) -> np.ndarray:
    """Intensities mapped by a random continuous curve; air stays the darkest."""
    places = np.linspace(0, 1, 7)
    values = np.concatenate([[0], random.uniform(0, 1, 6)])
    if random.random() < 0.5:
        # A monotone curve: another scanner, not another sequence.
        values = np.sort(values)
    # Air is dark in every sequence, so a fraction of a voxel above it is too.
    return np.interp(image, np.concatenate([[0, 0.04], places[1:]]), np.concatenate([[0, 0.04], values[1:]])).astype(
        np.float32
    )


def _degraded(image: np.ndarray, random: Random, options: RandomHeadOptions, *, noise: bool = True) -> np.ndarray:
    """Bias field, thick slices or blur, noise and quantisation. Noise would fill the background of a stripped scan."""
    background = image <= 0
    if random.random() < options.bias:
        image = image * np.exp(random.uniform(0.05, 0.4) * _field(random, image.shape, 3))
    if random.random() < options.thick:
        image = _thick_slices(image, random)
    elif random.random() < options.blur:
        image = ndimage.gaussian_filter(image, random.uniform(0.3, 1.0, 3))
    image = np.maximum(image, 0) ** np.float32(np.exp(random.uniform(-0.5, 0.5)))
    if noise and random.random() < options.noise:
        strength = random.uniform(0, 0.05)
        # Rician noise: the magnitude of a complex signal.
        first, second = (strength * random.standard_normal(image.shape, np.float32) for _ in range(2))
        image = np.hypot(image + first, second)
    elif not noise:
        image = np.where(background, 0, image)
    if random.random() < options.quantised:
        levels = random.integers(30, 256)
        image = np.rint(image * levels) / levels
    return image.astype(np.float32)


def _thick_slices(image: np.ndarray, random: Random) -> np.ndarray:
    """Slices of 2 to 4 voxels along one axis, interpolated back."""
    axis = 2 if random.random() < 0.6 else int(random.integers(3))
    size = image.shape[axis]
    factor = random.uniform(1.5, 4)
    blurred = ndimage.uniform_filter1d(image, max(2, round(factor)), axis)
    places = np.arange(random.uniform(0, factor), size, factor)
    few = np.take(blurred, np.minimum(np.rint(places).astype(int), size - 1), axis)
    at = np.clip(np.interp(np.arange(size), places, np.arange(len(places))), 0, len(places) - 1)
    low = np.floor(at).astype(int)
    high, weight = np.minimum(low + 1, len(places) - 1), (at - low).astype(np.float32)
    weight = weight.reshape([-1 if k == axis else 1 for k in range(3)])
    return np.take(few, low, axis) * (1 - weight) + np.take(few, high, axis) * weight


def _cut_field(image: np.ndarray, share: np.ndarray, random: Random, options: RandomHeadOptions) -> None:
    """Sets what is outside a random field of view to 0, in place."""
    for axis in range(3):
        for side in (0, 1):
            if random.random() < options.cut:
                depth = int(random.uniform(0, 0.35) * image.shape[axis])
                part = [slice(None)] * 3
                part[axis] = slice(0, depth) if side == 0 else slice(image.shape[axis] - depth, None)
                image[tuple(part)] = 0
                share[tuple(part)] = 0


def _field(random: Random, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """A smooth random field with standard deviation about 1, (x, y, z) float32.

    Args:
        random: the source of all random numbers.
        shape: of the field.
        cells: number of independent values along an axis.
    """
    coarse = random.standard_normal((cells, cells, cells), np.float32)
    for axis, size in enumerate(shape):
        at = np.linspace(0, cells - 1, size)
        low = np.minimum(at.astype(int), cells - 2)
        weight = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        coarse = np.take(coarse, low, axis) * (1 - weight) + np.take(coarse, low + 1, axis) * weight
    return 1.5 * coarse
