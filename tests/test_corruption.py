from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from brainseg_tf.corruption import CorruptionOptions, corrupt

OPTIONS = CorruptionOptions()


def blank(count: int = 64, size: tuple[int, int] = (96, 80), channels: int = 1) -> tf.Tensor:
    return tf.fill([count, *size, channels], -1.0)


def test_bit_for_bit_the_same_everywhere():
    images = tf.constant(np.random.default_rng(0).random((8, 50, 41, 2)), tf.float32)
    seed = tf.constant([11, 123456])
    plain = corrupt(images, seed, OPTIONS)
    compiled = tf.function(partial(corrupt, options=OPTIONS), jit_compile=True)(images, seed)
    mapped = next(iter(tf.data.Dataset.from_tensors((images, seed)).map(partial(corrupt, options=OPTIONS))))
    np.testing.assert_array_equal(plain, compiled)
    np.testing.assert_array_equal(plain, mapped)
    for other in ([11, 123457], [12, 123456]):
        assert (plain.numpy() != corrupt(images, tf.constant(other), OPTIONS).numpy()).any()


def test_one_shape_is_a_square_or_circle_of_the_right_size():
    options = CorruptionOptions(shapes=1, spread=0.05)
    painted = corrupt(blank(400), tf.constant([1, 2]), options).numpy()[..., 0] >= 0
    sizes, round_ = [], 0
    for mask in painted:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert abs(height - width) <= 1
        filled = mask.sum() / (height * width)
        assert filled == pytest.approx(1) or filled < 0.95
        round_ += filled < 0.95
        sizes.append(height)
    # 15 to 40 of 240 pixels are 5 to 13.3 of 80.
    assert 4 <= min(sizes) <= 6
    assert 13 <= max(sizes) <= 14
    assert 150 < round_ < 250


def test_number_position_and_intensity():
    corrupted = corrupt(blank(600), tf.constant([3, 4]), CorruptionOptions(shapes=3, spread=0.1)).numpy()[..., 0]
    levels = [np.unique(image[image >= 0]) for image in corrupted]
    assert {1, 2, 3} >= {len(level) for level in levels} > {1}
    every = np.concatenate(levels)
    assert every.min() < 0.02 and every.max() > 0.98
    assert every.mean() == pytest.approx(0.5, abs=0.03)
    single = corrupt(blank(600), tf.constant([3, 4]), CorruptionOptions(shapes=1, spread=0.1)).numpy()[..., 0]
    centres = np.array([np.argwhere(image >= 0).mean(axis=0) for image in single])
    np.testing.assert_allclose(centres.mean(axis=0), [47.5, 39.5], atol=1)
    np.testing.assert_allclose(centres.std(axis=0), [9.6, 8.0], rtol=0.1)


def test_channels_share_the_shapes_and_the_rest_is_untouched():
    images = tf.constant(np.random.default_rng(0).random((16, 64, 64, 3)), tf.float32)
    corrupted = corrupt(images, tf.constant([5, 6]), OPTIONS).numpy()
    changed = (corrupted != images.numpy()).any(axis=-1)
    assert 0.01 < changed.mean() < 0.3
    np.testing.assert_array_equal(np.ptp(corrupted[changed], axis=-1), 0)
    assert corrupted.min() >= 0 and corrupted.max() <= 1
