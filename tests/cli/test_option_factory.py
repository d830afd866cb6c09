from dataclasses import dataclass, fields
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from brainseg_tf.options import MixtureOptions, SegmentationOptions, option
from brainseg_tf_cli.evaluate import evaluate
from brainseg_tf_cli.fit import fit
from brainseg_tf_cli.option_factory import GroupedCommand, GroupedOption, from_field
from brainseg_tf_cli.predict import predict
from helpers import call, fails


@dataclass(frozen=True)
class Sample:
    size: int = option(3, "Edge in voxels.", least=1, odd=True)
    share: float = option(0.5, "A share.", least=0, most=1)
    kind: Literal["a", "b"] = option("a", "Which kind.")
    on: bool = option(False, "Do it.")
    maybe: bool | None = option(None, "Do it or not.")
    limit: float | None = option(None, "Largest value.", least=0)


@click.command(cls=GroupedCommand)
@from_field(Sample, "size", group="First")
@from_field(Sample, "share", group="First")
@from_field(Sample, "kind", group="Second")
@from_field(Sample, "on", group="Second")
@from_field(Sample, "maybe", group="Second")
@from_field(Sample, "limit", group="Second", advanced=True, default_text="none")
@click.argument("files", nargs=-1)
def command(**given: object) -> None:
    """Print what was given."""
    click.echo(given)


def run(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])


def given(*arguments: object) -> dict[str, object]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return eval(result.stdout)


def test_defaults_and_types_are_the_fields():
    assert given() == {"size": 3, "share": 0.5, "kind": "a", "on": False, "maybe": None, "limit": None, "files": ()}
    found = given("--size", 5, "--share", "0.25", "--kind", "b", "--on", "--no-maybe", "--limit", 2)
    assert found == {"size": 5, "share": 0.25, "kind": "b", "on": True, "maybe": False, "limit": 2.0, "files": ()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", 4), "4 has no middle voxel; give an odd number"),
        (("--size", 0), "0 is not in the range x>=1"),
        (("--share", 1.5), "1.5 is not in the range 0<=x<=1"),
        (("--kind", "c"), "'c' is not one of 'a', 'b'"),
        (("--limit", -1), "-1.0 is not in the range x>=0"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_help_is_in_groups_and_hides_rare_options():
    short, long = run("--help").stdout, run("--help-all").stdout
    for text in (short, long):
        assert text.index("\nFirst:\n") < text.index("--size") < text.index("\nSecond:\n") < text.index("--kind")
        assert "Edge in voxels.  [default: 3" in text
        assert "FILES" not in text.partition("First:")[2]
    assert "--limit" not in short and "--help-all shows 1 more option" in short
    assert "Largest value.  [default: none]" in long and "--help-all shows" not in long


@pytest.mark.parametrize("one", [predict, fit, evaluate], ids=lambda one: one.name)
def test_every_option_has_a_sentence_and_a_group(one):
    options = [option for option in one.params if isinstance(option, click.Option)]
    assert len(options) > 10
    for found in options:
        assert isinstance(found, GroupedOption), found.name
        assert found.help and found.help[0].isupper() and "." in found.help, found.name


def test_the_stages_options_are_the_fields_of_their_classes():
    """Each default is that of the option class, and no field is missing that a user may want to set."""
    options = {option.name: option for option in predict.params}
    for kind in (SegmentationOptions, MixtureOptions):
        for field in fields(kind):
            if field.name in ("mixture", "median", "components", "separation", "iterations", "tolerance"):
                continue
            assert options[field.name].default == field.default, field.name


def test_an_even_median_is_refused(scan, trained, tmp_path):
    result = call("predict", scan, "--out", tmp_path / "m.nii", "--model", trained, "--median", 4)
    assert "4 has no middle voxel" in fails(result, code=2)
    assert not (tmp_path / "m.nii").exists()


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_is_refused(number, tmp_path):
    for command, name in (
        ("predict", "--min-size-ml"),
        ("predict", "--closing-mm"),
        ("predict", "--healthy-threshold"),
        ("compare", "--min-growth"),
        ("fit", "--kl-weight"),
    ):
        message = fails(call(command, tmp_path, tmp_path, name, number), code=2)
        assert f"Invalid value for '{name}': " in message and "\n" not in message.strip().split("Error: ")[1]
