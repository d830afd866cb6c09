import errno
import os
import sys

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.training.brain_cohort import cache_subjects, read_heads
from helpers import AFFINE, make_brain, save

MODALITIES = ("flair", "t1", "t2")


@pytest.fixture
def heads(tmp_path):
    """A head with two scans and a mask, a stripped subject in a subfolder, and a head without a mask."""
    folder = tmp_path / "data"
    for number, name in enumerate(("head1", "group/stripped1", "group/head2")):
        data, _ = make_brain(number)
        place = folder / name
        noisy = data + (np.random.default_rng(0).normal(0, 3, data.shape) if "head" in name else 0)
        save(noisy.astype(np.float32), place / f"{place.name}_flair.nii.gz")
    save(make_brain(0)[0] > 0, folder / "head1" / "head1_brain.nii.gz")
    save(make_brain(5)[0], folder / "head1" / "head1_t1.nii.gz")
    save(make_brain(5)[0], folder / "head1" / "head1_t2.nii.gz", AFFINE * 1.1)
    save(make_brain(5)[0], folder / ".hidden" / "x" / "x_flair.nii.gz")
    (folder / "empty").mkdir()
    return folder


def test_subjects_are_found_in_subfolders(heads):
    found = read_heads(heads, MODALITIES)
    assert [one.name for one in found] == ["head1", "head2", "stripped1"]
    assert list(found[0].scans) == ["flair", "t1", "t2"]
    assert [one.brain is None for one in found] == [False, True, True]


def test_subjects_are_reduced_once(heads, tmp_path):
    subjects = read_heads(heads, MODALITIES)
    first, left_out, stripped = cache_subjects(subjects, tmp_path / "cache")
    assert left_out.startswith("head2: left out, ") and "there is no head2_brain.nii.gz" in left_out
    # The T2 scan has another grid than the brain mask.
    assert (first.modalities, first.stripped) == (("flair", "t1"), False)
    assert (stripped.modalities, stripped.stripped) == (("flair",), True)
    one = first.load(1)
    assert one.distance is None and one.image.dtype == np.uint8
    np.testing.assert_allclose(one.spacing, np.abs(np.diag(AFFINE)[:3]))
    assert np.count_nonzero(one.brain > 127) == pytest.approx(np.count_nonzero(make_brain(0)[0]), rel=0.01)
    np.testing.assert_allclose(one.centre, np.argwhere(one.brain > 127).mean(axis=0), atol=0.1)
    other = stripped.load(0)
    assert other.distance.shape == other.image.shape
    assert (other.distance[other.brain > 200] == 0).all() and other.distance[0, 0, 0] > 80
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert list(cache_subjects(subjects, tmp_path / "cache")) == [first, left_out, stripped]
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}


def test_problems_are_named(heads, tmp_path):
    with pytest.raises(InputError, match="no such folder; give a folder of heads with brain masks"):
        read_heads(tmp_path / "none", MODALITIES)
    with pytest.raises(InputError, match="no subject with pd in it; expected <id>/<id>_<modality>"):
        read_heads(heads, ("pd",))
    save(make_brain(0)[0], heads / "other" / "HEAD1" / "HEAD1_flair.nii.gz")
    with pytest.raises(InputError, match="is the same patient as"):
        read_heads(heads, MODALITIES)


def test_an_empty_or_wrong_brain_mask_leaves_the_subject_out(heads, tmp_path):
    mask = heads / "head1" / "head1_brain.nii.gz"
    save(np.zeros(make_brain(0)[0].shape, bool), mask)
    first, *_ = cache_subjects(read_heads(heads, MODALITIES), tmp_path / "cache")
    assert first == f"head1: left out, {mask}: is empty"
    save(make_brain(0)[0][1:] > 0, mask)
    first, *_ = cache_subjects(read_heads(heads, MODALITIES), tmp_path / "cache")
    assert first.startswith("head1: left out, ") and "on another grid" in first


def test_a_file_that_is_not_there_leaves_the_subject_out(heads, tmp_path):
    mask = heads / "head1" / "head1_brain.nii.gz"
    mask.unlink()
    mask.symlink_to("gone")
    first, *others = cache_subjects(read_heads(heads, MODALITIES), tmp_path / "cache")
    assert first == f"head1: left out, {mask}: is gone or cannot be read; restore it"
    assert len(others) == 2


def test_a_cache_that_cannot_be_written_ends_the_run(heads, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        list(cache_subjects(read_heads(heads, MODALITIES), tmp_path / "cache"))


def test_a_long_name_is_cut_in_the_cache(tmp_path):
    name = "x" * 240
    save(make_brain()[0], tmp_path / "data" / name / f"{name}_flair.nii")
    (one,) = cache_subjects(read_heads(tmp_path / "data", MODALITIES), tmp_path / "cache")
    assert one.name == name and len(one.file.name) < 100


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_name_that_a_record_cannot_have_is_refused(tmp_path):
    name = b"\xe9" * 70
    save(make_brain()[0], tmp_path / os.fsdecode(name) / os.fsdecode(name + b"_flair.nii"))
    with pytest.raises(InputError, match="its name has 280 characters, at most 255 are possible; rename it"):
        read_heads(tmp_path, MODALITIES)
