import json
import shlex
import sys
import time

import nibabel as nib
import numpy as np
import psutil
import pytest

from brainseg_tf.brain import tools
from helpers import AFFINE, FAST, call, fails, make_brain, save

# A replacement for a skull-stripping tool: the brain mask is every voxel above 200.
TOOL = """
import sys, nibabel as nib, numpy as np
scan, mask = sys.argv[1:3]
image = nib.load(scan)
assert scan.endswith((".nii", ".nii.gz"))
brain = (image.get_fdata() > 200).astype(np.uint8)
kind = sys.argv[3] if len(sys.argv) > 3 else "good"
if kind == "fails":
    sys.exit("first line\\nno GPU found")
if kind == "empty":
    brain[:] = 0
if kind == "elsewhere":
    image.affine[0, 3] += 7
if kind != "nothing":
    nib.save(nib.Nifti1Image(brain, image.affine), mask)
"""


@pytest.fixture
def head(tmp_path):
    """A scan with scalp and noise around the brain."""
    data, _ = make_brain(101)
    random = np.random.default_rng(0)
    return save(
        np.where(data > 0, data, random.uniform(5, 60, data.shape)).astype(np.float32), tmp_path / "head.nii.gz"
    )


@pytest.fixture
def tool(tmp_path):
    (tmp_path / "tool.py").write_text(TOOL)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(tmp_path / 'tool.py'))} {{scan}} {{mask}}"


def test_the_mask_of_the_users_tool_is_used_and_saved(head, tool, trained, tmp_path):
    kept = tmp_path / "m_brain.nii.gz"
    outputs = ("--out", tmp_path / "m.nii.gz", "--save-brain-mask", kept, "--report", tmp_path / "m.json")
    result = call("predict", head, *outputs, "--model", trained, "--brain", tool, *FAST)
    assert json.loads((tmp_path / "m.json").read_text())["brain"]["source"] == "tool"
    assert (result.exit_code, result.stderr) == (0, "")
    kept, mask = nib.load(kept), nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(kept.get_fdata(), nib.load(head).get_fdata() > 200)
    np.testing.assert_array_equal(kept.affine, mask.affine)
    assert mask.get_fdata().sum() > 100
    # Giving the same mask with --brain-mask gives the same result.
    other = tmp_path / "other.nii.gz"
    call("predict", head, "--out", other, "--model", trained, "--brain-mask", tmp_path / "m_brain.nii.gz", *FAST)
    np.testing.assert_array_equal(nib.load(other).get_fdata(), mask.get_fdata())


def test_a_scan_of_another_format_is_converted_for_the_tool(tool, trained, tmp_path):
    nib.save(nib.MGHImage(make_brain(101)[0], AFFINE), tmp_path / "scan.mgz")
    result = call(
        "predict",
        tmp_path / "scan.mgz",
        "--out-dir",
        tmp_path / "out",
        "--model",
        trained,
        "--brain",
        tool,
        *FAST,
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "scan_brain.nii.gz").is_file()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("fails", r"failed with exit code 1 (no GPU found); check the command"),
        ("nothing", "wrote no mask to {mask}"),
        ("empty", "wrote an empty mask"),
        ("elsewhere", "lies on another grid"),
    ],
)
def test_errors_of_the_tool_are_reported(scan, tool, trained, tmp_path, kind, message):
    before = sorted(tmp_path.iterdir())
    result = call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained, "--brain", f"{tool} {kind}")
    assert message in fails(result)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_tool_is_named(scan, trained, tmp_path):
    command = "no-such-tool {scan} {mask}"
    result = call("predict", scan, "--out", tmp_path / "m.nii.gz", "--model", trained, "--brain", command)
    assert "no-such-tool cannot be started" in fails(result)
    assert list(tmp_path.iterdir()) == [scan]


@pytest.mark.parametrize("command", ["tool {scan}", "tool {mask}", "tool '{scan} {mask}", "{scan}"])
def test_a_command_must_name_both_files(scan, tmp_path, command):
    result = call("predict", scan, "--out", tmp_path / "m.nii.gz", "--brain", command)
    assert result.exit_code == 2
    assert "--brain" in result.stderr


