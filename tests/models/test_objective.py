from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import f1_score

from brainseg_tf import models
from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.corruption import Task, corrupt
from brainseg_tf.models.objective import (
    ContextModel,
    VariationalContextModel,
    kl_per_pixel,
    posterior,
    reconstruction_error,
)
from brainseg_tf.models.selfseg import soft_dice_loss
from brainseg_tf.options import CorruptionOptions, ObjectiveOptions

CORRUPTION = partial(corrupt, options=CorruptionOptions())
SEED = tf.constant([1, 2])


def images(count: int = 4) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).random((count, 32, 32, 1)), tf.float32)


def task(clean: tf.Tensor, corrupted: tf.Tensor) -> Task:
    return Task(corrupted, clean, tf.cast(clean[..., 0] > 0.8, tf.float32))


class Copy(ContextModel):
    """Gives back what it is shown."""

    stride = 1

    def reconstruct(self, images, *, training):
        return images


class VariationalCopy(VariationalContextModel):
    """Its latent is the image; the posterior is sharp."""

    stride = 1

    def encode(self, images, *, training):
        return posterior(images, tf.fill(tf.shape(images), 1e-3))

    def decode(self, latent, *, training):
        return latent


@pytest.mark.parametrize("kind", [Copy, VariationalCopy])
def test_the_context_term_compares_with_the_clean_image(kind):
    """A network that keeps the patches must pay for them; compared with the corrupted image it would pay nothing."""
    clean = images()
    corrupted = CORRUPTION(clean, tf.constant([1, 2]))
    losses = kind(1).compute_losses(corrupted, None)
    expected = np.mean((clean.numpy() - corrupted.corrupted.numpy()) ** 2)
    assert expected > 1e-3
    assert float(losses["context"]) == pytest.approx(expected, rel=1e-5)


def test_the_reconstruction_term_compares_with_the_clean_image():
    clean = images()
    losses = VariationalCopy(1).compute_losses(task(clean, clean * 0), SEED)
    assert float(losses["reconstruction"]) == pytest.approx(1e-6, rel=0.1)
    assert float(losses["context"]) == pytest.approx(np.mean(clean.numpy() ** 2), rel=1e-5)


def test_kl_against_its_closed_form():
    random = np.random.default_rng(1)
    mean, stddev = random.normal(size=(4, 2, 2, 8)), random.uniform(0.1, 2, (4, 2, 2, 8))
    expected = 0.5 * np.sum(mean**2 + stddev**2 - 1 - 2 * np.log(stddev)) / (4 * 32 * 32)
    result = kl_per_pixel(posterior(tf.constant(mean, tf.float32), tf.constant(stddev, tf.float32)), images())
    assert float(result) == pytest.approx(expected, rel=1e-5)


def test_reconstruction_error_is_the_mean_square():
    assert float(reconstruction_error(tf.ones((2, 3, 3, 2)), tf.fill((2, 3, 3, 2), 3.0))) == 4


