"""The smoke run of the benchmarks: it has every benchmark, and a broken one makes it fail."""

import sys

import pytest

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

    assert set(smoke.CASES) == {file.stem for file in BENCHMARKS.glob("*.py")} - {"smoke"}
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
