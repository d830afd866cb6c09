"""From a cohort to batches: a volume is decoded once, its healthy slices lie on disk, batches are read from there."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from brainseg_tf.brain.mask import brain_mask
from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing, write_json
from brainseg_tf.images import volume
from brainseg_tf.json_file import read_json
from brainseg_tf.options import SliceOptions
from brainseg_tf.schema import Record, Whole
from brainseg_tf.slices import onto_stack, select_slices, to_stack
from brainseg_tf.training.cohort import Patient

# Bump when the slices that the same options give change.
_FORMAT = 3
# What stands beside the slices.
_COUNTS = Record(dict.fromkeys(("slices", "chosen", "healthy"), Whole()))


@dataclass(frozen=True)
class CachedSlices:
    """The healthy slices of one patient, on disk.

    Attributes:
        patient: the patient's name.
        file: a .npy of (healthy, H, W, C) float32.
        slices, chosen, healthy: how many slices the scan has, how many the choice keeps, and how many of those show no
            lesion pixel.
    """

    patient: str
    file: Path
    slices: int
    chosen: int
    healthy: int


def cache_slices(patients: Iterable[Patient], options: SliceOptions, folder: Path) -> Iterator[CachedSlices | str]:
    """Decodes patients one at a time and keeps their healthy slices in ``folder``; what is there already is not redone.

    Yields:
        What lies on disk for a patient, or one line on why the patient had to be left out.
    """
    make_folder(folder)
    for patient in patients:
        try:
            yield _cache_patient(patient, options, folder)
        except InputError as error:
            yield f"{patient.name}: left out, {error}"


def _cache_patient(patient: Patient, options: SliceOptions, folder: Path) -> CachedSlices:
    files = [*patient.scans.values(), patient.truth]
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([_FORMAT, asdict(options), stamps]).encode()).hexdigest()[:16]
    file = folder / f"{patient.name}-{key}.npy"
    counts = file.with_suffix(".json")
    if not (file.exists() and counts.exists()):
        volumes = [volume.read_volume(path) for path in patient.scans.values()]
        truth = volume.read_segmentation(patient.truth, volumes[0])
        stack = to_stack(volumes, brain_mask(volumes[0]), options)
        keep = select_slices(stack.brain, options)
        healthy = keep & ~(onto_stack(truth, volumes[0], stack) > 0).any(axis=(1, 2))
        with replacing(file) as beside:
            np.save(beside, stack.images[healthy])
        numbers = {"slices": len(keep), "chosen": int(keep.sum()), "healthy": int(healthy.sum())}
        write_json(counts, numbers)
    numbers = read_json(
        counts, _COUNTS, what="the counts of cached slices", remedy="delete it, and the slices are decoded again"
    )
    return CachedSlices(patient.name, file, **numbers)


def batches(
    cached: Sequence[CachedSlices],
    batch: int,
    seed: int,
    *,
    first_epoch: int,
    epochs: int,
    count: int | None = None,
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    """Batches of epoch after epoch, each in its own order and with its own corruption seeds.

    Everything about an epoch follows from ``seed`` and the epoch's number, so that a resumed run sees what an
    undisturbed one would have seen.

    Args:
        cached: whose slices; never more than one batch of them is in memory.
        batch: slices in a batch; the last one of an epoch may be smaller.
        seed: at least 0.
        first_epoch, epochs: the epochs ``first_epoch`` to ``epochs - 1`` are delivered.
        count: slices in an epoch: the first of its order, or some of them again if there are fewer; each once if None.
        worker, workers: number ``worker`` of ``workers`` that train together, each on slices of its own; no two of
            them get the same seed.

    Returns:
        A dataset of (images (N, H, W, C) float32, seed (2,) int32).
    """
    index = _index(cached)
    wanted = np.arange(len(index) if count is None else count) % len(index)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.argsort(
            tf.random.stateless_uniform([len(index)], [seed, number], 0, 2**31 - 1, tf.int32), stable=True
        )
        rows = tf.gather(index, tf.gather(order, wanted))
        return _read(cached, rows, batch, tf.cast(seed, tf.int32) + 1, number, worker, workers)

    numbers = tf.data.Dataset.range(first_epoch, epochs, output_type=tf.int32)
    return numbers.flat_map(epoch).prefetch(tf.data.AUTOTUNE)


def ordered_batches(cached: Sequence[CachedSlices], batch: int) -> tf.data.Dataset:
    """One pass in a fixed order with fixed corruption seeds, for validation; elements as in ``batches``."""
    return _read(cached, tf.constant(_index(cached)), batch, tf.constant(0), tf.constant(0)).prefetch(tf.data.AUTOTUNE)


def _index(cached: Sequence[CachedSlices]) -> np.ndarray:
    """(patient, slice) of each slice."""
    return np.array([(i, k) for i, slices in enumerate(cached) for k in range(slices.healthy)], np.int32).reshape(-1, 2)


def _read(
    cached: Sequence[CachedSlices],
    index: tf.Tensor,
    batch: int,
    seed: tf.Tensor,
    epoch: tf.Tensor,
    worker: int = 0,
    workers: int = 1,
) -> tf.data.Dataset:
    files = [np.load(slices.file, mmap_mode="r") for slices in cached]
    shape = (None, *files[0].shape[1:])

    def load(rows: np.ndarray) -> np.ndarray:
        return np.stack([files[i][k] for i, k in rows])

    def with_seed(number: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.ensure_shape(tf.numpy_function(load, [rows], tf.float32), shape)
        # A seed for each batch of each epoch; 2**16 batches in an epoch are 2 million slices at 32.
        return images, tf.stack([seed, epoch * 65536 + tf.cast(number, tf.int32) * workers + worker])

    rows = tf.data.Dataset.from_tensor_slices(index).batch(batch)
    return rows.enumerate().map(with_seed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
