import errno
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from brainseg_tf.errors import InputError
from brainseg_tf.options import SliceOptions
from brainseg_tf.training.cohort import read_cohort
from brainseg_tf.training.pipeline import CachedSlices, batches, cache_slices, ordered_batches
from helpers import AFFINE, make_brain, save
from synthetic_dicom import write_series

OPTIONS = SliceOptions(size=32, spacing=6.0, min_brain=0.05)


@pytest.fixture(scope="module")
def cached(brats_like, tmp_path_factory) -> list[CachedSlices]:
    return list(cache_slices(read_cohort(brats_like, ("flair", "t2")).patients, OPTIONS, tmp_path_factory.mktemp("c")))


def test_only_healthy_slices_are_kept(cached):
    for slices in cached:
        images = np.load(slices.file)
        assert images.shape[1:] == (32, 32, 2) or images.shape[1] > 32
        assert len(images) == slices.used
        assert 0 < slices.used < slices.chosen < slices.slices
        # Lesions have intensities of 0.9 and above, healthy tissue about 0.3.
        assert np.mean(images > 0.8, axis=(1, 2, 3)).max() < 0.002


def test_slices_with_lesions_have_the_lesions_as_a_channel(brats_like, cached, tmp_path):
    patients = read_cohort(brats_like, ("flair", "t2"), "voxels").patients
    folder = cached[0].file.parent
    for healthy, one in zip(cached, cache_slices(patients, OPTIONS, folder, lesions=True), strict=True):
        assert one.used == one.chosen == healthy.chosen and one.file != healthy.file
        images = np.load(one.file)
        assert images.shape[-1] == 3 and set(np.unique(images[..., 2])) == {0.0, 1.0}
        lesion = images[..., 2] > 0
        # A slice that a lesion covers in part of a pixel only is not healthy, but has no lesion pixel.
        tumours = one.chosen - healthy.used
        assert 0.5 * tumours < lesion.any(axis=(1, 2)).sum() <= tumours
        # Lesions have intensities of 0.9 and above, healthy tissue about 0.3.
        assert np.median(images[lesion][:, 0]) > 0.8 > np.median(images[~lesion & (images[..., 0] > 0)][:, 0])


def test_views_add_slices_and_those_that_do_not_fit_are_left_out(tmp_path):
    """A box of 160 x 160 mm fits into slices of 170 mm, but most rotated ones do not."""
    box = np.zeros((41, 41, 20), np.float32)
    box[4:37, 4:37, 4:16] = np.random.default_rng(0).uniform(200, 400, (33, 33, 12))
    for number in range(3):
        save(box, tmp_path / "data" / f"p{number}" / f"p{number}_flair.nii.gz", np.diag([-5.0, -5, 5, 1]))
    patients = read_cohort(tmp_path / "data", ("flair",), "none").patients
    counts = {}
    for field in (240.0, 170.0):
        options = SliceOptions(size=32, field_of_view=field, spacing=6.0, min_brain=0.05)
        for views in (1, 4):
            cached = list(cache_slices(patients, options, tmp_path / f"{field}", views))
            assert all(isinstance(one, CachedSlices) for one in cached), cached
            assert all(len(np.load(one.file)) == one.used for one in cached)
            counts[field, views] = sum(one.used for one in cached)
    assert counts[240.0, 4] > 2 * counts[240.0, 1]
    assert counts[170.0, 1] <= counts[170.0, 4] < 3 * counts[170.0, 1]


def test_a_brain_that_is_larger_than_the_slices_is_left_out_and_named(brats_like, tmp_path):
    patients = read_cohort(brats_like, ("flair",)).patients[:2]
    options = SliceOptions(size=32, field_of_view=120.0, spacing=6.0, min_brain=0.05)
    for patient, line in zip(patients, cache_slices(patients, options, tmp_path), strict=True):
        assert line.startswith(f"{patient.name}: left out, {patient.scans['flair']}: the brain is about 1")
        assert line.endswith("mm long, but a slice has 120 mm; check the voxel sizes and the brain mask")


