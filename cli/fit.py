"""``brainseg-tf fit``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from brainseg_tf_cli.quiet import import_tensorflow

if TYPE_CHECKING:
    from brainseg_tf.recipes import FitOptions
    from brainseg_tf.workers import Strategy

# Which part of FitOptions an option belongs to, where it is not FitOptions itself, and its name there.
_PARTS = {
    "slices": {"size": "size", "normalisation": "normalisation", "min_brain": "min_brain", "central": "central"},
    "corruption": {"corruption": "kind", "augment": "augment", "shapes": "shapes"},
    "objective": {"kl_weight": "kl", "reconstruction_weight": "reconstruction", "context_weight": "context"},
}


@click.command(short_help="Train a network on the healthy slices of a cohort.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the run; the model is OUT/1.")
@click.option(
    "--model",
    "architecture",
    type=click.Choice(["cvae", "dcvae", "dae", "unet", "selfseg", "fusion"]),
    default="cvae",
    show_default=True,
    help="It comes with a recipe of its own: every option below has its default from there.",
)
@click.option("--preset", type=click.Choice(["best", "paper"]), default="best", show_default=True, help="The recipe.")
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    help="Repeat for several channels.  [default: flair; fusion: flair and t2]",
)
@click.option(
    "--strategy",
    type=click.Choice(["single", "mirrored", "multi-worker"]),
    default="single",
    show_default=True,
    help="mirrored: all GPUs of this host; multi-worker: all hosts that TF_CONFIG names, each runs this command.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in OUT after a kill.")
@click.option("--epochs", type=click.IntRange(1), help="At most this many.")
@click.option("--patience", type=click.IntRange(1), help="Epochs without a better validation loss before stopping.")
@click.option("--batch", type=click.IntRange(1), help="Slices in a batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="At the start; it falls to 1 %.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 2), help="Same seed, same data: same model.  [default: 0]")
@click.option("--validation-share", "validation", type=click.FloatRange(0, 1), help="Of the patients.  [default: 0.15]")
@click.option("--test-share", "test", type=click.FloatRange(0, 1), help="Of the patients.  [default: 0.25]")
@click.option("--size", type=click.IntRange(16, 512), help="Pixels along a slice's side.")
@click.option("--normalisation", type=click.Choice(["slice", "volume", "robust"]))
@click.option("--min-brain", type=click.FloatRange(0, 1), help="Use slices with this share of brain.")
@click.option("--central", type=click.FloatRange(0, 1), help="Use this middle share of the brain's height.")
@click.option("--corruption", type=click.Choice(["shapes", "noise", "both", "lesions"]))
@click.option("--augment/--no-augment", default=None, help="Flip and recolour slices.")
@click.option("--shapes", type=click.IntRange(1), help="At most this many squares and circles on a slice.")
@click.option("--kl-weight", type=click.FloatRange(0))
@click.option("--reconstruction-weight", type=click.FloatRange(0))
@click.option("--context-weight", type=click.FloatRange(0))
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where decoded slices are kept.  [default: OUT/cache]",
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
    """
    # The input is checked before TensorFlow is imported.
    from brainseg_tf.cohort import read_cohort
    from brainseg_tf.workers import check_tf_config

    if strategy == "multi-worker":
        check_tf_config()
    options = _options(architecture, preset, given)
    read_cohort(data, options.modalities)
    import_tensorflow()

    from brainseg_tf.training import fit as train

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


def _options(architecture: str, preset: str, given: dict[str, Any]) -> "FitOptions":
    """The recipe, with what was given on the command line in its place."""
    from dataclasses import replace

    from brainseg_tf import recipes

    options = recipes.paper(architecture) if preset == "paper" else recipes.RECIPES[architecture]
    given = {name: value for name, value in given.items() if value not in (None, ())}
    for part, names in _PARTS.items():
        own = {field: given.pop(name) for name, field in names.items() if name in given}
        options = replace(options, **{part: replace(getattr(options, part), **own)})
    options = replace(options, **given)
    if architecture == "fusion" and len(options.modalities) < 2:
        raise click.UsageError("--model fusion needs two modalities or more; --model selfseg is the same for one")
    return options
