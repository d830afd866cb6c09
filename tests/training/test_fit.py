import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf import models, saved_model
from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.segmentation import segment
from brainseg_tf.slices import onto_stack, to_stack
from brainseg_tf.training import fit as training
from brainseg_tf.training import runs
from brainseg_tf.training.cohort import Split, read_cohort
from brainseg_tf.training.fit import RunSettings, compiled, fit, read_history
from brainseg_tf.training.run_state import RunState
from helpers import make_brain, save, small_options

SHORT = small_options(epochs=4)


def run(data: Path, out: Path, options: object = SHORT, **more: object) -> tuple[Path, list[str]]:
    lines: list[str] = []
    exported = fit(data, out, options, RunSettings(say=lines.append, verbose=0, **more))
    return exported, lines


def unfinished(trained: Path, out: Path) -> None:
    """A copy of a run whose export was interrupted."""
    shutil.copytree(trained, out)
    shutil.rmtree(out / "1")


def weights(folder: Path) -> list[np.ndarray]:
    model = models.create("cvae", 1)
    model.load_weights(folder / "best.weights.h5")
    return model.get_weights()


def test_the_loss_decreases_and_all_its_terms_are_logged(trained):
    history = read_history(trained / "history.csv")
    assert len(history) == 40
    for term in ("loss", "kl", "reconstruction", "context"):
        assert {term, f"val_{term}"} <= set(history[0])
    for term in ("loss", "reconstruction", "context", "val_loss", "val_context"):
        assert history[-1][term] < 0.5 * history[0][term]


def test_a_synthetic_lesion_of_an_unseen_patient_is_found(trained, tmp_path):
    data, truth = make_brain(101)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    expected = read_mask(save(truth, tmp_path / "truth.nii"), scan)
    found = saved_model.find(str(trained))
    result = segment([scan], found.load(), found.card, SegmentationOptions(median=(1, 3, 3)))
    assert dice(result.mask, expected) > 0.7


def test_the_files_of_a_run(trained, brats_like):
    for name in ("history.csv", "losses.png", "reconstructions.png", "run.json", "best.weights.h5", "1/saved_model.pb"):
        assert (trained / name).stat().st_size > 0
    card = saved_model.find(str(trained)).card
    assert card.modalities == ("flair",)
    assert card.data.patients == 8
    names = [*card.data.train, *card.data.validation, *card.data.test]
    assert sorted(names) == sorted(folder.name for folder in brats_like.glob("?GG/*"))
    assert card.training["seed"] == 0
    assert set(card.healthy_levels) == {"absolute", "positive", "weighted", "input"}
    best = min(read_history(trained / "history.csv"), key=lambda row: row["val_loss"])
    assert card.losses == pytest.approx(best)
    assert card.versions["tensorflow"]
    text = (trained / "1/assets.extra/model_card.md").read_text()
    assert "Not a medical device" in text
    assert json.loads((trained / "run.json").read_text())["split"]["test"] == list(card.data.test)


