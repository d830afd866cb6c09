"""False positives of the models in simulated healthy heads, which are made like the phantom but without lesions.

    pip install '.[examples]'
    python benchmarks/healthy.py [MODEL ...] [--heads 10] [--preset best] [--min-conspicuity 0.55]

Each head has a different anatomy (a random deformation of the template), bias field and noise. The heads are smoother
than real scans and have another contrast than the training data, like scans from another source.
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
from brainseg_tf.options import SEGMENTATION_PRESETS
from brainseg_tf.segmentation import segment

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from make_phantom import make


def main() -> None:
    """Makes and segments the heads and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["selfseg-flair", "cvae", "dcvae"])
    parser.add_argument("--heads", type=int, default=10)
    parser.add_argument("--preset", choices=[*SEGMENTATION_PRESETS], default="best")
    parser.add_argument("--min-conspicuity", type=float, help="instead of that of the preset")
    given = parser.parse_args()
    options = SEGMENTATION_PRESETS[given.preset]
    if given.min_conspicuity is not None:
        options = replace(options, min_conspicuity=given.min_conspicuity)
    found = [saved_model.find(name) for name in given.models]
    models = [one.load() for one in found]
    flagged: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.heads):
            with contextlib.redirect_stdout(io.StringIO()):
                make(Path(folder), seed, (), head=False)
            scan = read_volume(Path(folder) / "phantom_flair.nii.gz")
            masks = [segment([scan], m, one.card, options).mask for m, one in zip(models, found, strict=True)]
            flagged.append([float(mask.sum() * scan.voxel_ml) for mask in masks])
    print("| model | heads with a mask that is not empty | median ml | largest ml |\n|---|---|---|---|")
    for name, ml in zip(given.models, np.array(flagged).T, strict=True):
        print(f"| {name} | {(ml > 0).sum()} of {len(ml)} | {np.median(ml):.1f} | {ml.max():.1f} |")


if __name__ == "__main__":
    main()
