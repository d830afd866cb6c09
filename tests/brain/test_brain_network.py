"""The brain network that comes with the package, on the sample head, and what is made of its output."""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_to_output
from scipy import ndimage

from brainseg_tf import saved_model
from brainseg_tf.brain.mask import find_brain
from brainseg_tf.brain.network import network_mask
from brainseg_tf.images.volume import read_mask, read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.options import HeadGridOptions
from helpers import ROOT

HEAD = ROOT / "examples" / "phantom"


class Band:
    """Takes a band of intensities for brain."""

    grid = HeadGridOptions()

    def __init__(self, low, high):
        self.low, self.high = low, high

    def probability(self, images):
        assert images.dtype == np.uint8 and images.ndim == 5 and images.shape[0] == images.shape[-1] == 1
        return np.where((images > self.low) & (images < self.high), 230, 20).astype(np.uint8)[..., 0]


@pytest.fixture(scope="module")
def head():
    scan = read_volume(HEAD / "head_flair.nii.gz")
    return scan, read_mask(HEAD / "head_brain.nii.gz", scan)


@pytest.fixture(scope="module")
def network():
    return saved_model.shipped_brain_network().load()


def test_the_largest_component_without_holes_is_the_brain(head):
    scan, _ = head
    data = np.zeros(scan.data.shape, np.float32)
    data[40:150, 40:180, 10:50] = 500
    data[90:94, 100:104, 30:31] = 0  # A hole.
    data[160:170, 10:20, 60:64] = 500  # Something else.
    found = network_mask(replace(scan, data=data), Band(100, 256))
    expected = data > 0
    expected[160:170] = False
    expected[90:94, 100:104, 30:31] = True
    assert dice(found.mask, expected) > 0.98
    assert found.mask[91, 101, 30] and not found.mask[150:].any()
    assert found.certainty == pytest.approx(230 / 255)
    empty = network_mask(replace(scan, data=data), Band(254, 255))
    assert not empty.mask.any() and empty.certainty == 0


@pytest.mark.cpu
def test_the_brain_of_the_sample_head_is_found(head, network):
    scan, truth = head
    brain = find_brain(scan, network=lambda: network)
    assert (brain.source, brain.warnings) == ("network", [])
    assert dice(brain.mask, truth) > 0.94


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 2.0), (1.0, 3.0, 1.0)])
def test_other_voxels_and_orientations(head, network, tmp_path, spacing):
    scan, truth = head
    image = nib.Nifti1Image(scan.data, scan.affine)
    brain = nib.Nifti1Image(truth.astype(np.float32), scan.affine)
    both = []
    for name, one, order in (("scan", image, 1), ("brain", brain, 0)):
        resampled = resample_to_output(one, spacing, order=order)
        turned = resampled.as_reoriented(nib.orientations.axcodes2ornt("SAR", "RAS"))
        nib.save(turned, tmp_path / f"{name}.nii.gz")
        both.append(tmp_path / f"{name}.nii.gz")
    other = read_volume(both[0])
    found = find_brain(other, network=lambda: network)
    assert found.source == "network"
    assert dice(found.mask, read_mask(both[1], other)) > 0.92


def test_a_stripped_scan_keeps_its_own_mask_and_a_badly_stripped_one_does_not(head, network):
    scan, truth = head
    stripped = replace(scan, data=np.where(truth, scan.data, 0))
    kept = find_brain(stripped, network=lambda: network)
    assert kept.source == "stripped"
    assert dice(kept.mask, truth) > 0.995
    # With skull and scalp on one side, as after a failed extraction.
    rim = ndimage.binary_dilation(truth, iterations=14)
    rim[:110] = truth[:110]
    cleaned = find_brain(replace(scan, data=np.where(rim, np.maximum(scan.data, 1), 0)), network=lambda: network)
    assert cleaned.source == "network"  # More than any brain: not taken for stripped.
    assert dice(cleaned.mask, truth) > 0.92


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("cube", "shape of a phantom"),
        ("water", "shape of a phantom"),
        ("no brain", "more than any brain"),
        ("noise", "the brain network is uncertain"),
        ("inverted", "the brain network is uncertain"),
        ("half", r"cuts off the brain \(left\)"),
        ("neck", "less than a whole brain"),
        ("side", "the orientation or the voxel sizes in the header may be wrong"),
        ("ct", "Hounsfield units"),
    ],
)
def test_an_incomplete_head_gets_a_warning(head, network, name, warning):
    scan, truth = head
    random = np.random.default_rng(0)
    data = scan.data.copy()
    grid = np.indices(data.shape)
    if name == "cube":
        data = np.zeros_like(data)
        data[40:150, 60:180, 15:55] = 300
    elif name == "water":
        middle, radius = np.array(data.shape) / 2, (70, 80, 24)
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, middle, radius, strict=True)) < 1
        data = np.hypot(300 * inside + random.normal(0, 9, data.shape), random.normal(0, 9, data.shape))
    elif name == "no brain":
        data[truth] = random.rayleigh(9, truth.sum())
    elif name == "noise":
        data = random.rayleigh(9, data.shape)
    elif name == "inverted":
        data = data.max() - data
    elif name == "half":
        data = data[:96]
    elif name == "neck":
        data = data[:, :, :12]
    elif name == "side":
        data = data.transpose(1, 0, 2)
    elif name == "ct":
        data = np.where(data < 40, -1000, 20 + data / 20)
    changed = replace(scan, data=np.ascontiguousarray(data, np.float32))
    warnings = find_brain(changed, network=lambda: network).warnings
    assert any(re.search(warning, one) for one in warnings), warnings
    assert all(one.startswith(f"{scan.path}: ") for one in warnings)
