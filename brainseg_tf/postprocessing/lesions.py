"""The connected components of a mask, with what a table of lesions says about them."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np
from skimage.measure import label, regionprops

from brainseg_tf.brain.regions import main_region, ventricle_distance_mm
from brainseg_tf.brain.template import TemplateAlignment
from brainseg_tf.masks import bounding_box, centre

Side = Literal["left", "right", "midline"]
Point = tuple[float, float, float]

# A centroid within this distance of the brain's centre, in millimetres, is on neither side.
_MIDLINE_MM = 5.0


@dataclass(frozen=True)
class Lesion:
    """One connected component.

    Attributes:
        ml: volume in millilitres.
        centroid_mm: in RAS world space.
        side: of the patient, by the alignment with the template if the surfaces agree, also if the brain is cut off;
            otherwise relative to the centre of the brain.
        mean_residual: input minus reconstruction, on the model's intensity scale, where the brain's median is 0.3.
        mean_probability: posterior probability of a lesion in the mixture, which is close to 0 or 1 in most voxels.
        mean_score: what the mixture was fitted to, for instance the network's lesion probability, smoothed.
        intensity_ratio: mean intensity of the scan, divided by the median of the brain outside lesions; None
            if that median is not positive.
        mni_mm: centroid in MNI space, by a rough affine alignment; None if that is not reliable. The same holds for:
        region: one of ``brain.regions.REGIONS``, in which most of the voxels are.
        ventricle_mm: smallest distance to the lateral ventricles of the MNI template.
    """

    ml: float
    centroid_mm: Point
    side: Side
    mean_residual: float
    mean_probability: float
    mean_score: float
    intensity_ratio: float | None
    mni_mm: Point | None
    region: str | None
    ventricle_mm: float | None


class Maps(NamedTuple):
    """What is averaged over a lesion, each (X, Y, Z); only the values in the mask are used.

    Attributes:
        residual: input minus reconstruction.
        probability: posterior of a lesion.
        score: what the mixture was fitted to.
        intensity: the scan, divided by the median of the brain outside lesions; None if that is not positive.
    """

    residual: np.ndarray
    probability: np.ndarray
    score: np.ndarray
    intensity: np.ndarray | None


class Place(NamedTuple):
    """Where a mask lies.

    Attributes:
        affine: (4, 4), from voxel indices to millimetres in RAS world space.
        middle_mm: the first world coordinate of the brain's centre; left is smaller.
        to_template: (4, 4), from world space to MNI space, see ``brain.template``; None if it is not known.
        is_reliable: whether places in MNI space can be named. Otherwise only the side follows from ``to_template``:
            it needs no more than the midline of a part of the brain.
    """

    affine: np.ndarray
    middle_mm: float
    to_template: np.ndarray | None
    is_reliable: bool = True


def place_of(brain: np.ndarray, affine: np.ndarray, alignment: TemplateAlignment) -> Place:
    """The place of the masks of a scan.

    Args:
        brain: (X, Y, Z) bool.
        affine: (4, 4) of the scan.
        alignment: of the brain with the template.
    """
    middle_mm = float(nib.affines.apply_affine(affine, centre(brain))[0])
    return Place(affine, middle_mm, alignment.matrix if alignment.agrees else None, alignment.is_reliable)


def side_and_region(points: np.ndarray, place: Place) -> tuple[Side, str | None]:
    """On which side of the patient a lesion is, and in which region, which is None if the alignment is not reliable.

    Args:
        points: (V, 3), of the lesion, in millimetres in world space.
        place: of the mask.
    """
    template = None if place.to_template is None else nib.affines.apply_affine(place.to_template, points)
    # Millimetres to the right of the middle: in the template, in which the head is straight, if it is aligned.
    right = points[:, 0].mean() - place.middle_mm if template is None else template[:, 0].mean()
    side: Side = "midline" if abs(right) < _MIDLINE_MM else "left" if right < 0 else "right"
    return side, None if template is None or not place.is_reliable else main_region(template)


def numbered_components(mask: np.ndarray) -> np.ndarray:
    """Numbers the connected components (26 neighbours) of a mask by size.

    Args:
        mask: (X, Y, Z) bool.

    Returns:
        (X, Y, Z), 1 in the largest component, 2 in the next one and so on, 0 outside; uint8 for up to 255 components.
    """
    box = bounding_box(mask)
    components = label(mask[box], connectivity=3)
    sizes = np.bincount(components.ravel())[1:]
    numbers = np.zeros(len(sizes) + 1, np.min_scalar_type(len(sizes)))
    numbers[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, len(sizes) + 1)
    numbered = np.zeros(mask.shape, numbers.dtype)
    numbered[box] = numbers[components]
    return numbered


def lesions(mask: np.ndarray, maps: Maps, place: Place) -> list[Lesion]:
    """The components of a mask, largest first: in the order of ``numbered_components``.

    Args:
        mask: (X, Y, Z) bool.
        maps: of the same shape.
        place: of the mask.
    """
    voxel_ml = abs(np.linalg.det(place.affine[:3, :3])) / 1000.0
    found = []
    for region in regionprops(numbered_components(mask)) if mask.any() else ():
        voxels = tuple(region.coords.T)
        world = nib.affines.apply_affine(place.affine, region.coords)
        named = place.to_template is not None and place.is_reliable
        template = nib.affines.apply_affine(place.to_template, world) if named else None
        side, name = side_and_region(world, place)
        found.append(
            Lesion(
                ml=float(region.area * voxel_ml),
                centroid_mm=_point(world.mean(axis=0)),
                side=side,
                mean_residual=_mean(maps.residual, voxels),
                mean_probability=_mean(maps.probability, voxels),
                mean_score=_mean(maps.score, voxels),
                intensity_ratio=None if maps.intensity is None else _mean(maps.intensity, voxels),
                mni_mm=None if template is None else _point(template.mean(axis=0)),
                region=name,
                ventricle_mm=None if template is None else round(float(ventricle_distance_mm(template).min()), 1),
            )
        )
    return found


def _mean(values: np.ndarray, voxels: tuple[np.ndarray, ...]) -> float:
    return round(float(values[voxels].mean()), 4)


def _point(mm: np.ndarray) -> Point:
    x, y, z = (round(float(one), 2) for one in mm)
    return x, y, z
