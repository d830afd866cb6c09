#!/bin/sh
# HD-BET 2 for `brainseg-tf predict --skull-strip 'examples/skull_strip/hd-bet.sh {scan} {mask}'`; the scan must be .nii.gz.
# It names its mask after an output image, of which only the mask is wanted.
set -eu
beside="${2%.nii.gz}-hd"
hd-bet -i "$1" -o "$beside.nii.gz" -device "${DEVICE:-cpu}" --disable_tta --save_bet_mask --no_bet_image
mv "${beside}_bet.nii.gz" "$2"
