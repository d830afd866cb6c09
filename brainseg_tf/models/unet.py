"""A small U-Net (Ronneberger 2015): a denoiser that is hard to beat (Kascenas 2022), and the body of ``selfseg``."""

from typing import Any, ClassVar

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import OUTPUT_DTYPE, PACKAGE, batch_norm, build_chain, run
from brainseg_tf.models.objective import ContextModel

_MOMENTUM = 0.9


@keras.saving.register_keras_serializable(PACKAGE)
class UNet(ContextModel):
    """A U-Net whose first convolution halves the image, which makes it four times as fast as one that does not.

    The last block works at the image's size again, with the image itself as its skip connection.

    Args:
        channels: image channels, one per modality.
    """

    WIDTHS: ClassVar[tuple[int, ...]] = (24, 48, 96, 128)
    FINE: ClassVar[int] = 12
    # Twice its stride, so that half of it is left out at either edge.
    trim = 2 * 2 ** len(WIDTHS)

    def __init__(self, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        self.stride = 2 ** len(self.WIDTHS)
        policy = self.dtype_policy
        # === Layers ===
        self.stem = _block(self.WIDTHS[0], policy, kernel=4, strides=2)
        self.down = [_block(width, policy) + _block(width, policy) for width in self.WIDTHS]
        self.pool = keras.layers.MaxPooling2D(2, dtype=policy)
        self.up = [keras.layers.Conv2DTranspose(width, 2, 2, "same", dtype=policy) for width in self.WIDTHS[-2::-1]]
        self.merge = [_block(width, policy) + _block(width, policy) for width in self.WIDTHS[-2::-1]]
        self.join = keras.layers.Concatenate(dtype=policy)
        self.fine_up = keras.layers.Conv2DTranspose(self.FINE, 2, 2, "same", dtype=policy)
        self.fine = [keras.layers.Conv2D(self.FINE, 3, 1, "same", dtype=policy), keras.layers.LeakyReLU(dtype=policy)]
        self.head = keras.layers.Conv2D(self.maps, 1, name="maps", dtype=OUTPUT_DTYPE)

    @property
    def maps(self) -> int:
        """Number of channels that the last convolution gives."""
        return self.channels

    def build(self, input_shape: tuple[Any, ...]) -> None:
        shape: tuple[Any, ...] = build_chain(self.stem, (None, None, None, self.channels))
        for block in self.down:
            shape = build_chain(block, shape)
        for up, merge in zip(self.up, self.merge, strict=True):
            shape = build_chain([up], shape)
            shape = build_chain(merge, (*shape[:-1], 2 * shape[-1]))
        shape = build_chain([self.fine_up], shape)
        shape = build_chain(self.fine, (*shape[:-1], shape[-1] + self.channels))
        build_chain([self.head], shape)
        self.built = True

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.compute_maps(images, training=training)

    def compute_maps(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """The last convolution's output, (N, H, W, maps), for images whose sides are multiples of ``stride``."""
        features = run(self.stem, images, training)
        skips: list[tf.Tensor] = []
        for block in self.down:
            features = run(block, self.pool(features) if skips else features, training)
            skips.append(features)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            features = run(merge, self.join([up(features), skip]), training)
        return self.head(run(self.fine, self.join([self.fine_up(features), images]), training))


def _block(width: int, policy: keras.DTypePolicy, kernel: int = 3, strides: int = 1) -> list[keras.layers.Layer]:
    return [
        keras.layers.Conv2D(width, kernel, strides, "same", use_bias=False, dtype=policy),
        batch_norm(momentum=_MOMENTUM, dtype=policy),
        keras.layers.LeakyReLU(dtype=policy),
    ]