def test_brain_mask_and_skull_strip_exclude_each_other(scan, tmp_path):
    options = ("--brain-mask", scan, "--brain", "tool {scan} {mask}")
    assert call("predict", scan, "--out", tmp_path / "m.nii.gz", *options).exit_code == 2


@pytest.mark.parametrize(
    ("name", "program", "script"),
    [
        ("hd-bet", "hd-bet", "assert a.save_bet_mask and a.device == 'cpu'\nname = a.o[:-7] + '_bet.nii.gz'"),
        ("synthstrip", "mri_synthstrip", "name = a.m"),
        ("deepbet", "deepbet-cli", "assert a.no_gpu and a.o\nname = a.m"),
    ],
)
def test_known_tools_are_run_by_name(scan, trained, tmp_path, monkeypatch, name, program, script):
    """With a replacement that has the options and output names of the tool."""
    tool = tmp_path / "bin" / program
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable}\n"
        "import argparse, nibabel as nib, numpy as np\n"
        "p = argparse.ArgumentParser()\n"
        "for name in ('-i', '-o', '-m', '-device'): p.add_argument(name)\n"
        "flags = ('disable_tta', 'save_bet_mask', 'no_bet_image', 'no_gpu')\n"
        "for name in flags: p.add_argument(f'--{name}', action='store_true')\n"
        "a = p.parse_args()\n"
        "image = nib.load(a.i)\n"
        "assert nib.aff2axcodes(image.affine) == ('R', 'A', 'S')\n"
        f"{script}\n"
        "mask = nib.Nifti1Image((image.get_fdata() > 0).astype(np.uint8), image.affine)\n"
        "nib.save(mask, name)\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    kept = tmp_path / "brain.nii.gz"
    outputs = ("--out", tmp_path / "m.nii.gz", "--save-brain-mask", kept)
    result = call("predict", scan, *outputs, "--model", trained, "--brain", name, *FAST)
    assert result.exit_code == 0, result.output
    # On the grid of the scan, whatever the tool was given.
    np.testing.assert_array_equal(nib.load(kept).get_fdata(), nib.load(scan).get_fdata() > 0)


def test_a_tool_that_reads_standard_input_finds_it_empty(head, tmp_path):
    asking = [sys.executable, "-c", "import sys; print(sys.stdin.readline() == '', file=sys.stderr); sys.exit(3)"]
    command = f"{shlex.join(asking)} {{scan}} {{mask}}"
    message = fails(call("predict", head, "--out", tmp_path / "m.nii.gz", "--brain", command))
    assert "failed with exit code 3 (True)" in message
    assert not (tmp_path / "m.nii.gz").exists()


def test_a_tool_that_never_ends_is_stopped_with_its_children(head, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "TIME_LIMIT_SECONDS", 1.0)
    child = tmp_path / "child"
    script = f"sleep 60 & echo $! > {shlex.quote(str(child))}; wait"
    command = f"sh -c {shlex.quote(script)} {{scan}} {{mask}}"
    start = time.perf_counter()
    message = fails(call("predict", head, "--out", tmp_path / "m.nii.gz", "--brain", command))
    assert time.perf_counter() - start < 20
    assert "sh was stopped after 1 s; run it separately and give its mask with --brain-mask" in message
    assert not psutil.pid_exists(int(child.read_text())) or psutil.Process(int(child.read_text())).status() == "zombie"


@pytest.mark.parametrize("full", [False, True])
def test_no_space_for_temporary_files_is_one_line(tool, tmp_path, monkeypatch, full):
    nib.save(nib.MGHImage(make_brain(101)[0], AFFINE), tmp_path / "scan.mgz")

    def refuse(*arguments, **more):
        raise OSError(28, "No space left on device")

    if full:
        monkeypatch.setattr(tools.nib, "save", refuse)
    else:
        monkeypatch.setattr(tools.tempfile, "TemporaryDirectory", refuse)
    message = fails(call("predict", tmp_path / "scan.mgz", "--out", tmp_path / "m.nii.gz", "--brain", tool))
    assert "No space left on device" in message
    assert "set TMPDIR" in message
