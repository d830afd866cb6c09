"""Uncertainty of the lesion score: its standard deviation over copies of the slices with coarse noise."""

import numpy as np

from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.reconstruction import Reconstructor
from brainseg_tf.segmentation import lesion_score
from brainseg_tf.slices import Stack

# Standard deviation of the noise, on slices with a brain median of 0.3; and its number of cells along each side.
_STDDEV, _CELLS = 0.05, 16


def spread(
    stack: Stack, model: Reconstructor, card: ModelCard, options: SegmentationOptions, copies: int, seed: int = 0
) -> np.ndarray:
    """The standard deviation of the lesion score over noisy copies of the slices.

    The score is that of ``segment``, after the median filter. Equal seeds give equal results.

    Args:
        stack: the slices, after the correction of the bias field.
        model: reconstructs slices.
        card: of the model.
        options: the stages after the network.
        copies: number of copies, at least two. Independent coarse noise (Kascenas 2022) is added to each.
        seed: of the noise.

    Returns:
        (N, H, W) float32; 0 outside the brain and in its eroded margin.
    """
    import tensorflow as tf

    from brainseg_tf.corruption.noise import add_noise
    from brainseg_tf.corruption.random_fields import Draws

    kind = options.score or card.score
    brain = tf.constant(stack.brain, tf.float32)
    mean, squares = np.zeros(stack.brain.shape), np.zeros(stack.brain.shape)
    for number in range(copies):
        draws = Draws(tf.constant([seed, number]), tf.shape(brain)[0])
        noisy = add_noise(tf.constant(stack.images), brain, draws, _CELLS, _STDDEV).numpy()
        copy = Stack(np.clip(noisy, 0, 1).astype(np.float32), stack.brain, stack.affine)
        _, score = lesion_score(copy, model.reconstruct(copy.images), kind, options)
        # Welford's algorithm, which does not store the copies.
        deviation = score - mean
        mean += deviation / (number + 1)
        squares += deviation * (score - mean)
    return np.sqrt(squares / (copies - 1)).astype(np.float32)
