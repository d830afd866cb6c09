"""What a training run has left in its folder, and whether it can go on. No TensorFlow.

A run is begun with the options in ``run.json``. Every epoch adds a row to ``history.csv``. The model is exported at the
end, as version 1.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from brainseg_tf import card_schema
from brainseg_tf.errors import InputError
from brainseg_tf.files import printable, write_json
from brainseg_tf.json_file import read_json
from brainseg_tf.model_card import training_options, versions
from brainseg_tf.options import FitOptions
from brainseg_tf.saved_model import ModelFolder, open_folder
from brainseg_tf.schema import Anything, Items, Map, MismatchError, Record, Text, Whole
from brainseg_tf.serving.warmup import FILE as WARMUP
from brainseg_tf.training.cohort import Split

RECORD = "run.json"
HISTORY = "history.csv"
CHECKPOINTS = "checkpoints"
REMEDY = "restore it from a copy, or begin anew with another --out"
_SPLIT = Record({side: Items(Text(), unique=True) for side in card_schema.SIDES})
_RECORD = Record(
    {
        "options": Record({"epochs": Whole(1)}, rest=Anything()),
        "split": _SPLIT,
        "versions": Map(Text()),
    },
    {"lengthened_from": Items(Whole(1))},
)


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds.

    Attributes:
        options: of the run, ``asdict`` of ``FitOptions`` after a way through JSON.
        split: which patients stand on which side.
        versions: of the packages it was begun with.
        lengthened_from: the numbers of epochs that the run was to have before, if it was lengthened.
    """

    options: dict[str, Any]
    split: Split
    versions: dict[str, str]
    lengthened_from: tuple[int, ...] = ()

    @property
    def epochs(self) -> int:
        """At most this many."""
        return self.options["epochs"]


@dataclass
class History:
    """The epochs of a run: a row each, with its number (``epoch``, from 1) and its losses."""

    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, float] | None:
        """The row with the lowest validation loss; None if there is no row whose loss is a number."""
        known = [row for row in self.rows if math.isfinite(row["val_loss"])]
        return min(known, key=lambda row: row["val_loss"]) if known else None

    def exhausted(self, patience: int) -> bool:
        """Whether ``patience`` epochs have gone by without a better validation loss."""
        best = self.best["epoch"] if self.best else 0
        return len(self.rows) - best >= patience


def read_record(out: Path) -> RunRecord:
    """Reads a run's options and split.

    Raises:
        InputError: ``out`` holds no run, or ``run.json`` is damaged.
    """
    file = out / RECORD
    if not file.exists():
        raise InputError(f"{printable(out)}: holds no run to resume; leave --resume out to start one")
    content = read_json(file, _RECORD, what="the record of a training run", remedy=REMEDY)
    try:
        card_schema.check_sides(content["split"], "split")
    except MismatchError as mismatch:
        raise InputError(f"{printable(file)}: is damaged ({mismatch}); {REMEDY}") from mismatch
    return RunRecord(**{**content, "split": Split(**content["split"])})


def write_record(out: Path, options: FitOptions, split: Split, before: RunRecord | None = None) -> None:
    """Writes ``run.json``: of a new run, or of one that goes on to another number of epochs.

    Args:
        out: the run's folder.
        options, split: of the run.
        before: what the file holds, if the run goes on.
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
    """The rows of a ``history.csv``, numbers as numbers.

    Raises:
        InputError: it cannot be read, or is not the history of a run from its first epoch on.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines, strict=True)
            names = rows.fieldnames or []
            if not {"epoch", "val_loss"} <= set(names):
                raise ValueError("the columns epoch and val_loss are missing")
            history = [_numbers(row, number) for number, row in enumerate(rows, start=1)]
        if not history:
            raise ValueError("there is no epoch in it")
        return history
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except (ValueError, csv.Error) as error:
        reason = printable(error)
    raise InputError(f"{printable(file)}: is not the history of a run ({reason}); {REMEDY}")


