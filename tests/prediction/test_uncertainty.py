import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.options import SegmentationOptions
from brainseg_tf.prediction.uncertainty import spread
from brainseg_tf.reconstruction import Reconstruction
from brainseg_tf.slices import Stack
from helpers import FAST, call
from synthetic_models import card

RAW = SegmentationOptions(score="absolute", erosion_mm=0.0, median=(1, 1, 1))


class Constant:
    """A network with a constant output. The score has the noise of the input."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(np.zeros_like(images))


class Identity:
    """A network that returns its input. The score is 0 with any noise."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(images)


@pytest.fixture
def stack():
    brain = np.zeros((6, 48, 48), bool)
    brain[1:, 4:-4, 4:-4] = True
    images = np.where(brain, 0.4, 0)[..., None].astype(np.float32)
    return Stack(images, brain, np.diag([-4.0, -4.0, 5.0, 1.0]))


def test_the_spread_of_a_noisy_score_is_that_of_the_noise(stack):
    found = spread(stack, Constant(), card(), RAW, copies=40)
    assert found.dtype == np.float32
    assert not found[~stack.brain].any()
    assert np.sqrt(np.mean(found[stack.brain] ** 2)) == pytest.approx(0.05, rel=0.1)
    np.testing.assert_allclose(spread(stack, Identity(), card(), RAW, copies=3), 0, atol=1e-6)


def test_equal_seeds_give_equal_results(stack):
    first, second, other = (spread(stack, Constant(), card(), RAW, copies=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_the_uncertainty_map_is_on_the_grid_of_the_scan(scan, trained, tmp_path):
    out = tmp_path / "u.nii.gz"
    options = ("--model", trained, "--save-uncertainty", out, "--copies", 2)
    assert call("predict", scan, "--out", tmp_path / "m.nii.gz", *options, *FAST).exit_code == 0
    image = nib.load(out)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    values = image.get_fdata()
    assert values.shape == nib.load(scan).shape and values.max() > 0 and not values[0].any()
