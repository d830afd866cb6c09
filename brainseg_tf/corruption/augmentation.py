"""Data augmentation: what differs between scanners, hospitals and brain masks, but is not a lesion."""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws
from brainseg_tf.options import AugmentationOptions

# Largest absolute logarithm of the gamma and of the intensity scale.
_GAMMA, _SCALE = 0.3, 0.2
# The median of the brain after robust normalisation. The gamma correction does not change this intensity.
_PIVOT = 0.3
# Intervals of the random intensity curve. They are equidistant in the square root of the intensity, because most tissue
# is darker than 0.5.
_CURVE_INTERVALS = 9
# Weights of the neighbours' mean in a change of resolution: below 0 sharpens, above 0 blurs. It is applied twice.
_SHARPEST, _BLURRIEST = -0.3, 0.6
# Largest standard deviation of the smoothing in pixels, and the pixels to which its kernel reaches.
_SMOOTHEST, _REACH = 2.2, 6
# Range of the intensity at which a window clips.
_WINDOW = (0.45, 1.0)
# Width in pixels of what a ragged brain mask leaves out or includes.
_RAGGED = 2


def flip(images: tf.Tensor, draws: Draws) -> tf.Tensor:
    """Flips half of the images (N, H, W, C) left to right, at random."""
    flipped = draws.bernoulli(0.5, rank=4)
    return flipped * images[:, :, ::-1] + (1 - flipped) * images


def vary_contrast(images: tf.Tensor, draws: Draws, options: AugmentationOptions) -> tf.Tensor:
    """Applies a random curve, gamma, scale, bias field and shading to each channel of images (N, H, W, C)."""
    size = (images.shape[1], images.shape[2])
    channels = []
    for channel in tf.unstack(images, axis=-1):
        if options.curve:
            shift = draws.curve(tf.sqrt(tf.clip_by_value(channel, 0, 1)), _CURVE_INTERVALS)
            channel = channel + draws.uniform(0.0, options.curve) * shift
        relative = tf.maximum(channel / _PIVOT, 1e-4)
        corrected = tf.pow(relative, tf.exp(draws.uniform(-_GAMMA, _GAMMA)))
        biased = corrected * (1 + draws.uniform(0.0, options.bias) * draws.field(size, 4))
        if options.shading:
            biased = biased * _shading(size, draws, options.shading)
        channels.append(_PIVOT * tf.nn.relu(biased) * tf.exp(draws.uniform(-_SCALE, _SCALE)))
    return tf.stack(channels, axis=-1)


def _shading(size: tuple[int, int], draws: Draws, most: float) -> tf.Tensor:
    """The sensitivity of a coil beside the head, (N, H, W): exponential along a random direction, 1 in the middle."""
    down, across = (tf.linspace(-1.0, 1.0, edge) for edge in size)
    angle = draws.uniform(0.0, 6.2832)
    along = tf.cos(angle) * down[None, :, None] + tf.sin(angle) * across[None, None, :]
    return tf.exp(draws.uniform(0.0, most) * along)


def roughen_mask(
    images: tf.Tensor, brain: tf.Tensor, draws: Draws, share: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Imperfect brain masks: in some places they leave out the brain's edge, in others they include what is around it.

    Args:
        images: (N, H, W, C).
        brain: (N, H, W), 0 or 1.
        draws: random numbers.
        share: of the images that lose tissue; and of those that get tissue around the brain.

    Returns:
        The images, (N, H, W, C); the brain that remains, (N, H, W); and the mask, the brain and what is around it.
    """
    size = (brain.shape[1], brain.shape[2])
    edge = 2 * _RAGGED + 1
    eroded, dilated = (
        sign * tf.nn.max_pool2d(sign * brain[..., None], edge, 1, "SAME")[..., 0] for sign in (-1.0, 1.0)
    )
    lost, gained = (
        draws.bernoulli(share) * tf.cast(draws.field(size, 5) > draws.uniform(0.0, 2.0), tf.float32) * where
        for where in (brain - eroded, dilated - brain)
    )
    remaining = brain * (1 - lost)
    around = draws.uniform(0.05, 1.0) * tf.nn.relu(1 + 0.4 * draws.field(size, 32))
    images = images * remaining[..., None] + (gained * around)[..., None]
    return images, remaining, remaining + gained


def degrade(images: tf.Tensor, brain: tf.Tensor, draws: Draws, options: AugmentationOptions) -> tf.Tensor:
    """Changes the resolution of some of the images, adds white noise to all, and clips some of them.

    Args:
        images: (N, H, W, C).
        brain: (N, H, W), 1 in the brain mask, else 0.
        draws: random numbers.
        options: shares of the images, and the noise.
    """
    blurred = draws.bernoulli(options.blurred, rank=4)
    images = blurred * tf.nn.avg_pool2d(images, 3, 1, "SAME") + (1 - blurred) * images
    if options.resolution:
        changed = draws.bernoulli(options.resolution, rank=4)
        for axis in (1, 2):
            weight = changed * draws.uniform(_SHARPEST, _BLURRIEST, rank=4)
            for _ in range(2):
                images = images + weight * (_mean_of_neighbours(images, axis) - images)
    if options.smoothed:
        stddev = draws.bernoulli(options.smoothed, rank=4) * draws.uniform(0.0, _SMOOTHEST, rank=4)
        # The division by the share of brain removes the contribution of what is outside.
        share = tf.maximum(_gaussian(brain[..., None], stddev), 0.1)
        images = _gaussian(images, stddev) / share * brain[..., None]
    images = images + draws.uniform(0.0, options.noise, rank=4) * draws.noise(images)
    if options.windowed:
        windowed = draws.bernoulli(options.windowed, rank=4)
        limit = draws.uniform(*_WINDOW, rank=4)
        images = tf.where(windowed > 0, tf.minimum(images, limit), images)
    return images


def _gaussian(images: tf.Tensor, stddev: tf.Tensor) -> tf.Tensor:
    """A Gaussian filter of images (N, H, W, C), with a standard deviation (N, 1, 1, 1) in pixels for each image."""
    offsets = range(-_REACH, _REACH + 1)
    weights = [tf.exp(-(offset**2) / (2 * tf.maximum(stddev, 0.05) ** 2)) for offset in offsets]
    total = tf.add_n(weights)
    for axis in (1, 2):
        size, ends = images.shape[axis], [[0, 0] for _ in range(4)]
        ends[axis] = [_REACH, _REACH]
        padded = tf.pad(images, ends)
        shifted = (_part(padded, axis, number, size) for number in range(len(weights)))
        images = tf.add_n([weight / total * image for weight, image in zip(weights, shifted, strict=True)])
    return images


def _part(images: tf.Tensor, axis: int, start: int, size: int) -> tf.Tensor:
    """``size`` pixels from ``start`` on along an axis of images (N, H, W, C)."""
    index = [slice(None)] * 4
    index[axis] = slice(start, start + size)
    return images[tuple(index)]


def _mean_of_neighbours(images: tf.Tensor, axis: int) -> tf.Tensor:
    """The mean of the pixels before and after each pixel along an axis; those beyond the edge are 0."""
    before, after = [[0, 0] for _ in range(4)], [[0, 0] for _ in range(4)]
    before[axis][0] = after[axis][1] = 1
    one = [slice(None)] * 4
    first, last = list(one), list(one)
    first[axis], last[axis] = slice(None, -1), slice(1, None)
    return (tf.pad(images[tuple(first)], before) + tf.pad(images[tuple(last)], after)) / 2
