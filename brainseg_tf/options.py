"""Every option of every stage: its default, its range and one sentence about it.

The command line takes its options, defaults, choices and help from here (``brainseg_tf_cli.option_factory``). Only the
standard library is imported, so that ``--help`` does not load TensorFlow. What a model was trained with is written into
its card and read from there (``model_card``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Normalisation = Literal["slice", "volume", "robust"]
CorruptionKind = Literal["shapes", "noise", "both", "lesions"]
Score = Literal["absolute", "positive", "weighted", "probability", "input", "equalised"]
Spread = Literal["tied", "free"]
LesionComponent = Literal["brightest", "smallest"]
Engine = Literal["auto", "c-api", "tensorflow"]
MixtureRegion = Literal["brain", "slice"]
Strategy = Literal["single", "mirrored", "multi-worker"]
Fluid = Literal["dark", "bright"]
Precision = Literal["float32", "mixed"]
Labels = Literal["slices", "none", "voxels"]
# What a training starts from if it is not the weights of a model.
RANDOM_WEIGHTS = "random weights"

# Edges of the median filter over (slices, rows, columns). A residual is noisy within its slice. A probability is smooth
# within a slice, but the network saw each slice by itself.
_MEDIAN = (3, 5, 5)
_MEDIAN_OF_SCORE = {"probability": (7, 3, 3)}
# Width in millimetres of the brain's edge that is ignored. There a reconstruction is wrong in healthy tissue too.
# A network for lesions has learned what the edge looks like, and some lesions are in the cortex only.
_EROSION_MM = 3.75
_EROSION_MM_OF_SCORE = {"probability": 0.0}


def option(default: Any, help: str, *, least: float | None = None, most: float | None = None, odd: bool = False) -> Any:
    """A dataclass field with what the command line needs to know of it.

    Args:
        default: its value if nobody sets it. A dataclass gives a new instance of it.
        help: one or two sentences with the unit.
        least, most: the range of a number, both included.
        odd: whether an integer must be odd.
    """
    known = {"help": help, "least": least, "most": most, "odd": odd}
    if isinstance(default, type):
        return field(default_factory=default, metadata=known)
    return field(default=default, metadata=known)


def help_of(options: type, name: str) -> str:
    """The sentences about a field of an option class."""
    return str(next(one for one in fields(options) if one.name == name).metadata["help"])


@dataclass(frozen=True)
class SliceOptions:
    """How volumes become slices. Saved in the card of every model: a model is only right for its own slices."""

    size: int = option(128, "Pixels along each side of a slice.", least=16, most=1024)
    field_of_view: float = option(240.0, "Millimetres along each side of a slice.", least=10, most=2000)
    spacing: float = option(1.0, "Millimetres between neighbouring slices.", least=0.1, most=100)
    normalisation: Normalisation = option(
        "robust",
        "How intensities are scaled to 0 to 1. slice, volume: minimum to 0 and maximum to 1 of each slice or of the "
        "volume (section 5.1 of the paper); robust: 1st percentile of the brain to 0, its median to 0.3.",
    )
    min_brain: float = option(0.04, "Train on slices of which the brain covers at least this share.", least=0, most=1)
    central: float = option(1.0, "Train on slices within this central share of the brain's height.", least=0, most=1)

    @property
    def pixel(self) -> float:
        """Millimetres between neighbouring pixels."""
        return self.field_of_view / self.size


@dataclass(frozen=True)
class HeadGridOptions:
    """The voxels that the brain network sees. Saved in its card."""

    voxel_mm: float = option(2.0, "Edge of a voxel in millimetres.", least=0.5, most=10)
    most: int = option(128, "Largest number of voxels along an axis; larger fields get larger voxels.", least=32)


@dataclass(frozen=True)
class RandomHeadOptions:
    """How the training examples of the brain network are varied."""

    no_brain: float = option(0.02, "Share of the examples that show boxes and ellipsoids instead of a head.")
    wrapped: float = option(0.85, "Share of the stripped brains that are wrapped in a random head.")
    stripped: float = option(0.1, "Share of the heads that are stripped, with remains of the skull.")
    rim_mm: float = option(14.0, "Largest width of the remains of the skull, in millimetres.")
    recoloured: float = option(0.3, "Share of the examples whose intensities are mapped by a random curve.")
    blobs: float = option(0.2, "Share of the brains with a region of any intensity, as a tumour or a cavity.")
    rotation: float = option(24.0, "Largest rotation about each axis, in degrees.")
    scaling: float = option(1.2, "Largest factor of the size.", least=1)
    height: tuple[float, float] = option(
        (0.7, 1.4), "Factors of the height: the distance of slices in a header can be wrong."
    )
    shift_mm: float = option(12.0, "Standard deviation of the position, in millimetres.")
    far: float = option(0.08, "Share of the examples with a threefold shift, which cuts the head.")
    elastic: float = option(0.2, "Share of the examples with an elastic deformation.")
    cut: float = option(0.04, "Share of the examples in which a side of the field of view is cut off, for each side.")
    bias: float = option(0.4, "Share of the examples with a bias field.")
    thick: float = option(0.25, "Share of the examples with thick slices.")
    blur: float = option(0.2, "Share of the other examples that are blurred.")
    noise: float = option(0.4, "Share of the examples with Rician noise.")
    quantised: float = option(0.2, "Share of the examples with few grey levels.")


@dataclass(frozen=True)
class LesionOptions:
    """Ranges that the properties of synthetic lesions are drawn from."""

    clean: float = option(0.2, "Share of the slices without a lesion.", least=0, most=1)
    second: float = option(0.25, "Share of the slices with two lesions.", least=0, most=1)
    radius: tuple[float, float] = option(
        (3 / 128, 30 / 128), "Radius as a share of the image's shorter side; log-uniform."
    )
    contrast: tuple[float, float] = option(
        (0.15, 1.6), "Increase in the first channel, as a share of the brain's mean; uniform."
    )
    others_contrast: tuple[float, float] = option(
        (0.2, 2.0),
        "Factor on that increase in each further channel; log-uniform. Many tumours that are bright on FLAIR are faint "
        "on T2.",
    )
    bright: float = option(0.35, "Share of the lesions with a bright core.", least=0, most=1)
    halo: tuple[float, float] = option(
        (0.25, 1.2), "Increase around a bright core, which belongs to the lesion too; log-uniform."
    )
    bright_level: tuple[float, float] = option(
        (1.6, 3.3), "Intensity of a bright core in the first channel, as a share of the brain's mean."
    )
    others_bright_level: tuple[float, float] = option((1.1, 3.3), "The same in the further channels.")
    dark: float = option(0.4, "Share of the other lesions that have a core of any intensity.", least=0, most=1)
    dark_level: tuple[float, float] = option((0.1, 1.3), "Intensity of such a core in the first channel.")
    fluid_level: tuple[float, float] = option(
        (0.8, 2.6), "The same in the further channels: such a core holds fluid, which is bright on T2."
    )
    fluid: Fluid = option("dark", "How fluid looks in the first channel: dark on FLAIR, bright on T2.")
    spares_fluid: float = option(0.5, "Share of the lesions that leave out fluid, as oedema does.", least=0, most=1)
    faint: float = option(
        0.0,
        "Share of the lesions whose increase is log-uniform instead, so that more of them are faint.",
        least=0,
        most=1,
    )
    own_core: float = option(
        0.0, "Share of the cores of any intensity that are the tissue itself, as a solid core can be.", least=0, most=1
    )
    foreign: float = option(
        0.0,
        "Share of the lesions that show the tissue of another slice: wrong anatomy, which is hardly brighter.",
        least=0,
        most=1,
    )
    displacing: float = option(
        0.0,
        "Share of the slices whose first lesion displaces the tissue around it, as the mass of a tumour does. The "
        "reconstruction should show the tissue in its place.",
        least=0,
        most=1,
    )
    scattered: float = option(0.0, "Share of the slices with many small lesions.", least=0, most=1)
    periventricular: float = option(
        0.5,
        "Share of the slices with many small lesions in which they surround the ventricles, and can be confluent.",
        least=0,
        most=1,
    )


@dataclass(frozen=True)
class AugmentationOptions:
    """How slices are varied, as anatomies, scanners, hospitals and brain masks differ."""

    ventricles: float = option(
        0.0, "Share of the slices that get synthetic ventricles with bright fluid, as on T2.", least=0, most=1
    )
    curve: float = option(
        0.0, "Largest standard deviation of a random intensity curve, which changes the contrast of tissues.", least=0
    )
    bias: float = option(0.12, "Largest standard deviation of the bias field.", least=0)
    shading: float = option(
        0.0, "Largest logarithm of the brightness at the edge of the image that is next to a coil.", least=0
    )
    noise: float = option(0.03, "Largest standard deviation of white noise.", least=0)
    blurred: float = option(0.25, "Share of the slices that are blurred over 3 x 3 pixels.", least=0, most=1)
    resolution: float = option(
        0.0, "Share of the slices that are blurred or sharpened, along each axis by itself.", least=0, most=1
    )
    smoothed: float = option(
        0.0,
        "Share of the slices that are smoothed within the brain, as resampled, denoised and low-resolution scans are.",
        least=0,
        most=1,
    )
    windowed: float = option(0.0, "Share of the slices whose bright intensities are clipped.", least=0, most=1)
    ragged: float = option(
        0.0,
        "Share of the slices whose brain mask leaves out tissue, and of those whose mask has tissue around the brain.",
        least=0,
        most=1,
    )


@dataclass(frozen=True)
class CorruptionOptions:
    """How healthy slices are corrupted for training."""

    kind: CorruptionKind = option(
        "shapes",
        "What the network learns to remove. shapes: squares and circles (section 5.1 of the paper); noise: coarse "
        "Gaussian noise (Kascenas 2022); both: noise, then shapes; lesions: synthetic lesions.",
    )
    augment: bool = option(
        False, "Flip slices and vary their contrast before corruption; add noise and blur afterwards."
    )
    shapes: int = option(5, "Largest number of squares and circles per slice; at least one is drawn.", least=1)
    smallest: float = option(15 / 240, "Smallest side or diameter, as a share of the image's shorter side.")
    largest: float = option(40 / 240, "Largest side or diameter, as a share of the image's shorter side.")
    spread: float = option(0.15, "Standard deviation of a centre's position along each axis, as a share of that axis.")
    noise_cells: int = option(16, "Cells of the coarse noise along each side.", least=1)
    noise_stddev: float = option(0.2, "Standard deviation of the coarse noise.", least=0)
    lesions: LesionOptions = option(LesionOptions, "Synthetic lesions.")
    augmentation: AugmentationOptions = option(AugmentationOptions, "How slices are varied, if ``augment``.")


@dataclass(frozen=True)
class ObjectiveOptions:
    """Weights of the loss terms (section 5.2)."""

    kl: float = option(
        0.01, "Weight of the latent distribution's Kullback-Leibler divergence; cvae and dcvae only.", least=0
    )
    reconstruction: float = option(
        1.0, "Weight of the reconstruction error on clean slices; cvae and dcvae only.", least=0
    )
    context: float = option(1.0, "Weight of the reconstruction error on corrupted slices.", least=0)
    cross_entropy: float = option(3.0, "Weight of the lesion's cross entropy; selfseg and fusion only.", least=0)
    overlap: float = option(1.0, "Weight of the lesion's soft Dice loss; selfseg and fusion only.", least=0)


@dataclass(frozen=True)
class FitOptions:
    """What determines a training run, together with the data."""

    architecture: str = option("cvae", "The network.")
    modalities: tuple[str, ...] = option(
        ("flair",), "Modality, as in <id>_<modality>.nii.gz; repeat it for several channels."
    )
    epochs: int = option(
        100,
        "Largest number of epochs. With --resume, a larger number than the run's own continues it; the learning rate "
        "then follows the schedule of the new number.",
        least=1,
    )
    patience: int = option(20, "Stop after this many epochs without a lower validation loss.", least=1)
    batch: int = option(16, "Slices in a batch.", least=1)
    examples: int = option(
        0,
        "Slices in an epoch, drawn at random from all; 0 takes each slice once. For the brain network, random heads.",
        least=0,
    )
    columns: int = option(
        0,
        "Central columns of a slice that are used for training; 0 uses all. A brain covers three quarters of them, and "
        "a step takes as much less time.",
        least=0,
    )
    views: int = option(
        1,
        "Number of times that each scan is cut into slices: first along its own axes, then in random directions, some "
        "of them with thick slices.",
        least=1,
        most=32,
    )
    learning_rate: float = option(
        1e-3, "Adam's learning rate at the start; it follows a cosine to 1 % at the last epoch.", least=1e-12, most=1000
    )
    validation: float = option(0.15, "Share of the patients that select the best epoch, at least one.", least=0, most=1)
    test: float = option(0.25, "Share of the patients that are kept for a test.", least=0, most=1)
    seed: int = option(
        0,
        "Seed of the split, the initial weights, the order, the corruption and the latent samples.",
        least=0,
        most=2**31 - 2,
    )
    labels: Labels = option(
        "slices",
        "What is known of the scans. slices: a segmentation, which is used to leave out slices with a lesion; none: "
        "nothing; slices that the network itself flags are left out, see --rounds; voxels: a segmentation, which is "
        "what the network learns to find instead of synthetic lesions, as a reference for comparisons (selfseg and "
        "fusion only).",
    )
    precision: Precision = option(
        "float32",
        "Floating-point format of the layers. mixed: float16 on a GPU, which is faster there, bfloat16 on a CPU; the "
        "weights and the exported model are float32.",
    )
    rounds: int = option(
        3,
        "With --labels none: how often the network looks for abnormal slices during the training, to leave them out "
        "afterwards; 0 trains on all slices.",
        least=0,
        most=100,
    )
    initial: str = option(
        RANDOM_WEIGHTS, "The model whose weights the training starts from, with the checksum of its card."
    )
    slices: SliceOptions = option(SliceOptions, "How volumes become slices.")
    corruption: CorruptionOptions = option(CorruptionOptions, "How slices are corrupted.")
    objective: ObjectiveOptions = option(ObjectiveOptions, "Weights of the loss terms.")

    @property
    def validation_examples(self) -> int:
        """Largest number of validation slices; 0 uses all."""
        return -(-self.examples // 4)

    @property
    def round_starts(self) -> tuple[int, ...]:
        """Numbers of finished epochs after which a part of the training begins; the first is 0.

        Between two parts the network looks for abnormal slices. There is one part if the slices are labelled.
        """
        parts = min(self.rounds + 1, self.epochs) if self.labels == "none" else 1
        return tuple(self.epochs * part // parts for part in range(parts))

    @property
    def screens_first(self) -> bool:
        """Whether abnormal slices are looked for before the first epoch too: a trained network knows them already."""
        return self.labels == "none" and self.rounds > 0 and self.initial != RANDOM_WEIGHTS

    @property
    def given_lesions(self) -> bool:
        """Whether the network learns from the lesions of segmentations, see ``corruption.corrupt``."""
        return self.labels == "voxels"

    @property
    def counted_from(self) -> int:
        """Number of epochs at the start whose validation losses do not count: those before the last part."""
        return self.round_starts[-1]


@dataclass(frozen=True)
class BrainFitOptions:
    """What determines the training of a brain network, together with the data."""

    architecture: str = option("brain", "The network.")
    modalities: tuple[str, ...] = option(
        ("flair", "t1", "t1ce", "t2"),
        "Modality, as in <id>_<modality>.nii.gz; repeat it for several. Each scan is an example of its own.",
    )
    epochs: int = option(12, "Largest number of epochs.", least=1)
    patience: int = option(12, "Stop after this many epochs without a lower validation loss.", least=1)
    examples: int = option(200, "Random heads in an epoch.", least=1)
    learning_rate: float = option(
        1e-3, "Adam's largest learning rate; it follows a cosine to 1 % at the last epoch.", least=1e-12, most=1000
    )
    validation: float = option(0.1, "Share of the subjects that select the best epoch, at least one.", least=0, most=1)
    test: float = option(0.0, "Share of the subjects that are kept for a test.", least=0, most=1)
    seed: int = option(0, "Seed of the split, the initial weights and the random heads.", least=0, most=2**31 - 2)
    synthetic: float = option(
        0.3, "Share of the examples that are made from skull-stripped brains, if there are heads too.", least=0, most=1
    )
    grid: HeadGridOptions = option(HeadGridOptions, "The voxels that the network sees.")
    heads: RandomHeadOptions = option(RandomHeadOptions, "How the examples are varied.")

    @property
    def counted_from(self) -> int:
        """Number of epochs at the start whose validation losses do not count."""
        return 0


@dataclass(frozen=True)
class MixtureOptions:
    """The Gaussian mixture with neighbourhood weights (section 5.3, step 3)."""

    neighbourhood: int = option(
        3,
        "Edge in voxels of the cube whose mean posterior is a voxel's mixing weight; an odd number, 1 turns it off.",
        least=1,
        odd=True,
    )
    iterations: int = option(20, "Largest number of EM iterations.", least=1)
    tolerance: float = option(1e-3, "EM stops when no mean moves by more than this, in units of the score.", least=0)
    spread: Spread = option("tied", "Standard deviations. tied: one for all components; free: one for each component.")
    lesion: LesionComponent = option(
        "brightest", "Which component is the lesion; the paper takes the smallest that is not the background."
    )


@dataclass(frozen=True)
class SegmentationOptions:
    """The stages after the network (section 5.3). None takes what the model's card says."""

    score: Score | None = option(
        None,
        "What the mixture is fitted to. absolute: the residual's absolute value; positive: its positive part; "
        "weighted: the geometric mean of the positive part and the input; probability: the network's lesion "
        "probability.",
    )
    match_range: bool = option(
        False, "Scale the reconstruction to the input's minimum and maximum first (step 1 of the paper)."
    )
    correct_bias_field: bool | None = option(
        None,
        "Remove the bias field, fitted outside what the network suspects, and run the network again.",
    )
    erosion_mm: float | None = option(None, "Ignore the brain's outermost millimetres, within each slice.", least=0)
    median: tuple[int, int, int] | None = option(
        None, "Edges of the median filter over (slices, rows, columns), in voxels."
    )
    components: tuple[int, ...] = option(
        (2, 3),
        "Numbers of mixture components, tried in this order until the lesion's component is separated, and that of a "
        "lesion probability also above the healthy threshold. The paper's third component is the background, which the "
        "brain mask leaves out.",
    )
    separation: float = option(
        4.0,
        "Distance of the lesion's mean from the next one, in standard deviations, that counts as separated.",
        least=0,
    )
    mixture: MixtureOptions = option(MixtureOptions, "The mixture.")
    mixture_region: MixtureRegion = option(
        "brain",
        "Where the mixture is fitted. brain: without its outermost millimetres; slice: whole slices, so that the "
        "component with the lowest mean is the background.",
    )
    healthy_threshold: float | None = option(
        None,
        "There is no lesion unless the mean of its component exceeds this value, in units of the score.",
        least=0,
    )
    closing_mm: float = option(3.0, "Radius of the binary closing in millimetres; 0 turns it off.", least=0, most=100)
    boundary_mm: float = option(
        4.0,
        "How far the mask's boundary may move towards an edge in the image, in millimetres; 0 turns it off.",
        least=0,
        most=100,
    )
    min_conspicuity: float = option(
        0.55,
        "Remove components whose conspicuity is below this: the mean of p (1 + c / 2), with the lesion probability p "
        "and the contrast c to the surroundings. Only if the score is a probability; 0 keeps all.",
        least=0,
    )
    growth: float = option(
        0.0,
        "On FLAIR, grow lesions into connected voxels that are brighter than the brain's median by more than this "
        "number of standard deviations of healthy tissue. With lower values they grow further; 0 turns it off.",
        least=0,
    )
    min_size_ml: float = option(2.0, "Remove components smaller than this, in millilitres.", least=0)

    def erosion_of(self, score: Score) -> float:
        """Width in millimetres of the brain's edge that is ignored, for a kind of score."""
        return _EROSION_MM_OF_SCORE.get(score, _EROSION_MM) if self.erosion_mm is None else self.erosion_mm

    def median_of(self, score: Score) -> tuple[int, int, int]:
        """Edges of the median filter over (slices, rows, columns) for a kind of score."""
        return self.median or _MEDIAN_OF_SCORE.get(score, _MEDIAN)


