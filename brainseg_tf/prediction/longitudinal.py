"""Two time points of one subject: matches the lesions of two masks, and measures how each has changed.

Volumes are measured on the grid of each mask. Lesions are matched by the positions of their voxels, which a rigid
movement maps from one scan to the other. So no mask is resampled, and lesions outside the other scan's field of view
are recognised.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import nibabel as nib
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from skimage.measure import label

from brainseg_tf.options import CompareOptions
from brainseg_tf.postprocessing.lesions import Place, Side, side_and_region

Status = Literal["new", "grown", "stable", "shrunk", "gone", "not covered"]
STATUSES: tuple[Status, ...] = get_args(Status)
# A lesion without a partner is new or gone only if at least this share of it is in the other scan's field of view.
_COVERED_SHARE = 0.5
# The change of a lesion at both time points is known only if at least this share of it at each is.
_MOSTLY_COVERED_SHARE = 0.9
# Values of the change map.
STABLE, APPEARED, DISAPPEARED, NOT_COVERED = 1, 2, 3, 4


@dataclass(frozen=True)
class LesionChange:
    """A lesion at two time points: the components of both masks that belong together.

    Attributes:
        status: ``new``: only after; ``gone``: only before; ``grown``, ``shrunk``: the change of the volume reaches the
            limits of ``CompareOptions``; ``stable``: it does not; ``not covered``: the field of view of the other
            scan cuts it off, so none of these is known.
        before_ml, after_ml: volume in millilitres, each on its mask's own grid.
        before_components, after_components: numbers of connected components.
        centroid_mm: in RAS world space of the scan before; of the components before, or of those after if there are
            none before.
        side: of the patient, see ``lesions.Lesion``; None if the brain is not known.
        region: one of ``brain.regions.REGIONS``; None if it is not known.
    """

    status: Status
    before_ml: float
    after_ml: float
    before_components: int
    after_components: int
    centroid_mm: tuple[float, float, float]
    side: Side | None = None
    region: str | None = None

    @property
    def change_ml(self) -> float | None:
        """Volume after minus volume before; None if the status is ``not covered``."""
        return None if self.status == "not covered" else self.after_ml - self.before_ml

    @property
    def change_percent(self) -> float | None:
        """The change in percent of the volume before; None without a change or a lesion before."""
        return None if self.status == "not covered" else percent(self.before_ml, self.after_ml)

    @property
    def note(self) -> str:
        """``merged`` if fewer components are there after than before, ``split`` if more are; else empty."""
        if not (self.before_components and self.after_components):
            return ""
        return {-1: "merged", 0: "", 1: "split"}[int(np.sign(self.after_components - self.before_components))]


@dataclass(frozen=True)
class _Components:
    """The connected components (26 neighbours) of a mask.

    Attributes:
        labels: (X, Y, Z), 1 to ``count`` in the components, else 0; ``affine``: of its grid.
        points: (V, 3), positions of their voxels in millimetres; ``of``: (V,), the component of each, from 0.
    """

    labels: np.ndarray
    affine: np.ndarray
    points: np.ndarray
    of: np.ndarray
    count: int

    @property
    def ml(self) -> np.ndarray:
        """The volume of each component in millilitres."""
        return np.bincount(self.of, minlength=self.count) * abs(np.linalg.det(self.affine[:3, :3])) / 1000


def percent(before_ml: float, after_ml: float) -> float | None:
    """The change of a volume in percent of the volume before; None if that is 0."""
    return 100 * (after_ml - before_ml) / before_ml if before_ml else None


def match_lesions(
    before: np.ndarray,
    before_affine: np.ndarray,
    after: np.ndarray,
    after_affine: np.ndarray,
    matrix: np.ndarray,
    options: CompareOptions | None = None,
    place: Place | None = None,
) -> list[LesionChange]:
    """Matches the lesions of two masks of one subject.

    Components that overlap belong to one lesion. A component that overlaps none is matched with the nearest component
    of the other mask that overlaps none, if a voxel of that is within the tolerance. There are seven parameters because
    two grids are described.

    Args:
        before, after: (X, Y, Z) bool, each on its own grid.
        before_affine, after_affine: (4, 4), voxel indices to millimetres in RAS world space.
        matrix: (4, 4), from positions in the scan before to those in the scan after, in millimetres.
        options: tolerance and limits.
        place: of the mask before; without it the lesions have no side and region.

    Returns:
        The lesions, the largest volume at either time point first.
    """
    options = options or CompareOptions()
    first, second = _components(before, before_affine), _components(after, after_affine)
    back = np.linalg.inv(matrix)
    seen_after, inside_after = _lookup(nib.affines.apply_affine(matrix, first.points), second.labels, second.affine)
    seen_before, inside_before = _lookup(nib.affines.apply_affine(back, second.points), first.labels, first.affine)
    # Each grid is searched with the voxels of the other: a small component can lie between the voxels of a coarse grid.
    pairs = {(int(b), int(a) - 1) for b, a in zip(first.of, seen_after, strict=True) if a}
    pairs |= {(int(b) - 1, int(a)) for a, b in zip(second.of, seen_before, strict=True) if b}
    pairs |= _near(first, second, matrix, pairs, options.tolerance_mm)
    found = []
    for some_before, some_after in _groups(pairs, first.count, second.count):
        in_before, in_after = np.isin(first.of, some_before), np.isin(second.of, some_after)
        volumes = float(first.ml[some_before].sum()), float(second.ml[some_after].sum())
        # The two grids can have voxels of different size, so their voxels are not counted together.
        covered = min(float(one.mean()) for one in (inside_after[in_before], inside_before[in_after]) if one.size)
        points = (
            first.points[in_before] if len(some_before) else nib.affines.apply_affine(back, second.points[in_after])
        )
        x, y, z = (round(float(mm), 2) for mm in points.mean(axis=0))
        status = _status(*volumes, covered, options)
        where = (None, None) if place is None else side_and_region(points, place)
        found.append(LesionChange(status, *volumes, len(some_before), len(some_after), (x, y, z), *where))
    return sorted(found, key=lambda lesion: -max(lesion.before_ml, lesion.after_ml))


def change_map(before: np.ndarray, after: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """What has changed, on the grid of the scan before.

    Args:
        before, after: (X, Y, Z) bool, both masks on that grid.
        covered: (X, Y, Z) bool, the field of view of the scan after.

    Returns:
        (X, Y, Z) uint8: 1 in both masks, 2 only after, 3 only before, 4 only before and outside the field of view of
        the scan after; else 0.
    """
    changes = np.zeros(before.shape, np.uint8)
    changes[before & after] = STABLE
    changes[after & ~before] = APPEARED
    changes[before & ~after] = DISAPPEARED
    changes[before & ~after & ~covered] = NOT_COVERED
    return changes


def _status(before_ml: float, after_ml: float, covered: float, options: CompareOptions) -> Status:
    """The status of a lesion.

    Args:
        before_ml, after_ml: its volumes.
        covered: the share of it that is in the field of view of the other scan; the smaller one of both time points.
        options: the limits.
    """
    if not (before_ml and after_ml):
        if covered < _COVERED_SHARE:
            return "not covered"
        return "gone" if before_ml else "new"
    if covered < _MOSTLY_COVERED_SHARE:
        return "not covered"
    # Rounded, because 40 % from 1 to 1.4 ml is a little less in floating point.
    change = round(percent(before_ml, after_ml) or 0.0, 9)
    grown = change > 0 and change >= options.min_growth
    shrunk = change < 0 and -change >= options.min_shrinkage
    if round(abs(after_ml - before_ml), 9) < options.min_change_ml or not (grown or shrunk):
        return "stable"
    return "grown" if grown else "shrunk"


def _components(mask: np.ndarray, affine: np.ndarray) -> _Components:
    labels = label(mask, connectivity=3)
    indices = np.argwhere(labels)
    of = labels[tuple(indices.T)] - 1
    return _Components(labels, affine, nib.affines.apply_affine(affine, indices), of, int(labels.max(initial=0)))


def _indices(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The nearest voxels of a grid to points, (V, 3)."""
    return np.rint(nib.affines.apply_affine(np.linalg.inv(affine), points)).astype(int).reshape(-1, 3)


