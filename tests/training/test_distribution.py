import json
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

import two_workers
from brainseg_tf import models
from brainseg_tf.corruption import Task
from brainseg_tf.errors import InputError
from brainseg_tf.models import objective
from brainseg_tf.options import FitOptions
from brainseg_tf.training import fit as training
from brainseg_tf.training.cohort import read_cohort
from brainseg_tf.training.distribution import patients_of, steps_in_epoch
from brainseg_tf.training.fit import RunSettings, fit, read_history
from brainseg_tf.training.pipeline import CachedSlices, Part, batches, cache_slices
from brainseg_tf_cli.main import main
from helpers import small_options

EPOCHS = 3
QUIET = RunSettings(say=lambda line: None, verbose=0)


def cached(*counts: int) -> list[CachedSlices]:
    return [CachedSlices(f"p{number}", Path(f"p{number}"), 50, 40, count) for number, count in enumerate(counts)]


def test_patients_are_divided_evenly_and_none_twice():
    patients = cached(40, 10, 31, 22, 9, 30)
    parts = patients_of(patients, 3)
    assert sorted(one.patient for part in parts for one in part) == sorted(one.patient for one in patients)
    sums = [sum(one.used for one in part) for part in parts]
    # The bound of the longest-first rule relative to the optimum (Graham 1969); here the mean is near the optimum.
    assert max(sums) <= 4 / 3 * np.mean(sums)
    assert patients_of(list(reversed(patients)), 3) == parts
    with pytest.raises(InputError, match="6 training patients cannot be divided among 7 workers; use fewer workers"):
        patients_of(patients, 7)


def test_an_epoch_uses_every_slice_of_the_worker_with_most_slices():
    assert steps_in_epoch(cached(30, 21), 16) == 4
    assert steps_in_epoch(cached(30, 21), 16, workers=2) == 4
    assert steps_in_epoch(cached(33, 21), 16, workers=2) == 5


# Largest difference due to rounding, as a share of the weights' change in training. Rounding differences grow about
# tenfold per epoch: 1e-3 was observed, and 1e-4 without fused batch norm. Half the gradient would give 0.5.
ROUNDING = 0.02


def difference(one: list[np.ndarray], other: list[np.ndarray], options: FitOptions) -> float:
    """Distance between the final weights of two runs, relative to their distance from the initial weights."""
    initial = training.compiled(options, 1).get_weights()
    between, change = (
        np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(values, other, strict=True))) for values in (one, initial)
    )
    return float(between / change)


@pytest.fixture
def plain_gradient(monkeypatch) -> None:
    """Replaces Adam by gradient descent, as in ``two_workers``."""
    monkeypatch.setattr(keras.optimizers, "Adam", partial(keras.optimizers.SGD, momentum=0.9))


@pytest.fixture(scope="module")
def both(brats_like, tmp_path_factory) -> Path:
    """A run of two workers without interruption."""
    out = tmp_path_factory.mktemp("two") / "run"
    for process in two_workers.start(brats_like, out, EPOCHS):
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]
    return out


def weights(file: Path) -> list[np.ndarray]:
    with np.load(file) as arrays:
        return list(arrays.values())


