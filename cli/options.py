"""Options that several commands share."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from brainseg_tf.options import SEGMENTATION_PRESETS, MixtureOptions, SegmentationOptions
from brainseg_tf_cli.option_factory import Decorator, OddRange, apply, from_field, option
from brainseg_tf_cli.process import set_thread_variables

FILE = click.Path(path_type=Path)
POST = "Post-processing"


def shipped_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The shipped models' names that begin with what was typed, for the shell."""
    from importlib import resources

    places = resources.files("brainseg_tf_saved_models").iterdir()
    names = sorted(place.name for place in places if place.is_dir() and not place.name.startswith("_"))
    return [name for name in names if name.startswith(incomplete)]


def with_names(scans: tuple[Path, ...]) -> tuple[Path, ...]:
    """Scans with names for their outputs: a series in the current folder, ``.``, has one too."""
    return tuple(scan.resolve() if scan.name in ("", "..") else scan for scan in scans)


# More threads than this are more likely a typing error than a machine.
_MOST_THREADS = 1024


def resource_options(group: str) -> Decorator:
    """The options ``--device`` and ``--threads``, whose values are for ``prepare_tensorflow``."""
    return apply(
        [
            option(
                "--device",
                group=group,
                advanced=True,
                metavar="DEVICE",
                default="auto",
                callback=_device,
                help="Device: cpu, gpu or gpu:N (the first GPU is gpu:0).  [default: the GPUs, if there are any]",
            ),
            option(
                "--threads",
                group=group,
                advanced=True,
                type=click.IntRange(1, _MOST_THREADS),
                callback=_threads,
                help="Number of threads of TensorFlow and of SimpleITK.  [default: the number of cores that the "
                "process may use]",
            ),
        ]
    )


def _device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|gpu(:\d{1,3})?", value):
        raise click.BadParameter(f"{value}: give cpu, gpu or gpu:N")
    return value


def _threads(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    if value is not None:
        # Now, because NumPy and SimpleITK read the variables when they are imported.
        set_thread_variables(value)
    return value


# Stages after the network. The first three are often used, the others are shown by --help-all.
post_processing = apply(
    [
        option(
            "--preset",
            group=POST,
            type=click.Choice([*SEGMENTATION_PRESETS]),
            default="best",
            show_default=True,
            help="Stages after the network. best: for tumours, chosen by measurements (docs/experiments.md); small: "
            "for confluent lesions around the ventricles, as of multiple sclerosis, and lesions from 0.05 ml, with "
            "more false ones; paper: as in section 5.3 of the "
            "source paper. Options that are given take precedence.",
        ),
        from_field(
            SegmentationOptions,
            "min_size_ml",
            group=POST,
        ),
        from_field(SegmentationOptions, "min_conspicuity", group=POST),
        from_field(
            SegmentationOptions,
            "score",
            group=POST,
            advanced=True,
            type=click.Choice(["absolute", "positive", "weighted", "probability"]),
            default_text="the model's own",
        ),
        from_field(SegmentationOptions, "match_range", group=POST, advanced=True),
        from_field(
            SegmentationOptions,
            "correct_bias_field",
            group=POST,
            advanced=True,
            default_text="only if the score is a probability",
        ),
        from_field(
            SegmentationOptions,
            "erosion_mm",
            group=POST,
            advanced=True,
            default_text="3.75; for a probability 0",
        ),
        option(
            "--median",
            group=POST,
            advanced=True,
            type=OddRange(1),
            help="Edge of the median filter in pixels, an odd number; 1 turns it off.  [default: 5, over 3 slices; for "
            "a probability 3, over 7 slices]",
        ),
        option(
            "--mixture-components",
            group=POST,
            advanced=True,
            type=click.IntRange(2),
            help="Number of mixture components.  [default: 2, or 3 if these are less than 4 standard deviations apart]",
        ),
        from_field(SegmentationOptions, "mixture_region", group=POST, advanced=True),
        from_field(MixtureOptions, "neighbourhood", group=POST, advanced=True),
        from_field(MixtureOptions, "spread", group=POST, advanced=True),
        from_field(MixtureOptions, "lesion", group=POST, advanced=True),
        from_field(
            SegmentationOptions,
            "healthy_threshold",
            group=POST,
            advanced=True,
            default_text="measured on healthy slices, from the model card",
        ),
        from_field(SegmentationOptions, "closing_mm", group=POST, advanced=True),
        from_field(SegmentationOptions, "boundary_mm", group=POST, advanced=True),
        from_field(
            SegmentationOptions,
            "growth",
            group=POST,
            advanced=True,
            default_text=f"0; with --preset small {SEGMENTATION_PRESETS['small'].growth:g}",
        ),
    ]
)


def segmentation_options(context: click.Context, values: dict[str, Any]) -> SegmentationOptions:
    """The stages' options: those of the preset, with what was given on the command line.

    Args:
        context: of the command; it knows what was given.
        values: the parameters that ``post_processing`` adds, by name.
    """
    options = SEGMENTATION_PRESETS[values["preset"]]
    given = {
        name: value
        for name, value in values.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    median, components = given.get("median"), given.get("mixture_components")
    if median is not None:
        options = replace(options, median=(min(3, median), median, median))
    if components is not None:
        options = replace(options, components=(components,))
    mixture = {one.name: given[one.name] for one in fields(MixtureOptions) if one.name in given}
    own = {one.name: given[one.name] for one in fields(options) if one.name in given and one.name != "median"}
    return replace(options, mixture=replace(options.mixture, **mixture), **own)
