import csv
import shutil

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf import saved_model
from helpers import AFFINE, call, fails, make_brain, rows, save
from synthetic_dicom import write_series


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    for name in ("a_T1w", "b_FLAIR"):
        save(make_brain(1)[0], folder / f"{name}.nii.gz")
    (folder / "c.nii.gz").write_bytes(b"nonsense")
    return folder


def test_one_scan(scans, tmp_path):
    out = tmp_path / "brain.nii.gz"
    scan = scans / "a_T1w.nii.gz"
    result = call("brain", scan, "--out", out, "--brain", "stripped")
    assert (result.exit_code, result.stderr) == (0, "")
    expected = nib.load(scan).get_fdata() > 0
    ml = expected.sum() * 84 / 1000
    assert result.stdout == f"{out}: {ml:.0f} ml of brain (stripped)\n"
    mask = nib.load(out)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.get_fdata(), expected)
    np.testing.assert_array_equal(mask.affine, nib.load(scan).affine)
    assert "--overwrite" in fails(call("brain", scan, "--out", out, "--brain", "stripped"))
    assert call("brain", scan, "--out", out, "--overwrite").exit_code == 0


def table_of(out):
    with (out / "brain.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_several_scans_and_a_bad_one(scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    result = call("brain", scans, "--out-dir", out)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: 1 of 3 scans failed"
    masks = {"a_T1w_brain.nii.gz", "b_FLAIR_brain.nii.gz"}
    assert {file.name for file in out.iterdir()} == {*masks, "brain.csv", ".brain.csv.lock"}
    table = {row["scan"].rsplit("/", 1)[-1]: row for row in table_of(out)}
    assert table["c.nii.gz"]["status"] == "failed" and "is not a readable NIfTI file" in table["c.nii.gz"]["error"]
    assert table["a_T1w.nii.gz"]["status"] == "done"
    assert float(table["a_T1w.nii.gz"]["brain_ml"]) == pytest.approx(1094.4, abs=0.1)
    again = call("brain", scans, "--out-dir", out)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    # Another run into the same folder keeps the rows of the masks that are there.
    other = save(make_brain(2)[0], scans.parent / "d.nii.gz")
    assert call("brain", other, "--out-dir", out).exit_code == 0
    statuses = {row["scan"].rsplit("/", 1)[-1]: row["status"] for row in table_of(out)}
    expected = {"a_T1w.nii.gz": "done", "b_FLAIR.nii.gz": "done", "c.nii.gz": "failed", "d.nii.gz": "done"}
    assert statuses == expected
    # Neither does a scan that is typed in another way.
    monkeypatch.chdir(scans)
    for more, codes in (((), 1), (("--overwrite",), 0)):
        assert call("brain", "a_T1w.nii.gz", "--out-dir", out, *more).exit_code == codes
        rows_now = [(row["scan"].rsplit("/", 1)[-1], row["status"]) for row in table_of(out)]
        assert sorted(rows_now) == sorted(expected.items())
    # A row that an editor has shortened or lengthened is read as far as possible.
    text = (out / "brain.csv").read_text().splitlines()
    (out / "brain.csv").write_text("\n".join([*text, "/x/e.nii.gz,failed", "/x/f.nii.gz,failed,,,,,,,,", ""]))
    assert call("brain", other, "--out-dir", out, "--overwrite").exit_code == 0
    assert len(table_of(out)) == 6 and "None" not in (out / "brain.csv").read_text()
    (out / "brain.csv").write_text("scan,age\nx,40\n")
    assert "brain.csv: is not a table of brain masks; move it" in fails(call("brain", other, "--out-dir", out))
    (out / "brain.csv").unlink()
    assert call("brain", scans, "--out-dir", out, "--overwrite").exit_code == 1  # The bad one again.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --out FILE for one scan, or --out-dir FOLDER for several"),
        (("--out", "x.nii.gz", "--out-dir", "y"), "give --out FILE for one scan, or --out-dir FOLDER for several"),
        (("--out", "m.nii", "--brain", "stripped", "--model", "x"), "--model does not go with --brain stripped"),
        (("--out-dir", "y", "--brain", "nonsense"), "give auto, stripped, network, hd-bet, synthstrip, deepbet"),
    ],
)
def test_wrong_usage(scans, arguments, message):
    result = call("brain", scans / "a_T1w.nii.gz", *arguments)
    assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")


