"""The description by which a client checks that a served model is the expected one."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from brainseg_tf.model_card import BrainCard, ModelCard
from brainseg_tf.options import SliceOptions

# The key of the digest that distinguishes training runs.
TRAINING = "training_sha256"
# Longer than any valid description.
_MOST_CHARACTERS = 100_000
_REQUIRED = ("architecture", "modalities")
# How a scan is prepared: one of these is required too.
_PREPARATION = ("slices", "grid")
_PREFIXES = tuple(f"{name}." for name in _PREPARATION)


def identity(card: ModelCard | BrainCard) -> str:
    """The output of the signature ``describe``, as JSON.

    ``architecture``, ``modalities`` and ``slices`` (``grid`` of a brain network) are those of the card.
    ``training_sha256`` distinguishes models with the same values of these, because the losses of two training runs
    differ. It does not depend on the parts of the card that can change after the export (version, healthy thresholds,
    metrics).
    """
    known = {
        "architecture": card.architecture,
        "modalities": card.modalities,
        **({"grid": asdict(card.grid)} if isinstance(card, BrainCard) else {"slices": asdict(card.slices)}),
        TRAINING: _training_digest(card),
    }
    return json.dumps(known, sort_keys=True)


def differences(described: str, card: ModelCard | BrainCard) -> list[tuple[str, Any, Any]]:
    """Compares a served model's description with a card.

    A slice option that the description does not contain has its default value, as in a model card. Models that were
    exported by version 0.8.1 or earlier have no ``training_sha256``; then it is not compared.

    Args:
        described: the output of the signature ``describe``.
        card: of the expected model.

    Returns:
        Name, value of the served model and value of the card for each difference.

    Raises:
        ValueError: the text is not a description of a model.
    """
    if len(described) > _MOST_CHARACTERS:
        raise ValueError(f"it has {len(described)} characters")
    try:
        served = json.loads(described)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(served, dict) or not all(isinstance(served.get(name, {}), dict) for name in _PREPARATION):
        raise ValueError("it is not a JSON object of options")
    missing = [key for key in _REQUIRED if key not in served]
    if not any(name in served for name in _PREPARATION):
        missing.append(_PREPARATION[0])
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    expected = json.loads(identity(card))
    if "slices" in served:
        served["slices"] = asdict(SliceOptions()) | served["slices"]
    served_options, expected_options = _flat({TRAINING: expected[TRAINING]} | served), _flat(expected)
    prepared = sorted(name for name in {**expected_options, **served_options} if name.startswith(_PREFIXES))
    names = ["architecture", "modalities", *prepared, TRAINING]
    return [
        (name, served_options.get(name), expected_options.get(name))
        for name in names
        if served_options.get(name) != expected_options.get(name)
    ]


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """The description as a flat dictionary, with the options of slices or grid as ``slices.NAME`` or ``grid.NAME``."""
    options = {name: value for name, value in description.items() if name not in _PREPARATION}
    for part in _PREPARATION:
        options |= {f"{part}.{name}": value for name, value in description.get(part, {}).items()}
    return options


def _training_digest(card: ModelCard | BrainCard) -> str:
    # JSON makes the digest the same for a new card, which has tuples, and for a card that was read, which has lists.
    content = {"parameters": card.parameters, "training": card.training, "losses": card.losses}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
