import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from brainseg_tf import models, saved_model
from brainseg_tf.architectures import recipe_for
from brainseg_tf.errors import InputError
from brainseg_tf.training.fit import RunSettings, fit
from brainseg_tf.training.initial_weights import load_weights
from helpers import small_options


@pytest.mark.parametrize("name", ["selfseg-flair", "cvae", "dcvae", pytest.param("dae", marks=pytest.mark.slow)])
def test_a_network_with_the_weights_of_a_shipped_model_gives_its_outputs(name):
    found = saved_model.find(f"shipped:{name}")
    # Networks that were created before must not change the order of the layers.
    models.create("unet", 1)
    network = models.create(found.card.architecture, len(found.card.modalities))
    load_weights(network, found)
    images = np.random.default_rng(0).random((2, 64, 48, 1), np.float32)
    ours, theirs = network.outputs(tf.constant(images)), found.load().reconstruct(images)
    np.testing.assert_allclose(ours["reconstruction"].numpy(), theirs.images, atol=1e-5)
    if theirs.probability is not None:
        np.testing.assert_allclose(ours["probability"].numpy(), theirs.probability, atol=1e-5)


def test_the_weights_of_a_trained_run_can_be_loaded(trained):
    found = saved_model.find(str(trained))
    network = models.create("cvae", 1)
    load_weights(network, found)
    images = np.random.default_rng(0).random((2, 48, 48, 1), np.float32)
    ours, theirs = network.outputs(tf.constant(images)), found.load().reconstruct(images)
    np.testing.assert_allclose(ours["reconstruction"].numpy(), theirs.images, atol=1e-5)


def test_other_layers_are_refused(trained, tmp_path):
    found = saved_model.find(str(trained))
    with pytest.raises(InputError, match=r"was exported by brainseg-tf .*, whose networks have other layers than"):
        load_weights(models.create("dae", 1), found)
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/1/variables/variables.data-00000-of-00001").write_bytes(b"damaged")
    with pytest.raises(InputError, match="does not match the checksum"):
        load_weights(models.create("cvae", 1), saved_model.find(str(tmp_path / "run")))


def test_the_weights_of_two_fused_networks_are_not_exchanged(brats_like, tmp_path):
    recipe = recipe_for("fusion")
    options = replace(small_options(), architecture="fusion", modalities=recipe.modalities, epochs=1)
    options = replace(options, corruption=recipe.corruption)
    fit(brats_like, tmp_path / "run", options, RunSettings(say=lambda line: None, verbose=0))
    found = saved_model.find(str(tmp_path / "run"))
    network = models.create("fusion", 2)
    load_weights(network, found)
    images = np.random.default_rng(0).random((2, 48, 48, 2), np.float32)
    ours, theirs = network.outputs(tf.constant(images)), found.load().reconstruct(images)
    np.testing.assert_allclose(ours["reconstruction"].numpy(), theirs.images, atol=1e-5)
    np.testing.assert_allclose(ours["probability"].numpy(), theirs.probability, atol=1e-5)
