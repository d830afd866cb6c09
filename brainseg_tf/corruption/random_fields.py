"""Random numbers and smooth random fields for a batch, all from one seed.

TensorFlow's stateless floats differ with and without XLA, its integers do not: so all begins with integers.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

# Half a step still tells 1 from what lies below it in a float32.
_STEPS = 2**22
# Seeds that are split off at a time, and the number of the first stream that further ones are split from.
_BLOCK, _FIRST_BLOCK = 160, 1000


class Draws:
    """Stateless draws for a batch; each call takes the next seed, so the order of the calls is part of the result.

    Args:
        seed: (2,) int32, both parts at least 0.
        count: images in the batch.
    """

    def __init__(self, seed: tf.Tensor, count: tf.Tensor) -> None:
        self._seeds = _seeds(seed)
        self._count = count

    def uniform(self, low: float, high: float, rank: int = 3) -> tf.Tensor:
        """One number per image, (N, 1, ...) of ``rank`` axes."""
        unit = tf.reshape(self._unit([self._count]), [self._count, *[1] * (rank - 1)])
        return low + (high - low) * unit

    def log_uniform(self, low: float, high: float, rank: int = 3) -> tf.Tensor:
        """One number per image whose logarithm is uniform."""
        return tf.exp(self.uniform(np.log(low), np.log(high), rank))

    def coin(self, probability: float, rank: int = 3) -> tf.Tensor:
        """1 with this probability, else 0; one per image."""
        return tf.cast(self.uniform(0.0, 1.0, rank) < probability, tf.float32)

    def noise(self, like: tf.Tensor) -> tf.Tensor:
        """Standard normal, independent in each pixel."""
        return self._normal(tf.shape(like))

    def field(self, size: tuple[int, int], cells: int) -> tf.Tensor:
        """A smooth field of ``cells`` by ``cells`` bumps over the image, standard normal in each pixel, (N, H, W)."""
        rows, columns = (_cubic_splines(edge, cells) for edge in size)
        heights = self._normal([self._count, cells + 3, cells + 3])
        return tf.einsum("hi,nij,wj->nhw", rows, heights, columns)

    def pixel(self, where: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Row and column, each (N, 1, 1), of a pixel of (N, H, W) that is not 0, all equally likely."""
        height, width = where.shape[1:]
        lots = self._unit([self._count, height * width]) * tf.reshape(where, [self._count, height * width])
        drawn = tf.reshape(tf.argmax(lots, axis=1, output_type=tf.int32), [self._count, 1, 1])
        return tf.cast(drawn // width, tf.float32), tf.cast(drawn % width, tf.float32)

    def _unit(self, shape: Sequence[int] | tf.Tensor) -> tf.Tensor:
        """Uniform between 0 and 1, both excluded."""
        whole = tf.random.stateless_uniform(shape, next(self._seeds), 0, _STEPS, tf.int32)
        return (tf.cast(whole, tf.float32) + 0.5) / _STEPS

    def _normal(self, shape: Sequence[int] | tf.Tensor) -> tf.Tensor:
        return np.sqrt(2).astype(np.float32) * tf.math.erfinv(2 * self._unit(shape) - 1)


def stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A seed, (2,) int32 >= 0, whose draws are independent of those of ``seed`` and of the other streams."""
    # Integer draws agree with and without XLA only for seeds that are not negative.
    return tf.random.experimental.stateless_fold_in(seed, number) & 0x7FFFFFFF


def _seeds(seed: tf.Tensor) -> Iterator[tf.Tensor]:
    """Any number of seeds, split off in blocks."""
    for block in itertools.count():
        source = stream(seed, _FIRST_BLOCK + block) if block else seed
        yield from tf.unstack(tf.random.experimental.stateless_split(source, _BLOCK) & 0x7FFFFFFF)


def _cubic_splines(size: int, cells: int) -> tf.Tensor:
    """Uniform cubic B-splines over ``size`` pixels, (size, cells + 3); each row's squares add up to 1."""
    place = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(place[:, None] - (np.arange(cells + 3) - 1))
    near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, (2 - distance) ** 3 / 6
    splines = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return tf.constant(splines / np.sqrt((splines**2).sum(axis=1, keepdims=True)), tf.float32)
