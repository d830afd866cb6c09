"""Synthetic lesions: what a network that never saw a real one learns to find.

A lesion falls off from a random point of the brain, along a rotated ellipse whose edge is roughened by smooth random
fields. It may spare fluid, as oedema does. Inside, tissue is blended towards the brain's mean and brightened with a
coarse texture. Many have a core: dark or fluid, as necrosis is, or bright. Around a bright core also a faint halo is
lesion, though alone it could pass for healthy: so a network learns to follow a lesion into its oedema.
"""

import tensorflow as tf

from brainseg_tf.corruption.random_fields import Draws
from brainseg_tf.options import LesionOptions


def plant_lesions(
    images: tf.Tensor, brain: tf.Tensor, draws: Draws, options: LesionOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Plants no, one or two lesions in each slice.

    Args:
        images: (N, H, W, C) float32; ``brain``: (N, H, W), 1 inside.

    Returns:
        The abnormal slices, and where their lesions are, (N, H, W), 0 or 1.
    """
    first, in_first = _plant(images, brain, draws, options)
    both, in_second = _plant(first, brain, draws, options)
    lot = draws.uniform(0.0, 1.0)
    some, two = tf.cast(lot > options.clean, tf.float32), tf.cast(lot > 1 - options.second, tf.float32)
    abnormal = tf.where(two[..., None] > 0, both, tf.where(some[..., None] > 0, first, images))
    return abnormal, tf.maximum(in_first * some, in_second * two) * brain


def _plant(images: tf.Tensor, brain: tf.Tensor, draws: Draws, options: LesionOptions) -> tuple[tf.Tensor, tf.Tensor]:
    """One lesion in every slice."""
    size = (images.shape[1], images.shape[2])
    weight = brain[..., None]
    mean = tf.math.divide_no_nan(
        tf.reduce_sum(images * weight, [1, 2], keepdims=True), tf.reduce_sum(weight, [1, 2], keepdims=True)
    )
    distance = _elliptic_distance(brain, draws, options)
    rough = sum(draws.uniform(0.0, most) * draws.field(size, cells) for most, cells in ((0.6, 6), (0.4, 14), (0.2, 28)))
    tissue = tf.math.divide_no_nan(tf.nn.avg_pool2d(images[..., :1], 3, 1, "SAME"), mean[..., :1])[..., 0]
    fluid = tf.nn.relu(0.6 - tissue) * draws.uniform(0.0, 3.0) * draws.coin(options.spares_fluid)
    share = tf.sigmoid(2 * (1 - distance + rough - fluid) / draws.uniform(0.03, 0.25)) * brain

    bright, dark = draws.coin(options.bright), draws.coin(options.dark)
    core_depth = draws.uniform(0.2, 0.8) - distance + 0.6 * rough + 0.2 * draws.field(size, 10)
    core = tf.sigmoid(2 * core_depth / draws.uniform(0.03, 0.15)) * tf.maximum(bright, dark)
    texture = 1 + draws.uniform(0.0, 0.5) * draws.field(size, 12) + draws.uniform(0.0, 0.3) * draws.field(size, 32)
    blend = draws.uniform(0.0, 0.8)
    contrast = tf.where(bright > 0, draws.log_uniform(*options.halo), draws.uniform(*options.contrast))
    channels = []
    for number, image in enumerate(tf.unstack(images, axis=-1)):
        average = mean[..., number]
        gain = contrast if number == 0 else contrast * draws.log_uniform(*options.others_contrast)
        with_bright = options.bright_level if number == 0 else options.others_bright_level
        without = options.dark_level if number == 0 else options.fluid_level
        level = tf.where(bright > 0, draws.uniform(*with_bright), draws.uniform(*without))
        around = image + blend * (average - image) + gain * average * tf.nn.relu(texture)
        centre = level * average * (0.6 + 0.4 * texture)
        lesion = around + core * (centre - around)
        channels.append(image + share * (lesion - image))
    return tf.stack(channels, axis=-1), tf.cast(share > 0.5, tf.float32)


def _elliptic_distance(brain: tf.Tensor, draws: Draws, options: LesionOptions) -> tf.Tensor:
    """Distance from a random point of the brain, 1 on a rotated ellipse of a random size, (N, H, W)."""
    height, width = brain.shape[1:]
    row, column = draws.pixel(brain)
    down = tf.range(height, dtype=tf.float32)[None, :, None] - row
    across = tf.range(width, dtype=tf.float32)[None, None, :] - column
    angle, stretch = draws.uniform(0.0, 3.1416), draws.log_uniform(0.67, 1.5)
    along = (down * tf.cos(angle) + across * tf.sin(angle)) * stretch
    aside = (across * tf.cos(angle) - down * tf.sin(angle)) / stretch
    smallest, largest = (share * min(height, width) for share in options.radius)
    return tf.sqrt(along**2 + aside**2) / draws.log_uniform(smallest, largest)
