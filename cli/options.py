"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from brainseg_tf.postprocessing.residual import Score
    from brainseg_tf.segmentation import SegmentationOptions

FILE = click.Path(path_type=Path)


def shipped_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The shipped models' names that begin with what was typed, for the shell."""
    from importlib import resources

    places = resources.files("brainseg_tf_saved_models").iterdir()
    names = sorted(place.name for place in places if place.is_dir() and not place.name.startswith("_"))
    return [name for name in names if name.startswith(incomplete)]


# Section 5.3 to the letter: min-max matched absolute residual, three components, the smallest is always the tumour.
PAPER = {
    "score": "absolute",
    "match_range": True,
    "flatten": False,
    "rim": 0.0,
    "median": 1,
    "mixture_components": 3,
    "spread": "free",
    "lesion": "smallest",
    "level": 0.0,
    "edge": 0.0,
    "faintest": 0.0,
}


def _preset(context: click.Context, parameter: click.Parameter, name: str) -> None:
    """Options that are not given take the preset's values instead of their defaults."""
    if name == "paper":
        context.default_map = PAPER


def _odd(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None and value % 2 == 0:
        raise click.BadParameter(f"{value} has no middle voxel; give an odd number")
    return value


_STAGES = [
    click.option(
        "--preset",
        type=click.Choice(["best", "paper"]),
        default="best",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_preset,
        help="The stages after the network as we found them best, or as in the paper (section 5.3); options that are "
        "given win.",
    ),
    click.option(
        "--score",
        type=click.Choice(["absolute", "positive", "weighted", "probability"]),
        help="What is divided: the residual, its positive part, that part weighted by the input, or a lesion's "
        "probability.  [default: the model's own]",
    ),
    click.option("--match-range", is_flag=True, help="Min-max normalise the reconstruction to the input first."),
    click.option(
        "--flatten/--no-flatten",
        default=None,
        help="Take the bias field out of the slices once the network has said what is not healthy, and ask it again.  "
        "[default: where the score is a probability]",
    ),
    click.option(
        "--rim",
        type=click.FloatRange(0),
        default=3.75,
        show_default=True,
        help="Millimetres taken off the brain's surface.",
    ),
    click.option(
        "--median",
        type=click.IntRange(1),
        callback=_odd,
        help="Edge of the median filter in pixels, an odd number; 1 turns it off.  [default: 5, over 3 slices; of a "
        "probability 3, over 13]",
    ),
    click.option(
        "--mixture-components",
        type=click.IntRange(2),
        help="Their number.  [default: 2, or 3 if these are not 4 standard deviations apart]",
    ),
    click.option(
        "--neighbourhood",
        type=click.IntRange(1),
        callback=_odd,
        default=3,
        show_default=True,
        help="Edge of the cube of neighbours that weigh a voxel's components, an odd number; 1 turns them off.",
    ),
    click.option(
        "--spread",
        type=click.Choice(["tied", "free"]),
        default="tied",
        show_default=True,
        help="One standard deviation for all components, or each its own.",
    ),
    click.option(
        "--lesion",
        type=click.Choice(["brightest", "smallest"]),
        default="brightest",
        show_default=True,
        help="The component that is the lesion.",
    ),
    click.option(
        "--level",
        type=click.FloatRange(0),
        help="No lesion if its component's mean lies below this.  [default: the model's level of healthy tissue]",
    ),
    click.option(
        "--closing",
        type=click.FloatRange(0),
        default=3.0,
        show_default=True,
        help="Radius of the closing in millimetres.",
    ),
    click.option(
        "--edge",
        type=click.FloatRange(0),
        default=4.0,
        show_default=True,
        help="How far the mask's edge may move to where the image changes, in millimetres; 0 leaves it.",
    ),
    click.option(
        "--faintest",
        type=click.FloatRange(0),
        default=0.3,
        show_default=True,
        help="By which share a lesion must be brighter than what surrounds it, weighted by its probability; half of it "
        "beside one that is; 0 keeps all. Where the score is a probability.",
    ),
    click.option(
        "--min-size",
        type=click.FloatRange(0),
        default=2.0,
        show_default=True,
        help="Smaller components are removed, in ml.",
    ),
]


def stages(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the stages after the network."""
    for option in reversed(_STAGES):
        command = option(command)
    return command


def segmentation_options(
    *,
    score: "Score | None",
    match_range: bool,
    flatten: bool | None,
    rim: float,
    median: int | None,
    mixture_components: int | None,
    neighbourhood: int,
    spread: Literal["tied", "free"],
    lesion: Literal["brightest", "smallest"],
    level: float | None,
    closing: float,
    edge: float,
    faintest: float,
    min_size: float,
) -> "SegmentationOptions":
    """The stages' options from the command line's."""
    from brainseg_tf.postprocessing.mixture import MixtureOptions
    from brainseg_tf.segmentation import SegmentationOptions

    return SegmentationOptions(
        score=score,
        match_range=match_range,
        flatten=flatten,
        rim=rim,
        median=(min(3, median), median, median) if median else None,
        components=(mixture_components,) if mixture_components else SegmentationOptions().components,
        mixture=MixtureOptions(neighbourhood, spread=spread, lesion=lesion),
        level=level,
        closing=closing,
        edge=edge,
        faintest=faintest,
        smallest=min_size,
    )
