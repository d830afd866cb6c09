"""Writes ``data/phantom_masks.npz``: the masks of the phantom, which refactoring must not change.

    python tests/expected_masks.py

Run it when a change is meant to change masks, or when a shipped model is replaced.
"""

from pathlib import Path

import numpy as np

from brainseg_tf import saved_model
from brainseg_tf.images.volume import read_volume
from brainseg_tf.options import PAPER_SEGMENTATION, SegmentationOptions
from brainseg_tf.segmentation import segment

FILE = Path(__file__).with_name("data") / "phantom_masks.npz"
PHANTOM = Path(__file__).parents[1] / "examples" / "phantom" / "phantom_flair.nii.gz"
# Model and options by the name of the mask.
CASES = {name: (name, SegmentationOptions()) for name in ("cvae", "dcvae", "dae", "selfseg-flair")}
CASES["cvae, preset paper"] = ("cvae", PAPER_SEGMENTATION)


def expected(case: str, shape: tuple[int, ...]) -> np.ndarray:
    """The stored mask of a case, bool of that shape."""
    with np.load(FILE) as masks:
        return np.unpackbits(masks[case], count=int(np.prod(shape))).reshape(shape).astype(bool)


if __name__ == "__main__":
    scan = read_volume(PHANTOM)
    found = {}
    for case, (name, options) in CASES.items():
        model = saved_model.find(name)
        found[case] = np.packbits(segment([scan], model.load(), model.card, options).mask)
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)
