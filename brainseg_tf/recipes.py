"""What determines a training run, and what each architecture is trained with unless told otherwise.

The help of ``fit`` is made of it, so it imports the standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from brainseg_tf.options import SliceOptions

if TYPE_CHECKING:
    from brainseg_tf.model_card import ModelCard

Kind = Literal["shapes", "noise", "both", "lesions"]


@dataclass(frozen=True)
class LesionOptions:
    """Ranges of the synthetic lesions.

    Attributes:
        clean: share of the slices that are left without a lesion.
        second: share of the slices that get two.
        radius: as a share of the image's shorter side; uniform in its logarithm.
        contrast: what the first channel gains, as a share of the brain's mean. Each further channel gains this times
        others_contrast: uniform in its logarithm. Many tumours that are bright on FLAIR are faint on T2.
        bright: share of the lesions with a bright core. Around one, also a faint halo is lesion:
        halo: its contrast, uniform in its logarithm, and
        bright_level: its core's intensity in the first channel, as a share of the brain's mean, and
        others_bright_level: in the further ones.
        dark: share of the others that have a core of any intensity:
        dark_level: in the first channel, and
        fluid_level: in the further ones, since such a core holds fluid, which is bright on T2.
        spares_fluid: share of the lesions that spare fluid, as oedema does.
    """

    clean: float = 0.2
    second: float = 0.25
    radius: tuple[float, float] = (3 / 128, 30 / 128)
    contrast: tuple[float, float] = (0.15, 1.6)
    others_contrast: tuple[float, float] = (0.2, 2.0)
    bright: float = 0.35
    halo: tuple[float, float] = (0.25, 1.2)
    bright_level: tuple[float, float] = (1.6, 3.3)
    others_bright_level: tuple[float, float] = (1.1, 3.3)
    dark: float = 0.4
    dark_level: tuple[float, float] = (0.1, 1.3)
    fluid_level: tuple[float, float] = (0.8, 2.6)
    spares_fluid: float = 0.5


@dataclass(frozen=True)
class CorruptionOptions:
    """How healthy slices are corrupted.

    Attributes:
        kind: ``shapes`` (section 5.1), coarse ``noise`` (Kascenas 2022), ``both``, or synthetic ``lesions``.
        augment: flip and recolour the clean slice first, degrade the corrupted one.
        shapes: at most this many squares and circles per image; at least one.
        smallest, largest: side or diameter, as a share of the image's shorter side (15 and 40 of 240 pixels).
        spread: standard deviation of a centre's distance from the image's centre along each axis, as a share of
            that axis.
        noise_cells, noise_stddev: of coarse noise.
        lesions: of synthetic lesions.
    """

    kind: Kind = "shapes"
    augment: bool = False
    shapes: int = 5
    smallest: float = 15 / 240
    largest: float = 40 / 240
    spread: float = 0.15
    noise_cells: int = 16
    noise_stddev: float = 0.2
    lesions: LesionOptions = field(default_factory=LesionOptions)


@dataclass(frozen=True)
class ObjectiveOptions:
    """Weights of the terms: the three of ceVAE; cross entropy and overlap (soft Dice) for ``selfseg``, ``fusion``."""

    kl: float = 0.01
    reconstruction: float = 1.0
    context: float = 1.0
    cross_entropy: float = 3.0
    overlap: float = 1.0


@dataclass(frozen=True)
class FitOptions:
    """What determines a training run, with the data.

    Attributes:
        architecture: a key of ``RECIPES``.
        modalities: the channels, in this order.
        epochs: at most this many; ``patience`` epochs without a better validation loss end the training.
        batch: slices in a batch.
        learning_rate: Adam's at the start; it falls along a cosine to 1 % at the last epoch.
        validation, test: shares of the patients.
        seed: split, weights, order, corruption and latent draws follow from it.
    """

    architecture: str = "cvae"
    modalities: tuple[str, ...] = ("flair",)
    epochs: int = 100
    patience: int = 20
    batch: int = 16
    learning_rate: float = 1e-3
    validation: float = 0.15
    test: float = 0.25
    seed: int = 0
    slices: SliceOptions = field(default_factory=SliceOptions)
    corruption: CorruptionOptions = field(default_factory=CorruptionOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)


_SELFSEG = FitOptions(
    "selfseg",
    epochs=25,
    patience=25,
    learning_rate=2e-3,
    corruption=CorruptionOptions("lesions", augment=True),
    objective=ObjectiveOptions(context=10.0),
)

# What each architecture was found to need (docs/experiments.md).
RECIPES: dict[str, FitOptions] = {
    "cvae": FitOptions("cvae", epochs=60),
    "dcvae": FitOptions(
        "dcvae", epochs=36, patience=36, batch=8, learning_rate=2e-3, objective=ObjectiveOptions(kl=0.002)
    ),
    "dae": FitOptions("dae", epochs=14, patience=14, batch=8, corruption=CorruptionOptions("lesions", augment=True)),
    "unet": FitOptions("unet", epochs=30, patience=30, corruption=CorruptionOptions("noise", augment=True)),
    "selfseg": _SELFSEG,
    "fusion": replace(_SELFSEG, architecture="fusion", modalities=("flair", "t2")),
}


def paper(architecture: str) -> FitOptions:
    """The source paper's own training (sections 5.1 and 5.2): squares and circles, min-max, the middle slices."""
    return FitOptions(architecture, slices=SliceOptions(normalisation="volume", min_brain=0.15, central=0.7))


def from_card(card: "ModelCard") -> FitOptions:
    """The options that a model was trained with."""
    training = dict(card.training)
    return FitOptions(
        architecture=card.architecture,
        modalities=card.modalities,
        slices=card.slices,
        corruption=corruption_options(training.pop("corruption")),
        objective=ObjectiveOptions(**training.pop("objective")),
        **training,
    )


def corruption_options(values: Mapping[str, Any]) -> CorruptionOptions:
    """The options from what ``dataclasses.asdict`` made of them, also after a way through JSON."""
    lesions = {name: _tuples(value) for name, value in values.get("lesions", {}).items()}
    return CorruptionOptions(**{**values, "lesions": LesionOptions(**lesions)})


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value
