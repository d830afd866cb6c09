"""A context VAE from a table of convolutions: what CVAE and dCVAE share (Table 2)."""

import math
from typing import Any, ClassVar

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import (
    OUTPUT_DTYPE,
    Conv,
    batch_norm,
    build_chain,
    convolution,
    mirrored,
    run,
    transposed,
)
from brainseg_tf.models.objective import VariationalContextModel

_SMALLEST_STDDEV = 1e-4


class TabledVariationalModel(VariationalContextModel):
    """Encoder, two latent heads and a mirrored decoder from ``TABLE`` and ``HEAD``.

    Each convolution is followed by LeakyReLU and batch norm, except the heads (mean and standard deviation) and the
    decoder's last, which gives the image.

    Args:
        channels: image channels, one per modality.
    """

    TABLE: ClassVar[tuple[Conv, ...]]
    HEAD: ClassVar[Conv]

    def __init__(self, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        lines = (*self.TABLE, self.HEAD)
        self.stride = math.prod(line.stride for line in lines)
        policy = {"dtype": self.dtype_policy}
        # === Layers ===
        self.encoder: list[keras.layers.Layer] = []
        for line in self.TABLE:
            self.encoder += [convolution(line, **policy), keras.layers.LeakyReLU(**policy), batch_norm(**policy)]
        self.mean_head = convolution(self.HEAD, name="mean", dtype=OUTPUT_DTYPE)
        self.stddev_head = convolution(self.HEAD, name="stddev", dtype=OUTPUT_DTYPE)
        self.decoder: list[keras.layers.Layer] = []
        *inner, last = mirrored(lines, channels)
        for line in inner:
            self.decoder += [transposed(line, **policy), keras.layers.LeakyReLU(**policy), batch_norm(**policy)]
        self.decoder.append(transposed(last, dtype=OUTPUT_DTYPE))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        shape = build_chain(self.encoder, (None, None, None, self.channels))
        self.mean_head.build(shape)
        self.stddev_head.build(shape)
        build_chain(self.decoder, self.mean_head.compute_output_shape(shape))
        self.built = True

    def encode(self, images: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        features = run(self.encoder, images, training)
        return self.mean_head(features), tf.math.softplus(self.stddev_head(features)) + _SMALLEST_STDDEV

    def decode(self, latent: tf.Tensor, *, training: bool) -> tf.Tensor:
        return run(self.decoder, latent, training)
