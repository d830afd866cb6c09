"""The files of a training run, and the check whether a run can be started or resumed. Does not import TensorFlow.

``run.json`` holds the options that a run was started with. Every epoch adds a row to ``history.csv``. At the end the
model is exported as version 1.
"""

import csv
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from brainseg_tf import card_schema
from brainseg_tf.errors import InputError
from brainseg_tf.files import explain_csv_errors, printable, write_json
from brainseg_tf.json_file import read_json
from brainseg_tf.model_card import training_options, versions
from brainseg_tf.options import BrainFitOptions, FitOptions, Strategy
from brainseg_tf.saved_model import ExportedModel, ModelFolder, open_any
from brainseg_tf.schema import Anything, Integer, Items, Map, MismatchError, Record, Text
from brainseg_tf.serving.warmup import FILE as WARMUP
from brainseg_tf.training.cohort import Split

RECORD = "run.json"
HISTORY = "history.csv"
CHECKPOINTS = "checkpoints"
LEFT_OUT = "left_out.json"
REMEDY = "restore it from a copy, or start a new run with another --out"
# A training whose losses are larger has diverged.
_DIVERGED = 1e12
_SPLIT = Record({side: Items(Text(), unique=True) for side in card_schema.SIDES})
_RECORD = Record(
    {
        "options": Record({"epochs": Integer(1)}, rest=Anything()),
        "split": _SPLIT,
        "versions": Map(Text()),
    },
    {"lengthened_from": Items(Integer(1))},
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunSettings:
    """How a run is carried out. Only ``split`` and ``initial`` change the trained model.

    Attributes:
        split: the training, validation and test patients; drawn at random with the options' shares and seed if None.
        initial: the model whose weights the training starts from; it is named in the options too.
        resume: continue the run in the output folder, with the same options except for the number of epochs. At most
            the interrupted epoch is repeated.
        cache: folder of decoded slices; ``out/cache`` if None.
        strategy: the devices that train. With several hosts each of them calls ``fit``, with shared folders.
        say: called with each progress line for the user.
        verbose: as in ``keras.Model.fit``; 1 shows progress bars.
        tensorboard: folder for the losses in TensorBoard's format; None writes none.
    """

    split: Split | None = None
    initial: ModelFolder | None = None
    resume: bool = False
    cache: Path | None = None
    strategy: Strategy = "single"
    say: Say = print
    verbose: int = 0
    tensorboard: Path | None = None


@dataclass(frozen=True)
class RunRecord:
    """The content of ``run.json``.

    Attributes:
        options: of the run, ``asdict`` of ``FitOptions`` or ``BrainFitOptions`` as JSON stores it.
        split: the training, validation and test patients.
        versions: of the packages that the run was started with.
        lengthened_from: earlier values of the option ``epochs``, if it was changed by resuming.
    """

    options: dict[str, Any]
    split: Split
    versions: dict[str, str]
    lengthened_from: tuple[int, ...] = ()

    @property
    def epochs(self) -> int:
        """Largest number of epochs."""
        return self.options["epochs"]


@dataclass
class History:
    """The history of a run.

    Attributes:
        rows: one per epoch, with its number (``epoch``, from 1) and its losses.
        counted_from: number of epochs at the start whose validation losses do not count, because they were measured
            on other slices.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    counted_from: int = 0

    @property
    def best(self) -> dict[str, float] | None:
        """The row with the lowest validation loss; None if the losses of no row that counts are numbers below 1e12."""
        usable = [row for row in self.rows[self.counted_from :] if all(abs(one) < _DIVERGED for one in row.values())]
        return min(usable, key=lambda row: row["val_loss"]) if usable else None

    def exhausted(self, patience: int) -> bool:
        """Whether the last ``patience`` epochs did not lower the validation loss."""
        best = self.best["epoch"] if self.best else self.counted_from
        return len(self.rows) - best >= patience


def read_record(out: Path) -> RunRecord:
    """Reads a run's options and split.

    Raises:
        InputError: ``out`` contains no run, or ``run.json`` is damaged.
    """
    file = out / RECORD
    if not file.exists():
        raise InputError(f"{printable(out)}: contains no training run to resume; omit --resume to start one")
    content = read_json(file, _RECORD, what="the record of a training run", remedy=REMEDY)
    try:
        card_schema.check_sides(content["split"], "split")
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is damaged ({mismatch}); {REMEDY}") from mismatch
    return RunRecord(**{**content, "split": Split(**content["split"])})


def write_record(
    out: Path, options: FitOptions | BrainFitOptions, split: Split, before: RunRecord | None = None
) -> None:
    """Writes ``run.json`` for a new run, or for a resumed run with another number of epochs.

    Args:
        out: the run's folder.
        options, split: of the run.
        before: the present content of the file, if the run is resumed.
    """
    content: dict[str, Any] = {
        "options": asdict(options),
        "split": asdict(split),
        "versions": versions() if before is None else before.versions,
    }
    if before is not None:
        content["lengthened_from"] = [*before.lengthened_from, before.epochs]
    write_json(out / RECORD, content)


def read_history(file: Path) -> list[dict[str, float]]:
    """Reads the rows of a ``history.csv``.

    Raises:
        InputError: the file cannot be read, or does not have one valid row per epoch from epoch 1 on.
    """
    with explain_csv_errors(file, "is not a valid training history", REMEDY):
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines, strict=True)
            names = rows.fieldnames or []
            if not {"epoch", "val_loss"} <= set(names):
                raise ValueError("the columns epoch and val_loss are missing")
            history = [_numbers(row, number) for number, row in enumerate(rows, start=1)]
        if not history:
            raise ValueError("it contains no epoch")
        return history


def check_run(out: Path, options: FitOptions | BrainFitOptions, *, resume: bool) -> ExportedModel | None:
    """Checks before any computation that a run can be started or resumed in a folder.

    A resumed run must have the same options as before, except for the number of epochs.

    Args:
        out: the run's folder.
        options: of the run.
        resume: whether the run in ``out`` is resumed.

    Returns:
        The exported model if the run is finished and nothing remains to be done, else None.

    Raises:
        InputError: the folder contains a run and ``resume`` is not set; it contains none and ``resume`` is set; the
            options differ from those of the run; more epochs are finished than requested; more epochs are requested
            for a run that ended by early stopping; the run is unfinished and of another version of this package; or a
            file is damaged.
    """
    try:
        card_schema.check_options(asdict(options), out.resolve().name)
    except MismatchError as mismatch:
        raise InputError(f"{printable(out)}: {mismatch}; give another value, or another --out") from mismatch
    if not resume:
        _check_new(out)
    else:
        record = read_record(out)
        _compare(record.options, json.loads(json.dumps(asdict(options))), out)
        rows = read_history(out / HISTORY) if (out / HISTORY).exists() else []
        history = History(rows, options.counted_from)
        _check_epochs(out, options, record, history)
        model = _finished(out, options, history)
        if model is not None:
            return model
        _check_version(out, record)
    return None


def check_tensorboard() -> None:
    """Checks that the losses can be written for TensorBoard.

    Raises:
        InputError: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard; pip install 'brainseg-tf[tensorboard]'")


def nothing_to_do(out: Path, options: FitOptions | BrainFitOptions) -> str:
    """The message for the user about a finished run."""
    history = History(read_history(out / HISTORY), options.counted_from)
    same_version = read_record(out).versions.get("brainseg-tf") == versions()["brainseg-tf"]
    can_continue = same_version and not options.counted_from and not history.exhausted(options.patience)
    return (
        f"the run in {printable(out)} is finished after {len(history.rows)} epochs; there is nothing to do"
        f"{' (a larger --epochs continues it)' if can_continue else ''}"
    )


def check_readable(out: Path, split: Split, readable: Collection[str]) -> None:
    """Checks that a resumed run can still read its scans.

    Args:
        out: the run's folder.
        split: of the run.
        readable: names of the patients that can be read.

    Raises:
        InputError: a training or validation patient cannot be read.
    """
    for side, names in (("training", split.train), ("validation", split.validation)):
        if gone := [name for name in names if name not in readable]:
            raise InputError(
                f"{printable(out)}: was started with {len(names)} scans for {side}, of which {gone[0]} cannot be "
                "read; restore it, or start a new run with another --out"
            )


def _check_new(out: Path) -> None:
    if (out / RECORD).exists():
        raise InputError(
            f"{printable(out)}: contains a training run already; give --resume to continue it, or another --out"
        )
    for name in (HISTORY, CHECKPOINTS, LEFT_OUT, "1"):
        if (out / name).exists():
            raise InputError(f"{printable(out / name)}: belongs to another run or model; choose another --out")


def _check_epochs(out: Path, options: FitOptions | BrainFitOptions, record: RunRecord, history: History) -> None:
    done = len(history.rows)
    if options.epochs < done:
        raise InputError(
            f"{printable(out)}: has {done} finished epochs, more than {options.epochs}; give --epochs {done} or more"
        )
    if options.epochs != record.epochs and options.counted_from:
        raise InputError(
            f"{printable(out)}: the slices that are left out depend on the number of epochs, so it cannot be changed; "
            f"give --epochs {record.epochs}, or fine-tune the model with --from"
        )
    if options.epochs > record.epochs and done and history.exhausted(options.patience):
        raise InputError(
            f"{printable(out)}: was ended by early stopping after {done} epochs, the last {options.patience} without a "
            "lower validation loss, and cannot be continued; start a new run with a larger --patience and another --out"
        )


def _check_version(out: Path, record: RunRecord) -> None:
    started_with, installed = record.versions.get("brainseg-tf"), versions()["brainseg-tf"]
    if started_with != installed:
        raise InputError(
            f"{printable(out)}: was started with brainseg-tf {started_with}, whose networks can have other layers than "
            f"those of {installed}; install {started_with} to continue, or give another --out to start a new run"
        )


def _finished(out: Path, options: FitOptions | BrainFitOptions, history: History) -> ExportedModel | None:
    """The exported model of a finished run; None if it is missing, damaged or not from the run's best epoch."""
    ended = len(history.rows) == options.epochs or (history.rows and history.exhausted(options.patience))
    if not ended or history.best is None:
        return None
    try:
        model = open_any(out / "1")
        model.check()
    except InputError:
        return None  # The caller exports it again.
    same_options = model.card.training == json.loads(json.dumps(training_options(options)))
    best_epoch = model.card.losses.get("epoch") == history.best["epoch"]
    return model if same_options and best_epoch and (model.path / WARMUP).is_file() else None


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], out: Path, prefix: str = "") -> None:
    """Checks that all options are the same as before, except for the number of epochs."""
    for name, value in now.items():
        if name == "epochs" and not prefix:
            continue
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            _compare(old, value, out, f"{prefix}{name}.")
            continue
        old = list(old) if isinstance(old, tuple) else old
        if old != value:
            raise InputError(
                f"{printable(out)}: was started with {prefix}{name} {_shown(old)}, not {_shown(value)}; give the same "
                "options"
            )


def _shown(value: Any) -> str:
    text = " and ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    return printable(text)[:200]


def _numbers(row: Mapping[str | None, str | None], number: int) -> dict[str, float]:
    if None in row or None in row.values():
        raise ValueError(f"epoch {number} does not have the same number of columns as the first line")
    values = {str(name): int(value or "") if name == "epoch" else float(value or "") for name, value in row.items()}
    if values["epoch"] != number:
        raise ValueError(f"expected epoch {number}, found epoch {values['epoch']}")
    return values
