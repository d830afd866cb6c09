"""Dilated convolutions against a dense matrix that is written from the definition, forward and both gradients."""

import numpy as np
import pytest
import tensorflow as tf

from brainseg_tf.models.dilation import conv2d, conv2d_transpose

pytestmark = pytest.mark.cpu

# (kernel, stride, dilation): the dCVAE's, then strides and dilations with and without a common divisor.
CASES = [(5, 2, 2), (6, 1, 2), (5, 3, 2), (3, 2, 3), (2, 5, 2), (3, 4, 6), (3, 2, 1)]


def dense(edge: int, stride: int, dilation: int, length: int) -> np.ndarray:
    """Along one axis: which input pixel each weight of each output pixel reads, (outputs, weights, length), 0 or 1."""
    outputs = -(-length // stride)
    before = max(0, (outputs - 1) * stride + (edge - 1) * dilation + 1 - length) // 2
    reads = np.zeros((outputs, edge, length))
    for i in range(outputs):
        for k in range(edge):
            place = i * stride + k * dilation - before
            if 0 <= place < length:
                reads[i, k, place] = 1
    return reads


def example(edge: int, stride: int, dilation: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random kernel, its convolution as a tensor (output y, x, filter, input y, x, channel), and random images."""
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((edge, edge, 2, 3)).astype(np.float32)
    rows, columns = (dense(edge, stride, dilation, length) for length in size)
    matrix = np.einsum("ika,jlb,klcf->ijfabc", rows, columns, kernel)
    return kernel, matrix, rng.standard_normal((2, *size, 2)).astype(np.float32)


@pytest.mark.parametrize("size", [(12, 18), (11, 7)])
@pytest.mark.parametrize(("edge", "stride", "dilation"), CASES)
def test_convolution_and_its_gradients(edge, stride, dilation, size):
    kernel, matrix, images = example(edge, stride, dilation, size)
    expected = np.einsum("ijfabc,nabc->nijf", matrix, images)
    gradient = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    inputs, weights = tf.constant(images), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([inputs, weights])
        outputs = conv2d(inputs, weights, stride, dilation)
    by_inputs, by_weights = tape.gradient(outputs, [inputs, weights], tf.constant(gradient))
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    np.testing.assert_allclose(by_inputs, np.einsum("ijfabc,nijf->nabc", matrix, gradient), atol=1e-4)
    rows, columns = (dense(edge, stride, dilation, length) for length in size)
    np.testing.assert_allclose(
        by_weights, np.einsum("ika,jlb,nabc,nijf->klcf", rows, columns, images, gradient, optimize=True), atol=1e-3
    )


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
@pytest.mark.parametrize(("edge", "stride", "dilation"), CASES)
def test_the_transpose_and_its_gradients(edge, stride, dilation, size):
    # Its kernel leads from the filters of the convolution that it transposes back to that one's channels.
    large = (size[0] * stride, size[1] * stride)
    kernel, matrix, images = example(edge, stride, dilation, large)
    small = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
    inputs, weights = tf.constant(small), tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch([inputs, weights])
        outputs = conv2d_transpose(inputs, weights, stride, dilation)
    by_inputs, by_weights = tape.gradient(outputs, [inputs, weights], tf.constant(images))
    np.testing.assert_allclose(outputs, np.einsum("ijfabc,nijf->nabc", matrix, small), atol=1e-4)
    np.testing.assert_allclose(by_inputs, np.einsum("ijfabc,nabc->nijf", matrix, images), atol=1e-4)
    rows, columns = (dense(edge, stride, dilation, length) for length in large)
    np.testing.assert_allclose(
        by_weights, np.einsum("ika,jlb,nabc,nijf->klcf", rows, columns, images, small, optimize=True), atol=1e-3
    )


def test_sizes_that_are_known_when_it_runs():
    kernel = tf.constant(np.random.default_rng(0).standard_normal((5, 5, 2, 3)), tf.float32)
    there = tf.function(lambda images: conv2d(images, kernel, 3, 2))
    back = tf.function(lambda images: conv2d_transpose(images, kernel, 3, 2))
    unknown = tf.TensorSpec([None, None, None, 2], tf.float32)
    images = tf.random.stateless_normal((2, 12, 9, 2), [1, 2])
    outputs = there.get_concrete_function(unknown)(images)
    np.testing.assert_allclose(outputs, conv2d(images, kernel, 3, 2), atol=1e-5)
    returned = back.get_concrete_function(tf.TensorSpec([None, None, None, 3], tf.float32))(outputs)
    assert returned.shape == images.shape
    np.testing.assert_allclose(returned, conv2d_transpose(outputs, kernel, 3, 2), atol=1e-5)
