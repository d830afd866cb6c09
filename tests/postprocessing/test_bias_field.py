import numpy as np
import pytest

from brainseg_tf.postprocessing.bias_field import correct_bias_field
from brainseg_tf.slices import normalise

SHAPE = (20, 40, 36)


def healthy_tissue(seed=0):
    """Two tissues with noise in an ellipsoid, (N, H, W), and where it lies."""
    random = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"), axis=-1)
    brain = np.linalg.norm(place, axis=-1) < 0.95
    tissue = np.where(random.random(SHAPE) < 0.4, 0.8, 1.0) + random.normal(0, 0.03, SHAPE)
    return np.where(brain, tissue, 0), brain, place


def slope(image, brain, place):
    """How much brighter the right third is than the left, as a ratio of medians."""
    left, right = (image[brain & side] for side in (place[..., 2] < -0.4, place[..., 2] > 0.4))
    return np.median(right) / np.median(left)


def test_the_bias_field_is_removed_from_each_channel():
    tissue, brain, place = healthy_tissue()
    coils = [np.exp(0.3 * place[..., 2] + 0.1 * place[..., 1] ** 2), np.exp(-0.2 * place[..., 2])]
    images = np.stack([normalise(tissue * coil, brain, "volume") for coil in coils], axis=-1)
    flat = correct_bias_field(images, brain, np.zeros(SHAPE, bool), "volume")
    truth = normalise(tissue, brain, "volume")
    for channel in range(2):
        assert abs(slope(images[..., channel], brain, place) - 1) > 0.3
        assert abs(slope(flat[..., channel], brain, place) - slope(truth, brain, place)) < 0.05
        assert np.corrcoef(flat[..., channel][brain], truth[brain])[0, 1] > 0.93
    assert flat.dtype == np.float32
    assert not flat[~brain].any()


def test_lesions_do_not_influence_the_bias_field():
    tissue, brain, place = healthy_tissue()
    lesion = brain & (np.linalg.norm(place - [0, 0, 0.5], axis=-1) < 0.45)
    image = normalise(np.where(lesion, 1.6 * tissue, tissue), brain, "robust")[..., None]

    def contrast(images):
        return np.median(images[lesion]) / np.median(images[brain & ~lesion])

    told = correct_bias_field(image, brain, lesion, "robust")
    untold = correct_bias_field(image, brain, np.zeros(SHAPE, bool), "robust")
    assert contrast(told) > 0.95 * contrast(image)
    assert contrast(untold) < 0.9 * contrast(image)


def test_with_too_little_healthy_tissue_nothing_changes():
    tissue, brain, _ = healthy_tissue()
    image = normalise(tissue, brain, "robust")[..., None]
    assert correct_bias_field(image, brain, brain, "robust") is image
    few = np.zeros_like(brain)
    few[10, 20, 10:14] = True
    assert correct_bias_field(image, few, np.zeros(SHAPE, bool), "robust") is image


def test_the_surroundings_of_suspicious_pixels_do_not_influence_the_bias_field():
    """Halos of three pixels beside suspicious lines in one half: fitted to them, the field would darken that half."""
    shape = (6, 32, 64)
    brain, suspicious = np.ones(shape, bool), np.zeros(shape, bool)
    suspicious[:, :, 4:32:8] = True
    image = np.full(shape, 0.3, np.float32)
    for distance in (1, 2, 3):
        for side in (-distance, distance):
            image[:, :, np.arange(4, 32, 8) + side] = 0.9
    # Volume normalisation needs both ends.
    image[0, 0, 40], image[0, 1, 40] = 0.0, 1.0
    corrected = correct_bias_field(image[..., None], brain, suspicious, "volume")[..., 0]
    healthy = corrected[:, :, 8:32:8]
    assert healthy.mean() == pytest.approx(corrected[:, :, 45:60].mean(), rel=0.05)
