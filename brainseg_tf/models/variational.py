"""A context VAE from a table of convolutions: what CVAE and dCVAE have in common (Table 2)."""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import OUTPUT_DTYPE, Conv, batch_norm, convolution, mirrored, transposed
from brainseg_tf.models.objective import VariationalContextModel, posterior

if TYPE_CHECKING:
    from tensorflow_probability import distributions as tfd

_SMALLEST_STDDEV = 1e-4


class TabledVariationalModel(VariationalContextModel):
    """Encoder, two latent heads and a mirrored decoder from ``TABLE`` and ``HEAD``.

    Each convolution is followed by LeakyReLU and batch norm, except the heads (mean and standard deviation) and the
    last one of the decoder, whose output is the image.

    Args:
        channels: image channels, one per modality.
    """

    TABLE: ClassVar[tuple[Conv, ...]]
    HEAD: ClassVar[Conv]

    def __init__(self, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        lines = (*self.TABLE, self.HEAD)
        self.stride = math.prod(line.strides for line in lines)
        policy = {"dtype": self.dtype_policy}
        encoder: list[keras.layers.Layer] = []
        for line in self.TABLE:
            encoder += [convolution(line, **policy), keras.layers.LeakyReLU(**policy), batch_norm(**policy)]
        decoder: list[keras.layers.Layer] = []
        *inner, last = mirrored(lines, channels)
        for line in inner:
            decoder += [transposed(line, **policy), keras.layers.LeakyReLU(**policy), batch_norm(**policy)]
        self.encoder = keras.Sequential(encoder, name="encoder")
        self.mean_head = convolution(self.HEAD, name="mean", dtype=OUTPUT_DTYPE)
        self.stddev_head = convolution(self.HEAD, name="stddev", dtype=OUTPUT_DTYPE)
        self.decoder = keras.Sequential([*decoder, transposed(last, dtype=OUTPUT_DTYPE)], name="decoder")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.encoder.build((None, None, None, self.channels))
        features = (None, None, None, self.TABLE[-1].filters)
        self.mean_head.build(features)
        self.stddev_head.build(features)
        self.decoder.build((None, None, None, self.HEAD.filters))
        self.built = True

    def encode(self, images: tf.Tensor, *, training: bool) -> "tfd.Independent":
        features = self.encoder(images, training=training)
        return posterior(self.mean_head(features), tf.math.softplus(self.stddev_head(features)) + _SMALLEST_STDDEV)

    def decode(self, latent: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.decoder(latent, training=training)
