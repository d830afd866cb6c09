"""selfseg: a U-Net that is trained with synthetic lesions to segment and to remove them.

Its outputs are the reconstruction, as of the other networks, and the lesion probability of each pixel, which replaces
the residual. One network has both outputs (DRAEM, Zavrtanik 2021, has a network for each).
"""

import tensorflow as tf

from brainseg_tf.corruption import Task
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import PACKAGE, crop_like, pad_to_multiple
from brainseg_tf.models.objective import reconstruction_error
from brainseg_tf.models.unet import UNet


@keras.saving.register_keras_serializable(PACKAGE)
class SelfSegmenter(UNet):
    """A U-Net with one more map: the logit of a lesion.

    It sees each slice and its mirror image, because most lesions are on one side only, and a faint one differs from
    healthy tissue mainly by that.

    Args:
        channels: image channels, one per modality.
    """

    loss_names = ("loss", "context", "cross_entropy", "overlap")
    score = "probability"

    @property
    def maps(self) -> int:
        return 1 + self.channels

    @property
    def inputs(self) -> int:
        return 2 * self.channels

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.logit_and_reconstruction(images, training=training)[..., 1:]

    def logit_and_reconstruction(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """The logit of a lesion, and the reconstruction, (N, H, W, 1 + C), for images (N, H, W, C)."""
        with_mirror = tf.concat([images, images[:, :, ::-1]], axis=-1)
        maps = self.compute_maps(pad_to_multiple(with_mirror, self.stride), training=training)
        return crop_like(maps, images)

    def compute_losses(self, task: Task, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        maps = self.logit_and_reconstruction(task.corrupted, training=seed is not None)
        logits = maps[..., 0]
        losses = {
            "context": reconstruction_error(task.clean, maps[..., 1:]),
            "cross_entropy": tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(task.lesion, logits)),
            "overlap": soft_dice_loss(task.lesion, tf.sigmoid(logits)),
        }
        losses["loss"] = sum(getattr(self.objective, name) * value for name, value in losses.items())
        return losses

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Means of the outputs for the image and for its mirror image."""
        both = tf.concat([images, images[:, :, ::-1]], axis=0)
        maps = self.logit_and_reconstruction(both, training=False)
        maps = tf.concat([tf.sigmoid(maps[..., :1]), maps[..., 1:]], axis=-1)
        plain, mirrored = tf.split(maps, 2)
        mean = (plain + mirrored[:, :, ::-1]) / 2
        return {"reconstruction": mean[..., 1:], "probability": mean[..., 0]}


def soft_dice_loss(lesion: tf.Tensor, probability: tf.Tensor, smoothing: float = 8.0) -> tf.Tensor:
    """1 - Dice of (N, H, W) in [0, 1], by image; ``smoothing``, in pixels, reduces the loss of clean slices."""
    overlap = tf.reduce_sum(lesion * probability, [1, 2])
    total = tf.reduce_sum(lesion, [1, 2]) + tf.reduce_sum(probability, [1, 2])
    return tf.reduce_mean(1 - (2 * overlap + smoothing) / (total + smoothing))
