import keras
import numpy as np
import pytest
import tensorflow as tf

from brainseg_tf import models
from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.corruption import CorruptionTask
from brainseg_tf.models.dilation import conv2d
from brainseg_tf.models.layers import (
    Conv,
    FusedBatchNormalization,
    StridedDilatedConv2D,
    StridedDilatedConv2DTranspose,
    mirrored,
)
from brainseg_tf.options import CorruptionOptions, LesionOptions, ObjectiveOptions

# (kernel, stride, dilation, width) of every convolution in order, written from Tables 1 and 2 by hand.
ENCODERS = {
    "cvae": [(4, 2, 1, 16), (4, 2, 1, 32), (4, 2, 1, 64), (4, 2, 1, 64)],
    "dcvae": [(6, 1, 1, 8), (5, 2, 2, 16), (6, 1, 2, 16), (5, 3, 2, 16)],
    "dae": [(3, 1, 1, w) for w in (64, 64, 128, 128, 256, 256, 512)],
}
HEADS = {"cvae": (3, 2, 1, 64), "dcvae": (3, 1, 1, 16)}
DECODERS = {
    "cvae": [(3, 2, 1, 64), (4, 2, 1, 64), (4, 2, 1, 32), (4, 2, 1, 16), (4, 2, 1, 1)],
    "dcvae": [(3, 1, 1, 16), (5, 3, 2, 16), (6, 1, 2, 16), (5, 2, 2, 8), (6, 1, 1, 1)],
    "dae": [(3, s, 1, w) for s, w in ((2, 256), (2, 256), (1, 128), (2, 128), (1, 64), (2, 64), (1, 1))],
}
STRIDES = {"cvae": 32, "dcvae": 6, "dae": 16}


def line(layer: keras.layers.Layer) -> tuple[int, int, int, int]:
    if isinstance(layer, StridedDilatedConv2D):
        return layer.kernel_size, layer.strides, layer.dilation_rate, layer.filters
    (kernel, _), (stride, _), (dilation, _) = layer.kernel_size, layer.strides, layer.dilation_rate
    return kernel, stride, dilation, layer.filters


def convolutions(layers: list[keras.layers.Layer]) -> list[tuple[int, int, int, int]]:
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, StridedDilatedConv2D)
    return [line(layer) for layer in layers if isinstance(layer, kinds)]


def parameters(lines: list[tuple[int, int, int, int]], channels: int, normalised: int) -> int:
    """Weights and biases of a chain, and four numbers per channel of the first ``normalised`` batch norms."""
    total = 0
    for number, (kernel, _, _, width) in enumerate(lines):
        total += kernel * kernel * channels * width + width + 4 * width * (number < normalised)
        channels = width
    return total


@pytest.mark.parametrize("name", ENCODERS)
def test_the_tables_are_built_exactly(name):
    model = models.create(name, 1)
    assert convolutions(model.encoder.layers) == ENCODERS[name]
    assert convolutions(model.decoder.layers) == DECODERS[name]
    assert model.stride == STRIDES[name]
    expected = parameters(ENCODERS[name], 1, len(ENCODERS[name]))
    last = ENCODERS[name][-1][3]
    if name in HEADS:
        assert line(model.mean_head) == line(model.stddev_head) == HEADS[name]
        kernel, _, _, latents = HEADS[name]
        expected += 2 * (kernel * kernel * last * latents + latents)
        last = latents
    expected += parameters(DECODERS[name], last, len(DECODERS[name]) - 1)
    assert model.count_params() == expected


@pytest.mark.parametrize("name", ENCODERS)
def test_order_after_each_convolution(name):
    model = models.create(name, 1)
    after = [FusedBatchNormalization, keras.layers.LeakyReLU]
    after = after if name == "dae" else after[::-1]
    for chain in (model.encoder.layers, model.decoder.layers[:-1]):
        kinds = [type(layer) for layer in chain if not isinstance(layer, keras.layers.MaxPooling2D)]
        assert all(kinds[k + 1 : k + 3] == after for k in range(0, len(kinds), 3))
    if name == "dae":
        pools = [k for k, layer in enumerate(model.encoder.layers) if isinstance(layer, keras.layers.MaxPooling2D)]
        assert pools == [6, 13, 20, 24]


