"""SavedModels in other programs: TensorFlow's C++ loader, ``saved_model_cli`` and OpenVINO."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brainseg_tf import saved_model

NAMES = [model.card.name for model in saved_model.shipped()]

# This script uses only the C library in TensorFlow's wheel, and does not import TensorFlow's Python package.
LOADER = """
import ctypes, importlib.util, pathlib, sys
import numpy

package = pathlib.Path(importlib.util.find_spec("tensorflow").submodule_search_locations[0])
ctypes.CDLL(str(next(package.glob("libtensorflow_framework.so*"))))
tf = ctypes.CDLL(str(next(package.glob("libtensorflow_cc.so*"))))
pointer, size = ctypes.c_void_p, ctypes.c_size_t


class Output(ctypes.Structure):
    _fields_ = [("operation", pointer), ("index", ctypes.c_int)]


def function(name, result, *arguments):
    one = getattr(tf, name)
    one.restype, one.argtypes = result, arguments
    return one


status = function("TF_NewStatus", pointer)()


def check():
    if function("TF_GetCode", ctypes.c_int, pointer)(status):
        raise SystemExit(function("TF_Message", ctypes.c_char_p, pointer)(status).decode())


folder, file, result, feeds, *fetches = sys.argv[1:]
graph = function("TF_NewGraph", pointer)()
options = function("TF_NewSessionOptions", pointer)()
tags = (ctypes.c_char_p * 1)(b"serve")
load = function("TF_LoadSessionFromSavedModel", pointer, pointer, pointer, ctypes.c_char_p, pointer, ctypes.c_int,
                pointer, pointer, pointer)
session = load(options, None, folder.encode(), tags, 1, graph, None, status)
check()


def output(tensor):
    name, _, index = tensor.partition(":")
    operation = function("TF_GraphOperationByName", pointer, pointer, ctypes.c_char_p)(graph, name.encode())
    assert operation, tensor
    return Output(operation, int(index))


images = numpy.load(file)
shape = (ctypes.c_int64 * images.ndim)(*images.shape)
tensor = function("TF_AllocateTensor", pointer, ctypes.c_int, pointer, ctypes.c_int, size)(
    1, shape, images.ndim, images.nbytes)
data = function("TF_TensorData", pointer, pointer)
ctypes.memmove(data(tensor), images.ctypes.data, images.nbytes)
inputs, values = (Output * 1)(output(feeds)), (pointer * 1)(tensor)
outputs, answers = (Output * len(fetches))(*map(output, fetches)), (pointer * len(fetches))()
run = function("TF_SessionRun", None, pointer, pointer, pointer, pointer, ctypes.c_int, pointer, pointer, ctypes.c_int,
               pointer, ctypes.c_int, pointer, pointer)
run(session, None, inputs, values, 1, outputs, answers, len(fetches), None, 0, None, status)
check()
dimensions = function("TF_NumDims", ctypes.c_int, pointer)
dimension = function("TF_Dim", ctypes.c_int64, pointer, ctypes.c_int)
arrays = {}
for name, answer in zip(fetches, answers):
    shape = [dimension(answer, axis) for axis in range(dimensions(answer))]
    array = numpy.empty(shape, numpy.float32)
    ctypes.memmove(array.ctypes.data, data(answer), array.nbytes)
    arrays[name] = array
numpy.savez(result, **arrays)
assert not any(name.partition(".")[0] in ("tensorflow", "keras", "brainseg_tf") for name in sys.modules)
"""


def slices(card, height=48, width=56):
    shape = (3, height, width, len(card.modalities))
    return np.random.default_rng(0).random(shape).astype(np.float32)


def expected(found):
    answer = found.load().reconstruct(slices(found.card))
    return {"reconstruction": answer.images} | (
        {} if answer.probability is None else {"probability": answer.probability}
    )


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("name", NAMES)
def test_tensorflows_own_loader(name, tmp_path):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    found = saved_model.find(name)
    np.save(tmp_path / "in.npy", slices(found.card))
    graph = SavedModel.FromString((found.path / "saved_model.pb").read_bytes()).meta_graphs[0]
    signature = graph.signature_def["serving_default"]
    tensors = {key: signature.outputs[key].name for key in expected(found)}
    arguments = [found.path, tmp_path / "in.npy", tmp_path / "out.npz", signature.inputs["images"].name]
    command = [sys.executable, "-c", LOADER, *arguments, *tensors.values()]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = np.load(tmp_path / "out.npz")
    for key, values in expected(found).items():
        np.testing.assert_allclose(answer[tensors[key]], values, atol=1e-5)


def cli(*arguments):
    command = [Path(sys.executable).with_name("saved_model_cli"), *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_saved_model_cli(trained, tmp_path):
    found = saved_model.find(str(trained))
    shown = cli("show", "--dir", found.path, "--tag_set", "serve", "--all")
    for name in ("serving_default", "encode", "anomaly_score", "describe"):
        assert f"signature_def['{name}']" in shown
    assert "shape: (-1, -1, -1, 1)" in shown
    np.save(tmp_path / "in.npy", slices(found.card))
    given = ["--tag_set", "serve", "--signature_def", "serving_default", "--inputs", f"images={tmp_path / 'in.npy'}"]
    cli("run", "--dir", found.path, *given, "--outdir", tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "reconstruction.npy"), expected(found)["reconstruction"], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_openvino(name):
    """Opt in: pip install openvino."""
    openvino = pytest.importorskip("openvino")
    found = saved_model.find(name)
    # On many processors OpenVINO uses half precision by default.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.convert_model(str(found.path)), "CPU", exact)
    answer = compiled({"images": slices(found.card)})
    for key, values in expected(found).items():
        np.testing.assert_allclose(answer[key], values, atol=1e-4)
