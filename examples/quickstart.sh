#!/usr/bin/env bash
# Creates a virtual environment, installs the package, and segments a scan: mask, figure and report.
#     bash examples/quickstart.sh [scan.nii.gz]
# The default is the sample head, a phantom with skull and known lesions, for which the Dice is printed too. The environment variable
# PYTHON sets the interpreter. The result of a scan of yours is not replaced.
set -euo pipefail
scan=${1:+$(realpath -- "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv out=examples/output
if [ ! -x "$venv/bin/brainseg-tf" ]; then
    echo "Installing into $venv (one to two minutes, because TensorFlow is large) ..."
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check .
fi
if [ -n "$scan" ]; then
    name=$(basename -- "$scan")
    out=$out/${name%%.*} more=()
else
    scan=examples/phantom/head_flair.nii.gz more=(--overwrite --truth examples/phantom/head_lesions.nii.gz)
fi
mkdir -p "$out"
"$venv/bin/brainseg-tf" predict "$scan" --out "$out/mask.nii.gz" --figure "$out/figure.png" \
    --report "$out/report.json" ${more[@]+"${more[@]}"}  # The bash of macOS refuses an empty array.
printf '%s\n' "mask:   $out/mask.nii.gz" "figure: $out/figure.png" "report: $out/report.json"
