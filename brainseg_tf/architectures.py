"""The architectures: for each its class, a name for readers, and the recipe that it is trained with by default.

A new architecture is a module in ``models/`` and an entry here; the command line's choices, the model cards and the
texts of the pages follow. Only the standard library is imported, so that ``--help`` does not load TensorFlow.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brainseg_tf.options import (
    RANDOM_WEIGHTS,
    AugmentationOptions,
    CorruptionOptions,
    FitOptions,
    LesionOptions,
    ObjectiveOptions,
    SliceOptions,
    corruption_options,
)

if TYPE_CHECKING:
    from brainseg_tf.model_card import ModelCard

# The brain network, which finds the brain in a head. It is trained by ``training.brain_fit`` and has another kind of
# card than the networks for lesions.
BRAIN = "brain"


@dataclass(frozen=True)
class Architecture:
    """One network.

    Attributes:
        class_path: ``module:class`` of its ``ContextModel``.
        title: what it is, for readers.
        recipe: the training options that were found best (docs/experiments.md).
        min_modalities: the smallest number of channels.
        finds_lesions: whether it has a lesion probability.
    """

    class_path: str
    title: str
    recipe: FitOptions
    min_modalities: int = 1
    finds_lesions: bool = False


# What differs between scanners, hospitals and lesions, as far as it is known (docs/experiments.md).
_DIVERSE = CorruptionOptions(
    "lesions",
    augment=True,
    lesions=LesionOptions(
        radius=(2 / 128, 36 / 128),
        contrast=(0.12, 1.6),
        faint=0.4,
        own_core=0.4,
        foreign=0.15,
        displacing=0.5,
        scattered=0.25,
    ),
    augmentation=AugmentationOptions(
        curve=0.06,
        bias=0.25,
        shading=0.35,
        noise=0.04,
        blurred=0.15,
        resolution=0.3,
        smoothed=0.4,
        windowed=0.3,
        ragged=0.3,
    ),
)
_SELFSEG = FitOptions(
    "selfseg",
    epochs=100,
    patience=100,
    examples=1600,
    views=3,
    columns=96,
    learning_rate=2e-3,
    corruption=_DIVERSE,
    objective=ObjectiveOptions(context=10.0),
)

# Slices in an epoch of a fine-tuning, and its epochs: a few minutes on two cores (docs/experiments.md).
FINE_TUNING_EXAMPLES, FINE_TUNING_EPOCHS = 400, 10

ARCHITECTURES: dict[str, Architecture] = {
    "cvae": Architecture(
        "brainseg_tf.models.cvae:CVAE", "context variational autoencoder", FitOptions("cvae", epochs=60)
    ),
    "dcvae": Architecture(
        "brainseg_tf.models.dcvae:DilatedCVAE",
        "dilated context variational autoencoder",
        FitOptions("dcvae", epochs=36, patience=36, batch=8, learning_rate=2e-3, objective=ObjectiveOptions(kl=0.002)),
    ),
    "dae": Architecture(
        "brainseg_tf.models.dae:DAE",
        "denoising autoencoder",
        FitOptions("dae", epochs=14, patience=14, batch=8, corruption=CorruptionOptions("lesions", augment=True)),
    ),
    "unet": Architecture(
        "brainseg_tf.models.unet:UNet",
        "denoising U-Net",
        FitOptions("unet", epochs=30, patience=30, corruption=CorruptionOptions("noise", augment=True)),
    ),
    "selfseg": Architecture(
        "brainseg_tf.models.selfseg:SelfSegmenter", "self-supervised U-Net", _SELFSEG, finds_lesions=True
    ),
    "fusion": Architecture(
        "brainseg_tf.models.fusion:FusionSegmenter",
        "two fused self-supervised U-Nets",
        replace(_SELFSEG, architecture="fusion", modalities=("flair", "t2")),
        min_modalities=2,
        finds_lesions=True,
    ),
}


def recipe_for(architecture: str, modalities: tuple[str, ...] = ()) -> FitOptions:
    """The recipe of an architecture for some modalities; for those of its own recipe if none are given.

    On T2 fluid is as bright as a lesion. So a synthetic lesion leaves it out, and none shows another slice's fluid.
    If it is the only modality, a quarter of the slices get synthetic ventricles, which are bright in all channels.
    """
    recipe = ARCHITECTURES[architecture].recipe
    recipe = replace(recipe, modalities=modalities or recipe.modalities)
    if recipe.modalities[0] != "t2":
        return recipe
    lesions = replace(
        recipe.corruption.lesions, fluid="bright", spares_fluid=1.0, foreign=0.0, bright=0.25, dark_level=(0.3, 2.6)
    )
    augmentation = replace(recipe.corruption.augmentation, ventricles=0.25 if len(recipe.modalities) == 1 else 0.0)
    return replace(recipe, corruption=replace(recipe.corruption, lesions=lesions, augmentation=augmentation))


def paper_recipe(architecture: str) -> FitOptions:
    """The training of the source paper (sections 5.1 and 5.2): squares and circles, min-max, the central slices."""
    return FitOptions(architecture, slices=SliceOptions(normalisation="volume", min_brain=0.15, central=0.7))


def fine_tuning_recipe(card: "ModelCard", modalities: tuple[str, ...] = ()) -> FitOptions:
    """A short training that starts from the weights of a model: its recipe, with fewer steps of a quarter of the size.

    Seldom more than a few scans are at hand, so the split has no test patients. For other modalities than the model's,
    lesions and contrasts are those of their own recipe.
    """
    recipe = recipe_of(card)
    if modalities and modalities != card.modalities:
        recipe = replace(recipe, modalities=modalities, corruption=recipe_for(card.architecture, modalities).corruption)
    return replace(
        recipe,
        epochs=FINE_TUNING_EPOCHS,
        patience=FINE_TUNING_EPOCHS,
        examples=FINE_TUNING_EXAMPLES,
        learning_rate=recipe.learning_rate / 4,
        test=0.0,
        rounds=1,
    )


def recipe_to_repeat(card: "ModelCard") -> FitOptions:
    """The recipe with which a network like a model is trained from random weights, for a cross-validation.

    That of a fine-tuned model is too short for this, so it is the recipe of its architecture, with the labels, the
    batch and the precision of the fine-tuning.
    """
    if card.training.get("initial", RANDOM_WEIGHTS) == RANDOM_WEIGHTS:
        return recipe_of(card)
    kept = {name: card.training[name] for name in ("labels", "batch", "precision") if name in card.training}
    return replace(recipe_for(card.architecture, card.modalities), slices=card.slices, **kept)


def recipe_of(card: "ModelCard") -> FitOptions:
    """The options that a model was trained with, for a training from random weights."""
    training = dict(card.training) | {"initial": RANDOM_WEIGHTS}
    return FitOptions(
        architecture=card.architecture,
        modalities=card.modalities,
        slices=card.slices,
        corruption=corruption_options(training.pop("corruption")),
        objective=ObjectiveOptions(**training.pop("objective")),
        **training,
    )
