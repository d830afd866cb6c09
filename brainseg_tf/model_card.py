"""The model card: all options that a prediction depends on besides the weights, training data, losses and metrics."""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from brainseg_tf import __version__, card_schema
from brainseg_tf.architectures import BRAIN
from brainseg_tf.card_markdown import bullets, metrics_table
from brainseg_tf.errors import InputError
from brainseg_tf.files import make_folder, printable, replacing, write_json
from brainseg_tf.json_file import parse_json
from brainseg_tf.options import BrainFitOptions, FitOptions, HeadGridOptions, Score, SliceOptions
from brainseg_tf.schema import MismatchError

FILE = Path("assets.extra", "model_card.json")
# The key of the card itself among its checksums.
CARD_KEY = FILE.as_posix()
_WHAT = "a model card of this version of brainseg-tf"
_REMEDY = "export the model again"
PAPER_IOU = {"cvae": 0.417, "dcvae": 0.392, "dae": 0.326}
BRATS_TERMS = (
    "Trained on BraTS 2019 data, which are for research, with citation (Menze 2015, Bakas 2017, Bakas 2018). "
    "Its 'healthy' slices are tumour-free slices of patients, not of healthy people. "
)
OWN_TERMS = "The terms of the scans that it was trained on apply. Not a medical device."
BRAIN_TERMS = (
    "Trained on heads with brain masks, and on skull-stripped brains that were wrapped in random heads. Their terms "
    "apply. Not a medical device."
)
# Names in the metrics of cards that were written by version 0.9 or earlier, and their present names.
_RENAMED = {
    "own": "mixture",
    "flatten": "correct_bias_field",
    "rim": "erosion_mm",
    "level": "healthy_threshold",
    "edge": "boundary_mm",
    "closing": "closing_mm",
    "smallest": "min_size_ml",
}
_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "scipy", "nibabel")


@dataclass(frozen=True)
class TrainingData:
    """Numbers of patients and slices, and the split of the patients.

    Attributes:
        patients: number of patients.
        slices: number of their slices; ``chosen``: selected for training; ``healthy``: those of the selected slices
            that were used, which are without a lesion, as far as known, unless the option ``labels`` is ``voxels``.
        train, validation, test: names of the patients.
        earlier: names of the patients of the model that it was fine-tuned from, and their subjects.
        subjects: of the training and validation patients, those that are not names of patients. The name of an
            examination depends on the other examinations of the cohort, that of a subject does not.
    """

    patients: int
    slices: int
    chosen: int
    healthy: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    earlier: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()

    @property
    def seen(self) -> tuple[str, ...]:
        """Names of all patients that the weights, or the best epoch, depend on, and their subjects."""
        return tuple(dict.fromkeys((*self.train, *self.validation, *self.subjects, *self.earlier)))


