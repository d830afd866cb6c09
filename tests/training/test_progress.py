import struct

import numpy as np
import pytest

from brainseg_tf.errors import InputError
from brainseg_tf.training import progress, runs
from brainseg_tf.training.fit import RunSettings, fit
from brainseg_tf.training.progress import Progress, duration
from helpers import small_options


def test_a_line_per_epoch_with_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines: list[str] = []
    callback = Progress(12, lines.append)
    # The first epoch takes longer, which does not count.
    for epoch, seconds in ((3, 100.0), (4, 10.0), (5, 14.0)):
        callback.on_epoch_begin(epoch)
        now[0] += seconds
        callback.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.25, "kl": 3.0})
    assert lines == [
        "epoch 4 of 12: loss 0.5000, validation loss 0.2500; 13 min left",
        "epoch 5 of 12: loss 0.5000, validation loss 0.2500; 70 s left",
        "epoch 6 of 12: loss 0.5000, validation loss 0.2500; 72 s left",
    ]


def test_durations():
    assert [duration(seconds) for seconds in (0, 89, 90, 3540, 3600, 12_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "59 min",
        "1 h 0 min",
        "3 h 20 min",
    ]


@pytest.mark.parametrize(("seconds", "drawings"), [(20, [2, 4]), (40, [1, 2, 3, 4, 5])])
def test_figures_are_drawn_again_after_half_a_minute(monkeypatch, seconds, drawings):
    now, drawn = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(5, lambda line: None, lambda: drawn.append(epoch + 1))
    for epoch in range(5):
        shown.on_epoch_begin(epoch)
        now[0] += seconds
        shown.on_epoch_end(epoch, {"loss": 1.0})
    assert drawn == drawings


@pytest.mark.slow
def test_figures_and_tensorboard_are_written_during_the_training(brats_like, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(progress, "DRAWING_INTERVAL_S", 0.0)
    seen: dict[str, bool] = {}

    def say(line: str) -> None:
        if line.startswith("epoch 2"):
            seen.update({name: (tmp_path / "run" / name).exists() for name in ("losses.png", "reconstructions.png")})

    settings = RunSettings(say=say, tensorboard=tmp_path / "board")
    fit(brats_like, tmp_path / "run", small_options(epochs=2), settings)
    assert seen == {"losses.png": True, "reconstructions.png": True}
    for side in ("train", "validation"):
        (file,) = (tmp_path / "board" / side).glob("events.out.tfevents.*")
        content = file.read_bytes()
        # A record begins with its length.
        assert struct.unpack("<Q", content[:8])[0] < len(content) and b"epoch_loss" in content


def test_without_tensorboard_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(runs, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'brainseg-tf\[tensorboard\]'"):
        runs.check_tensorboard()


@pytest.mark.slow
def test_mixed_precision_trains_to_nearly_the_same_losses(brats_like, tmp_path):
    last = {}
    for precision in ("float32", "mixed"):
        out = tmp_path / precision
        fit(brats_like, out, small_options(epochs=4, precision=precision), RunSettings(say=lambda line: None))
        last[precision] = runs.read_history(out / "history.csv")[-1]
    assert last["mixed"] != last["float32"]
    assert last["mixed"]["val_loss"] == pytest.approx(last["float32"]["val_loss"], rel=0.1)
    # The exported model is float32.
    from brainseg_tf.saved_model import find

    images = np.random.default_rng(0).random((1, 48, 48, 1), np.float32)
    found = find(str(tmp_path / "mixed"))
    assert found.load().reconstruct(images).images.dtype == np.float32
    assert found.card.training["precision"] == "mixed"
