"""How conspicuous a lesion is."""

import numpy as np
import pytest

from block_brain import BRAIN, SHAPE, SPACING, ball
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.postprocessing.conspicuity import conspicuity, local_contrast


@pytest.mark.parametrize(
    ("probability", "contrast", "expected"),
    [
        (0.5, 0.0, 0.5),
        (0.5, 0.4, 0.6),
        (0.5, 1.0, 0.75),
        (0.5, 3.0, 1.25),
        (0.8, -0.5, 0.6),
        (0.0, 1.0, 0.0),
        (1, 1, 1.5),
    ],
)
def test_conspicuity_rises_with_probability_and_contrast(probability, contrast, expected):
    found = conspicuity(np.full((2, 3), probability), np.full((2, 3), contrast))
    np.testing.assert_allclose(found, np.full((2, 3), expected))


def test_what_is_twice_as_bright_as_its_surroundings_needs_a_lower_probability():
    """The limit is 0.55 without a contrast."""
    values = conspicuity(np.array([0.56, 0.37, 0.54, 0.36]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert (values >= SegmentationOptions().min_conspicuity).tolist() == [True, True, False, False]


def test_local_contrast_is_relative_to_the_surroundings_of_each_lesion():
    first, second = ball((20, 38, 30), 8), ball((42, 38, 55), 6)
    image = np.where(BRAIN, 0.3, 0)
    # Half of the brain is brighter, as a coil leaves it.
    image[30:] *= 1.5
    image[first], image[second] = 0.6, 0.6
    found = local_contrast(first | second, image, BRAIN & ~(first | second), SPACING)
    np.testing.assert_allclose(found[first], 1.0)
    np.testing.assert_allclose(found[second], 0.6 / 0.45 - 1)
    assert not found[~(first | second)].any()


def test_local_contrast_without_surroundings_is_relative_to_the_brain():
    image = np.where(BRAIN, 0.3, 0)
    lesion = ball((20, 38, 30), 8)
    island = lesion | ~ball((20, 38, 30), 30) & BRAIN
    image[lesion] = 0.6
    np.testing.assert_allclose(local_contrast(lesion, image, island & ~lesion, SPACING)[lesion], 1.0)
    assert (local_contrast(BRAIN, image, np.zeros(SHAPE, bool), SPACING)[BRAIN] <= 0).all()
    assert not local_contrast(np.zeros(SHAPE, bool), image, BRAIN, SPACING).any()


def test_the_contrast_of_a_partly_outlined_lesion_is_to_healthy_tissue():
    """The outlined core of a large lesion has no contrast to the rest of it."""
    lesion, core = ball((28, 38, 40), 20), ball((28, 38, 40), 8)
    image = np.where(lesion, 0.6, np.where(BRAIN, 0.3, 0))
    np.testing.assert_allclose(local_contrast(core, image, BRAIN & ~core, SPACING)[core], 0.0)
    np.testing.assert_allclose(local_contrast(core, image, BRAIN & ~lesion, SPACING)[core], 1.0)
