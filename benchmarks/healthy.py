"""Healthy heads, made as the sample phantom is but without a lesion: how much each model flags where nothing is.

    pip install '.[examples]'
    python benchmarks/healthy.py [MODEL ...] [--heads 10] [--faintest 0.3]

Each head has its own anatomy (a random warp of the average), bias field and noise. They are smoother than any scan and
of another contrast than the training's: what a network meets that is used on scans of another kind.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from brainseg_tf import saved_model
from brainseg_tf.images.volume import read_volume
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.segmentation import segment

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from make_phantom import make


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["selfseg-flair", "cvae", "dcvae"])
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--faintest", type=float, default=SegmentationOptions().faintest)
    given = parser.parse_args()
    options = replace(SegmentationOptions(), faintest=given.faintest)
    found = [saved_model.find(name) for name in given.models]
    models = [one.load() for one in found]
    flagged: list[list[float]] = []
    with tempfile.TemporaryDirectory() as place:
        for seed in range(given.heads):
            with contextlib.redirect_stdout(io.StringIO()):
                make(Path(place), seed, ())
            scan = read_volume(Path(place) / "phantom_flair.nii.gz")
            masks = [segment([scan], m, one.card, options).mask for m, one in zip(models, found, strict=True)]
            flagged.append([float(mask.sum() * scan.voxel_ml) for mask in masks])
    print("| model | heads with anything flagged | median ml | most ml |\n|---|---|---|---|")
    for name, ml in zip(given.models, np.array(flagged).T, strict=True):
        print(f"| {name} | {(ml > 0).sum()} of {len(ml)} | {np.median(ml):.1f} | {ml.max():.1f} |")


if __name__ == "__main__":
    main()