@dataclass(frozen=True)
class PredictOptions:
    """How scans are segmented, apart from the model."""

    segmentation: SegmentationOptions = option(SegmentationOptions, "The stages after the network.")
    brain: str = option(
        "auto",
        "How the brain is found. auto: what is not background if the scan is skull-stripped, else the brain network; "
        "stripped or network: always that; hd-bet, synthstrip, deepbet: that tool, which must be installed; or a "
        "command of your own, for instance 'mri_synthstrip -i {scan} -m {mask}'.",
    )
    engine: Engine = option(
        "auto",
        "What runs the networks. tensorflow: TensorFlow's Python package; c-api: its C library, which starts faster "
        "and runs on the CPU; auto: the C library if there is no GPU. The masks are the same.",
    )
    register: bool = option(
        True,
        "Register a further modality that is on another grid than the scan, or clearly moved. Without it the grids "
        "must be the same.",
    )
    copies: int = option(8, "Number of noisy copies for --save-uncertainty.", least=2)
    overwrite: bool = option(False, "Replace outputs that exist.")


@dataclass(frozen=True)
class CompareOptions:
    """How the lesions of two time points are matched and classified.

    The limits in percent are the changes of a volume that go with the changes of an area by 25 % in the RANO criteria
    for low-grade glioma (van den Bent et al. 2011): 1.25 ** 1.5 = 1.40 and 0.75 ** 1.5 = 0.65.
    """

    tolerance_mm: float = option(
        3.0,
        "Largest distance in millimetres between two lesions that are taken for the same although they do not overlap.",
        least=0,
        most=100,
    )
    min_growth: float = option(
        40.0, "A lesion has grown if its volume has increased by at least this, in percent.", least=0
    )
    min_shrinkage: float = option(
        35.0, "A lesion has shrunk if its volume has decreased by at least this, in percent.", least=0, most=100
    )
    min_change_ml: float = option(
        0.5, "A lesion whose volume has changed by less than this, in millilitres, is stable.", least=0
    )


