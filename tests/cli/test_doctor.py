import shutil
from importlib import metadata

from brainseg_tf import installation, saved_model
from helpers import call


def test_an_intact_installation(monkeypatch):
    result = call("doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert f"brainseg-tf {metadata.version('brainseg-tf')}" in lines[0]
    assert any(line.split()[:1] == [metadata.version("tensorflow")] and "tensorflow<" in line for line in lines)
    assert "for [dask]" in lines and "for [serving]" in lines
    # The extra of an extra: the CUDA libraries of TensorFlow.
    of_gpu = lines[lines.index("for [gpu]") :]
    assert any("nvidia-cudnn" in line for line in of_gpu[: of_gpu.index("")])
    assert any(line.strip().startswith("CPU") for line in lines)
    for model in saved_model.shipped():
        digest = model.card.checksums["variables/variables.data-00000-of-00001"]
        state = "intact" if model.checks_card else "intact, exported before cards had checksums"
        assert f"  {model.card.name}, version {model.card.version}: {state} ({digest[:16]})" in lines


def test_a_damaged_model_and_a_missing_package(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "1", tmp_path / "models" / "small" / "1")
    file = tmp_path / "models" / "small" / "1" / "variables" / "variables.index"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    shutil.copytree(trained / "1", tmp_path / "models" / "edited" / "1")
    card = tmp_path / "models" / "edited" / "1" / "assets.extra" / "model_card.json"
    card.write_text(card.read_text().replace('"trim": 0', '"trim": 2'))
    shutil.copytree(trained / "1", tmp_path / "models" / "no-card" / "1")
    (tmp_path / "models" / "no-card" / "1" / "assets.extra" / "model_card.json").write_text("[]")
    shutil.copytree(trained / "1", tmp_path / "models" / "sound" / "1")
    monkeypatch.setattr(saved_model, "_home", lambda: tmp_path / "models")
    missing, old = (
        installation.Dependency("nonsense>=1", None, False),
        installation.Dependency("old>=2", "1.0", False),
    )
    monkeypatch.setattr(installation, "requirements", lambda: {"": [missing, old]})
    result = call("doctor")
    assert result.exit_code == 1
    assert "variables/variables.index: does not match the checksum in the model card" in result.stdout
    assert f"  edited, version 1: {card}: does not match the checksum in the model card" in result.stdout
    assert "  no-card, version 1: " in result.stdout and "expected an object, found a list" in result.stdout
    assert "  sound, version 1: intact (" in result.stdout
    assert "missing      nonsense>=1\n" in result.stdout
    assert "1.0          old>=2   <- another version is required" in result.stdout
    assert result.stderr == "Error: 5 problem(s), see above\n"
