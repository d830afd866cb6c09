"""The workflows of public CI and of releases: valid, with pinned actions and no more permissions than they need."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from helpers import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(name: str) -> dict[str, Any]:
    # YAML reads the key "on" as true.
    content = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in content.items()}


def check(schema: str, *files: object) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflows_follow_the_schema_of_github():
    assert [file.stem for file in WORKFLOWS] == ["release", "tests"]
    check("vendor.github-workflows", *WORKFLOWS)


def test_the_citation_follows_its_schema():
    check("vendor.citation-file-format", ROOT / "CITATION.cff")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_action_is_pinned_to_a_commit(file):
    uses = re.findall(r"uses: (\S+)(.*)", file.read_text(encoding="utf-8"))
    assert uses
    for action, comment in uses:
        local = action.startswith("./")
        assert local or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert local or re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


def test_the_tests_run_with_every_python_that_setup_allows():
    matrix = read("tests")["jobs"]["tests"]["strategy"]["matrix"]
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    (allowed,) = re.findall(r'python_requires="(.+)"', setup)
    pythons = [f"3.{minor}" for minor in range(8, 20)]
    assert matrix["python"] == [python for python in pythons if python in SpecifierSet(allowed)]
    assert matrix["python"] == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', setup)
    assert {system.split("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    assert set(matrix["onednn"]) == {0, 1}


def test_only_a_tag_publishes():
    assert read("release")["on"] == {"push": {"tags": ["v*"]}}
    assert "pull_request" in read("tests")["on"]
    jobs = read("release")["jobs"]
    publishing = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert publishing == ["publish"]
    assert jobs["publish"]["environment"] == "pypi"
    assert set(jobs["publish"]["needs"]) == {"tests", "build"}


def test_no_workflow_may_write_to_the_repository():
    for name in ("tests", "release"):
        workflow = read(name)
        permissions = [workflow["permissions"], *(job.get("permissions", {}) for job in workflow["jobs"].values())]
        for one in permissions:
            assert one.items() <= {"contents": "read", "id-token": "write"}.items()