# The stages for many small lesions, as of multiple sclerosis or in the white matter of old people: no median over many
# slices, which removes them, and no smallest size but a few voxels. The network is sure of small parts of the confluent
# ones around the ventricles only, so they grow.
SMALL_LESION_SEGMENTATION = SegmentationOptions(
    median=(3, 3, 3), closing_mm=0.0, boundary_mm=2.0, min_conspicuity=0.5, growth=2.4, min_size_ml=0.05
)
# The stages as in section 5.3: min-max matched absolute residual, three components in whole slices (healthy tissue,
# tumour, background), the smaller one of the first two is the tumour.
PAPER_SEGMENTATION = SegmentationOptions(
    score="absolute",
    match_range=True,
    correct_bias_field=False,
    erosion_mm=0.0,
    median=(1, 1, 1),
    components=(3,),
    mixture=MixtureOptions(spread="free", lesion="smallest"),
    mixture_region="slice",
    healthy_threshold=0.0,
    boundary_mm=0.0,
    min_conspicuity=0.0,
)

# What ``--preset`` stands for.
SEGMENTATION_PRESETS = {
    "best": SegmentationOptions(),
    "small": SMALL_LESION_SEGMENTATION,
    "paper": PAPER_SEGMENTATION,
}


def corruption_options(values: Mapping[str, Any]) -> CorruptionOptions:
    """The options from what ``dataclasses.asdict`` made of them, also if they were stored as JSON."""
    lesions = {name: _tuples(value) for name, value in values.get("lesions", {}).items()}
    parts = {
        "lesions": LesionOptions(**lesions),
        "augmentation": AugmentationOptions(**values.get("augmentation", {})),
    }
    return CorruptionOptions(**{**values, **parts})


def _tuples(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value
