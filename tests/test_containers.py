"""The container definitions: linted, consistent with each other and with setup.py, and built where that is possible."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from helpers import ROOT

CONTAINERS = ROOT / "examples" / "containers"
DOCKERFILE, APPTAINER = CONTAINERS / "Dockerfile", CONTAINERS / "apptainer.def"
EXTRAS = {"report", "formats", "registration"}
APP = "brainseg-tf-bids"


def instructions(file: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile as pairs of keyword and value; continued lines are joined."""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def values(keyword: str) -> list[str]:
    return [value for name, value in instructions(DOCKERFILE) if name == keyword]


def sections() -> dict[str, str]:
    """The sections of the Apptainer definition, and its header as ``header``."""
    header, *rest = re.split(r"^%(\w+)\n", APPTAINER.read_text(encoding="utf-8"), flags=re.M)
    return {"header": header} | dict(zip(rest[::2], rest[1::2], strict=True))


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    """What setup.py gives to setuptools."""
    given: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_hadolint_finds_no_fault_in_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_shellcheck_finds_no_fault_in_the_scripts_of_apptainer(name):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(shellcheck), "--shell=sh", "-"], input=sections()[name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_definition_has_a_base_and_the_sections_that_it_needs():
    parts = sections()
    assert {"files", "post", "environment", "runscript", "test", "labels", "help"} <= parts.keys()
    header = dict(re.findall(r"^(\w+): (.+)$", parts["header"], flags=re.M))
    assert header["Bootstrap"] == "docker"
    # Both images, and both stages of the Dockerfile, have the same base.
    assert {base.split(" AS ")[0] for base in values("FROM")} == {header["From"]}


def test_the_python_of_the_base_is_one_that_setup_allows(setup):
    (python,) = {re.match(r"python:(\d+\.\d+)-slim-\w+", base)[1] for base in values("FROM")}
    assert python in SpecifierSet(setup["python_requires"])


def test_both_images_install_the_same_extras(setup):
    (default,) = [value.partition("=")[2] for value in values("ARG") if value.startswith("EXTRAS=")]
    assert set(default.split(",")) == EXTRAS
    assert f"EXTRAS={default}\n" in sections()["arguments"]
    assert EXTRAS | {"gpu"} <= setup["extras_require"].keys()
    # The comments and the page name the extras of an image for GPUs.
    for file in (DOCKERFILE, APPTAINER, CONTAINERS / "README.md"):
        assert f"--build-arg EXTRAS={default},gpu" in file.read_text(encoding="utf-8"), file
    install = '/opt/brainseg-tf/bin/pip install --no-cache-dir "/source['
    assert install + '${EXTRAS}]"' in " ".join(" ".join(values("RUN")).split())
    assert install + '{{ EXTRAS }}]"' in sections()["post"]


def test_both_images_run_the_bids_app_and_not_as_root(setup):
    assert values("ENTRYPOINT") == [f'["{APP}"]']
    assert f'exec {APP} "$@"' in sections()["runscript"]
    assert "brainseg-tf doctor" in sections()["test"]
    # A number: a name would not do where --user or a policy asks for a user that is not root.
    assert [int(part) for part in values("USER")[-1].split(":")] == [1000, 1000]
    scripts = [script.partition("=")[0] for script in setup["entry_points"]["console_scripts"]]
    assert APP in scripts


def test_the_labels_are_those_of_the_package(setup):
    labels = dict(word.split("=", 1) for word in shlex.split(" ".join(values("LABEL"))))
    of_apptainer = dict(line.split(None, 1) for line in sections()["labels"].strip().splitlines())
    version = labels.pop("org.opencontainers.image.version")
    assert version == "${VERSION}"
    assert labels == {name: value.strip() for name, value in of_apptainer.items()}
    assert labels["org.opencontainers.image.title"] == setup["name"]
    assert labels["org.opencontainers.image.authors"] == setup["author"]
    assert labels["org.opencontainers.image.licenses"] == setup["license"]
    assert labels["org.opencontainers.image.description"].startswith(setup["description"])


def test_both_images_are_built_from_the_same_files():
    copied = dict(line.split() for line in sections()["files"].strip().splitlines())
    assert copied == {name: f"/source/{name}" for name in copied}
    # "!name" lets a file or a folder through; test_packaging builds a wheel from these.
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied)
    assert values("COPY")[0] == ". /source"


def program(names: dict[str, str]) -> str:
    """The first program that can build an image here.

    Args:
        names: programs, each with a subcommand that fails if the program cannot build.
    """
    for name, check in names.items():
        if shutil.which(name) and subprocess.run([name, check], capture_output=True).returncode == 0:
            return name
    pytest.skip(f"no {' or '.join(names)} that can build an image here")


@pytest.mark.exhaustive
def test_the_image_runs_offline_read_only_and_as_any_user(tmp_path):
    name = program({"docker": "info", "podman": "info"})
    run([name, "build", "--quiet", "--file", DOCKERFILE, "--tag", "brainseg-tf:test", ROOT])
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    limits = ["--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "12345:12345"]
    mounts = ["--volume", f"{ROOT / 'examples' / 'phantom'}:/data:ro", "--volume", f"{out}:/out"]
    start = [name, "run", "--rm", *limits, *mounts, "--entrypoint", "brainseg-tf", "brainseg-tf:test"]
    assert "selfseg-flair, version" in run([*start, "doctor"])
    assert "3 lesions" in run([*start, "predict", "/data/head_flair.nii.gz", "--out", "/out/mask.nii.gz"])
    assert (out / "mask.nii.gz").is_file()


@pytest.mark.exhaustive
def test_apptainer_builds_the_image_and_its_test_passes(tmp_path):
    image = tmp_path / "brainseg-tf.sif"
    name = program({"apptainer": "version"})
    run([name, "build", image, APPTAINER])
    assert "selfseg-flair, version" in run([name, "test", image])
    assert "Segment the lesions" in run([name, "exec", image, "brainseg-tf", "predict", "--help"])


def run(command: list[object]) -> str:
    """What a command writes to its standard output."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
