"""How much a score hangs on details of the slices: its spread over copies with a little coarse noise."""

import numpy as np

from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.reconstruction import Reconstructor
from brainseg_tf.segmentation import lesion_score
from brainseg_tf.slices import Stack

# Of the noise, where the brain's median is 0.3; its bumps, across a slice.
_STDDEV, _CELLS = 0.05, 16


def spread(
    stack: Stack, model: Reconstructor, card: ModelCard, options: SegmentationOptions, copies: int, seed: int = 0
) -> np.ndarray:
    """The standard deviation of the score that the mixture divides, over copies of the slices; the same each time.

    Args:
        stack: the slices that the network saw at last.
        model: of ``card``.
        options: the stages'; the score is theirs.
        copies: with independent noise (Kascenas 2022) added, at least two.
        seed: of the noise.

    Returns:
        (N, H, W) float32; 0 outside the brain and its rim.
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
        # Welford's: no copy is kept.
        off = score - mean
        mean += off / (number + 1)
        squares += off * (score - mean)
    return np.sqrt(squares / (copies - 1)).astype(np.float32)
