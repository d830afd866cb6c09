from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import brainseg_tf
from brainseg_tf.errors import InputError
from brainseg_tf.options import CompareOptions, SegmentationOptions
from helpers import AFFINE, FAST, TWO_SESSIONS, call, make_brain, save

# As the command with FAST.
QUICK = SegmentationOptions(median=(3, 3, 3))


@pytest.fixture(scope="module")
def model(trained: Path) -> brainseg_tf.Model:
    return brainseg_tf.load_model(str(trained), options=QUICK, brain="stripped")


def test_the_result_is_that_of_the_command(model, trained, scan, tmp_path):
    maps = {"probability": tmp_path / "p.nii.gz", "residual": tmp_path / "r.nii.gz", "suspicion": tmp_path / "s.nii.gz"}
    outputs = [part for name, path in maps.items() for part in (f"--save-{name}", path)]
    command = ("predict", scan, "--out", tmp_path / "mask.nii.gz", "--model", trained, "--brain", "stripped", *FAST)
    assert call(*command, *outputs).exit_code == 0
    found = brainseg_tf.predict(scan, model=model)
    for name, path in {"mask": tmp_path / "mask.nii.gz", **maps}.items():
        ours, written = getattr(found, name), nib.load(path)
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(written.dataobj))
        np.testing.assert_array_equal(ours.affine, written.affine)
        assert ours.get_data_dtype() == written.get_data_dtype()
    voxel_ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert found.lesion_ml == pytest.approx(np.asarray(found.mask.dataobj).sum() * voxel_ml) and found.lesion_ml > 5
    assert len(found.lesions) == 1 and found.warnings == []


def test_an_image_and_an_array_give_the_same_as_the_file(model, scan):
    from_file = np.asarray(brainseg_tf.predict(str(scan), model=model).mask.dataobj)
    image = nib.load(scan)
    data = np.asarray(image.dataobj)
    for given in (image, (data, image.affine), (data.astype(np.float64), image.affine)):
        found = brainseg_tf.predict(given, model=model)
        np.testing.assert_array_equal(np.asarray(found.mask.dataobj), from_file)
        np.testing.assert_allclose(found.mask.affine, image.affine)
    # Another orientation of the same array: the mask has that orientation too.
    turned = nib.as_closest_canonical(image)
    found = brainseg_tf.predict(turned, model=model)
    assert nib.aff2axcodes(found.mask.affine) == ("R", "A", "S") != nib.aff2axcodes(image.affine)
    back = nib.orientations.ornt_transform(nib.io_orientation(turned.affine), nib.io_orientation(image.affine))
    np.testing.assert_array_equal(np.asarray(found.mask.as_reoriented(back).dataobj), from_file)


def test_a_brain_mask_can_be_an_array(model, scan, tmp_path):
    image = nib.load(scan)
    brain = np.asarray(image.dataobj) > 0
    path = save(brain, tmp_path / "brain.nii.gz")
    masks = [
        np.asarray(brainseg_tf.predict(scan, model=model, brain_mask=given).brain.dataobj)
        for given in (path, (brain, image.affine), nib.load(path))
    ]
    for mask in masks:
        np.testing.assert_array_equal(mask > 0, brain)
    with pytest.raises(InputError, match="the brain mask: lies on another grid than"):
        brainseg_tf.predict(scan, model=model, brain_mask=(brain, AFFINE @ np.diag([2, 1, 1, 1])))


def test_what_cannot_be_used_is_one_line(model, scan, tmp_path):
    data = make_brain(1)[0]
    with pytest.raises(InputError, match="needs the modalities none besides the scan, t2 given"):
        brainseg_tf.predict(scan, model=model, modalities={"t2": scan})
    with pytest.raises(InputError, match="needs the modalities t2 besides the scan, none given"):
        brainseg_tf.predict(scan, model="selfseg-flair-t2")
    far = AFFINE + np.array([[0, 0, 0, 900.0]] + 3 * [[0, 0, 0, 0]])
    with pytest.raises(InputError, match="t2: cannot be registered to the scan, because the two do not overlap"):
        brainseg_tf.predict((data, AFFINE), modalities={"t2": (data[:-1], far)})
    with pytest.raises(InputError, match="the scan: contains NaN"):
        brainseg_tf.predict((np.full_like(data, np.nan), AFFINE), model=model)
    with pytest.raises(InputError, match=r"the scan: has shape \(43, 47\)"):
        brainseg_tf.predict((data[..., 0], AFFINE), model=model)
    with pytest.raises(InputError, match="no such file"):
        brainseg_tf.predict(tmp_path / "gone.nii.gz", model=model)
    with pytest.raises(AttributeError, match="no attribute 'predictions'"):
        _ = brainseg_tf.predictions


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((4, 5, 6)), "the scan: is no image with a position; give a path, a nibabel image, or"),
        (nib.Nifti1Image(np.ones((4, 5, 6), np.float32), None), "the scan: is no image with a position"),
        ((np.ones((4, 5, 6), complex), AFFINE), "the scan: its values are not real numbers"),
        ((np.ones((4, 5, 6), [("R", "u1"), ("G", "u1")]), AFFINE), "the scan: its values are not real numbers"),
        (7, "the scan: is no image with a position"),
    ],
)
def test_what_is_no_scan_is_refused(image, message):
    with pytest.raises(InputError, match=message):
        brainseg_tf.predict(image)