@pytest.fixture(scope="module")
def uninterrupted(brats_like, tmp_path_factory) -> Path:
    """A run of eight epochs without interruption."""
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(brats_like, out, small_options(epochs=8))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_two_runs_are_equal_only_with_the_same_seed(uninterrupted, brats_like, tmp_path, seed):
    run(brats_like, tmp_path / "run", small_options(epochs=8, seed=seed))
    first, second = weights(uninterrupted), weights(tmp_path / "run")
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True)) == (seed == 0)
    histories = [read_history(folder / "history.csv") for folder in (uninterrupted, tmp_path / "run")]
    assert (histories[0] == histories[1]) == (seed == 0)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(uninterrupted, brats_like, tmp_path):
    options = small_options(epochs=8)
    script = (
        "import sys; sys.path.insert(0, sys.argv[3]); from helpers import small_options; from pathlib import Path;"
        "from brainseg_tf.training.fit import RunSettings, fit;"
        "fit(Path(sys.argv[1]), Path(sys.argv[2]), small_options(epochs=8), RunSettings(verbose=0))"
    )
    command = [sys.executable, "-c", script, str(brats_like), str(tmp_path / "killed"), str(Path(__file__).parents[1])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = tmp_path / "killed" / "history.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (history.exists() and len(history.read_text().splitlines()) > 2):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(history.read_text().splitlines()) - 1
    assert 2 <= done < 8
    _, lines = run(brats_like, tmp_path / "killed", options, resume=True)
    resumed = [line for line in lines if line.startswith("resuming after")]
    assert int(resumed[0].split()[2]) >= done - 1
    for one, other in zip(weights(tmp_path / "killed"), weights(uninterrupted), strict=True):
        np.testing.assert_array_equal(one, other)
    assert read_history(history) == read_history(uninterrupted / "history.csv")


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best(brats_like, tmp_path):
    # With such a high learning rate the loss soon stops decreasing.
    exported, _ = run(brats_like, tmp_path / "run", small_options(epochs=60, patience=2, learning_rate=0.3))
    history = read_history(tmp_path / "run/history.csv")
    best = min(range(len(history)), key=lambda k: history[k]["val_loss"])
    assert len(history) == best + 3 < 60
    assert saved_model.find(str(exported)).card.losses["epoch"] == best + 1


def test_a_training_without_a_finite_loss_says_so(tmp_path):
    """No weights are written then, so the message must not be about a missing file."""
    model = compiled(SHORT, 10)
    state = RunState(tmp_path, model, 3)
    for loss in (float("nan"), float("inf"), 1.7e21):  # The last one is no number that a card can have.
        state.history.rows = [{"epoch": 1, "loss": loss, "val_loss": loss}]
        with pytest.raises(InputError, match="no epoch has finite losses; start a new run with a lower"):
            state.load_best(model)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["dcvae", "dae"])
def test_the_other_architectures_train_with_two_modalities(brats_like, tmp_path, architecture):
    slices = replace(SHORT.slices, size=32)
    options = replace(SHORT, architecture=architecture, modalities=("flair", "t2"), epochs=1, slices=slices)
    exported, _ = run(brats_like, tmp_path / "run", options)
    found = saved_model.find(str(exported))
    assert found.card.modalities == ("flair", "t2")
    images = np.zeros((2, 40, 44, 2), np.float32)
    assert found.load().reconstruct(images).images.shape == images.shape


@pytest.mark.slow
def test_a_network_learns_from_segmentations(brats_like, tmp_path):
    recipe = ARCHITECTURES["selfseg"].recipe
    options = small_options(
        labels="voxels", architecture="selfseg", epochs=8, corruption=recipe.corruption, objective=recipe.objective
    )
    exported, lines = run(brats_like, tmp_path / "run", options)
    assert any(line.endswith("of them used") for line in lines)
    found = saved_model.find(str(exported))
    assert found.card.data.healthy == found.card.data.chosen
    assert "with and without lesions" in (exported / "assets.extra/model_card.md").read_text()
    data, truth = make_brain(101)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    stack = to_stack([scan], scan.data > 0, found.card.slices)
    probability = found.load().reconstruct(stack.images).probability
    lesion = onto_stack(read_mask(save(truth, tmp_path / "truth.nii"), scan), scan, stack) > 0.5
    assert np.median(probability[lesion]) > 0.5 > np.quantile(probability[stack.brain & ~lesion], 0.9)


