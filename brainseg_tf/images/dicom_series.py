"""The images of a DICOM series as a stack of slices, found from their headers alone."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.dicom_files import EXPORT, find_images, import_highdicom, silence
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from highdicom import VolumeGeometry
    from pydicom import Dataset

CONVERT = "convert it with dcm2niix"
# What the images at one position can differ in.
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
# A slice whose normal is further than this from that of most others belongs to a localizer, not to the stack.
_OTHER_PLANE_DEGREES = 20.0
# Up to this share of a series, and always up to three, such slices are left out.
_OTHER_PLANE_SHARE = 0.1
# Slices of one stack agree to this; headers hold few digits.
_SAME_PLANE_DEGREES = 0.5
# How far, in slice distances, a slice may lie from its place in a regular stack, and, in mm, from the stack's axis.
_UNEVEN, _SHIFTED_MM = 0.1, 1.0


@dataclass(frozen=True)
class Series:
    """The images of one series that make a volume, without their pixels.

    Attributes:
        folder: where they lie.
        files, headers: one per slice, along the stack; one for a multi-frame image.
        shape: slices, rows, columns.
        step_mm: from slice to slice.
        notes: what was left out, sentences for the user.
    """

    folder: Path
    files: tuple[Path, ...]
    headers: "tuple[Dataset, ...]"
    shape: tuple[int, int, int]
    step_mm: float
    notes: tuple[str, ...] = ()

    @property
    def is_multiframe(self) -> bool:
        """Whether one file holds all slices."""
        return _frames(self.headers[0]) > 1


def find_series(folder: Path) -> Series:
    """The series in a folder, from its headers.

    Raises:
        InputError: highdicom is missing, a slice is damaged or cannot be read, there are several series, or its
            slices are no regular stack.
    """
    import_highdicom(folder)
    silence()
    with reading(folder, f"its headers are damaged or invalid; {CONVERT}"):
        return _find_series(folder)


def _find_series(folder: Path) -> Series:
    images = _one_series(folder, find_images(folder))
    notes: list[str] = []
    images = _without_copies(folder, images, notes)
    headers = [header for _, header in images]
    if any("MOSAIC" in _words(header.get("ImageType")) for header in headers):
        raise InputError(f"{printable(folder)}: holds mosaics (all slices tiled in one image); {CONVERT}")
    if any(int(header.get("SamplesPerPixel") or 1) > 1 for header in headers):
        raise InputError(f"{printable(folder)}: holds images in colour; name a folder with a series of scans")
    if any(_frames(header) > 1 for header in headers):
        return _multiframe(folder, images)
    _check_places(folder, images)
    images = _one_plane(folder, images, notes)
    _check_sizes(folder, images)
    images, step = _stack(folder, images, notes)
    first = images[0][1]
    shape = (len(images), int(first.Rows), int(first.Columns))
    files, stacked = zip(*images, strict=True)
    return Series(folder, files, stacked, shape, step, tuple(notes))


def _one_series(folder: Path, images: "list[tuple[Path, Dataset]]") -> "list[tuple[Path, Dataset]]":
    numbers = Counter(str(header.get("SeriesInstanceUID")) for _, header in images)
    if len(numbers) > 1:
        known = {str(header.get("SeriesInstanceUID")): header for _, header in images}
        named = [
            f"{known[uid].get('SeriesNumber') or 'no number'} '{known[uid].get('SeriesDescription') or 'unnamed'}' "
            f"of {_counted(number, 'file')}"
            for uid, number in numbers.most_common(6)
        ]
        named += ["..."] * (len(numbers) > len(named))
        raise InputError(
            f"{printable(folder)}: holds {len(numbers)} DICOM series; give each a folder of its own "
            f"({printable(', '.join(named))})"
        )
    return images


def _without_copies(
    folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]
) -> "list[tuple[Path, Dataset]]":
    """One of the files that hold the same object; the same identifier alone does not tell: some anonymisers err."""
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
        verb = "is a copy of another; it is" if number == 1 else "are copies of others; they are"
        notes.append(f"{printable(folder)}: {_counted(number, 'file')} {verb} not used")


def _multiframe(folder: Path, images: "list[tuple[Path, Dataset]]") -> Series:
    if len(images) > 1:
        raise InputError(
            f"{printable(folder)}: holds {len(images)} images of which some have several frames; "
            "give each a folder of its own"
        )
    file, header = images[0]
    series = Series(folder, (file,), (header,), (_frames(header), int(header.Rows), int(header.Columns)), 1.0)
    with reading(file, f"is a multi-frame image whose frames are not one regular stack; {CONVERT}"):
        geometry_of(series)
    return series


def _check_places(folder: Path, images: "list[tuple[Path, Dataset]]") -> None:
    for keyword, name, count in (
        ("ImagePositionPatient", "position (Image Position (Patient))", 3),
        ("ImageOrientationPatient", "orientation (Image Orientation (Patient))", 6),
        ("PixelSpacing", "pixel size (Pixel Spacing)", 2),
    ):
        lacking = [file for file, header in images if numbers_of(header, keyword, count) is None]
        if lacking:
            raise InputError(
                f"{printable(folder)}: {len(lacking)} of {_counted(len(images), 'slice')} have no {name}, the first is "
                f"{printable(lacking[0].name)}; {EXPORT}"
            )


def _one_plane(folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]) -> "list[tuple[Path, Dataset]]":
    """The slices of the stack, without those of a localizer; refused if they lie in several planes."""
    named = [image for image in images if "LOCALIZER" in _words(image[1].get("ImageType"))]
    if 0 < len(named) < len(images):
        images = [image for image in images if image not in named]
    normals = np.array([np.cross(*_axes(header)) for _, header in images])
    apart = np.degrees(np.arccos(np.clip(np.abs(normals @ normals.T), 0, 1)))
    middle = int((apart < _SAME_PLANE_DEGREES).sum(axis=1).argmax())
    far = apart[middle] > _OTHER_PLANE_DEGREES
    if far.any() and far.sum() <= max(3, _OTHER_PLANE_SHARE * len(images)) and far.sum() < 0.5 * len(images):
        named += [image for image, away in zip(images, far, strict=True) if away]
        images = [image for image, away in zip(images, far, strict=True) if not away]
    axes = np.array([_axes(header) for _, header in images])
    tilted = np.degrees(np.arccos(np.clip((axes * axes[0]).sum(axis=2), -1, 1))).max(axis=1) > _SAME_PLANE_DEGREES
    if tilted.any():
        raise InputError(
            f"{printable(folder)}: its slices make no volume, they lie in several planes (a localizer, several views); "
            "give each view a folder of its own"
        )
    if named:
        which = ", ".join(file.name for file, _ in named[:3]) + ", ..." * (len(named) > 3)
        notes.append(
            f"{printable(folder)}: {_counted(len(named), 'slice')} of another plane (localizer) left out: "
            f"{printable(which)}"
        )
    return images


def _check_sizes(folder: Path, images: "list[tuple[Path, Dataset]]") -> None:
    """Refuses slices of several sizes, naming one that differs from most."""

    def pixels(header: "Dataset") -> tuple[Any, ...]:
        return int(header.Rows), int(header.Columns)

    def millimetres(header: "Dataset") -> tuple[Any, ...]:
        return tuple(float(f"{size:.3g}") for size in numbers_of(header, "PixelSpacing", 2) or ())

    kinds: tuple[tuple[Callable[[Dataset], tuple[Any, ...]], str], ...] = ((pixels, "pixels"), (millimetres, "mm"))
    for size, unit in kinds:
        usual = Counter(size(header) for _, header in images).most_common(1)[0][0]
        for file, header in images:
            if size(header) != usual:
                theirs, ours = (" x ".join(str(n) for n in one) for one in (usual, size(header)))
                raise InputError(
                    f"{printable(folder)}: its slices make no volume, {printable(file.name)} has {ours} {unit} "
                    f"where others have {theirs}; remove it, or {EXPORT}"
                )


def _stack(
    folder: Path, images: "list[tuple[Path, Dataset]]", notes: list[str]
) -> "tuple[list[tuple[Path, Dataset]], float]":
    """The slices in the order of their positions, and the millimetres from one to the next."""
    places, across = _project(images)
    order = np.argsort(places, kind="stable")
    images, places = [images[i] for i in order], places[order]
    if len(images) > 1:
        repeated = np.diff(places) < 0.01 * max(np.diff(places).max(), 1e-6)
        if np.ptp(places) < 1e-3:
            repeated[:] = True
        images = _without_repeats(folder, images, repeated, notes)
        places, across = _project(images)
    if len(images) < 2:
        raise InputError(f"{printable(folder)}: holds one slice; name a folder with all slices of a series")
    gaps = np.diff(places)
    step = float(np.median(gaps))
    if gaps.max() > 1.5 * step:
        after = int(gaps.argmax())
        raise InputError(
            f"{printable(folder)}: its slices make no volume, they lie {step:.3g} mm apart but {gaps[after]:.3g} mm "
            f"after {printable(images[after][0].name)}: slices are missing; {EXPORT}"
        )
    count = np.arange(len(places))
    slope, offset = np.polyfit(count, places, 1)
    if np.abs(places - slope * count - offset).max() > _UNEVEN * step:
        raise InputError(
            f"{printable(folder)}: its slices make no volume, they lie {gaps.min():.3g} to {gaps.max():.3g} mm apart; "
            f"{CONVERT}"
        )
    shift = float(np.linalg.norm(across[-1] - across[0]))
    if shift > _SHIFTED_MM:
        degrees = np.degrees(np.arctan2(shift, places[-1] - places[0]))
        raise InputError(
            f"{printable(folder)}: its slices make no volume, each is shifted against the one before "
            f"(gantry tilt of {degrees:.0f} degrees); {CONVERT}"
        )
    return images, float(slope)


def _project(images: "Sequence[tuple[Path, Dataset]]") -> tuple[np.ndarray, np.ndarray]:
    """Positions of the slices along their normal, (N,), and what is left of them across it, (N, 3); both in mm."""
    positions = np.array([numbers_of(header, "ImagePositionPatient", 3) for _, header in images])
    normal = np.cross(*_axes(images[0][1]))
    places = positions @ normal
    return places, positions - places[:, None] * normal


def _without_repeats(
    folder: Path, images: "list[tuple[Path, Dataset]]", repeated: np.ndarray, notes: list[str]
) -> "list[tuple[Path, Dataset]]":
    """One image at each position: the others must be the same, else it is not known which one is meant."""
    kept = [images[0]]
    for image, again in zip(images[1:], repeated, strict=True):
        if not again:
            kept.append(image)
        elif not _same_pixels(kept[-1][0], image[0]):
            starts = np.flatnonzero(np.r_[True, ~repeated])
            most = int(np.diff(np.r_[starts, len(images)]).max())
            raise InputError(
                f"{printable(folder)}: holds up to {most} images at one position{_differences(images)}; "
                f"give each kind a folder of its own, or {CONVERT}"
            )
    _note_copies(folder, len(images) - len(kept), notes)
    return kept


def _differences(images: "list[tuple[Path, Dataset]]") -> str:
    """What distinguishes images at one position: echoes, magnitude and phase, time points."""
    for keyword, name in _VARIANTS.items():
        values = sorted({"/".join(_words(header.get(keyword))) for _, header in images})
        if 1 < len(values) <= len(images) / 2:
            return f" ({name} {printable(', '.join(values[:4]))}{', ...' * (len(values) > 4)})"
    return " (echoes, repetitions, or magnitude and phase)"


def _same_pixels(one: Path, other: Path) -> bool:
    from pydicom import dcmread

    with reading(other, "has the position of another slice, and is damaged; remove it"):
        first, second = (dcmread(file, force=True).get("PixelData") for file in (one, other))
    return first is not None and first == second


def geometry_of(series: Series) -> "VolumeGeometry":
    """Where the volume of a series lies, from its headers; ValueError if a multi-frame image is no regular stack."""
    import highdicom as hd

    first = series.headers[0]
    if series.is_multiframe:
        complete = copy.deepcopy(first)
        set_missing(complete)
        geometry = hd.Image.from_dataset(complete).get_volume_geometry(allow_duplicate_positions=False)
        if geometry is None:
            raise ValueError("no regular stack")
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
    """What a volume needs no value of, but highdicom asks for."""
    from pydicom.uid import generate_uid

    for keyword in ("FrameOfReferenceUID", "SeriesInstanceUID"):
        if not one.get(keyword):
            setattr(one, keyword, generate_uid())


def _frames(header: "Dataset") -> int:
    return int(header.get("NumberOfFrames") or 1)


def numbers_of(header: "Dataset", keyword: str, count: int) -> list[float] | None:
    """An attribute's numbers, None if there are not so many, or if they are none."""
    try:
        values = [float(value) for value in header.get(keyword)]
    except (TypeError, ValueError):
        return None
    good = len(values) == count and np.isfinite(values).all() and (keyword != "PixelSpacing" or min(values) > 0)
    return values if good and (count != 6 or _spans_plane(values)) else None


def _spans_plane(cosines: list[float]) -> bool:
    row, column = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    return bool(min(lengths) > 0.9 and max(lengths) < 1.1 and abs(row @ column) < 0.1)


def _axes(header: "Dataset") -> np.ndarray:
    """(2, 3): the unit vectors along rows and columns."""
    axes = np.array(numbers_of(header, "ImageOrientationPatient", 6)).reshape(2, 3)
    return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _words(value: Any) -> list[str]:
    """An attribute of one or several words, in capitals."""
    many = [value] if value is None or isinstance(value, str) or not hasattr(value, "__iter__") else value
    return [str(one).upper() for one in many if one is not None]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
