import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.architectures import fine_tuning_recipe, recipe_of
from brainseg_tf.errors import InputError
from brainseg_tf.reconstruction import Reconstruction
from brainseg_tf.saved_model import find
from brainseg_tf.training import runs
from brainseg_tf.training.distribution import steps_in_epoch
from brainseg_tf.training.fit import RunSettings, _train_part, compiled, fit
from brainseg_tf.training.pipeline import CachedSlices
from brainseg_tf.training.screening import (
    LeftOut,
    abnormal_slices,
    find_abnormal,
    read_rounds,
    unlike_others,
    write_rounds,
)
from helpers import make_brain, save, small_options


class Reports:
    """A reconstructor whose lesion probability is the image itself."""

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        return Reconstruction(images, images[..., 0])


def slices_with_spots() -> tuple[np.ndarray, np.ndarray]:
    """Eight slices with a brain of 784 pixels; the spots of the slices 2, 4 and 6 have 4, 16 and 100 pixels."""
    images, brain = np.zeros((8, 32, 32, 1), np.float32), np.zeros((8, 32, 32), bool)
    brain[:, 2:30, 2:30] = True
    images[brain] = 0.2
    for row, edge in ((2, 2), (4, 4), (6, 10)):
        images[row, 5 : 5 + edge, 5 : 5 + edge] = 0.9
    return images, brain


def test_a_slice_is_abnormal_if_enough_of_it_is_more_likely_a_lesion_than_not():
    images, brain = slices_with_spots()
    found = abnormal_slices(images, brain, Reports().reconstruct(images), "probability")
    # The median over 3 x 3 pixels removes the spot of 4 pixels; 0.5 % of the brain are 4 pixels.
    assert np.flatnonzero(found).tolist() == [4, 6]
    assert not abnormal_slices(images[:1], brain[:1] & False, Reports().reconstruct(images[:1]), "probability").any()


def test_the_residual_of_a_slice_is_compared_with_that_of_the_others():
    random = np.random.default_rng(0)
    images, brain = slices_with_spots()
    images[brain] += random.uniform(0, 0.1, brain.sum())[:, None].astype(np.float32)
    healthy = np.where(brain[..., None], np.float32(0.2), 0)
    found = abnormal_slices(images, brain, Reconstruction(healthy), "positive")
    # Only the spot of 100 pixels is more than three times 1.5 % of the brain.
    assert np.flatnonzero(found).tolist() == [6]


def cached(folder: Path, name: str, images: np.ndarray) -> CachedSlices:
    np.save(folder / f"{name}.npy", images)
    return CachedSlices(name, folder / f"{name}.npy", len(images), len(images), len(images))


def test_only_the_columns_of_the_training_are_looked_at(tmp_path):
    images = np.zeros((2, 64, 64, 1), np.float32)
    images[:, 16:48, 4:60] = 0.5
    images[0, 20:30, 28:36] = 1.0
    images[1, 20:30, 4:10] = 1.0
    one = [cached(tmp_path, "a", images)]
    assert find_abnormal(one, Reports(), "probability", 5).rows == {"a": (0, 1)}
    assert find_abnormal(one, Reports(), "probability", 5, columns=40).rows == {"a": (0,)}


