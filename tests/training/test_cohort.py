import os
import shutil
import sys
from pathlib import Path

import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.schema import Text
from brainseg_tf.training.cohort import read_cohort, split_patients


def test_patients_of_both_grades_are_found(brats_like):
    cohort = read_cohort(brats_like, ("flair", "t2"))
    assert [patient.name for patient in cohort.patients] == [f"BraTS19_TEST_{n:02}_1" for n in range(8)]
    assert {patient.grade for patient in cohort.patients} == {"HGG", "LGG"}
    assert cohort.problems == ()
    first = cohort.patients[0]
    assert list(first.scans) == ["flair", "t2"]
    assert first.truth.name == "BraTS19_TEST_00_1_seg.nii.gz"


def test_a_flat_folder_takes_grades_from_the_mapping(brats_like, tmp_path):
    for folder in brats_like.glob("?GG/*"):
        shutil.copytree(folder, tmp_path / folder.name)
    shutil.copy(brats_like / "name_mapping.csv", tmp_path)
    grades = [patient.grade for patient in read_cohort(tmp_path, ("flair",)).patients]
    assert grades == ["HGG", "HGG", "HGG", "LGG"] * 2


def test_a_patient_without_a_modality_is_left_out_and_named(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    next(folder.glob("HGG/*00_1/*_t2.nii.gz")).unlink()
    next(folder.glob("HGG/*01_1/*_seg.nii.gz")).unlink()
    (folder / "HGG" / "notes").mkdir()
    cohort = read_cohort(folder, ("flair", "t2"))
    assert len(cohort.patients) == 6
    assert [problem.partition(": ")[2] for problem in cohort.problems] == ["left out, no t2", "left out, no seg"]
    assert "BraTS19_TEST_00_1" in cohort.problems[0]


def test_the_labels_decide_whether_a_segmentation_is_needed(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    next(folder.glob("HGG/*01_1/*_seg.nii.gz")).unlink()
    without = read_cohort(folder, ("flair",), "none")
    assert len(without.patients) == 8 and not any(one.truth for one in without.patients)
    # If nobody says it, the segmentations that there are decide.
    assert [read_cohort(folder, ("flair",), one).labels for one in (None, "slices", "none", "voxels")] == [
        "slices",
        "slices",
        "none",
        "voxels",
    ]
    assert all(one.truth for one in read_cohort(folder, ("flair",), "voxels").patients)
    assert len(read_cohort(folder, ("flair",), None).patients) == 7
    for file in folder.glob("*/*/*_seg.nii.gz"):
        file.unlink()
    assert read_cohort(folder, ("flair",), None).labels == "none"
    with pytest.raises(
        InputError, match="no patient with flair, seg in it; the first of 8 that were left out: .*no seg"
    ):
        read_cohort(folder, ("flair",), "slices")


def test_a_split_of_subjects_keeps_their_examinations_together(tmp_path):
    (tmp_path / "dataset_description.json").touch()
    for subject in range(6):
        for session in range(1 + subject % 2):
            name = f"sub-{subject}_ses-{session}_FLAIR.nii.gz"
            place = tmp_path / f"sub-{subject}" / f"ses-{session}" / "anat"
            place.mkdir(parents=True)
            (place / name).write_bytes(b"x")
    cohort = read_cohort(tmp_path, ("flair",), "none")
    names = [one.name for one in cohort.patients]
    assert len(names) == 9 and cohort.subjects(names) == [f"sub-{n}" for n in range(6)]
    split = cohort.of_subjects(split_patients(cohort.subjects(names), 0.3, 0.2, 0), names)
    sides = [{name[:5] for name in side} for side in (split.train, split.validation, split.test)]
    assert sorted(len(side) for side in sides) == [1, 2, 3] and len(set.union(*sides)) == 6
    assert sorted((*split.train, *split.validation, *split.test)) == sorted(names)


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


def patient(folder: Path, name: str, kinds: tuple[str, ...] = ("flair", "seg")) -> Path:
    """Makes a patient's folder with empty files, since ``read_cohort`` does not open them."""
    patient_folder = folder / name
    patient_folder.mkdir(parents=True)
    for kind in kinds:
        (patient_folder / f"{patient_folder.name}_{kind}.nii.gz").touch()
    return patient_folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HGG/p1", "LGG/p1"),
        ("p1", "HGG/p1"),
        ("p1", "LGG/p1"),
        # Some file systems do not distinguish case or the Unicode form of accents: there these are one folder.
        ("HGG/Patient", "LGG/patient"),
        ("HGG/caf\u00e9", "LGG/cafe\u0301"),
    ],
)
def test_one_patient_id_twice_is_refused_and_both_places_are_named(tmp_path, one, other):
    patient(tmp_path, "HGG/p0")
    first, second = patient(tmp_path, one), patient(tmp_path, other)
    with pytest.raises(InputError, match="is the same patient as .*, and would be counted twice; remove or") as caught:
        read_cohort(tmp_path, ("flair",))
    assert str(first) in str(caught.value) and str(second) in str(caught.value)


