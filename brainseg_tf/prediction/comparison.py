"""Compares two time points of one subject: registers the scans, matches the lesions, and collects warnings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from brainseg_tf.brain.mask import Brain
from brainseg_tf.brain.regions import REGIONS
from brainseg_tf.brain.template import to_template
from brainseg_tf.errors import InputError
from brainseg_tf.images.background import head_mask
from brainseg_tf.images.registration import Alignment, align, resampled
from brainseg_tf.images.volume import Volume
from brainseg_tf.masks import in_field_of_view
from brainseg_tf.options import CompareOptions
from brainseg_tf.postprocessing.lesions import Place, place_of
from brainseg_tf.prediction.longitudinal import STATUSES, LesionChange, change_map, match_lesions, percent
from brainseg_tf.prediction.predictor import Predictor, name_warnings

# Correlation of two registered scans of one contrast. On the sample scans and five real ones that were moved by known
# amounts, it was 0.94 and more if the error of the registration was below 2 mm, and at most 0.73 if it had failed.
_LOW_CORRELATION = 0.8
# Voxel sizes are different if one is larger than the other by more than this factor.
_OTHER_VOXELS = 1.2
# Smaller masks that are not empty are most likely remains.
_FEW_VOXELS = 10


@dataclass(frozen=True)
class TimePoint:
    """A scan and its lesion mask.

    Attributes:
        scan: the scan.
        mask: (X, Y, Z) bool, on the grid of the scan.
        source: whether the mask was given or predicted.
        warnings: sentences for the user about the prediction.
        place: where the brain is, for side and region of the lesions; None if that is not known.
    """

    scan: Volume
    mask: np.ndarray
    source: Literal["given", "predicted"]
    warnings: tuple[str, ...] = ()
    place: Place | None = None

    @property
    def lesion_ml(self) -> float:
        """Volume of the mask in millilitres."""
        return float(np.count_nonzero(self.mask) * self.scan.voxel_ml)


@dataclass(frozen=True)
class Comparison:
    """The result of ``compare_time_points``.

    Attributes:
        before, after: the time points.
        alignment: from positions in the scan before to those in the scan after.
        lesions: at both time points, the largest first.
        registered: the scan after on the grid of the scan before.
        registered_mask: (X, Y, Z) bool, the mask after on that grid.
        covered: (X, Y, Z) bool, where the field of view of the scan after covers that grid.
        days: between the scans, if known.
        options: tolerance and limits.
    """

    before: TimePoint
    after: TimePoint
    alignment: Alignment
    lesions: list[LesionChange]
    registered: Volume
    registered_mask: np.ndarray
    covered: np.ndarray
    days: int | None
    options: CompareOptions

    @cached_property
    def change_map(self) -> np.ndarray:
        """(X, Y, Z) uint8, see ``longitudinal.change_map``."""
        return change_map(self.before.mask, self.registered_mask, self.covered)

    @property
    def counts(self) -> dict[str, int]:
        """The number of lesions of each status."""
        return {status: sum(one.status == status for one in self.lesions) for status in STATUSES}

    @property
    def change_ml(self) -> float:
        """Volume of all lesions after minus that before."""
        return self.after.lesion_ml - self.before.lesion_ml

    @property
    def change_percent(self) -> float | None:
        """This change in percent of the volume before; None if that is 0."""
        return percent(self.before.lesion_ml, self.after.lesion_ml)

    @cached_property
    def correlation(self) -> float:
        """Correlation of the registered scans in the head, without the lesions; 0 if there is nothing to correlate."""
        inside = head_mask(self.before.scan.data) & self.covered & ~self.before.mask & ~self.registered_mask
        one, other = self.before.scan.data[inside], self.registered.data[inside]
        if one.size < 2 or not (one.std() and other.std()):
            return 0.0
        return float(np.corrcoef(one, other)[0, 1])

    @property
    def warnings(self) -> list[str]:
        """Sentences for the user."""
        before, after = self.before, self.after
        found = [*before.scan.warnings, *before.warnings, *after.scan.warnings, *after.warnings]
        if before.scan.data.shape == after.scan.data.shape and np.array_equal(before.scan.data, after.scan.data):
            found.append(f"{after.scan.path}: has the same values as {before.scan.path}; check that it is another scan")
        if self.correlation < _LOW_CORRELATION:
            found.append(
                f"{after.scan.path}: the correlation with {before.scan.path} is {self.correlation:.2f} after the "
                "registration; check in the figure that both show the same head and contrast in the same position"
            )
        if _sizes_differ(before.scan.spacing, after.scan.spacing):
            sizes = " and ".join(" x ".join(f"{mm:.3g}" for mm in one.scan.spacing) for one in (before, after))
            found.append(
                f"{after.scan.path}: other voxel sizes than {before.scan.path} ({sizes} mm); volumes can differ for "
                "this reason alone"
            )
        if before.source != after.source:
            given, predicted = (before, after) if before.source == "given" else (after, before)
            found.append(
                f"{predicted.scan.path}: its mask was predicted, that of {given.scan.path} was given; volumes can "
                "differ for this reason alone"
            )
        for one in (before, after):
            voxels = int(np.count_nonzero(one.mask))
            if 0 < voxels < _FEW_VOXELS:
                found.append(f"{one.scan.path}: its mask has only {voxels} voxel{'s' * (voxels > 1)}; check it")
        outside = self.counts["not covered"]
        if outside:
            found.append(
                f"{after.scan.path}: {outside} lesion{'s' * (outside > 1)} outside the field of view that it shares "
                f"with {before.scan.path}; the change of all lesions together is not reliable"
            )
        if self.days is not None and self.days < 0:
            found.append(
                f"{after.scan.path}: is {-self.days} days older than {before.scan.path}; check the order of the scans"
            )
        return found


def time_point(
    scan: Volume,
    mask: np.ndarray | None,
    predictor: Predictor | None,
    find: Callable[[Volume], Brain] | None = None,
) -> TimePoint:
    """A scan with its mask, which is predicted if it is not given.

    Args:
        scan: the scan.
        mask: (X, Y, Z) bool, or None.
        predictor: segments the scan; can be None if the mask is given.
        find: finds the brain if the mask is given; without it, or if there is no brain, the place is not known.

    Raises:
        InputError: the model needs further modalities, or as for ``Predictor.segment``.
    """
    if mask is not None:
        if find is None:
            return TimePoint(scan, mask, "given")
        try:
            brain = find(scan)
        except InputError as error:
            # Only names depend on the brain.
            return TimePoint(scan, mask, "given", (f"{error}; side and region of the lesions are not known",))
        place = place_of(brain.mask, scan.affine, to_template(brain.mask, scan.affine))
        return TimePoint(scan, mask, "given", tuple(brain.warnings), place)
    assert predictor is not None
    further = predictor.card.modalities[1:]
    if further:
        raise InputError(
            f"model {predictor.card.name}: needs {' and '.join(further)} too; run predict for each scan, and give the "
            "masks with --before-mask and --after-mask"
        )
    # The warnings of the scan itself are in the scan.
    result, _ = predictor.segment([replace(scan, warnings=())])
    warnings = (*name_warnings(scan.path, predictor.card), *result.warnings)
    place = place_of(result.brain.mask, scan.affine, result.alignment)
    return TimePoint(scan, result.mask, "predicted", warnings, place)


def compare_time_points(
    before: TimePoint, after: TimePoint, options: CompareOptions | None = None, days: int | None = None
) -> Comparison:
    """Registers the scan after to the scan before, and matches the lesions of both masks.

    Args:
        before, after: the time points.
        options: tolerance and limits.
        days: between the scans, if known.

    Raises:
        InputError: SimpleITK is not installed, or the scans cannot be registered.
    """
    options = options or CompareOptions()
    alignment = align(after.scan, before.scan, two_sessions=True)
    lesions = match_lesions(
        before.mask, before.scan.affine, after.mask, after.scan.affine, alignment.matrix, options, before.place
    )
    registered, mask = (
        resampled(replace(after.scan, data=data.astype(np.float32)), before.scan, alignment)
        for data in (after.scan.data, after.mask)
    )
    to_after = np.linalg.inv(after.scan.affine) @ alignment.matrix @ before.scan.affine
    covered = in_field_of_view(to_after, after.mask.shape, before.mask.shape)
    return Comparison(before, after, alignment, lesions, registered, mask.data > 0.5, covered, days, options)


def lesion_row(number: int, lesion: LesionChange) -> dict[str, Any]:
    """A lesion as a row of the table and of the report, see ``COLUMNS``."""
    return {
        "lesion": number,
        "status": lesion.status,
        "before_ml": round(lesion.before_ml, 4),
        "after_ml": round(lesion.after_ml, 4),
        "change_ml": None if lesion.change_ml is None else round(lesion.change_ml, 4),
        "change_percent": None if lesion.change_percent is None else round(lesion.change_percent, 2),
        "before_components": lesion.before_components,
        "after_components": lesion.after_components,
        "note": lesion.note or None,
        **dict(zip(("x_mm", "y_mm", "z_mm"), lesion.centroid_mm, strict=True)),
        "side": lesion.side,
        "region": lesion.region,
    }


# What the columns of the table are; the report has it as a data dictionary.
COLUMNS = {
    "lesion": "Number of the lesion, the largest first",
    "status": "One of " + ", ".join(STATUSES),
    "before_ml": "Volume in the scan before, in millilitres",
    "after_ml": "Volume in the scan after, in millilitres",
    "change_ml": "Volume after minus volume before, in millilitres; n/a if the lesion is not covered",
    "change_percent": "Change in percent of the volume before; n/a if there was none or the lesion is not covered",
    "before_components": "Number of connected components in the scan before",
    "after_components": "Number of connected components in the scan after",
    "note": "merged: fewer components than before; split: more; n/a if neither",
    "x_mm": "Centroid, in millimetres to the right in the world space of the scan before",
    "y_mm": "Centroid, in millimetres to the front",
    "z_mm": "Centroid, in millimetres upwards",
    "side": "Side of the patient: left, right, or midline (less than 5 mm from the middle of the brain)",
    "region": "Region with most of the lesion in the scan before, one of "
    + ", ".join(REGIONS)
    + "; n/a if the alignment with the MNI template is not reliable",
}


def _sizes_differ(one: Sequence[float], other: Sequence[float]) -> bool:
    return any(max(a, b) > _OTHER_VOXELS * min(a, b) for a, b in zip(sorted(one), sorted(other), strict=True))
