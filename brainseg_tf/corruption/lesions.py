"""Synthetic lesions, from which a network learns to find lesions without a real one.

The shape is a rotated ellipse around a random point of the brain, whose edge is made irregular by smooth random fields.
It can leave out fluid, as oedema does. Within the lesion the intensity is moved towards the mean of the brain and
increased, with a coarse texture. Some lesions have a core, which is dark or fluid, as necrosis is, or bright. Around a
bright core there is a faint halo. It is part of the lesion, so that the network learns to include the oedema around a
bright tumour. Options add faint lesions, cores of the tissue itself, lesions that show the tissue of another slice,
lesions that displace the tissue around them, and many small lesions.
"""

from collections.abc import Sequence
from dataclasses import replace

import tensorflow as tf

from brainseg_tf.corruption.fluid import far_from_edge, fluid_excess, fluid_share, mean_of_brain
from brainseg_tf.corruption.random_fields import Draws
from brainseg_tf.options import LesionOptions

# Factor of the intensity of tissue from another slice.
_FOREIGN_GAIN = (0.9, 1.5)
# Near the centre of a lesion, a pixel shows tissue that is nearer by at most this share of the pixel's distance. The
# displacement reaches about as many radii of the lesion as the second number. Both were chosen by eye.
_DISPLACEMENT, _DISPLACED_RADII = 0.6, 1.2
# Increase of many small lesions in the first channel, as a share of the brain's mean; log-uniform.
_SCATTERED_CONTRAST = (0.2, 1.5)
# Edges in pixels of the means that give the surroundings of the ventricles, near and wide.
_NEAR, _WIDE = (7, 5), (15, 9)
# Slices without ventricles have less fluid than this in the mean of any such square.
_LEAST_FLUID = 0.05
# How completely a lesion leaves out fluid. Fluid that is bright itself must not be part of a bright lesion.
_SPARING = {"dark": (0.0, 3.0), "bright": (2.0, 6.0)}


