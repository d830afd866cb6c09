"""The type and range of every field of a model card.

Cards of older versions lack some of the optional fields, and some of the options of a corruption.
"""

import math
from typing import Any, get_args

from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.options import FitOptions, Score, SliceOptions
from brainseg_tf.schema import (
    Anything,
    Choice,
    Digest,
    Items,
    Kind,
    Map,
    MismatchError,
    Name,
    Nullable,
    Number,
    Pair,
    Place,
    Record,
    Text,
    Whole,
    of_dataclass,
)

SIDES = ("train", "validation", "test")
# Every network has these; those that give a lesion's probability have that too.
_SCORES = ("input", "absolute", "positive", "weighted")
_SHARE = Number(0, 1)

# What the network is and how slices are made for it: the options of a run that have a field of their own in the card.
_NETWORK: dict[str, Kind] = {
    "architecture": Choice(ARCHITECTURES),
    "modalities": Items(Name(), 1, 64, unique=True),
    "slices": Record(of_dataclass(SliceOptions)),
}
# All other options of a run.
TRAINING = Record(of_dataclass(FitOptions, without=_NETWORK))
_CARD = Record(
    {
        "name": Name(),
        "version": Whole(1),
        **_NETWORK,
        "parameters": Whole(1),
        "data": Record(
            {
                **dict.fromkeys(("patients", "slices", "chosen", "healthy"), Whole()),
                **dict.fromkeys(SIDES, Items(Text(), unique=True)),
            }
        ),
        "training": TRAINING,
        "losses": Map(Number(-math.inf)),
        "healthy_levels": Record(dict.fromkeys(_SCORES, Number(0, 10)), {"probability": _SHARE}),
        "versions": Map(Text()),
    },
    {
        "score": Choice(get_args(Score)),
        "trim": Whole(0, 1024),
        "metrics": Map(Anything()),
        "terms": Text(0, 10_000),
        "checksums": Map(Digest(), key=Place()),
    },
)
# A mean over no patients, and the interval around it, are null.
_MEASURED = Record(
    {"dice": Nullable(_SHARE), "dice_interval": Pair(Nullable(_SHARE)), "iou_slice": Nullable(_SHARE)}, rest=Anything()
)
_METRICS = Record(
    {
        "patients": Text(),
        "folds": Whole(),
        # "own" is the name of "mixture" up to version 0.9.
        "network": Record({}, dict.fromkeys(("mixture", "own"), _MEASURED), rest=Map(Anything())),
        "paper_iou_slice": Nullable(_SHARE),
    },
    {"no network": _MEASURED},
    rest=Anything(),
)


def check(card: Any) -> None:
    """Refuses what is no model card.

    Args:
        card: as ``json.loads`` or ``dataclasses.asdict`` gives it.

    Raises:
        MismatchError: a field is missing, unknown, or of another type or range; the message names it.
    """
    _CARD.check(card, "")
    # A model that was not measured has none.
    if card.get("metrics"):
        _METRICS.check(card["metrics"], "metrics")
        if not {"mixture", "own"} & set(card["metrics"]["network"]):
            raise MismatchError("metrics.network.mixture: is missing")
    score = card.get("score", "weighted")
    if score not in card["healthy_levels"]:
        raise MismatchError(f"healthy_levels.{score}: is missing, and it is the model's score")
    check_sides(card["data"], "data")


def check_options(options: Any, name: str) -> None:
    """Refuses the options of a run whose card would be refused.

    Args:
        options: ``dataclasses.asdict`` of ``FitOptions``.
        name: of the model.

    Raises:
        MismatchError: the message names the option.
    """
    Name().check(name, "the model's name")
    Record({**_NETWORK, **TRAINING.required}).check(options, "")


def check_sides(sides: Any, where: str) -> None:
    """Refuses a split with a patient on two sides.

    Raises:
        MismatchError: the message names the patient.
    """
    seen: dict[str, str] = {}
    for side in SIDES:
        for name in sides[side]:
            if name in seen:
                raise MismatchError(f"{where}: patient {name} is on the sides {seen[name]} and {side}")
            seen[name] = side
