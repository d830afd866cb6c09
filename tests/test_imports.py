"""The import rules of CONTRIBUTING.md: one direction, no cycle, and what each package must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

PACKAGE = "brainseg_tf"
# From the lowest layer to the highest: a module imports modules of its own layer or of lower ones.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "files",
        "options",
        "architectures",
        "schema",
        "json_file",
        "links",
        "metrics",
        "masks",
        "installation",
        "resources",
        "c_api",
        "drawing",
        "reconstruction",
        "keras_backend",
    ),
    ("images", "card_schema", "card_markdown"),
    ("brain", "model_card", "corruption"),
    ("slices", "models", "saved_model"),
    ("postprocessing",),
    ("segmentation",),
    ("serving",),
    ("training",),
    ("prediction", "evaluation"),
    ("api",),
    ("cli",),
)
# Packages that must not load others, also not through third modules.
FORBIDDEN = {
    "models": ("images", "brain", "slices", "model_card", "saved_model", "training", "prediction"),
    "postprocessing": ("models", "saved_model", "training"),
    "images": ("models", "saved_model", "slices"),
    "segmentation": ("models", "training", "serving"),
}


def modules() -> dict[str, Path]:
    """Every module of the package and of the command line, by name."""
    found = {}
    for top, folder in ((PACKAGE, ROOT / "brainseg_tf"), ("brainseg_tf_cli", ROOT / "cli")):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((top, *(part for part in parts if part != "__init__")))] = file
    return found


MODULES = modules()


def imported(name: str, *, lazy: bool) -> set[str]:
    """The package's modules that a module imports, those for type checking left out.

    Args:
        name: of the module.
        lazy: whether imports within functions count.
    """
    if name == PACKAGE:
        # It loads the functions for programs only if a program asks for them.
        return set()
    found: set[str] = set()

    def visit(node: ast.AST, within: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            here = within or isinstance(child, ast.FunctionDef)
            if isinstance(child, ast.ImportFrom) and child.module and (lazy or not here):
                names = [f"{child.module}.{one.name}" for one in child.names]
                found.update(one if one in MODULES else child.module for one in names)
            elif isinstance(child, ast.Import) and (lazy or not here):
                found.update(one.name for one in child.names)
            visit(child, here)

    visit(ast.parse(MODULES[name].read_text(encoding="utf-8")), False)
    return {one for one in found if one in MODULES}


def part(name: str) -> str:
    """The module or package of ``LAYERS`` that a module belongs to; empty for the package itself."""
    top, _, rest = name.partition(".")
    return "cli" if top == "brainseg_tf_cli" else rest.split(".")[0]


def layer(name: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part(name) in parts)


@pytest.mark.parametrize("name", [name for name in MODULES if part(name)])
def test_imports_go_down(name):
    above = {one for one in imported(name, lazy=True) if part(one) and layer(one) > layer(name)}
    assert not above, f"{name} imports {above}"


def test_there_is_no_cycle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for one in sorted(imported(name, lazy=True)):
                # A module may import names from the package that it is in.
                if one != name:
                    visit(one, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize(("name", "others"), FORBIDDEN.items())
def test_packages_do_not_load_others(name, others):
    reached: set[str] = set()
    waiting = [one for one in MODULES if part(one) == name]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += imported(one, lazy=True)
    assert not {one for one in reached if part(one) in others}


def test_the_networks_load_no_image_library():
    code = (
        "import brainseg_tf.models, sys\n"
        "print([one for one in ('nibabel', 'pydicom', 'highdicom', 'SimpleITK', 'click') "
        "if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_mixture_does_not_import_scikit_learn():
    code = (
        "import sys, numpy as np\n"
        "from brainseg_tf.options import MixtureOptions\n"
        "from brainseg_tf.segmentation import fit_mixture\n"
        "score = np.random.default_rng(0).uniform(size=(2, 8, 8))\n"
        "fit_mixture(score, score > 0, 2, MixtureOptions())\n"
        "print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", ["options", "architectures", "errors", "files", "training.tf_config"])
def test_help_needs_only_the_standard_library(name):
    heavy = ("numpy", "tensorflow", "click")
    code = f"import brainseg_tf.{name}, sys; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
