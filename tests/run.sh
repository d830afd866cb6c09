#!/usr/bin/env bash
# Sets up a fresh virtual environment, installs the package as a user would, checks the format and the types, runs tests.
#     bash tests/run.sh                          all tests but those marked slow
#     bash tests/run.sh --all                    the slow ones too, the part marked cpu without oneDNN, and each benchmark
#                                                on tiny scans: what CI runs
#     bash tests/run.sh [arguments for pytest]   these only
# The environment is kept in .venv-tests and made anew when setup.py changes. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Without compiled modules on disk, each of the processes that the tests start compiles TensorFlow's again: 6 seconds.
unset PYTHONDONTWRITEBYTECODE
venv=.venv-tests
if ! cmp -s setup.py "$venv/made-for-setup.py"; then
    rm -rf "$venv"
    "${PYTHON:-python3}" -m venv "$venv"
    # --no-compile: most of what is installed is never imported, and the rest is compiled when it is.
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile ".[tests]"
    cp setup.py "$venv/made-for-setup.py"
else
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall .
fi
# --import-mode: the installed package is tested, not the checkout beside it. -n: two files at a time.
tests=("$venv/bin/pytest" --import-mode=append -n 2)
if [ $# -gt 0 ] && [ "$1" != --all ]; then
    exec "${tests[@]}" --dist loadfile "$@"
fi
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
echo "== all tests but the slow ones =="
"${tests[@]}" --dist loadfile -m "not slow"
if [ "${1:-}" = --all ]; then
    echo "== the slow tests =="
    "${tests[@]}" --dist loadfile -m slow
    # What TensorFlow can do depends on the CPU: every network and every shipped model has to work on both kinds.
    echo "== the networks and the shipped models without oneDNN =="
    TF_ENABLE_ONEDNN_OPTS=0 "${tests[@]}" --dist load -m cpu
    echo "== the benchmarks on tiny scans =="
    "$venv/bin/python" benchmarks/smoke.py
fi
# Results and times depend on the CPU.
cpu=$(grep -m 1 "model name" /proc/cpuinfo 2>/dev/null | cut -d : -f 2 || uname -m)
avx512=$(grep -q -m 1 avx512f /proc/cpuinfo 2>/dev/null && echo "with" || echo "without")
echo "== passed in $((SECONDS / 60)) min $((SECONDS % 60)) s on ${cpu# }, $avx512 AVX-512, $(getconf _NPROCESSORS_ONLN) processors =="
