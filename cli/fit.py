"""``brainseg-tf fit``."""

import sys
from pathlib import Path

import click

from brainseg_tf_cli.quiet import import_tensorflow


@click.command(short_help="Train a network on the healthy slices of a cohort.")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the run; the model is OUT/1.")
@click.option("--model", "architecture", type=click.Choice(["cvae", "dcvae", "dae"]), default="cvae", show_default=True)
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    default=("flair",),
    show_default=True,
    help="Repeat for several channels.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in OUT after a kill.")
@click.option("--epochs", type=click.IntRange(1), default=100, show_default=True)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Epochs without a better validation loss before stopping.",
)
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Slices in a batch.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 2), default=0, show_default=True, help="Same seed, same data: same model."
)
@click.option(
    "--validation-share", type=click.FloatRange(0, 1), default=0.15, show_default=True, help="Share of the patients."
)
@click.option(
    "--test-share", type=click.FloatRange(0, 1), default=0.25, show_default=True, help="Share of the patients."
)
@click.option(
    "--size", type=click.IntRange(16, 512), default=128, show_default=True, help="Pixels along a slice's side."
)
@click.option("--normalisation", type=click.Choice(["slice", "volume", "robust"]), default="robust", show_default=True)
@click.option(
    "--min-brain",
    type=click.FloatRange(0, 1),
    default=0.04,
    show_default=True,
    help="Use slices with this share of brain.",
)
@click.option(
    "--central",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Use this middle share of the brain's height.",
)
@click.option(
    "--shapes",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="At most this many squares and circles on a slice.",
)
@click.option("--kl-weight", type=click.FloatRange(0), default=0.01, show_default=True)
@click.option("--reconstruction-weight", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option("--context-weight", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where decoded slices are kept.  [default: OUT/cache]",
)
def fit(
    data: Path,
    out: Path,
    architecture: str,
    modalities: tuple[str, ...],
    resume: bool,
    epochs: int,
    patience: int,
    batch: int,
    learning_rate: float,
    seed: int,
    validation_share: float,
    test_share: float,
    size: int,
    normalisation: str,
    min_brain: float,
    central: float,
    shapes: int,
    kl_weight: float,
    reconstruction_weight: float,
    context_weight: float,
    cache: Path | None,
) -> None:
    """Train a network on the healthy slices of DATA, a folder in the BraTS 2019 layout.

    OUT gets checkpoints, history.csv, losses.png, reconstructions.png and the model as OUT/1, for
    `brainseg-tf predict --model OUT`.
    """
    # The input is checked before TensorFlow is imported.
    from brainseg_tf.cohort import read_cohort

    read_cohort(data, modalities)
    import_tensorflow()

    from brainseg_tf.corruption import CorruptionOptions
    from brainseg_tf.models.objective import ObjectiveOptions
    from brainseg_tf.slices import SliceOptions
    from brainseg_tf.training import FitOptions
    from brainseg_tf.training import fit as train

    options = FitOptions(
        architecture=architecture,
        modalities=modalities,
        epochs=epochs,
        patience=patience,
        batch=batch,
        learning_rate=learning_rate,
        validation=validation_share,
        test=test_share,
        seed=seed,
        slices=SliceOptions(size=size, normalisation=normalisation, min_brain=min_brain, central=central),
        corruption=CorruptionOptions(shapes=shapes),
        objective=ObjectiveOptions(kl_weight, reconstruction_weight, context_weight),
    )
    # A bar on a terminal, a line per epoch in a log.
    exported = train(
        data, out, options, resume=resume, cache=cache, say=click.echo, verbose=1 if sys.stdout.isatty() else 2
    )
    click.echo(f"model: {exported}")
