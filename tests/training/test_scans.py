"""Scans of a patient, and random views of them."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from brainseg_tf.images.volume import Volume
from brainseg_tf.options import HeadGridOptions, SliceOptions
from brainseg_tf.slices import onto_stack, to_stack
from brainseg_tf.training import scans as module
from brainseg_tf.training.cohort import read_cohort
from brainseg_tf.training.scans import PatientScans, random_views, read_patient, thick_slices
from helpers import AFFINE, make_brain, save


@pytest.fixture
def scans(brats_like) -> PatientScans:
    return read_patient(read_cohort(brats_like, ("flair", "t2")).patients[0])


def test_a_brain_mask_beside_the_scan_is_used(tmp_path):
    scan, truth = make_brain(0)
    for what, data in (
        ("flair", scan),
        ("seg", truth.astype(np.uint8)),
        ("brain", (scan > 0) & (truth | (scan < 330))),
    ):
        save(data, tmp_path / "p1" / f"p1_{what}.nii.gz", AFFINE)
    patient = read_cohort(tmp_path, ("flair",)).patients[0]
    assert patient.brain == tmp_path / "p1" / "p1_brain.nii.gz"
    assert patient.cohort == tmp_path.name
    found = read_patient(patient)
    # The grid of the file is LPS already.
    np.testing.assert_array_equal(found.brain, ((scan > 0) & (truth | (scan < 330))))
    np.testing.assert_array_equal(found.truth, truth)


def test_without_a_mask_the_brain_network_finds_the_brain_of_a_head(tmp_path, monkeypatch):
    scan, truth = make_brain(0)
    head = np.where(scan > 0, scan, np.random.default_rng(0).uniform(1, 9, scan.shape)).astype(np.float32)
    save(head, tmp_path / "p1" / "p1_flair.nii.gz", AFFINE)
    save(truth.astype(np.uint8), tmp_path / "p1" / "p1_seg.nii.gz", AFFINE)

    class Bright:
        grid = HeadGridOptions(voxel_mm=4.0)

        def probability(self, images):
            return np.where(images > 60, 230, 20).astype(np.uint8)[..., 0]

    monkeypatch.setattr(module, "_brain_network", Bright)
    found = read_patient(read_cohort(tmp_path, ("flair",)).patients[0])
    brain = scan > 0
    assert 2 * (found.brain & brain).sum() / (found.brain.sum() + brain.sum()) > 0.9


def test_the_first_view_is_straight_and_the_others_are_random_and_repeatable(scans):
    views = list(random_views(scans, "p1", 9))
    assert views[0].scans is scans and views[0].rotation is None
    for view in views[1:]:
        np.testing.assert_allclose(view.rotation @ view.rotation.T, np.eye(3), atol=1e-12)
        angles = np.abs(Rotation.from_matrix(view.rotation).as_euler("xyz", degrees=True))
        assert 1 < angles.max() <= 20
    assert len({view.rotation.tobytes() for view in views[1:]}) == 8
    for view, again in zip(views[1:], list(random_views(scans, "p1", 9))[1:], strict=True):
        np.testing.assert_array_equal(view.rotation, again.rotation)
        np.testing.assert_array_equal(view.scans.volumes[0].data, again.scans.volumes[0].data)


def test_patients_whose_files_have_one_name_have_different_views(scans):
    first, second = (list(random_views(scans, name, 3)) for name in ("p1", "p2"))
    assert not np.allclose(first[1].rotation, second[1].rotation)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_means_at_the_right_place(axis):
    """Intensities that are linear in world space stay so."""
    shape = (12, 13, 14)
    affine = np.array([[-1.0, 0, 0, 30], [0, -1.1, 0.1, 40], [0, 0, 0.9, -50], [0, 0, 0, 1]])
    world = np.einsum("ij,xyzj->xyzi", affine, np.stack([*np.indices(shape), np.ones(shape)], axis=-1))
    data = (3 + world[..., :3] @ [0.5, -2.0, 1.5]).astype(np.float32)
    truth = np.zeros(shape, bool)
    truth[4, 5, 6] = True
    brain = np.ones(shape, bool)
    thick = thick_slices(PatientScans([Volume(None, data, affine, None)], brain, truth), axis, 3.1)
    volume = thick.volumes[0]
    assert volume.data.shape[axis] == shape[axis] // 3
    assert volume.spacing[axis] == pytest.approx(3 * np.linalg.norm(affine[:3, axis]))
    indices = np.stack([*np.indices(volume.data.shape), np.ones(volume.data.shape)], axis=-1)
    positions = np.einsum("ij,xyzj->xyzi", volume.affine, indices)[..., :3]
    np.testing.assert_allclose(volume.data, 3 + positions @ [0.5, -2.0, 1.5], rtol=1e-5)
    lesion = np.argwhere(thick.truth)
    assert lesion.tolist() == [[k // 3 if n == axis else k for n, k in enumerate((4, 5, 6))]]
    assert thick.brain.all()


def test_slices_that_are_thick_already_are_kept(scans):
    assert thick_slices(scans, 2, 6.0) is scans


def test_a_rotated_view_shows_the_same_lesion(scans):
    options = SliceOptions(size=32, spacing=6.0)
    rotation = Rotation.from_euler("x", 20, degrees=True).as_matrix()
    straight = to_stack(scans.volumes, scans.brain, options)
    turned = to_stack(scans.volumes, scans.brain, options, rotation=rotation)
    axes, turned_axes = (one.affine[:3, :3] / np.linalg.norm(one.affine[:3, :3], axis=0) for one in (straight, turned))
    np.testing.assert_allclose(axes.T @ turned_axes, rotation, atol=1e-6)
    # The lesion has the same volume and is as bright.
    shares = [onto_stack(scans.truth, scans.volumes[0], one) for one in (straight, turned)]
    assert shares[1].sum() == pytest.approx(shares[0].sum(), rel=0.05)
    bright = [one.images[..., 0][share > 0.9].mean() for one, share in zip((straight, turned), shares, strict=True)]
    assert bright[1] == pytest.approx(bright[0], rel=0.05)


def test_a_further_modality_on_another_grid_is_registered(brats_like, tmp_path):
    pytest.importorskip("SimpleITK")
    (patient,) = read_cohort(brats_like, ("flair", "t2")).patients[:1]
    t2 = nib.load(patient.scans["t2"])
    half = nib.Nifti1Image(np.asarray(t2.dataobj)[::2], t2.affine @ np.diag([2, 1, 1, 1]))
    nib.save(half, tmp_path / "t2.nii.gz")
    moved = replace(patient, scans={**patient.scans, "t2": tmp_path / "t2.nii.gz"})
    first, second = read_patient(moved).volumes
    assert second.data.shape == first.data.shape
    np.testing.assert_array_equal(second.affine, first.affine)
    reference = read_patient(patient).volumes[1].data
    assert np.corrcoef(second.data[reference > 0], reference[reference > 0])[0, 1] > 0.6
