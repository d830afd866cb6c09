import itertools

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.images.maps import write_map
from brainseg_tf.images.volume import (
    is_whole,
    read_mask,
    read_on_same_grid,
    read_segmentation,
    read_volume,
)
from helpers import AFFINE, DAMAGES, damaged, make_brain, save

# Voxels of 1 ml, so that a small array has the size of a head.
LARGE = np.diag([10.0, 10, 10, 1])


def oblique(order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.2) -> np.ndarray:
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.eye(3)[:, list(order)] @ np.diag(np.array(signs) * [9, 11, 30])
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
        written, code = getattr(back.header, form)(coded=True)
        expected, expected_code = getattr(nib.load(tmp_path / "in.nii").header, form)(coded=True)
        assert code == expected_code
        np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "u2", "<f4", "f8", ">f8"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_dtypes_scaling_and_endianness(tmp_path, dtype, kind):
    data = (np.arange(4 * 5 * 6) % 200).reshape(4, 5, 6).astype(dtype)
    image = kind(data, np.diag([20, 20, 25, 1]), kind.header_class(endianness=">" if ">" in dtype else "<"))
    image.header.set_slope_inter(0.5, 3)
    image.header.set_data_dtype(dtype)
    nib.save(image, tmp_path / "in.nii.gz")
    volume = read_volume(tmp_path / "in.nii.gz")
    expected = nib.load(tmp_path / "in.nii.gz").get_fdata()
    np.testing.assert_allclose(volume.data, expected[::-1, ::-1], rtol=1e-6)
    assert volume.voxel_ml == pytest.approx(10)
    write_map(tmp_path / "mask.nii", volume.data > 50, volume)
    mask = nib.load(tmp_path / "mask.nii")
    assert type(mask) is kind
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mask.dataobj), (expected > 50).astype(np.uint8))


def test_a_single_frame_is_squeezed(tmp_path):
    data = np.random.default_rng(0).random((4, 5, 6, 1))
    nib.save(nib.Nifti1Image(data, LARGE), tmp_path / "in.nii")
    assert read_volume(tmp_path / "in.nii").data.shape == (4, 5, 6)


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


def test_several_volumes_of_any_size_are_called_so(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((256, 256, 60, 80))
    (tmp_path / "scan.nii").write_bytes(header.binaryblock + bytes(1000))
    with pytest.raises(InputError, match="has shape 256 x 256 x 60 x 80; one 3D volume is needed, extract one"):
        read_volume(tmp_path / "scan.nii")


def test_maps_need_a_nifti_name(tmp_path, scan):
    volume = read_volume(scan)
    with pytest.raises(InputError, match=r"must end in \.nii"):
        write_map(tmp_path / "mask.png", volume.data, volume)


# --- Units and sizes ---

UNITS_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def in_unit(path, unit, affine, data=None):
    """Writes a scan with a unit of length in its header, and with qform and sform set."""
    image = nib.Nifti1Image(make_brain(1)[0] if data is None else data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, path)
    return path


def scaled(affine, factor):
    return np.diag([factor, factor, factor, 1]) @ affine


@pytest.mark.parametrize("unit", UNITS_MM)
def test_a_header_in_any_unit_is_read_in_millimetres_and_the_mask_has_its_unit(tmp_path, unit):
    affine = scaled(AFFINE, 1 / UNITS_MM[unit])
    path = in_unit(tmp_path / "scan.nii.gz", unit, affine)
    volume = read_volume(path)
    expected = read_volume(in_unit(tmp_path / "mm.nii.gz", "mm", AFFINE))
    assert volume.warnings == ()
    np.testing.assert_allclose(volume.affine, expected.affine, rtol=1e-5, atol=1e-3)
    assert volume.voxel_ml == pytest.approx(4 * 4.2 * 5 / 1000, rel=1e-5)
    write_map(tmp_path / "mask.nii.gz", volume.data > 500, volume)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.header.get_xyzt_units() == (unit, "unknown")
    np.testing.assert_allclose(mask.affine, affine, rtol=1e-5)
    np.testing.assert_allclose(mask.header.get_zooms(), nib.affines.voxel_sizes(affine), rtol=1e-5)
    # Grids are compared in millimetres, so the masks can have different units.
    in_mm = save(expected.data[::-1, ::-1] > 500, tmp_path / "other.nii.gz")
    assert volume.source.shape == nib.load(in_mm).shape
    read_mask(tmp_path / "mask.nii.gz", expected)


@pytest.mark.parametrize(("unit", "field"), [("meter", "197 m"), ("micron", "197 micrometres")])
def test_a_unit_that_no_head_fits_gives_way_to_millimetres(tmp_path, unit, field):
    volume = read_volume(in_unit(tmp_path / "scan.nii.gz", unit, AFFINE))
    np.testing.assert_allclose(volume.spacing, (4, 4.2, 5), rtol=1e-5)
    assert len(volume.warnings) == 1
    assert f"which gives a field of view of {field}; the sizes are read as millimetres" in volume.warnings[0]
    write_map(tmp_path / "mask.nii.gz", volume.data > 500, volume)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(mask.affine, AFFINE)


def test_an_unknown_unit_code_is_read_as_millimetres(tmp_path):
    path = in_unit(tmp_path / "scan.nii", "mm", AFFINE)
    content = bytearray(path.read_bytes())
    content[123] = 7  # xyzt_units
    path.write_bytes(content)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, (4, 4.2, 5), rtol=1e-5)
    write_map(tmp_path / "mask.nii", volume.data > 500, volume)
    assert nib.load(tmp_path / "mask.nii").header.get_xyzt_units()[0] == "unknown"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0.05, 0.05, 0.05), r"a field of 1.15 mm x 2.15 mm x 2.35 mm, too small for a head; repair its voxel sizes"),
        ((0.2, 0.2, 5), r"a field of 8.6 mm x 9.4 mm x 115 mm, too small for a head; repair"),
        ((4, 4, 0.01), r"a voxel size of 10 micrometres; repair"),
        ((60, 4, 4), r"a field of 2.58 m, too large for a head; repair"),
    ],
)
@pytest.mark.parametrize("unit", ["mm", "unknown"])
def test_sizes_that_no_head_has_are_refused(tmp_path, sizes, message, unit):
    with pytest.raises(InputError, match=message):
        read_volume(in_unit(tmp_path / "scan.nii.gz", unit, np.diag([*sizes, 1.0])))


