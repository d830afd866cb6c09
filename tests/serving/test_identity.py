"""Comparison of a served model's description with a card."""

import json
from dataclasses import replace

import pytest

from brainseg_tf.saved_model import find
from brainseg_tf.serving.identity import differences, identity


@pytest.fixture(scope="module")
def card():
    return find("cvae").card


def test_a_description_matches_its_card_after_allowed_changes(card):
    assert differences(identity(card), card) == []
    later = replace(card, version=7, metrics={"dice": 1.0}, checksums={}, healthy_levels={"weighted": 0.5})
    assert differences(identity(later), card) == []


def test_each_difference_is_named(card):
    other = replace(
        card,
        architecture="dae",
        modalities=("flair", "t2"),
        slices=replace(card.slices, size=64),
        losses={name: value + 1e-9 for name, value in card.losses.items()},
    )
    found = {name: (served, expected) for name, served, expected in differences(identity(other), card)}
    assert set(found) == {"architecture", "modalities", "slices.size", "training_sha256"}
    assert found["slices.size"] == (64, card.slices.size)
    assert found["modalities"] == (["flair", "t2"], ["flair"])


def test_a_description_of_an_older_version_is_compared_by_its_options(card):
    """Such a description has no digest, and lacks slice options that were added later."""
    older = json.loads(identity(card))
    del older["training_sha256"]
    assert older["slices"].pop("central") == 1.0
    assert differences(json.dumps(older), card) == []
    changed = replace(card, slices=replace(card.slices, central=0.5))
    assert differences(json.dumps(older), changed) == [("slices.central", 1.0, 0.5)]


def test_an_unknown_option_is_a_difference(card):
    newer = json.loads(identity(card))
    newer["slices"]["unknown"] = 3
    assert differences(json.dumps(newer), card) == [("slices.unknown", 3, None)]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ("[" * 90_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("5", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "lacks architecture, modalities, slices"),
        ('{"architecture": "cvae", "modalities": ["flair"]}', "lacks slices"),
        ('{"architecture": "cvae", "modalities": ["flair"], "slices": [1]}', "not a JSON object of options"),
        ("x" * 200_000, "200000 characters"),
    ],
)
def test_an_invalid_description_is_refused(card, described, message):
    with pytest.raises(ValueError, match=message):
        differences(described, card)
