"""Calibration of the healthy threshold on the healthy slices of the validation patients.

It is measured once per model, when the model is exported. Slices with a lesion are not used.
"""

from collections.abc import Callable, Sequence

import numpy as np

from brainseg_tf.options import Score, SegmentationOptions, SliceOptions
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.segmentation import lesion_score
from brainseg_tf.slices import Stack, onto_stack, select_slices, to_stack
from brainseg_tf.training.cohort import Patient
from brainseg_tf.training.scans import read_patient

# The healthy threshold is this quantile of the score over the brain in healthy slices.
HEALTHY_QUANTILE = 0.985
# Smallest healthy threshold of a probability: a pixel below it is more likely healthy than not.
EVEN_ODDS = 0.5


def healthy_levels(
    patients: Sequence[Patient],
    model: Reconstructor | None,
    options: SliceOptions,
    trim: int = 0,
    abnormal: Callable[[Stack, Reconstruction], np.ndarray] | None = None,
) -> dict[str, float]:
    """Healthy threshold of each kind of score.

    The 98.5 % quantile of the score over the brain is measured in the selected healthy slices of each patient. The
    threshold is the mean of these quantiles.

    Args:
        patients: the validation patients.
        model: the network; if None, only the threshold of the score ``input`` is measured.
        options, trim: how the network's slices are made; see ``ModelCard``.
        abnormal: for scans without segmentation, finds the slices that are not used, (N,) bool; without it all are
            used.

    Returns:
        The threshold by kind of score, in units of that score.
    """
    quantiles: dict[Score, list[float]] = {}
    for patient in patients:
        scans = read_patient(patient)
        stack = to_stack(scans.volumes, scans.brain, options, trim)
        healthy = select_slices(stack.brain, options)
        reconstruction = model.reconstruct(stack.images) if model else Reconstruction(stack.images)
        if scans.truth is not None:
            healthy &= ~(onto_stack(scans.truth, scans.volumes[0], stack) > 0).any(axis=(1, 2))
        elif abnormal:
            healthy &= ~abnormal(stack, reconstruction)
        for kind in _score_kinds(model, reconstruction):
            inside, score = lesion_score(stack, reconstruction, kind, SegmentationOptions())
            values = score[inside & healthy[:, None, None]]
            if values.size:
                quantiles.setdefault(kind, []).append(float(np.quantile(values, HEALTHY_QUANTILE)))
    levels: dict[str, float] = {kind: float(np.mean(by_patient)) for kind, by_patient in quantiles.items()}
    if "probability" in levels:
        levels["probability"] = max(levels["probability"], EVEN_ODDS)
    return levels


def _score_kinds(model: Reconstructor | None, reconstruction: Reconstruction) -> tuple[Score, ...]:
    """The kinds of score that the model provides."""
    if model is None:
        return ("input",)
    return (
        "input",
        "absolute",
        "positive",
        "weighted",
        *(("probability",) if reconstruction.probability is not None else ()),
    )
