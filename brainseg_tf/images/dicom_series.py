"""Finds the slices of a DICOM series and their order from the headers; pixels are not needed."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.dicom_files import EXPORT, check_installed, find_images, silence
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from highdicom import VolumeGeometry
    from pydicom import Dataset

CONVERT = "convert it with dcm2niix"
# Attributes in which images at the same position can differ, and their names in error messages.
_VARIANTS = {
    "EchoTime": "echo times",
    "EchoNumbers": "echoes",
    "ImageType": "image types",
    "InversionTime": "inversion times",
    "DiffusionBValue": "b-values",
    "TemporalPositionIdentifier": "time points",
    "TriggerTime": "trigger times",
    "AcquisitionNumber": "acquisitions",
}
# A slice belongs to a localizer if the angle between its normal and that of most other slices is larger than this.
_OTHER_PLANE_DEGREES = 20.0
# Slices of a localizer are left out if they are at most this share of the series, or at most three.
_OTHER_PLANE_SHARE = 0.1
# The largest angle between slices of one stack. Headers store direction cosines with few digits.
_SAME_PLANE_DEGREES = 0.5
# The largest distance of a slice from its position in a regular stack: along the stack, in units of the slice distance;
# across it, in mm.
_UNEVEN, _SHIFTED_MM = 0.1, 1.0


@dataclass(frozen=True)
class Series:
    """The images of a series that form a volume, without their pixels.

    Attributes:
        folder: the folder of the files.
        files, headers: one per slice, in the order of the stack; a single one for a multi-frame image.
        shape: numbers of slices, rows and columns.
        step_mm: distance between neighbouring slices.
        notes: sentences for the user about images that were left out.
    """

    folder: Path
    files: tuple[Path, ...]
    headers: "tuple[Dataset, ...]"
    shape: tuple[int, int, int]
    step_mm: float
    notes: tuple[str, ...] = ()

    @property
    def is_multiframe(self) -> bool:
        """Whether one file contains all slices."""
        return _frames(self.headers[0]) > 1


def find_series(folder: Path) -> Series:
    """Finds the series in a folder from the headers of its files.

    Raises:
        InputError: highdicom is not installed, a slice is damaged or cannot be read, the folder contains several
            series, or the slices are not a regular stack.
    """
    check_installed(folder)
    silence()
    with reading(folder, f"the headers are damaged or invalid; {CONVERT}"):
        return _find_series(folder)


def _find_series(folder: Path) -> Series:
    images = _one_series(folder, find_images(folder))
    notes: list[str] = []
    images = _without_copies(folder, images, notes)
    headers = [header for _, header in images]
    if any("MOSAIC" in _words(header.get("ImageType")) for header in headers):
        raise InputError(f"{printable(folder)}: contains mosaics (all slices tiled in one image); {CONVERT}")
    if any(int(header.get("SamplesPerPixel") or 1) > 1 for header in headers):
        raise InputError(f"{printable(folder)}: contains colour images; give the folder of a grey-scale series")
    if any(_frames(header) > 1 for header in headers):
        return _multiframe(folder, images)
    _check_positions(folder, images)
    images = _one_plane(folder, images, notes)
    _check_sizes(folder, images)
    images, step = _stack(folder, images, notes)
    first = images[0][1]
    shape = (len(images), int(first.Rows), int(first.Columns))
    files, stacked = zip(*images, strict=True)
    return Series(folder, files, stacked, shape, step, tuple(notes))


def _one_series(folder: Path, images: "list[tuple[Path, Dataset]]") -> "list[tuple[Path, Dataset]]":
    """Returns the images unchanged.

    Raises:
        InputError: they belong to several series.
    """
    counts = Counter(str(header.get("SeriesInstanceUID")) for _, header in images)
    if len(counts) > 1:
        headers = {str(header.get("SeriesInstanceUID")): header for _, header in images}
        series = [
            f"{headers[uid].get('SeriesNumber') or 'no number'} '{headers[uid].get('SeriesDescription') or 'unnamed'}' "
            f"with {_counted(count, 'file')}"
            for uid, count in counts.most_common(6)
        ]
        series += ["..."] * (len(counts) > len(series))
        raise InputError(
            f"{printable(folder)}: contains {len(counts)} DICOM series ({printable(', '.join(series))}); move each to "
            "its own folder"
        )
    return images


def _without_copies(
    folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]
) -> "list[tuple[Path, Dataset]]":
    """Removes copies of the same image.

    Images with the same SOP Instance UID are copies only if other attributes agree too, because some anonymisers give
    all slices the same identifier.
    """
    kept: dict[tuple[Any, ...], tuple[Path, Dataset]] = {}
    for file, header in images:
        identifier = header.get("SOPInstanceUID")
        keys = ("ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", *_VARIANTS)
        content = tuple(str(header.get(key)) for key in keys)
        kept.setdefault((str(identifier), *content) if identifier else (file,), (file, header))
    _note_copies(folder, len(images) - len(kept), notes)
    return list(kept.values())


def _note_copies(folder: Path, number: int, notes: list[str]) -> None:
    if number:
        verb = "is a copy of another file and is" if number == 1 else "are copies of other files and are"
        notes.append(f"{printable(folder)}: {_counted(number, 'file')} {verb} not used")


def _multiframe(folder: Path, images: "list[tuple[Path, Dataset]]") -> Series:
    if len(images) > 1:
        raise InputError(
            f"{printable(folder)}: contains {len(images)} images, and some of them have several frames; "
            "move each to its own folder"
        )
    file, header = images[0]
    series = Series(folder, (file,), (header,), (_frames(header), int(header.Rows), int(header.Columns)), 1.0)
    with reading(file, f"is a multi-frame image whose frames are not a regular stack; {CONVERT}"):
        geometry_of(series)
    return series


def _check_positions(folder: Path, images: "list[tuple[Path, Dataset]]") -> None:
    """Checks that all slices have a position, an orientation and a pixel size."""
    for keyword, name, count in (
        ("ImagePositionPatient", "position (Image Position (Patient))", 3),
        ("ImageOrientationPatient", "orientation (Image Orientation (Patient))", 6),
        ("PixelSpacing", "pixel size (Pixel Spacing)", 2),
    ):
        missing = [file for file, header in images if numbers_of(header, keyword, count) is None]
        if missing:
            raise InputError(
                f"{printable(folder)}: {len(missing)} of {_counted(len(images), 'slice')} have no valid {name}, the "
                f"first is {printable(missing[0].name)}; {EXPORT}"
            )


def _one_plane(folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]) -> "list[tuple[Path, Dataset]]":
    """Removes the slices of a localizer, and adds a note about them.

    Raises:
        InputError: the other slices are in several planes.
    """
    localizers = [image for image in images if "LOCALIZER" in _words(image[1].get("ImageType"))]
    if 0 < len(localizers) < len(images):
        images = [image for image in images if image not in localizers]
    normals = np.array([np.cross(*_axes(header)) for _, header in images])
    angles = np.degrees(np.arccos(np.clip(np.abs(normals @ normals.T), 0, 1)))
    reference = int((angles < _SAME_PLANE_DEGREES).sum(axis=1).argmax())
    other = angles[reference] > _OTHER_PLANE_DEGREES
    if other.any() and other.sum() <= max(3, _OTHER_PLANE_SHARE * len(images)) and other.sum() < 0.5 * len(images):
        localizers += [image for image, is_other in zip(images, other, strict=True) if is_other]
        images = [image for image, is_other in zip(images, other, strict=True) if not is_other]
    axes = np.array([_axes(header) for _, header in images])
    tilted = np.degrees(np.arccos(np.clip((axes * axes[0]).sum(axis=2), -1, 1))).max(axis=1) > _SAME_PLANE_DEGREES
    if tilted.any():
        raise InputError(
            f"{printable(folder)}: the slices are in several planes (a localizer, several views); move each view to "
            "its own folder"
        )
    if localizers:
        files = ", ".join(file.name for file, _ in localizers[:3]) + ", ..." * (len(localizers) > 3)
        notes.append(
            f"{printable(folder)}: left out {_counted(len(localizers), 'slice')} of another plane (localizer): "
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


def _stack(
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
        repeated = np.diff(along) < 0.01 * max(np.diff(along).max(), 1e-6)
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
    normal = np.cross(*_axes(images[0][1]))
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
    _note_copies(folder, len(images) - len(kept), notes)
    return kept


def _differences(images: "list[tuple[Path, Dataset]]") -> str:
    """In which attribute images at the same position differ, for an error message."""
    for keyword, name in _VARIANTS.items():
        values = sorted({"/".join(_words(header.get(keyword))) for _, header in images})
        if 1 < len(values) <= len(images) / 2:
            return f" ({name} {printable(', '.join(values[:4]))}{', ...' * (len(values) > 4)})"
    return " (echoes, repetitions, or magnitude and phase)"


def _same_pixels(one: Path, other: Path) -> bool:
    from pydicom import dcmread

    with reading(other, "has the same position as another slice and is damaged; remove it"):
        first, second = (dcmread(file, force=True).get("PixelData") for file in (one, other))
    return first is not None and first == second


def geometry_of(series: Series) -> "VolumeGeometry":
    """Position, orientation and spacing of the volume of a series, from its headers.

    Raises:
        ValueError: the frames of a multi-frame image are not a regular stack.
    """
    import highdicom as hd

    first = series.headers[0]
    if series.is_multiframe:
        complete = copy.deepcopy(first)
        set_missing(complete)
        geometry = hd.Image.from_dataset(complete).get_volume_geometry(allow_duplicate_positions=False)
        if geometry is None:
            raise ValueError("the frames are not a regular stack")
        return geometry
    frame = first.get("FrameOfReferenceUID")
    return hd.VolumeGeometry.from_attributes(
        image_position=numbers_of(first, "ImagePositionPatient", 3) or [],
        image_orientation=numbers_of(first, "ImageOrientationPatient", 6) or [],
        pixel_spacing=numbers_of(first, "PixelSpacing", 2) or [],
        spacing_between_slices=series.step_mm,
        number_of_frames=series.shape[0],
        rows=series.shape[1],
        columns=series.shape[2],
        coordinate_system="PATIENT",
        frame_of_reference_uid=None if frame is None else str(frame),
    )


def set_missing(one: "Dataset") -> None:
    """Generates identifiers that are missing in a header, in place: highdicom needs them to build a volume."""
    from pydicom.uid import generate_uid

    for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID"):
        if not one.get(keyword):
            setattr(one, keyword, generate_uid())


def _frames(header: "Dataset") -> int:
    """The number of frames of an image."""
    return int(header.get("NumberOfFrames") or 1)


def numbers_of(header: "Dataset", keyword: str, count: int) -> list[float] | None:
    """The values of a numeric attribute; None if it is missing or invalid.

    Args:
        header: of a slice.
        keyword: of the attribute.
        count: the number of values that it must have.
    """
    try:
        values = [float(value) for value in header.get(keyword)]
    except (TypeError, ValueError):
        return None
    valid = len(values) == count and np.isfinite(values).all() and (keyword != "PixelSpacing" or min(values) > 0)
    return values if valid and (count != 6 or _spans_plane(values)) else None


def _spans_plane(cosines: list[float]) -> bool:
    """Whether the direction cosines of rows and columns are roughly orthogonal unit vectors."""
    row, column = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    return bool(min(lengths) > 0.9 and max(lengths) < 1.1 and abs(row @ column) < 0.1)


def _axes(header: "Dataset") -> np.ndarray:
    """The unit vectors along rows and columns, (2, 3)."""
    axes = np.array(numbers_of(header, "ImageOrientationPatient", 6)).reshape(2, 3)
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _words(value: Any) -> list[str]:
    """The values of an attribute as a list of strings in upper case, for an attribute of one or several values."""
    values = [value] if value is None or isinstance(value, str) or not hasattr(value, "__iter__") else value
    return [str(one).upper() for one in values if one is not None]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