def add_lesions(
    images: tf.Tensor, brain: tf.Tensor, draws: Draws, options: LesionOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds zero, one or two lesions to each slice.

    Args:
        images: (N, H, W, C) float32.
        brain: (N, H, W), 1 in the brain, else 0.
        draws: random numbers.
        options: ranges of the lesions' properties.

    Returns:
        The slices with lesions, (N, H, W, C), and the lesion masks, (N, H, W), 0 or 1.
    """
    with_one, first_mask = _add_lesion(images, brain, draws, options)
    # The second does not displace the first, whose mask would have to move too.
    with_two, second_mask = _add_lesion(with_one, brain, draws, replace(options, displacing=0.0))
    number = draws.uniform(0.0, 1.0)
    any_lesion = tf.cast(number > options.clean, tf.float32)
    two = tf.cast(number > 1 - options.second, tf.float32) * any_lesion
    abnormal = tf.where(two[..., None] > 0, with_two, tf.where(any_lesion[..., None] > 0, with_one, images))
    lesion = tf.maximum(first_mask * any_lesion, second_mask * two) * brain
    if options.scattered:
        many = draws.bernoulli(options.scattered) * any_lesion
        # Half of the slices with many small lesions have no others.
        others = 1 - many * draws.bernoulli(0.5)
        abnormal = tf.where(others[..., None] > 0, abnormal, images)
        with_many, many_mask = _add_scattered(abnormal, brain, draws, options)
        abnormal = tf.where(many[..., None] > 0, with_many, abnormal)
        lesion = tf.maximum(lesion * others, many_mask * many) * brain
    return abnormal, lesion


def _add_lesion(
    images: tf.Tensor, brain: tf.Tensor, draws: Draws, options: LesionOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds one lesion to every slice; arguments and results as in ``add_lesions``."""
    size = (images.shape[1], images.shape[2])
    mean = mean_of_brain(images, brain)
    centre = draws.pixel(brain)
    distance = _elliptic_distance(size, centre, draws, options)
    if options.displacing:
        strength = draws.bernoulli(options.displacing) * draws.uniform(0.0, _DISPLACEMENT)
        displaced, origin = (displace(one, centre, distance, strength) for one in (images, brain[..., None]))
        # What would come from outside the brain stays.
        images = tf.where((origin > 0.999) & (brain[..., None] > 0), displaced, images)
    roughness = sum(
        draws.uniform(0.0, most) * draws.field(size, cells) for most, cells in ((0.6, 6), (0.4, 14), (0.2, 28))
    )
    fluid = tf.nn.relu(fluid_excess(images, mean, options.fluid)) * draws.uniform(*_SPARING[options.fluid])
    fluid *= draws.bernoulli(options.spares_fluid)
    share = tf.sigmoid(2 * (1 - distance + roughness - fluid) / draws.uniform(0.03, 0.25)) * brain

    bright, dark = draws.bernoulli(options.bright), draws.bernoulli(options.dark)
    core_depth = draws.uniform(0.2, 0.8) - distance + 0.6 * roughness + 0.2 * draws.field(size, 10)
    core = tf.sigmoid(2 * core_depth / draws.uniform(0.03, 0.15)) * tf.maximum(bright, dark)
    texture = 1 + draws.uniform(0.0, 0.5) * draws.field(size, 12) + draws.uniform(0.0, 0.3) * draws.field(size, 32)
    blend = draws.uniform(0.0, 0.8)
    contrast = draws.uniform(*options.contrast)
    if options.faint:
        contrast = tf.where(draws.bernoulli(options.faint) > 0, draws.log_uniform(*options.contrast), contrast)
    contrast = tf.where(bright > 0, draws.log_uniform(*options.halo), contrast)
    foreign = draws.bernoulli(options.foreign) if options.foreign else None
    if foreign is not None:
        # A batch of one slice has no other one.
        foreign *= tf.cast(tf.shape(images)[0] > 1, tf.float32)
    own_core = draws.bernoulli(options.own_core) * (1 - bright) if options.own_core else None
    channels = []
    for number, image in enumerate(tf.unstack(images, axis=-1)):
        average = mean[..., number]
        gain = contrast if number == 0 else contrast * draws.log_uniform(*options.others_contrast)
        bright_range = options.bright_level if number == 0 else options.others_bright_level
        dark_range = options.dark_level if number == 0 else options.fluid_level
        core_level = tf.where(bright > 0, draws.uniform(*bright_range), draws.uniform(*dark_range))
        outer_intensity = image + blend * (average - image) + gain * average * tf.nn.relu(texture)
        if foreign is not None:
            # Where the other slice has no brain, the lesion is homogeneous.
            other = tf.roll(image, 1, axis=0)
            other = tf.where(other > 0, other, average) * draws.uniform(*_FOREIGN_GAIN)
            outer_intensity = tf.where(foreign > 0, other, outer_intensity)
        core_intensity = core_level * average * (0.6 + 0.4 * texture)
        if own_core is not None:
            core_intensity = tf.where(own_core > 0, image * draws.uniform(0.7, 1.4), core_intensity)
        lesion = outer_intensity + core * (core_intensity - outer_intensity)
        channels.append(image + share * (lesion - image))
    return tf.stack(channels, axis=-1), tf.cast(share > 0.5, tf.float32)


def _add_scattered(
    images: tf.Tensor, brain: tf.Tensor, draws: Draws, options: LesionOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds many small bright lesions to a region of every slice; arguments and results as in ``add_lesions``."""
    size = (images.shape[1], images.shape[2])
    mean = mean_of_brain(images, brain)
    coarse = draws.uniform(0.0, 1.0)
    spots = (coarse * draws.field(size, 20) + (1 - coarse) * draws.field(size, 44)) / tf.sqrt(
        coarse**2 + (1 - coarse) ** 2
    )
    # Some of them are around the ventricles instead, the fluid that is far from the brain's edge, and can be confluent.
    deep = far_from_edge(brain)
    fluid = fluid_share(images, brain, options.fluid)
    ventricles, wide = fluid * deep, draws.uniform(0.0, 1.0)
    surroundings = (1 - wide) * _blurred(ventricles, _NEAR) + wide * _blurred(ventricles, _WIDE)
    surroundings /= tf.maximum(tf.reduce_max(surroundings, axis=(1, 2), keepdims=True), _LEAST_FLUID)
    around = (surroundings * (1 + 0.4 * draws.field(size, 16)) - draws.uniform(0.05, 0.6)) * 6 + 1.8
    periventricular = draws.bernoulli(options.periventricular)
    # Half of the others are deep in the white matter.
    spots -= 3 * draws.bernoulli(0.5) * (1 - deep)
    spots = tf.where(periventricular > 0, around * (1 - fluid), spots)
    region = tf.sigmoid((draws.field(size, 4) - draws.uniform(-2.5, 1.0)) / 0.2)
    # Those around the ventricles are often on both sides alike.
    region = tf.maximum(region, periventricular * draws.bernoulli(0.5))
    share = tf.sigmoid((spots - draws.uniform(1.3, 2.4)) / draws.uniform(0.08, 0.3)) * region * brain
    contrast = draws.log_uniform(*_SCATTERED_CONTRAST)
    channels = []
    for number, image in enumerate(tf.unstack(images, axis=-1)):
        gain = contrast if number == 0 else contrast * draws.log_uniform(*options.others_contrast)
        lesion = image + gain * mean[..., number]
        channels.append(image + share * (lesion - image))
    return tf.stack(channels, axis=-1), tf.cast(share > 0.5, tf.float32)


def _blurred(values: tf.Tensor, edges: Sequence[int]) -> tf.Tensor:
    """Means of ``values`` (N, H, W) over squares, one after the other."""
    values = values[..., None]
    for edge in edges:
        values = tf.nn.avg_pool2d(values, edge, 1, "SAME")
    return values[..., 0]


def displace(
    images: tf.Tensor, centre: tuple[tf.Tensor, tf.Tensor], distance: tf.Tensor, strength: tf.Tensor
) -> tf.Tensor:
    """Moves what is around a point away from it, as a growing lesion does; bilinear interpolation.

    Args:
        images: (N, H, W, C), H and W at least 2.
        centre: row and column of the point, each (N, 1, 1).
        distance: (N, H, W), from the point, 1 at the edge of the lesion.
        strength: (N, 1, 1), from 0 to below 1. A pixel shows what was nearer to the point by this share of its
            distance, far away by less.
    """
    height, width = images.shape[1:3]
    nearer = 1 - strength * tf.exp(-0.5 * (distance / _DISPLACED_RADII) ** 2)
    down, across = _offsets((height, width), centre)
    row, column = centre[0] + down * nearer, centre[1] + across * nearer
    # The point is in the image, so all of these are too.
    upper, left = (tf.floor(tf.minimum(one, edge - 2.0)) for one, edge in ((row, height), (column, width)))
    index = tf.cast(upper * width + left, tf.int32)
    flat = tf.reshape(images, [-1, height * width, images.shape[3]])
    lower_share, right_share = (row - upper)[..., None], (column - left)[..., None]

    def pixel(offset: int) -> tf.Tensor:
        return tf.gather(flat, index + offset, batch_dims=1)

    above = pixel(0) + right_share * (pixel(1) - pixel(0))
    below = pixel(width) + right_share * (pixel(width + 1) - pixel(width))
    return above + lower_share * (below - above)


def _offsets(size: tuple[int, int], centre: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows below and columns to the right of a pixel, (N, H, 1) and (N, 1, W)."""
    down = tf.range(size[0], dtype=tf.float32)[None, :, None] - centre[0]
    return down, tf.range(size[1], dtype=tf.float32)[None, None, :] - centre[1]


def _elliptic_distance(
    size: tuple[int, int], centre: tuple[tf.Tensor, tf.Tensor], draws: Draws, options: LesionOptions
) -> tf.Tensor:
    """Elliptic distance from a pixel, (N, H, W): 1 on a rotated ellipse of random size."""
    down, across = _offsets(size, centre)
    angle, stretch = draws.uniform(0.0, 3.1416), draws.log_uniform(0.67, 1.5)
    major = (down * tf.cos(angle) + across * tf.sin(angle)) * stretch
    minor = (across * tf.cos(angle) - down * tf.sin(angle)) / stretch
    smallest, largest = (share * min(size) for share in options.radius)
    return tf.sqrt(major**2 + minor**2) / draws.log_uniform(smallest, largest)
