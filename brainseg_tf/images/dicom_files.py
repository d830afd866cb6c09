"""Finds the DICOM images among the files of a folder.

Images without a preamble are found too. Hidden files, DICOMDIR files, reports and other DICOM objects are ignored.
"""

import importlib.util
import logging
import os
import re
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from brainseg_tf.errors import InputError
from brainseg_tf.files import printable
from brainseg_tf.images.readers import reading

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC, _PREAMBLE = b"DICM", 128
# Number of bytes at the start of a file that ``is_dicom`` needs.
START_BYTES = _PREAMBLE + len(_MAGIC)
# A file with one of these suffixes that is not DICOM is treated as a damaged slice.
_SUFFIXES = (".dcm", ".ima")
# First bytes of AppleDouble files. On foreign file systems, macOS stores the metadata of a file in a file ``._NAME``.
_APPLE_DOUBLE = (b"\x00\x05\x16\x00", b"\x00\x05\x16\x07")
EXPORT = "export the series again"
DAMAGED = f"is damaged or cut off; {EXPORT}"


def is_series(folder: Path) -> bool:
    """Whether a folder contains DICOM images; False if the folder cannot be read.

    Files that cannot be read are counted as images if their suffix is .dcm or .ima.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    return any(_may_be_image(Path(entry.path)) for entry in entries)


def is_dicom(start: bytes, *, needs_preamble: bool = False) -> bool:
    """Whether a file is DICOM: it has the DICOM preamble, or starts with the first element of a data set.

    Args:
        start: the first ``START_BYTES`` bytes of the file.
        needs_preamble: only a file with the preamble is; for files without a header of their own, whose voxels can
            look like the element.
    """
    if start[_PREAMBLE:START_BYTES] == _MAGIC:
        return True
    return not needs_preamble and len(start) == START_BYTES and _starts_data_set(start)


def series_description(folder: Path) -> str:
    """The description of the series in a folder, otherwise the name of its protocol.

    Returns:
        The text as the scanner or its operator wrote it; empty if there is none, or no image can be read, or the images
        belong to several series.
    """
    try:
        files = sorted(folder.iterdir()) if _is_installed() else []
    except OSError:
        files = []
    silence()
    descriptions: dict[str, str] = {}
    for file in files:
        try:
            start = _start(file)
            header = _header(file, start) if start and is_dicom(start) else None
        except (OSError, InputError):  # ``find_series`` raises an error about such a file.
            continue
        if header is not None and _is_image(header):
            text = str(header.get("SeriesDescription") or header.get("ProtocolName") or "")
            descriptions.setdefault(str(header.get("SeriesInstanceUID")), text)
    return descriptions.popitem()[1] if len(descriptions) == 1 else ""


def find_images(folder: Path) -> "list[tuple[Path, Dataset]]":
    """The images in a folder and their headers; other files are ignored.

    Raises:
        InputError: the folder cannot be read or contains no images, or a file that is named like a slice is damaged,
            not readable or not DICOM.
    """
    images: list[tuple[Path, Dataset]] = []
    rejected: list[tuple[Path, str]] = []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be read ({error.strerror}); change its permissions") from error
    for file in files:
        try:
            start = _start(file)
        except OSError as error:
            is_broken_link = isinstance(error, FileNotFoundError)
            broken = "is a link to a file that does not exist; fetch it (git annex get, datalad get)"
            denied = f"cannot be read ({error.strerror}); change its permissions"
            rejected.append((file, broken if is_broken_link else denied))
            continue
        if start is None or start[:4] in _APPLE_DOUBLE:
            continue
        header = _header(file, start) if is_dicom(start) else None
        if header is None:
            rejected.append((file, f"is not a DICOM file, but is named like the slices; remove it, or {EXPORT}"))
        elif _is_image(header):
            images.append((file, header))
    patterns = {_pattern(file) for file, _ in images}
    for file, problem in rejected:
        if _pattern(file) in patterns or file.name.lower().endswith(_SUFFIXES):
            raise InputError(f"{printable(file)}: {problem}")
    if not images:
        raise InputError(f"{printable(folder)}: is a folder without DICOM slices; give a scan file or a DICOM folder")
    return images


def check_installed(folder: Path) -> None:
    """Checks that highdicom is installed.

    Args:
        folder: the DICOM folder, for the error message.

    Raises:
        InputError: highdicom is not installed.
    """
    if not _is_installed():
        raise InputError(f"{printable(folder)}: DICOM needs highdicom; pip install 'brainseg-tf[formats]'")


def silence() -> None:
    """Suppresses the warnings of pydicom and highdicom for the rest of the process.

    Many DICOM headers violate the standard in details that do not matter here. The warning filter is not removed
    afterwards, because that is not safe while another thread reads a series.
    """
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|brainseg_tf\.images\.dicom\w*)(\..*)?$")
    for name in ("pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _is_installed() -> bool:
    return importlib.util.find_spec("highdicom") is not None


def _header(file: Path, start: bytes) -> "Dataset | None":
    """The header of a DICOM file: its data set without the pixels.

    Returns:
        The header; None if a file without preamble is not DICOM.

    Raises:
        InputError: a file with preamble is damaged.
    """
    from pydicom import dcmread

    has_preamble = start[_PREAMBLE:] == _MAGIC
    try:
        with reading(file, DAMAGED):
            header = dcmread(file, stop_before_pixels=True, force=not has_preamble)
            if has_preamble or "SOPClassUID" in header:
                _check_complete(file, header)
                return header
    except InputError:
        if has_preamble:
            raise
    return None


def _check_complete(file: Path, header: "Dataset") -> None:
    """Checks that the header of an image has its number of rows.

    An image without it is truncated. DICOM objects other than images have no rows.

    Raises:
        InputError: the image is truncated.
    """
    from pydicom.uid import UID

    # A DICOMDIR has its class in the file meta information only.
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    if "Rows" not in header and (kind is None or "Image Storage" in UID(str(kind)).name):
        raise InputError(f"{printable(file)}: {DAMAGED}")


def _is_image(header: "Dataset") -> bool:
    """Whether a data set is an image, not a directory, report, presentation state or segmentation."""
    return "Rows" in header and "Columns" in header and header.get("Modality") != "SEG"


def _may_be_image(file: Path) -> bool:
    """Whether a file is a DICOM image, or may be a damaged one."""
    try:
        start = _start(file)
    except OSError:
        return file.name.lower().endswith(_SUFFIXES)
    if start is None or start[:4] in _APPLE_DOUBLE or not is_dicom(start):
        return False
    if not _is_installed():
        return start[_PREAMBLE:] == _MAGIC
    silence()
    try:
        header = _header(file, start)
    except InputError:  # ``find_series`` raises an error about the damaged file.
        return True
    return header is not None and _is_image(header)


def _start(file: Path) -> bytes | None:
    """The first bytes of a regular file; None for a folder or a special file.

    Raises:
        OSError: the file cannot be read, or is a broken link.
    """
    # Special files are not opened, because opening a pipe can block forever.
    if not stat.S_ISREG(file.stat().st_mode):
        return None
    with file.open("rb") as content:
        return content.read(START_BYTES)


def _starts_data_set(start: bytes) -> bool:
    """Whether bytes start with a data element of group 2 or 8: its tag, then a VR or a length of at most 1024."""
    for order in ("little", "big"):
        group, element = (int.from_bytes(start[offset : offset + 2], order) for offset in (0, 2))
        if group in (0x0002, 0x0008) and element <= 0x0070:
            return bool(re.match(rb"[A-Z]{2}", start[4:6])) or int.from_bytes(start[4:8], order) <= 1024
    return False


def _pattern(file: Path) -> str:
    """A file name with each number replaced by ``#``, to compare the names of slices."""
    return re.sub(r"\d+", "#", file.name)
