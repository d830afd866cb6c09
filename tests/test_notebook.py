"""The notebook of the documentation can be executed, and its kept outputs are those of the code."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

import brainseg_tf

nbformat = pytest.importorskip("nbformat")
example = pytest.importorskip("executed_notebook")

NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def texts(notebook) -> list[str]:
    """The printed text of each code cell."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return ["".join(one.text for one in cell.outputs if one.output_type == "stream") for cell in cells]


def figures(notebook) -> int:
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def test_the_kept_notebook_has_outputs_and_is_small():
    kept = example.kept()
    outputs = [output for cell in kept.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert figures(kept) == 4
    assert example.FILE.stat().st_size < 200_000
    # It says nothing about the machine on which it was executed.
    assert not re.search(r'"/|\s/\w+/|[A-Z]:\\', json.dumps([texts(kept)]))


@pytest.mark.slow
def test_the_notebook_runs_and_its_kept_outputs_are_up_to_date():
    kept, new = example.kept(), example.kept()
    new.cells.append(nbformat.v4.new_code_cell("import sys; (sys.executable, brainseg_tf.__file__)"))
    new = example.executed(new)
    # The kernel has the package that is tested.
    python, package = ast.literal_eval(new.cells.pop().outputs[0].data["text/plain"])
    assert python == sys.executable and Path(package).samefile(brainseg_tf.__file__)
    told = texts(new)
    assert "in 3 lesions, mask of shape (192, 232, 67)" in told[1]
    assert sum(text.count("in 3 lesions, warnings: 0") for text in told) == 2
    assert "the same mask: True" in "".join(told)
    # The lesions of the phantom are found by both models.
    measured = re.findall(r"Dice (\d\.\d+)", "".join(told))
    assert len(measured) == 3 and all(float(value) > 0.85 for value in measured)
    assert figures(new) == figures(kept)
    for before, after in zip(texts(kept), told, strict=True):
        assert NUMBER.sub("#", after) == NUMBER.sub("#", before)
        # Masks differ a little between kinds of CPU.
        assert numbers(after) == pytest.approx(numbers(before), rel=0.05, abs=0.5)
