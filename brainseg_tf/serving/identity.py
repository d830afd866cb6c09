"""What a client checks of a served model before it sends slices."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import SliceOptions

# The key of the digest that tells two training runs apart.
TRAINING = "training_sha256"
# More than any description takes.
_LONGEST = 100_000
_REQUIRED = ("architecture", "modalities", "slices")


def identity(card: ModelCard) -> str:
    """The answer of the signature ``describe``, as JSON.

    ``architecture``, ``modalities`` and ``slices`` are those of the card. ``training_sha256`` tells models of one kind
    apart: two runs have other losses. It leaves out what may change after the export (version, levels, metrics).
    """
    known = {
        "architecture": card.architecture,
        "modalities": card.modalities,
        "slices": asdict(card.slices),
        TRAINING: _training_digest(card),
    }
    return json.dumps(known, sort_keys=True)


def differences(described: str, card: ModelCard) -> list[tuple[str, Any, Any]]:
    """Compares a served model's description with a card.

    A slice option that the description lacks has its default, as in a model card. Models that were exported
    by 0.8.1 or earlier do not give ``training_sha256``; then it is not compared.

    Returns:
        Name, served value and value of the card of each difference.

    Raises:
        ValueError: the text is no description of a model.
    """
    if len(described) > _LONGEST:
        raise ValueError(f"it has {len(described)} characters")
    try:
        theirs = json.loads(described)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(theirs, dict) or not isinstance(theirs.get("slices", {}), dict):
        raise ValueError("it is not a JSON object of options")
    missing = [key for key in _REQUIRED if key not in theirs]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    ours = json.loads(identity(card))
    theirs_flat = _flat({TRAINING: ours[TRAINING]} | theirs)
    theirs_flat = _flat({"slices": asdict(SliceOptions())}) | theirs_flat
    ours_flat = _flat(ours)
    options = sorted(name for name in {**ours_flat, **theirs_flat} if name.startswith("slices."))
    names = ["architecture", "modalities", *options, TRAINING]
    return [
        (name, theirs_flat.get(name), ours_flat.get(name))
        for name in names
        if theirs_flat.get(name) != ours_flat.get(name)
    ]


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """The options with the slices' beside the others, as ``slices.NAME``."""
    options = {name: value for name, value in description.items() if name != "slices"}
    return options | {f"slices.{name}": value for name, value in description["slices"].items()}


def _training_digest(card: ModelCard) -> str:
    # Through JSON and back: the card in memory has tuples where the card that was read has lists.
    known = {"parameters": card.parameters, "training": card.training, "losses": card.losses}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
