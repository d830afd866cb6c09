"""TensorFlow's C library as an engine, compared with TensorFlow's Python package."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from brainseg_tf import c_api, resources, saved_model
from brainseg_tf.errors import InputError
from brainseg_tf.resources import Runtime, choose_engine
from helpers import FAST, ROOT, call, fails

C_API = Runtime("c-api", threads=1)
MODELS = saved_model.shipped()


def slices(channels, height=40, width=56, count=5):
    return np.random.default_rng(0).random((count, height, width, channels)).astype(np.float32)


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda one: one.card.name)
def test_each_model_gives_the_same_by_both_engines(model):
    images = slices(len(model.card.modalities))
    ours, expected = model.load(C_API).reconstruct(images), model.load().reconstruct(images)
    np.testing.assert_allclose(ours.images, expected.images, atol=1e-5)
    assert (ours.probability is None) == (expected.probability is None)
    if expected.probability is not None:
        np.testing.assert_allclose(ours.probability, expected.probability, atol=1e-5)


@pytest.mark.cpu
@pytest.mark.slow
def test_the_brain_network_gives_the_same_by_both_engines():
    network = saved_model.shipped_brain_network()
    images = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 48, 1)).astype(np.uint8)
    ours, expected = network.load(C_API).probability(images), network.load().probability(images)
    assert ours.dtype == np.uint8
    # The output is rounded.
    assert np.abs(ours.astype(int) - expected.astype(int)).max() <= 1


def test_a_trained_model_and_any_number_of_slices(trained):
    model = saved_model.find(str(trained))
    ours, expected = model.load(C_API), model.load()
    for count in (1, 16, 19):
        images = slices(1, 48, 48, count)
        np.testing.assert_allclose(ours.reconstruct(images).images, expected.reconstruct(images).images, atol=1e-6)


def test_several_threads_can_use_one_model(trained):
    network = saved_model.find(str(trained)).load(C_API)
    inputs = [slices(1, 48, 48, count) for count in (1, 2, 3, 4)]
    expected = [network.reconstruct(one).images for one in inputs]
    found: dict[int, list[np.ndarray]] = {}

    def run(number):
        found[number] = [network.reconstruct(inputs[number]).images for _ in range(10)]

    workers = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, images in enumerate(expected):
        for one in found[number]:
            np.testing.assert_allclose(one, images, atol=1e-6)


@pytest.mark.parametrize("threads", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_prediction_does_not_import_tensorflow(trained, scan, tmp_path, threads):
    words = ["predict", str(scan), "--model", str(trained), "--out", str(tmp_path / "mask.nii.gz"), *FAST]
    words += ["--engine", "c-api", *([] if threads is None else ["--threads", str(threads)])]
    code = f"import sys; from brainseg_tf_cli.main import main; main({words}, standalone_mode=False)\n"
    code += "print([name for name in ('tensorflow', 'keras') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
    assert call("predict", scan, "--model", trained, "--out", tmp_path / "other.nii.gz", *FAST).exit_code == 0
    assert (tmp_path / "mask.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


def test_the_engine_depends_on_gpu_and_import(monkeypatch):
    monkeypatch.setattr(resources, "_has_gpu", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    modules = {name: module for name, module in sys.modules.items() if name != "tensorflow"}
    monkeypatch.setattr(sys, "modules", modules)
    assert choose_engine("auto") == choose_engine("auto", "cpu") == "c-api"
    assert choose_engine("auto", "gpu") == choose_engine("auto", "gpu:1") == "tensorflow"
    assert choose_engine("tensorflow") == "tensorflow"
    monkeypatch.setattr(resources, "_has_gpu", lambda: True)
    assert (choose_engine("auto"), choose_engine("auto", "cpu")) == ("tensorflow", "c-api")
    monkeypatch.setattr(resources, "_has_gpu", lambda: False)
    monkeypatch.setattr(c_api, "_files", list)
    assert choose_engine("auto") == "tensorflow"
    modules["tensorflow"] = sys
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    assert choose_engine("auto", "cpu") == "tensorflow"


def test_what_cannot_be_run_is_one_line(trained, scan, tmp_path, monkeypatch):
    out = tmp_path / "mask.nii.gz"
    given = ("predict", scan, "--model", trained, "--out", out, "--engine", "c-api")
    message = fails(call(*given, "--device", "gpu"))
    assert message == "Error: --device gpu: the C library runs on the CPU only; give --engine tensorflow\n"
    c_api.library.cache_clear()
    monkeypatch.setattr(c_api, "_files", list)
    assert "TensorFlow's C library is not in this installation" in fails(call(*given))
    broken = tmp_path / "libtensorflow_cc.so.2"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(c_api, "_files", lambda: [broken])
    message = fails(call(*given))
    assert "cannot be loaded (" in message and message.endswith("; give --engine tensorflow\n")
    assert not out.exists()
    monkeypatch.undo()
    c_api.library.cache_clear()


def test_a_model_that_the_library_cannot_load(trained, tmp_path):
    file = tmp_path / "saved_model.pb"
    content = (saved_model.find(str(trained)).path / file.name).read_bytes()
    for damaged in (b"", b"nonsense", content[:1000]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="is not a SavedModel with the signature serving_default; export"):
            c_api.open_signature(tmp_path)
    file.write_bytes(content)  # Without its variables.
    with pytest.raises(InputError, match="C library reports: .*give --engine tensorflow"):
        c_api.open_signature(tmp_path)(slices(1, 48, 48))


def test_an_input_that_the_model_cannot_take(trained):
    run = c_api.open_signature(saved_model.find(str(trained)).path)
    with pytest.raises(InputError, match="C library reports"):
        run(slices(3, 48, 48))


def test_the_messages_are_read_as_by_protobuf():
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    for threads in (1, 3, 300):
        config = ConfigProto.FromString(c_api._config(threads))
        assert config == ConfigProto(
            device_count={"GPU": 0}, intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
        )
    assert ConfigProto.FromString(c_api._config(None)) == ConfigProto(device_count={"GPU": 0})
    for model in MODELS:
        content = (model.path / "saved_model.pb").read_bytes()
        signature = SavedModel.FromString(content).meta_graphs[0].signature_def["serving_default"]
        feed, fetches = c_api._signature(content)
        assert feed == signature.inputs["images"].name
        assert fetches == {name: info.name for name, info in signature.outputs.items()}