def test_a_duplicate_patient_id_is_refused_even_if_one_patient_is_incomplete(tmp_path):
    patient(tmp_path, "HGG/p1")
    patient(tmp_path, "LGG/p1", ("flair",))
    with pytest.raises(InputError, match="is the same patient as"):
        read_cohort(tmp_path, ("flair",))


def test_a_folder_without_scans_is_not_a_duplicate_patient(tmp_path):
    patient(tmp_path, "HGG/p1")
    patient(tmp_path, "LGG/p1", ())
    assert [one.name for one in read_cohort(tmp_path, ("flair",)).patients] == ["p1"]


def test_links_to_one_patient_are_refused(tmp_path):
    first = patient(tmp_path, "HGG/p1")
    (tmp_path / "LGG").mkdir()
    (tmp_path / "LGG" / "p1").symlink_to(first)
    with pytest.raises(InputError, match="LGG/p1: is the same patient as .*HGG/p1"):
        read_cohort(tmp_path, ("flair",))
    (tmp_path / "LGG" / "p1").unlink()
    (tmp_path / "LGG").rmdir()
    (tmp_path / "LGG").symlink_to(tmp_path / "HGG")
    with pytest.raises(InputError, match="LGG/p1: is the same patient as .*HGG/p1"):
        read_cohort(tmp_path, ("flair",))


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_one_file_under_two_names_is_refused(tmp_path, link):
    first, second = patient(tmp_path, "HGG/p1"), patient(tmp_path, "HGG/p2", ("seg",))
    getattr(second / "p2_flair.nii.gz", link)(first / "p1_flair.nii.gz")
    with pytest.raises(InputError, match=r"p2_flair\.nii\.gz: is the same file as .*p1_flair\.nii\.gz, and would be"):
        read_cohort(tmp_path, ("flair",))


def test_hidden_folders_are_ignored(tmp_path):
    for name in ("HGG/p1", "HGG/.p2", "HGG/._p1", ".p3"):
        patient(tmp_path, name)
    cohort = read_cohort(tmp_path, ("flair",))
    assert [one.name for one in cohort.patients] == ["p1"] and cohort.problems == ()


def test_a_patient_with_a_broken_link_is_left_out_and_named(tmp_path):
    patient(tmp_path, "HGG/p1")
    (patient(tmp_path, "HGG/p2", ("seg",)) / "p2_flair.nii.gz").symlink_to("../annex/key")
    cohort = read_cohort(tmp_path, ("flair",))
    assert [one.name for one in cohort.patients] == ["p1"]
    assert cohort.problems == (f"{tmp_path}/HGG/p2: left out, p2_flair.nii.gz is a link to a file that does not exist",)


