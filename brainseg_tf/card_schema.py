"""The schema of model cards: type and range of every field.

Cards of older versions do not have all of the optional fields and of the corruption options.
"""

import math
from typing import Any, get_args

from brainseg_tf.architectures import ARCHITECTURES, BRAIN
from brainseg_tf.options import BrainFitOptions, FitOptions, HeadGridOptions, Score, SliceOptions
from brainseg_tf.schema import (
    Anything,
    Choice,
    Digest,
    Integer,
    Items,
    Kind,
    Map,
    MismatchError,
    Name,
    Nullable,
    Number,
    Pair,
    Record,
    RelativePath,
    Text,
    of_dataclass,
)

# The roles of patients in a split.
SIDES = ("train", "validation", "test")
# The kinds of score of every network. Networks with a lesion probability also have the score "probability".
_SCORES = ("input", "absolute", "positive", "weighted")
_SHARE = Number(0, 1)
# Largest healthy threshold. Inputs are between 0 and 1, so that of a network that reconstructs them is below 1.
LARGEST_LEVEL = 10

_NAMES: dict[str, Kind] = dict.fromkeys(SIDES, Items(Text(), unique=True))
# Options of a run that have a field of their own in the card: of the network, and how a scan is prepared for it.
_LESION_NETWORK: dict[str, Kind] = {
    "architecture": Choice(ARCHITECTURES),
    "modalities": Items(Name(), 1, 64, unique=True),
    "slices": Record(of_dataclass(SliceOptions)),
}
_BRAIN_NETWORK: dict[str, Kind] = {
    "architecture": Choice((BRAIN,)),
    "modalities": Items(Name(), 1, 64, unique=True),
    "grid": Record(of_dataclass(HeadGridOptions)),
}
# The other options of a run, which are in the field ``training``.
_LESION_OPTIONS = of_dataclass(FitOptions, without=_LESION_NETWORK)
# Cards that were written by earlier versions do not have all of these.
_ADDED = ("examples", "columns", "views", "labels", "rounds", "initial", "precision")
_LESION_TRAINING = Record(
    {name: kind for name, kind in _LESION_OPTIONS.items() if name not in _ADDED},
    {name: _LESION_OPTIONS[name] for name in _ADDED},
)
_BRAIN_TRAINING = Record(of_dataclass(BrainFitOptions, without=_BRAIN_NETWORK))
_COMMON: dict[str, Kind] = {
    "name": Name(),
    "version": Integer(1),
    "parameters": Integer(1),
    "losses": Map(Number(-math.inf)),
    "versions": Map(Text()),
}
_OPTIONAL: dict[str, Kind] = {
    "metrics": Map(Anything()),
    "terms": Text(0, 10_000),
    "checksums": Map(Digest(), key=RelativePath()),
}
# Empty if the model was not calibrated.
_CALIBRATION = Record({}, {"scans": Items(Text(), unique=True), "intensities": Items(Number())})
_LESION_CARD = Record(
    {
        **_COMMON,
        **_LESION_NETWORK,
        "data": Record(
            {**dict.fromkeys(("patients", "slices", "chosen", "healthy"), Integer()), **_NAMES},
            dict.fromkeys(("earlier", "subjects"), Items(Text(), unique=True)),
        ),
        "training": _LESION_TRAINING,
        "healthy_levels": Record(dict.fromkeys(_SCORES, Number(0, LARGEST_LEVEL)), {"probability": _SHARE}),
    },
    {**_OPTIONAL, "score": Choice(get_args(Score)), "trim": Integer(0, 1024), "calibration": _CALIBRATION},
)
_BRAIN_CARD = Record(
    {
        **_COMMON,
        **_BRAIN_NETWORK,
        "data": Record({**dict.fromkeys(("heads", "stripped"), Integer()), **_NAMES}),
        "training": _BRAIN_TRAINING,
    },
    _OPTIONAL,
)
# Means over no patients and their intervals are null.
_MEASURED = Record(
    {"dice": Nullable(_SHARE), "dice_interval": Pair(Nullable(_SHARE)), "iou_slice": Nullable(_SHARE)}, rest=Anything()
)
_METRICS = Record(
    {
        "patients": Text(),
        "folds": Integer(),
        # "own" is the name of "mixture" in cards that were written by version 0.9 or earlier.
        "network": Record({}, dict.fromkeys(("mixture", "own"), _MEASURED), rest=Map(Anything())),
        "paper_iou_slice": Nullable(_SHARE),
    },
    {"no network": _MEASURED},
    rest=Anything(),
)


def check(card: Any) -> None:
    """Checks the content of a model card.

    Args:
        card: the content, from ``json.loads`` or ``dataclasses.asdict``.

    Raises:
        MismatchError: a field is missing or unknown, or its type or range is wrong; the message names the field.
    """
    if isinstance(card, dict) and card.get("architecture") == BRAIN:
        _BRAIN_CARD.check(card, "")
        check_sides(card["data"], "data")
        return
    _LESION_CARD.check(card, "")
    # Metrics are empty until the model is evaluated.
    if card.get("metrics"):
        _METRICS.check(card["metrics"], "metrics")
        if not {"mixture", "own"} & set(card["metrics"]["network"]):
            raise MismatchError("metrics.network.mixture: is missing")
    score = card.get("score", "weighted")
    if score not in card["healthy_levels"]:
        raise MismatchError(f"healthy_levels.{score}: is missing, but {score} is the model's score")
    check_sides(card["data"], "data")


def check_options(options: Any, name: str) -> None:
    """Checks the options of a run, so that the card of its model will be valid.

    Args:
        options: ``dataclasses.asdict`` of ``FitOptions`` or ``BrainFitOptions``.
        name: of the model.

    Raises:
        MismatchError: an option or the name is not valid; the message names it.
    """
    Name().check(name, "the model's name")
    network = _BRAIN_NETWORK if options["architecture"] == BRAIN else _LESION_NETWORK
    training = training_of(options["architecture"])
    Record({**network, **training.required, **training.optional}).check(options, "")
    finds_lesions = options["architecture"] != BRAIN and ARCHITECTURES[options["architecture"]].finds_lesions
    if options.get("labels") == "voxels" and not finds_lesions:
        raise MismatchError(f"labels: voxels needs a network with a lesion probability, not {options['architecture']}")
    if finds_lesions and options["labels"] != "voxels" and (kind := options["corruption"]["kind"]) != "lesions":
        raise MismatchError(f"corruption: {options['architecture']} learns from synthetic lesions, not from {kind}")


def training_of(architecture: str) -> Record:
    """The schema of the field ``training`` in the card of an architecture."""
    return _BRAIN_TRAINING if architecture == BRAIN else _LESION_TRAINING


def check_sides(sides: Any, where: str) -> None:
    """Checks that no patient of a split has two roles, for instance training and test.

    Args:
        sides: names of the patients by role, see ``SIDES``.
        where: name of the field, for the message.

    Raises:
        MismatchError: a patient has two roles; the message names the patient.
    """
    seen: dict[str, str] = {}
    for side in SIDES:
        for name in sides[side]:
            if name in seen:
                raise MismatchError(f"{where}: patient {name} is in {seen[name]} and in {side}")
            seen[name] = side
