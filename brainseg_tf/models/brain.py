"""The brain network: a small 3D U-Net (Cicek 2016) that finds the brain in a head, and its training step."""

from typing import Any, ClassVar

import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import OUTPUT_DTYPE, PACKAGE

# Added to both volumes of the soft Dice, in voxels, so that an empty example has a loss.
_SMOOTH = 100.0


@keras.saving.register_keras_serializable(PACKAGE)
class BrainNetwork(keras.Model):
    """A 3D U-Net whose first convolution halves the volume.

    The last layer has eight maps, which are the eight voxels that the first convolution made one of. This takes a
    fifth of the time of convolutions at full resolution. Instance normalisation makes the features independent of the
    contrast and of the other volumes in a batch.

    Fit it on batches of (images (N, X, Y, Z, 1) in [0, 1], the share of each voxel that is brain,
    (N, X, Y, Z) float32). Calling it gives the
    logit of each voxel.
    """

    FILTERS: ClassVar[tuple[int, ...]] = (16, 32, 64, 96)
    loss_names: ClassVar[tuple[str, ...]] = ("loss", "cross_entropy", "overlap")
    # Sides are padded to multiples of it.
    stride: ClassVar[int] = 2 ** len(FILTERS)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        first, *others = self.FILTERS
        upwards = self.FILTERS[-2::-1]
        self.stem = keras.Sequential(_block(first, strides=2, padding="valid"), name="stem")
        self.down = [_two_blocks(first, "down_0")] + [
            _two_blocks(filters, f"down_{k}", strides=2) for k, filters in enumerate(others, start=1)
        ]
        self.grow = keras.layers.UpSampling3D(2)
        self.reduce = [keras.layers.Conv3D(filters, 1, name=f"reduce_{filters}") for filters in upwards]
        self.join = keras.layers.Concatenate()
        self.merge = [_two_blocks(filters, f"merge_{filters}") for filters in upwards]
        self.head = keras.layers.Conv3D(8, 1, name="voxels", dtype=OUTPUT_DTYPE)
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_names}

    def build(self, input_shape: tuple[Any, ...]) -> None:
        def shape(channels: int) -> tuple[None, None, None, None, int]:
            return None, None, None, None, channels

        self.stem.build(shape(1))
        before = self.FILTERS[0]
        for block, filters in zip(self.down, self.FILTERS, strict=True):
            block.build(shape(before))
            before = filters
        for reduce, merge, filters in zip(self.reduce, self.merge, self.FILTERS[-2::-1], strict=True):
            reduce.build(shape(before))
            merge.build(shape(2 * filters))
            before = filters
        self.head.build(shape(before))
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits (N, X, Y, Z) of images (N, X, Y, Z, 1) of any size."""
        size = tf.shape(images)
        # The last voxel is what the padding "same" of the first convolution would add. It is added here, because oneDNN
        # joins a constant padding and a 3D convolution into one operation, which ignores the padding "same".
        padding = [[0, -size[axis] % self.stride + 1] for axis in (1, 2, 3)]
        features = self.stem(tf.pad(images, [[0, 0], *padding, [0, 0]]))
        skips = []
        for block in self.down:
            features = block(features)
            skips.append(features)
        for reduce, merge, skip in zip(self.reduce, self.merge, skips[-2::-1], strict=True):
            features = merge(self.join([self.grow(reduce(features)), skip]))
        return _depth_to_space(self.head(features))[:, : size[1], : size[2], : size[3]]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.loss_trackers.values())

    def compute_losses(self, images: tf.Tensor, brain: tf.Tensor, *, training: bool) -> dict[str, tf.Tensor]:
        """``loss`` and the terms that it is the sum of: the cross entropy and 1 minus the soft Dice."""
        logits = self(images, training=training)
        cross_entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(brain, logits))
        probability = tf.sigmoid(logits)
        common = tf.reduce_sum(probability * brain, axis=(1, 2, 3))
        total = tf.reduce_sum(probability + brain, axis=(1, 2, 3))
        overlap = tf.reduce_mean(1 - (2 * common + _SMOOTH) / (total + _SMOOTH))
        return {"loss": cross_entropy + overlap, "cross_entropy": cross_entropy, "overlap": overlap}

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = self.compute_losses(*data, training=True)
        gradients = tape.gradient(losses["loss"], self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self._update_trackers(losses)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._update_trackers(self.compute_losses(*data, training=False))

    def _update_trackers(self, losses: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        for name, value in losses.items():
            self.loss_trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.loss_trackers.items()}


def _two_blocks(filters: int, name: str, strides: int = 1) -> keras.Sequential:
    return keras.Sequential([*_block(filters, strides), *_block(filters)], name=name)


def _block(filters: int, strides: int = 1, padding: str = "same") -> list[keras.layers.Layer]:
    return [
        keras.layers.Conv3D(filters, 3, strides, padding, use_bias=False),
        # One group per channel: instance normalisation (Ulyanov 2016).
        keras.layers.GroupNormalization(-1),
        keras.layers.LeakyReLU(),
    ]


def _depth_to_space(maps: tf.Tensor) -> tf.Tensor:
    """(N, x, y, z, 8) to (N, 2 x, 2 y, 2 z)."""
    size = tf.shape(maps)
    blocks = tf.reshape(maps, tf.concat([size[:4], [2, 2, 2]], axis=0))
    blocks = tf.transpose(blocks, [0, 1, 4, 2, 5, 3, 6])
    return tf.reshape(blocks, tf.concat([size[:1], 2 * size[1:4]], axis=0))