@pytest.mark.parametrize("name", ["", "HGG", "HGG/p2"])
def test_an_unreadable_folder_gives_a_message_of_one_line(tmp_path, monkeypatch, name):
    # Tests often run as root, which may read every folder. So the error is simulated.
    for one in ("HGG/p1", "HGG/p2"):
        patient(tmp_path, one)
    iterdir = Path.iterdir

    def without_permission(path):
        if path == tmp_path / name:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", without_permission)
    if name == "HGG/p2":
        cohort = read_cohort(tmp_path, ("flair",))
        assert [one.name for one in cohort.patients] == ["p1"]
        assert cohort.problems == (
            f"{tmp_path}/HGG/p2: left out, cannot be read (Permission denied); check its permissions",
        )
    else:
        with pytest.raises(InputError) as caught:
            read_cohort(tmp_path, ("flair",))
        assert str(caught.value) == f"{tmp_path / name}: cannot be read (Permission denied); check its permissions"


def test_the_ground_truth_is_refused_as_a_modality(tmp_path):
    patient(tmp_path, "HGG/p1")
    with pytest.raises(InputError, match="--modality seg: is the ground truth"):
        read_cohort(tmp_path, ("flair", "seg"))


HEAD = b"Grade,BraTS_2019_subject_ID\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00\x01", "not UTF-8 at byte 0"),
        (HEAD + b"HGG,p1\nLG", "line 3 does not have the same number of columns as the first line"),
        (HEAD + b"HGG,p1,more\n", "line 2 does not have the same number of columns as the first line"),
        (HEAD + b'HGG,"p1', "unexpected end of data"),
        (HEAD + b"HGG," + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_a_damaged_mapping_is_one_line(tmp_path, content, reason):
    patient(tmp_path, "p1")
    (tmp_path / "name_mapping.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_cohort(tmp_path, ("flair",))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/name_mapping.csv: cannot be read as a table ({reason}")
    assert message.endswith("); repair it or remove it") and message.isprintable()


@pytest.mark.parametrize("content", [b"", b"{}", b"Grade;BraTS_2019_subject_ID\nHGG;p1\n", b"\x00\x01\n"])
def test_a_name_mapping_without_its_columns_is_reported_and_grades_are_unknown(tmp_path, content):
    patient(tmp_path, "p1")
    (tmp_path / "name_mapping.csv").write_bytes(content)
    cohort = read_cohort(tmp_path, ("flair",))
    assert [one.grade for one in cohort.patients] == [None]
    assert cohort.problems == (
        f"{tmp_path}/name_mapping.csv: has no columns BraTS_2019_subject_ID and Grade; the grades are unknown",
    )


def test_an_unknown_grade_is_ignored(tmp_path):
    patient(tmp_path, "p1")
    (tmp_path / "name_mapping.csv").write_bytes(HEAD + b"IV,p1\n")
    assert [one.grade for one in read_cohort(tmp_path, ("flair",)).patients] == [None]


def test_cohorts_in_folders_of_one_name_are_told_apart(tmp_path):
    for site in ("a", "b"):
        patient(tmp_path / site / "data", f"P_{site}")
    folders = [tmp_path / site / "data" for site in ("a", "b")]
    cohort = read_cohort(folders, ("flair",))
    assert cohort.names == tuple(str(folder) for folder in folders)
    assert [one.cohort for one in cohort.patients] == list(cohort.names)
    assert read_cohort(folders[0], ("flair",)).names == ("data",)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_names_can_be_stored_in_a_card(tmp_path):
    for number, name in enumerate((b"caf\xe9", b"a\nb", b"plain")):
        place = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
        place.mkdir()
        (place / os.fsdecode(name + b"_flair.nii.gz")).write_text(str(number))
    cohort = read_cohort(tmp_path, ("flair",), "none")
    names = [patient.name for patient in cohort.patients]
    assert names == ["a\\nb", "caf\\xe9", "plain"]
    assert names == [patient.subject for patient in cohort.patients]
    for name in names:
        Text().check(name, "train")


def test_a_name_that_is_too_long_for_a_card_is_left_out_and_named(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.nii.gz").write_text(name)
    table = tmp_path / "scans.tsv"
    table.write_text(f"path\tsubject\na.nii.gz\t{'x' * 256}\nb.nii.gz\tshort\n")
    cohort = read_cohort(table, ("flair",), "none")
    assert [patient.name for patient in cohort.patients] == ["short"]
    assert cohort.problems == (f"{tmp_path}/a.nii.gz: left out, its name has 256 characters, at most 255 are possible",)
