"""Example of the Python API: segmentation of the sample scan.

Run it with ``python examples/python_api.py``, or open it as a notebook with cells.
"""

from pathlib import Path

import brainseg_tf
from brainseg_tf import saved_model
from brainseg_tf.brain.mask import find_brain
from brainseg_tf.images.volume import read_mask, read_volume, write_map
from brainseg_tf.metrics import dice, iou
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.prediction import figures
from brainseg_tf.segmentation import segment
from brainseg_tf.slices import onto_stack

examples = Path(__file__).parent

# %% In one call: a file, a nibabel image or an array with its affine; the results are nibabel images.
prediction = brainseg_tf.predict(examples / "phantom" / "head_flair.nii.gz", model="cvae")
print(f"{prediction.lesion_ml:.1f} ml, mask of shape {prediction.mask.shape}")

# %% The same in steps. Scans of any orientation are reoriented to LPS, without resampling.
scan = read_volume(examples / "phantom" / "head_flair.nii.gz")
print(scan.data.shape, f"{scan.voxel_ml * 1000:g} mm3 per voxel")

# %% Load a model, a shipped one by its name or your own by its folder. The card describes the slices that it needs.
found = saved_model.find("cvae")
model = found.load()
print(found.card.name, found.card.modalities, found.card.slices)

# %% Find the brain: the head has a skull, so the brain network is used.
brain = find_brain(scan, network=saved_model.shipped_brain_network().load)
print(f"{brain.mask.sum() * scan.voxel_ml:.0f} ml of brain, source: {brain.source}")

# %% Segment the lesions.
result = segment([scan], model, found.card, SegmentationOptions(min_size_ml=0.5), brain)
for lesion in result.lesions:
    print(f"{lesion.ml:6.1f} ml at {lesion.centroid_mm} mm")
print("seconds:", result.seconds)

# %% Inspect intermediate results. All maps are on the model's slices, (N, H, W[, C]).
print(
    "slices",
    result.stack.images.shape,
    "residual",
    result.residual.shape,
    "mixture means",
    result.outline.mixture.means,
)

# %% Compare the mask with the ground truth, and write it on the grid of the scan.
truth = read_mask(examples / "phantom" / "head_lesions.nii.gz", scan)
print(f"Dice {dice(result.mask, truth):.3f}, IoU {iou(result.mask, truth):.3f}")
output = examples / "output"
output.mkdir(exist_ok=True)
write_map(output / "api_mask.nii.gz", result.mask, scan)
backdrop = figures.Backdrop(scan=onto_stack(scan.data, scan, result.stack))
figures.segmentation(result, output / "api_figure.png", backdrop)