def test_the_unet_is_as_described():
    widths = (24, 48, 96, 128)
    denoiser, segmenter = models.create("unet", 2), models.create("selfseg", 2)
    assert denoiser.stride == segmenter.stride == 16
    assert line(denoiser.stem.layers[0]) == (4, 2, 1, 24)
    assert [convolutions(block.layers) for block in denoiser.down] == [[(3, 1, 1, width)] * 2 for width in widths]
    assert [convolutions(block.layers) for block in denoiser.merge] == [
        [(3, 1, 1, width)] * 2 for width in widths[-2::-1]
    ]
    expected = 4 * 4 * 2 * 24 + 4 * 24
    for before, width in zip((24, *widths), widths, strict=False):
        expected += 9 * (before + width) * width + 8 * width
    for before, width in ((128, 96), (96, 48), (48, 24)):
        expected += before * width + width + 9 * (2 * width + width) * width + 8 * width
    expected += 24 * 12 + 12 + 9 * (12 + 2) * 12 + 12
    assert denoiser.count_params() == expected + 12 * 2 + 2
    # The segmenter sees the mirror image too: two more channels in the first and in the last convolution of a slice.
    assert segmenter.count_params() == expected + 4 * 4 * 2 * 24 + 9 * 2 * 12 + 12 * 3 + 3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trimming_keeps_the_place_in_the_grid_of_strides(name):
    model = models.create(name, 2)
    assert model.trim == (2 * model.stride if name in ("unet", "selfseg", "fusion") else 0)


