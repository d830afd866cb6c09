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


class Blind:
    """A network that gives the same image whatever it is shown: the score is as noisy as the noise."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(np.zeros_like(images))


class Sure:
    """One that gives back what it is shown: no noise reaches the score."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(images)


@pytest.fixture
def stack():
    brain = np.zeros((6, 48, 48), bool)
    brain[1:, 4:-4, 4:-4] = True
    images = np.where(brain, 0.4, 0)[..., None].astype(np.float32)
    return Stack(images, brain, np.diag([-4.0, -4.0, 5.0, 1.0]))


def test_the_spread_of_a_score_that_is_the_noise_is_the_noises(stack):
    found = spread(stack, Blind(), card(), RAW, copies=40)
    assert found.dtype == np.float32
    assert not found[~stack.brain].any()
    assert np.sqrt(np.mean(found[stack.brain] ** 2)) == pytest.approx(0.05, rel=0.1)
    np.testing.assert_allclose(spread(stack, Sure(), card(), RAW, copies=3), 0, atol=1e-6)


def test_the_same_seed_gives_the_same(stack):
    first, second, other = (spread(stack, Blind(), card(), RAW, copies=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_it_lies_on_the_scan(scan, trained, tmp_path):
    out = tmp_path / "u.nii.gz"
    options = ("--model", trained, "--save-uncertainty", out, "--copies", 2)
    assert call("predict", scan, "--out", tmp_path / "m.nii.gz", *options, *FAST).exit_code == 0
    image = nib.load(out)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
    values = image.get_fdata()
    assert values.shape == nib.load(scan).shape and values.max() > 0 and not values[0].any()
