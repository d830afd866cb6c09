"""From the slices of a DICOM series to a regular stack: without localizers and copies, sorted, complete."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.dicom_files import EXPORT
from brainseg_tf.images.dicom_headers import CONVERT, VARIANTS, axes_of, numbers_of, words_of
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from pydicom import Dataset

# A slice belongs to a localizer if the angle between its normal and that of most other slices is larger than this.
_OTHER_PLANE_DEGREES = 20.0
# Slices of a localizer are left out if they are at most this share of the series, or at most three.
_OTHER_PLANE_SHARE = 0.1
# The largest angle between slices of one stack. Headers store direction cosines with few digits.
_SAME_PLANE_DEGREES = 0.5
# The largest distance of a slice from its position in a regular stack: along the stack, in units of the slice distance;
# across it, in mm.
_UNEVEN, _SHIFTED_MM = 0.1, 1.0
# Slices that are closer are at one position.
_REPEATED_MM = 0.01


def stack(
    folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]
) -> "tuple[list[tuple[Path, Dataset]], float]":
    """Finds the slices of a regular stack and their order.

    Args:
        folder: of the series.
        images: the files and headers of one series.
        notes: receives sentences for the user about slices that are left out.

    Returns:
        The slices in the order of the stack, and the distance between neighbouring slices in millimetres.

    Raises:
        InputError: the slices are not a regular stack, or a header lacks what determines it.
    """
    _check_positions(folder, images)
    images = _one_plane(folder, images, notes)
    _check_sizes(folder, images)
    return _sorted(folder, images, notes)


def _check_positions(folder: Path, images: "list[tuple[Path, Dataset]]") -> None:
    """Checks that all slices have a position, an orientation and a pixel size."""
    if any("PerFrameFunctionalGroupsSequence" in header for _, header in images):
        raise InputError(
            f"{printable(folder)}: contains enhanced images of one frame each, which cannot be read; {CONVERT}"
        )
    for keyword, name, count in (
        ("ImagePositionPatient", "position (Image Position (Patient))", 3),
        ("ImageOrientationPatient", "orientation (Image Orientation (Patient))", 6),
        ("PixelSpacing", "pixel size (Pixel Spacing)", 2),
    ):
        missing = [file for file, header in images if numbers_of(header, keyword, count) is None]
        if missing:
            raise InputError(
                f"{printable(folder)}: {len(missing)} of {counted(len(images), 'slice')} have no valid {name}, the "
                f"first is {printable(missing[0].name)}; {EXPORT}"
            )


def _one_plane(folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]) -> "list[tuple[Path, Dataset]]":
    """Removes the slices of a localizer, and adds a note about them.

    Raises:
        InputError: the other slices are in several planes.
    """
    localizers = [image for image in images if "LOCALIZER" in words_of(image[1].get("ImageType"))]
    if 0 < len(localizers) < len(images):
        images = [image for image in images if image not in localizers]
    normals = np.array([np.cross(*axes_of(header)) for _, header in images])
    angles = np.degrees(np.arccos(np.clip(np.abs(normals @ normals.T), 0, 1)))
    reference = int((angles < _SAME_PLANE_DEGREES).sum(axis=1).argmax())
    other = angles[reference] > _OTHER_PLANE_DEGREES
    if other.any() and other.sum() <= max(3, _OTHER_PLANE_SHARE * len(images)) and other.sum() < 0.5 * len(images):
        localizers += [image for image, is_other in zip(images, other, strict=True) if is_other]
        images = [image for image, is_other in zip(images, other, strict=True) if not is_other]
    axes = np.array([axes_of(header) for _, header in images])
    tilted = np.degrees(np.arccos(np.clip((axes * axes[0]).sum(axis=2), -1, 1))).max(axis=1) > _SAME_PLANE_DEGREES
    if tilted.any():
        raise InputError(
            f"{printable(folder)}: the slices are in several planes (a localizer, several views); move each view to "
            "its own folder"
        )
    if localizers:
        files = ", ".join(file.name for file, _ in localizers[:3]) + ", ..." * (len(localizers) > 3)
        notes.append(
            f"{printable(folder)}: left out {counted(len(localizers), 'slice')} of another plane (localizer): "
            f"{printable(files)}"
        )
    return images


def _check_sizes(folder: Path, images: "list[tuple[Path, Dataset]]") -> None:
    """Checks that all slices have the same numbers of pixels and the same pixel size.

    Raises:
        InputError: they differ; the message names a slice that differs from most others.
    """

    def pixels(header: "Dataset") -> tuple[Any, ...]:
        return int(header.Rows), int(header.Columns)

    def millimetres(header: "Dataset") -> tuple[Any, ...]:
        return tuple(float(f"{size:.3g}") for size in numbers_of(header, "PixelSpacing", 2) or ())

    kinds: tuple[tuple[Callable[[Dataset], tuple[Any, ...]], str], ...] = ((pixels, "pixels"), (millimetres, "mm"))
    for size, unit in kinds:
        usual = Counter(size(header) for _, header in images).most_common(1)[0][0]
        for file, header in images:
            if size(header) != usual:
                expected, found = (" x ".join(str(n) for n in one) for one in (usual, size(header)))
                raise InputError(
                    f"{printable(folder)}: the slices do not form a volume, {printable(file.name)} has {found} {unit} "
                    f"but others have {expected}; remove it, or {EXPORT}"
                )


def _sorted(
    folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]
) -> "tuple[list[tuple[Path, Dataset]], float]":
    """Sorts the slices by their positions.

    Returns:
        The slices without repeated ones, and the distance between neighbouring slices in millimetres.

    Raises:
        InputError: there is one slice only, slices are missing, or they are not a regular stack.
    """
    along, across = _project(images)
    order = np.argsort(along, kind="stable")
    images, along = [images[i] for i in order], along[order]
    if len(images) > 1:
        # The largest distances may be gaps in the stack.
        distances = np.diff(along)
        apart = distances[distances > _REPEATED_MM]
        repeated = distances < 0.01 * (np.median(apart) if len(apart) else max(distances.max(), 1e-6))
        if np.ptp(along) < 1e-3:
            repeated[:] = True
        images = _without_repeats(folder, images, repeated, notes)
        along, across = _project(images)
    if len(images) < 2:
        raise InputError(f"{printable(folder)}: contains one slice only; give a folder with all slices of a series")
    gaps = np.diff(along)
    step = float(np.median(gaps))
    if gaps.max() > 1.5 * step:
        after = int(gaps.argmax())
        raise InputError(
            f"{printable(folder)}: slices are missing, the slice distance is {step:.3g} mm but {gaps[after]:.3g} mm "
            f"after {printable(images[after][0].name)}; {EXPORT}"
        )
    count = np.arange(len(along))
    slope, offset = np.polyfit(count, along, 1)
    if np.abs(along - slope * count - offset).max() > _UNEVEN * step:
        raise InputError(
            f"{printable(folder)}: the slices do not form a volume, their distances vary from {gaps.min():.3g} to "
            f"{gaps.max():.3g} mm; {CONVERT}"
        )
    shift = float(np.linalg.norm(across[-1] - across[0]))
    if shift > _SHIFTED_MM:
        degrees = np.degrees(np.arctan2(shift, along[-1] - along[0]))
        raise InputError(
            f"{printable(folder)}: the slices do not form a volume, each is shifted relative to the previous one "
            f"(gantry tilt of {degrees:.0f} degrees); {CONVERT}"
        )
    return images, float(slope)


def _project(images: "Sequence[tuple[Path, Dataset]]") -> tuple[np.ndarray, np.ndarray]:
    """Positions of the slices along their normal, (N,), and their components in the slice plane, (N, 3), in mm."""
    positions = np.array([numbers_of(header, "ImagePositionPatient", 3) for _, header in images])
    normal = np.cross(*axes_of(images[0][1]))
    along = positions @ normal
    return along, positions - along[:, None] * normal


def _without_repeats(
    folder: Path, images: "list[tuple[Path, Dataset]]", repeated: np.ndarray, notes: list[str]
) -> "list[tuple[Path, Dataset]]":
    """Keeps one image at each position.

    Args:
        folder: of the series.
        images: (N), sorted by position.
        repeated: (N - 1,) bool, whether an image has the position of the one before it.
        notes: receives a note about copies.

    Raises:
        InputError: images at one position have different pixels, so that the intended one is unknown.
    """
    kept = [images[0]]
    for image, is_repeated in zip(images[1:], repeated, strict=True):
        if not is_repeated:
            kept.append(image)
        elif not _same_pixels(kept[-1][0], image[0]):
            starts = np.flatnonzero(np.r_[True, ~repeated])
            most = int(np.diff(np.r_[starts, len(images)]).max())
            raise InputError(
                f"{printable(folder)}: contains up to {most} images at one position{_differences(images)}; "
                f"move each kind to its own folder, or {CONVERT}"
            )
    note_copies(folder, len(images) - len(kept), notes)
    return kept


def note_copies(folder: Path, number: int, notes: list[str]) -> None:
    """Adds a note about a number of copies, if there are any."""
    if number:
        verb = "is a copy of another file and is" if number == 1 else "are copies of other files and are"
        notes.append(f"{printable(folder)}: {counted(number, 'file')} {verb} not used")


def _differences(images: "list[tuple[Path, Dataset]]") -> str:
    """In which attribute images at the same position differ, for an error message."""
    for keyword, name in VARIANTS.items():
        values = sorted({"/".join(words_of(header.get(keyword))) for _, header in images})
        if 1 < len(values) <= len(images) / 2:
            return f" ({name} {printable(', '.join(values[:4]))}{', ...' * (len(values) > 4)})"
    return " (echoes, repetitions, or magnitude and phase)"


def _same_pixels(one: Path, other: Path) -> bool:
    from pydicom import dcmread

    with reading(other, "has the same position as another slice and is damaged; remove it"):
        first, second = (dcmread(file, force=True).get("PixelData") for file in (one, other))
    return first is not None and first == second


def counted(number: int, what: str) -> str:
    """A number with its noun, for instance ``2 slices``."""
    return f"{number} {what}" + "s" * (number != 1)
