"""The networks' parts: convolutions from a line of the paper's tables, padding to the stride and cropping back."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models import dilation

PACKAGE = "brainseg_tf"
# What a network gives is float32 under every precision policy: losses and latent distributions need it.
OUTPUT_DTYPE = "float32"


@dataclass(frozen=True)
class Conv:
    """One line of Table 1 or 2: ``conv kernel, stride, dilation - width``."""

    kernel: int
    stride: int
    dilation: int
    width: int


@keras.saving.register_keras_serializable(PACKAGE)
class StridedDilatedConv2D(keras.layers.Layer):
    """A 2D convolution with stride and dilation at once, which ``keras.layers.Conv2D`` refuses.

    Equal to a dilated convolution of stride 1 sampled at every ``stride``-th pixel, padded so that an input of H rows
    gives ceil(H / stride); it runs and trains on every CPU (``dilation``). TensorFlow adds its bias within the
    convolution's kernel, which it cannot do with Keras': the dCVAE's inference is 1.1 times as fast
    (``benchmarks/training.py``).

    Args:
        width: number of output channels.
        kernel, stride, dilation: the same along both axes.
    """

    def __init__(self, width: int, kernel: int, stride: int, dilation: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # === Config ===
        self.width, self.kernel, self.stride, self.dilation = width, kernel, stride, dilation

    def build(self, input_shape: tuple[Any, ...]) -> None:
        shape = self._weight_shape(input_shape[-1])
        self.weight = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")

    def _weight_shape(self, channels: int) -> tuple[int, ...]:
        return (self.kernel, self.kernel, channels, self.width)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.bias_add(dilation.conv2d(inputs, self.weight, self.stride, self.dilation), self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *size, _ = input_shape
        return (batch, *(n and -(-n // self.stride) for n in size), self.width)

    def get_config(self) -> dict[str, Any]:
        own = {"width": self.width, "kernel": self.kernel, "stride": self.stride, "dilation": self.dilation}
        return super().get_config() | own


@keras.saving.register_keras_serializable(PACKAGE)
class StridedDilatedConv2DTranspose(StridedDilatedConv2D):
    """The transpose of ``StridedDilatedConv2D``: an input of H rows gives H * stride."""

    def _weight_shape(self, channels: int) -> tuple[int, ...]:
        return (self.kernel, self.kernel, self.width, channels)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = dilation.conv2d_transpose(inputs, self.weight, self.stride, self.dilation)
        return tf.nn.bias_add(outputs, self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, *size, _ = input_shape
        return (batch, *(n and n * self.stride for n in size), self.width)


def convolution(line: Conv, **options: Any) -> keras.layers.Layer:
    """The convolution that a line of the tables names; ``options`` are Keras' own: name, dtype."""
    return StridedDilatedConv2D(line.width, line.kernel, line.stride, line.dilation, **options)


def transposed(line: Conv, **options: Any) -> keras.layers.Layer:
    """The transposed convolution that a line of a mirrored table names; ``options`` as in ``convolution``."""
    return StridedDilatedConv2DTranspose(line.width, line.kernel, line.stride, line.dilation, **options)


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


def batch_norm(**options: Any) -> keras.layers.Layer:
    """Batch norm over the global batch: what replicas train together has one mean and one variance."""
    return FusedBatchNormalization(synchronized=tf.distribute.has_strategy(), **options)


def mirrored(lines: tuple[Conv, ...], channels: int) -> tuple[Conv, ...]:
    """The decoder's lines: the encoder's in reverse, each leading back to the width that its twin started from."""
    widths = (channels, *(line.width for line in lines[:-1]))
    return tuple(
        Conv(line.kernel, line.stride, line.dilation, width)
        for line, width in zip(reversed(lines), reversed(widths), strict=True)
    )


def run(layers: list[keras.layers.Layer], inputs: tf.Tensor, training: bool) -> tf.Tensor:
    """Calls layers one after another."""
    for layer in layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        inputs = layer(inputs, training=training) if normalises else layer(inputs)
    return inputs


def build_chain(layers: list[keras.layers.Layer], shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """Builds layers one after another; returns the last one's output shape."""
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
    return shape


def pad_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    """Pads (N, H, W, C) with zeros below and to the right until H and W are multiples of ``multiple``."""
    size = tf.shape(images)
    return tf.pad(images, [[0, 0], [0, -size[1] % multiple], [0, -size[2] % multiple], [0, 0]])


def crop_like(images: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Undoes ``pad_to_multiple``."""
    size = tf.shape(like)
    cropped = images[:, : size[1], : size[2]]
    return tf.ensure_shape(cropped, [None, like.shape[1], like.shape[2], images.shape[-1]])
