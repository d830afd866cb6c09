"""Growth of lesions into bright tissue."""

import numpy as np
import pytest

from block_brain import BRAIN, SHAPE, SPACING, ball
from brainseg_tf.postprocessing.growth import grow

LESION, OTHER = ball((28, 38, 40), 9), ball((28, 38, 20), 5)
SEED = ball((28, 38, 40), 3)
# Standard deviation of healthy tissue, after the filter.
SIGMA = 0.02


def image_of(lesion_level, rng_seed=0):
    """Healthy tissue with a normal distribution around 0.3 that the median filter does not change, and two lesions."""
    random = np.random.default_rng(rng_seed)
    blocks = random.normal(0.3, SIGMA, (SHAPE[0] // 5 + 1, SHAPE[1] // 5 + 1, SHAPE[2] // 5 + 1))
    image = np.kron(blocks, np.ones((5, 5, 5)))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return np.where(BRAIN, np.where(LESION | OTHER, lesion_level, np.minimum(image, 0.3 + 1.5 * SIGMA)), 0)


def test_a_lesion_grows_to_its_edge_and_others_are_not_added():
    found = grow(SEED, image_of(0.5), BRAIN, SPACING, 2.4)
    # The median filter rounds the edge off.
    assert (found & ~LESION).sum() == 0
    assert (found & LESION).sum() > 0.9 * LESION.sum()
    assert not (found & OTHER).any()


@pytest.mark.parametrize(("level", "grows"), [(0.3 + 1.8 * SIGMA, False), (0.3 + 3 * SIGMA, True)])
def test_the_limit_is_in_standard_deviations_of_healthy_tissue(level, grows):
    found = grow(SEED, image_of(level), BRAIN, SPACING, 2.4)
    assert (found.sum() > 2 * SEED.sum()) == grows


def test_the_limit_does_not_depend_on_the_scale_of_the_intensities():
    image = image_of(0.3 + 3 * SIGMA)
    np.testing.assert_array_equal(
        grow(SEED, image, BRAIN, SPACING, 2.4), grow(SEED, np.where(BRAIN, 7 * image + 2, 0), BRAIN, SPACING, 2.4)
    )


def test_the_edge_of_the_brain_is_not_entered():
    bright = np.where(BRAIN, image_of(0.5), 0)
    bright[:, 3:6] = 0.5
    seed = ball((28, 4 * SPACING[1], 40), 4) & BRAIN
    found = grow(seed, bright, BRAIN, SPACING, 2.4)
    # The first row of the brain is 1.9 mm from the background, the second one 3.8 mm.
    np.testing.assert_array_equal(found[:, 3], seed[:, 3])
    assert found[:, 4].sum() > 2 * seed[:, 4].sum()


def test_nothing_grows_without_a_lesion_or_with_a_limit_of_zero():
    image, nothing = image_of(0.5), np.zeros(SHAPE, bool)
    assert not grow(nothing, image, BRAIN, SPACING, 2.4).any()
    assert grow(SEED, image, BRAIN, SPACING, 0) is SEED


def test_a_lesion_that_fills_the_brain_does_not_fail():
    np.testing.assert_array_equal(grow(BRAIN, image_of(0.5), BRAIN, SPACING, 2.4), BRAIN)
