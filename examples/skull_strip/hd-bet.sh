#!/bin/sh
# Runs HD-BET 2: brainseg-tf predict --skull-strip 'examples/skull_strip/hd-bet.sh {scan} {mask}'. The scan must be .nii.gz.
# HD-BET derives the name of the mask from that of its output image, so the mask is renamed.
set -eu
output="${2%.nii.gz}-hd"
hd-bet -i "$1" -o "$output.nii.gz" -device "${DEVICE:-cpu}" --disable_tta --save_bet_mask --no_bet_image
mv "${output}_bet.nii.gz" "$2"