@pytest.mark.cpu
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_number_of_channels(name, channels):
    model = models.create(name, channels)
    for size in ((33, 47), (64, 32)):
        assert model(tf.zeros((2, *size, channels))).shape == (2, *size, channels)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_save_and_load_are_exact(name, tmp_path):
    model = models.create(name, 2)
    images = np.random.default_rng(0).random((2, 40, 36, 2)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(model(images), loaded(images))


def with_weights(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers that compute with weights of their own."""
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if layer.weights and not isinstance(layer, keras.Model)]


@pytest.mark.parametrize("name", ["cvae", "dcvae", "dae", "fusion"])
def test_a_precision_policy_is_kept(name, tmp_path):
    model = models.class_of(name)(2, name=name, dtype="mixed_bfloat16")
    model.build((None, None, None, 2))
    images = np.random.default_rng(0).random((2, 48, 36, 2)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    policies = [layer.dtype_policy.name for layer in with_weights(loaded)]
    assert policies == [layer.dtype_policy.name for layer in with_weights(model)]
    # All but the layers whose outputs are losses' or distributions' inputs, and Keras' own metrics.
    assert policies.count("mixed_bfloat16") > 0.8 * len(policies)
    assert model(images).dtype == loaded(images).dtype == tf.float32
    np.testing.assert_array_equal(model(images), loaded(images))


@pytest.mark.parametrize("name", ["dcvae", "selfseg"])
def test_a_compiled_model_is_saved_with_its_objective_and_corruption(name, tmp_path):
    model = models.create(name, 1)
    options = CorruptionOptions("lesions", augment=True, shapes=3, lesions=LesionOptions(radius=(0.1, 0.2)))
    model.compile(
        optimizer=keras.optimizers.Adam(3e-4),
        corruption=CorruptionTask(options),
        objective=ObjectiveOptions(kl=0.5),
    )
    if name == "selfseg":  # As after a training of seven steps.
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(7)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")  # A warning would be an error.
    assert int(loaded.optimizer.iterations) == (7 if name == "selfseg" else 0)
    assert loaded.corruption.options == options
    assert loaded.objective == ObjectiveOptions(kl=0.5)
    assert float(loaded.optimizer.learning_rate) == pytest.approx(3e-4)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 2, 2), (5, 3, 2), (6, 2, 3), (3, 2, 1)])
def test_a_layer_is_its_convolution_and_bias(kernel, stride, dilation):
    images = tf.random.stateless_normal((2, 25, 31, 3), [1, 2])
    layer = StridedDilatedConv2D(4, kernel, stride, dilation)
    outputs = layer(images)
    assert outputs.shape == (2, -(-25 // stride), -(-31 // stride), 4) == layer.compute_output_shape(images.shape)
    # A kernel with zeros between its weights, and TensorFlow's own padding.
    reach = (kernel - 1) * dilation + 1
    stuffed = np.zeros((reach, reach, 3, 4), np.float32)
    stuffed[::dilation, ::dilation] = layer.kernel
    layer.bias.assign([1.0, 2.0, 3.0, 4.0])
    expected = tf.nn.conv2d(images, stuffed, stride, "SAME") + layer.bias
    np.testing.assert_allclose(layer(images), expected, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(4, 2, 1), (3, 2, 1), (6, 1, 1), (6, 1, 2)])
def test_convolutions_that_keras_has_are_equal_to_its_own(kernel, stride, dilation):
    images = tf.random.stateless_normal((2, 25, 31, 3), [1, 2])
    pairs = [
        (
            StridedDilatedConv2D(4, kernel, stride, dilation),
            keras.layers.Conv2D(4, kernel, stride, "same", dilation_rate=dilation),
        ),
    ]
    if dilation == 1:  # Without oneDNN, Keras has no other transposed convolution on a CPU.
        pairs.append(
            (
                StridedDilatedConv2DTranspose(4, kernel, stride, dilation),
                keras.layers.Conv2DTranspose(4, kernel, stride, "same"),
            )
        )
    for ours, theirs in pairs:
        for layer in (ours, theirs):
            layer.build(images.shape)
        ours.bias.assign([1.0, 2.0, 3.0, 4.0])
        theirs.set_weights(ours.get_weights())
        np.testing.assert_allclose(ours(images), theirs(images), atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 2, 2), (5, 3, 2), (6, 1, 2)])
def test_transposed_is_the_adjoint(kernel, stride, dilation):
    back = StridedDilatedConv2DTranspose(3, kernel, stride, dilation)
    small = tf.random.stateless_normal((1, 6, 7, 4), [1, 2])
    large = back(small)
    assert large.shape == (1, 6 * stride, 7 * stride, 3) == back.compute_output_shape(small.shape)
    probe = tf.random.stateless_normal(large.shape, [3, 4])
    forth = conv2d(probe, back.kernel, stride, dilation)
    np.testing.assert_allclose(tf.reduce_sum(large * probe), tf.reduce_sum(small * forth), rtol=1e-3)


def test_mirror_returns_each_width():
    lines = (Conv(3, 1, 1, 8), Conv(5, 2, 2, 16))
    assert mirrored(lines, 2) == (Conv(5, 2, 2, 8), Conv(3, 1, 1, 2))


def test_fused_batch_norm_equals_keras():
    """Outputs, gradients and moving statistics, in training and in prediction."""
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(2, 3, (3, 5, 7, 4)), tf.float32)
    found = []
    for layer in (FusedBatchNormalization(momentum=0.8), keras.layers.BatchNormalization(momentum=0.8)):
        layer.build(images.shape)
        layer.gamma.assign([0.5, 1.0, 1.5, 2.0])
        layer.beta.assign([0.0, 1.0, -1.0, 0.5])
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(outputs**3)
        gradients = tape.gradient(loss, [images, layer.gamma.value, layer.beta.value])
        found.append([outputs, *gradients, layer.moving_mean, layer.moving_variance, layer(images, training=False)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_each_network_has_the_outputs_that_its_score_needs():
    for name in ARCHITECTURES:
        model = models.create(name, 2)
        outputs = model.outputs(tf.zeros((1, 32, 32, 2)))
        assert ("probability" in outputs) == (model.score == "probability")
