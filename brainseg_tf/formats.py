"""Opening a scan in any format: NIfTI and what else nibabel reads, NRRD and MetaImage, a folder of DICOM slices."""

import importlib.util
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage

from brainseg_tf import dicom
from brainseg_tf.errors import InputError

NIFTI = (".nii", ".nii.gz")
_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
# What a folder of scans is searched for; nibabel knows more.
SCANS = (*NIFTI, ".mgz", ".mgh", ".hdr", *_ITK)
# 640 voxels a side: more than any brain scan has, and what still fits into 4 GB while it is read.
MAX_VOXELS = 2**28
# What nibabel raises for headers and data that are not what they should be.
DAMAGE = (
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    MGHError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    zlib.error,
)


# Headers that are nonsense are refused by what comes out of them; no warning helps the user.
@np.errstate(all="ignore")
def open_image(path: Path) -> tuple[nib.Nifti1Pair, list[str]]:
    """Opens a scan as NIfTI, its voxels still on disk where the format allows; and says what is doubtful about it.

    Raises:
        InputError: it is missing, empty, of no format that is known here, or its reader is not installed.
    """
    if path.is_dir():
        if not dicom.is_series(path):
            raise InputError(f"{path}: is a folder without DICOM slices; name a scan")
        return dicom.read_series(path), []
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); copy or convert it again")
    if path.name.lower().endswith(_ITK):
        return _read_itk(path), []
    try:
        image = nib.load(path)
        if not isinstance(image, SpatialImage):
            raise InputError(f"{path}: holds no volume; convert the scan to .nii.gz first")
        check_shape(image.shape, path)
        if isinstance(image, nib.Nifti1Pair):
            return image, _doubts(image, path)
        converted = nib.Nifti1Image.from_image(image)
    except DAMAGE as error:
        raise InputError(f"{path}: is not a readable NIfTI file; convert it (for instance with dcm2niix)") from error
    # Only SPM's own .mat file tells where an Analyze volume lies.
    guessed = isinstance(image, AnalyzeImage) and not path.with_suffix(".mat").exists()
    doubts = [f"{path}: Analyze does not say left from right; taken as stored right to left"] if guessed else []
    return converted, doubts


def check_shape(shape: Sequence[int], path: Path) -> None:
    """Refuses a shape before memory is asked for.

    Raises:
        InputError: an axis has less than 1 voxel, or there are more in all than ``MAX_VOXELS``.
    """
    if min(shape, default=1) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        claimed = " x ".join(str(int(n)) for n in shape)
        raise InputError(f"{path}: the header claims {claimed} voxels, which no brain scan has; the header is damaged")


def stem(path: Path) -> str:
    """A scan's name without what its format adds to it."""
    for suffix in sorted(SCANS, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def _doubts(image: nib.Nifti1Pair, path: Path) -> list[str]:
    """What a NIfTI header leaves open about where the scan lies."""
    sform, qform = image.header.get_sform(coded=True), image.header.get_qform(coded=True)
    if sform[1] == 0 and qform[1] == 0:
        return [f"{path}: neither sform nor qform is set; its axes are taken for right to left, back to front, up"]
    if sform[1] and qform[1] and sform[0] is not None and qform[0] is not None:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
        ours, theirs = (nib.affines.apply_affine(affine, corners) for affine in (sform[0], qform[0]))
        apart = float(np.linalg.norm(ours - theirs, axis=1).max())
        if apart > 1.0:
            return [f"{path}: its sform and qform lie {apart:.0f} mm apart; the sform is used"]
    return []


def _read_itk(path: Path) -> nib.Nifti1Image:
    if importlib.util.find_spec("SimpleITK") is None:
        raise InputError(f"{path}: {path.suffix} needs SimpleITK; pip install 'brainseg-tf[formats]'")
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        check_shape(reader.GetSize(), path)
        if reader.GetNumberOfComponents() > 1:
            raise InputError(f"{path}: holds colours or vectors; convert it to one real value per voxel")
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path}: is damaged or cut off; copy or convert it again") from error
    data = SimpleITK.GetArrayFromImage(image).T
    affine = np.eye(4)
    if image.GetDimension() == 3:
        axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        # ITK's world is LPS, NIfTI's RAS.
        affine[:3, :3], affine[:3, 3] = np.diag([-1, -1, 1]) @ axes, np.array(image.GetOrigin()) * [-1, -1, 1]
    if not np.issubdtype(data.dtype, np.floating):
        data = data.astype(np.float32 if data.dtype.itemsize < 4 else np.float64)
    result = nib.Nifti1Image(data, affine)
    result.header.set_xyzt_units("mm")
    return result
