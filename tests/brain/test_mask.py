"""Which mask is used: the given one, the foreground of a stripped scan, or that of a network."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from brainseg_tf.brain.checks import cut_sides, mask_warnings
from brainseg_tf.brain.mask import find_brain, stripped_brain
from brainseg_tf.brain.template import template
from brainseg_tf.errors import InputError
from brainseg_tf.images.volume import read_volume
from brainseg_tf.metrics import dice
from brainseg_tf.options import HeadGridOptions
from helpers import AFFINE, make_brain, save


class Fixed:
    """A network that always finds the same share of the field."""

    grid = HeadGridOptions()

    def __init__(self, mask, value=255):
        self.mask, self.value = mask, value

    def probability(self, images):
        index = [
            np.minimum(np.arange(n) * m // n, m - 1) for n, m in zip(images.shape[1:4], self.mask.shape, strict=True)
        ]
        return (self.value * self.mask[np.ix_(*index)]).astype(np.uint8)[None]


@pytest.fixture
def scan(tmp_path):
    return read_volume(save(make_brain(3)[0], tmp_path / "scan.nii"))


@pytest.fixture
def head(scan):
    noise = np.random.default_rng(0).normal(0, 3, scan.data.shape).astype(np.float32)
    return replace(scan, data=scan.data + noise)


def finds(mask, value=255):
    return lambda: Fixed(mask, value)


def test_without_a_network_the_scan_must_be_stripped(scan, head):
    np.testing.assert_array_equal(stripped_brain(scan), scan.data > 0)
    assert stripped_brain(head) is None
    brain = find_brain(scan)
    assert (brain.source, brain.warnings) == ("stripped", [])
    np.testing.assert_array_equal(brain.mask, scan.data > 0)
    (warning,) = find_brain(head).warnings
    assert "seems not to be skull-stripped" in warning and "--brain auto" in warning
    with pytest.raises(InputError, match="there is no brain network; add it to the server"):
        find_brain(head, method="network", network=lambda: None)
    assert find_brain(scan, network=lambda: None).source == "stripped"


def test_the_network_finds_the_brain_of_a_head_only(scan, head):
    truth = scan.data > 0
    found = find_brain(head, network=finds(truth))
    assert found.source == "network"
    assert dice(found.mask, truth) > 0.9
    # A stripped scan keeps its own mask if the network finds nearly the same.
    kept = find_brain(scan, network=finds(ndimage.binary_erosion(truth)))
    assert (kept.source, kept.warnings) == ("stripped", [])
    np.testing.assert_array_equal(kept.mask, truth)
    assert find_brain(scan, method="network", network=finds(truth)).source == "network"
    # stripped does not even load the network.
    assert find_brain(scan, method="stripped", network=lambda: pytest.fail("loaded")).source == "stripped"


def test_remains_of_a_stripped_scan_are_removed_and_reported(scan):
    truth = scan.data > 0
    part = truth.copy()
    part[:, : truth.shape[1] // 3] = False
    cleaned = find_brain(scan, network=finds(part))
    assert cleaned.source == "cleaned"
    assert "of what is not background is outside the brain that the brain network finds" in cleaned.warnings[0]
    assert dice(cleaned.mask, part) > 0.9
    # The network does not recognise the brain: nothing is removed.
    kept = find_brain(scan, network=finds(np.zeros_like(truth)))
    assert kept.source == "stripped" and "finds no brain in this scan" in kept.warnings[0]
    np.testing.assert_array_equal(kept.mask, truth)


def test_a_head_without_a_brain_is_an_error_and_doubt_a_warning(scan, head):
    nothing = np.zeros(head.data.shape, bool)
    with pytest.raises(InputError, match="the brain network finds no brain in the scan; check that it shows a head"):
        find_brain(head, network=finds(nothing))
    doubtful = find_brain(head, network=finds(scan.data > 0, value=180))
    assert "is uncertain (mean probability 0.71)" in doubtful.warnings[0]


@pytest.mark.parametrize("tool", [False, True])
def test_a_loose_mask_is_restricted_and_a_good_one_is_not(scan, head, tool, monkeypatch):
    def find(scan, mask, found):
        if not tool:
            return find_brain(scan, given=mask, network=finds(found))
        monkeypatch.setattr("brainseg_tf.brain.mask.strip", lambda name, scan: mask if name == "deepbet" else None)
        return find_brain(scan, method="deepbet", network=finds(found))

    truth = scan.data > 0
    given = find(head, truth, truth)
    assert (given.source, given.warnings) == ("tool" if tool else "given", [])
    np.testing.assert_array_equal(given.mask, truth)
    loose = ndimage.binary_dilation(truth, iterations=4)
    bright = replace(head, data=np.where(loose, np.maximum(head.data, 200), head.data).astype(np.float32))
    restricted = find(bright, loose, truth)
    assert "of the brain mask is outside the brain that the brain network finds" in restricted.warnings[0]
    assert dice(restricted.mask, truth) > 0.9


@pytest.mark.parametrize("doubt", ["uncertain", "small"])
def test_a_network_in_doubt_overrules_no_mask(scan, head, doubt):
    """In a slab, or in an image unlike those that it learned from, the network finds a part of the brain only."""
    truth = scan.data > 0
    part = truth.copy()
    part[:, : truth.shape[1] // (3 if doubt == "uncertain" else 1) - (0 if doubt == "uncertain" else 12)] = False
    network = finds(part, value=200 if doubt == "uncertain" else 255)
    given = find_brain(head, given=truth, network=network)
    np.testing.assert_array_equal(given.mask, truth)
    reason = {"uncertain": "the network is uncertain (mean probability 0.78)", "small": "ml only"}[doubt]
    assert f"{reason}, so nothing was removed; check --brain-mask" in given.warnings[0]
    stripped = find_brain(scan, network=network)
    np.testing.assert_array_equal(stripped.mask, truth)
    assert stripped.source == "stripped"
    assert f"{reason}, so nothing was removed; see --brain network" in stripped.warnings[0]
    # A certain network that finds most of a small brain overrules the rest: the head around a slab.
    if doubt == "small":
        part[:, truth.shape[1] // 3 :] = truth[:, truth.shape[1] // 3 :]
        assert find_brain(scan, network=finds(part)).source == "cleaned"


def test_a_mask_beside_the_brain_is_refused(scan, head):
    truth = scan.data > 0
    half = np.zeros_like(truth)
    half[:, : truth.shape[1] // 2] = True
    with pytest.raises(InputError, match="90% of the brain mask is outside the brain .* stripped does not compare"):
        find_brain(head, given=truth & half, network=finds(truth & ~half))


def test_volumes_and_sides(scan):
    brain = scan.data > 0
    assert mask_warnings(scan, brain) == []
    small = ndimage.binary_erosion(brain, iterations=6)
    assert "less than a whole brain" in mask_warnings(scan, small)[0]
    assert "more than any brain" in mask_warnings(replace(scan, affine=AFFINE * 1.4), brain)[0]
    assert cut_sides(scan, brain) == []
    middle = replace(scan, data=scan.data[20:, :, :12])
    assert cut_sides(middle, brain[20:, :, :12]) == ["right", "superior"]
    (warning,) = mask_warnings(middle, brain[20:, :, :12])[1:]
    assert warning.endswith("the field of view cuts off the brain (right, superior)")


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        ((), None),
        ((0,), None),
        ((1,), "back to front"),
        ((2,), "upside down"),
        ((1, 2), "back to front and upside down"),
    ],
)
def test_a_brain_that_is_turned_over_gets_a_warning(tmp_path, axes, name):
    brain, affine, _ = template()
    data = np.flip(np.pad(brain, 4), axes).astype(np.uint8)
    scan = read_volume(save(data, tmp_path / "scan.nii", affine))
    warnings = [text for text in mask_warnings(scan, scan.data > 0) if "orientation" in text]
    assert [text.split("seems to be ")[1].split(";")[0] for text in warnings] == ([name] if name else [])


@pytest.mark.parametrize(
    ("ratio", "exchanged", "warned"), [(0.94, False, False), (None, False, False), (None, True, True)]
)
def test_exchanged_axes_get_a_warning_and_a_cut_brain_does_not(tmp_path, ratio, exchanged, warned):
    """BraTS 2013_20, which the field of view cuts, is 0.94 times as long as high."""
    brain, affine, _ = template()
    data = np.pad(brain, 4).astype(np.uint8)
    if ratio is not None:
        where = np.argwhere(data)
        first, last = where.min(axis=0), where.max(axis=0)
        excess = last[1] - first[1] - ratio * (last[2] - first[2])
        data[:, : first[1] + round(excess / 2)] = 0
        data[:, last[1] - round(excess / 2) + 1 :] = 0
    scan = read_volume(save(data.swapaxes(1, 2) if exchanged else data, tmp_path / "scan.nii", affine))
    assert any("mm long and" in text for text in mask_warnings(scan, scan.data > 0)) == warned