def test_an_image_gives_the_warnings_of_its_file(model, scan, tmp_path):
    image = nib.load(scan)
    qform = AFFINE @ np.diag([-1, 1, 1, 1])
    image.set_qform(qform, 1)
    image.set_sform(AFFINE, 1)
    nib.save(image, tmp_path / "sub-01_T1w.nii.gz")
    from_file = brainseg_tf.predict(tmp_path / "sub-01_T1w.nii.gz", model=model).warnings
    assert any("sform and qform differ by" in line for line in from_file)
    assert any("is t1 according to its name" in line for line in from_file)
    assert brainseg_tf.predict(nib.load(tmp_path / "sub-01_T1w.nii.gz"), model=model).warnings == from_file


def test_a_degenerate_sform_is_replaced_in_memory_too(model, scan, tmp_path):
    image = nib.load(scan)
    expected = np.asarray(brainseg_tf.predict(image, model=model).mask.dataobj)
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    image.set_qform(AFFINE, 1)
    image.set_sform(flat, 1)
    nib.save(image, tmp_path / "flat.nii.gz")
    broken = nib.load(tmp_path / "flat.nii.gz")
    found = brainseg_tf.predict(broken, model=model)
    assert any("the sform is not a valid orientation; the qform is used" in line for line in found.warnings)
    np.testing.assert_array_equal(np.asarray(found.mask.dataobj), expected)
    np.testing.assert_allclose(broken.get_sform(), flat, atol=1e-4)  # The image of the caller is not changed.


@pytest.mark.slow
def test_two_scans_are_compared(sessions):
    pytest.importorskip("SimpleITK")
    before, after = nib.load(sessions.before), nib.load(sessions.after)
    mask = nib.load(sessions.after_mask)
    found = brainseg_tf.compare(
        sessions.before,
        after,
        before_mask=sessions.before_mask,
        after_mask=(np.asarray(mask.dataobj), mask.affine),
    )
    assert {one.status for one in found.lesions} == set(TWO_SESSIONS)
    (warning,) = found.warnings
    assert warning.startswith(f"{sessions.before}: what was found has the shape of a phantom")
    assert found.after_ml == pytest.approx(np.asarray(mask.dataobj).sum() * 2.5**3 / 1000)
    assert found.before_ml == pytest.approx(sum(one.before_ml for one in found.lesions))
    for image, like in ((found.change, before), (found.registered, before), (found.after_mask, after)):
        assert image.shape == like.shape
        np.testing.assert_array_equal(image.affine, like.affine)
    np.testing.assert_array_equal(np.asarray(found.after_mask.dataobj), np.asarray(mask.dataobj))
    tissue = np.asarray(before.dataobj) > 150
    assert np.corrcoef(np.asarray(before.dataobj)[tissue], np.asarray(found.registered.dataobj)[tissue])[0, 1] > 0.7
    everything = CompareOptions(min_growth=0, min_shrinkage=0, min_change_ml=0)
    masks = {"before_mask": sessions.before_mask, "after_mask": sessions.after_mask}
    assert "stable" not in {
        one.status for one in brainseg_tf.compare(before, after, options=everything, **masks).lesions
    }
    with pytest.raises(InputError, match="the mask after: lies on another grid than"):
        brainseg_tf.compare(before, after, before_mask=sessions.before_mask, after_mask=(tissue, before.affine))


@pytest.mark.parametrize("affine", [None, np.eye(3), np.full((4, 4), np.nan)])
def test_an_affine_that_is_none_is_refused(affine):
    with pytest.raises(InputError, match="the scan: its affine is not a matrix of 4 x 4 finite numbers"):
        brainseg_tf.predict((np.ones((4, 5, 6)), affine))
