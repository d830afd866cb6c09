"""How high the score of healthy tissue gets: measured once per model, without a lesion's label, when it is exported."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from brainseg_tf.cohort import Patient
from brainseg_tf.postprocessing.residual import Score
from brainseg_tf.saved_model import Reconstructor
from brainseg_tf.segmentation import HEALTHY_QUANTILE, SegmentationOptions, lesion_score
from brainseg_tf.slices import SliceOptions, brain_mask, chosen, onto_stack, to_stack
from brainseg_tf.volume import read_mask, read_volume


def healthy_levels(patients: Sequence[Patient], model: Reconstructor, options: SliceOptions) -> dict[str, float]:
    """The score that 98.5 % of the brain stay below in the chosen healthy slices of patients, for each kind of score.

    Args:
        patients: the validation patients; each gives its quantile, their mean is the level.
        model: the network.
        options: its slices.
    """
    quantiles: dict[str, list[float]] = {kind: [] for kind in get_args(Score)}
    for patient in patients:
        scans = [read_volume(path) for path in patient.scans.values()]
        stack = to_stack(scans, brain_mask(scans[0]), options)
        truth = onto_stack(read_mask(patient.truth, scans[0]), scans[0], stack)
        healthy = chosen(stack.brain, options) & ~(truth > 0).any(axis=(1, 2))
        reconstruction = model.reconstruct(stack.images)
        for kind, found in quantiles.items():
            inside, score = lesion_score(stack, reconstruction, replace(SegmentationOptions(), score=kind))
            values = score[inside & healthy[:, None, None]]
            if values.size:
                found.append(float(np.quantile(values, HEALTHY_QUANTILE)))
    return {kind: float(np.mean(found)) for kind, found in quantiles.items() if found}
