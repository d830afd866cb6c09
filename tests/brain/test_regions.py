import numpy as np
import pytest

from brainseg_tf.brain.regions import REGIONS, main_region, region_of, ventricle_distance_mm

# Coordinates of well-known structures in MNI space; many are peaks in Dosenbach et al. (Science 329, 2010).
KNOWN = {
    "frontal": [(29, 57, 18), (-20, 30, 50), (46, 28, 31), (0, -1, 52), (-44, -6, 49), (9, 42, -8)],
    "parietal": [(-32, -58, 46), (54, -44, 43), (8, -40, 50), (-55, -30, 40), (34, -39, 65)],
    "temporal": [(52, -15, -13), (-61, -41, -2), (28, -37, -15), (-40, 10, -30), (59, -13, 0)],
    "occipital": [(29, -81, 14), (-4, -94, 12), (-37, -83, -2), (15, -77, 26)],
    "insula": [(38, 12, 1), (-38, -2, -2)],
    "deep": [(-12, -12, 6), (14, 6, 7), (22, 2, 2)],
    "infratentorial": [(-28, -60, -34), (0, -28, -32), (14, -75, -25), (0, -36, -45)],
}


@pytest.mark.parametrize("region", REGIONS)
def test_known_places_are_in_their_region(region):
    assert [REGIONS[index] for index in region_of(np.array(KNOWN[region], float))] == [region] * len(KNOWN[region])


def test_both_hemispheres_have_the_same_regions():
    points = np.random.default_rng(3).uniform((-70, -100, -60), (70, 70, 75), (500, 3))
    np.testing.assert_array_equal(region_of(points), region_of(points * [-1, 1, 1]))
    np.testing.assert_allclose(ventricle_distance_mm(points), ventricle_distance_mm(points * [-1, 1, 1]))


def test_the_main_region_is_that_of_most_points():
    points = np.array([(-32, -58, 46), (34, -39, 65), (29, 57, 18)], float)
    assert main_region(points) == "parietal"


def test_the_distance_is_that_to_the_surface_of_the_ventricle():
    inside, beside, far = ventricle_distance_mm(np.array([(-10, -12, 22), (10, -12, 36), (60, -12, 22)], float))
    assert inside == 0
    assert beside == pytest.approx(14 - 4, abs=1)  # the ventricle has a radius of 4 mm
    assert far > 30  # its nearest part is the temporal horn
