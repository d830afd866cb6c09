from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainseg_tf.brain.mask import brain_mask, cut_to_head, skull_warning
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_volume
from brainseg_tf.options import SliceOptions
from brainseg_tf.slices import _resample, check_coverage, from_stack, normalise, onto_stack, select_slices, to_stack
from helpers import AFFINE, make_brain, save

OPTIONS = SliceOptions(size=64, spacing=3.0)


def test_the_stack_is_centred_and_in_range(scan):
    volume = read_volume(scan)
    brain = brain_mask(volume)
    stack = to_stack([volume, volume], brain, OPTIONS)
    assert stack.images.shape == (*stack.brain.shape, 2)
    assert stack.images.dtype == np.float32
    assert stack.spacing == pytest.approx((3.0, 3.75, 3.75))
    assert stack.images.min() == 0
    assert 0.9 < stack.images.max() <= 1
    assert not stack.images[~stack.brain].any()
    index = np.argwhere(stack.brain)
    middle = (index.min(axis=0) + index.max(axis=0)) / 2
    np.testing.assert_allclose(middle, (np.array(stack.brain.shape) - 1) / 2, atol=0.6)
    ml = stack.brain.sum() * stack.voxel_ml
    assert ml == pytest.approx(brain.sum() * volume.voxel_ml, rel=0.03)


