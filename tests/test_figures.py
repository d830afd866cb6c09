import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from brainseg_tf.drawing import save as save_figure
from brainseg_tf.evaluation import figures as evaluation_figures
from brainseg_tf.evaluation.case_metrics import Comparison
from brainseg_tf.images.volume import read_volume
from brainseg_tf.prediction import figures as prediction_figures
from brainseg_tf.prediction.figures import Backdrop
from brainseg_tf.segmentation import Segmentation, segment
from brainseg_tf.training import figures as training_figures
from helpers import make_brain, save
from synthetic_models import OPTIONS, Healthy, card


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Segmentation:
    scan = read_volume(save(make_brain(3)[0], tmp_path_factory.mktemp("figures") / "scan.nii"))
    return segment([scan], Healthy(), card(), OPTIONS)


def red(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0] > 0.5) & (pixels[..., 0] > 1.5 * pixels[..., 1]) & (pixels[..., 0] > 1.5 * pixels[..., 2])


def drawn(draw, *arguments) -> np.ndarray:
    """The pixels that a function draws to an open file."""
    file = io.BytesIO()
    draw(*arguments, file)
    return image.imread(io.BytesIO(file.getvalue()))


def texts(monkeypatch) -> list[str]:
    """What is written into the figures from now on."""
    from matplotlib.text import Text

    written: list[str] = []
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (written.append(self.get_text()), draw(self, renderer))[1])
    return written


