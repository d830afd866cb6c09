"""The main road in Python, cell by cell (open it as a notebook, or run it: ``python examples/python_api.py``)."""

# %% A scan. Any orientation; it is turned to LPS, never resampled.
from pathlib import Path

from brainseg_tf import figures, saved_model
from brainseg_tf.images.volume import read_mask, read_volume, write_map
from brainseg_tf.metrics import dice, iou
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.segmentation import segment

here = Path(__file__).parent
scan = read_volume(here / "phantom" / "phantom_flair.nii.gz")
print(scan.data.shape, f"{scan.voxel_ml * 1000:g} mm3 per voxel")

# %% A model: shipped ones by name, your own by folder. Its card says how a scan has to be brought to it.
found = saved_model.find("cvae")
model = found.load()
print(found.card.name, found.card.modalities, found.card.slices)

# %% Slices -> reconstruction -> residual -> mixture -> mask.
result = segment([scan], model, found.card, SegmentationOptions(min_size_ml=0.5))
for lesion in result.lesions:
    print(f"{lesion.ml:6.1f} ml at {lesion.centroid_mm} mm")
print("seconds:", result.seconds)

# %% Every step can be looked at: all maps lie on the model's slices, (N, H, W[, C]).
print(
    "slices",
    result.stack.images.shape,
    "residual",
    result.residual.shape,
    "mixture means",
    result.outline.mixture.means,
)

# %% Against the truth, and to disk, on the scan's own grid.
truth = read_mask(here / "phantom" / "phantom_lesions.nii.gz", scan)
print(f"Dice {dice(result.mask, truth):.3f}, IoU {iou(result.mask, truth):.3f}")
output = here / "output"
output.mkdir(exist_ok=True)
write_map(output / "api_mask.nii.gz", result.mask, scan)
figures.segmentation(result, output / "api_figure.png")