@dataclass(frozen=True)
class BrainTrainingData:
    """The subjects of a brain network.

    Attributes:
        heads: number of subjects with a skull and a brain mask; ``stripped``: of skull-stripped subjects, whose brains
            were wrapped in random heads.
        train, validation, test: their names.
    """

    heads: int
    stripped: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the cards of all exported models have in common. It is written at export.

    Attributes:
        name, version: as in ``saved_models/NAME/VERSION``.
        architecture: name of the network.
        parameters: number of its parameters.
        modalities: its channels, in order; for a brain network, the modalities that it was trained on.
        training: all options of the run that have no field of their own.
        losses: training and validation losses of the best epoch.
        versions: of Python and of the packages that the model was exported with.
        metrics: what was measured, see the subclasses.
        terms: conditions of use of the training data.
        checksums: SHA-256 of each file of the version folder, by path; added at export. The entry of the card itself is
            its ``digest``, which ``write`` adds. Cards that were written by version 0.8.1 or earlier have no entries
            for files in ``assets.extra``.
    """

    name: str
    version: int
    architecture: str
    parameters: int
    modalities: tuple[str, ...]
    training: dict[str, Any]
    losses: dict[str, float]
    versions: dict[str, str]
    metrics: dict[str, Any] = field(default_factory=dict)
    terms: str = ""
    checksums: dict[str, str] = field(default_factory=dict)

    def write(self, version_folder: Path) -> None:
        """Writes the card as JSON and Markdown into ``assets.extra`` of a SavedModel, with a checksum of the card.

        Checksums of other files in ``assets.extra`` are added if the card has none for them.

        Raises:
            InputError: the card does not fit the schema, or the folder cannot be written.
        """
        file = version_folder / FILE
        make_folder(file.parent)
        extra_checksums = {name: found for name, found in checksums(version_folder).items() if is_extra(name)}
        content = asdict(replace(self, checksums={**extra_checksums, **self.checksums}))
        content["checksums"][CARD_KEY] = digest(content)
        try:
            card_schema.check(content)
        except MismatchError as mismatch:
            raise InputError(f"{printable(file)}: cannot be written ({mismatch}); {_REMEDY}") from mismatch
        write_json(file, content)
        with replacing(file.with_suffix(".md")) as temporary:
            temporary.write_text(replace(self, checksums=content["checksums"]).markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The card as Markdown."""
        lines = [
            f"# {self.name}, version {self.version}",
            "",
            f"{self.architecture}, {self.parameters:,} parameters, for {' + '.join(self.modalities)}.",
            "",
            self.terms,
            *(line for heading, items in self._sections().items() for line in ("", f"## {heading}", *items)),
            "",
        ]
        return "\n".join(lines)

    def _sections(self) -> dict[str, list[str]]:
        """The lines of the Markdown card by heading."""
        return {
            **self._data_sections(),
            "Training": bullets(self.training),
            "Losses of the best epoch": bullets(self.losses),
            **self._result_sections(),
            "Versions": bullets(self.versions),
            "SHA-256": bullets(self.checksums),
        }

    def _data_sections(self) -> dict[str, list[str]]:
        """Data, and how a scan is prepared."""
        raise NotImplementedError

    def _result_sections(self) -> dict[str, list[str]]:
        """What was measured."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """The card of a lesion model. Predictions read all these options from it.

    Attributes:
        slices: how a scan is resampled to slices.
        data: the patients that the model was trained, validated and tested on.
        score: the kind of score that the model is used with, see ``residual.score_map``.
        trim: in a prediction, slices are cropped to the brain, by a multiple of this many pixels, to save time. The
            pixels thus keep their position relative to the network's strides. 0 turns cropping off, which a network
            needs whose output depends on the position in the slice.
        healthy_levels: healthy threshold by kind of score: the mean over validation patients of the 98.5 % quantile of
            the score in the brain in healthy slices; for a probability at least 0.5.
        calibration: the scans on which ``calibrate`` measured the thresholds again, and the quantiles of their
            intensities (``calibration.QUANTILES``); empty for a model as it was exported.
        metrics: on the test patients; written by ``evaluate --update-card``.
    """

    slices: SliceOptions
    data: TrainingData
    healthy_levels: dict[str, float]
    score: Score = "weighted"
    trim: int = 0
    calibration: dict[str, Any] = field(default_factory=dict)
    terms: str = OWN_TERMS

    @property
    def dice(self) -> float:
        """Mean Dice over the test patients with the cut ``mixture``; 0 if it was not measured."""
        measured = self.metrics["network"]["mixture"]["dice"] if self.metrics else None
        return 0.0 if measured is None else measured

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what determines a mask: the network's files, how slices are made, the score and its thresholds."""
        content = {
            "files": {name: value for name, value in self.checksums.items() if not is_extra(name)},
            "slices": asdict(self.slices),
            "score": self.score,
            "healthy_levels": self.healthy_levels,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _data_sections(self) -> dict[str, list[str]]:
        data = self.data
        kinds = {"none": "assumed lesion-free", "voxels": "of them used, with and without lesions"}
        healthy = kinds.get(self.training.get("labels", ""), "tumour-free")
        return {
            "Data": [
                f"- {data.patients} patients, {data.slices} slices; {data.chosen} selected, {data.healthy} {healthy}",
                *_sides(data),
                *bullets({"of the model that it was fine-tuned from": ", ".join(data.earlier)} if data.earlier else {}),
            ],
            "Slices": bullets(asdict(self.slices)),
        }

    def _result_sections(self) -> dict[str, list[str]]:
        unmeasured = ["not measured yet: run `brainseg-tf evaluate DATA --update-card`"]
        return {
            "Healthy thresholds by score": bullets(self.healthy_levels),
            **({"Calibration": bullets(self.calibration)} if self.calibration else {}),
            "Metrics": metrics_table(self.metrics) or unmeasured,
        }


@dataclass(frozen=True, kw_only=True)
class BrainCard(Card):
    """The card of a brain network.

    Attributes:
        grid: how a scan is resampled for the network.
        data: the subjects that it was trained and validated on.
        metrics: Dice of the brain masks by group of scans.
    """

    grid: HeadGridOptions
    data: BrainTrainingData
    terms: str = BRAIN_TERMS

    def _data_sections(self) -> dict[str, list[str]]:
        data = self.data
        return {
            "Data": [f"- {data.heads} heads with brain masks, {data.stripped} skull-stripped brains", *_sides(data)],
            "Grid": bullets(asdict(self.grid)),
        }

    def _result_sections(self) -> dict[str, list[str]]:
        return {"Metrics": bullets(self.metrics) or ["not measured"]}


def read_card(version_folder: Path) -> ModelCard | BrainCard:
    """Reads the card of a version folder, and checks the type and range of every field.

    Raises:
        InputError: the folder has no card, or the card does not fit the schema.
    """
    content = _read(version_folder)
    data: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content["data"].items()
    }
    modalities, metrics = tuple(content["modalities"]), _renamed(content.get("metrics", {}))
    common = {**content, "modalities": modalities, "metrics": metrics}
    if content["architecture"] == BRAIN:
        grid = HeadGridOptions(**content["grid"])
        return BrainCard(**{**common, "grid": grid, "data": BrainTrainingData(**data)})
    return ModelCard(**{**common, "slices": SliceOptions(**content["slices"]), "data": TrainingData(**data)})


