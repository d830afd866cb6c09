import numpy as np
from matplotlib import image

from brainseg_tf import figures
from brainseg_tf.segmentation import segment
from brainseg_tf.volume import read_volume
from conftest import make_brain, save
from test_segmentation import OPTIONS, Healthy, card


def red(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 0.5) & (pixels[..., 0] > 1.5 * pixels[..., 1]) & (pixels[..., 0] > 1.5 * pixels[..., 2])


def test_the_lesion_is_drawn_on_result_and_truth(tmp_path):
    data, _ = make_brain(3)
    scan = read_volume(save(data, tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), OPTIONS)
    figures.segmentation(result, tmp_path / "four.png")
    figures.segmentation(result, tmp_path / "five.png", truth=result.outline.found)
    four, five = (image.imread(tmp_path / f"{name}.png") for name in ("four", "five"))
    assert five.shape[1] > four.shape[1]
    last = red(four)[:, -four.shape[1] // 4 :].sum()
    assert last > 200
    halves = red(five)[:, 3 * five.shape[1] // 5 :]
    assert abs(halves[:, : halves.shape[1] // 2].sum() / halves[:, halves.shape[1] // 2 :].sum() - 1) < 0.2


def test_a_scan_without_lesion_has_a_figure_too(tmp_path):
    scan = read_volume(save(make_brain(3, lesion=False)[0], tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), OPTIONS)
    figures.segmentation(result, tmp_path / "f.png")
    pixels = image.imread(tmp_path / "f.png")
    assert red(pixels)[:, -pixels.shape[1] // 4 :].sum() == 0


def test_history_and_reconstructions(tmp_path):
    rows = [{"epoch": e, "loss": 1 / e, "val_loss": 2 / e, "kl": 1.0 * e, "val_kl": 3.0} for e in (1, 2, 3)]
    figures.history(rows, tmp_path / "h.png")
    images = np.random.default_rng(0).random((3, 20, 20, 2))
    figures.reconstructions(images, images, images, tmp_path / "r.png")
    counts = np.stack([np.arange(10, 0, -1), np.arange(10) / 2, np.arange(10) / 3], axis=-1)
    figures.reliability({"a": counts, "b": counts * [1, 1, 0.5]}, tmp_path / "c.png")
    figures.volumes([3.0, 0.0, 20.0], [False, False, True], tmp_path / "v.png")
    for name in ("h.png", "r.png", "c.png", "v.png"):
        assert image.imread(tmp_path / name).std() > 0.05