@pytest.mark.slow
def test_two_workers_end_with_identical_weights(both):
    for one, other in zip(weights(Path(f"{both}-0.npz")), weights(Path(f"{both}-1.npz")), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(read_history(both / "history.csv")) == EPOCHS
    assert (both / "1" / "saved_model.pb").exists()
    assert not (both / "checkpoints-1").exists()


@pytest.mark.slow
def test_two_workers_equal_one_process_with_the_same_global_batch(both, brats_like, monkeypatch, plain_gradient):
    """The oracle uses no strategy: it joins both workers' batches, each corrupted and sampled with its own seed."""
    options = small_options(epochs=EPOCHS)
    everything = list(
        cache_slices(read_cohort(brats_like, options.modalities).patients, options.slices, both / "cache")
    )
    names = json.loads((both / "run.json").read_text())["split"]["train"]
    patients = [slices for slices in everything if slices.patient in names]
    steps = steps_in_epoch(patients, options.batch, 2)
    half = options.batch // 2
    streams = [
        batches(
            part, half, options.seed, first_epoch=0, epochs=EPOCHS, part=Part(steps * half, number, 2)
        ).as_numpy_iterator()
        for number, part in enumerate(patients_of(patients, 2))
    ]
    sample = objective._sample

    def sample_by_worker(latent, seeds):
        mean, stddev = latent.mean(), latent.stddev()
        parts = (objective.posterior(mean[part], stddev[part]) for part in (slice(half), slice(half, None)))
        return tf.concat([sample(part, seed) for part, seed in zip(parts, seeds, strict=True)], axis=0)

    monkeypatch.setattr(objective, "_sample", sample_by_worker)
    model = training.compiled(options, steps)

    @tf.function
    def step(images, seeds):
        tasks = [model.corruption(part, seed) for part, seed in zip(tf.split(images, 2), seeds, strict=True)]
        task = Task(*(tf.concat(parts, axis=0) for parts in zip(*tasks, strict=True)))
        with tf.GradientTape() as tape:
            losses = model.compute_losses(task, seeds)
        model.optimizer.apply_gradients(
            zip(tape.gradient(losses["loss"], model.trainable_variables), model.trainable_variables, strict=True)
        )
        return losses["loss"]

    history = read_history(both / "history.csv")
    for row in history:
        losses = []
        for _ in range(steps):
            (images0, seed0), (images1, seed1) = (next(stream) for stream in streams)
            assert tuple(seed0) != tuple(seed1)
            losses.append(
                float(step(tf.constant(np.concatenate([images0, images1])), [tf.constant(seed0), tf.constant(seed1)]))
            )
        assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-3)
    assert all(next(stream, None) is None for stream in streams)
    assert difference(weights(Path(f"{both}-0.npz")), model.get_weights(), options) < ROUNDING


@pytest.mark.slow
def test_a_killed_worker_ends_the_others_with_one_line_and_all_resume(both, brats_like, tmp_path):
    out = tmp_path / "run"
    survivor, victim = two_workers.start(brats_like, out, EPOCHS)
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and not (out / "history.csv").exists():
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    _, errors = survivor.communicate(timeout=60)
    assert survivor.returncode == 1
    message = errors.strip().splitlines()[-1]
    assert message.startswith("Error: another worker has stopped (")
    assert "; start all workers again with --resume" in message
    assert "Traceback" not in errors
    victim.communicate()
    assert 1 <= len(read_history(out / "history.csv")) < EPOCHS
    outputs = []
    for process in two_workers.start(brats_like, out, EPOCHS, "--resume"):
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors[-2000:]
        outputs.append(output)
    assert all("resuming after" in output for output in outputs)
    assert read_history(out / "history.csv") == read_history(both / "history.csv")
    for one, other in zip(weights(Path(f"{out}-0.npz")), weights(Path(f"{both}-1.npz")), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_mirrored_on_one_device_equals_single(brats_like, tmp_path, plain_gradient):
    final = []
    for strategy in ("single", "mirrored"):
        keras.backend.clear_session()
        options = small_options(epochs=2, batch=10)
        fit(brats_like, tmp_path / strategy, options, replace(QUIET, strategy=strategy))
        model = models.create("cvae", 1)
        model.load_weights(tmp_path / strategy / "best.weights.h5")
        final.append(model.get_weights())
    assert difference(*final, options) < ROUNDING


WORKERS = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "TF_CONFIG is not set; set it for --strategy multi-worker"),
        ("{", "TF_CONFIG: is not JSON of the expected form"),
        ("[]", "TF_CONFIG: is not JSON of the expected form"),
        (json.dumps(WORKERS), "TF_CONFIG: has no 'task'"),
        (json.dumps(WORKERS | {"task": {"type": "worker", "index": 2}}), "not among the cluster's workers"),
        (json.dumps(WORKERS | {"task": {"type": "ps", "index": 0}}), "not among the cluster's workers"),
    ],
)
def test_a_bad_tf_config_gives_a_message_of_one_line(brats_like, tmp_path, monkeypatch, config, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    command = ["fit", str(brats_like), "--out", str(tmp_path / "run"), "--strategy", "multi-worker"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