def check_run(out: Path, options: FitOptions, *, resume: bool) -> ModelFolder | None:
    """Refuses a folder that does not fit the options, before any work.

    A run that goes on keeps all its options but the number of epochs.

    Args:
        out: the run's folder.
        options: of the run.
        resume: whether the run that ``out`` holds goes on.

    Returns:
        The exported model of a run that is finished, so that there is nothing left to do; else None.

    Raises:
        InputError: there is a run and ``resume`` is not set, or none and it is; other options than the run's; fewer
            epochs than it has behind it; more epochs for a run that stopped early; another version's unfinished run;
            a damaged file.
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
        history = History(read_history(out / HISTORY) if (out / HISTORY).exists() else [])
        _check_epochs(out, options, record, history)
        model = _finished(out, options, history)
        if model is not None:
            return model
        _check_version(out, record)
    return None


def nothing_to_do(out: Path) -> str:
    """A line on a finished run."""
    return (
        f"the run in {printable(out)} is finished after {len(read_history(out / HISTORY))} epochs; there is nothing to "
        "do (--epochs lengthens it)"
    )


def _check_new(out: Path) -> None:
    if (out / RECORD).exists():
        raise InputError(
            f"{printable(out)}: holds a training run already; give --resume to go on with it, or another --out"
        )
    for name in (HISTORY, CHECKPOINTS, "1"):
        if (out / name).exists():
            raise InputError(f"{printable(out / name)}: is what another run or model has left; choose another --out")


def _check_epochs(out: Path, options: FitOptions, record: RunRecord, history: History) -> None:
    done = len(history.rows)
    if options.epochs < done:
        raise InputError(
            f"{printable(out)}: has {done} epochs behind it, more than {options.epochs}; give --epochs {done} or more"
        )
    if options.epochs > record.epochs and done and history.exhausted(options.patience):
        raise InputError(
            f"{printable(out)}: stopped after {done} epochs, {options.patience} of them without a better validation "
            "loss, so that more --epochs change nothing; begin anew with a larger --patience and another --out"
        )


def _check_version(out: Path, record: RunRecord) -> None:
    begun, ours = record.versions.get("brainseg-tf"), versions()["brainseg-tf"]
    if begun != ours:
        raise InputError(
            f"{printable(out)}: was begun with brainseg-tf {begun}, whose networks can have other layers than those of "
            f"{ours}; install {begun} to go on, or give another --out to begin anew"
        )


def _finished(out: Path, options: FitOptions, history: History) -> ModelFolder | None:
    """The model that the run has exported, if it is whole and made of the best of all its epochs."""
    ended = len(history.rows) == options.epochs or (history.rows and history.exhausted(options.patience))
    if not ended or history.best is None:
        return None
    try:
        model = open_folder(out / "1")
        model.check()
    except InputError:
        return None  # It is exported again.
    made_of_it = model.card.training == json.loads(json.dumps(training_options(options)))
    made_of_best = model.card.losses.get("epoch") == history.best["epoch"]
    return model if made_of_it and made_of_best and (model.path / WARMUP).is_file() else None


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], out: Path, above: str = "") -> None:
    for name, value in now.items():
        if name == "epochs" and not above:
            continue
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            _compare(old, value, out, f"{above}{name}.")
            continue
        old = list(old) if isinstance(old, tuple) else old
        if old != value:
            raise InputError(
                f"{printable(out)}: was begun with {above}{name} {_shown(old)}, not {_shown(value)}; give the same "
                "options"
            )


def _shown(value: Any) -> str:
    text = " and ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
    return printable(text)[:200]


def _numbers(row: Mapping[str | None, str | None], number: int) -> dict[str, float]:
    if None in row or None in row.values():
        raise ValueError(f"epoch {number} has another number of columns than the first line")
    values = {str(name): int(value or "") if name == "epoch" else float(value or "") for name, value in row.items()}
    if values["epoch"] != number:
        raise ValueError(f"epoch {values['epoch']} is where {number} should be")
    return values
