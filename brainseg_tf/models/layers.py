"""Parts of the networks: convolutions from a line of the paper's tables, batch norm, padding and cropping."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models import dilation

PACKAGE = "brainseg_tf"
# The outputs are float32 under every precision policy: losses and latent distributions need it.
OUTPUT_DTYPE = "float32"


@dataclass(frozen=True)
class Conv:
    """One line of Table 1 or 2: ``conv kernel_size, strides, dilation_rate - filters``."""

    kernel_size: int
    strides: int
    dilation_rate: int
    filters: int


@keras.saving.register_keras_serializable(PACKAGE)
class StridedDilatedConv2D(keras.layers.Layer):
    """A 2D convolution with stride and dilation at the same time, which ``keras.layers.Conv2D`` refuses.

    It equals a dilated convolution of stride 1 sampled at every ``strides``-th pixel, with padding such that an input
    of H rows gives ceil(H / strides). It runs and trains on every CPU (``dilation``). Its bias is added by
    ``tf.nn.bias_add``, which TensorFlow fuses with the convolution: the inference of dCVAE is 1.1 times as fast as with
    Keras' own addition (``benchmarks/training.py``).

    Args:
        filters: number of output channels.
        kernel_size, strides, dilation_rate: the same along both axes.
    """

    def __init__(self, filters: int, kernel_size: int, strides: int, dilation_rate: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size
        self.strides, self.dilation_rate = strides, dilation_rate

    def build(self, input_shape: tuple[Any, ...]) -> None:
        shape = self._kernel_shape(input_shape[-1])
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (self.kernel_size, self.kernel_size, channels, self.filters)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(dilation.conv2d(inputs, self.kernel, self.strides, self.dilation_rate), self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *size, _ = input_shape
        return (batch, *(n and -(-n // self.strides) for n in size), self.filters)

    def get_config(self) -> dict[str, Any]:
        own = ("filters", "kernel_size", "strides", "dilation_rate")
        return super().get_config() | {name: getattr(self, name) for name in own}


@keras.saving.register_keras_serializable(PACKAGE)
class StridedDilatedConv2DTranspose(StridedDilatedConv2D):
    """The transpose of ``StridedDilatedConv2D``: an input of H rows gives H * strides."""

    def _kernel_shape(self, channels: int) -> tuple[int, ...]:
        return (self.kernel_size, self.kernel_size, self.filters, channels)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = dilation.conv2d_transpose(inputs, self.kernel, self.strides, self.dilation_rate)
        return tf.nn.bias_add(outputs, self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *size, _ = input_shape
        return (batch, *(n and n * self.strides for n in size), self.filters)


def convolution(line: Conv, **options: Any) -> keras.layers.Layer:
    """The convolution of a line of the tables; ``options`` are Keras' own: name, dtype."""
    return StridedDilatedConv2D(**asdict(line), **options)


def transposed(line: Conv, **options: Any) -> keras.layers.Layer:
    """The transposed convolution of a line of a mirrored table; ``options`` as in ``convolution``."""
    return StridedDilatedConv2DTranspose(**asdict(line), **options)


@keras.saving.register_keras_serializable(PACKAGE)
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch norm over the last axis of (N, H, W, C) in TensorFlow's one kernel: training is up to 1.3 times as
    fast (``benchmarks/training.py``).
    """

    def call(self, inputs: tf.Tensor, training: bool = False, mask: None = None) -> tf.Tensor:
        if self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        kernel = partial(tf.compat.v1.nn.fused_batch_norm, inputs, self.gamma, self.beta, epsilon=self.epsilon)
        if not training:
            return kernel(self.moving_mean, self.moving_variance, is_training=False)[0]
        outputs, mean, variance = kernel(is_training=True)[:3]
        # The kernel gives the unbiased variance, Keras keeps the biased one.
        values = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), variance.dtype)
        variance *= (values - 1) / values
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable(PACKAGE)
class Doubling2D(keras.layers.Layer):
    """Twice the height and width by bilinear interpolation, of images of any size.

    ``keras.layers.UpSampling2D`` needs a size that is known when the graph is built.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        doubled = tf.image.resize(inputs, 2 * tf.shape(inputs)[1:3], "bilinear")
        return tf.ensure_shape(tf.cast(doubled, inputs.dtype), self.compute_output_shape(inputs.shape))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *size, channels = tuple(input_shape)
        return (batch, *(n and 2 * n for n in size), channels)


def batch_norm(**options: Any) -> keras.layers.Layer:
    """Batch norm over the global batch: what replicas train together has one mean and one variance."""
    return FusedBatchNormalization(synchronized=tf.distribute.has_strategy(), **options)


def mirrored(lines: tuple[Conv, ...], channels: int) -> tuple[Conv, ...]:
    """The lines of the decoder: the encoder's in reverse, each with the number of filters before its counterpart."""
    filters = (channels, *(line.filters for line in lines[:-1]))
    return tuple(replace(line, filters=count) for line, count in zip(reversed(lines), reversed(filters), strict=True))


def pad_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    """Pads (N, H, W, C) with zeros below and to the right until H and W are multiples of ``multiple``."""
    size = tf.shape(images)
    return tf.pad(images, [[0, 0], [0, -size[1] % multiple], [0, -size[2] % multiple], [0, 0]])


def crop_like(images: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Undoes ``pad_to_multiple``."""
    size = tf.shape(like)
    cropped = images[:, : size[1], : size[2]]
    return tf.ensure_shape(cropped, [None, like.shape[1], like.shape[2], images.shape[-1]])
