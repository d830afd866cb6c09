"""The ceVAE objective, in one place, and the training step of the models that minimise it (section 5.2).

    L = w_kl KL( q(z|x) || N(0, I) ) + w_rec rec( x, g(z) ) + w_ctx rec( x, g(mu(x~)) )

with z ~ q(z|x) and x~ the corrupted x. Both reconstructions are compared with the clean x. All terms are per pixel, so
that weights mean the same at every image size: rec is the mean squared error, KL is in nats per pixel.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

import tensorflow as tf

from brainseg_tf.corruption import Task
from brainseg_tf.keras_backend import keras
from brainseg_tf.models.layers import crop_like, pad_to_multiple
from brainseg_tf.options import ObjectiveOptions, Score

Corruption = Callable[[tf.Tensor, tf.Tensor], Task]


def reconstruction_error(clean: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean squared error over the batch, its pixels and channels; a scalar."""
    return tf.reduce_mean(tf.math.squared_difference(clean, reconstruction))


def kl_by_image(mean: tf.Tensor, stddev: tf.Tensor) -> tf.Tensor:
    """KL divergence of N(mean, stddev^2) from N(0, I), both (N, h, w, latents), in nats; (N,)."""
    from tensorflow_probability import distributions as tfd

    posterior = tfd.Normal(mean, stddev)
    prior = tfd.Normal(tf.zeros_like(mean), tf.ones_like(stddev))
    return tf.reduce_sum(tfd.kl_divergence(posterior, prior), axis=[1, 2, 3])


def kl_per_pixel(mean: tf.Tensor, stddev: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """The same over the batch, per pixel of ``images`` (N, H, W, C); a scalar."""
    pixels = tf.cast(tf.reduce_prod(tf.shape(images)[:3]), mean.dtype)
    return tf.reduce_sum(kl_by_image(mean, stddev)) / pixels


class ContextModel(keras.Model):
    """What the networks have in common: the context task, the losses, any image size.

    Compile with ``corruption`` (images, seed -> task; a ``CorruptionTask`` survives saving and loading) and
    ``objective`` (weights); fit on batches of (images (N, H, W, C) in [0, 1], seed (2,) int32).

    A subclass has ``stride``, the product of its strides, and gives ``reconstruct``. Calling the model gives its
    reconstruction, deterministic and of the input's size.
    """

    stride: int
    loss_names: tuple[str, ...] = ("loss", "context")
    # The kind of score that a model of this class is for.
    score: ClassVar[Score] = "weighted"
    # See ``ModelCard.trim``.
    trim: ClassVar[int] = 0

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # === Config ===
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
        """What a prediction needs, by name: the reconstruction, (N, H, W, C), and what else the network gives."""
        return {"reconstruction": self(images, training=False)}

    def compute_losses(self, task: Task, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """The terms of the objective by name, ``loss`` their weighted sum.

        Args:
            task: a batch.
            seed: (2,) int32, of what a training step draws; None when testing, where nothing is drawn and batch norm
                uses its moving statistics.
        """
        context = reconstruction_error(task.clean, self(task.corrupted, training=seed is not None))
        return {"loss": self.objective.context * context, "context": context}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.loss_trackers.values())

    def training_losses(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step on a batch: corrupts it, and goes down the gradient of the mean loss of all replicas' batches.

        Returns:
            The terms of the objective on this replica's batch.
        """
        clean, seed = data
        # The optimizer sums the gradients of all replicas.
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        with tf.GradientTape() as tape:
            losses = self.compute_losses(self.corruption(clean, seed), seed)
            share = losses["loss"] / replicas
        gradients = tape.gradient(share, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return losses

    def validation_losses(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The terms of the objective on a batch, as ``learn`` gives them, without a step."""
        clean, seed = data
        return self.compute_losses(self.corruption(clean, seed), None)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._seen(self.training_losses(data), data[0])

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        return self._seen(self.validation_losses(data), data[0])

    def _seen(self, losses: dict[str, tf.Tensor], clean: tf.Tensor) -> dict[str, tf.Tensor]:
        for name, value in losses.items():
            self.loss_trackers[name].update_state(value, sample_weight=tf.shape(clean)[0])
        return {name: metric.result() for name, metric in self.loss_trackers.items()}


class VariationalContextModel(ContextModel):
    """A context VAE: adds the latent posterior and the two variational terms of the objective.

    A subclass gives ``encode`` and ``decode``; its reconstruction decodes the posterior's mean.
    """

    loss_names = ("loss", "kl", "reconstruction", "context")

    def encode(self, images: tf.Tensor, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation of q(z|x), each (N, H / stride, W / stride, latents)."""
        raise NotImplementedError

    def decode(self, latent: tf.Tensor, *, training: bool) -> tf.Tensor:
        """g(z), (N, H, W, C)."""
        raise NotImplementedError

    def reconstruct(self, images: tf.Tensor, *, training: bool) -> tf.Tensor:
        mean, _ = self.encode(images, training=training)
        return self.decode(mean, training=training)

    def compute_losses(self, task: Task, seed: tf.Tensor | None) -> dict[str, tf.Tensor]:
        clean = task.clean
        mean, stddev = self.encode(pad_to_multiple(clean, self.stride), training=seed is not None)
        # The VAE term is validated at the mean: without noise two validations of the same weights agree.
        latent = mean if seed is None else _sample(mean, stddev, seed)
        decoded = crop_like(self.decode(latent, training=seed is not None), clean)
        losses = super().compute_losses(task, seed)
        losses["kl"] = kl_per_pixel(mean, stddev, clean)
        losses["reconstruction"] = reconstruction_error(clean, decoded)
        weights = self.objective
        losses["loss"] += weights.kl * losses["kl"] + weights.reconstruction * losses["reconstruction"]
        return losses


def _sample(mean: tf.Tensor, stddev: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    from tensorflow_probability import distributions as tfd

    # The corruption splits the same seed; folding a number in gives a stream of its own.
    return tfd.Normal(mean, stddev).sample(seed=tf.random.experimental.stateless_fold_in(seed, 1))
