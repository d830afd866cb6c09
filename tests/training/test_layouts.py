import os
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.images.scan_search import NOT_READABLE
from brainseg_tf.training.cohort import read_cohort
from brainseg_tf.training.layouts import search
from helpers import somebody_else
from synthetic_dicom import write_series


def touch(folder: Path, *names: str) -> None:
    """Makes files that are not empty, since nothing opens them."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def found(place: Path, *modalities: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Subject and file names of each examination, by name."""
    return {
        one.name: (one.subject, {modality: file.name for modality, file in one.scans.items()})
        for one in search(place, modalities).candidates
    }


def test_a_bids_dataset_has_subjects_with_sessions(tmp_path):
    touch(tmp_path, "dataset_description.json", "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz")
    touch(tmp_path, "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz", "sub-02/anat/sub-02_FLAIR.nii.gz")
    touch(tmp_path, "sub-02/anat/sub-02_T2w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    assert found(tmp_path, "flair") == {
        "sub-01_ses-1": ("sub-01", {"flair": "sub-01_ses-1_FLAIR.nii.gz"}),
        "sub-01_ses-2": ("sub-01", {"flair": "sub-01_ses-2_FLAIR.nii.gz"}),
        "sub-02": ("sub-02", {"flair": "sub-02_FLAIR.nii.gz"}),
    }
    assert found(tmp_path, "t2") == {"sub-02": ("sub-02", {"t2": "sub-02_T2w.nii.gz"})}
    both = search(tmp_path, ("flair", "t2")).candidates
    assert [one.missing for one in both] == [("no t2",), ("no t2",), ()]


def test_a_folder_of_scans_is_grouped_by_name(tmp_path):
    touch(tmp_path, "a_flair.nii.gz", "a_t2.nii.gz", "b_flair_brain.nii", "c.nii.gz", "d_t1.nii.gz", "notes.txt")
    assert found(tmp_path, "flair") == {
        "a": ("a", {"flair": "a_flair.nii.gz"}),
        "b": ("b", {"flair": "b_flair_brain.nii"}),
        "c": ("c", {"flair": "c.nii.gz"}),
    }
    # With several modalities each file must name its own.
    assert found(tmp_path, "flair", "t2") == {
        "a": ("a", {"flair": "a_flair.nii.gz", "t2": "a_t2.nii.gz"}),
        "b": ("b", {"flair": "b_flair_brain.nii"}),
    }
    problems = search(tmp_path, ("flair",)).problems
    assert [line.split(": ")[1] for line in problems] == [
        f"left out, is {modality} according to its name, but the model needs flair; name it in a table of scans to use "
        "it all the same"
        for modality in ("t2", "t1")
    ]


def test_names_of_modalities_can_be_in_capitals_in_the_brats_layout(tmp_path):
    touch(tmp_path, "HGG/p/p_FLAIR.nii.gz", "HGG/p/p_T2w.nii.gz", "HGG/p/p_seg.nii.gz")
    (one,) = search(tmp_path, ("flair", "t2")).candidates
    assert {name: file.name for name, file in one.scans.items()} == {"flair": "p_FLAIR.nii.gz", "t2": "p_T2w.nii.gz"}
    assert (one.truth.name, one.missing) == ("p_seg.nii.gz", ())


def test_a_file_that_names_two_subjects_is_left_out_and_named(tmp_path):
    touch(tmp_path, "sub-01_sub-02_FLAIR.nii.gz", "sub-03_FLAIR.nii.gz")
    cohort = read_cohort(tmp_path, ("flair",), "none")
    assert [one.subject for one in cohort.patients] == ["sub-03"]
    assert cohort.problems == (
        f"{tmp_path}/sub-01_sub-02_FLAIR.nii.gz: left out, names two subjects (sub-01 and sub-02)",
    )


TABLE = """path\tsubject\tsession\tmodality\tbrain_mask\tseg\tsplit
one.nii.gz\tA\t1\tFLAIR\tmask.nii.gz\tn/a\ttrain
two.nii.gz\tA\t2\tflair\t\tlesion.nii.gz\ttrain
three.nii.gz\tB\t\tT2w\t\t\tvalidation
four.nii.gz\tB\t\tflair\t\t\tvalidation
"""


def table(folder: Path, text: str = TABLE, name: str = "scans.tsv") -> Path:
    touch(folder, "one.nii.gz", "two.nii.gz", "three.nii.gz", "four.nii.gz", "mask.nii.gz", "lesion.nii.gz")
    (folder / name).write_text(text)
    return folder / name


