"""The documentation: it builds without a warning, and what it shows works."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainseg_tf.prediction import results_table
from brainseg_tf_cli.main import COMMANDS
from helpers import FAST, call, small_options

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    # Strict: a warning is a failure.
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_has_every_command_and_every_model(site):
    commands = (site / "commands" / "index.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f'id="brainseg-tf-{name}"' in commands or f'id="{name}"' in commands, name
    assert "--save-brain-mask" in commands
    models = (site / "models" / "index.html").read_text(encoding="utf-8")
    for place in (ROOT / "saved_models").iterdir():
        if (place / "1").is_dir() or (place / "2").is_dir():
            assert f"{place.name}, version" in models
    assert "read_volume" in (site / "api" / "index.html").read_text(encoding="utf-8")


def test_the_site_shows_the_notebook_with_its_figures(site):
    page = (site / "gallery" / "python_api" / "index.html").read_text(encoding="utf-8")
    assert "in 3 lesions, mask of shape" in page
    figures = re.findall(r'src="\.\./(\w+\.jpg)"', page)
    assert len(figures) == 4 and all((site / "gallery" / name).stat().st_size > 10_000 for name in figures)
    # Links in the notebook and to it lead to pages of the site.
    assert 'href="../../predict/#probability-and-uncertainty"' in page and ".ipynb" not in page
    assert 'href="../gallery/python_api/"' in (site / "api" / "index.html").read_text(encoding="utf-8")


def test_the_site_asks_nothing_of_other_hosts(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        loaded += re.findall(r'<link[^>]* rel="(?:stylesheet|preload)"[^>]* href="(https?:[^"]+)"', page.read_text())
        assert loaded == [], page


def test_the_documentation_has_the_columns_of_the_table_of_scans():
    text = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## summary.csv\n")
    described = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], flags=re.M)
    assert tuple(described) == results_table.COLUMNS


@pytest.mark.slow
def test_the_architecture_of_the_guide_trains_and_predicts(brats_like, scan, tmp_path, monkeypatch):
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, flags=re.S)
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    from brainseg_tf.architectures import ARCHITECTURES, Architecture
    from brainseg_tf.options import FitOptions
    from brainseg_tf.training.fit import RunSettings, fit

    monkeypatch.setitem(sys.modules, "tiny_dae", SimpleNamespace(TinyDAE=names["TinyDAE"]))
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture("tiny_dae:TinyDAE", "a small DAE", FitOptions("tiny")))
    run = tmp_path / "run"
    fit(brats_like, run, small_options(architecture="tiny", epochs=3), RunSettings(say=lambda line: None, verbose=0))
    result = call("predict", scan, "--out", tmp_path / "mask.nii.gz", "--model", run, *FAST)
    assert result.exit_code == 0, result.output


def test_every_fault_in_the_documentation_has_its_test():
    told = re.findall(
        r"`(test_\w+)(?:::(test_\w+\*?))?`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    )
    assert len(told) > 20
    for file, test in told:
        (found,) = (ROOT / "tests").rglob(f"{file}.py")
        content = found.read_text(encoding="utf-8")
        assert not test or f"def {test.removesuffix('*')}" in content, (file, test)
