"""How high the score of healthy tissue gets: measured once per model, without a lesion's label, when it is exported."""

from collections.abc import Sequence

import numpy as np

from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.images.volume import read_segmentation, read_volume
from brainseg_tf.options import Score, SegmentationOptions, SliceOptions
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.segmentation import lesion_score
from brainseg_tf.slices import onto_stack, select_slices, to_stack
from brainseg_tf.training.cohort import Patient

# Share of the brain in healthy slices whose score is below the healthy threshold.
HEALTHY_QUANTILE = 0.985
# A lesion has to be more likely than not, however sure a network is of healthy tissue.
_EVEN_ODDS = 0.5


def healthy_levels(
    patients: Sequence[Patient], model: Reconstructor | None, options: SliceOptions, trim: int = 0
) -> dict[str, float]:
    """The score that 98.5 % of the brain stay below in the chosen healthy slices of patients, for each kind of score.

    Args:
        patients: the validation patients; each gives its quantile, their mean is the level.
        model: the network; without one there is only the input's level.
        options, trim: its slices.
    """
    quantiles: dict[Score, list[float]] = {}
    for patient in patients:
        scans = [read_volume(path) for path in patient.scans.values()]
        stack = to_stack(scans, brain_mask(scans[0]), options, trim)
        truth = onto_stack(read_segmentation(patient.truth, scans[0]), scans[0], stack)
        healthy = select_slices(stack.brain, options) & ~(truth > 0).any(axis=(1, 2))
        reconstruction = model.reconstruct(stack.images) if model else Reconstruction(stack.images)
        for kind in _kinds(model, reconstruction):
            inside, score = lesion_score(stack, reconstruction, kind, SegmentationOptions())
            values = score[inside & healthy[:, None, None]]
            if values.size:
                quantiles.setdefault(kind, []).append(float(np.quantile(values, HEALTHY_QUANTILE)))
    levels: dict[str, float] = {kind: float(np.mean(found)) for kind, found in quantiles.items()}
    if "probability" in levels:
        levels["probability"] = max(levels["probability"], _EVEN_ODDS)
    return levels


def _kinds(model: Reconstructor | None, reconstruction: Reconstruction) -> tuple[Score, ...]:
    """The kinds of score that there are."""
    if model is None:
        return ("input",)
    return (
        "input",
        "absolute",
        "positive",
        "weighted",
        *(("probability",) if reconstruction.probability is not None else ()),
    )