def test_the_lesion_is_drawn_on_result_and_truth(result, tmp_path):
    prediction_figures.segmentation(result, tmp_path / "four.png")
    prediction_figures.segmentation(result, tmp_path / "five.png", Backdrop(truth=result.outline.found))
    four, five = (image.imread(tmp_path / f"{name}.png") for name in ("four", "five"))
    assert five.shape[1] > four.shape[1]
    last = red(four)[:, -four.shape[1] // 4 :].sum()
    assert last > 200
    halves = red(five)[:, 3 * five.shape[1] // 5 :]
    assert abs(halves[:, : halves.shape[1] // 2].sum() / halves[:, halves.shape[1] // 2 :].sum() - 1) < 0.2


def test_a_scan_without_lesion_has_a_figure_too(tmp_path):
    scan = read_volume(save(make_brain(3, lesion=False)[0], tmp_path / "scan.nii"))
    result = segment([scan], Healthy(), card(), OPTIONS)
    prediction_figures.segmentation(result, tmp_path / "f.png")
    pixels = image.imread(tmp_path / "f.png")
    assert red(pixels)[:, -pixels.shape[1] // 4 :].sum() == 0


def test_history_and_reconstructions(tmp_path):
    rows = [{"epoch": e, "loss": 1 / e, "val_loss": 2 / e, "kl": 1.0 * e, "val_kl": 3.0} for e in (1, 2, 3)]
    training_figures.history(rows, tmp_path / "h.png")
    images = np.random.default_rng(0).random((3, 20, 20, 2))
    training_figures.reconstructions(images, images, images, tmp_path / "r.png")
    counts = np.stack([np.arange(10, 0, -1), np.arange(10) / 2, np.arange(10) / 3], axis=-1)
    evaluation_figures.reliability({"a": counts, "b": counts * [1, 1, 0.5]}, tmp_path / "c.png")
    for name in ("h.png", "r.png", "c.png"):
        assert image.imread(tmp_path / name).std() > 0.05


def test_the_patients_directions_are_at_the_edges_of_each_slice(result, monkeypatch):
    from matplotlib.axes import Axes

    placed: dict[str, tuple[float, float]] = {}
    text = Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda self, x, y, s, **k: (placed.update({s: (x, y)}), text(self, x, y, s, **k))[1]
    )
    drawn(prediction_figures.segmentation, result)
    # Radiological convention: the patient's right is on the left, the nose is up.
    assert placed["R"][0] < placed["A"][0] < placed["L"][0]
    assert placed["A"][1] < placed["R"][1] < placed["P"][1]
    # A stack whose columns run to the right and whose rows run to the front has the letters the other way round.
    turned = replace(result, stack=replace(result.stack, affine=np.diag([5.0, 5, 5, 1])))
    drawn(prediction_figures.segmentation, turned)
    assert placed["L"][0] < placed["R"][0]
    assert placed["P"][1] < placed["A"][1]


@pytest.mark.parametrize("degrees", [0, 20, -35])
def test_the_z_coordinate_is_that_of_the_middle_of_the_panel(result, monkeypatch, degrees):
    from matplotlib.axes import Axes

    written: list[str] = []
    text = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **k: (written.append(s), text(self, x, y, s, **k))[1])
    affine = result.stack.affine.copy()
    affine[:3, :3] = Rotation.from_euler("x", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    brain = result.stack.brain
    off_centre = replace(result.stack, affine=affine, brain=brain & (np.arange(brain.shape[1])[:, None] > 20))
    drawn(prediction_figures.segmentation, replace(result, stack=off_centre))
    rows, columns = prediction_figures.bounding_box(off_centre.brain)
    middle = [
        (side.start + min(side.stop, size)) / 2 for side, size in zip((columns, rows), brain.shape[:0:-1], strict=True)
    ]
    shown = prediction_figures._slices_to_show(replace(result, stack=off_centre), 3)
    expected = [f"z = {float((affine @ [*middle, z, 1])[2]):.0f} mm" for z in shown]
    assert rows.start > 10
    assert [one for one in written if one.startswith("z = ")] == expected


def test_importing_figures_changes_nothing_of_the_users_matplotlib():
    code = (
        "import matplotlib; matplotlib.use('svg'); before = dict(matplotlib.rcParams)\n"
        "import brainseg_tf.prediction.figures, brainseg_tf.evaluation.figures, brainseg_tf.training.figures, sys\n"
        "changed = {k for k in before if before[k] != matplotlib.rcParams[k]}\n"
        "print(matplotlib.get_backend(), sorted(changed), 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "svg [] False"


def test_several_threads_draw_at_once_what_one_draws_alone(result):
    rows = [{"epoch": e, "loss": 1 / e**3, "val_loss": 2 / e} for e in range(1, 9)]
    counts = np.stack([np.arange(10, 0, -1), np.arange(10) / 2, np.arange(10) / 3], axis=-1)

    kinds = [
        lambda file: prediction_figures.segmentation(result, file),
        lambda file: training_figures.history(rows, file),
        lambda file: evaluation_figures.reliability({"a": counts}, file),
        lambda file: prediction_figures.thumbnail(result, file),
    ]

    def draw(number: int) -> bytes:
        file = io.BytesIO()
        kinds[number % len(kinds)](file)
        return file.getvalue()

    alone = [draw(number) for number in range(len(kinds))]
    threads = threading.active_count()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, range(12)))
    assert together == [alone[number % len(kinds)] for number in range(12)]
    # Threads of earlier tests may have ended meanwhile.
    assert threading.active_count() <= threads
    # Nothing was parsed as mathematics: matplotlib's one parser cannot be used by two threads.
    from matplotlib.mathtext import MathTextParser

    assert MathTextParser._parser is None


ODD = [0.0, -1.0, np.nan, np.inf]


@pytest.mark.parametrize("value", ODD)
def test_a_history_that_a_logarithm_cannot_show_is_drawn_without_warnings(value, tmp_path):
    rows = [{"epoch": e, "loss": value, "val_loss": value, "kl": 1.0, "val_kl": value} for e in (1, 2)]
    assert drawn(training_figures.history, rows).std() > 0.02
    assert drawn(training_figures.history, rows[:1]).std() > 0.02


def test_nothing_to_draw_gives_a_figure_that_says_so(monkeypatch):
    written = texts(monkeypatch)
    drawn(training_figures.history, [])
    drawn(evaluation_figures.dice_by_patient, [])
    empty = np.zeros((0, 20, 20, 1))
    drawn(lambda file: training_figures.reconstructions(empty, empty, empty, file))
    drawn(evaluation_figures.reliability, {})
    drawn(evaluation_figures.reliability, {"a": np.zeros((10, 3))})
    assert {"no epochs", "no patients", "no slices"} <= set(written)


@pytest.mark.parametrize("value", [0.0, 0.5, np.nan, np.inf])
def test_constant_images_and_images_that_are_not_finite_are_drawn_without_warnings(result, value):
    images = np.full_like(result.stack.images, value)
    odd = replace(result, stack=replace(result.stack, images=images), reconstruction=images, residual=images)
    for draw in (prediction_figures.segmentation, prediction_figures.thumbnail):
        assert drawn(draw, odd).size
    # Without any brain or lesion, and with no slices at all.
    nothing = np.zeros_like(result.stack.brain)
    bare = replace(odd, stack=replace(odd.stack, brain=nothing), outline=replace(odd.outline, found=nothing))
    none = replace(bare, stack=replace(bare.stack, images=images[:0], brain=nothing[:0]))
    for draw in (prediction_figures.segmentation, prediction_figures.thumbnail):
        assert drawn(draw, bare).size
        assert drawn(draw, none).size
    drawn(lambda file: training_figures.reconstructions(*3 * [images[:2]], file))


def comparison(patient: str, method: str, dice: float) -> Comparison:
    from dataclasses import MISSING, fields

    given = {"patient": patient, "method": method, "cut": evaluation_figures.MIXTURE_CUT, "dice": dice}
    others = {one.name: 0.0 for one in fields(Comparison) if one.default is MISSING and one.default_factory is MISSING}
    return Comparison(**(others | given))


def test_names_from_files_are_labels_of_one_line_without_mathematics(monkeypatch):
    written = texts(monkeypatch)
    names = ["_hidden", "$x$ $\\frac{1}$", "x" * 240, "two\nlines", "byte\udcff", "\u60a3\u8005", "last", "other"]
    given = [
        comparison(name, method, 0.5) for name in names[:-2] for method in ("network", evaluation_figures.NO_NETWORK)
    ]
    # A patient that only one of the methods has, and one whose Dice is not known.
    given += [comparison("last", "network", 0.7), comparison("other", evaluation_figures.NO_NETWORK, np.nan)]
    pixels = drawn(evaluation_figures.dice_by_patient, given)
    assert pixels.shape[0] < 600
    assert {"$x$ $\\frac{1}$", "two\\nlines", "byte\\xff", "\\u60a3\\u8005"} <= set(written)
    assert max(len(one) for one in written) < 60


def test_thousands_of_patients_fit_into_a_figure():
    given = [
        comparison(f"p{n}", method, n % 100 / 100)
        for n in range(3000)
        for method in ("a", evaluation_figures.NO_NETWORK)
    ]
    assert drawn(evaluation_figures.dice_by_patient, given).shape[1] < 2**16


def test_the_letters_are_readable_on_a_white_scalp():
    figure = Figure(figsize=(2, 2))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(np.ones((40, 40)), cmap="gray", vmin=0, vmax=1)
    axis.set_axis_off()
    prediction_figures.label_slice(axis, np.diag([-1.0, -1, 1, 1]), 3, 0, (40, 40))
    pixels = drawn(save_figure, figure)[..., :3]
    dark = pixels.max(axis=2) < 0.3
    half, edge = pixels.shape[0] // 2, pixels.shape[0] // 5
    around = slice(half - edge // 2, half + edge // 2)
    for place in ((around, slice(0, edge)), (around, slice(-edge, None)), (slice(0, edge), around)):
        assert dark[place].sum() > 20
    # The position below.
    assert dark[-edge:, : 2 * edge].sum() > 60
    assert not dark[half - edge : half + edge, half - edge : half + edge].any()
