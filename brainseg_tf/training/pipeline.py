"""Input pipeline: the slices of a cohort are cached on disk, and batches are read from the cache."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing, write_json
from brainseg_tf.images.formats import files_of
from brainseg_tf.images.readers import reading
from brainseg_tf.json_file import read_json
from brainseg_tf.options import SliceOptions
from brainseg_tf.schema import Integer, Record
from brainseg_tf.slices import onto_stack, select_slices, to_stack
from brainseg_tf.training.cohort import CACHED_NAME, Patient
from brainseg_tf.training.scans import View, random_views, read_patient

# Part of the cache key. Increase it when the same options give other slices than before.
_FORMAT = 8
# Of a view with more slices than this, evenly spaced ones are used. No scan of 1 mm has so many; a scan with a
# wrong slice thickness in its header can have a multiple.
_MOST_OF_A_VIEW = 128
# Content of the JSON file that belongs to each file of slices.
_COUNTS = Record(dict.fromkeys(("slices", "chosen", "used"), Integer()))


@dataclass(frozen=True)
class CachedSlices:
    """The slices of one patient for the training, on disk.

    Attributes:
        patient: the patient's name.
        file: a .npy file with an array (used, H, W, C) float32.
        slices: number of slices of the scan.
        chosen: number of those that ``select_slices`` selects.
        used: number of slices in the file: those of the selected slices without a lesion pixel, as far as known; with
            ``lesions`` all of them.
        left_out: rows of the file that are not used, because the network flagged them (``screening``).
    """

    patient: str
    file: Path
    slices: int
    chosen: int
    used: int
    left_out: tuple[int, ...] = ()

    @property
    def rows(self) -> np.ndarray:
        """The rows of the file that are used."""
        return np.setdiff1d(np.arange(self.used), np.array(self.left_out, int))


@dataclass(frozen=True)
class Part:
    """The part of a worker in an epoch.

    Attributes:
        count: number of slices in an epoch. If it is below the number of cached slices, only the first ones in the
            epoch's order are used; if it is above, some are used again. If None, each slice is used once.
        worker, workers: index and number of the workers that train together; each gets different corruption seeds.
    """

    count: int | None = None
    worker: int = 0
    workers: int = 1


_ALONE = Part()


def cache_slices(
    patients: Iterable[Patient], options: SliceOptions, folder: Path, views: int = 1, *, lesions: bool = False
) -> Iterator[CachedSlices | str]:
    """Decodes patients one at a time and caches their slices in ``folder``.

    Patients whose slices are in the cache already are not decoded again, unless the options or their files changed.

    Args:
        patients: the patients.
        options: how volumes become slices.
        folder: of the cache.
        views: see ``FitOptions``.
        lesions: whether slices with lesions are cached too. Then each has one more channel, which is 1 in the lesions
            of the segmentation, else 0.

    Yields:
        The cached slices of a patient, or one line that says why the patient is left out: the scans cannot be used.

    Raises:
        InputError: the cache cannot be written or is damaged.
    """
    make_folder(folder)
    for patient in patients:
        try:
            file = folder / _cache_name(patient, options, views, lesions=lesions)
            counts = file.with_suffix(".json")
            decoded = None if file.exists() and counts.exists() else _decode(patient, options, views, lesions=lesions)
        except InputError as error:
            yield f"{patient.name}: left out, {error}"
            continue
        if decoded is not None:
            images, numbers = decoded
            with replacing(file) as temporary:
                np.save(temporary, images)
            write_json(counts, numbers)
            del images, decoded
        numbers = read_json(
            counts, _COUNTS, what="the counts of cached slices", remedy="delete it to have the slices decoded again"
        )
        yield CachedSlices(patient.name, file, **numbers)


def _cache_name(patient: Patient, options: SliceOptions, views: int, *, lesions: bool) -> str:
    """The name of a patient's file in the cache; it depends on the options, and on the sizes and times of the scans."""
    stamps = []
    for scan in patient.files:
        with reading(scan, "is gone or cannot be read; restore it"):
            stamps += [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files_of(scan)]
    key = hashlib.sha256(json.dumps([_FORMAT, asdict(options), views, lesions, stamps]).encode()).hexdigest()[:16]
    return f"{patient.name[:CACHED_NAME]}-{key}.npy"


def _decode(patient: Patient, options: SliceOptions, views: int, *, lesions: bool) -> tuple[np.ndarray, dict[str, int]]:
    """A patient's slices as ``cache_slices`` stores them, (n, H, W, C), and the counts of ``CachedSlices``."""
    scans = read_patient(patient)
    seen = (_slices_of(view, options, lesions=lesions) for view in random_views(scans, patient.name, views))
    straight = next(seen)
    if (largest := max(straight[0].shape[1:3])) > options.size:
        raise InputError(
            f"{scans.volumes[0].path}: the brain is about {largest * options.pixel:.0f} mm long, but a slice has "
            f"{options.field_of_view:.0f} mm; check the voxel sizes and the brain mask"
        )
    # A rotated head can be too large for the grid, which then grows; such a view is left out.
    parts = [straight, *(part for part in seen if part[0].shape[1:] == straight[0].shape[1:])]
    return np.concatenate([images for images, _ in parts]), {
        name: sum(one[name] for _, one in parts) for name in _COUNTS.required
    }


