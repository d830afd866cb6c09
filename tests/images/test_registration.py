from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.errors import InputError
from brainseg_tf.images import registration
from brainseg_tf.images.registration import Alignment, align, bring_to, mean_distance, resampled
from brainseg_tf.images.volume import Volume, read_volume
from helpers import save

pytest.importorskip("SimpleITK")
# Voxels of 2.5 mm; the axes are not those of LPS.
GRID = np.array([[0, 2.5, 0, -70], [-2.5, 0, 0, 80], [0, 0, 2.5, -60], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, Volume]:
    """Two contrasts of one textured head, on one grid."""
    folder = tmp_path_factory.mktemp("pair")
    random = np.random.default_rng(0)
    shape = (64, 56, 50)
    index = np.stack(np.indices(shape), axis=-1)
    radius = np.linalg.norm((index - np.array(shape) / 2) / (np.array(shape) * [0.42, 0.38, 0.4]), axis=-1)
    tissue = ndimage.gaussian_filter(random.normal(size=shape), 2.0)
    tissue = np.clip(0.5 + tissue / tissue.std() / 4, 0, 1) * (radius < 1)
    first = 100 * tissue + 200 * (radius < 1)
    second = 400 * np.exp(-3 * tissue) * (radius < 1)
    return tuple(
        read_volume(save((data + random.normal(0, 3, shape)).astype(np.float32), folder / f"{name}.nii", GRID))
        for name, data in (("first", first), ("second", second))
    )


def movement(degrees: float, millimetres: float, centre: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [degrees, -0.5 * degrees, 0.7 * degrees], degrees=True).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + np.array([1, -0.5, 0.8]) * millimetres
    return matrix


def moved(scan: Volume, matrix: np.ndarray, grid: np.ndarray, shape: tuple[int, int, int], path: Path) -> Volume:
    """The scan as it is seen if the head moves by ``matrix``, on another grid, written and read."""
    image = resample_from_to(nib.Nifti1Image(scan.data, matrix @ scan.affine), (shape, grid), order=1)
    nib.save(image, path)
    return read_volume(path)


@pytest.mark.parametrize(("degrees", "millimetres"), [(0.0, 0.0), (4.0, 5.0), (-7.0, 8.0)])
def test_a_known_movement_is_found(pair, tmp_path, degrees, millimetres):
    first, second = pair
    centre = nib.affines.apply_affine(first.affine, np.array(first.data.shape) / 2)
    matrix = movement(degrees, millimetres, centre)
    grid = first.affine @ np.diag([1.2, 1.0, 1.5, 1])
    other = moved(second, matrix, grid, (50, 64, 36), tmp_path / "moved.nii")
    found = align(other, first)
    # The error is measured where a brain would be, on a sphere of 60 mm.
    assert mean_distance(found.matrix, matrix, centre) < 0.5
    assert found.rotation_deg == pytest.approx(np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude()), abs=0.5)
    back = resampled(other, first, found)
    inside = ndimage.binary_erosion(second.data > 60, iterations=4)
    assert back.data.shape == first.data.shape
    assert np.corrcoef(back.data[inside], second.data[inside])[0, 1] > 0.9


@pytest.mark.parametrize(("shift_mm", "lost"), [(0.05, 0), (-0.05, 0), (2.9, 0), (4.0, 1), (-4.0, 1), (9.5, 2)])
def test_the_end_slices_stay_up_to_their_edges(tmp_path, shift_mm, lost):
    """Slices of 6 mm: the outermost ones end 3 mm beyond their centres."""
    data = np.full((9, 10, 12), 100, np.float32)
    data[0, 0, 0] = 0  # A constant scan is refused.
    scan = read_volume(save(data, tmp_path / "thick.nii", np.diag([8.0, 8, 6, 1])))
    matrix = np.eye(4)
    matrix[2, 3] = shift_mm
    slices = resampled(scan, scan, Alignment(matrix)).data[4, 4]
    expected = np.full(12, 100.0)
    expected[12 - lost if shift_mm > 0 else 0 : 12 if shift_mm > 0 else lost] = 0
    np.testing.assert_allclose(slices, expected, rtol=1e-5)


def test_a_scan_in_place_is_not_changed(pair):
    first, second = pair
    same, found = bring_to(second, first)
    assert same is second and found is None


def test_a_moved_scan_is_registered_with_a_warning(pair, tmp_path):
    first, second = pair
    centre = nib.affines.apply_affine(first.affine, np.array(first.data.shape) / 2)
    matrix = movement(3.0, 6.0, centre)
    # On the same grid, so only the images tell that the head moved.
    other = moved(second, matrix, GRID, first.source.shape, tmp_path / "second.nii")
    volume, found = bring_to(other, first)
    assert found is not None and mean_distance(found.matrix, matrix, centre) < 0.7
    (warning,) = volume.warnings
    assert warning.startswith(f"{tmp_path}/second.nii: is moved by ") and "it was registered" in warning
    assert volume.source is first.source
    coarse = moved(second, matrix, first.affine @ np.diag([1.3, 1, 1, 1]), (40, 64, 50), tmp_path / "coarse.nii")
    (warning,) = bring_to(coarse, first)[0].warnings
    assert "lies on another grid and is moved by" in warning


def test_scans_that_do_not_overlap_are_refused(pair):
    first, second = pair
    far = replace(second, affine=np.array([[1, 0, 0, 900.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ second.affine)
    with pytest.raises(InputError, match=r"second\.nii: cannot be registered to .*first\.nii"):
        align(far, first)


@pytest.mark.parametrize("degrees", [6.0, 22.0])
def test_two_sessions_are_aligned_wherever_their_coordinates_are(pair, tmp_path, degrees):
    first, second = pair
    centre = nib.affines.apply_affine(first.affine, np.array(first.data.shape) / 2)
    matrix = movement(degrees, 0.0, centre)
    shift = np.eye(4)
    shift[:3, 3] = [400, -90, 60]
    other = moved(second, shift @ matrix, shift @ first.affine, first.data.shape, tmp_path / "second.nii")
    # In one session, the coordinates would tell that this is not the same head.
    with pytest.raises(InputError, match="cannot be registered"):
        align(other, first)
    found = align(other, first, two_sessions=True)
    assert mean_distance(found.matrix, shift @ matrix, centre) < 0.5
    assert found.rotation_deg == pytest.approx(np.degrees(Rotation.from_matrix(matrix[:3, :3]).magnitude()), abs=0.5)


def test_without_simpleitk_only_scans_on_one_grid_are_taken(pair, tmp_path, monkeypatch):
    first, second = pair
    other = moved(second, np.eye(4), first.affine @ np.diag([1.3, 1, 1, 1]), (40, 64, 50), tmp_path / "coarse.nii")
    monkeypatch.setattr(registration, "is_installed", lambda: False)
    assert bring_to(second, first) == (second, None)
    with pytest.raises(InputError, match=r"pip install 'brainseg-tf\[registration\]'"):
        bring_to(other, first)


def test_scans_of_few_slices_are_left_as_they_are_or_refused(pair, tmp_path):
    few = [replace(one, data=one.data[:, :, 20:23]) for one in pair]
    unmoved, movement_found = bring_to(few[1], few[0])
    assert unmoved is few[1] and movement_found is None
    middle = pair[1].affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 6, 20], [0, 0, 0, 1.0]])
    elsewhere = moved(pair[1], np.eye(4), middle, (*pair[1].data.shape[:2], 3), tmp_path / "few.nii")
    with pytest.raises(InputError, match="has 3 voxels along an axis; a registration needs at least 4"):
        bring_to(elsewhere, few[0])