def test_trimmed_slices_are_equal_apart_from_a_margin(scan):
    volume = read_volume(scan)
    brain = brain_mask(volume)
    whole = to_stack([volume], brain, SliceOptions(spacing=3.0))
    trimmed = to_stack([volume], brain, SliceOptions(spacing=3.0), trim=32)
    rows, columns = (np.flatnonzero(whole.brain.any(axis=axes))[[0, -1]] for axes in ((0, 2), (0, 1)))
    sides = [(128 - n) // 2 for n in trimmed.brain.shape[1:]]
    # Multiples of 16 pixels are removed at each edge, the largest that leave 8 pixels beside the brain.
    for (first, last), side in zip((rows, columns), sides, strict=True):
        assert side % 16 == 0
        assert min(first, 127 - last) - side >= 8
        assert min(first, 127 - last) - side < 8 + 16
    assert sum(sides) > 0
    inner = (slice(None), *(slice(side, 128 - side) for side in sides))
    np.testing.assert_array_equal(trimmed.brain, whole.brain[inner])
    for min_brain in (0.04, 0.15, 0.25):
        rule = SliceOptions(min_brain=min_brain)
        np.testing.assert_array_equal(select_slices(trimmed.brain, rule), select_slices(whole.brain, rule))
    np.testing.assert_allclose(trimmed.images, whole.images[inner], atol=1e-6)
    corner = nib.affines.apply_affine(whole.affine, [sides[1], sides[0], 0])
    np.testing.assert_allclose(nib.affines.apply_affine(trimmed.affine, [0, 0, 0]), corner, atol=1e-9)


def test_a_brain_that_fills_the_slices_is_not_trimmed(scan):
    volume = read_volume(scan)
    whole, trimmed = (to_stack([volume], brain_mask(volume), OPTIONS, trim) for trim in (0, 32))
    np.testing.assert_array_equal(trimmed.images, whole.images)


def test_positions_are_preserved_on_the_stack_and_back(scan):
    volume = read_volume(scan)
    stack = to_stack([volume], brain_mask(volume), OPTIONS)
    truth = volume.data > 500
    on_stack = onto_stack(truth, volume, stack)
    indices = np.argwhere(on_stack > 0.5).mean(axis=0)[::-1]
    expected = nib.affines.apply_affine(volume.affine, np.argwhere(truth).mean(axis=0))
    np.testing.assert_allclose(nib.affines.apply_affine(stack.affine, indices), expected, atol=1)
    back = from_stack(on_stack, stack, volume) > 0.5
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.85


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flip", [(), (0,), (0, 2)])
def test_flips_and_permutations_give_the_same_slices(tmp_path, axes, flip):
    data, _ = make_brain(2)
    image = nib.Nifti1Image(data, AFFINE)
    plain = read_volume(save(data, tmp_path / "plain.nii"))
    reoriented = image.as_reoriented(np.array([[axes.index(k), -1 if k in flip else 1] for k in range(3)]))
    nib.save(reoriented, tmp_path / "reoriented.nii")
    other = read_volume(tmp_path / "reoriented.nii")
    first, second = (to_stack([one], brain_mask(one), OPTIONS) for one in (plain, other))
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_allclose(first.affine, second.affine)


def test_another_resolution_gives_nearly_the_same_slices(tmp_path):
    data, _ = make_brain(2)
    plain = read_volume(save(data, tmp_path / "plain.nii"))
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    fine = read_volume(save(np.kron(data, np.ones((2, 2, 2), np.float32)), tmp_path / "fine.nii", affine))
    first, second = (to_stack([one], brain_mask(one), OPTIONS) for one in (plain, fine))
    assert abs(len(first.images) - len(second.images)) <= 1
    assert np.abs(first.brain.sum() / second.brain.sum() - 1) < 0.15


def test_coarse_voxels_do_not_blur(tmp_path):
    def wave(points):
        """A wave with a period of 18 mm, which is sampled with voxels of 4 mm."""
        return 100 + 40 * np.cos(2 * np.pi * points[..., 0] / 18) * np.cos(2 * np.pi * points[..., 1] / 18)

    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    voxels = np.stack(np.meshgrid(*[np.arange(30)] * 3, indexing="ij"), axis=-1)
    round_ = ((voxels - 14.5) ** 2).sum(axis=-1) < 12**2
    scan = read_volume(save(np.where(round_, wave(4.0 * voxels), 0).astype(np.float32), tmp_path / "a.nii", affine))
    stack = to_stack([scan], brain_mask(scan), SliceOptions(normalisation="volume"))
    indices = np.argwhere(stack.brain)
    points = nib.affines.apply_affine(stack.affine, indices[:, ::-1])
    deep = ((points - 4 * 14.5) ** 2).sum(axis=1) < (4 * 9) ** 2
    expected, found = wave(points[deep]), stack.images[tuple(indices[deep].T)][:, 0]
    slope, offset = np.polyfit(found, expected, 1)
    # With linear interpolation the residual is 2.6.
    assert np.std(expected - slope * found - offset) < 1


def test_normalisations():
    random = np.random.default_rng(0)
    image = random.uniform(50, 150, (4, 9, 9)).astype(np.float32)
    image[2, 4, 4] = 1000
    brain = np.ones(image.shape, bool)
    brain[:, 0] = False
    brain[3] = False
    by_volume = normalise(image, brain, "volume")
    assert by_volume[brain].min() == 0
    assert by_volume[2, 4, 4] == 1
    assert by_volume[:2].max() < 0.2
    by_slice = normalise(image, brain, "slice")
    assert [by_slice[k].max() for k in range(4)] == [1, 1, 1, 0]
    robust = normalise(image, brain, "robust")
    assert np.median(robust[brain]) == pytest.approx(0.3, abs=1e-3)
    np.testing.assert_allclose(normalise(image * 7 + 90, brain, "robust"), robust, atol=1e-4)
    for result in (by_volume, by_slice, robust):
        assert not result[~brain].any()
        assert result.dtype == np.float32


def test_slices_are_selected_by_brain_share_and_position():
    brain = np.zeros((20, 10, 10), bool)
    brain[2:18, :4] = True
    brain[9, :1] = True
    brain[9, 1:] = False
    picked = select_slices(brain, SliceOptions(min_brain=0.3, central=0.5), pixels=100)
    np.testing.assert_array_equal(np.flatnonzero(picked), [6, 7, 8, 10, 11, 12, 13])
    assert not select_slices(brain & False, SliceOptions()).any()


def test_brain_mask_fills_holes_and_drops_specks(scan):
    volume = read_volume(scan)
    brain = volume.data > 0
    volume.data[20:23, 20:23, 10:12] = 0
    volume.data[0, 0, 0] = 5
    np.testing.assert_array_equal(brain_mask(volume), brain)
    assert skull_warning(volume, brain) is None


def test_a_scan_with_skull_gives_a_warning(tmp_path):
    data, _ = make_brain(0)
    noisy = data + np.random.default_rng(0).normal(0, 3, data.shape).astype(np.float32)
    volume = read_volume(save(noisy, tmp_path / "noisy.nii"))
    assert "background is not constant" in skull_warning(volume, brain_mask(volume))
    large = read_volume(save(data, tmp_path / "large.nii", AFFINE * [[1.5], [1.5], [1.5], [1]]))
    assert "more than any brain" in skull_warning(large, brain_mask(large))


def test_tiny_values_around_the_brain_are_background(scan):
    volume = read_volume(scan)
    expected = brain_mask(volume)
    random = np.random.default_rng(0)
    near = ndimage.binary_dilation(expected, iterations=4) & ~expected
    for amplitude, where in ((1e-4, near), (1.0, near), (1e-3, ~expected)):
        data = volume.data + np.where(where, random.normal(0, amplitude, expected.shape), 0).astype(np.float32)
        residue = replace(volume, data=data)
        np.testing.assert_array_equal(brain_mask(residue), expected)
        assert skull_warning(residue, expected) is None


def test_air_is_cut_from_a_brain_mask(scan):
    volume = read_volume(scan)
    expected = brain_mask(volume)
    brain, warning = cut_to_head(np.ones_like(expected), volume)
    np.testing.assert_array_equal(brain, expected)
    assert "of the brain mask is background, which was removed" in warning
    # A tight mask and masks that differ from it by one voxel are not changed.
    loose = ndimage.binary_dilation(expected, iterations=1)
    for given in (expected, ndimage.binary_erosion(expected), np.where(np.arange(23) == 11, loose, expected)):
        brain, warning = cut_to_head(given, volume)
        np.testing.assert_array_equal(brain, given)
        assert warning is None
    # A raw head has noise around it and dark fluid in it. A tight brain mask contains no air and is not changed.
    noise = np.random.default_rng(0).rayleigh(4, expected.shape)
    raw = np.where(ndimage.binary_dilation(expected, iterations=2), 200, 0) + np.where(expected, volume.data - 200, 0)
    raw[18:24, 20:26, 9:14] = 0
    raw_head = replace(volume, data=(raw + noise).astype(np.float32))
    brain, warning = cut_to_head(expected, raw_head)
    np.testing.assert_array_equal(brain, expected)
    assert warning is None
    assert "was removed" in cut_to_head(np.ones_like(expected), raw_head)[1]
    with pytest.raises(InputError, match="covers only background"):
        cut_to_head(~ndimage.binary_dilation(expected), volume)


def test_a_brain_that_is_mostly_background_is_not_normalised(scan):
    volume = read_volume(scan)
    with pytest.raises(InputError, match=r"scan\.nii\.gz: half of the brain mask is as dark as its darkest voxels"):
        to_stack([volume], np.ones(volume.data.shape, bool), SliceOptions(size=32, spacing=8.0))
    # A constant image is not refused: it becomes 0, which cannot be segmented as a lesion.
    constant = normalise(np.full((2, 4, 4), 7.0), np.ones((2, 4, 4), bool), "robust")
    assert not constant.any()


def test_a_further_modality_must_cover_the_brain(scan):
    volume = read_volume(scan)
    brain = brain_mask(volume)
    heights = np.flatnonzero(brain.any(axis=(0, 1)))
    warnings = {}
    for share in (1.0, 0.8, 0.3):
        part = volume.data.copy()
        part[..., heights[0] + round(share * len(heights)) :] = 0
        slab = replace(volume, data=part)
        assert check_coverage([slab], brain) == []
        if share == 0.3:
            with pytest.raises(
                InputError, match=r"scan\.nii\.gz: covers .*% of the brain; .* so the scan cannot be used"
            ):
                check_coverage([volume, slab], brain)
        else:
            warnings[share] = check_coverage([volume, slab], brain)
    assert warnings[1.0] == []
    (warning,) = warnings[0.8]
    assert "and the mask may be wrong there" in warning


@pytest.mark.parametrize("degrees", [(20, 0, 0), (0, 15, 0), (0, 0, -15), (10, 8, 12)])
def test_a_header_that_is_oblique_changes_no_slice(tmp_path, degrees):
    data, _ = make_brain(0)
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    straight, oblique = (
        read_volume(save(data, tmp_path / name, turn @ AFFINE))
        for name, turn in (("a.nii", np.eye(4)), ("b.nii", rotation))
    )
    expected, stack = (to_stack([one], brain_mask(one), OPTIONS) for one in (straight, oblique))
    np.testing.assert_allclose(stack.images, expected.images, atol=1e-4)
    np.testing.assert_allclose(stack.affine, rotation @ expected.affine, atol=1e-4)
    # Maps are resampled to the same voxels of the scan.
    on_scan = from_stack(stack.brain.astype(np.float32), stack, oblique)
    np.testing.assert_allclose(on_scan, from_stack(expected.brain.astype(np.float32), expected, straight), atol=1e-3)


@pytest.mark.parametrize("turned", [(0, 0, 0), (3, 0, 0), (4, -5, 6)])
@pytest.mark.parametrize(("thickness", "count"), [(5.0, 10), (5.5, 10), (6.6, 9), (1.2, 42)])
def test_the_end_slices_of_a_brain_that_the_field_of_view_cuts_are_kept(tmp_path, thickness, count, turned):
    shape = (40, 44, count)
    centre = (np.array(shape) - 1) / 2
    distance = np.linalg.norm(
        (np.stack(np.indices(shape), axis=-1) - centre) * [4, 4, thickness] / [70, 80, 70], axis=-1
    )
    data = np.where(distance < 1, 300 + 20 * np.random.default_rng(0).standard_normal(shape), 0).astype(np.float32)
    affine = np.diag([-4.0, -4, thickness, 1])
    affine[:3, :3] = Rotation.from_euler("xyz", turned, degrees=True).as_matrix() @ affine[:3, :3]
    volume = read_volume(save(data, tmp_path / "cut.nii", affine))
    brain = volume.data > 0
    stack = to_stack([volume], brain, SliceOptions(size=64, spacing=1.0))
    back = from_stack(stack.brain.astype(np.float32), stack, volume) > 0.5
    for end in (0, -1):
        assert brain[..., end].any()
        assert (back & brain)[..., end].sum() > 0.95 * brain[..., end].sum()
    assert np.count_nonzero(back & ~brain) < 0.02 * np.count_nonzero(brain)
    # What is in an end slice has its intensity there too.
    images = from_stack(stack.images[..., 0], stack, volume)
    inner = ndimage.binary_erosion(brain[..., 0], iterations=3)
    assert images[inner, 0].mean() == pytest.approx(images[brain].mean(), rel=0.15)


@pytest.mark.parametrize("degrees", [0, 25])
@pytest.mark.parametrize("count", [5, 15])
def test_no_brain_is_added_outside_the_field_of_view(tmp_path, count, degrees):
    """Sagittal slices of 6 mm through the middle of a ball; the head can be rotated in the scan."""
    shape = (count, 60, 60)
    place = (np.stack(np.indices(shape), axis=-1) - (np.array(shape) - 1) / 2) * [6, 3, 3]
    data = np.where(np.linalg.norm(place, axis=-1) < 70, 300 + 20 * np.random.default_rng(0).random(shape), 0)
    volume = read_volume(save(data.astype(np.float32), tmp_path / "sagittal.nii", np.diag([-6.0, -3, 3, 1])))
    brain = volume.data > 0
    rotation = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    stack = to_stack([volume], brain, SliceOptions(spacing=2.0), rotation=rotation)
    assert stack.brain.sum() * stack.voxel_ml == pytest.approx(brain.sum() * volume.voxel_ml, rel=0.03)
    inside = nib.affines.apply_affine(np.linalg.inv(volume.affine) @ stack.affine, np.argwhere(stack.brain)[:, ::-1])
    assert inside[:, 0].min() >= -0.5 - 1e-4 and inside[:, 0].max() <= count - 0.5 + 1e-4


def test_a_brain_mask_of_one_thick_slice_has_its_volume(tmp_path):
    data, _ = make_brain(0)
    volume = read_volume(save(data, tmp_path / "scan.nii", np.diag([-4.0, -4, 6, 1])))
    brain = (volume.data > 0) & (np.arange(volume.data.shape[2]) == volume.data.shape[2] // 2)
    stack = to_stack([volume], brain, SliceOptions(spacing=1.0))
    assert stack.brain.sum() * stack.voxel_ml == pytest.approx(brain.sum() * volume.voxel_ml, rel=0.2)


@pytest.mark.parametrize("where", [np.s_[5:9, 20:31, 3:17], np.s_[:4, :25, -25:], np.s_[20:, 30:, :30], np.s_[:0]])
def test_maps_are_those_of_the_whole_grid(scan, where):
    volume = read_volume(scan)
    turned = volume.affine.copy()
    turned[:3, :3] = Rotation.from_euler("xyz", (3, 8, -5), degrees=True).as_matrix() @ turned[:3, :3]
    volume = replace(volume, affine=turned)
    stack = to_stack([volume], brain_mask(volume), OPTIONS)
    values = np.zeros(stack.brain.shape, np.float32)
    values[where] = np.random.default_rng(0).random(values[where].shape)
    whole = resample_from_to(nib.Nifti1Image(values.T, stack.affine), (volume.data.shape, volume.affine), order=1)
    found = from_stack(values, stack, volume)
    assert found.any() == values.any()
    np.testing.assert_allclose(found, whole.get_fdata(), atol=1e-6)


def test_maps_beside_the_scan_are_empty(scan):
    volume = read_volume(scan)
    stack = to_stack([volume], brain_mask(volume), OPTIONS)
    beside = replace(stack, affine=nib.affines.from_matvec(np.eye(3), [900, 0, 0]) @ stack.affine)
    assert not from_stack(np.ones(stack.brain.shape), beside, volume).any()


def test_an_empty_mask_is_empty_on_the_stack(scan):
    """A segmentation without a lesion is allowed."""
    volume = read_volume(scan)
    stack = to_stack([volume], brain_mask(volume), OPTIONS)
    found = onto_stack(np.zeros(volume.data.shape, bool), volume, stack)
    np.testing.assert_array_equal(found, np.zeros(stack.brain.shape, np.float32))


def test_a_brain_of_few_voxels_is_refused(tmp_path, scan):
    data = np.zeros((29, 29, 29), np.float32)
    data[4, 4, 4] = 1
    with pytest.raises(InputError, match="no brain found"):
        brain_mask(read_volume(save(data, tmp_path / "dot.nii")))
    volume = read_volume(scan)
    speck = np.zeros(volume.data.shape, bool)
    speck[20, 20, 10] = True
    with pytest.raises(InputError, match="thinner than a voxel"):
        to_stack([volume], speck, SliceOptions(size=16, spacing=20))


def test_fine_voxels_are_averaged_and_not_sampled():
    """Independent noise in voxels of 1 mm: a pixel of 4 mm is the mean of many voxels, not of the nearest eight."""
    noise = np.random.default_rng(0).normal(0, 1, (80, 80, 80)).astype(np.float32)
    grid = np.diag([4.0, 4.0, 4.0, 1.0])
    grid[:3, 3] = 1.5
    resampled = _resample(noise, np.eye(4), grid, (20, 20, 20))[2:-2, 2:-2, 2:-2]
    # The mean of 64 voxels has a standard deviation of 1 / 8, linear interpolation between voxels of at least 0.35.
    assert resampled.std() < 0.2


def test_robust_normalisation_starts_at_the_first_percentile():
    random = np.random.default_rng(0)
    image = random.uniform(100, 200, (10, 40, 40))
    # Outliers below the first percentile.
    image.flat[:: image.size // 80] = -5000
    brain = np.ones(image.shape, bool)
    normalised = normalise(image, brain, "robust")
    low, median = np.percentile(image, [1, 50])
    assert low > 90
    assert normalised[np.abs(image - median) < 0.5] == pytest.approx(0.3, abs=0.01)
    assert normalised[np.abs(image - low) < 0.5] == pytest.approx(0.0, abs=0.01)
