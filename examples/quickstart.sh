#!/usr/bin/env bash
# From a fresh checkout to a lesion mask in one command: virtual environment, install, predict, figure, Dice.
#     bash examples/quickstart.sh [scan.nii.gz]
# Without an argument it takes the sample scan, a phantom with known lesions. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv out=examples/output
if [ ! -x "$venv/bin/brainseg-tf" ]; then
    echo "Installing into $venv (TensorFlow is large: a minute or two) ..."
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check .
fi
mkdir -p "$out"
if [ $# -gt 0 ]; then
    scan=$1 truth=()
else
    scan=examples/phantom/phantom_flair.nii.gz truth=(--truth examples/phantom/phantom_lesions.nii.gz)
fi
"$venv/bin/brainseg-tf" predict "$scan" --out "$out/mask.nii.gz" --figure "$out/figure.png" \
    --report "$out/report.json" --overwrite "${truth[@]}"
printf '%s\n' "mask:   $out/mask.nii.gz" "figure: $out/figure.png" "report: $out/report.json"