def test_a_table_names_subjects_masks_and_the_split(tmp_path):
    candidates = search(table(tmp_path), ("flair",)).candidates
    assert [(one.name, one.subject, one.side) for one in candidates] == [
        ("A_1", "A", "train"),
        ("A_2", "A", "train"),
        ("B", "B", "validation"),
    ]
    assert [one.brain and one.brain.name for one in candidates] == ["mask.nii.gz", None, None]
    assert [one.truth and one.truth.name for one in candidates] == [None, "lesion.nii.gz", None]
    assert found(tmp_path / "scans.tsv", "flair", "t2")["B"] == ("B", {"flair": "four.nii.gz", "t2": "three.nii.gz"})
    cohort = read_cohort(tmp_path / "scans.tsv", ("flair",), "none")
    split = cohort.demanded_split([one.name for one in cohort.patients])
    assert (split.train, split.validation, split.test) == (("A_1", "A_2"), ("B",), ())


def test_a_table_with_the_path_only_takes_the_subject_from_the_name(tmp_path):
    rows = "path\none.nii.gz\ntwo.nii.gz\n"
    assert found(table(tmp_path, rows, "scans.csv"), "flair") == {
        "one": ("one", {"flair": "one.nii.gz"}),
        "two": ("two", {"flair": "two.nii.gz"}),
    }
    # Two scans of a subject without sessions are two examinations. The first keeps its name if a row is added.
    repeated = "path,subject\none.nii.gz,A\ntwo.nii.gz,A\n"
    assert list(found(table(tmp_path, repeated, "scans.csv"), "flair")) == ["A", "A_2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject\nA\n", "has no column path; give one row per scan"),
        ("", "has no column path"),
        ("path\tsubject\none.nii.gz\n", r"cannot be read as a table of scans \(line 2 does not have the same number"),
        ('path\n"one', "cannot be read as a table of scans"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        search(table(tmp_path, text), ("flair",))
    assert str(caught.value).startswith(f"{tmp_path}/scans.tsv: ") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("gone.nii.gz\tA\t\t\t\t\t", "gone.nii.gz: no such file"),
        ("one.nii.gz\tA\t\t\tgone.nii.gz\t\t", "gone.nii.gz: no such file"),
        ("\tA\t\t\t\t\t", "the column path is empty"),
        ("one.nii.gz\tA/B\t\t\t\t\t", "the subject or session contains a /"),
        ("one.nii.gz\tA\t\t\t\t\tlearn", "split is learn, not train, validation, test"),
    ],
)
def test_a_bad_row_is_left_out_and_named(tmp_path, row, reason):
    place = table(tmp_path, TABLE.splitlines()[0] + f"\n{row}\nfour.nii.gz\tB\t\t\t\t\t\n")
    cohort = read_cohort(place, ("flair",), "none")
    assert [one.name for one in cohort.patients] == ["B"]
    (problem,) = cohort.problems
    assert problem.startswith(f"{place}, line 2: left out, ") and problem.endswith(reason)


def test_rows_with_missing_files_can_be_kept(tmp_path):
    rows = "gone.nii.gz\tA\tgone_mask.nii.gz\ngone.nii.gz\tB/C\t\n"
    place = table(tmp_path, f"path\tsubject\tbrain_mask\n{rows}")
    found = search(place, ("flair",), with_missing=True)
    assert [(one.name, one.place.name, one.brain.name) for one in found.candidates] == [
        ("A", "gone.nii.gz", "gone_mask.nii.gz")
    ]
    assert found.problems == [f"{place}, line 3: left out, the subject or session contains a /"]


def test_scans_may_share_a_mask_and_some_may_have_no_segmentation(tmp_path):
    rows = "one.nii.gz\tmask.nii.gz\tlesion.nii.gz\ntwo.nii.gz\tmask.nii.gz\t\n"
    place = table(tmp_path, f"path\tbrain_mask\tseg\n{rows}")
    assert [one.name for one in read_cohort(place, ("flair",), None).patients] == ["one"]
    both = read_cohort(place, ("flair",), None, requires_truth=False)
    assert [(one.name, one.truth is None) for one in both.patients] == [("one", False), ("two", True)]


def test_two_scans_of_one_modality_cannot_be_paired(tmp_path):
    rows = "one.nii.gz\tA\tflair\ntwo.nii.gz\tA\tflair\nthree.nii.gz\tA\tt2\n"
    place = table(tmp_path, f"path\tsubject\tmodality\n{rows}")
    with pytest.raises(InputError, match="no patient with flair, t2 in it; the first of .*A has several scans of one"):
        read_cohort(place, ("flair", "t2"), "none")


