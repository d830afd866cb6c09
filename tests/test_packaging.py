"""What a wheel carries, and that the command works from anywhere."""

import re
import subprocess
import sys
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

from brainseg_tf import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file).namelist()


def test_every_module_is_in_the_wheel(wheel):
    places = {"brainseg_tf": "brainseg_tf", "cli": "brainseg_tf_cli", "saved_models": "brainseg_tf_saved_models"}
    for folder, package in places.items():
        for file in (ROOT / folder).rglob("*.py"):
            assert f"{package}/{file.relative_to(ROOT / folder).as_posix()}" in wheel
    assert not [name for name in wheel if name.startswith(("tests/", "examples/", "cli/"))]
    # Type checkers use the annotations of an installed package only if this file says so.
    assert "brainseg_tf/py.typed" in wheel


def test_the_metadata_says_who_wrote_it_and_what_it_is_for():
    about = metadata("brainseg-tf")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert about["Author"] == citation["authors"][0]["name"]
    assert (about.get("License-Expression") or about.get("License")) == citation["license"]
    assert "Typing :: Typed" in about.get_all("Classifier")


def test_every_model_file_is_in_the_wheel(wheel):
    models = [
        file for file in (ROOT / "saved_models").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")
    ]
    assert len(models) > 12
    for file in models:
        assert f"brainseg_tf_saved_models/{file.relative_to(ROOT / 'saved_models').as_posix()}" in wheel


def test_there_is_one_version_number():
    assert version("brainseg-tf") == __version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\S+)\]", changes, re.MULTILINE)[0] == __version__
    assert __version__ not in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["/", str(ROOT)])
def test_the_command_finds_its_models_from_anywhere(place):
    command = [str(Path(sys.executable).with_name("brainseg-tf")), "models"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=place)
    assert [line.split(",")[0] for line in done.stdout.splitlines() if ", version" in line] == [
        "cvae",
        "dae",
        "dcvae",
        "selfseg-flair",
        "selfseg-flair-t2",
        "selfseg-t2",
        "brain",
    ]
