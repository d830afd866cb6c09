"""The model card: everything that a prediction depends on and a reader should know, beside the weights."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from brainseg_tf import card_schema
from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, printable, replacing, write_json
from brainseg_tf.json_file import parse_json
from brainseg_tf.options import FitOptions, Score, SliceOptions
from brainseg_tf.schema import MismatchError

FILE = Path("assets.extra", "model_card.json")
# The card's own entry among its checksums.
CARD_KEY = FILE.as_posix()
_WHAT = "a model card of this version of brainseg-tf"
_REMEDY = "export the model again"
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
# Names in the metrics of cards up to version 0.9, and their names since.
_RENAMED = {
    "own": "mixture",
    "flatten": "correct_bias_field",
    "rim": "erosion_mm",
    "level": "healthy_threshold",
    "edge": "boundary_mm",
    "closing": "closing_mm",
    "smallest": "min_size_ml",
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
        checksums: SHA-256 of each file of the version folder, by path; filled in at export. The card's own entry is
            its ``digest``, which ``write`` fills in. Cards up to version 0.8.1 have none of the files in
            ``assets.extra``.
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
        measured = self.metrics["network"]["mixture"]["dice"] if self.metrics else None
        return 0.0 if measured is None else measured

    def write(self, version_folder: Path) -> None:
        """Writes the card as JSON and Markdown into ``assets.extra`` of a SavedModel, with a checksum of itself.

        Checksums of other files of ``assets.extra`` are added where the card has none.

        Raises:
            InputError: the card does not keep to the schema, or the folder cannot be written to.
        """
        file = version_folder / FILE
        make_folder(file.parent)
        beside_it = {name: found for name, found in checksums(version_folder).items() if is_extra(name)}
        content = asdict(replace(self, checksums={**beside_it, **self.checksums}))
        content["checksums"][CARD_KEY] = digest(content)
        try:
            card_schema.check(content)
        except MismatchError as mismatch:
            raise InputError(f"{printable(file)}: cannot be written ({mismatch}); {_REMEDY}") from mismatch
        write_json(file, content)
        with replacing(file.with_suffix(".md")) as beside:
            beside.write_text(replace(self, checksums=content["checksums"]).markdown(), encoding="utf-8")

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
    """Reads the card of a version folder, and checks the type and range of every field.

    Raises:
        InputError: there is none, or it does not keep to the schema.
    """
    content = _read(version_folder)
    sides: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content["data"].items()
    }
    known = {
        "slices": SliceOptions(**content["slices"]),
        "data": TrainingData(**sides),
        "modalities": tuple(content["modalities"]),
        "metrics": _renamed(content.get("metrics", {})),
    }
    return ModelCard(**{**content, **known})


def _renamed(metrics: Any) -> Any:
    """The metrics with the names of today; cards up to version 0.9 have older ones."""
    if not isinstance(metrics, dict):
        return metrics
    names = _RENAMED | {name: f"tumour_{name}" for name in metrics if name.startswith("free_")}
    return {names.get(name, name): _renamed(value) for name, value in metrics.items()}


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a card's canonical JSON (keys in order, no blanks) without the card's own checksum."""
    others = {name: value for name, value in content["checksums"].items() if name != CARD_KEY}
    canonical = json.dumps({**content, "checksums": others}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_on_disk(version_folder: Path) -> str:
    """``digest`` of the card that lies in a version folder.

    Raises:
        InputError: it cannot be read.
    """
    return digest({"checksums": {}, **_read(version_folder)})


def _read(version_folder: Path) -> dict[str, Any]:
    file = version_folder / FILE
    if not os.path.lexists(file):
        raise InputError(f"{printable(version_folder)}: no {FILE} in it; name a model that brainseg-tf fit exported")
    content: dict[str, Any] = parse_json(file, what=_WHAT, remedy=_REMEDY)
    try:
        card_schema.check(content)
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is not {_WHAT} ({mismatch}); {_REMEDY}") from mismatch
    return content


def checksums(version_folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a version folder, by its path in it.

    Left out are the card, whose checksum is that of its content (``digest``); its Markdown, which is made of it and
    which nothing reads; and hidden files, which file managers leave.

    Raises:
        InputError: a file cannot be read.
    """
    found = {}
    try:
        for file in sorted(version_folder.rglob("*")):
            name = file.relative_to(version_folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if file.is_file() and not hidden and name not in (FILE, FILE.with_suffix(".md")):
                found[name.as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        place = printable(error.filename or version_folder)
        raise InputError(f"{place}: cannot be read ({error.strerror}); check its permissions") from error
    return found


def is_extra(name: str) -> bool:
    """Whether a file, by its path in a version folder, is none of the SavedModel's own."""
    return name.startswith(f"{FILE.parent.as_posix()}/")


def training_options(options: FitOptions) -> dict[str, Any]:
    """What ``ModelCard.training`` holds of a run's options: those that have no other field in the card."""
    return {name: value for name, value in asdict(options).items() if name in card_schema.TRAINING.required}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


def _measured(metrics: dict[str, Any]) -> list[str]:
    """A table of the network's cuts and of no network, and what else there is."""
    others = dict(metrics)
    rows = {f"network, {cut}": numbers for cut, numbers in others.pop("network", {}).items()}
    if "no network" in others:
        rows["no network, mixture"] = others.pop("no network")
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
