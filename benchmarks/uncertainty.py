"""Relation of uncertainty and errors of the mask, on the validation patients of a model.

    python benchmarks/uncertainty.py DATA [--model selfseg-flair] [--copies 8]

For each patient the table has, over the eroded brain, the share of wrong voxels, and the area under the ROC curve for
the detection of wrong voxels by the uncertainty and by the closeness of the posterior to 0.5.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from brainseg_tf import saved_model
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.prediction.uncertainty import spread
from brainseg_tf.segmentation import segment
from brainseg_tf.slices import onto_stack
from brainseg_tf.training.cohort import read_cohort


def main() -> None:
    """Segments the patients and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="selfseg-flair")
    parser.add_argument("--copies", type=int, default=8)
    given = parser.parse_args()
    found = saved_model.find(given.model)
    model, card, options = found.load(), found.card, SegmentationOptions()
    columns = ("patient", "wrong", "by uncertainty", "by posterior", "median if right", "median if wrong")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for patient in read_cohort(given.data, card.modalities).named(card.data.validation):
        scans = [read_volume(path) for path in patient.scans.values()]
        result = segment(scans, model, card, options)
        outline = result.outline
        truth = onto_stack(read_mask(patient.truth, scans[0]), scans[0], result.stack) > 0.5
        uncertainty = spread(result.stack, model, card, options, given.copies)[outline.inside]
        wrong = (outline.found != truth)[outline.inside]
        closeness = -np.abs(outline.probability[outline.inside] - 0.5)
        areas = (roc_auc_score(wrong, score) for score in (uncertainty, closeness))
        medians = (np.median(uncertainty[voxels]) for voxels in (~wrong, wrong))
        row = [f"{wrong.mean():.3f}", *(f"{area:.2f}" for area in areas), *(f"{value:.4f}" for value in medians)]
        print(f"| {patient.name} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