def test_a_split_must_be_complete_and_by_subject(tmp_path):
    head = "path\tsubject\tsession\tsplit\n"
    for rows, message in (
        ("one.nii.gz\tA\t\ttrain\ntwo.nii.gz\tB\t\tn/a\n", "has a column split, but B has no value in it"),
        ("one.nii.gz\tA\t1\ttrain\ntwo.nii.gz\tA\t2\tvalidation\n", "subject A is on two sides of the split"),
        ("one.nii.gz\tA\t\ttrain\ntwo.nii.gz\tB\t\ttest\n", "the column split has no validation"),
    ):
        cohort = read_cohort(table(tmp_path, head + rows), ("flair",), "none")
        with pytest.raises(InputError, match=message):
            cohort.demanded_split([one.name for one in cohort.patients])
    cohort = read_cohort(table(tmp_path, "path\none.nii.gz\n"), ("flair",), "none")
    assert cohort.demanded_split(["one"]) is None


def test_blanks_beside_a_separator_mean_nothing(tmp_path):
    rows = "path, subject, split\none.nii.gz, A, train\ntwo.nii.gz, A , train\nthree.nii.gz, B, validation\n"
    candidates = search(table(tmp_path, rows, "scans.csv"), ("flair",)).candidates
    assert [(one.subject, one.side) for one in candidates] == [("A", "train"), ("A", "train"), ("B", "validation")]


def test_what_one_row_of_an_examination_says_counts_for_all(tmp_path):
    head = "path\tsubject\tmodality\tbrain_mask\tseg\tsplit\n"
    rows = "one.nii.gz\tA\tflair\t\t\t\ntwo.nii.gz\tA\tt2\tmask.nii.gz\tlesion.nii.gz\ttrain\n"
    (one,) = search(table(tmp_path, head + rows), ("flair", "t2")).candidates
    assert (one.brain.name, one.truth.name, one.side) == ("mask.nii.gz", "lesion.nii.gz", "train")
    found = search(table(tmp_path, head + rows.replace("flair\t\t\t", "flair\t\t\ttest")), ("flair", "t2"))
    assert found.candidates == []
    assert found.problems == [f"{tmp_path}/one.nii.gz: left out, A has several splits"]


