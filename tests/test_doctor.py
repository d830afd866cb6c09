import shutil
from importlib import metadata

from test_cli import call

from brainseg_tf import installation, saved_model


def test_a_sound_installation(monkeypatch):
    result = call("doctor")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert f"brainseg-tf {metadata.version('brainseg-tf')}" in lines[0]
    assert any(line.split()[:1] == [metadata.version("tensorflow")] and "tensorflow<" in line for line in lines)
    assert "for [dask]" in lines and "for [serving]" in lines
    assert any(line.strip().startswith("CPU") for line in lines)
    for model in saved_model.shipped():
        digest = model.card.checksums["variables/variables.data-00000-of-00001"]
        assert f"  {model.card.name}, version {model.card.version}: whole ({digest[:16]})" in lines


def test_a_damaged_model_and_a_missing_package(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "1", tmp_path / "models" / "small" / "1")
    file = tmp_path / "models" / "small" / "1" / "variables" / "variables.index"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    monkeypatch.setattr(saved_model, "_home", lambda: tmp_path / "models")
    needed = {"": [installation.Needed("nonsense>=1", None, False), installation.Needed("old>=2", "1.0", False)]}
    monkeypatch.setattr(installation, "requirements", lambda: needed)
    result = call("doctor")
    assert result.exit_code == 1
    assert "small, version 1: " in result.stdout
    assert "variables/variables.index: is not the file that the model card was written for" in result.stdout
    assert "missing      nonsense>=1\n" in result.stdout
    assert "1.0          old>=2   <- another version is needed" in result.stdout
    assert result.stderr == "Error: 3 problem(s), see above\n"
