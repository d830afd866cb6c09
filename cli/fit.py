"""``brainseg-tf fit``."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from brainseg_tf.architectures import (
    ARCHITECTURES,
    BRAIN,
    FINE_TUNING_EPOCHS,
    FINE_TUNING_EXAMPLES,
    fine_tuning_recipe,
    paper_recipe,
    recipe_for,
)
from brainseg_tf.options import BrainFitOptions, CorruptionOptions, FitOptions, ObjectiveOptions, SliceOptions, Strategy
from brainseg_tf_cli.option_factory import Decorator, GroupedCommand, apply, from_field, option
from brainseg_tf_cli.options import FILE, resource_options, shipped_names
from brainseg_tf_cli.tensorflow_import import prepare_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.saved_model import ModelFolder

DATA, NETWORK, OPTIMISER, SLICES, CORRUPTION, LOSS = "Data", "Network", "Optimisation", "Slices", "Corruption", "Loss"


@dataclass(frozen=True)
class _Field:
    """A command line option for a field of the recipe.

    Attributes:
        options: the option class with the field.
        name: of the field.
        group: heading in the help.
        part: the field of ``FitOptions`` that contains the option class; None for ``FitOptions`` itself.
        flag: the option, if it is not ``--NAME``.
        parameter: the parameter's name, if it does not follow from ``part`` and ``name``.
        advanced: whether only --help-all shows the option.
        default_text: the default in the help, if it does not follow from the recipes.
    """

    options: type
    name: str
    group: str
    part: str | None = None
    flag: str | None = None
    parameter: str | None = None
    advanced: bool = False
    default_text: str | None = None

    def value(self, recipe: FitOptions | BrainFitOptions) -> Any:
        """The value of the field in a recipe."""
        return getattr(getattr(recipe, self.part) if self.part else recipe, self.name)


_FIELDS = (
    _Field(FitOptions, "modalities", DATA, flag="--modality"),
    _Field(FitOptions, "validation", DATA, flag="--validation-share", advanced=True),
    _Field(FitOptions, "test", DATA, flag="--test-share", advanced=True),
    _Field(FitOptions, "seed", DATA),
    _Field(FitOptions, "labels", DATA, default_text="slices if there are segmentations, else none"),
    _Field(FitOptions, "rounds", DATA, advanced=True),
    _Field(FitOptions, "epochs", OPTIMISER),
    _Field(FitOptions, "patience", OPTIMISER, advanced=True),
    _Field(FitOptions, "batch", OPTIMISER, advanced=True),
    _Field(FitOptions, "learning_rate", OPTIMISER),
    _Field(FitOptions, "examples", OPTIMISER, advanced=True),
    _Field(FitOptions, "precision", OPTIMISER, advanced=True),
    _Field(FitOptions, "views", DATA, advanced=True),
    _Field(FitOptions, "columns", DATA, advanced=True),
    _Field(SliceOptions, "size", SLICES, "slices", advanced=True),
    _Field(SliceOptions, "normalisation", SLICES, "slices", advanced=True),
    _Field(SliceOptions, "min_brain", SLICES, "slices", advanced=True),
    _Field(SliceOptions, "central", SLICES, "slices", advanced=True),
    _Field(CorruptionOptions, "kind", CORRUPTION, "corruption", flag="--corruption", parameter="corruption"),
    _Field(CorruptionOptions, "augment", CORRUPTION, "corruption", advanced=True),
    _Field(CorruptionOptions, "shapes", CORRUPTION, "corruption", advanced=True),
    _Field(ObjectiveOptions, "kl", LOSS, "objective", flag="--kl-weight", advanced=True),
    _Field(ObjectiveOptions, "reconstruction", LOSS, "objective", flag="--reconstruction-weight", advanced=True),
    _Field(ObjectiveOptions, "context", LOSS, "objective", flag="--context-weight", advanced=True),
)


def _flag(field: _Field) -> str:
    return field.flag or f"--{field.name.replace('_', '-')}"


def _recipe_option(field: _Field) -> Decorator:
    """A command line option whose default depends on the network; its help lists the default of every network."""
    parameter = field.parameter or (f"{field.part}_{field.name}" if field.part else field.name)
    flags = (_flag(field), parameter)
    more: dict[str, Any] = {"multiple": True, "callback": _modalities} if field.name == "modalities" else {}
    default = () if more else None
    return from_field(
        field.options,
        field.name,
        *flags,
        group=field.group,
        default=default,
        default_text=field.default_text or _defaults(field),
        advanced=field.advanced,
        **more,
    )


def _modalities(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """The names of modalities, which can be in capitals."""
    from brainseg_tf.images.modality_names import modality_name

    return tuple(modality_name(value) for value in values)


def _defaults(field: _Field) -> str:
    """The default of every network, and that of the preset ``paper`` if it differs."""
    recipes: dict[str, FitOptions | BrainFitOptions] = {name: one.recipe for name, one in ARCHITECTURES.items()}
    if field.part is None and hasattr(BrainFitOptions(), field.name):
        recipes[BRAIN] = BrainFitOptions()
    networks: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        networks.setdefault(_text(field.value(recipe)), []).append(name)
    papers = sorted({_text(field.value(paper_recipe(name))) for name in ARCHITECTURES})
    if len(networks) == 1:
        default = next(iter(networks))
    else:
        default = "; ".join(f"{', '.join(names)}: {value}" for value, names in networks.items())
    with_preset = "" if papers == list(networks) else f"; with --preset paper: {_or(papers)}"
    return default + with_preset


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " and ".join(value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _or(values: Iterable[str]) -> str:
    return " or ".join(values)


@click.command(cls=GroupedCommand, short_help="Train a network on a cohort.")
@click.argument("data", nargs=-1, required=True, type=FILE)
@option("--out", group="Run", required=True, type=FILE, help="Folder of the run; the model is OUT/1.")
@option(
    "--resume",
    group="Run",
    is_flag=True,
    help="Continue the run in OUT with the same options: after an interruption, or with more --epochs. A finished run "
    "is not changed.",
)
@option(
    "--cache",
    group="Run",
    advanced=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for decoded slices; runs with the same slices can share it.  [default: OUT/cache]",
)
@option("--tensorboard", group="Run", advanced=True, type=FILE, help="Folder for the losses in TensorBoard's format.")
@resource_options("Run")
@option(
    "--strategy",
    group="Run",
    advanced=True,
    type=click.Choice(get_args(Strategy)),
    default="single",
    show_default=True,
    help="Devices. single: one; mirrored: all GPUs of this host; multi-worker: all hosts in TF_CONFIG, each of which "
    "must run this command.",
)
@option(
    "--model",
    "architecture",
    group=NETWORK,
    type=click.Choice([*ARCHITECTURES, BRAIN]),
    default="cvae",
    show_default=True,
    help="Network. Its recipe determines the defaults of the options below.",
)
@option(
    "--from",
    "from_model",
    group=NETWORK,
    shell_complete=shipped_names,
    help="Fine-tune this model: start from its weights, with its recipe, but a short training "
    f"({FINE_TUNING_EPOCHS} epochs of {FINE_TUNING_EXAMPLES} slices, a quarter of the learning rate, no test patients)."
    " The name of a shipped model, or a folder. With --modality, for another modality.",
)
@option(
    "--preset",
    group=NETWORK,
    type=click.Choice(["best", "paper"]),
    default="best",
    show_default=True,
    help="Recipe. best: that with the best results (docs/experiments.md); paper: that of the source paper.",
)
@apply([_recipe_option(field) for field in _FIELDS])
@click.pass_context
def fit(
    context: click.Context,
    /,
    data: tuple[Path, ...],
    out: Path,
    resume: bool,
    cache: Path | None,
    tensorboard: Path | None,
    device: str,
    threads: int | None,
    strategy: Strategy,
    architecture: str,
    from_model: str | None,
    preset: str,
    **given: Any,
) -> None:
    """Train a network on the healthy slices of DATA.

    DATA is one or several of: a folder in the BraTS 2019 layout, a BIDS dataset, a folder of scans, a table of scans.
    A table (.tsv, .csv) has the column path and, if known, subject, session, modality, brain_mask, seg and split.
    Without segmentations (--labels none) the scans are assumed lesion-free, and what the network flags is left out.

    In the BraTS layout, ID_brain.nii.gz is the brain mask; without one the brain is found as in predict.

    With --model brain, train the brain network on DATA, a folder of subjects ID/ID_MODALITY.nii.gz: heads with
    ID_brain.nii.gz, and skull-stripped brains, around which random heads are drawn.

    Checkpoints, history.csv, losses.png, reconstructions.png and the model (OUT/1) are written to OUT. Use the model
    with `brainseg-tf predict --model OUT`.

    A run that ended by early stopping, after --patience epochs without a lower validation loss, cannot be continued.
    """
    # Arguments and data are checked first, because the import of TensorFlow takes seconds.
    from brainseg_tf.saved_model import find
    from brainseg_tf.training import runs
    from brainseg_tf.training.tf_config import check_tf_config

    brain = architecture == BRAIN
    if brain and (strategy != "single" or preset != "best" or from_model):
        raise click.UsageError(f"--strategy, --preset and --from do not go with --model {BRAIN}")
    if from_model and not all(
        context.get_parameter_source(name) is ParameterSource.DEFAULT for name in ("architecture", "preset")
    ):
        raise click.UsageError("--model and --preset do not go with --from, which takes the network and its recipe")
    if brain and len(data) > 1:
        raise click.UsageError(f"--model {BRAIN} takes one folder; its subfolders are searched too")
    if strategy == "multi-worker":
        check_tf_config()
    if tensorboard:
        runs.check_tensorboard()
    initial = find(from_model) if from_model else None
    options = _brain_options(given) if brain else _options(architecture, preset, initial, given)
    if resume:
        # What the command line does not name is as it was when the run was started.
        started_with = runs.read_record(out).options
        named = {
            name: started_with[name] for name in ("epochs", "labels") if name in started_with and hasattr(options, name)
        }
        options = replace(options, **{name: value for name, value in named.items() if given[name] is None})
    finished = runs.check_run(out, options, resume=resume)
    if finished is not None:
        click.echo(runs.nothing_to_do(out, options))
        click.echo(f"model: {finished.path}")
        return
    if isinstance(options, BrainFitOptions):
        from brainseg_tf.training.brain_cohort import read_heads

        read_heads(data[0], options.modalities)
    else:
        from brainseg_tf.training.cohort import read_cohort

        cohort = read_cohort(data, options.modalities, options.labels if resume else given["labels"])
        options = replace(options, labels=cohort.labels)
    prepare_tensorflow(device, threads)

    from brainseg_tf.keras_backend import use_defaults

    use_defaults()

    # Progress bars on a terminal; one line per epoch everywhere.
    settings = runs.RunSettings(
        resume=resume,
        initial=initial,
        cache=cache,
        strategy=strategy,
        say=click.echo,
        verbose=int(sys.stdout.isatty()),
        tensorboard=tensorboard,
    )
    if isinstance(options, BrainFitOptions):
        from brainseg_tf.training.brain_fit import fit_brain

        model = fit_brain(data[0], out, options, settings)
    else:
        from brainseg_tf.training.fit import fit as train

        model = train(data, out, options, settings)
    click.echo(f"model: {model}")


def _brain_options(given: dict[str, Any]) -> BrainFitOptions:
    """The options of the brain network, with the values from the command line."""
    options = BrainFitOptions()
    for field, value in _given(given):
        if field.part or not hasattr(options, field.name):
            raise click.UsageError(f"{_flag(field)} does not go with --model {BRAIN}")
        options = replace(options, **{field.name: value})
    return options


def _given(given: dict[str, Any]) -> list[tuple[_Field, Any]]:
    """The fields with a value from the command line."""
    values = [
        (field, given[field.parameter or (f"{field.part}_{field.name}" if field.part else field.name)])
        for field in _FIELDS
    ]
    return [(field, value) for field, value in values if value not in (None, ())]


def _columns(options: FitOptions) -> int:
    """The number of columns for the size of the pixels: that of the recipes is for their pixels."""
    usual = SliceOptions()
    share = (usual.field_of_view / usual.size) / (options.slices.field_of_view / options.slices.size)
    return 2 * round(options.columns * share / 2)


def _options(architecture: str, preset: str, initial: "ModelFolder | None", given: dict[str, Any]) -> FitOptions:
    """The recipe, with the values from the command line."""
    if initial:
        options = replace(fine_tuning_recipe(initial.card, given["modalities"]), initial=initial.identity)
    else:
        options = paper_recipe(architecture) if preset == "paper" else recipe_for(architecture, given["modalities"])
    for field, value in _given(given):
        change = {field.name: value}
        if field.part:
            change = {field.part: replace(getattr(options, field.part), **change)}
        options = replace(options, **change)
    if given["columns"] is None and not initial:
        options = replace(options, columns=_columns(options))
    least = ARCHITECTURES[options.architecture].min_modalities
    if len(options.modalities) < least:
        raise click.UsageError(f"--model {architecture} needs at least {least} modalities; give --modality for each")
    if initial and len(options.modalities) != len(initial.card.modalities):
        raise click.UsageError(
            f"--modality names {' and '.join(options.modalities)}, but the network of --from has the channels "
            f"{' and '.join(initial.card.modalities)}; give as many, or omit --modality"
        )
    if initial and options.slices != initial.card.slices:
        raise click.UsageError("--from takes the slices of the model; omit the options for them")
    return options