def test_scans_beside_brats_folders_are_named(tmp_path):
    touch(tmp_path, "A_flair.nii.gz", "C/C_flair.nii.gz", "name.txt", "D/flair.nii.gz", "E/notes.txt")
    touch(tmp_path, "HGG/F_flair.nii.gz", "LGG/G/G_flair.nii.gz")
    write_series(tmp_path / "LGG" / "series", np.ones((8, 8, 4)), np.eye(4))
    assert set(found(tmp_path, "flair")) == {"C", "G"}
    assert search(tmp_path, ("flair",)).problems == [
        f"{tmp_path}/{name}: left out, is not in the BraTS 2019 layout as folders beside it are; name its scans in a "
        "table of scans"
        for name in ("A_flair.nii.gz", "D", "HGG/F_flair.nii.gz", "LGG/series")
    ]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_that_cannot_be_read_does_not_hide_the_scans_beside_it(open_folder):
    """Such as lost+found."""
    touch(open_folder, "a_flair.nii.gz", "b_flair.nii.gz", "closed/x")
    (open_folder / "closed").chmod(0)
    with somebody_else(open_folder):
        result = search(open_folder, ("flair",))
    assert [one.name for one in result.candidates] == ["a", "b"]
    assert result.problems == [f"{open_folder}/closed: left out, {NOT_READABLE}"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
@pytest.mark.parametrize("closed", ["sub-02", "sub-02/ses-1", "sub-02/ses-1/anat"])
@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_bids_folder_that_cannot_be_read_is_named(open_folder, closed, mode):
    touch(open_folder, "dataset_description.json", "sub-01/anat/sub-01_FLAIR.nii.gz")
    touch(open_folder, "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz", "sub-03/anat/sub-03_FLAIR.nii.gz")
    (open_folder / closed).chmod(mode)
    search(open_folder / "sub-01", ("flair",))  # Imports a package before the user is changed.
    with somebody_else(open_folder):
        result = search(open_folder, ("flair", "t2"))
    assert [one.name for one in result.candidates] == ["sub-01", "sub-03"]
    assert result.problems == [f"{open_folder}/{closed}: left out, {NOT_READABLE}"]
    (open_folder / ".bidsignore").write_text("sub-02\n")
    with somebody_else(open_folder):
        assert search(open_folder, ("flair",)).problems == []
    (open_folder / closed).chmod(0o700)


def test_files_of_one_name_need_the_column_subject(tmp_path):
    touch(tmp_path, "A/flair.nii.gz", "B/flair.nii.gz", "A/p_flair.nii.gz", "A/p_t2.nii.gz")
    table = tmp_path / "scans.tsv"
    table.write_text("path\nA/flair.nii.gz\nB/flair.nii.gz\n")
    with pytest.raises(InputError) as caught:
        search(table, ("flair",))
    assert str(caught.value) == (
        f"{table}, line 3: {tmp_path}/B/flair.nii.gz and {tmp_path}/A/flair.nii.gz have one name; say in the column "
        "subject whether they are of one subject"
    )
    # Nothing is split in a prediction.
    assert [one.name for one in search(table, ("flair",), with_missing=True).candidates] == ["flair", "flair_2"]
    table.write_text("path\tsubject\nA/flair.nii.gz\ta\nB/flair.nii.gz\tb\n")
    assert list(found(table, "flair")) == ["a", "b"]
    touch(tmp_path, "T2/p_t2.nii.gz", "A/q_flair.nii.gz")
    for rows, expected in (
        ("path\tmodality\nA/p_flair.nii.gz\tflair\nA/p_t2.nii.gz\tt2\n", ["p"]),
        ("path\tmodality\nA/p_flair.nii.gz\tflair\nT2/p_t2.nii.gz\tt2\n", ["p"]),
        (f"path\nA/p_flair.nii.gz\n{tmp_path}/A/q_flair.nii.gz\n", ["p", "q"]),
    ):
        table.write_text(rows)
        assert list(found(table, "flair", *(("t2",) if "t2" in rows else ()))) == expected
    table.write_text("path\tsession\nA/flair.nii.gz\t1\nB/flair.nii.gz\t2\n")
    assert list(found(table, "flair")) == ["flair_1", "flair_2"]


def test_the_remedies_are_possible(tmp_path):
    """A cohort cannot be a single file."""
    touch(tmp_path, "a_flair.nii.gz", "a_label.nii.gz", "b_t2.nii.gz", "c.xyz")
    table = "; name it in a table of scans to use it all the same"
    problems = {Path(line.split(": ")[0]).name: line for line in search(tmp_path, ("flair",)).problems}
    assert problems["a_label.nii.gz"].endswith(f"is a mask according to its name{table}")
    assert problems["b_t2.nii.gz"].endswith(f"but the model needs flair{table}")
    assert problems["c.xyz"].endswith("); rename it")
    (tmp_path / "scans.tsv").write_text("path\na_label.nii.gz\nb_t2.nii.gz\n")
    assert len(search(tmp_path / "scans.tsv", ("flair",)).candidates) == 2
    with pytest.raises(InputError, match=r"a_label.nii.gz: is a file; give the folder of the patients, or a table"):
        search(tmp_path / "a_label.nii.gz", ("flair",))


def test_scans_of_patients_with_similar_names_are_not_mixed(tmp_path):
    touch(
        tmp_path, *(f"{name}_{modality}.nii.gz" for name in ("André", "Andrè", "田中") for modality in ("flair", "t2"))
    )
    assert found(tmp_path, "flair", "t2") == {
        name: (name, {modality: f"{name}_{modality}.nii.gz" for modality in ("flair", "t2")})
        for name in ("André", "Andrè", "田中")
    }
    touch(tmp_path, "田中-t2w.nii.gz")
    assert [line.split(": ")[1] for line in search(tmp_path, ("flair", "t2")).problems] == [
        "left out, is t2 of the same name as 田中-t2w.nii.gz"
    ]


def test_t2_flair_is_not_t2(tmp_path):
    touch(tmp_path, "p_T2_FLAIR.nii.gz", "p_t2.nii.gz", "q_t2_flair.nii.gz", "q_T2w.nii.gz")
    assert found(tmp_path, "flair", "t2") == {
        "p": ("p", {"flair": "p_T2_FLAIR.nii.gz", "t2": "p_t2.nii.gz"}),
        "q": ("q", {"flair": "q_t2_flair.nii.gz", "t2": "q_T2w.nii.gz"}),
    }
    assert search(tmp_path, ("flair", "t2")).problems == []
    assert list(found(tmp_path, "t2")) == ["p", "q"]


def test_the_layout_of_brats_2023(tmp_path):
    """The time points of a patient are one subject, so that they are on one side of a split."""
    names = ["BraTS-GLI-00002-000", "BraTS-GLI-00002-001", "BraTS-GLI-00003-000"]
    for name in names:
        touch(tmp_path / name, *(f"{name}-{kind}.nii.gz" for kind in ("t1n", "t1c", "t2f", "t2w", "seg")))
    assert found(tmp_path, "flair", "t2") == {
        name: (name[:15], {"flair": f"{name}-t2f.nii.gz", "t2": f"{name}-t2w.nii.gz"}) for name in names
    }
    candidates = search(tmp_path, ("flair",)).candidates
    assert [one.session for one in candidates] == ["000", "001", "000"]
    assert [one.truth and one.truth.name for one in candidates] == [f"{name}-seg.nii.gz" for name in names]
