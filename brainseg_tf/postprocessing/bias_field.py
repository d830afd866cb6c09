"""Intensity inhomogeneity: what a coil brightens is no lesion.

A receive coil brightens the tissue close to it, smoothly, over half a brain; a network takes the brighter part for a
lesion. N4 (Tustison 2010), the usual remedy, takes a large lesion for inhomogeneity in turn. Here the network says
first what is not healthy, and the field is fitted to the rest.
"""

import numpy as np
from scipy import ndimage

from brainseg_tf.options import Normalisation
from brainseg_tf.slices import normalise

# A quadratic in three dimensions bends once along each axis: enough for a coil, too little for most lesions.
_DEGREE = 2
# Voxels that the field is fitted to: about this many, no fewer than that.
_SAMPLES, _FEWEST = 20_000, 100
# The edge of what is not healthy is left out too, this many pixels wide.
_MARGIN = 3
# Below this share of the intensity scale a logarithm says more of noise than of tissue.
_DARKEST = 0.02


def correct_bias_field(
    images: np.ndarray, brain: np.ndarray, abnormal: np.ndarray, normalisation: Normalisation
) -> np.ndarray:
    """Divides each channel by its bias field, and normalises it again.

    The field is the exponential of a quadratic polynomial in the voxel's place, fitted to the logarithm of healthy
    tissue's intensities with Huber's loss, which keeps fluid and what else is no white or grey matter from counting.

    Args:
        images: (N, H, W, C) in [0, 1], 0 outside the brain.
        brain: (N, H, W) bool.
        abnormal: (N, H, W) bool, what the field is not fitted to, nor to its edge.
        normalisation: as the slices were normalised.

    Returns:
        (N, H, W, C) float32; the images as they were if too little healthy tissue is there.
    """
    from sklearn.linear_model import HuberRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    healthy = brain & ~ndimage.binary_dilation(abnormal, iterations=_MARGIN)
    if healthy.sum() < max(_FEWEST, brain.sum() / 4):
        return images
    centre = (np.array(brain.shape) - 1) / 2
    place = (np.argwhere(brain) - centre) / centre.clip(min=1)
    samples = np.flatnonzero(healthy[brain])
    samples = samples[:: -(-len(samples) // _SAMPLES)]
    flat = []
    for channel in np.moveaxis(images, -1, 0):
        logarithm = np.log(np.maximum(channel[brain], _DARKEST))
        field = make_pipeline(PolynomialFeatures(_DEGREE, include_bias=False), HuberRegressor(alpha=0.0))
        corrected = np.zeros_like(channel)
        corrected[brain] = np.exp(logarithm - field.fit(place[samples], logarithm[samples]).predict(place))
        flat.append(normalise(corrected, brain, normalisation))
    return np.stack(flat, axis=-1)
