"""What a client has to know of a model before it may send slices."""

import json
from dataclasses import asdict

from brainseg_tf.model_card import ModelCard


def identity(card: ModelCard) -> str:
    """As JSON: the network, its channels and how its slices are made; the signature ``describe`` answers it."""
    known = {"architecture": card.architecture, "modalities": card.modalities, "slices": asdict(card.slices)}
    return json.dumps(known, sort_keys=True)
