"""Random numbers and smooth random fields for a batch, from one seed.

All of them are made from random integers, because TensorFlow's stateless random floats differ with and without XLA.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

# Number of values of a uniform random number. With more steps the largest value would round to 1 in float32.
_STEPS = 2**22
# Number of seeds that are split off at a time, and the number of the stream from which the second block is split.
_BLOCK, _FIRST_BLOCK = 160, 1000


class Draws:
    """Stateless random numbers for a batch.

    Each call uses the next seed, so the numbers depend on the order of the calls.

    Args:
        seed: (2,) int32, both parts at least 0.
        count: number of images in the batch.
    """

    def __init__(self, seed: tf.Tensor, count: tf.Tensor) -> None:
        self._seeds = _seeds(seed)
        self._count = count

    def uniform(self, low: float, high: float, rank: int = 3) -> tf.Tensor:
        """One uniform number per image, as a tensor (N, 1, ...) with ``rank`` axes."""
        unit = tf.reshape(self._unit([self._count]), [self._count, *[1] * (rank - 1)])
        return low + (high - low) * unit

    def log_uniform(self, low: float, high: float, rank: int = 3) -> tf.Tensor:
        """One number per image, whose logarithm is uniform."""
        return tf.exp(self.uniform(np.log(low), np.log(high), rank))

    def bernoulli(self, probability: float, rank: int = 3) -> tf.Tensor:
        """One number per image: 1 with this probability, else 0."""
        return tf.cast(self.uniform(0.0, 1.0, rank) < probability, tf.float32)

    def noise(self, like: tf.Tensor) -> tf.Tensor:
        """Standard normal numbers, independent in each element, of the shape of ``like``."""
        return self._normal(tf.shape(like))

    def field(self, size: tuple[int, int], cells: int) -> tf.Tensor:
        """A smooth field (N, H, W), standard normal in each pixel: cubic splines on ``cells`` by ``cells`` cells."""
        rows, columns = (_cubic_splines(edge, cells) for edge in size)
        coefficients = self._normal([self._count, cells + 3, cells + 3])
        return tf.einsum("hi,nij,wj->nhw", rows, coefficients, columns)

    def curve(self, values: tf.Tensor, knots: int) -> tf.Tensor:
        """A random piecewise linear curve, standard normal at its knots, at values (N, H, W) in [0, 1]."""
        heights = tf.unstack(self._normal([self._count, knots + 1]), axis=1)
        position = values * knots
        weights = (tf.nn.relu(1 - tf.abs(position - number)) for number in range(knots + 1))
        return tf.add_n([w * height[:, None, None] for w, height in zip(weights, heights, strict=True)])

    def pixel(self, where: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Row and column, each (N, 1, 1), of a random pixel of each image of ``where`` (N, H, W).

        The pixels that are 1 are equally likely; those that are 0 are not drawn.
        """
        height, width = where.shape[1:]
        numbers = self._unit([self._count, height * width]) * tf.reshape(where, [self._count, height * width])
        index = tf.reshape(tf.argmax(numbers, axis=1, output_type=tf.int32), [self._count, 1, 1])
        return tf.cast(index // width, tf.float32), tf.cast(index % width, tf.float32)

    def _unit(self, shape: Sequence[int] | tf.Tensor) -> tf.Tensor:
        """Uniform numbers between 0 and 1, both excluded."""
        integers = tf.random.stateless_uniform(shape, next(self._seeds), 0, _STEPS, tf.int32)
        return (tf.cast(integers, tf.float32) + 0.5) / _STEPS

    def _normal(self, shape: Sequence[int] | tf.Tensor) -> tf.Tensor:
        return np.sqrt(2).astype(np.float32) * tf.math.erfinv(2 * self._unit(shape) - 1)


def stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A seed, (2,) int32 >= 0, whose random numbers are independent of those of ``seed`` and of other streams."""
    # Random integers are the same with and without XLA only for seeds that are not negative.
    return tf.random.experimental.stateless_fold_in(seed, number) & 0x7FFFFFFF


def _seeds(seed: tf.Tensor) -> Iterator[tf.Tensor]:
    """An endless sequence of seeds, split off in blocks."""
    for block in itertools.count():
        source = stream(seed, _FIRST_BLOCK + block) if block else seed
        yield from tf.unstack(tf.random.experimental.stateless_split(source, _BLOCK) & 0x7FFFFFFF)


def _cubic_splines(size: int, cells: int) -> tf.Tensor:
    """Uniform cubic B-splines over ``size`` pixels, (size, cells + 3).

    They are scaled so that the squares of each row add up to 1: a field with standard normal coefficients is then
    standard normal in each pixel.
    """
    position = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(position[:, None] - (np.arange(cells + 3) - 1))
    near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, (2 - distance) ** 3 / 6
    splines = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return tf.constant(splines / np.sqrt((splines**2).sum(axis=1, keepdims=True)), tf.float32)