def _slices_of(view: View, options: SliceOptions, *, lesions: bool) -> tuple[np.ndarray, dict[str, int]]:
    """The same for one view."""
    scans = view.scans
    stack = to_stack(scans.volumes, scans.brain, options, rotation=view.rotation)
    images, selected = stack.images, select_slices(stack.brain, options)
    keep = selected
    if scans.truth is not None:
        share = onto_stack(scans.truth, scans.volumes[0], stack)
        if lesions:
            images = np.concatenate([images, (share > 0.5)[..., None]], axis=-1, dtype=np.float32)
        else:
            keep = selected & ~(share > 0).any(axis=(1, 2))
    chosen = np.flatnonzero(keep)
    if len(chosen) > _MOST_OF_A_VIEW:
        chosen = chosen[np.arange(_MOST_OF_A_VIEW) * len(chosen) // _MOST_OF_A_VIEW]
    counts = {"slices": len(selected), "chosen": int(selected.sum()), "used": len(chosen)}
    return images[chosen], counts


def batches(
    cached: Sequence[CachedSlices],
    batch: int,
    seed: int,
    *,
    first_epoch: int,
    epochs: int,
    part: Part = _ALONE,
    columns: int = 0,
) -> tf.data.Dataset:
    """The training batches of several epochs, each epoch in a different order and with different corruption seeds.

    The order and the seeds of an epoch depend only on ``seed`` and the epoch's number. So a resumed run uses the same
    batches as a run without interruption.

    Args:
        cached: the slices. They are read from disk batch by batch.
        batch: slices in a batch; the last batch of an epoch may be smaller.
        seed: at least 0.
        first_epoch, epochs: the dataset has the epochs ``first_epoch`` to ``epochs - 1``.
        part: of several workers; by default one worker uses each slice once.
        columns: number of central columns that are used; 0 uses all.

    Returns:
        A dataset of (images (N, H, W, C) float32, seed (2,) int32).
    """
    index = _index(cached)
    wanted = np.arange(len(index) if part.count is None else part.count) % len(index)

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.argsort(
            tf.random.stateless_uniform([len(index)], [seed, number], 0, 2**31 - 1, tf.int32), stable=True
        )
        rows = tf.gather(index, tf.gather(order, wanted))
        return _read(cached, rows, batch, (tf.cast(seed, tf.int32) + 1, number), part, columns)

    numbers = tf.data.Dataset.range(first_epoch, epochs, output_type=tf.int32)
    return numbers.flat_map(epoch).prefetch(tf.data.AUTOTUNE)


def ordered_batches(cached: Sequence[CachedSlices], batch: int, most: int = 0, columns: int = 0) -> tf.data.Dataset:
    """The validation batches: one pass in a fixed order with fixed corruption seeds; elements as in ``batches``.

    Args:
        cached: the slices.
        batch: slices in a batch.
        most: if there are more slices than this, that many evenly spaced ones are used; 0 uses all.
        columns: number of central columns that are used; 0 uses all.
    """
    index = _index(cached)
    if most and len(index) > most:
        index = index[np.arange(most) * len(index) // most]
    seed_and_epoch = (tf.constant(0), tf.constant(0))
    return _read(cached, tf.constant(index), batch, seed_and_epoch, columns=columns).prefetch(tf.data.AUTOTUNE)


def _index(cached: Sequence[CachedSlices]) -> np.ndarray:
    """Indices of patient and slice of each cached slice, (n, 2) int32."""
    return np.array([(i, k) for i, slices in enumerate(cached) for k in slices.rows], np.int32).reshape(-1, 2)


def central_columns(images: np.ndarray, columns: int) -> np.ndarray:
    """The central columns of images (N, H, W, C); all if ``columns`` is 0 or there are not more."""
    beside = max(0, images.shape[2] - columns) // 2 if columns else 0
    return images[:, :, beside : images.shape[2] - beside]


def _read(
    cached: Sequence[CachedSlices],
    index: tf.Tensor,
    batch: int,
    seed_and_epoch: tuple[tf.Tensor, tf.Tensor],
    part: Part = _ALONE,
    columns: int = 0,
) -> tf.data.Dataset:
    seed, epoch = seed_and_epoch

    def opened(number: int) -> np.ndarray:
        return central_columns(np.load(cached[number].file, mmap_mode="r"), columns)

    shape = (None, *opened(0).shape[1:])

    def load(rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *shape[1:]), np.float32)
        # A file is open for one batch only: TensorFlow keeps this function, and a process may have 256 open files.
        for number in np.unique(rows[:, 0]):
            of_file = rows[:, 0] == number
            images[of_file] = opened(number)[rows[of_file, 1]]
        return images

    def with_seed(number: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images = tf.ensure_shape(tf.numpy_function(load, [rows], tf.float32), shape)
        # Batches get different seeds if an epoch has at most 65536 batches (2 million slices in batches of 32).
        return images, tf.stack([seed, epoch * 65536 + tf.cast(number, tf.int32) * part.workers + part.worker])

    rows = tf.data.Dataset.from_tensor_slices(index).batch(batch)
    return rows.enumerate().map(with_seed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
