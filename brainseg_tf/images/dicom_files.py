"""Which files of a folder are DICOM images: without a preamble too, past hidden files, directories and reports."""

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
# What ``is_dicom`` looks at.
START_BYTES = _PREAMBLE + len(_MAGIC)
# A file of such a name, or of a name like a slice's, that is not DICOM is a damaged slice.
_SUFFIXES = (".dcm", ".ima")
# macOS keeps what a foreign file system cannot hold in files ``._NAME`` of this content.
_APPLE_DOUBLE = (b"\x00\x05\x16\x00", b"\x00\x05\x16\x07")
EXPORT = "export the series again"
CUT = f"is damaged or cut off; {EXPORT}"


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM images, among whatever else; False for one that cannot be read.

    Files that cannot be read count too if they are named .dcm or .ima.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False
    return any(_may_be_image(Path(entry.path)) for entry in entries)


def is_dicom(start: bytes) -> bool:
    """Whether a file that starts so is DICOM: has its preamble, or a data set's first element in its place."""
    if start[_PREAMBLE:START_BYTES] == _MAGIC:
        return True
    return len(start) == START_BYTES and _starts_data_set(start)


def find_images(folder: Path) -> "list[tuple[Path, Dataset]]":
    """The images among a folder's files; what is neither an image nor a damaged one is passed over."""
    images: list[tuple[Path, Dataset]] = []
    others: list[tuple[Path, str]] = []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be read ({error.strerror}); change its permissions") from error
    for file in files:
        try:
            start = _start(file)
        except OSError as error:
            lost = isinstance(error, FileNotFoundError)
            fault = "is a link to a file that is not there; fetch it (git annex get, datalad get)"
            others.append((file, fault if lost else f"cannot be read ({error.strerror}); change its permissions"))
            continue
        if start is None or start[:4] in _APPLE_DOUBLE:
            continue
        header = _header(file, start) if is_dicom(start) else None
        if header is None:
            others.append((file, f"is no DICOM file, though named like the slices; remove it, or {EXPORT}"))
        elif _is_image(header):
            images.append((file, header))
    patterns = {_pattern(file) for file, _ in images}
    for file, fault in others:
        if _pattern(file) in patterns or file.name.lower().endswith(_SUFFIXES):
            raise InputError(f"{printable(file)}: {fault}")
    if not images:
        raise InputError(f"{printable(folder)}: is a folder without DICOM slices; name a scan")
    return images


def import_highdicom(place: Path) -> None:
    """Refuses DICOM where its library is not installed.

    Raises:
        InputError: it is not.
    """
    if not _is_installed():
        raise InputError(f"{printable(place)}: DICOM needs highdicom; pip install 'brainseg-tf[formats]'")


def silence() -> None:
    """Keeps the warnings of pydicom and highdicom off standard error: headers are rarely valid to the letter.

    The filter is not taken back. To do so would not be safe while another thread reads, and it concerns these two only.
    """
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom|brainseg_tf\.dicom\w*)(\..*)?$")
    for name in ("pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _is_installed() -> bool:
    return importlib.util.find_spec("highdicom") is not None


def _header(file: Path, start: bytes) -> "Dataset | None":
    """The data set of a DICOM file without its pixels; None if a file without preamble proves to be something else."""
    from pydicom import dcmread

    has_preamble = start[_PREAMBLE:] == _MAGIC
    try:
        with reading(file, CUT):
            header = dcmread(file, stop_before_pixels=True, force=not has_preamble)
            if has_preamble or "SOPClassUID" in header:
                _check_whole(file, header)
                return header
    except InputError:
        if has_preamble:
            raise
    return None


def _check_whole(file: Path, header: "Dataset") -> None:
    """Refuses an image without its size, which is one that was cut off: objects of other classes have none."""
    from pydicom.uid import UID

    # A DICOMDIR names its class in the file's own header only.
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    if "Rows" not in header and (kind is None or "Image Storage" in UID(str(kind)).name):
        raise InputError(f"{printable(file)}: {CUT}")


def _is_image(header: "Dataset") -> bool:
    """Whether a data set is an image: no directory, report, presentation state or segmentation."""
    return "Rows" in header and "Columns" in header and header.get("Modality") != "SEG"


def _may_be_image(file: Path) -> bool:
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
    except InputError:  # a damaged one, which ``find_series`` names
        return True
    return header is not None and _is_image(header)


def _start(file: Path) -> bytes | None:
    """The first bytes of a regular file, None for anything else.

    Raises:
        OSError: it cannot be read, or is a link to nothing.
    """
    # Not opened before it is known to be a file: a pipe would wait for ever.
    if not stat.S_ISREG(file.stat().st_mode):
        return None
    with file.open("rb") as content:
        return content.read(START_BYTES)


def _starts_data_set(start: bytes) -> bool:
    """Whether bytes are the first element of a data set, group 2 or 8: its tag, then a VR or a short length."""
    for order in ("little", "big"):
        group, element = (int.from_bytes(start[at : at + 2], order) for at in (0, 2))
        if group in (0x0002, 0x0008) and element <= 0x0070:
            return bool(re.match(rb"[A-Z]{2}", start[4:6])) or int.from_bytes(start[4:8], order) <= 1024
    return False


def _pattern(file: Path) -> str:
    """A name without what counts the slices."""
    return re.sub(r"\d+", "#", file.name)
