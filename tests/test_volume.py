import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.volume import read_mask, read_on_same_grid, read_volume, write_map

AXES = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


def oblique(order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.2) -> np.ndarray:
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.eye(3)[:, list(order)] @ np.diag(np.array(signs) * [0.9, 1.1, 3.0])
    affine[:3, 3] = [12.5, -7, 31]
    return affine


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_any_orientation_becomes_lps_and_returns_exactly(tmp_path, order, signs):
    data = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    source = nib.Nifti1Image(data, oblique(order, signs))
    source.set_qform(source.affine, code=1)
    source.set_sform(source.affine, code=2)
    nib.save(source, tmp_path / "in.nii")
    volume = read_volume(tmp_path / "in.nii")
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    index = np.argwhere(data == 100)[0]
    turned = np.argwhere(volume.data == 100)[0]
    np.testing.assert_allclose(
        nib.affines.apply_affine(source.affine, index), nib.affines.apply_affine(volume.affine, turned), atol=1e-4
    )
    write_map(tmp_path / "out.nii.gz", volume.data, volume)
    back = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(back.get_fdata(), data)
    for form in ("get_sform", "get_qform"):
        ours, code = getattr(back.header, form)(coded=True)
        theirs, expected = getattr(nib.load(tmp_path / "in.nii").header, form)(coded=True)
        assert code == expected
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "u2", "<f4", "f8", ">f8"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_dtypes_scaling_and_endianness(tmp_path, dtype, kind):
    data = (np.arange(4 * 5 * 6) % 200).reshape(4, 5, 6).astype(dtype)
    image = kind(data, np.diag([2, 2, 2.5, 1]), kind.header_class(endianness=">" if ">" in dtype else "<"))
    image.header.set_slope_inter(0.5, 3)
    image.header.set_data_dtype(dtype)
    nib.save(image, tmp_path / "in.nii.gz")
    volume = read_volume(tmp_path / "in.nii.gz")
    expected = nib.load(tmp_path / "in.nii.gz").get_fdata()
    np.testing.assert_allclose(volume.data, expected[::-1, ::-1], rtol=1e-6)
    assert volume.voxel_ml == pytest.approx(0.01)
    write_map(tmp_path / "mask.nii", volume.data > 50, volume)
    mask = nib.load(tmp_path / "mask.nii")
    assert type(mask) is kind
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), (expected > 50).astype(np.uint8))


def test_a_single_frame_is_squeezed(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6, 1))
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "in.nii")
    assert read_volume(tmp_path / "in.nii").data.shape == (4, 5, 6)


def damaged(folder: Path, what: str) -> Path:
    file = folder / f"{what.replace(' ', '_')}.nii.gz"
    data = np.random.default_rng(0).random((12, 11, 10)).astype(np.float32)
    if what == "empty":
        file.touch()
    elif what == "text":
        file.write_text("this is no image")
    elif what == "truncated":
        nib.save(nib.Nifti1Image(data, np.eye(4)), file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif what == "truncated nii":
        file = file.with_suffix("")
        nib.save(nib.Nifti1Image(data, np.eye(4)), file)
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "4D":
        nib.save(nib.Nifti1Image(np.stack([data, data], -1), np.eye(4)), file)
    elif what == "2D":
        nib.save(nib.Nifti1Image(data[..., 0], np.eye(4)), file)
    elif what == "zero":
        nib.save(nib.Nifti1Image(data * 0, np.eye(4)), file)
    elif what == "constant":
        nib.save(nib.Nifti1Image(data * 0 + 3, np.eye(4)), file)
    elif what == "nan":
        data[3, 3, 3] = np.nan
        nib.save(nib.Nifti1Image(data, np.eye(4)), file)
    elif what == "infinite":
        data[3, 3, 3] = np.inf
        nib.save(nib.Nifti1Image(data, np.eye(4)), file)
    elif what == "colour":
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), file)
    elif what == "no affine":
        image = nib.Nifti1Image(data, None)
        image.header["srow_x"], image.header["sform_code"] = 0, 1
        nib.save(image, file)
    elif what == "flat axes":
        nib.save(
            nib.Nifti1Image(data, np.diag([1, 1, 1, 1]) + 1e5 * np.eye(4)[[1, 0, 3, 2]] @ np.diag([1, 0, 0, 0])), file
        )
    elif what == "metres":
        nib.save(nib.Nifti1Image(data, np.diag([500, 500, 500, 1])), file)
    elif what == "huge":
        header = nib.Nifti1Header()
        header.set_data_shape((30000, 30000, 30000))
        header["magic"], header["vox_offset"] = b"n+1", 352
        file = file.with_suffix("")
        file.write_bytes(header.binaryblock + bytes(100))
    elif what == "negative":
        file = file.with_suffix("")
        nib.save(nib.Nifti1Image(data, np.eye(4)), file)
        content = bytearray(file.read_bytes())
        content[42:44] = (-12).to_bytes(2, "little", signed=True)  # dim[1]
        file.write_bytes(content)
    elif what == "folder":
        file.mkdir()
    return file


DAMAGES = {
    "missing": "no such file",
    "folder": "is a folder",
    "empty": r"is empty \(0 bytes\)",
    "text": "not a readable NIfTI file",
    "truncated": "damaged or cut off",
    "truncated nii": "damaged or cut off",
    "4D": r"has shape \(12, 11, 10, 2\); one 3D volume is needed",
    "2D": r"has shape \(12, 11\)",
    "zero": "is 0 everywhere",
    "constant": "is 3 everywhere",
    "nan": "NaN or infinite",
    "infinite": "NaN or infinite",
    "colour": "colours or complex",
    "no affine": "no usable orientation",
    "flat axes": "no usable orientation",
    "metres": "claims a field of 6 m",
    "huge": "which no brain scan has",
    "negative": "which no brain scan has|not a readable NIfTI file",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_unusable_files_are_named(tmp_path, what):
    file = damaged(tmp_path, what)
    with pytest.raises(InputError, match=DAMAGES[what]) as error:
        read_volume(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mask_on_another_grid_is_refused(tmp_path, scan):
    volume = read_volume(scan)
    shifted = volume.source.affine.copy()
    shifted[0, 3] += 1
    data = np.asanyarray(volume.source.dataobj)
    nib.save(nib.Nifti1Image(data, shifted), tmp_path / "shifted.nii")
    nib.save(nib.Nifti1Image(data[:-1], volume.source.affine), tmp_path / "smaller.nii")
    for name in ("shifted.nii", "smaller.nii"):
        for read in (read_mask, read_on_same_grid):
            with pytest.raises(InputError, match="another grid"):
                read(tmp_path / name, volume)
    np.testing.assert_array_equal(read_mask(scan, volume), volume.data > 0)


def test_maps_need_a_nifti_name(tmp_path, scan):
    volume = read_volume(scan)
    with pytest.raises(InputError, match=r"must end in \.nii"):
        write_map(tmp_path / "mask.png", volume.data, volume)
