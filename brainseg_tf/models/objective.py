"""The ceVAE objective, in one place, and the training step of the models that minimise it (section 5.2).

    L = w_kl KL( q(z|x) || N(0, I) ) + w_rec rec( x, g(z) ) + w_ctx rec( x, g(mu(x~)) )

with z ~ q(z|x) and x~ the corrupted x. Both reconstructions are compared with the clean x. All terms are per pixel, so
that a weight means the same at every image size: rec is the mean squared error, KL is in nats per pixel.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import tensorflow as tf

from brainseg_tf.corruption import Task
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import crop_like, pad_to_multiple
from brainseg_tf.options import ObjectiveOptions, Score

if TYPE_CHECKING:
    from tensorflow_probability import distributions as tfd

Corruption = Callable[[tf.Tensor, tf.Tensor], Task]


def reconstruction_error(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean squared error over the batch, its pixels and channels; a scalar."""
    return tf.reduce_mean(tf.math.squared_difference(clean, reconstruction))


def posterior(mean: tf.Tensor, stddev: tf.Tensor) -> "tfd.Independent":
    """q(z|x) = N(mean, stddev^2), independent in each latent, both (N, h, w, latents)."""
    from tensorflow_probability import distributions as tfd

    return tfd.Independent(tfd.Normal(mean, stddev), 3)


def kl_by_image(latent: "tfd.Independent") -> tf.Tensor:
    """KL divergence of q(z|x) from N(0, I) in nats; (N,)."""
    from tensorflow_probability import distributions as tfd

    mean = latent.mean()
    prior = tfd.Independent(tfd.Normal(tf.zeros_like(mean), tf.ones_like(mean)), 3)
    return tfd.kl_divergence(latent, prior)


def kl_per_pixel(latent: "tfd.Independent", images: tf.Tensor) -> tf.Tensor:
    """The same over the batch, per pixel of ``images`` (N, H, W, C); a scalar."""
    divergence = kl_by_image(latent)
    pixels = tf.cast(tf.reduce_prod(tf.shape(images)[:3]), divergence.dtype)
    return tf.reduce_sum(divergence) / pixels


class ContextModel(keras.Model):
    """What all networks have in common: the context task, the losses, any image size.

    Compile it with ``corruption`` (images, seed -> task; a ``CorruptionTask`` can be saved and loaded) and
    ``objective`` (weights); fit it on batches of (images (N, H, W, C) in [0, 1], seed (2,) int32).

    A subclass sets ``stride``, the product of its strides, and implements ``reconstruct``. Calling the model gives a
    reconstruction of the input's size, without random numbers.

    Args:
        channels: image channels, one per modality.
    """

    stride: int
    loss_names: tuple[str, ...] = ("loss", "context")
    # The kind of score that a model of this class is used with.
    score: ClassVar[Score] = "weighted"
    # See ``ModelCard.trim``.
    trim: ClassVar[int] = 0

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.corruption: Corruption
        self.objective = ObjectiveOptions()
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_names}

    def compile(self, *, corruption: Corruption, objective: ObjectiveOptions | None = None, **kwargs: Any) -> None:
        super().compile(**kwargs)
        self.corruption = corruption
        self.objective = objective or ObjectiveOptions()

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"channels": self.channels}

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        return super().get_compile_config() | {
            "corruption": keras.saving.serialize_keras_object(self.corruption),
            "objective": asdict(self.objective),
            "trained": bool(self.optimizer.built),
        }

    def compile_from_config(self, config: dict[str, Any]) -> None:
        options, objective = dict(config), ObjectiveOptions(**config["objective"])
        trained = options.pop("trained")
        del options["objective"]
        self.compile(**keras.saving.deserialize_keras_object(options), objective=objective)
        # A model that was never trained was saved without the optimizer's moments.
        if trained:
            self.optimizer.build(self.trainable_variables)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        padded = pad_to_multiple(images, self.stride)
        return crop_like(self.reconstruct(padded, training=training), images)

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Reconstruction of images whose sides are multiples of ``stride``."""
        raise NotImplementedError

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The outputs for a prediction by name: the reconstruction, (N, H, W, C), and those that a subclass adds."""
        return {"reconstruction": self(images, training=False)}

    def compute_losses(self, task: Task, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The terms of the objective by name, and ``loss``, their weighted sum.

        Args:
            task: a batch.
            seed: (2,) int32, for what a training step draws at random; None for validation: nothing is drawn and batch
                norm uses its moving statistics.
        """
        context = reconstruction_error(task.clean, self(task.corrupted, training=seed is not None))
        return {"loss": self.objective.context * context, "context": context}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.loss_trackers.values())

    def training_losses(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One training step on a batch: corrupts it and applies the gradient of the mean loss of all replicas.

        Returns:
            The terms of the objective on this replica's batch.
        """
        clean, seed = data
        # The optimizer sums the gradients of all replicas.
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        with tf.GradientTape() as tape:
            losses = self.compute_losses(self.corruption(clean, seed), seed)
            # With float16 the loss is scaled so that small gradients do not become 0; the optimizer scales them back.
            share = self.optimizer.scale_loss(losses["loss"] / replicas)
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return losses

    def validation_losses(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The terms of the objective on a corrupted batch, without a training step."""
        clean, seed = data
        return self.compute_losses(self.corruption(clean, seed), None)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._update_trackers(self.training_losses(data), data[0])

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._update_trackers(self.validation_losses(data), data[0])

    def _update_trackers(self, losses: dict[str, tf.Tensor], clean: tf.Tensor) -> dict[str, tf.Tensor]:
        for name, value in losses.items():
            self.loss_trackers[name].update_state(value, sample_weight=tf.shape(clean)[0])
        return {name: tracker.result() for name, tracker in self.loss_trackers.items()}


class VariationalContextModel(ContextModel):
    """A context VAE: adds the latent posterior and the two variational terms of the objective.

    A subclass implements ``encode`` and ``decode``; its reconstruction decodes the posterior's mean.
    """

    loss_names = ("loss", "kl", "reconstruction", "context")

    def encode(self, images: tf.Tensor, *, training: bool) -> "tfd.Independent":
        """q(z|x), a ``tfd.Independent`` of a ``tfd.Normal``; one event is (H / stride, W / stride, latents)."""
        raise NotImplementedError

    def decode(self, latent: tf.Tensor, *, training: bool) -> tf.Tensor:
        """g(z), (N, H, W, C)."""
        raise NotImplementedError

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        return self.decode(self.encode(images, training=training).mean(), training=training)

    def compute_losses(self, task: Task, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        clean, training, weights = task.clean, seed is not None, self.objective
        latent = self.encode(pad_to_multiple(clean, self.stride), training=training)
        # Validation decodes the mean: without noise, two validations of the same weights agree.
        z = latent.mean() if seed is None else _sample(latent, seed)
        kl = kl_per_pixel(latent, clean)
        reconstruction = reconstruction_error(clean, crop_like(self.decode(z, training=training), clean))
        context = reconstruction_error(clean, self(task.corrupted, training=training))
        loss = weights.kl * kl + weights.reconstruction * reconstruction + weights.context * context
        return {"loss": loss, "kl": kl, "reconstruction": reconstruction, "context": context}


def _sample(latent: "tfd.Independent", seed: tf.Tensor) -> tf.Tensor:
    """A sample of z. The corruption splits the same seed; folding in a number gives independent draws."""
    return latent.sample(seed=tf.random.experimental.stateless_fold_in(seed, 1))
