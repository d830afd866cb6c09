import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from brainseg_tf.metrics import dice, iou


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed):
    random = np.random.default_rng(seed)
    mask, truth = random.random((2, 7, 8, 9)) > 0.6
    assert dice(mask, truth) == pytest.approx(f1_score(truth.ravel(), mask.ravel()))
    assert iou(mask, truth) == pytest.approx(jaccard_score(truth.ravel(), mask.ravel()))


def test_nothing_to_find():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert dice(empty, empty) == iou(empty, empty) == 1
    assert dice(empty, full) == iou(full, empty) == 0
