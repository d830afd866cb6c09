"""Correction of the bias field (intensity inhomogeneity).

A receive coil brightens the tissue close to it, smoothly, over half of a brain; a network segments the brighter part as
a lesion. N4 (Tustison 2010), the usual correction, removes large lesions as inhomogeneity. Here the network marks
suspicious pixels first, and the field is fitted to the others.
"""

import numpy as np
from scipy import ndimage

from brainseg_tf.options import Normalisation
from brainseg_tf.slices import normalise

# A quadratic polynomial has one extremum along each axis: enough for a coil, not enough for most lesions.
_DEGREE = 2
# Number of voxels that the field is fitted to, and the fewest that are enough.
_SAMPLES, _FEWEST = 20_000, 100
# Pixels around the suspicious ones that are left out too.
_MARGIN = 3
# Below this share of the intensity scale, the logarithm is dominated by noise.
_DARKEST = 0.02


def correct_bias_field(
    images: np.ndarray, brain: np.ndarray, suspicious: np.ndarray, normalisation: Normalisation
) -> np.ndarray:
    """Divides each channel by its bias field, and normalises it again.

    The field is the exponential of a quadratic polynomial of the voxel's position. It is fitted to the logarithm of the
    intensities with the Huber loss, which limits the influence of fluid and of other outliers.

    Args:
        images: (N, H, W, C) in [0, 1], 0 outside the brain.
        brain: (N, H, W) bool.
        suspicious: (N, H, W) bool, pixels that the field is not fitted to, nor to their surroundings.
        normalisation: as the slices were normalised.

    Returns:
        (N, H, W, C) float32; the unchanged images if there is too little healthy tissue.
    """
    from sklearn.linear_model import HuberRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    healthy = brain & ~ndimage.binary_dilation(suspicious, iterations=_MARGIN)
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
