"""What the distributions contain, and that the command works from anywhere."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

from brainseg_tf import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what the build reads, without what earlier builds left: setuptools would read that too."""
    copy = tmp_path_factory.mktemp("checkout")
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("brainseg_tf", "cli", "saved_models", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=leave_out)
    for file in (*ROOT.glob("*.*"), ROOT / "LICENSE"):
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, copy)
    return copy


@pytest.fixture(scope="module")
def wheel_file(checkout, tmp_path_factory) -> Path:
    """The wheel that is built from the checkout."""
    return build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel", "*.whl")


@pytest.fixture(scope="module")
def wheel(wheel_file) -> list[str]:
    return zipfile.ZipFile(wheel_file).namelist()


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("sdist"), "--sdist", "*.tar.gz")


def build(source: Path, out: Path, kind: str, pattern: str) -> Path:
    """The one distribution that ``python -m build`` makes of a folder."""
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob(pattern)
    return file


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


@pytest.mark.slow
def test_the_source_distribution_makes_the_same_wheel(sdist, wheel_file, tmp_path):
    with tarfile.open(sdist) as archive:
        # Python up to 3.11.3 has no filters.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(tmp_path)
    (source,) = tmp_path.iterdir()
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"} <= {
        file.name for file in source.iterdir()
    }
    # Without the modules that they import, the tests would be of no use.
    assert not (source / "tests").exists()
    assert contents(build(source, tmp_path, "--wheel", "*.whl")) == contents(wheel_file)


@pytest.mark.slow
def test_the_files_that_go_into_the_container_images_make_the_same_wheel(checkout, wheel_file, tmp_path):
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    source = tmp_path / "source"
    source.mkdir()
    # "*" keeps everything out, and "!name" lets a file or a folder in.
    assert [line for line in lines if line.startswith("*")] == ["*", "**/__pycache__"]
    for name in [line[1:] for line in lines if line.startswith("!")]:
        copy = shutil.copytree if (checkout / name).is_dir() else shutil.copy
        copy(checkout / name, source / name)
    assert contents(build(source, tmp_path, "--wheel", "*.whl")) == contents(wheel_file)


def contents(wheel: Path) -> dict[str, int]:
    """The checksum of each file of a wheel."""
    return {entry.filename: entry.CRC for entry in zipfile.ZipFile(wheel).infolist()}


@pytest.mark.slow
def test_twine_finds_no_fault(sdist, wheel_file):
    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


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
