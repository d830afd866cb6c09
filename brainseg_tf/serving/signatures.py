"""The signatures of an exported model. docs/serving.md describes them for users."""

from collections.abc import Callable

import tensorflow as tf

from brainseg_tf.model_card import BrainCard, ModelCard
from brainseg_tf.models.brain import BrainNetwork
from brainseg_tf.models.layers import pad_to_multiple
from brainseg_tf.models.objective import ContextModel, VariationalContextModel, kl_by_image
from brainseg_tf.serving.identity import identity

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def signatures(model: ContextModel, card: ModelCard) -> dict[str, Signature]:
    """The signatures of a model by name.

    Each is a function of images (N, H, W, C) float32 in [0, 1]. The first axis of every output is the batch, and the
    output of an image does not depend on the other images in the batch.

    Args:
        model: the network.
        card: its card.
    """

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model.outputs(images)
        return outputs | {"residual": images - outputs["reconstruction"]}

    def describe(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"card": tf.fill([tf.shape(images)[0]], identity(card))}

    by_name = {"serving_default": serving_default, "describe": describe}
    return by_name | (_variational(model) if isinstance(model, VariationalContextModel) else {})


def brain_signatures(model: BrainNetwork, card: BrainCard) -> dict[str, Signature]:
    """The signatures of a brain network by name.

    ``serving_default`` takes images (N, x, y, z, 1) uint8, on the grid of the card, and returns ``brain`` (N, x, y, z)
    uint8: the probability of brain times 255. Bytes keep a whole head below gRPC's default limit for messages.

    Args:
        model: the network.
        card: its card.
    """

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        probability = tf.sigmoid(model(tf.cast(images, tf.float32) / 255.0))
        return {"brain": tf.cast(tf.round(255.0 * probability), tf.uint8)}

    def describe(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"card": tf.fill([tf.shape(images)[0]], identity(card))}

    return {"serving_default": serving_default, "describe": describe}


def _variational(model: VariationalContextModel) -> dict[str, Signature]:
    def encode(images: tf.Tensor) -> dict[str, tf.Tensor]:
        latent = model.encode(pad_to_multiple(images, model.stride), training=False)
        return {"mean": latent.mean(), "stddev": latent.stddev()}

    def anomaly_score(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            divergence = kl_by_image(model.encode(pad_to_multiple(images, model.stride), training=False))
        residual = images - model(images, training=False)
        return {"anomaly_score": tf.reduce_mean(tf.abs(residual * tape.gradient(divergence, images)), axis=-1)}

    return {"encode": encode, "anomaly_score": anomaly_score}