def test_slices_are_decoded_once_unless_options_or_files_change(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    patients = read_cohort(folder, ("flair",)).patients[:2]
    first = list(cache_slices(patients, OPTIONS, tmp_path / "cache"))
    stamps = [slices.file.stat().st_mtime_ns for slices in first]
    again = list(cache_slices(patients, OPTIONS, tmp_path / "cache"))
    assert again == first
    assert [slices.file.stat().st_mtime_ns for slices in again] == stamps
    other = list(cache_slices(patients, SliceOptions(size=24, spacing=6.0), tmp_path / "cache"))
    assert {slices.file for slices in other}.isdisjoint(slices.file for slices in first)
    scan = patients[0].scans["flair"]
    shutil.copy(patients[1].scans["flair"], scan)
    changed = list(cache_slices(patients, OPTIONS, tmp_path / "cache"))
    assert changed[0].file != first[0].file
    assert changed[1] == first[1]


def test_a_series_whose_files_change_is_decoded_again(tmp_path):
    data, _ = make_brain(lesion=False)
    folder = tmp_path / "data" / ("x" * 240)
    folder.parent.mkdir()
    write_series(folder, data, AFFINE)
    (patient,) = read_cohort(tmp_path / "data", ("flair",), None).patients
    (first,) = cache_slices([patient], OPTIONS, tmp_path / "cache")
    assert list(cache_slices([patient], OPTIONS, tmp_path / "cache")) == [first]
    for file in folder.iterdir():
        one = dcmread(file)
        one.RescaleSlope = "0.6"
        one.save_as(file)
    (second,) = cache_slices([patient], OPTIONS, tmp_path / "cache")
    assert second.file != first.file and second.used == first.used


def test_a_scan_whose_voxels_are_in_another_file_is_decoded_again(tmp_path):
    data, _ = make_brain(lesion=False)
    for slope in (1.0, 0.5):
        image = nib.Nifti1Pair((data * slope).astype(np.int16), AFFINE)
        header = (tmp_path / "a.hdr").read_bytes() if slope < 1 else None
        times = (tmp_path / "a.hdr").stat() if header else None
        nib.save(image, tmp_path / "a.hdr")
        if header and times:
            (tmp_path / "a.hdr").write_bytes(header)
            os.utime(tmp_path / "a.hdr", ns=(times.st_atime_ns, times.st_mtime_ns))
        (patient,) = read_cohort(tmp_path, ("flair",), None).patients
        (one,) = cache_slices([patient], OPTIONS, tmp_path / "cache")
        assert isinstance(one, CachedSlices)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_a_patient_with_a_damaged_file_is_left_out_and_named(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    patients = read_cohort(folder, ("flair",)).patients[:3]
    scan = patients[1].scans["flair"]
    scan.write_bytes(scan.read_bytes()[:2000])
    results = list(cache_slices(patients, OPTIONS, tmp_path / "cache"))
    assert [type(result) for result in results] == [CachedSlices, str, CachedSlices]
    assert patients[1].name in results[1]
    assert "damaged or cut off" in results[1]


def test_a_cache_that_cannot_be_written_ends_the_run(brats_like, tmp_path, monkeypatch):
    """The patients can be read, so none of them is left out."""
    patients = read_cohort(brats_like, ("flair",)).patients[:3]
    cached = cache_slices(patients, OPTIONS, tmp_path / "cache")
    assert isinstance(next(cached), CachedSlices)

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        next(cached)


def contents(dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images, tuple(seed)) for images, seed in dataset.as_numpy_iterator()]


def test_an_epoch_has_every_slice_once_and_each_epoch_another_order(cached):
    everything = np.concatenate([np.load(slices.file) for slices in cached])
    per_epoch = -(-len(everything) // 7)
    both = contents(batches(cached, 7, seed=3, first_epoch=0, epochs=2))
    assert len(both) == 2 * per_epoch
    assert len({seed for _, seed in both}) == len(both)
    keys = [
        [image.tobytes() for images, _ in half for image in images] for half in (both[:per_epoch], both[per_epoch:])
    ]
    assert sorted(keys[0]) == sorted(keys[1]) == sorted(image.tobytes() for image in everything)
    assert keys[0] != keys[1]


def test_a_resumed_run_gets_the_same_batches(cached):
    uninterrupted = contents(batches(cached, 7, seed=3, first_epoch=0, epochs=3))
    resumed = contents(batches(cached, 7, seed=3, first_epoch=2, epochs=3))
    for (images, seed), (expected, expected_seed) in zip(resumed, uninterrupted[-len(resumed) :], strict=True):
        np.testing.assert_array_equal(images, expected)
        assert seed == expected_seed
    other = contents(batches(cached, 7, seed=4, first_epoch=2, epochs=3))
    assert any((a[0] != b[0]).any() for a, b in zip(resumed, other, strict=True))


def test_validation_batches_are_always_the_same(cached):
    first, second = (contents(ordered_batches(cached[:2], 5)) for _ in range(2))
    assert sum(len(images) for images, _ in first) == sum(slices.used for slices in cached[:2])
    for (images, seed), (expected, expected_seed) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, expected)
        assert seed == expected_seed


def test_the_files_of_the_slices_are_not_kept_open(cached):
    """A process may have 256 open files, on some systems."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("the open files of a process are in /proc on Linux only")
    kept = []
    for seed in range(3):
        kept.append(batches(cached * 20, 8, seed, first_epoch=0, epochs=1))
        assert sum(len(images) for images, _ in kept[-1]) == 20 * sum(len(one.rows) for one in cached)
    opened = [one.readlink() for one in descriptors.iterdir() if one.exists()]
    assert not [file for file in opened if file.suffix == ".npy"]
