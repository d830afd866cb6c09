import numpy as np
import pytest
import tensorflow as tf

from brainseg_tf.keras_backend import keras
from brainseg_tf.models.brain import BrainNetwork, _depth_to_space


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    model = BrainNetwork(name="brain")
    model.build((None, None, None, None, 1))
    return model


@pytest.mark.cpu
@pytest.mark.parametrize("size", [(16, 32, 16), (17, 30, 24), (40, 24, 33)])
def test_the_output_has_the_size_of_the_input_in_every_kind_of_graph(network, size):
    """oneDNN joined the padding and the first convolution wrongly, in graphs whose sizes are known only."""
    images = tf.random.stateless_uniform((2, *size, 1), [1, 2])
    eager = network(images).numpy()
    assert eager.shape == (2, *size)
    known = tf.function(lambda one: network(one))
    unknown = tf.function(lambda one: network(one), input_signature=[tf.TensorSpec([None] * 4 + [1])])
    for graph in (known, unknown):
        np.testing.assert_allclose(graph(images).numpy(), eager, atol=1e-4)


def test_volumes_of_a_batch_do_not_depend_on_each_other(network):
    images = tf.random.stateless_uniform((2, 16, 16, 16, 1), [3, 4])
    np.testing.assert_allclose(network(images)[1:].numpy(), network(images[1:]).numpy(), atol=1e-5)


def test_eight_maps_become_eight_voxels():
    maps = np.arange(2 * 2 * 3 * 4 * 8, dtype=np.float32).reshape(2, 2, 3, 4, 8)
    found = _depth_to_space(tf.constant(maps)).numpy()
    assert found.shape == (2, 4, 6, 8)
    for x, y, z in np.ndindex(4, 6, 8):
        assert found[1, x, y, z] == maps[1, x // 2, y // 2, z // 2, 4 * (x % 2) + 2 * (y % 2) + z % 2]


def test_the_losses_are_those_of_the_definition(network):
    random = np.random.default_rng(0)
    images = tf.constant(random.uniform(size=(1, 16, 16, 16, 1)), tf.float32)
    brain = (random.uniform(size=(1, 16, 16, 16)) > 0.5).astype(np.float32)
    losses = {name: float(value) for name, value in network.compute_losses(images, brain, training=False).items()}
    p = 1 / (1 + np.exp(-network(images).numpy().astype(float)))
    cross_entropy = -np.mean(brain * np.log(p) + (1 - brain) * np.log(1 - p))
    overlap = 1 - (2 * (p * brain).sum() + 100) / ((p + brain).sum() + 100)
    assert losses["cross_entropy"] == pytest.approx(cross_entropy, rel=1e-4)
    assert losses["overlap"] == pytest.approx(overlap, rel=1e-4)
    assert losses["loss"] == pytest.approx(cross_entropy + overlap, rel=1e-4)


@pytest.mark.slow
@pytest.mark.cpu
def test_it_learns_and_is_saved(tmp_path):
    keras.utils.set_random_seed(0)
    model = BrainNetwork(name="brain")
    model.build((None, None, None, None, 1))
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij"))
    brain = ((grid**2).sum(axis=0) < 0.4).astype(np.float32)
    images = np.clip(0.6 * brain + np.random.default_rng(0).normal(0, 0.05, brain.shape), 0, 1).astype(np.float32)
    data = tf.data.Dataset.from_tensors((images[None, ..., None], brain[None])).repeat(32)
    history = model.fit(data, epochs=2, steps_per_epoch=16, verbose=0, shuffle=False).history
    assert history["loss"][1] < 0.8 * history["loss"][0]
    model.save(tmp_path / "brain.keras")
    again = keras.models.load_model(tmp_path / "brain.keras")
    np.testing.assert_allclose(
        again(images[None, ..., None]).numpy(), model(images[None, ..., None]).numpy(), atol=1e-5
    )