def test_segmentations_without_a_healthy_slice_for_validation_are_refused(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    (first, *rest) = read_cohort(folder, ("flair",)).patients
    flair = nib.load(first.scans["flair"])
    # A lesion from the top to the bottom, which fills less than half of a pixel.
    lesion = np.zeros(flair.shape, np.uint8)
    lesion[20:22, 22] = flair.get_fdata()[20:22, 22] > 0
    nib.save(nib.Nifti1Image(lesion, flair.affine), first.truth)
    split = Split(tuple(one.name for one in rest), (first.name,), ())
    options = small_options(labels="voxels", architecture="selfseg", epochs=1)
    with pytest.raises(InputError, match="every slice for validation shows a lesion, so the healthy threshold cannot"):
        run(folder, tmp_path / "run", options, split=split)
    with pytest.raises(InputError, match="no slice for validation; lower --min-brain"):
        run(folder, tmp_path / "run2", small_options(epochs=1), split=split)


@pytest.mark.slow
def test_a_validation_patient_that_cannot_be_read_is_left_out(brats_like, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(brats_like, folder)
    names = [one.name for one in read_cohort(folder, ("flair",)).patients]
    scan = next(folder.rglob(f"{names[0]}_flair.nii.gz"))
    scan.write_bytes(scan.read_bytes()[:2000])
    with pytest.raises(InputError, match="no patient for validation can be read; see the lines above"):
        run(folder, tmp_path / "none", replace(SHORT, epochs=1), split=Split(tuple(names[1:]), (names[0],), ()))
    exported, lines = run(
        folder, tmp_path / "run", replace(SHORT, epochs=1), split=Split(tuple(names[2:]), tuple(names[:2]), ())
    )
    assert any(line.startswith(f"{names[0]}: left out") for line in lines)
    assert "measuring the healthy threshold on 1 validation scans" in lines
    assert 0 < saved_model.find(str(exported)).card.healthy_levels["input"] < 1


def test_a_network_without_a_lesion_probability_does_not_learn_from_segmentations(brats_like, tmp_path):
    with pytest.raises(InputError, match="labels: voxels needs a network with a lesion probability, not cvae"):
        run(brats_like, tmp_path / "run", replace(SHORT, labels="voxels"))
    assert not (tmp_path / "run").exists()


def test_runs_are_neither_overwritten_nor_mixed(brats_like, trained, tmp_path):
    with pytest.raises(InputError, match="contains a training run already; give --resume"):
        run(brats_like, trained, small_options())
    with pytest.raises(InputError, match="contains no training run to resume"):
        run(brats_like, tmp_path / "new", resume=True)
    with pytest.raises(InputError, match=r"was started with batch 8, not 4; give the same options"):
        run(brats_like, trained, small_options(batch=4), resume=True)


def test_a_run_is_not_resumed_with_another_version(brats_like, trained, tmp_path):
    unfinished(trained, tmp_path / "run")
    file = tmp_path / "run/run.json"
    record = json.loads(file.read_text())
    record["versions"]["brainseg-tf"] = "0.1.0"
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"was started with brainseg-tf 0\.1\.0, .* install 0\.1\.0 to continue"):
        run(brats_like, tmp_path / "run", small_options(), resume=True)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_split(brats_like, trained, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(brats_like, data)
    unfinished(trained, out)
    split = json.loads((out / "run.json").read_text())["split"]
    flair, truth = make_brain(50)
    save(flair, data / "HGG/BraTS19_LATE_1/BraTS19_LATE_1_flair.nii.gz")
    save(truth, data / "HGG/BraTS19_LATE_1/BraTS19_LATE_1_seg.nii.gz")
    exported, lines = run(data, out, small_options(), resume=True)
    assert lines[0].startswith("9 patients")
    card = saved_model.find(str(exported)).card
    assert {side: list(getattr(card.data, side)) for side in split} == split


def test_a_diverged_network_is_not_exported(brats_like, trained, tmp_path, monkeypatch):
    out = tmp_path / "run"
    unfinished(trained, out)
    monkeypatch.setattr(training, "healthy_levels", lambda *given: {"input": 0.5, "weighted": 210.6})
    with pytest.raises(InputError) as caught:
        run(brats_like, out, small_options(), resume=True)
    assert str(caught.value) == (
        f"{out}: the residual in healthy tissue is 211 times the range of the input, so the training diverged; start a "
        "new run with a lower --learning-rate and another --out"
    )
    assert not (out / "1").exists()


def test_a_resumed_run_names_a_scan_that_is_gone(brats_like, trained, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(brats_like, data)
    unfinished(trained, out)
    name = json.loads((out / "run.json").read_text())["split"]["train"][0]
    next(data.glob(f"*/{name}/*_flair.nii.gz")).unlink()
    with pytest.raises(InputError, match=f"was started with 5 scans for training, of which {name} cannot be read"):
        run(data, out, small_options(), resume=True)
    assert not (out / "1").exists()


def test_resuming_a_finished_run_does_nothing(brats_like, trained):
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*") if file.is_file()}
    exported, lines = run(brats_like, trained, small_options(), resume=True)
    assert exported == trained / "1"
    assert lines == [runs.nothing_to_do(trained, small_options())]
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_an_interrupted_export_is_repeated_and_its_steps_are_announced(brats_like, trained, tmp_path):
    unfinished(trained, tmp_path / "run")
    before = (trained / "history.csv").read_text()
    exported, lines = run(brats_like, tmp_path / "run", small_options(), resume=True)
    assert lines[-4:] == [
        "resuming after 40 epochs",
        "drawing losses.png and reconstructions.png",
        "measuring the healthy threshold on 1 validation scans",
        f"exporting the model as {tmp_path}/run/1",
    ]
    assert (tmp_path / "run" / "history.csv").read_text() == before
    saved_model.find(str(exported)).check()
    again, before = (saved_model.find(str(folder)).card for folder in (exported, trained))
    assert again.healthy_levels == pytest.approx(before.healthy_levels)
    assert again.losses == before.losses


@pytest.mark.slow
def test_a_run_is_lengthened(brats_like, trained, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    before = read_history(out / "history.csv")
    rates, compiled_models = [], []
    restore, on_epoch_end = training.RunState.restore, training.RunState.on_epoch_end

    def recording_restore(self):
        done = restore(self)
        # ``compiled`` returns a new model; here it has the state of the resumed run.
        rates.append(float(compiled_models[0].optimizer.learning_rate))
        return done

    def recording_epoch_end(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        rates.append(float(self.model.optimizer.learning_rate))

    compiled = training.compiled
    monkeypatch.setattr(
        training, "compiled", lambda *given: compiled_models.append(compiled(*given)) or compiled_models[0]
    )
    monkeypatch.setattr(training.RunState, "restore", recording_restore)
    monkeypatch.setattr(training.RunState, "on_epoch_end", recording_epoch_end)
    exported, lines = run(brats_like, out, small_options(epochs=42), resume=True)
    assert (
        "the run continues to 42 epochs instead of 40; the learning rate now follows the cosine schedule of 42 epochs"
    ) in lines
    assert read_history(out / "history.csv")[:40] == before
    assert len(read_history(out / "history.csv")) == 42
    # A half cosine from 100 % to 1 % of the initial learning rate, after 40, 41 and 42 of 42 epochs.
    expected = [0.003 * (0.01 + 0.99 * (1 + np.cos(np.pi * done / 42)) / 2) for done in (40, 41, 42)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    record = json.loads((out / "run.json").read_text())
    assert (record["options"]["epochs"], record["lengthened_from"]) == (42, [40])
    card = saved_model.find(str(exported)).card
    best = min(read_history(out / "history.csv"), key=lambda row: row["val_loss"])
    assert (card.training["epochs"], card.losses["epoch"]) == (42, best["epoch"])
    with pytest.raises(InputError, match="has 42 finished epochs, more than 41; give --epochs 42 or more"):
        run(brats_like, out, small_options(epochs=41), resume=True)
    with pytest.raises(InputError, match="was started with batch 8, not 4"):
        run(brats_like, out, small_options(epochs=50, batch=4), resume=True)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replace_losses_by_nan(file: Path) -> None:
    rows = "".join(f"{epoch},nan,nan\n" for epoch in range(1, 41))
    file.write_text(f"epoch,loss,val_loss\n{rows}")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("best.weights.h5", truncate, r"best\.weights\.h5: cannot be read as weights; restore it .* or start"),
        ("best.weights.h5", Path.unlink, r"best\.weights\.h5: cannot be read as weights; restore it from a copy"),
        ("checkpoints/*.data-*", truncate, r"checkpoints: the checkpoint ckpt-40 is damaged; restore it from a copy"),
        ("checkpoints/*.index", truncate, r"checkpoints: the checkpoint ckpt-40 is damaged; restore it from a copy"),
        ("checkpoints/checkpoint", lambda file: file.write_bytes(b"\xff\xfe"), r"checkpoints/checkpoint: is damaged"),
        ("checkpoints/checkpoint", Path.unlink, r"checkpoints: no checkpoint found, but .* 40 epochs; restore it from"),
        ("history.csv", Path.unlink, r"history\.csv: has 0 epochs, but the checkpoint has 40; restore it from a copy"),
        ("history.csv", replace_losses_by_nan, "no epoch has finite losses; start a new run with a lower"),
    ],
)
def test_a_damaged_file_of_a_run_is_one_line(brats_like, trained, tmp_path, name, damage, message):
    out = tmp_path / "run"
    unfinished(trained, out)
    for file in out.glob(name):
        damage(file)
    with pytest.raises(InputError, match=message) as caught:
        run(brats_like, out, small_options(), resume=True)
    assert str(caught.value).startswith(str(out)) and str(caught.value).isprintable()
    assert not (out / "1").exists()
