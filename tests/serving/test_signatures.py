"""The contract of docs/serving.md, as the SavedModel that is exported keeps it."""

import json

import numpy as np
import pytest
import tensorflow as tf

from brainseg_tf import models, saved_model
from brainseg_tf.model_card import read_card
from brainseg_tf.serving.signatures import signatures


@pytest.fixture(scope="module")
def served(trained):
    loaded = tf.saved_model.load(str(trained / "1"))
    return {
        name: lambda images, ask=ask: {key: value.numpy() for key, value in ask(images=tf.constant(images)).items()}
        for name, ask in loaded.signatures.items()
    }


@pytest.fixture(scope="module")
def model(trained):
    model = models.create("cvae", 1)
    model.load_weights(trained / "best.weights.h5")
    return model


def images(count=3, height=50, width=61):
    return np.random.default_rng(0).random((count, height, width, 1)).astype(np.float32)


def test_what_there_is_and_of_which_shape(served):
    shapes = {
        name: {key: values.shape for key, values in ask(images()).items()} for name, ask in sorted(served.items())
    }
    assert shapes == {
        "anomaly_score": {"anomaly_score": (3, 50, 61)},
        "describe": {"card": (3,)},
        "encode": {"mean": (3, 2, 2, 64), "stddev": (3, 2, 2, 64)},
        "serving_default": {"reconstruction": (3, 50, 61, 1), "residual": (3, 50, 61, 1)},
    }


@pytest.mark.parametrize("name", ["serving_default", "encode", "anomaly_score", "describe"])
def test_an_answer_does_not_depend_on_the_other_images_of_its_batch(served, name):
    together = served[name](images())
    alone = served[name](images()[1:2])
    for key, values in together.items():
        if values.dtype == object:
            assert values[1] == alone[key][0]
        else:
            np.testing.assert_allclose(values[1], alone[key][0], atol=1e-5)
    for key, values in served[name](images()).items():
        np.testing.assert_array_equal(values, together[key])


def test_the_anomaly_score_is_the_residual_times_the_kls_gradient(served, model):
    """Against finite differences of the closed form of the divergence, in float64's place by a wide step."""
    image = images(1, 48, 48)
    score = served["anomaly_score"](image)["anomaly_score"][0]
    residual = served["serving_default"](image)["residual"][0, ..., 0]

    def divergence(changed):
        posterior = served["encode"](changed.astype(np.float32))
        mean, variance = posterior["mean"].astype(np.float64), posterior["stddev"].astype(np.float64) ** 2
        return float(np.sum(mean**2 + variance - 1 - np.log(variance)) / 2)

    strongest = np.argsort(np.abs(score / residual).ravel())[-5:]
    for row, column in zip(*np.unravel_index(strongest, score.shape), strict=True):
        step = np.zeros_like(image)
        step[0, row, column, 0] = 0.01
        slope = (divergence(image + step) - divergence(image - step)) / 0.02
        assert score[row, column] == pytest.approx(abs(slope * residual[row, column]), rel=0.05)


def test_the_model_describes_itself_by_its_card(served, trained):
    card = read_card(trained / "1")
    (described,) = served["describe"](images(1))["card"]
    known = json.loads(described)
    assert known["modalities"] == ["flair"]
    assert known["architecture"] == "cvae"
    assert known["slices"]["normalisation"] == card.slices.normalisation


def test_only_variational_models_encode_and_only_pointing_ones_give_a_probability(trained):
    card = read_card(trained / "1")
    named = signatures(models.create("selfseg", 1), card)
    assert set(named) == {"serving_default", "describe"}
    outputs = named["serving_default"](tf.constant(images(2, 33, 40)))
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {
        "reconstruction": (2, 33, 40, 1),
        "residual": (2, 33, 40, 1),
        "probability": (2, 33, 40),
    }


def test_the_local_model_uses_the_same_signature(served, trained):
    local = saved_model.find(str(trained)).load().reconstruct(images())
    np.testing.assert_array_equal(local.images, served["serving_default"](images())["reconstruction"])
