"""The model card: everything that a prediction depends on and a reader should know, beside the weights."""

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, replacing, write_json
from brainseg_tf.postprocessing.residual import Score
from brainseg_tf.slices import SliceOptions

FILE = Path("assets.extra", "model_card.json")
PAPER_IOU = {"cvae": 0.417, "dcvae": 0.392, "dae": 0.326}
TERMS = (
    "Trained on BraTS 2019 data, which are for research, with citation (Menze 2015, Bakas 2017, Bakas 2018). "
    "Its 'healthy' slices are tumour-free slices of patients, not of healthy people. Not a medical device."
)
# What a reader is shown of the metrics; the JSON has all of them.
_SHOWN = {
    "dice": "Dice",
    "dice_interval": "95 % interval",
    "iou": "IoU",
    "iou_slice": "IoU by slice",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "hausdorff95": "HD95, mm",
    "average_precision": "AP",
    "brier": "Brier",
    "calibration_error": "ECE",
    "false_ml_p95": "ml in tumour-free slices, 95 %",
}
_PACKAGES = ("brainseg-tf", "tensorflow", "keras", "tensorflow-probability", "numpy", "scipy", "nibabel")


@dataclass(frozen=True)
class TrainingData:
    """How many patients and slices there were, and which patients stand on which side."""

    patients: int
    slices: int
    chosen: int
    healthy: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class ModelCard:
    """Written when a model is exported, read when it predicts; there is no second place to set any of it.

    Attributes:
        name, version: as in ``saved_models/NAME/VERSION``.
        architecture, parameters, modalities: the network and its channels, in order.
        slices: how a scan is brought to the network.
        data: what it was trained, validated and tested on.
        training: every other option of the run.
        losses: training and validation losses of the best epoch.
        score: the kind of score that the model is for, see ``residual.score_map``.
        trim: slices that are predicted are smaller than those that were learned from by a multiple of this many pixels
            where the brain leaves room: the network has less to do, and each pixel keeps its place in the grid of the
            network's strides. 0: they are not, which is right for a network whose output hangs on the place.
        healthy_levels: by score, the value that 98.5 % of the brain in healthy validation slices stay below.
        versions: of Python and the packages that made it.
        metrics: on the test patients, filled in by ``evaluate --update-card``.
        terms: of the data.
        checksums: SHA-256 of each file of the SavedModel but those in ``assets.extra``, by path; filled in at export.
    """

    name: str
    version: int
    architecture: str
    parameters: int
    modalities: tuple[str, ...]
    slices: SliceOptions
    data: TrainingData
    training: dict[str, Any]
    losses: dict[str, float]
    healthy_levels: dict[str, float]
    versions: dict[str, str]
    score: Score = "weighted"
    trim: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    terms: str = TERMS
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def dice(self) -> float:
        """Mean Dice by patient of the model's own cut, as far as it was measured, else 0."""
        return self.metrics["network"]["own"]["dice"] if self.metrics else 0.0

    def write(self, version_folder: Path) -> None:
        """Writes the card as JSON and Markdown into ``assets.extra`` of a SavedModel."""
        file = version_folder / FILE
        make_folder(file.parent)
        write_json(file, asdict(self))
        with replacing(file.with_suffix(".md")) as beside:
            beside.write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The card for a reader."""
        data = self.data
        lines = [
            f"# {self.name}, version {self.version}",
            "",
            f"{self.architecture}, {self.parameters:,} parameters, for {' + '.join(self.modalities)}.",
            "",
            self.terms,
            "",
            "## Data",
            f"- {data.patients} patients, {data.slices} slices; {data.chosen} chosen, {data.healthy} tumour-free",
            *(f"- {side}: {', '.join(getattr(data, side))}" for side in ("train", "validation", "test")),
            "",
            "## Slices",
            *_items(asdict(self.slices)),
            "",
            "## Training",
            *_items(self.training),
            "",
            "## Losses of the best epoch",
            *_items(self.losses),
            "",
            "## Levels of healthy tissue, by score",
            *_items(self.healthy_levels),
            "",
            "## Metrics",
            *(_measured(self.metrics) or ["not measured yet: run `brainseg-tf evaluate DATA --update-card`"]),
            "",
            "## Versions",
            *_items(self.versions),
            "",
            "## SHA-256",
            *_items(self.checksums),
            "",
        ]
        return "\n".join(lines)


def read_card(version_folder: Path) -> ModelCard:
    """Reads the card of a version folder.

    Raises:
        InputError: there is none, or it is not one of ours.
    """
    file = version_folder / FILE
    if not file.is_file():
        raise InputError(f"{version_folder}: no {FILE} in it; name a model that brainseg-tf fit exported")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["slices"] = SliceOptions(**content["slices"])
        sides: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content["data"].items()
        }
        content["data"] = TrainingData(**sides)
        content["modalities"] = tuple(content["modalities"])
        return ModelCard(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: is not a model card of this version of brainseg-tf; export the model again"
        ) from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def _measured(metrics: dict[str, Any]) -> list[str]:
    """A table of the network's cuts and of no network, and what else there is."""
    others = dict(metrics)
    rows = {f"network, {cut}": numbers for cut, numbers in others.pop("network", {}).items()}
    if "no network" in others:
        rows["no network, own"] = others.pop("no network")
    if not rows:
        return _items(others)
    table = [["method, cut", *_SHOWN.values()], ["---"] * (1 + len(_SHOWN))]
    for name, numbers in rows.items():
        table.append([name, *("" if numbers.get(key) is None else _text(numbers[key]) for key in _SHOWN)])
    return ["", *(f"| {' | '.join(row)} |" for row in table), "", *_items(others)]


def _items(values: dict[str, Any]) -> list[str]:
    return [f"- {name}: {_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)) and all(isinstance(one, float) for one in value):
        return " to ".join(map(_text, value))
    return "none" if value is None else str(value)