def test_bad_input_leaves_no_file(scans, tmp_path):
    out = tmp_path / "m.nii.gz"
    assert "is not a readable NIfTI file" in fails(call("brain", scans / "c.nii.gz", "--out", out))
    assert "must end in .nii or .nii.gz" in fails(call("brain", scans / "a_T1w.nii.gz", "--out", tmp_path / "m.png"))
    same = scans / "a_T1w.nii.gz"
    assert "is the scan itself" in fails(call("brain", same, "--out", same, "--overwrite"))
    assert sorted(tmp_path.iterdir()) == [scans]


def test_the_columns_of_predicts_table(scans, trained, tmp_path):
    out = tmp_path / "out"
    call("predict", scans / "b_FLAIR.nii.gz", "--out-dir", out, "--model", trained, "--brain", "stripped")
    (row,) = rows(out)
    assert row["brain_source"] == "stripped" and float(row["brain_ml"]) == pytest.approx(1094.4, abs=0.1)


def test_another_brain_network(scans, trained, tmp_path, monkeypatch):
    """A copy of the shipped network in a folder of its own."""
    shipped = saved_model.shipped_brain_network().path
    mine = shutil.copytree(shipped, tmp_path / "mine" / "1")
    used = []
    load = saved_model.BrainModelFolder.load
    monkeypatch.setattr(
        saved_model.BrainModelFolder, "load", lambda self, *more: (used.append(self.path), load(self, *more))[1]
    )
    # A folder with the network's name does not matter.
    (tmp_path / "brain").mkdir()
    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "first.nii.gz", tmp_path / "second.nii.gz"
    for out, *more in ((first,), (second, "--model", tmp_path / "mine")):
        result = call("brain", scans / "b_FLAIR.nii.gz", "--out", out, "--brain", "network", *more)
        assert result.exit_code == 0, result.output
    assert used == [shipped, mine]
    np.testing.assert_array_equal(nib.load(first).get_fdata(), nib.load(second).get_fdata())
    other = call("brain", scans / "b_FLAIR.nii.gz", "--out", tmp_path / "m.nii.gz", "--model", trained)
    assert "finds lesions and not the brain; give brain, or the folder of a run of fit --model brain" in fails(other)
    assert not (tmp_path / "m.nii.gz").exists()


def test_a_series_in_the_current_folder_has_its_name(tmp_path, monkeypatch):
    series = tmp_path / "patient 7"
    write_series(series, make_brain(2)[0].astype(np.int16), AFFINE)
    (series / "more").mkdir()
    monkeypatch.chdir(series / "more")
    result = call("brain", "..", "--out-dir", "../../out", "--brain", "stripped")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "patient 7_brain.nii.gz").is_file()


def test_a_bids_dataset(tmp_path):
    root, out = tmp_path / "bids", tmp_path / "out"
    for name in ("FLAIR", "T1w", "acq-x_T2w", "PDw"):
        save(make_brain(1)[0], root / "sub-01" / "anat" / f"sub-01_{name}.nii.gz")
    (root / "dataset_description.json").write_text("{}")
    result = call("brain", root, "--out-dir", out, "--brain", "stripped")
    assert result.exit_code == 0, result.output
    assert {str(file.relative_to(out)) for file in out.rglob("*")} == {
        *("dataset_description.json", ".bidsignore", "brain.csv", ".brain.csv.lock", "sub-01", "sub-01/anat"),
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-01_desc-brainT1w_mask.nii.gz",
        "sub-01/anat/sub-01_acq-x_desc-brainT2w_mask.nii.gz",
    }
    assert [row["status"] for row in table_of(out)] == ["done"] * 3
    assert call("brain", root, "--out-dir", out, "--brain", "stripped", "--overwrite").exit_code == 0
    for file in (root / "sub-01" / "anat").glob("*"):
        file.unlink()
    message = "no sub-*/anat/*_FLAIR.nii.gz or *_T1w.nii.gz or *_T2w.nii.gz in this BIDS dataset"
    assert message in fails(call("brain", root, "--out-dir", out))
