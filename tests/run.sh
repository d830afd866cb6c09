#!/usr/bin/env bash
# Sets up a fresh virtual environment, installs the package as a user would, checks the format, runs all tests.
#     bash tests/run.sh [arguments for pytest]
# The environment is kept in .venv-tests and made anew when setup.py changes. PYTHON names another interpreter.
# Without arguments, the tests marked cpu (every network, every shipped model) run a second time without oneDNN: what
# TensorFlow can do depends on the CPU, and both kinds have to work.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv-tests
if ! cmp -s setup.py "$venv/made-for-setup.py"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    # --no-compile: most of what is installed is never imported, and what is compiles itself.
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile ".[tests]"
    cp setup.py "$venv/made-for-setup.py"
else
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall .
fi
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
# --import-mode: the installed package is tested, not the checkout beside it. -n: two files at a time.
tests=("$venv/bin/pytest" --import-mode=append -n 2)
if [ $# -gt 0 ]; then
    exec "${tests[@]}" --dist loadfile "$@"
fi
echo "== the networks and the shipped models without oneDNN =="
TF_ENABLE_ONEDNN_OPTS=0 "${tests[@]}" --dist load -m cpu
echo "== all tests, with oneDNN where the CPU has it =="
exec "${tests[@]}" --dist loadfile
