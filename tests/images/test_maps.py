import os

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.images.maps import is_map, write_map
from brainseg_tf.images.volume import read_volume
from helpers import AFFINE, make_brain


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_map_has_the_place_of_its_scan_and_nothing_else(tmp_path, kind):
    image = kind(make_brain(1)[0], AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=4)
    header = image.header
    header.set_xyzt_units("mm", "sec")
    header.set_intent("t test", (10,), name="Doe^John")
    header.set_dim_info(0, 1, 2)
    patient = b"Doe^John"
    text_fields = ("descrip", "aux_file", "intent_name", "data_type", "db_name", "unused_str")
    for name in text_fields:
        if name in header:
            header[name] = patient
    numbers = (
        "cal_max",
        "cal_min",
        "glmax",
        "glmin",
        "slice_end",
        "slice_duration",
        "slice_code",
        "toffset",
        "extents",
    )
    for name in numbers:
        if name in header:
            header[name] = 5
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", patient))
    nib.save(image, tmp_path / "scan.nii")
    assert patient in (tmp_path / "scan.nii").read_bytes()
    volume = read_volume(tmp_path / "scan.nii")
    write_map(tmp_path / "mask.nii", volume.data > 500, volume)
    assert patient not in (tmp_path / "mask.nii").read_bytes()
    assert is_map(tmp_path / "mask.nii") and not is_map(tmp_path / "scan.nii")
    mask = nib.load(tmp_path / "mask.nii")
    assert type(mask) is kind
    assert mask.header.get_intent() == ("none", (), "")
    assert mask.header["descrip"].item() == b"brainseg-tf"
    assert len(mask.header.extensions) == 0
    assert [mask.header[name].item() for name in numbers if name in mask.header] == [0.0] * (
        9 if "glmax" in header else 6
    )
    assert (mask.header["qform_code"], mask.header["sform_code"]) == (1, 4)
    np.testing.assert_allclose(mask.header.get_zooms(), (4, 4.2, 5), rtol=1e-6)
    assert mask.header.get_data_shape() == volume.source.shape
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_a_map_of_a_scan_without_qform_has_the_voxel_sizes_of_its_sform(tmp_path):
    image = nib.Nifti1Image(make_brain(1)[0], None)
    image.set_sform(AFFINE, code=2)
    image.header["pixdim"][1:4] = 1
    image.header["qform_code"] = 0
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    write_map(tmp_path / "mask.nii", volume.data > 500, volume)
    mask = nib.load(tmp_path / "mask.nii")
    np.testing.assert_allclose(mask.header["pixdim"][1:4], (4, 4.2, 5), rtol=1e-6)
    assert (mask.header["qform_code"], mask.header["sform_code"]) == (0, 2)


def test_maps_are_known_by_their_header(scan, tmp_path):
    volume = read_volume(scan)
    for name in ("mask.nii", "mask.nii.gz"):
        write_map(tmp_path / name, volume.data > 400, volume)
        assert is_map(tmp_path / name)
    (tmp_path / "text.nii.gz").write_text("no gzip")
    for other in (scan, tmp_path / "text.nii.gz", tmp_path / "missing.nii"):
        assert not is_map(other)


def test_a_map_in_the_other_byte_order_is_one_and_a_pipe_is_none(tmp_path):
    nib.save(nib.Nifti1Image(make_brain(1)[0], AFFINE, nib.Nifti1Header(endianness=">")), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    write_map(tmp_path / "mask.nii.gz", volume.data > 500, volume)
    assert is_map(tmp_path / "mask.nii.gz") and not is_map(tmp_path / "scan.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    assert not is_map(tmp_path / "pipe.nii")
