"""The corruption of slices for training."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from brainseg_tf.corruption import CorruptionTask, corrupt
from brainseg_tf.corruption.augmentation import degrade, roughen_mask, vary_contrast
from brainseg_tf.corruption.random_fields import Draws, stream
from brainseg_tf.corruption.shapes import paint_shapes
from brainseg_tf.options import AugmentationOptions, CorruptionOptions
from helpers import heads

KINDS = ("shapes", "noise", "both", "lesions")


def paint(images: tf.Tensor, seed: list[int], shapes: int = 5, spread: float = 0.15) -> np.ndarray:
    return paint_shapes(images, tf.constant(seed), shapes, 15 / 240, 40 / 240, spread).numpy()


def blank(count: int = 64, size: tuple[int, int] = (96, 80), channels: int = 1) -> tf.Tensor:
    return tf.fill([count, *size, channels], -1.0)


# Few combinations, because the XLA compilation of each takes seconds. Every part is in one of them.
@pytest.mark.parametrize(
    ("kind", "augment"), [("shapes", False), ("noise", False), pytest.param("lesions", True, marks=pytest.mark.slow)]
)
def test_the_task_depends_only_on_images_and_seed(kind, augment):
    task_of = partial(corrupt, options=CorruptionOptions(kind, augment))
    images, seed = heads(), tf.constant([11, 123456])
    plain, again = task_of(images, seed), task_of(images, seed)
    compiled = tf.function(task_of, jit_compile=True)(images, seed)
    mapped = next(iter(tf.data.Dataset.from_tensors((images, seed)).map(task_of)))
    for name, values in plain._asdict().items():
        np.testing.assert_array_equal(values, getattr(again, name))
        # XLA rounds floats differently, so a pixel at the edge of a lesion can differ.
        close = np.isclose(values, getattr(compiled, name), atol=1e-4)
        assert close.mean() > 0.999
        np.testing.assert_allclose(values, getattr(mapped, name), atol=1e-6)
    for other in ([11, 123457], [12, 123456]):
        assert (plain.corrupted.numpy() != task_of(images, tf.constant(other)).corrupted.numpy()).any()


def test_shapes_are_bitwise_the_same_with_and_without_xla():
    task_of = partial(corrupt, options=CorruptionOptions())
    images, seed = heads(), tf.constant([11, 123456])
    compiled = tf.function(task_of, jit_compile=True)(images, seed)
    np.testing.assert_array_equal(task_of(images, seed).corrupted, compiled.corrupted)


@pytest.mark.slow
def test_the_corruption_is_compiled_with_xla_unless_turned_off(monkeypatch):
    images, seed, options = heads(), tf.constant([11, 123456]), CorruptionOptions("shapes")
    for value, compiled in (("0", False), ("1", True), (None, True)):
        monkeypatch.delenv("BRAINSEG_XLA")
        if value is not None:
            monkeypatch.setenv("BRAINSEG_XLA", value)
        task_of = CorruptionTask(options)
        traced = task_of._compiled.get_concrete_function(images, seed)
        assert traced.function_def.attr["_XlaMustCompile"].b == compiled
        np.testing.assert_array_equal(task_of(images, seed).corrupted, corrupt(images, seed, options).corrupted)
        monkeypatch.setenv("BRAINSEG_XLA", "0")


@pytest.mark.parametrize("kind", KINDS)
def test_range_and_background_of_tasks(kind):
    images = heads()
    task = corrupt(images, tf.constant([1, 2]), CorruptionOptions(kind, augment=True))
    outside = images.numpy()[..., 0] == 0
    for values in (task.corrupted.numpy(), task.clean.numpy()):
        assert values.shape == images.shape
        assert values.min() >= 0 and values.max() <= 1
    assert not task.clean.numpy()[outside].any()
    assert set(np.unique(task.lesion)) <= {0.0, 1.0}
    assert task.lesion.numpy().any() == (kind == "lesions")
    # The median of a clean brain changes by a factor of at most exp(0.2).
    medians = np.array([np.median(image[~masked]) for image, masked in zip(task.clean, outside, strict=True)])
    assert 0.3 * np.exp(-0.3) < medians.min() and medians.max() < 0.3 * np.exp(0.3)


def test_given_lesions_are_the_target_and_nothing_is_painted():
    images, lesions = heads(64, channels=1).numpy(), np.zeros((64, 64, 64), np.float32)
    lesions[:, 20:30, 12:22] = lesions[:, 0:4, 0:4] = 1  # The second square is outside the brain.
    images[:, 20:30, 12:22] = 0.9
    both = tf.constant(np.concatenate([images, lesions[..., None]], axis=-1))
    brain = images[..., 0] > 0
    plain = corrupt(both, tf.constant([3, 4]), CorruptionOptions("lesions"), given_lesions=True)
    np.testing.assert_array_equal(plain.corrupted, images)
    np.testing.assert_array_equal(plain.clean, images)
    np.testing.assert_array_equal(plain.lesion, lesions * brain)
    # A flipped slice has a flipped lesion.
    only_flips = AugmentationOptions(bias=0, noise=0, blurred=0)
    flipped = corrupt(
        both, tf.constant([3, 4]), CorruptionOptions("lesions", True, augmentation=only_flips), given_lesions=True
    )
    sides = {bool(one[25, 17]) for one in flipped.lesion.numpy()}
    assert sides == {True, False}
    bright = flipped.corrupted.numpy()[..., 0] > 1.5 * np.median(flipped.corrupted.numpy()[:, 32:40, 28:36])
    assert np.mean((bright > 0) == (flipped.lesion.numpy() > 0)) > 0.99


def test_a_task_with_given_lesions_is_saved_and_loaded():
    task = CorruptionTask(CorruptionOptions("lesions"), given_lesions=True)
    assert CorruptionTask.from_config(task.get_config()).given_lesions
    old = {"options": task.get_config()["options"]}
    assert not CorruptionTask.from_config(old).given_lesions


def test_noise_is_coarse_and_has_its_standard_deviation():
    images = heads(64)
    noisy = corrupt(images, tf.constant([1, 2]), CorruptionOptions("noise", noise_stddev=0.05)).corrupted
    noise = (noisy - images).numpy()[:, 16:48, 16:48]
    assert noise.std() == pytest.approx(0.05, rel=0.05)
    assert np.abs(np.diff(noise, axis=1)).mean() < 0.5 * noise.std()
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.1


def test_distributions_of_draws():
    draws = Draws(tf.constant([1, 2]), tf.constant(4000))
    assert draws.uniform(-1.0, 3.0, rank=2).shape == (4000, 1)
    assert float(tf.reduce_mean(draws.uniform(-1.0, 3.0))) == pytest.approx(1, abs=0.1)
    logs = np.log(draws.log_uniform(0.1, 10.0))
    assert logs.min() > np.log(0.1) and logs.max() < np.log(10) and logs.mean() == pytest.approx(0, abs=0.1)
    assert float(tf.reduce_mean(draws.bernoulli(0.3))) == pytest.approx(0.3, abs=0.03)
    field = draws.field((20, 30), 4).numpy()
    assert field.shape == (4000, 20, 30)
    np.testing.assert_allclose(field.std(axis=0), 1, atol=0.1)
    where = tf.tile(tf.constant([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]), [4000, 1, 1])
    rows, columns = draws.pixel(where)
    assert set(zip(rows.numpy().ravel(), columns.numpy().ravel(), strict=True)) == {(0.0, 1.0), (1.0, 2.0)}


def test_flips_and_shapes_are_independent():
    """With one shape per image, the area of the shape is not correlated with the flip of the image."""
    ramp = np.broadcast_to(np.linspace(0.1, 0.2, 64, dtype=np.float32)[None, None, :, None], (400, 64, 64, 1))
    options = CorruptionOptions("shapes", augment=True, shapes=1)
    task = corrupt(tf.constant(ramp), tf.constant([3, 5]), options)
    flipped = task.clean[:, 32, 8, 0] > task.clean[:, 32, 56, 0]
    seed = stream(tf.constant([3, 5]), 2)
    area = (paint(blank(400, (64, 64)), seed.numpy().tolist(), shapes=1) >= 0).sum(axis=(1, 2, 3))
    painted = (np.abs(task.corrupted - task.clean) > 0.1).sum(axis=(1, 2, 3))
    # Shapes of this seed agree with the changed pixels, so the areas are those of this task.
    assert np.corrcoef(area, painted)[0, 1] > 0.5
    # 0.15 is 3 standard deviations of the correlation of 400 independent pairs.
    assert abs(np.corrcoef(flipped, area)[0, 1]) < 0.15


@pytest.mark.parametrize("kind", ["lesions", "both"])
def test_any_number_of_channels(kind):
    images = heads(2, 32, channels=20)
    task = corrupt(images, tf.constant([1, 2]), CorruptionOptions(kind, augment=True))
    assert task.corrupted.shape == images.shape
    # The contrast of each channel is varied differently.
    means = task.clean.numpy().mean(axis=(1, 2))
    assert len(np.unique(means.round(6), axis=1).T) == len(np.unique(means.round(6).T, axis=0)) == 20


def test_random_numbers_do_not_repeat():
    draws = Draws(tf.constant([4, 2]), tf.constant(1))
    numbers = [float(draws.uniform(0.0, 1.0)[0, 0, 0]) for _ in range(500)]
    # With 3 % of the seeds two of 500 numbers agree by chance, since there are four million values; not with this seed.
    assert len(set(numbers)) == 500


def test_one_shape_is_a_square_or_circle_of_the_right_size():
    painted = paint(blank(400), [1, 2], shapes=1, spread=0.05)[..., 0] >= 0
    sizes, circles = [], 0
    for mask in painted:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert abs(height - width) <= 1
        filled = mask.sum() / (height * width)
        assert filled == pytest.approx(1) or filled < 0.95
        circles += filled < 0.95
        sizes.append(height)
    # Sizes of 15 / 240 to 40 / 240 of the shorter side are 5 to 13.3 of 80 pixels.
    assert 4 <= min(sizes) <= 6
    assert 13 <= max(sizes) <= 14
    assert 150 < circles < 250


def test_number_position_and_intensity():
    corrupted = paint(blank(600), [3, 4], shapes=3, spread=0.1)[..., 0]
    levels = [np.unique(image[image >= 0]) for image in corrupted]
    assert {1, 2, 3} >= {len(level) for level in levels} > {1}
    all_levels = np.concatenate(levels)
    assert all_levels.min() < 0.02 and all_levels.max() > 0.98
    assert all_levels.mean() == pytest.approx(0.5, abs=0.03)
    single = paint(blank(600), [3, 4], shapes=1, spread=0.1)[..., 0]
    centres = np.array([np.argwhere(image >= 0).mean(axis=0) for image in single])
    np.testing.assert_allclose(centres.mean(axis=0), [47.5, 39.5], atol=1)
    np.testing.assert_allclose(centres.std(axis=0), [9.6, 8.0], rtol=0.1)


def test_channels_share_the_shapes_and_the_rest_is_untouched():
    images = tf.constant(np.random.default_rng(0).random((16, 64, 64, 3)), tf.float32)
    corrupted = paint(images, [5, 6])
    changed = (corrupted != images.numpy()).any(axis=-1)
    assert 0.01 < changed.mean() < 0.3
    np.testing.assert_array_equal(np.ptp(corrupted[changed], axis=-1), 0)
    assert corrupted.min() >= 0 and corrupted.max() <= 1


DIVERSE = AugmentationOptions(
    curve=0.05, bias=0.25, shading=0.35, noise=0.05, blurred=0.15, resolution=0.3, windowed=0.3, ragged=0.5
)


def test_diverse_augmentation_keeps_range_and_background():
    images = heads(64)
    options = CorruptionOptions("lesions", augment=True, augmentation=DIVERSE)
    task = corrupt(images, tf.constant([1, 2]), options)
    brain = images.numpy()[..., 0] > 0
    near = tf.nn.max_pool2d(tf.constant(brain[..., None], tf.float32), 5, 1, "SAME").numpy()[..., 0] > 0
    for values in (task.corrupted.numpy(), task.clean.numpy()):
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
        # A ragged mask can include two pixels of what is around the brain.
        assert not values[~near].any()
        assert values[near & ~brain].any()
    assert not task.lesion.numpy()[~brain].any()


@pytest.mark.parametrize("channel", [0, 1])
def test_a_curve_changes_equal_intensities_equally(channel):
    """Two tissues get another contrast in each slice, but each stays homogeneous."""
    tissue = np.where(np.arange(64) < 32, 0.25, 0.35)
    images = tf.constant(np.broadcast_to(tissue[None, None, :, None], (300, 64, 64, 2)), tf.float32)
    options = AugmentationOptions(curve=0.1, bias=0.0)
    varied = vary_contrast(images, Draws(tf.constant([1, 2]), tf.constant(300)), options).numpy()[..., channel]
    assert np.ptp(varied[:, :, :32], axis=(1, 2)).max() < 1e-6
    contrast = varied[:, 0, 40] / varied[:, 0, 8]
    # Gamma alone gives 1.28 to 1.58; with the curve it can vanish.
    assert contrast.min() < 1.05 and contrast.max() > 1.7
    assert np.median(contrast) == pytest.approx(1.4, abs=0.1)


def test_shading_is_exponential_along_a_line():
    images = tf.fill([200, 48, 64, 1], 0.3)
    shaded = vary_contrast(
        images, Draws(tf.constant([3, 2]), tf.constant(200)), AugmentationOptions(bias=0, shading=0.35)
    )
    logs = np.log(shaded.numpy()[..., 0])
    assert np.abs(np.diff(logs, 2, axis=1)).max() < 1e-4 and np.abs(np.diff(logs, 2, axis=2)).max() < 1e-4
    ends = logs.max(axis=(1, 2)) - logs.min(axis=(1, 2))
    assert 0.6 < ends.max() <= 2 * 0.35 * np.sqrt(2)


def test_windows_clip_and_resolution_blurs_or_sharpens():
    images = tf.constant(np.random.default_rng(0).uniform(0, 1, (200, 32, 32, 1)), tf.float32)
    draws, brain = Draws(tf.constant([5, 2]), tf.constant(200)), tf.ones([200, 32, 32])
    clipped = degrade(images, brain, draws, AugmentationOptions(noise=0, blurred=0, windowed=0.5)).numpy()
    limits = clipped.max(axis=(1, 2, 3))
    assert 0.35 < (limits < 0.98).mean() < 0.6 and limits.min() > 0.44
    np.testing.assert_allclose(clipped, np.minimum(images, limits[:, None, None, None]), atol=1e-6)
    draws = Draws(tf.constant([6, 2]), tf.constant(200))
    changed = degrade(images, brain, draws, AugmentationOptions(noise=0, blurred=0, resolution=0.5)).numpy()
    spread = changed[:, 4:-4, 4:-4].std(axis=(1, 2, 3)) / images.numpy()[:, 4:-4, 4:-4].std(axis=(1, 2, 3))
    assert 0.4 < np.mean(np.abs(spread - 1) < 1e-6) < 0.6
    assert spread.min() < 0.7 and spread.max() > 1.2


def test_some_slices_are_smoothed_within_the_brain():
    images = tf.constant(np.random.default_rng(0).uniform(0.2, 0.6, (60, 48, 40, 1)), tf.float32)
    brain = np.zeros((60, 48, 40), np.float32)
    brain[:, 6:40, 5:33] = 1
    images = images * brain[..., None]
    draws = Draws(tf.constant([8, 2]), tf.constant(60))
    options = AugmentationOptions(noise=0, blurred=0, smoothed=0.5)
    smoothed = degrade(images, tf.constant(brain), draws, options).numpy()[..., 0]
    assert not smoothed[brain == 0].any()
    # No darker near the edge of the brain than in its middle.
    assert smoothed[:, 6, 5:33].mean() == pytest.approx(smoothed[:, 20, 5:33].mean(), abs=0.02)
    changed = np.abs(smoothed - images.numpy()[..., 0]).max(axis=(1, 2)) > 1e-3
    assert 0.3 < changed.mean() < 0.7
    # Each is a Gaussian filter with a standard deviation below 2.2 pixels; the independent one reaches as far.
    widths = np.linspace(0.05, 2.2, 200)
    for one in np.flatnonzero(changed)[:5]:
        errors = []
        for width in widths:
            part, share = (
                ndimage.gaussian_filter(values, width, mode="constant", radius=6)
                for values in (images.numpy()[one, ..., 0], brain[one])
            )
            expected = part / np.maximum(share, 0.1) * brain[one]
            errors.append(np.abs(smoothed[one] - expected).max())
        assert min(errors) < 0.01


def test_a_ragged_mask_loses_tissue_in_some_places_and_gains_it_in_others():
    images = heads(200, 64, 1)
    brain = tf.cast(images[..., 0] > 0, tf.float32)
    changed, remaining, mask = roughen_mask(images, brain, Draws(tf.constant([7, 2]), tf.constant(200)), 0.5)
    lost = (brain - remaining).numpy() > 0
    gained = (mask - remaining).numpy() > 0
    for one in (lost, gained):
        assert 0.3 < one.any(axis=(1, 2)).mean() < 0.6
    assert not (gained & (brain.numpy() > 0)).any()
    assert (changed.numpy()[..., 0] > 0)[gained].mean() > 0.9
    assert not changed.numpy()[..., 0][lost].any()
    untouched = remaining.numpy() > 0
    np.testing.assert_array_equal(changed.numpy()[untouched], images.numpy()[untouched])
