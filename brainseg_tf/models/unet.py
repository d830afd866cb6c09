"""A small U-Net (Ronneberger 2015): a denoiser (Kascenas 2022), and the network of ``selfseg``."""

from typing import Any, ClassVar

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import OUTPUT_DTYPE, PACKAGE, Doubling2D, batch_norm
from brainseg_tf.models.objective import ContextModel

_MOMENTUM = 0.9


@keras.saving.register_keras_serializable(PACKAGE)
class UNet(ContextModel):
    """A U-Net whose first convolution halves the image, which makes it four times as fast as one that does not.

    The last block works at the image's size, with the image itself as its skip connection.

    Args:
        channels: image channels, one per modality.
    """

    FILTERS: ClassVar[tuple[int, ...]] = (24, 48, 96, 128)
    FINE_FILTERS: ClassVar[int] = 12
    # Twice the stride, so that a multiple of the stride is left out at either edge.
    trim = 2 * 2 ** len(FILTERS)

    def __init__(self, channels: int = 1, **kwargs: Any) -> None:
        super().__init__(channels, **kwargs)
        self.stride = 2 ** len(self.FILTERS)
        policy = self.dtype_policy
        upwards = self.FILTERS[-2::-1]
        self.stem = keras.Sequential(_block(self.FILTERS[0], policy, kernel_size=4, strides=2), name="stem")
        self.down = [_two_blocks(filters, policy, f"down_{filters}") for filters in self.FILTERS]
        self.pool = keras.layers.MaxPooling2D(2, dtype=policy)
        self.up = [_upsampling(filters, policy, f"up_{filters}") for filters in upwards]
        self.join = keras.layers.Concatenate(dtype=policy)
        self.merge = [_two_blocks(filters, policy, f"merge_{filters}") for filters in upwards]
        self.fine_up = _upsampling(self.FINE_FILTERS, policy, "fine_up")
        self.fine = keras.Sequential(
            [keras.layers.Conv2D(self.FINE_FILTERS, 3, 1, "same", dtype=policy), keras.layers.LeakyReLU(dtype=policy)],
            name="fine",
        )
        self.head = keras.layers.Conv2D(self.maps, 1, name="maps", dtype=OUTPUT_DTYPE)

    @property
    def maps(self) -> int:
        """Number of output channels."""
        return self.channels

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return self.channels

    def build(self, input_shape: tuple[Any, ...]) -> None:
        def shape(channels: int) -> tuple[None, None, None, int]:
            return None, None, None, channels

        self.stem.build(shape(self.inputs))
        before = self.FILTERS[0]
        for block, filters in zip(self.down, self.FILTERS, strict=True):
            block.build(shape(before))
            before = filters
        for up, block, filters in zip(self.up, self.merge, self.FILTERS[-2::-1], strict=True):
            up.build(shape(before))
            block.build(shape(2 * filters))
            before = filters
        self.fine_up.build(shape(before))
        self.fine.build(shape(self.FINE_FILTERS + self.inputs))
        self.head.build(shape(self.FINE_FILTERS))
        self.built = True

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.compute_maps(images, training=training)

    def compute_maps(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """The last convolution's output, (N, H, W, maps), for (N, H, W, inputs) whose sides are multiples of stride."""
        features = self.stem(images, training=training)
        skips: list[tf.Tensor] = []
        for block in self.down:
            features = block(self.pool(features) if skips else features, training=training)
            skips.append(features)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            features = merge(self.join([up(features), skip]), training=training)
        return self.head(self.fine(self.join([self.fine_up(features), images])))


def _upsampling(filters: int, policy: keras.DTypePolicy, name: str) -> keras.Sequential:
    """Twice the size, without the checkerboard of a transposed convolution (Odena 2016)."""
    layers = [
        keras.layers.Conv2D(filters, 1, dtype=policy),
        Doubling2D(dtype=policy),
    ]
    return keras.Sequential(layers, name=name)


def _two_blocks(filters: int, policy: keras.DTypePolicy, name: str) -> keras.Sequential:
    return keras.Sequential(_block(filters, policy) + _block(filters, policy), name=name)


def _block(filters: int, policy: keras.DTypePolicy, kernel_size: int = 3, strides: int = 1) -> list[keras.layers.Layer]:
    return [
        keras.layers.Conv2D(filters, kernel_size, strides, "same", use_bias=False, dtype=policy),
        batch_norm(momentum=_MOMENTUM, dtype=policy),
        keras.layers.LeakyReLU(dtype=policy),
    ]
