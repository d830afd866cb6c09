#!/usr/bin/env bash
# Creates a virtual environment, installs the package, and segments a scan: mask, figure and report.
#     bash examples/quickstart.sh [scan.nii.gz]
# The default is the sample head, a phantom with skull and known lesions, for which the Dice is printed too. The environment variable
# PYTHON sets the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv out=examples/output
if [ ! -x "$venv/bin/brainseg-tf" ]; then
    echo "Installing into $venv (one to two minutes, because TensorFlow is large) ..."
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check .
fi
mkdir -p "$out"
if [ $# -gt 0 ]; then
    scan=$1 truth=()
else
    scan=examples/phantom/head_flair.nii.gz truth=(--truth examples/phantom/head_lesions.nii.gz)
fi
"$venv/bin/brainseg-tf" predict "$scan" --out "$out/mask.nii.gz" --figure "$out/figure.png" \
    --report "$out/report.json" --overwrite "${truth[@]}"
printf '%s\n' "mask:   $out/mask.nii.gz" "figure: $out/figure.png" "report: $out/report.json"
