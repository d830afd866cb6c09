"""``brainseg-tf fit``."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

# These two import the standard library only, so that the help can be made of them.
from brainseg_tf.options import Normalisation
from brainseg_tf.recipes import RECIPES, FitOptions, Kind, paper
from brainseg_tf_cli.quiet import import_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.workers import Strategy

# Which part of FitOptions an option belongs to, where it is not FitOptions itself, and its name there.
_PARTS = {
    "slices": {"size": "size", "normalisation": "normalisation", "min_brain": "min_brain", "central": "central"},
    "corruption": {"corruption": "kind", "augment": "augment", "shapes": "shapes"},
    "objective": {"kl_weight": "kl", "reconstruction_weight": "reconstruction", "context_weight": "context"},
}


def _recipe(words: str, name: str) -> str:
    """The help of an option whose default is the recipe's: ``words``, and the default of every network.

    Args:
        words: what the option is, with its unit.
        name: the option's parameter.
    """
    networks: dict[str, list[str]] = {}
    for network, options in RECIPES.items():
        networks.setdefault(_default(options, name), []).append(network)
    papers = sorted({_default(paper(network), name) for network in RECIPES})
    if len(networks) == 1:
        default = next(iter(networks))
    else:
        default = "the recipe's: " + "; ".join(f"{', '.join(names)} {value}" for value, names in networks.items())
    also = "" if papers == list(networks) else f"; with --preset paper {' or '.join(papers)}"
    return f"{words}  [default: {default}{also}]"


def _default(options: FitOptions, name: str) -> str:
    part = next((part for part, names in _PARTS.items() if name in names), None)
    value = getattr(getattr(options, part), _PARTS[part][name]) if part else getattr(options, name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " and ".join(value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


@click.command(short_help="Train a network on the healthy slices of a cohort.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the run; the model is OUT/1.")
@click.option(
    "--model",
    "architecture",
    type=click.Choice(list(RECIPES)),
    default="cvae",
    show_default=True,
    help="The network. It comes with a recipe of its own, from which the options below have their defaults.",
)
@click.option(
    "--preset",
    type=click.Choice(["best", "paper"]),
    default="best",
    show_default=True,
    help="The recipe: best as measured (docs/experiments.md), or the source paper's for every network.",
)
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    help=_recipe("The scans, as in <id>_<modality>.nii.gz; repeat it for several channels.", "modalities"),
)
@click.option(
    "--strategy",
    type=click.Choice(["single", "mirrored", "multi-worker"]),
    default="single",
    show_default=True,
    help="single: one device; mirrored: all GPUs of this host; multi-worker: all hosts that TF_CONFIG names, each runs "
    "this command.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in OUT, with the same options: after a kill, or with more --epochs. A finished run stays "
    "as it is.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help=_recipe(
        "At most this many passes over the training slices. With --resume the run's own number; another one lengthens "
        "the run, and from there on the learning rate follows the cosine of the new number.",
        "epochs",
    ),
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    help=_recipe("Epochs without a better validation loss after which training stops.", "patience"),
)
@click.option("--batch", type=click.IntRange(1), help=_recipe("Slices in a batch.", "batch"))
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help=_recipe("Adam's step size at the start; it falls along a cosine to 1 % in the last epoch.", "learning_rate"),
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 2),
    help=_recipe("Same seed, same data: same split and same model.", "seed"),
)
@click.option(
    "--validation-share",
    "validation",
    type=click.FloatRange(0, 1),
    help=_recipe("Share of the patients that choose the best epoch, at least one.", "validation"),
)
@click.option(
    "--test-share",
    "test",
    type=click.FloatRange(0, 1),
    help=_recipe("Share of the patients that the run leaves for a test.", "test"),
)
@click.option("--size", type=click.IntRange(16, 512), help=_recipe("Pixels along a slice's side.", "size"))
@click.option(
    "--normalisation",
    type=click.Choice(get_args(Normalisation)),
    help=_recipe(
        "How a brain's intensities come to 0 to 1. slice, volume: minimum to 0 and maximum to 1 of each slice or "
        "volume; robust: 1st percentile to 0, median to 0.3.",
        "normalisation",
    ),
)
@click.option(
    "--min-brain",
    type=click.FloatRange(0, 1),
    help=_recipe("Use slices that brain covers at least this share of.", "min_brain"),
)
@click.option(
    "--central",
    type=click.FloatRange(0, 1),
    help=_recipe("Use slices within this middle share of the brain's height.", "central"),
)
@click.option(
    "--corruption",
    type=click.Choice(get_args(Kind)),
    help=_recipe(
        "What the network learns to undo. shapes: squares and circles; noise: coarse noise; both: noise, then shapes; "
        "lesions: synthetic lesions.",
        "corruption",
    ),
)
@click.option(
    "--augment/--no-augment", default=None, help=_recipe("Flip and recolour slices before corruption.", "augment")
)
@click.option(
    "--shapes", type=click.IntRange(1), help=_recipe("At most this many squares and circles on a slice.", "shapes")
)
@click.option(
    "--kl-weight",
    type=click.FloatRange(0),
    help=_recipe(
        "Weight of the latent distribution's Kullback-Leibler divergence in the loss; cvae and dcvae only.",
        "kl_weight",
    ),
)
@click.option(
    "--reconstruction-weight",
    type=click.FloatRange(0),
    help=_recipe(
        "Weight of the error in reconstructing clean slices in the loss; cvae and dcvae only.", "reconstruction_weight"
    ),
)
@click.option(
    "--context-weight",
    type=click.FloatRange(0),
    help=_recipe("Weight of the error in restoring corrupted slices in the loss.", "context_weight"),
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder where decoded slices are kept; runs with the same slices can share it.  [default: OUT/cache]",
)
def fit(
    data: Path,
    out: Path,
    architecture: str,
    preset: str,
    strategy: "Strategy",
    resume: bool,
    cache: Path | None,
    **given: Any,
) -> None:
    """Train a network on the healthy slices of DATA, a folder in the BraTS 2019 layout.

    OUT gets checkpoints, history.csv, losses.png, reconstructions.png and the model as OUT/1, for
    `brainseg-tf predict --model OUT`.

    A run that stopped early, after --patience epochs without a better validation loss, cannot be lengthened.
    """
    # The input is checked before TensorFlow is imported.
    from brainseg_tf import runs
    from brainseg_tf.cohort import read_cohort
    from brainseg_tf.workers import check_tf_config

    if strategy == "multi-worker":
        check_tf_config()
    options = _options(architecture, preset, given)
    if resume and given["epochs"] is None:
        options = replace(options, epochs=runs.read_record(out).epochs)
    finished = runs.check_run(out, options, resume=resume)
    if finished is not None:
        click.echo(runs.nothing_to_do(out))
        click.echo(f"model: {finished.path}")
        return
    read_cohort(data, options.modalities)
    import_tensorflow()

    from brainseg_tf.keras_backend import use_defaults
    from brainseg_tf.resources import limit_threads
    from brainseg_tf.training import fit as train

    use_defaults()
    limit_threads()

    # A bar on a terminal, a line per epoch in a log.
    exported = train(
        data,
        out,
        options,
        resume=resume,
        cache=cache,
        strategy=strategy,
        say=click.echo,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    click.echo(f"model: {exported}")


def _options(architecture: str, preset: str, given: dict[str, Any]) -> FitOptions:
    """The recipe, with what was given on the command line in its place."""
    options = paper(architecture) if preset == "paper" else RECIPES[architecture]
    given = {name: value for name, value in given.items() if value not in (None, ())}
    for part, names in _PARTS.items():
        own = {field: given.pop(name) for name, field in names.items() if name in given}
        options = replace(options, **{part: replace(getattr(options, part), **own)})
    options = replace(options, **given)
    if architecture == "fusion" and len(options.modalities) < 2:
        raise click.UsageError("--model fusion needs two modalities or more; --model selfseg is the same for one")
    return options