def _renamed(metrics: Any) -> Any:
    """Metrics with their present names; cards that were written by version 0.9 or earlier have other names."""
    if not isinstance(metrics, dict):
        return metrics
    names = _RENAMED | {name: f"tumour_{name}" for name in metrics if name.startswith("free_")}
    return {names.get(name, name): _renamed(value) for name, value in metrics.items()}


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a card's canonical JSON (sorted keys, no blanks), without the checksum of the card itself."""
    others = {name: value for name, value in content["checksums"].items() if name != CARD_KEY}
    canonical = json.dumps({**content, "checksums": others}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest_on_disk(version_folder: Path) -> str:
    """``digest`` of the card in a version folder.

    Raises:
        InputError: the card cannot be read.
    """
    return digest({"checksums": {}, **_read(version_folder)})


def _read(version_folder: Path) -> dict[str, Any]:
    file = version_folder / FILE
    if not os.path.lexists(file):
        raise InputError(f"{printable(version_folder)}: contains no {FILE}; give a model that brainseg-tf fit exported")
    content: dict[str, Any] = parse_json(file, what=_WHAT, remedy=_REMEDY)
    try:
        card_schema.check(content)
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is not {_WHAT} ({mismatch}); {_REMEDY}") from mismatch
    return content


def checksums(version_folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a version folder, by its relative path.

    The card is left out, because its checksum is that of its content (``digest``). The Markdown card is left out,
    because it follows from the card. Hidden files are left out, because some file managers add them.

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
        path = printable(error.filename or version_folder)
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return found


def is_extra(name: str) -> bool:
    """Whether a file, given by its path in a version folder, is in ``assets.extra``, not part of the SavedModel."""
    return name.startswith(f"{FILE.parent.as_posix()}/")


def terms_of(patients: Iterable[str], initial: ModelCard | None = None) -> str:
    """The conditions of use of a model.

    Args:
        patients: names of those that it was trained on.
        initial: of the model that its training started from; its terms apply too.
    """
    own = (BRATS_TERMS if any(name.startswith("BraTS") for name in patients) else "") + OWN_TERMS
    if initial is None:
        return own
    return f"{own} The training started from {initial.name} {initial.version}, whose terms apply too: {initial.terms}"


def training_options(options: FitOptions | BrainFitOptions) -> dict[str, Any]:
    """The content of ``Card.training``: those options of a run that have no field of their own in the card."""
    schema = card_schema.training_of(options.architecture)
    known = {**schema.required, **schema.optional}
    return {name: value for name, value in asdict(options).items() if name in known}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect numerical results."""
    # The metadata of an editable installation can be those of an earlier version.
    own = {"python": platform.python_version(), "brainseg-tf": __version__}
    return own | {name: metadata.version(name) for name in _PACKAGES}


def _sides(data: TrainingData | BrainTrainingData) -> list[str]:
    """The names of the patients by role."""
    return [f"- {side}: {', '.join(getattr(data, side)) or 'none'}" for side in card_schema.SIDES]
