import shutil

import pytest

from brainseg_tf.cohort import read_cohort, split_patients
from brainseg_tf.errors import InputError


def test_patients_of_both_grades_are_found(brats_like):
    cohort = read_cohort(brats_like, ("flair", "t2"))
    assert [patient.name for patient in cohort.patients] == [f"BraTS19_TEST_{n:02}_1" for n in range(8)]
    assert {patient.grade for patient in cohort.patients} == {"HGG", "LGG"}
    assert cohort.problems == ()
    first = cohort.patients[0]
    assert list(first.scans) == ["flair", "t2"]
    assert first.truth.name == "BraTS19_TEST_00_1_seg.nii.gz"


def test_a_flat_folder_takes_grades_from_the_mapping(brats_like, tmp_path):
    for place in brats_like.glob("?GG/*"):
        shutil.copytree(place, tmp_path / place.name)
    shutil.copy(brats_like / "name_mapping.csv", tmp_path)
    grades = [patient.grade for patient in read_cohort(tmp_path, ("flair",)).patients]
    assert grades == ["HGG", "HGG", "HGG", "LGG"] * 2


def test_a_missing_modality_is_named_and_not_fatal(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    next(folder.glob("HGG/*00_1/*_t2.nii.gz")).unlink()
    next(folder.glob("HGG/*01_1/*_seg.nii.gz")).unlink()
    (folder / "HGG" / "notes").mkdir()
    cohort = read_cohort(folder, ("flair", "t2"))
    assert len(cohort.patients) == 6
    assert [problem.partition(": ")[2] for problem in cohort.problems] == ["left out, no t2", "left out, no seg"]
    assert "BraTS19_TEST_00_1" in cohort.problems[0]


def test_folders_without_patients_are_refused(tmp_path, brats_like):
    with pytest.raises(InputError, match="no such folder"):
        read_cohort(tmp_path / "nowhere", ("flair",))
    with pytest.raises(InputError, match="no patient with flair, seg"):
        read_cohort(tmp_path, ("flair",))
    with pytest.raises(InputError, match="no patient with t1, seg"):
        read_cohort(brats_like, ("t1",))


def test_the_split_is_by_patient_and_by_seed():
    names = [f"p{n}" for n in range(30)]
    split = split_patients(names, 0.15, 0.25, seed=0)
    sides = [split.train, split.validation, split.test]
    assert [len(side) for side in sides] == [18, 4, 8]
    assert sorted(sum(sides, ())) == sorted(names)
    assert split == split_patients(names[::-1], 0.15, 0.25, seed=0)
    assert split != split_patients(names, 0.15, 0.25, seed=1)
    assert [len(side) for side in vars(split_patients(names[:3], 0.1, 0.1, 0)).values()] == [1, 1, 1]
    for few, share in ((names[:2], 0.1), (names, 0.5)):
        with pytest.raises(InputError):
            split_patients(few, share, share, 0)
