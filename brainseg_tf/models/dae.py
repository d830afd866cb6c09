"""DAE, the denoising autoencoder of Table 1: the context task alone."""

from typing import Any

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import (
    OUTPUT_DTYPE,
    PACKAGE,
    Conv,
    batch_norm,
    build_chain,
    convolution,
    mirrored,
    run,
    transposed,
)
from brainseg_tf.models.objective import ContextModel

# Rows between max poolings, in groups.
TABLE = (
    (Conv(3, 1, 1, 64), Conv(3, 1, 1, 64)),
    (Conv(3, 1, 1, 128), Conv(3, 1, 1, 128)),
    (Conv(3, 1, 1, 256), Conv(3, 1, 1, 256)),
    (Conv(3, 1, 1, 512),),
)


@keras.saving.register_keras_serializable(PACKAGE)
class DAE(ContextModel):
    """An encoder after Table 1 and its mirror of transposed convolutions.

    Each convolution is followed by batch norm and LeakyReLU, each group by a max pooling. The mirror undoes a pooling
    by the stride of the transposed convolution that follows it; its last one gives the image.

    Args:
        channels: image channels, one per modality.
    """

    def __init__(self, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        self.stride = 2 ** len(TABLE)
        policy = {"dtype": self.dtype_policy}
        # === Layers ===
        self.encoder: list[keras.layers.Layer] = []
        lines: list[Conv] = []
        for group in TABLE:
            for line in group:
                self.encoder += [convolution(line, **policy), batch_norm(**policy), keras.layers.LeakyReLU(**policy)]
            self.encoder.append(keras.layers.MaxPooling2D(2, **policy))
            # The mirror's twin of a group's last convolution comes right after the undone pooling.
            twin = group[-1]
            lines += [*group[:-1], Conv(twin.kernel, 2, twin.dilation, twin.width)]
        self.decoder: list[keras.layers.Layer] = []
        *inner, last = mirrored(tuple(lines), channels)
        for line in inner:
            self.decoder += [transposed(line, **policy), batch_norm(**policy), keras.layers.LeakyReLU(**policy)]
        self.decoder.append(transposed(last, dtype=OUTPUT_DTYPE))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        build_chain(self.decoder, build_chain(self.encoder, (None, None, None, self.channels)))
        self.built = True

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        return run(self.decoder, run(self.encoder, images, training), training)
