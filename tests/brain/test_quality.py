from pathlib import Path

import numpy as np
import pytest

from brainseg_tf.brain.quality import noise_stddev, quality_of
from brainseg_tf.brain.template import TemplateAlignment
from brainseg_tf.images.volume import Volume

SHAPE = (40, 44, 12)
AFFINE = np.array([[-1.0, 0, 0, 20], [0, -1, 0, 4], [0, 0, 6, -20], [0, 0, 0, 1]])


def scan(noise=5.0, level=100.0, gradient=2.0):
    random = np.random.default_rng(1)
    ramp = level + gradient * np.indices(SHAPE)[0] + 30 * np.indices(SHAPE)[2]
    return Volume(Path("scan"), (ramp + random.normal(0, noise, SHAPE)).astype(np.float32), AFFINE, None)


ALIGNED = TemplateAlignment(np.eye(4), 2.0, 0.0)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[4:36, 5:40, 1:11] = True
BRAIN[4, 5, 1] = False


def test_the_noise_is_measured_whatever_the_structure():
    assert noise_stddev(scan(), BRAIN) == pytest.approx(5.0, rel=0.03)
    assert noise_stddev(scan(noise=0.5, gradient=20.0), BRAIN) == pytest.approx(0.5, rel=0.03)


def test_the_quality_of_a_scan():
    volume = scan()
    quality = quality_of(volume, BRAIN, ALIGNED)
    assert quality.snr == pytest.approx(np.median(volume.data[BRAIN]) / 5.0, rel=0.03)
    assert quality.slice_thickness_mm == 6.0
    assert 0.02 < quality.coverage < 0.2


def test_what_has_no_signal_to_noise_ratio():
    assert quality_of(scan(noise=0.0, gradient=0.0), BRAIN, ALIGNED).snr is None
    assert quality_of(scan(level=-900.0), BRAIN, ALIGNED).snr is None


@pytest.mark.parametrize("error_mm", [None, 5.0])
def test_the_coverage_is_unknown_without_an_alignment(error_mm):
    assert quality_of(scan(), BRAIN, TemplateAlignment(np.eye(4), error_mm, 0.0)).coverage is None


def test_a_thin_brain():
    thin = np.zeros(SHAPE, bool)
    thin[10:30, 20:22, 5] = True
    assert noise_stddev(scan(), thin) == pytest.approx(5.0, rel=0.6)
