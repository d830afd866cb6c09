"""The smoke run of the benchmarks: it has every benchmark, and a broken one makes it fail."""

import sys

import numpy as np
import pytest

from brainseg_tf import c_api, saved_model
from helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def smoke(monkeypatch, tmp_path):
    """The module, with one benchmark ``broken`` only, whose code a test writes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(tmp_path))
    import smoke

    monkeypatch.setattr(smoke, "CASES", {"broken": smoke.Case(lambda data: [["--scan", data.scan]])})
    yield smoke
    for name in ("broken", "smoke", "predict"):
        sys.modules.pop(name, None)


def test_each_benchmark_is_run(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import smoke

    # ``inference`` is a part of ``engines``.
    assert set(smoke.CASES) == {file.stem for file in BENCHMARKS.glob("*.py")} - {"smoke", "inference"}
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert [one for one in smoke.LEFT_OUT if f"`{one}`" not in text] == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ImportError('a package is missing')", "a package is missing"),
        ("def main():\n    print('| a |')\n    raise KeyError('probability')", "KeyError: 'probability'"),
        ("def main():\n    raise SystemExit('give --heads')", "give --heads"),
        ("def main():\n    pass", "broken.py printed no table"),
        ("import sys\ndef main():\n    print(sys.argv[1:])", ""),
    ],
)
def test_a_broken_benchmark_is_a_failure(smoke, tmp_path, code, message):
    (tmp_path / "broken.py").write_text(code)
    _, problem = smoke.attempt("broken", tmp_path)
    assert message in problem and bool(message) == bool(problem)
    if "KeyError" in code:
        # What it had printed is shown.
        assert problem.startswith("| a |")


def test_the_exit_code(smoke, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smoke.py"])
    monkeypatch.setattr(smoke, "results", lambda names, folder: [("data", 1.0, ""), ("broken", 2.0, "Traceback")])
    assert smoke.main() == 1
    out = capsys.readouterr().out
    assert "FAILED\nTraceback\n" in out and out.endswith("1 failed: broken\n")
    monkeypatch.setattr(smoke, "results", lambda names, folder: [("data", 1.0, ""), ("broken", 2.0, "")])
    assert smoke.main() == 0
    monkeypatch.setattr(sys, "argv", ["smoke.py", "another"])
    with pytest.raises(SystemExit, match="no such benchmark: another; choose from broken"):
        smoke.main()


@pytest.mark.slow
@pytest.mark.parametrize("fold", [False, True])
def test_constants_give_what_variables_give(trained, tmp_path, monkeypatch, fold):
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import inference

    path = saved_model.find(str(trained)).path
    loaded = tf.saved_model.load(str(path))
    inference.save_constant(loaded.signatures["serving_default"], tmp_path / "1", fold=fold)
    saved = SavedModel.FromString((tmp_path / "1" / "saved_model.pb").read_bytes())
    kinds = {node.op for node in saved.meta_graphs[0].graph_def.node}
    assert ("FusedBatchNormV3" in kinds) != fold and "VarHandleOp" not in kinds and "Conv2D" in kinds
    images = np.random.default_rng(0).random((3, 48, 40, 1)).astype(np.float32)
    ours, expected = (c_api.open_signature(folder)(images) for folder in (tmp_path / "1", path))
    assert set(ours) == set(expected) == {"reconstruction", "residual"}
    for name, values in expected.items():
        np.testing.assert_allclose(ours[name], values, atol=1e-5)