def test_what_is_flagged_is_recorded_and_left_out(tmp_path):
    images, _ = slices_with_spots()
    some = [cached(tmp_path, "a", images), cached(tmp_path, "b", images[:2]), cached(tmp_path, "c", images[[4, 6]])]
    found = find_abnormal(some, Reports(), "probability", 5)
    assert found == LeftOut(5, {"a": (4, 6), "c": (0, 1)})
    remaining = found.apply(some)
    # Nothing remains of c.
    assert [(one.patient, one.rows.tolist()) for one in remaining] == [("a", [0, 1, 2, 3, 5, 7]), ("b", [0, 1])]
    # A later round looks at the slices again that an earlier one left out.
    assert find_abnormal(remaining, Reports(), "probability", 7).rows["a"] == (4, 6)
    write_rounds(tmp_path, [found])
    assert read_rounds(tmp_path) == [found]
    # Thousands of scans must fit into a file that is read back, so neighbours are written as ranges.
    many = LeftOut(7, {"a": tuple(range(3, 90)), "b": (0, 2, 3, 9)})
    write_rounds(tmp_path, [found, many])
    assert read_rounds(tmp_path) == [found, many]
    assert json.loads((tmp_path / "left_out.json").read_text())["rounds"][1]["rows"] == {"a": "3-89", "b": "0,2-3,9"}
    for damaged in ('{"epochs": -1, "rows": {}}', '{"epochs": 1, "rows": {"a": "1-x"}}'):
        (tmp_path / "left_out.json").write_text(f'{{"rounds": [{damaged}]}}')
        with pytest.raises(InputError, match="is not the record of slices that are left out"):
            read_rounds(tmp_path)


def test_a_scan_of_another_contrast_is_named(tmp_path):
    random = np.random.default_rng(0)

    def scan(name: str, fluid: float) -> CachedSlices:
        images = random.normal(0.3, 0.03, (20, 16, 16, 1)).astype(np.float32)
        images[:, :4] = fluid
        images[:, :, 14:] = 0
        return cached(tmp_path, name, images)

    flair = [scan(f"p{number}", 0.1) for number in range(5)]
    assert unlike_others(flair) == []
    lines = unlike_others([*flair, scan("other", 1.0)])
    assert lines == [
        "other: its intensities are unlike those of the other scans (95% quantile 1.00, others 0.34); check that it "
        "has the same contrast"
    ]
    # A scan with lesions in all slices has none to compare.
    empty = cached(tmp_path, "empty", np.zeros((0, 16, 16, 1), np.float32))
    assert unlike_others([*flair, empty]) == []
    # With a few scans, nobody knows which one is the other.
    assert unlike_others([*flair[:3], scan("other", 1.0)]) == []


def healthy_archive(folder: Path, count: int = 5) -> Path:
    """Scans without segmentations; one of them has a lesion."""
    for number in range(count):
        scan, _ = make_brain(number, lesion=number == 2)
        save(scan.astype(np.int16), folder / f"sub-{number:02}_FLAIR.nii.gz")
    return folder


OPTIONS = small_options(labels="none", rounds=2, epochs=9, patience=9)


def train(data: Path, out: Path, say, **more) -> Path:
    return fit(data, out, OPTIONS, RunSettings(say=say, verbose=0, **more))


@pytest.mark.slow
def test_an_interrupted_run_leaves_out_the_same_slices(tmp_path):
    data = healthy_archive(tmp_path / "data")
    lines: list[str] = []
    train(data, tmp_path / "whole", lines.append)
    assert [line.split(":")[0] for line in lines if "left out" in line] == ["after 3 epochs", "after 6 epochs"]

    def interrupt(line: str) -> None:
        if line.startswith("after 6 epochs"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts", interrupt)
    train(data, tmp_path / "parts", lambda line: None, resume=True)
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    assert read_rounds(whole) == read_rounds(parts) and len(read_rounds(whole)) == 2
    assert (whole / "history.csv").read_bytes() == (parts / "history.csv").read_bytes()
    # The losses before the last part were measured on other slices, so the best epoch is not among them.
    card = json.loads((whole / "1/assets.extra/model_card.json").read_text())
    assert card["losses"]["epoch"] > 6
    assert (card["training"]["labels"], card["training"]["rounds"]) == ("none", 2)
    assert "assumed lesion-free" in (whole / "1/assets.extra/model_card.md").read_text()
    # The parts of another number of epochs would begin elsewhere.
    with pytest.raises(
        InputError, match="so it cannot be changed; give --epochs 9, or fine-tune the model with --from"
    ):
        fit(data, whole, replace(OPTIONS, epochs=12), RunSettings(say=lines.append, resume=True))
    # A finished run is recognised.
    train(data, whole, lines.append, resume=True)
    assert "there is nothing to do" in lines[-1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": (0, 1)}, "2 of 4 slices (50%) are left out as abnormal, in 1 of 2 scans"),
        (
            {"a": (0, 1), "b": (1,)},
            "3 of 4 slices (75%) are left out as abnormal, in 2 of 2 scans; if you know that the scans have no "
            "lesions, --rounds 0 uses all slices",
        ),
    ],
)
def test_the_user_is_told_how_much_is_left_out(rows, said):
    cached = [CachedSlices(name, Path(f"{name}.npy"), 5, 4, 2) for name in ("a", "b")]
    assert LeftOut(3, rows).describe(cached) == f"after 3 epochs: {said}"


