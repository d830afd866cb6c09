"""The schema and the checksums of model cards, tested with the shipped cards and without TensorFlow."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from brainseg_tf import __version__
from brainseg_tf.errors import InputError
from brainseg_tf.model_card import CARD_KEY, FILE, digest, read_card, versions
from brainseg_tf.saved_model import open_folder
from brainseg_tf.serving.warmup import FILE as WARMUP

SHIPPED = Path(__file__).parents[1] / "saved_models"
VERSIONS = sorted(file.parent for file in SHIPPED.glob("*/*/saved_model.pb"))


@pytest.fixture
def model(tmp_path) -> Path:
    """A version folder with a card that this version of the package has written."""
    folder = tmp_path / "cvae" / "2"
    shutil.copytree(SHIPPED / "cvae" / "2", folder)
    read_card(folder).write(folder)
    return folder


@pytest.fixture
def old_model(tmp_path) -> Path:
    """A version folder with a card of an older version, which does not contain its own checksum."""
    folder = tmp_path / "cvae" / "2"
    shutil.copytree(SHIPPED / "cvae" / "2", folder)
    content = json.loads((folder / FILE).read_text())
    sums = content["checksums"]
    content["checksums"] = {name: sums[name] for name in sums if not name.startswith("assets.extra/")}
    (folder / FILE).write_text(json.dumps(content))
    return folder


def edit(folder: Path, dotted: str, value: object) -> None:
    """Sets a field of a card, or removes it if the value is ``...``."""
    content = json.loads((folder / FILE).read_text())
    parent, *names = content, *dotted.split(".")
    for name in names[:-1]:
        parent = parent[name]
    if value is ...:
        del parent[names[-1]]
    else:
        parent[names[-1]] = value
    (folder / FILE).write_text(json.dumps(content))


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_shipped_cards_are_read_unchanged(folder):
    card = read_card(folder)
    content = json.loads((folder / FILE).read_text())
    assert (card.name, card.version, card.metrics) == (content["name"], content["version"], content["metrics"])
    assert getattr(card, "healthy_levels", None) == content.get("healthy_levels")
    assert (folder / FILE).with_suffix(".md").read_text(encoding="utf-8") == card.markdown()


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("slices.size", "abc", "expected an integer from 16 to 1024, found 'abc'"),
        ("slices.size", 100000, "expected an integer from 16 to 1024, found 100000"),
        ("slices.size", 128.5, "expected an integer"),
        ("slices.size", None, "expected an integer from 16 to 1024, found null"),
        ("slices.size", [128], "found a list"),
        ("slices.size", ..., "is missing"),
        ("slices.sise", 128, "is an unknown field"),
        ("slices.spacing", 0, "expected a number from 0.1 to 100, found 0"),
        ("slices.field_of_view", -240, "expected a number from 10 to 2000, found -240"),
        ("slices.normalisation", "zscore", "expected one of slice, volume, robust, found 'zscore'"),
        ("slices.central", 1.5, "expected a number from 0 to 1, found 1.5"),
        ("slices", "robust", "expected an object, found 'robust'"),
        ("healthy_levels", {}, "healthy_levels.input: is missing"),
        ("healthy_levels.weighted", float("nan"), "expected a number from 0 to 10, found nan"),
        ("healthy_levels.weighted", float("inf"), "expected a number from 0 to 10, found inf"),
        ("healthy_levels.weighted", -0.1, "expected a number from 0 to 10, found -0.1"),
        ("healthy_levels.weighted", "0.2", "expected a number from 0 to 10, found '0.2'"),
        ("score", "nonsense", "expected one of absolute, positive, weighted"),
        ("score", "probability", "healthy_levels.probability: is missing, but probability is the model's score"),
        ("architecture", "resnet", "expected one of cvae, dcvae, dae, unet, selfseg, fusion, found 'resnet'"),
        ("name", "../../etc/passwd", "expected a name (no path, no control characters), found '../../etc/passwd'"),
        ("name", "", "expected a name"),
        ("name", "a\x1b[31m", r"expected a name (no path, no control characters), found 'a\x1b[31m'"),
        ("version", 0, "expected an integer of at least 1, found 0"),
        ("version", "2", "expected an integer of at least 1, found '2'"),
        ("version", True, "expected an integer of at least 1, found true"),
        ("trim", -1, "expected an integer from 0 to 1024, found -1"),
        ("trim", 1.5, "expected an integer from 0 to 1024, found 1.5"),
        ("modalities", [], "expected a list of 1 to 64 items, found 0"),
        ("modalities", ["flair", "flair"], "contains 'flair' twice"),
        ("modalities", "flair", "expected a list, found 'flair'"),
        ("modalities", [1], "modalities[0]: expected a name"),
        ("modalities", ["../t2"], "modalities[0]: expected a name"),
        ("data.train", ["a", "a"], "contains 'a' twice"),
        ("data.patients", -1, "expected an integer of at least 0, found -1"),
        ("data.test", ..., "is missing"),
        ("training.epochs", 0, "expected an integer of at least 1, found 0"),
        ("training.learning_rate", 0, "expected a number from 1e-12 to 1000, found 0"),
        ("training.corruption.kind", "fog", "expected one of shapes, noise, both, lesions, found 'fog'"),
        ("training.corruption.lesions.radius", [0.3, 0.1], "expected the lower limit first"),
        ("training.corruption", ..., "is missing"),
        ("training.objective.kl", -1, "expected a number of at least 0, found -1"),
        ("losses.loss", "low", "expected a finite number, found 'low'"),
        ("metrics.network", {}, "metrics.network.mixture: is missing"),
        ("metrics.network.mixture.dice", "good", "expected a number from 0 to 1, found 'good'"),
        ("metrics.network.mixture.dice_interval", [0.9, 0.1], "expected the lower limit first"),
        ("metrics", [], "expected an object, found a list"),
        ("checksums", {"/etc/passwd": "0" * 64}, "expected a relative path, found '/etc/passwd'"),
        ("checksums", {"saved_model.pb": "0"}, "expected a SHA-256 of 64 hexadecimal digits, found '0'"),
        ("metrics.network.oracle.iou", float("nan"), "expected a finite number, found nan"),
        ("versions.numpy", 2, "expected one line of text, at most 255 characters, found 2"),
        ("terms", ["none"], "expected one line of text"),
        ("more", 1, "is an unknown field"),
        ("losses", ..., "is missing"),
    ],
)
def test_a_field_of_another_type_or_range_is_named(model, field, value, found):
    edit(model, field, value)
    with pytest.raises(InputError) as caught:
        read_card(model)
    message = str(caught.value)
    assert message.startswith(f"{model / FILE}: is not a model card of this version of brainseg-tf (")
    assert found in message and message.endswith("); export the model again")
    assert field in message
    assert message.isprintable()


def test_a_patient_with_two_roles_is_refused(model):
    edit(model, "data.train", ["one", "two"])
    edit(model, "data.test", ["two"])
    with pytest.raises(InputError, match="data: patient two is in train and in test"):
        read_card(model)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON in line 1"),
        (b"[]", "top level: expected an object, found a list"),
        (b"null", "top level: expected an object, found null"),
        (b'{"name": "\xff"}', "not UTF-8 at byte 10"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
    ],
)
def test_other_content_than_a_card_gives_a_message_of_one_line(model, content, reason):
    (model / FILE).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_card(model)
    assert f"({reason}" in str(caught.value) and str(caught.value).isprintable()


def test_a_truncated_card_gives_a_message_of_one_line(model):
    (model / FILE).write_bytes((model / FILE).read_bytes()[:500])
    with pytest.raises(InputError, match=r"is not a model card of this version of brainseg-tf \(not JSON in line"):
        read_card(model)


def test_the_card_is_among_its_checksums(model):
    found = open_folder(model)
    found.check()
    assert found.checks_card
    assert set(found.card.checksums) == {
        file.relative_to(model).as_posix() for file in model.rglob("*") if file.is_file() and file.suffix != ".md"
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("healthy_levels.weighted", 0.05),
        ("slices.normalisation", "volume"),
        ("name", "dcvae"),
        ("version", 3),
        ("metrics.network.mixture.dice", 0.99),
        ("terms", ""),
        ("trim", 32),
    ],
)
def test_an_edited_card_is_detected(model, field, value):
    edit(model, field, value)
    with pytest.raises(InputError) as caught:
        open_folder(model).check()
    assert str(caught.value).startswith(f"{model / FILE}: does not match the checksum in the model card; reinstall")


def test_the_checksum_ignores_blanks_and_the_order_of_fields(model):
    content = json.loads((model / FILE).read_text())
    (model / FILE).write_text(json.dumps(dict(reversed(content.items())), indent=8))
    open_folder(model).check()


def test_the_digest_is_that_of_the_json_without_it(model):
    """Computed as another program would compute it."""
    import hashlib

    content = json.loads((model / FILE).read_text())
    recorded = content["checksums"].pop(CARD_KEY)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert recorded == hashlib.sha256(canonical).hexdigest() == digest(content)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_warmup_requests_are_checked(model, damage):
    file = model / WARMUP
    file.write_bytes(b"other") if damage == "changed" else file.unlink()
    with pytest.raises(InputError, match="tf_serving_warmup_requests: does not match the checksum"):
        open_folder(model).check()


def test_additional_files_are_detected_and_hidden_files_ignored(model):
    for name in (".DS_Store", "variables/._variables.index", "assets.extra/.left-over"):
        (model / name).touch()
    open_folder(model).check()
    (model / "assets.extra" / "more").touch()
    with pytest.raises(InputError, match=r"assets\.extra/more: does not match the checksum"):
        open_folder(model).check()


def test_a_rewritten_card_matches_its_model(model):
    """``evaluate --update-card`` and ``export`` rewrite a card."""
    card = read_card(model)
    other = replace(card, version=7, metrics={})
    other.write(model)
    assert read_card(model).checksums[CARD_KEY] != card.checksums[CARD_KEY]
    open_folder(model).check()
    # Rewriting the card does not hide damage of other files.
    (model / "saved_model.pb").write_bytes(b"damaged")
    (model / WARMUP).write_bytes(b"damaged")
    card.write(model)
    for name in ("saved_model.pb", WARMUP.as_posix()):
        assert read_card(model).checksums[name] == card.checksums[name]
    with pytest.raises(InputError, match="does not match the checksum"):
        open_folder(model).check()


def test_cards_of_older_versions_are_checked_with_the_checksums_that_they_have(old_model):
    found = open_folder(old_model)
    found.check()
    assert not found.checks_card
    # After it is rewritten, the card has all checksums.
    replace(found.card, metrics={}).write(old_model)
    again = open_folder(old_model)
    again.check()
    assert again.checks_card and WARMUP.as_posix() in again.card.checksums
    edit(old_model, "trim", 2)
    with pytest.raises(InputError, match="does not match the checksum"):
        open_folder(old_model).check()


def test_cards_without_any_checksum_stay_valid(old_model):
    edit(old_model, "checksums", {})
    open_folder(old_model).check()
    read_card(old_model).write(old_model)
    open_folder(old_model).check()
    edit(old_model, "trim", 2)
    with pytest.raises(InputError, match="does not match the checksum"):
        open_folder(old_model).check()


def test_an_invalid_card_is_not_written(model):
    before = (model / FILE).read_bytes()
    card = read_card(model)
    for change, field in (
        ({"losses": {"val_loss": float("nan")}}, "losses.val_loss"),
        ({"name": "a/b"}, "name"),
        ({"healthy_levels": {}}, "healthy_levels.input"),
    ):
        with pytest.raises(InputError, match=rf"model_card\.json: cannot be written \({field}: "):
            replace(card, **change).write(model)
    assert (model / FILE).read_bytes() == before


def test_metrics_without_a_patient_with_a_lesion_are_valid(model):
    unknown = {"dice": None, "dice_interval": [None, None], "iou_slice": None}
    edit(model, "metrics", {"patients": "x", "folds": 0, "network": {"mixture": unknown}, "paper_iou_slice": None})
    card = read_card(model)
    assert card.dice == 0.0
    assert card.markdown()


def test_a_card_names_the_version_of_the_running_code(monkeypatch):
    """The metadata of an editable installation can be those of an earlier version."""
    monkeypatch.setattr("brainseg_tf.model_card.metadata.version", lambda name: "0.0.1")
    assert versions()["brainseg-tf"] == __version__