def _inside(indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether voxels are in a grid, (V,) bool."""
    return np.all((indices >= 0) & (indices < np.array(shape)), axis=1)


def _lookup(points: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels at points, (V,), 0 outside the grid; and whether the points are in the grid, (V,) bool."""
    indices = _indices(points, affine)
    inside = _inside(indices, labels.shape)
    values = np.zeros(len(points), labels.dtype)
    values[inside] = labels[tuple(indices[inside].T)]
    return values, inside


def _near(
    first: _Components, second: _Components, matrix: np.ndarray, pairs: set[tuple[int, int]], tolerance_mm: float
) -> set[tuple[int, int]]:
    """Pairs of components that overlap none: each with the nearest of the other mask, within the tolerance."""
    if not (first.count and second.count):
        return set()
    moved = nib.affines.apply_affine(matrix, first.points)
    found = set()
    for here, of, there, others, turned in (
        (moved, first.of, second.points, second.of, False),
        (second.points, second.of, moved, first.of, True),
    ):
        alone = sorted(set(of.tolist()) - {pair[turned] for pair in pairs})
        candidates = ~np.isin(others, [pair[not turned] for pair in pairs])
        if not candidates.any():
            continue
        there, others = there[candidates], others[candidates]
        tree = KDTree(there) if alone else None
        for one in alone:
            assert tree is not None
            distances, nearest = tree.query(here[of == one])
            best = int(distances.argmin())
            if distances[best] <= tolerance_mm:
                pair = (one, int(others[nearest[best]]))
                found.add(pair[::-1] if turned else pair)
    return found


def _groups(pairs: set[tuple[int, int]], before: int, after: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The components that belong together, directly or through others: arrays of those before and of those after."""
    rows, columns = np.array(sorted(pairs), int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, before + columns)), shape=(before + after,) * 2)
    count, group = connected_components(graph, directed=False)
    return [(np.flatnonzero(group[:before] == one), np.flatnonzero(group[before:] == one)) for one in range(count)]