@pytest.mark.parametrize("rows", [{"a": range(12)}, {"a": range(12), "b": [0]}, {"a": range(5)}, {}])
def test_a_part_has_all_steps_whatever_is_left_out(tmp_path, rows):
    """With all slices of a patient left out, and with some."""
    images = np.zeros((12, 48, 48, 1), np.float32)
    images[:, 8:40, 8:40] = 0.3
    some = [cached(tmp_path, name, images) for name in ("a", "b")]
    options = small_options(labels="none", rounds=1, epochs=5)
    steps = steps_in_epoch(some, options.batch)
    model = compiled(options, steps)
    used = LeftOut(3, {name: tuple(flagged) for name, flagged in rows.items()}).apply(some)
    _train_part(model, [], {"training": used, "validation": some[1:]}, range(3, 5), steps, options, None, RunSettings())
    assert int(model.optimizer.iterations) == 2 * steps == 6


def test_the_parts_of_a_training():
    assert OPTIONS.round_starts == (0, 3, 6) and OPTIONS.counted_from == 6
    assert replace(OPTIONS, rounds=0).round_starts == (0,)
    assert replace(OPTIONS, labels="slices").round_starts == (0,)
    assert replace(OPTIONS, epochs=2).round_starts == (0, 1)
    rows = [{"epoch": n, "val_loss": loss} for n, loss in ((1, 0.1), (2, 0.5), (3, 0.4), (4, 0.6))]
    history = runs.History(rows, counted_from=1)
    assert history.best == rows[2] and not history.exhausted(2) and history.exhausted(1)
    assert runs.History(rows[:1], counted_from=3).best is None and not runs.History(rows[:1], 3).exhausted(1)


@pytest.mark.slow
def test_a_model_that_is_fine_tuned_looks_for_abnormal_slices_first(trained, tmp_path):
    found = find(str(trained))
    recipe = replace(fine_tuning_recipe(found.card), initial=found.identity, labels="none", epochs=2, examples=16)
    settings = RunSettings(initial=found, say=lambda line: None)
    data = healthy_archive(tmp_path / "data")
    with pytest.raises(ValueError, match="must be the identity"):
        fit(data, tmp_path / "run", recipe, RunSettings(say=lambda line: None))
    fit(data, tmp_path / "run", recipe, settings)
    assert [one.epochs for one in read_rounds(tmp_path / "run")] == [0, 1]
    # The network knows the lesion before it is trained on these scans.
    assert read_rounds(tmp_path / "run")[0].rows["sub-02"]
    tuned = find(str(tmp_path / "run"))
    assert tuned.card.training["initial"] == found.identity and found.identity.startswith("small/1 ")
    assert tuned.card.data.healthy < tuned.card.data.chosen
    # The scans of the first training are in the network too.
    assert tuned.card.terms.endswith(f"started from small 1, whose terms apply too: {found.card.terms}")
    # A fine-tuned model's recipe starts from random weights, so that it can be cross-validated.
    assert recipe_of(tuned.card).initial == "random weights"