def test_a_slab_of_two_thin_slices_is_not_refused_as_too_small(tmp_path):
    slab = in_unit(tmp_path / "slab.nii.gz", "mm", np.diag([4, 4.2, 1.0, 1]), make_brain(1)[0][:, :, 10:12])
    assert read_volume(slab).data.shape == (43, 47, 2)


# --- Values ---


@pytest.mark.parametrize("factor", [1e30, 1e40, 1e200, 1e-12, 1e-50, 1e-300])
def test_values_that_float32_cannot_hold_are_scaled(tmp_path, factor):
    data = make_brain(1)[0].astype(np.float64)
    volume = read_volume(save(data * factor, tmp_path / "scan.nii.gz"))
    expected = read_volume(save(data, tmp_path / "plain.nii.gz"))
    assert expected.warnings == ()
    np.testing.assert_allclose(volume.data, expected.data * (1000 / data.max()), rtol=1e-5)
    (warning,) = volume.warnings
    maximum = f"{data.max() * factor:.3g}"
    assert f"the largest magnitude of its values is {maximum}; they are scaled to a maximum of 1000" in warning


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_values_within_the_range_of_float32_are_not_scaled(tmp_path, factor):
    data = make_brain(1)[0] * factor
    volume = read_volume(save(data, tmp_path / "scan.nii.gz"))
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    assert volume.warnings == ()


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e100])
@pytest.mark.parametrize("where", ["background", "one voxel"])
def test_a_value_out_of_all_proportion_is_refused(tmp_path, value, where):
    data = make_brain(1)[0].astype(np.float64)
    data[data == 0 if where == "background" else (20, 20, 10)] = value
    with pytest.raises(InputError, match="far outside the range of the others; replace them by 0"):
        read_volume(save(data, tmp_path / "scan.nii.gz"))


# --- Masks and segmentations ---


@pytest.fixture
def volume(scan):
    return read_volume(scan)


