import numpy as np
import pytest
from scipy import ndimage

from brainseg_tf.postprocessing.lesions import Maps, Place, lesions, numbered_components

AFFINE = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]])
# World space to MNI space: 1.5 times as large, and moved to the left frontal lobe.
TO_TEMPLATE = np.array([[1.5, 0, 0, -40], [0, 1.5, 0, 20], [0, 0, 1.5, 40], [0, 0, 0, 1]])


def components(middle_mm=-2.0, to_template=TO_TEMPLATE, intensity=True):
    mask = np.zeros((10, 11, 12), bool)
    mask[2:4, 3:5, 4:6] = True
    mask[8, 8, 8] = True
    residual = np.where(mask, np.arange(12) / 10, 0)
    maps = Maps(residual, np.where(mask, 0.75, 0), 3 * residual, 2 * residual + 1 if intensity else None)
    return mask, maps, Place(AFFINE, middle_mm, to_template)


def test_lesions_are_measured_in_millimetres():
    large, small = lesions(*components(to_template=None))
    assert large.ml == pytest.approx(8 * 0.02)
    assert large.centroid_mm == pytest.approx((5.0, 13.0, -7.5))
    assert (large.side, small.side) == ("right", "midline")
    assert (large.mni_mm, large.region, large.ventricle_mm) == (None, None, None)
    assert small.ml == pytest.approx(0.02)
    assert small.centroid_mm == pytest.approx((-6.0, 4.0, 10.0))
    assert [one.side for one in lesions(*components(5.0, None))] == ["midline", "left"]


def test_the_maps_are_averaged_over_each_lesion():
    large, small = lesions(*components())
    assert (large.mean_residual, small.mean_residual) == pytest.approx((0.45, 0.8))
    assert (large.mean_probability, small.mean_probability) == pytest.approx((0.75, 0.75))
    assert (large.mean_score, small.mean_score) == pytest.approx((1.35, 2.4))
    assert (large.intensity_ratio, small.intensity_ratio) == pytest.approx((1.9, 2.6))
    assert [one.intensity_ratio for one in lesions(*components(intensity=False))] == [None, None]


def test_the_place_is_that_in_the_template():
    large, small = lesions(*components())
    assert large.mni_mm == pytest.approx((-32.5, 39.5, 28.75))
    assert (large.region, small.region) == ("frontal", "frontal")
    # The side is that in the template, whatever the first coordinate of a rotated head is.
    assert (large.side, small.side) == ("left", "left")
    # The body of the left ventricle is 33 mm away from the second one.
    assert large.ventricle_mm > 15
    moved = TO_TEMPLATE.copy()
    moved[:3, 3] = (-24 - 1.5 * 5, -95 - 1.5 * 13, 10 + 1.5 * 7.5)
    occipital, _ = lesions(*components(to_template=moved))
    assert occipital.mni_mm == pytest.approx((-24, -95, 10))
    assert occipital.region == "occipital"


def test_an_empty_mask_has_no_lesion():
    mask, maps, place = components()
    assert lesions(mask & False, maps, place) == []


def test_components_are_numbered_by_size():
    mask = np.random.default_rng(0).random((11, 13, 9)) < 0.06
    mask[:3, :4, :2] = True
    numbers = numbered_components(mask)
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers > 0, mask)
    sizes = np.bincount(numbers.ravel())[1:]
    assert len(sizes) > 5
    assert (np.diff(sizes) <= 0).all()
    # The same components as by another library.
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    pairs = np.unique(np.stack([numbers[mask], components[mask]]), axis=1)
    assert pairs.shape == (2, count) == (2, len(sizes))
    assert not numbered_components(np.zeros((4, 5, 6), bool)).any()
    many = np.zeros((40, 40, 4), bool)
    many[::2, ::2, ::2] = True
    assert numbered_components(many).dtype == np.uint16
    assert numbered_components(many).max() == 800
