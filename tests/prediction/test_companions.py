from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.images.scan_search import members
from brainseg_tf.prediction import companions as companions_module
from brainseg_tf.prediction.batch import plan_batch
from brainseg_tf.prediction.companions import Companions
from helpers import FAST, call, make_brain, rows, save


def touch(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def planned(place: Path, out: Path, **companions) -> dict[str, dict[str, str]]:
    """The further files of each job by the name of its mask, relative to the folder of the scan or the mask."""
    batch = plan_batch([place], out, companions=Companions(**companions))
    assert batch.failed == []
    found = {}
    for job in batch.jobs:
        files = {**job.modalities, "brain": job.brain, "truth": job.truth}
        near = {name: str(file.relative_to(job.scan.parent)) for name, file in files.items() if file}
        maps = {
            name: str(job.outputs.named[name].relative_to(job.outputs.mask.parent))
            for name in companions.get("outputs", {})
        }
        found[job.outputs.mask.name] = near | maps
    return found


def test_further_modalities_are_found_by_name(tmp_path, monkeypatch):
    touch(tmp_path / "s", "a_flair.nii.gz", "a_t2.nii.gz", "b_flair.nii.gz", "b_t2.nii")
    assert planned(tmp_path / "s", tmp_path / "out", needed=("t2",)) == {
        "a_flair_mask.nii.gz": {"t2": "a_t2.nii.gz"},
        "b_flair_mask.nii.gz": {"t2": "b_t2.nii"},
    }
    # The usual name first, then any other name of the modality.
    touch(tmp_path / "t", "a_FLAIR.nii.gz", "a_T2.nii.gz", "b_flair.nii.gz", "b_T2w.nii", "b_t2.nii", "b_x_t2.nii.gz")
    touch(tmp_path / "t", "c-flair.nii.gz", "c-t2w.nii.gz", "d_T2_FLAIR.nii.gz", "d_T2_.nii.gz")
    touch(tmp_path / "t", "e_flair.nii.gz", "e_T2_ADC.nii.gz", "e_DWI_T2.nii.gz", "e_T2w.nii.gz")
    calls = []

    def counted(folder):
        calls.append(folder)
        return members(folder)

    monkeypatch.setattr(companions_module, "members", counted)
    assert planned(tmp_path / "t", tmp_path / "out", needed=("t2",)) == {
        "a_FLAIR_mask.nii.gz": {"t2": "a_T2.nii.gz"},
        "b_flair_mask.nii.gz": {"t2": "b_t2.nii"},
        "c-flair_mask.nii.gz": {"t2": "c-t2w.nii.gz"},
        "d_T2_FLAIR_mask.nii.gz": {"t2": "d_T2_.nii.gz"},
        "e_flair_mask.nii.gz": {"t2": "e_T2w.nii.gz"},
    }
    assert len(calls) == 1  # There can be thousands of scans in a folder.
    # They are inputs, so no line says that they were left out.
    batch = plan_batch([tmp_path / "s"], tmp_path / "out", companions=Companions(("t2",)))
    assert batch.left_out == []
    assert len(plan_batch([tmp_path / "s"], tmp_path / "out").left_out) == 2


def test_a_scan_is_not_its_own_companion_and_two_companions_are_refused(tmp_path):
    touch(tmp_path / "s", "a_T1_FLAIR.nii.gz", "b_flair.nii.gz", "b_T1w.nii.gz", "b_T1.nii.gz")
    batch = plan_batch([tmp_path / "s"], tmp_path / "out", companions=Companions(("t1",)))
    assert batch.jobs == []
    assert {one.job.scan.name: one.error.rpartition(": ")[2] for one in batch.failed} == {
        "a_T1_FLAIR.nii.gz": "no such file; add it, or name it with a pattern or a table of scans",
        "b_flair.nii.gz": "has b_T1.nii.gz and b_T1w.nii.gz for t1; name one with a pattern or a table of scans",
    }


def test_patterns_name_everything(tmp_path):
    touch(tmp_path / "s", "a_flair.nii.gz", "more/a-t2.nii.gz", "a_bm.nii.gz", "truth/a.nii.gz")
    patterns = {
        "needed": ("t2",),
        "modalities": {"t2": "more/{name}-t2.nii.gz"},
        "brain": "{name}_bm.nii.gz",
        "truth": "truth/{name}.nii.gz",
        "outputs": {"probability": "maps/{name}_p.nii.gz", "residual": "{name}_r.nii.gz"},
    }
    assert planned(tmp_path / "s" / "a_flair.nii.gz", tmp_path / "out", **patterns) == {
        "a_flair_mask.nii.gz": {
            "t2": "more/a-t2.nii.gz",
            "brain": "a_bm.nii.gz",
            "truth": "truth/a.nii.gz",
            "probability": "maps/a_p.nii.gz",
            "residual": "a_r.nii.gz",
        }
    }
    assert (tmp_path / "out" / "maps").is_dir()


def test_bids_pairs_by_entities(tmp_path):
    root = tmp_path / "bids"
    touch(root, "dataset_description.json")
    for name in ("sub-1/ses-1/anat/sub-1_ses-1", "sub-1/ses-2/anat/sub-1_ses-2"):
        touch(root, f"{name}_FLAIR.nii.gz", f"{name}_T2w.nii.gz")
    assert planned(root, tmp_path / "out", needed=("t2",)) == {
        f"sub-1_ses-{n}_label-lesion_mask.nii.gz": {"t2": f"sub-1_ses-{n}_T2w.nii.gz"} for n in (1, 2)
    }


def test_a_table_names_scans_masks_and_outputs(tmp_path):
    touch(tmp_path, "x1.nii.gz", "x2.nii.gz", "x3.nii.gz", "brain.nii.gz", "lesions.nii.gz")
    table = tmp_path / "scans.tsv"
    table.write_text(
        "path\tsubject\tmodality\tbrain_mask\tseg\n"
        "x1.nii.gz\tA\tFLAIR\tbrain.nii.gz\tlesions.nii.gz\n"
        "x2.nii.gz\tA\tT2w\t\t\n"
        "x3.nii.gz\tB\tT2w\t\t\n"
        "x1.nii.gz\tC/D\tFLAIR\t\t\n"
        "x1.nii.gz\tE/F\tFLAIR\t\t\n"
    )
    batch = plan_batch([table], tmp_path / "out", companions=Companions(("t2",)))
    (job,) = batch.jobs
    assert (job.outputs.mask.name, job.scan.name) == ("A_mask.nii.gz", "x1.nii.gz")
    assert {name: file.name for name, file in job.modalities.items()} == {"t2": "x2.nii.gz"}
    assert (job.brain.name, job.truth.name) == ("brain.nii.gz", "lesions.nii.gz")
    assert [(file.name, reason) for file, reason in batch.left_out] == [
        ("scans.tsv, line 5", "the subject or session contains a /"),
        ("scans.tsv, line 6", "the subject or session contains a /"),
        ("x3.nii.gz", "has no flair for B"),
    ]


@pytest.mark.slow
def test_a_row_of_a_table_without_its_file_is_a_failed_scan(trained, scan, tmp_path):
    named = [f"{scan.name}\t", "gone1.nii.gz\t", "gone2.nii.gz\t", "other.nii.gz\tgone_mask.nii.gz", "\t", "\t"]
    save(make_brain(1)[0], tmp_path / "other.nii.gz")
    (tmp_path / "scans.tsv").write_text("\n".join(["path\tbrain_mask", *named, ""]))
    out = tmp_path / "out"
    command = ("predict", tmp_path / "scans.tsv", "--out-dir", out, "--model", trained, *FAST)
    result = call(*command)
    assert result.exit_code == 1, result.output
    assert {row["scan"].removeprefix(f"{tmp_path}/"): (row["status"], row["error"]) for row in rows(out)} == {
        scan.name: ("done", ""),
        "gone1.nii.gz": ("failed", f"{tmp_path}/gone1.nii.gz: no such file; check the path"),
        "gone2.nii.gz": ("failed", f"{tmp_path}/gone2.nii.gz: no such file; check the path"),
        "other.nii.gz": ("failed", f"{tmp_path}/gone_mask.nii.gz: no such file; check the path"),
        "scans.tsv, line 6": ("left out", "the column path is empty"),
        "scans.tsv, line 7": ("left out", "the column path is empty"),
    }
    assert result.stderr.splitlines()[-1] == "Error: 3 of 4 scans failed"
    assert sorted(file.name for file in out.glob("*_mask.nii.gz")) == [f"{scan.name.split('.')[0]}_mask.nii.gz"]
    # Once the files are there, --continue segments their scans.
    for name in ("gone1", "gone2", "gone_mask"):
        save(make_brain(1)[0] if name != "gone_mask" else make_brain(1)[0] > 0, tmp_path / f"{name}.nii.gz")
    assert call(*command, "--continue").exit_code == 0
    assert [row["status"] for row in rows(out)].count("done") == 3


def test_two_scans_never_share_an_output(tmp_path):
    touch(tmp_path / "s", "a_flair.nii.gz", "a_flair_brain.nii.gz")
    maps = Companions(outputs={"probability": "{name}_p.nii.gz"})
    with pytest.raises(InputError, match=r"a_p\.nii\.gz: is the output of two scans; rename one of them"):
        plan_batch([tmp_path / "s"], tmp_path / "out", companions=maps)
    # Nor do two whose names are one on some file systems.
    touch(tmp_path, "x/P1_flair.nii.gz", "y/p1_flair.nii.gz")
    with pytest.raises(InputError, match=r"p1_flair_mask\.nii\.gz: is the mask of two scans; rename one of them"):
        plan_batch([tmp_path / "x", tmp_path / "y"], tmp_path / "out")
    # The scans of a table can have one file name; their outputs have the names of the subjects.
    touch(tmp_path, "1/flair.nii.gz", "2/flair.nii.gz")
    (tmp_path / "scans.tsv").write_text("path\tsubject\n1/flair.nii.gz\tA\n2/flair.nii.gz\tB\n")
    batch = plan_batch([tmp_path / "scans.tsv"], tmp_path / "out", companions=maps)
    assert [job.outputs.probability.name for job in batch.jobs] == ["A_p.nii.gz", "B_p.nii.gz"]


def test_a_scan_without_its_companion_fails_and_the_others_do_not(tmp_path):
    touch(tmp_path / "s", "a_flair.nii.gz", "a_t2.nii.gz", "b_flair.nii.gz")
    batch = plan_batch([tmp_path / "s"], tmp_path / "out", companions=Companions(("t2",)))
    assert [job.scan.name for job in batch.jobs] == ["a_flair.nii.gz"]
    (failed,) = batch.failed
    assert failed.error == (
        f"{tmp_path}/s/b_flair.nii.gz: {tmp_path}/s/b_t2.nii.gz: no such file; add it, or name it with a pattern or a "
        "table of scans"
    )


def test_a_companion_that_cannot_be_looked_for_fails_its_scan_only(tmp_path):
    long = "y" * 243
    touch(tmp_path / "s", "a_flair.nii.gz", f"{long}.nii.gz", "truth/a_t.nii")
    batch = plan_batch([tmp_path / "s"], tmp_path / "out", companions=Companions(truth="truth/{name}_t.nii"))
    (failed,) = batch.failed
    assert (failed.job.scan.name, failed.refused) == (f"{long}.nii.gz", False)
    assert "no such file" in failed.error
    batch = plan_batch([tmp_path / "s"], tmp_path / "out", companions=Companions(truth="truth/{name}_the_truth.nii"))
    assert {one.job.scan.name[0]: one.error.rpartition(": ")[2] for one in batch.failed} == {
        "a": "no such file; add it, or name it with a pattern or a table of scans",
        "y": "cannot be opened (File name too long); check the path",
    }


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(2):
        flair, truth = make_brain(number)
        save(flair, folder / f"p{number}_flair.nii.gz")
        save(flair * 0.8, folder / f"p{number}_t2.nii.gz")
        save(truth, folder / f"p{number}_seg.nii.gz")
    return folder


@pytest.mark.slow
def test_the_model_for_flair_and_t2_runs_on_a_cohort(pairs, tmp_path):
    out, maps = tmp_path / "out", ("--truth", "{name}_seg.nii.gz", "--save-probability", "{name}_probability.nii.gz")
    command = ("predict", pairs, "--out-dir", out, "--model", "selfseg-flair-t2", "--brain", "stripped", *maps)
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert result.stderr == "" and result.stdout.count("Dice") == 2
    for number in range(2):
        single = tmp_path / f"{number}.nii.gz"
        scan = pairs / f"p{number}_flair.nii.gz"
        modality = f"t2={pairs}/p{number}_t2.nii.gz"
        more = ("--modality", modality, "--model", "selfseg-flair-t2", "--brain", "stripped")
        assert call("predict", scan, "--out", single, *more).exit_code == 0
        assert (out / f"p{number}_flair_mask.nii.gz").read_bytes() == single.read_bytes()
        probability = np.asarray(nib.load(out / f"p{number}_probability.nii.gz").dataobj)
        assert probability.shape == nib.load(scan).shape and 0 <= probability.min() <= probability.max() <= 1
    assert len(rows(out)) == 2
    again = call(*command, "--continue")
    assert again.exit_code == 0 and len(rows(out)) == 2