def on_grid(path, data, affine=AFFINE):
    """Writes data on the grid of the test scans. ``AFFINE`` has LPS axes, so the voxels are not reordered when read."""
    image = nib.Nifti1Image(data, affine)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("change", "same"),
    [
        # 47 voxels of 4.2 mm: the far corner is shifted by 0.0096 x 46 = 0.44 mm and 0.0015 x 46 = 0.07 mm.
        (np.diag([1, 4.2096 / 4.2, 1, 1]), False),
        (np.diag([1, 4.2015 / 4.2, 1, 1]), True),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.15 / 5], [0, 0, 0, 1]]), False),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.05 / 5], [0, 0, 0, 1]]), True),
    ],
)
def test_grids_are_compared_where_they_are_furthest_apart(tmp_path, volume, change, same):
    data = np.zeros(volume.source.shape, np.uint8)
    data[20:23, 20:23, 10] = 1
    mask = on_grid(tmp_path / "mask.nii.gz", data, AFFINE @ change)
    if same:
        assert read_mask(mask, volume).sum() == 9
        return
    message = r"another grid than .*scan\.nii\.gz \(corners differ by up to \d+ micrometres\)"
    with pytest.raises(InputError, match=message):
        read_mask(mask, volume)


@pytest.mark.parametrize("read", [read_mask, read_segmentation])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_with_nan_is_refused(tmp_path, volume, read, value):
    data = np.zeros(volume.source.shape, np.float32)
    data[20, 20, 10] = value
    with pytest.raises(InputError, match="NaN or infinite values"):
        read(on_grid(tmp_path / "mask.nii.gz", data), volume)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_of_any_type_are_a_segmentation(tmp_path, volume, dtype):
    data = np.zeros(volume.source.shape, dtype)
    data[20:23, 20, 10], data[20:22, 21, 10], data[20, 22, 10] = 1, 2, 4
    found = read_segmentation(on_grid(tmp_path / "seg.nii.gz", data), volume)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, data > 0)


def test_a_segmentation_may_be_empty_or_scaled(tmp_path, volume):
    data = np.zeros(volume.source.shape, np.uint8)
    assert not read_segmentation(on_grid(tmp_path / "empty.nii.gz", data), volume).any()
    data[20:23, 20, 10] = 255
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(1 / 255, 0)
    nib.save(image, tmp_path / "scaled.nii.gz")
    # 255 times the stored slope of 1 / 255 in float32 is not exactly 1.
    assert read_segmentation(tmp_path / "scaled.nii.gz", volume).sum() == 3


def wrong_segmentation(what, scan):
    truth = np.zeros(scan.shape, np.float32)
    truth[20:23, 20, 10] = 1
    if what == "probabilities":
        return np.where(truth > 0, 0.7, 0).astype(np.float32)
    if what == "negative":
        return truth - 1
    if what == "ones":
        return np.ones_like(truth)
    if what == "brain":
        return (scan > 0).astype(np.float32)
    return np.rint(scan)  # The scan itself, with integer values.


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("probabilities", "contains fractions, like a probability map"),
        ("negative", "contains negative numbers"),
        ("ones", r"covers 100 % of the head and 100 % of the field of view"),
        ("brain", r"covers 100 % of the head"),
        ("scan", r"covers 100 % of the head"),
    ],
)
def test_an_image_that_is_not_a_segmentation_is_refused(tmp_path, volume, what, message):
    data = wrong_segmentation(what, make_brain(1)[0])
    path = on_grid(tmp_path / "seg.nii.gz", data)
    with pytest.raises(InputError, match=message) as error:
        read_segmentation(path, volume)
    assert str(path) in str(error.value)


def test_a_segmentation_of_nearly_a_whole_scan_without_background_is_refused(tmp_path):
    data = make_brain(1)[0][12:31, 14:33, 6:17]  # inside the brain
    scan = read_volume(on_grid(tmp_path / "scan.nii.gz", data))
    for share, refused in ((0.9, True), (0.4, False)):
        seg = np.zeros(data.shape, np.uint8)
        seg[: round(share * len(seg))] = 1
        path = on_grid(tmp_path / f"seg{share}.nii.gz", seg)
        if refused:
            with pytest.raises(InputError, match="% of the head"):
                read_segmentation(path, scan)
        else:
            np.testing.assert_array_equal(read_segmentation(path, scan), seg > 0)


def test_is_whole_detects_damaged_and_missing_files(tmp_path, scan):
    assert is_whole(scan)
    (tmp_path / "cut.nii.gz").write_bytes(scan.read_bytes()[:-200])
    (tmp_path / "empty.nii.gz").touch()
    assert not any(is_whole(tmp_path / name) for name in ("cut.nii.gz", "empty.nii.gz", "missing.nii.gz"))
