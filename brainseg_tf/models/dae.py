"""DAE, the denoising autoencoder of Table 1: the context term alone."""

from dataclasses import replace
from typing import Any

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import OUTPUT_DTYPE, PACKAGE, Conv, batch_norm, convolution, mirrored, transposed
from brainseg_tf.models.objective import ContextModel

# The lines between max poolings, in groups.
TABLE = (
    (Conv(3, 1, 1, 64), Conv(3, 1, 1, 64)),
    (Conv(3, 1, 1, 128), Conv(3, 1, 1, 128)),
    (Conv(3, 1, 1, 256), Conv(3, 1, 1, 256)),
    (Conv(3, 1, 1, 512),),
)


@keras.saving.register_keras_serializable(PACKAGE)
class DAE(ContextModel):
    """The encoder of Table 1 and its mirror of transposed convolutions.

    Each convolution is followed by batch norm and LeakyReLU, each group by a max pooling. The decoder reverses a
    pooling by the stride of the transposed convolution that follows it; the output of its last one is the image.

    Args:
        channels: image channels, one per modality.
    """

    def __init__(self, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        self.stride = 2 ** len(TABLE)
        policy = {"dtype": self.dtype_policy}
        encoder: list[keras.layers.Layer] = []
        lines: list[Conv] = []
        for group in TABLE:
            for line in group:
                encoder += [convolution(line, **policy), batch_norm(**policy), keras.layers.LeakyReLU(**policy)]
            encoder.append(keras.layers.MaxPooling2D(2, **policy))
            # The counterpart of a group's last convolution comes right after the reversed pooling.
            lines += [*group[:-1], replace(group[-1], strides=2)]
        decoder: list[keras.layers.Layer] = []
        *inner, last = mirrored(tuple(lines), channels)
        for line in inner:
            decoder += [transposed(line, **policy), batch_norm(**policy), keras.layers.LeakyReLU(**policy)]
        self.encoder = keras.Sequential(encoder, name="encoder")
        self.decoder = keras.Sequential([*decoder, transposed(last, dtype=OUTPUT_DTYPE)], name="decoder")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        self.encoder.build((None, None, None, self.channels))
        self.decoder.build((None, None, None, TABLE[-1][-1].filters))
        self.built = True

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.decoder(self.encoder(images, training=training), training=training)
