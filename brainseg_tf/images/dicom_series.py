"""Finds the slices of a DICOM series and their order from the headers; pixels are not needed."""

import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.dicom_files import check_installed, find_images, silence
from brainseg_tf.images.dicom_headers import CONVERT, VARIANTS, frames_of, numbers_of, set_missing, words_of
from brainseg_tf.images.dicom_stack import counted, note_copies, stack
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from highdicom import VolumeGeometry
    from pydicom import Dataset


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
        return frames_of(self.headers[0]) > 1


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
    if any("MOSAIC" in words_of(header.get("ImageType")) for header in headers):
        raise InputError(f"{printable(folder)}: contains mosaics (all slices tiled in one image); {CONVERT}")
    if any(int(header.get("SamplesPerPixel") or 1) > 1 for header in headers):
        raise InputError(f"{printable(folder)}: contains colour images; give the folder of a grey-scale series")
    if any(frames_of(header) > 1 for header in headers):
        return _multiframe(folder, images)
    images, step = stack(folder, images, notes)
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
            f"with {counted(count, 'file')}"
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
        keys = ("ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", *VARIANTS)
        content = tuple(str(header.get(key)) for key in keys)
        kept.setdefault((str(identifier), *content) if identifier else (file,), (file, header))
    note_copies(folder, len(images) - len(kept), notes)
    return list(kept.values())


def _multiframe(folder: Path, images: "list[tuple[Path, Dataset]]") -> Series:
    if len(images) > 1:
        raise InputError(
            f"{printable(folder)}: contains {len(images)} images, and some of them have several frames; "
            "move each to its own folder"
        )
    file, header = images[0]
    series = Series(folder, (file,), (header,), (frames_of(header), int(header.Rows), int(header.Columns)), 1.0)
    with reading(file, f"is a multi-frame image whose frames are not a regular stack; {CONVERT}"):
        geometry_of(series)
    return series


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
