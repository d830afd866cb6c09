"""The corruption of the context task (section 5.1): random squares and circles.

It is a pure function of a batch and a seed, and uses only stateless random integers and integer arithmetic. So the
result is bitwise the same on every device, with and without XLA, in ``Dataset.map`` and in ``train_step``.
"""

import tensorflow as tf

# Positions are in units of 1/16 pixel. Smaller units would let squared distances exceed the range of int32.
_SUBPIXEL = 16
# A sum of twelve uniform numbers from 0 to 1 has a variance of 1 and is approximately normal (Irwin-Hall).
_UNIFORMS_PER_NORMAL = 12
_RESOLUTION = 2**20


def paint_shapes(
    images: tf.Tensor, seed: tf.Tensor, shapes: int, smallest: float, largest: float, spread: float
) -> tf.Tensor:
    """Paints random squares and circles of random intensity over each image, identical in all channels.

    Args:
        images: (N, H, W, C) float in [0, 1].
        seed: (2,) int32, both parts at least 0; the same seed gives the same shapes.
        shapes, smallest, largest, spread: see ``CorruptionOptions``.

    Returns:
        The corrupted images, (N, H, W, C), with the dtype of ``images``.
    """
    size = tf.shape(images)
    count, height, width = size[0], size[1], size[2]
    shape = tf.stack([count, shapes])
    # Random integers are the same with and without XLA only for seeds that are not negative.
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 6) & 0x7FFFFFFF)

    shorter = tf.cast(tf.minimum(height, width), tf.float32) * (_SUBPIXEL / 2)
    radius = _between(
        shape,
        seeds[0],
        tf.cast(shorter * smallest, tf.int32),
        tf.cast(shorter * largest, tf.int32) + 1,
    )
    row = _centre(shape, seeds[1], height, spread)
    column = _centre(shape, seeds[2], width, spread)
    is_circle = tf.equal(_between(shape, seeds[3], 0, 2), 0)
    level = tf.cast(_between(shape, seeds[4], 0, _RESOLUTION + 1), images.dtype) / _RESOLUTION
    # The first shape is always painted; the number of further shapes is uniform.
    used = tf.range(shapes)[None] <= _between(tf.stack([count, 1]), seeds[5], 0, shapes)

    corrupted = images
    for k in range(shapes):
        down = tf.abs(tf.range(height)[None] * _SUBPIXEL - row[:, k, None])[:, :, None]
        across = tf.abs(tf.range(width)[None] * _SUBPIXEL - column[:, k, None])[:, None, :]
        extent = radius[:, k, None, None]
        circle = down * down + across * across <= extent * extent
        square = tf.maximum(down, across) <= extent
        painted = tf.where(is_circle[:, k, None, None], circle, square) & used[:, k, None, None]
        corrupted = tf.where(painted[..., None], level[:, k, None, None, None], corrupted)
    return corrupted


def _between(shape: tf.Tensor, seed: tf.Tensor, low: int | tf.Tensor, high: int | tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, seed, low, high, tf.int32)


def _centre(shape: tf.Tensor, seed: tf.Tensor, length: tf.Tensor, spread: float) -> tf.Tensor:
    """Positions of centres along an axis, normal around its middle, in units of 1/16 pixel."""
    uniforms = _between(tf.concat([shape, [_UNIFORMS_PER_NORMAL]], 0), seed, 0, 256)
    normal = tf.reduce_sum(uniforms, -1) - (_UNIFORMS_PER_NORMAL * 255) // 2  # in units of 1/256
    scale = tf.cast(tf.cast(length, tf.float32) * (spread * _SUBPIXEL), tf.int32)
    return (length - 1) * _SUBPIXEL // 2 + normal * scale // 256