def test_fusion_adds_the_losses_and_multiplies_the_probabilities_of_two_networks():
    model = models.create("fusion", 2)
    model.compile(optimizer="sgd", corruption=CORRUPTION, objective=ObjectiveOptions(context=3.0))
    batch = tf.constant(np.random.default_rng(0).random((2, 40, 36, 2)), tf.float32)
    lesion = tf.cast(batch[..., 0] > 0.8, tf.float32)
    fused = model.compute_losses(Task(batch * 0.5, batch, lesion), None)
    first = model.first.compute_losses(Task(batch[..., :1] * 0.5, batch[..., :1], lesion), None)
    every = model.every.compute_losses(Task(batch * 0.5, batch, lesion), None)
    for name in model.loss_names:
        assert float(fused[name]) == pytest.approx(float(first[name]) + float(every[name]))
    terms = 3 * float(fused["context"]) + 3 * float(fused["cross_entropy"]) + float(fused["overlap"])
    assert float(fused["loss"]) == pytest.approx(terms, rel=1e-5)
    outputs = model.outputs(batch)
    both = [model.first.outputs(batch[..., :1])["probability"], model.every.outputs(batch)["probability"]]
    np.testing.assert_allclose(outputs["probability"], np.sqrt(both[0] * both[1]), atol=1e-6)
    np.testing.assert_array_equal(outputs["reconstruction"], model.every.outputs(batch)["reconstruction"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_is_the_weighted_sum_of_the_logged_terms(name):
    model = models.create(name, 1)
    terms = {"kl": 0.5, "reconstruction": 2.0, "context": 3.0, "cross_entropy": 5.0, "overlap": 7.0}
    weights = ObjectiveOptions(**terms)
    model.compile(optimizer="sgd", corruption=CORRUPTION, objective=weights)
    losses = model.compute_losses(task(images(), images() * 0.5), SEED)
    named = {name: float(value) for name, value in losses.items()}
    assert set(named) == set(model.loss_names)
    assert named["loss"] == pytest.approx(sum(w * named.get(term, 0) for term, w in terms.items()), rel=1e-5)


def test_the_overlap_term_is_one_minus_dice():
    lesion = tf.cast(images()[..., 0] > 0.7, tf.float32)
    found = tf.cast(images()[..., 0] > 0.8, tf.float32)
    scores = [f1_score(a.ravel(), b.ravel()) for a, b in zip(lesion.numpy(), found.numpy(), strict=True)]
    assert float(soft_dice_loss(lesion, found, 0.0)) == pytest.approx(1 - np.mean(scores), rel=1e-5)
    nothing = tf.zeros_like(lesion)
    assert float(soft_dice_loss(nothing, nothing)) == 0


def test_selfseg_means_over_the_mirror_image():
    model = models.create("selfseg", 2)
    batch = tf.constant(np.random.default_rng(0).random((2, 40, 36, 2)), tf.float32)
    plain, mirrored = model.outputs(batch), model.outputs(batch[:, :, ::-1])
    for name, shape in (("probability", (2, 40, 36)), ("reconstruction", (2, 40, 36, 2))):
        assert plain[name].shape == shape
        np.testing.assert_allclose(plain[name], mirrored[name][:, :, ::-1], atol=1e-5)
    assert 0 < float(tf.reduce_min(plain["probability"])) < float(tf.reduce_max(plain["probability"])) < 1


@pytest.mark.parametrize("name", ["cvae", "dcvae"])
def test_prediction_uses_the_mean_and_training_draws(name):
    model = models.create(name, 1)
    np.testing.assert_array_equal(model(images()), model(images()))
    model.compile(optimizer="sgd", corruption=CORRUPTION)
    first, again, other = (
        float(model.compute_losses(task(images(), images()), tf.constant(seed))["reconstruction"])
        for seed in ([3, 4], [3, 4], [3, 5])
    )
    assert first == again != other


@pytest.mark.cpu
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "cvae")) for name in ARCHITECTURES]
)
def test_training_lowers_every_weighted_term(name):
    keras.utils.set_random_seed(0)
    model = models.create(name, 1)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), corruption=CORRUPTION, jit_compile=False)
    # A blob at a fixed place: what a network can learn in seconds.
    y, x = np.mgrid[:32, :32] - 15.5
    blob = np.exp(-(x**2 + y**2) / 60)[None, ..., None].astype(np.float32) * [[[[0.8]]]]
    batch = tf.constant(np.repeat(blob, 4, axis=0), tf.float32), tf.constant([0, 1])
    history = model.fit(
        tf.data.Dataset.from_tensors(batch).repeat(), steps_per_epoch=8, epochs=3, verbose=0, shuffle=False
    )
    for term in ("loss", "context"):
        assert history.history[term][-1] < 0.7 * history.history[term][0]


@pytest.mark.parametrize("kind", [Copy, VariationalCopy])
def test_validation_is_the_mean_over_all_slices_without_random_numbers(kind):
    """Batches of 4 and 1 slices count by their slices; the corruption is that of each batch's seed."""
    model, clean = kind(1), images(5)
    model.compile(optimizer=keras.optimizers.SGD(1.0), corruption=CORRUPTION)
    parts = [(clean[:4], tf.constant([3, 4])), (clean[4:], tf.constant([5, 6]))]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(parts),
        output_signature=(tf.TensorSpec([None, 32, 32, 1]), tf.TensorSpec([2], tf.int32)),
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(2))
    found = model.evaluate(dataset, verbose=0, return_dict=True)
    expected = [model.compute_losses(CORRUPTION(*part), None) for part in parts]
    assert set(found) == set(kind.loss_names)
    for name in kind.loss_names:
        values = [float(losses[name]) for losses in expected]
        assert found[name] == pytest.approx(np.average(values, weights=[4, 1]), rel=1e-5)
    # A mean over batches, or the loss of one of them, would differ.
    first, second = (float(losses["loss"]) for losses in expected)
    assert abs(first - second) > 1e-3 * first
