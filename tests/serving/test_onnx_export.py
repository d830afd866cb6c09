"""Networks as ONNX files, run with onnxruntime."""

import json
from importlib import util

import numpy as np
import pytest

from brainseg_tf import saved_model
from brainseg_tf.serving import onnx_export
from helpers import call, fails

NAMES = ["brain", "cvae", "dae", "dcvae", "selfseg-flair", "selfseg-flair-t2", "selfseg-t2"]
needs_onnx = pytest.mark.skipif(
    not all(map(util.find_spec, ("tf2onnx", "onnxruntime"))), reason="needs pip install 'brainseg-tf[onnx]'"
)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_network_gives_the_outputs_of_the_savedmodel(name, tmp_path):
    import onnx
    import onnxruntime

    result = call("export", name, "--to", tmp_path / "o", "--format", "onnx")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    file = tmp_path / "o" / f"{name}.onnx"
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    onnx.checker.check_model(str(file), full_check=True)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = saved_model.find_any(name)
    metadata = session.get_modelmeta().custom_metadata_map
    assert (metadata["name"], metadata["version"]) == (name, str(found.card.version))
    assert json.loads(metadata["modalities"]) == list(found.card.modalities)
    (images,) = session.get_inputs()
    assert images.name == "images"
    random = np.random.default_rng(1)
    if name == "brain":
        assert (images.type, images.shape) == ("tensor(uint8)", ["N", "x", "y", "z", 1])
        assert json.loads(metadata["grid"])["voxel_mm"] == found.card.grid.voxel_mm
        head = random.integers(0, 256, (1, 33, 40, 29, 1), np.uint8)
        (brain,) = session.run(["brain"], {"images": head})
        assert brain.shape == head.shape[:-1]
        assert np.abs(brain.astype(int) - found.load().probability(head)).max() <= 1
        return
    channels = len(found.card.modalities)
    assert (images.type, images.shape) == ("tensor(float)", ["N", "H", "W", channels])
    assert json.loads(metadata["slices"])["size"] == found.card.slices.size
    assert json.loads(metadata["healthy_levels"]) == found.card.healthy_levels
    model = found.load()
    for size in ((128, 128), (61, 100)):
        slices = random.random((3, *size, channels), np.float32)
        outputs = [output.name for output in session.get_outputs()]
        answer = dict(zip(outputs, session.run(outputs, {"images": slices}), strict=True))
        expected = model.reconstruct(slices)
        np.testing.assert_allclose(answer["reconstruction"], expected.images, atol=1e-4)
        np.testing.assert_allclose(answer["residual"], slices - expected.images, atol=1e-4)
        assert ("probability" in answer) == (expected.probability is not None)
        if expected.probability is not None:
            np.testing.assert_allclose(answer["probability"], expected.probability, atol=1e-4)


def _with_other_weights(network):
    import onnx

    weights = next(one for one in network.graph.initializer if len(one.dims) == 4)
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.1, weights.name))


def _with_another_axis(network):
    """As tf2onnx's pass ``reshape_optimizer`` did in few exports: the values are right."""
    import onnx

    (output,) = (one for one in network.graph.output if one.name == "residual")
    (node,) = (one for one in network.graph.node if "residual" in one.output)
    node.output[:] = ["before"]
    network.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    network.graph.node.append(onnx.helper.make_node("Unsqueeze", ["before", "first"], ["residual"]))
    output.type.tensor_type.shape.dim.add()


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        (_with_other_weights, "of the ONNX network differs from that of the SavedModel by "),
        (_with_another_axis, "output residual of the ONNX network has the shape (1, 2, 128, 128, 1), that of the Save"),
    ],
)
def test_a_network_that_differs_is_refused(mistake, expected, tmp_path, monkeypatch):
    convert = onnx_export._convert

    def wrong(serve):
        network = convert(serve)
        mistake(network)
        return network

    monkeypatch.setattr(onnx_export, "_convert", wrong)
    assert expected in fails(call("export", "dae", "--to", tmp_path, "--format", "onnx"))
    assert list(tmp_path.iterdir()) == []


@needs_onnx
def test_an_existing_file_is_refused(tmp_path):
    (tmp_path / "dae.onnx").write_text("mine")
    assert "dae.onnx: exists already; remove it" in fails(call("export", "dae", "--to", tmp_path, "--format", "onnx"))
    assert (tmp_path / "dae.onnx").read_text() == "mine"


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = fails(call("export", "dae", "--to", tmp_path / "o", "--format", "onnx"))
    assert "ONNX needs tf2onnx; pip install 'brainseg-tf[onnx]'" in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path):
    assert "'torch' is not one of" in fails(call("export", "dae", "--to", tmp_path, "--format", "torch"), 2)
