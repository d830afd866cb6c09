"""Dilated convolutions with strides, and their transposes, from operations that are available on every device.

Without oneDNN, TensorFlow's CPU kernels have neither a transposed convolution with a dilation above 1 nor the
gradient of a dilated convolution. Here a dilated convolution is computed as ordinary convolutions of subsampled
images: with stride s and dilation d, output pixel i reads the input at s * i + d * k. For the outputs i = m * j + r,
with m = d / gcd(s, d), these positions are s * r + d * (s * m / d * j + k): an ordinary convolution with stride
s * m / d of every d-th pixel from s * r on. The number of multiplications is that of the dilated kernel, without zeros,
and the result is the same on every CPU.
"""

import math

import tensorflow as tf


def conv2d(images: tf.Tensor, kernel: tf.Tensor, stride: int, dilation: int) -> tf.Tensor:
    """``tf.nn.conv2d`` with padding ``"SAME"``, for every stride and dilation on every device.

    Args:
        images: (N, H, W, C).
        kernel: (K, K, C, filters).
        stride, dilation: along both axes.

    Returns:
        (N, ceil(H / stride), ceil(W / stride), filters).
    """
    if dilation == 1:
        return tf.nn.conv2d(images, kernel, stride, "SAME")
    edge = kernel.shape[0]
    phases, step = _phases(stride, dilation)
    size = tf.shape(images)
    paddings, crops, windows = [[0, 0]], [], []
    for axis in (1, 2):
        outputs = -(-size[axis] // stride)
        # TensorFlow's definition of "SAME": an odd pixel of padding is added after the image.
        before = tf.maximum((outputs - 1) * stride + (edge - 1) * dilation + 1 - size[axis], 0) // 2
        by_phase = -(-outputs // phases)
        span = dilation * ((by_phase - 1) * step + edge - 1) + 1
        after = tf.maximum(stride * (phases - 1) + span - size[axis] - before, 0)
        paddings.append([before, after])
        crops.append([0, by_phase * phases - outputs])
        windows.append([slice(stride * r, stride * r + span, dilation) for r in range(phases)])
    padded = tf.pad(images, [*paddings, [0, 0]])
    subsampled = tf.concat([padded[:, rows, columns] for rows in windows[0] for columns in windows[1]], axis=0)
    outputs = tf.nn.conv2d(subsampled, kernel, step, "VALID")
    return tf.batch_to_space(outputs, [phases, phases], crops) if phases > 1 else outputs


def conv2d_transpose(images: tf.Tensor, kernel: tf.Tensor, stride: int, dilation: int) -> tf.Tensor:
    """The transpose of ``conv2d``: its gradient with respect to the images, as a layer of its own.

    Args:
        images: (N, H, W, C).
        kernel: (K, K, filters, C).
        stride, dilation: along both axes.

    Returns:
        (N, H * stride, W * stride, filters).
    """
    size = tf.shape(images)
    edge, filters = kernel.shape[0], kernel.shape[2]
    if dilation == 1:
        shape = tf.stack([size[0], size[1] * stride, size[2] * stride, filters])
        return tf.nn.conv2d_transpose(images, kernel, shape, stride, "SAME")
    phases, step = _phases(stride, dilation)
    # What "SAME" puts before an image whose side is a multiple of the stride.
    before = max((edge - 1) * dilation + 1 - stride, 0) // 2
    by_phase = [-(-size[axis] // phases) for axis in (1, 2)]
    if phases > 1:
        paddings = [[0, count * phases - size[axis]] for axis, count in zip((1, 2), by_phase, strict=True)]
        images = tf.space_to_batch(images, [phases, phases], paddings)
    spans = [(count - 1) * step + edge for count in by_phase]
    shape = tf.stack([size[0] * phases**2, *spans, filters])
    outputs = tf.nn.conv2d_transpose(images, kernel, shape, step, "VALID")
    # Phase r of the images adds to every dilation-th output pixel from stride * r on.
    starts = [divmod(stride * r, dilation) for r in range(phases)]
    sides = [
        tf.maximum(span + starts[-1][0], -(-(before + size[axis] * stride) // dilation))
        for axis, span in zip((1, 2), spans, strict=True)
    ]
    blocks = {}
    for part, (row, column) in zip(
        tf.split(outputs, phases**2), [(row, column) for row in starts for column in starts], strict=True
    ):
        shifts = (row[0], column[0])
        margins = [[shift, side - span - shift] for shift, side, span in zip(shifts, sides, spans, strict=True)]
        blocks[row[1], column[1]] = tf.pad(part, [[0, 0], *margins, [0, 0]])
    untouched = tf.zeros([size[0], *sides, filters], images.dtype)
    grid = [blocks.get((row, column), untouched) for row in range(dilation) for column in range(dilation)]
    crops = [[before, dilation * side - before - size[axis] * stride] for axis, side in zip((1, 2), sides, strict=True)]
    return tf.batch_to_space(tf.concat(grid, axis=0), [dilation, dilation], crops)


def _phases(stride: int, dilation: int) -> tuple[int, int]:
    """How many ordinary convolutions make up a dilated one along an axis, and their stride."""
    common = math.gcd(stride, dilation)
    return dilation // common, stride // common
