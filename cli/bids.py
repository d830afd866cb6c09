"""The command ``brainseg-tf-bids``: ``brainseg-tf predict`` with the arguments of a BIDS App.

K. Gorgolewski et al., BIDS Apps, PLoS Computational Biology 13 (2017).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from brainseg_tf import __version__
from brainseg_tf_cli.main import ErrorsAsMessages, set_up_process
from brainseg_tf_cli.options import FILE

LEVELS = ("participant", "group")
INDEX = "index.html"
# Probability and numbered lesions of each scan, in the folder of its mask.
_PROBABILITY, _LESIONS = "{name}_label-lesion_probseg.nii.gz", "{name}_desc-lesions_dseg.nii.gz"
# Options that take several values, and the spelling with an underscore that some BIDS Apps have.
_LABELS = ("--participant-label", "--session-label")


class BidsApp(ErrorsAsMessages, click.Command):
    """A command whose label options take one or several values, as BIDS Apps do: ``--participant-label 01 02``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        expanded: list[str] = []
        label = ""
        for word in args:
            name, equals, value = word.partition("=")
            if name.replace("_", "-") in _LABELS:
                self._check_label(ctx, label, expanded)
                label, word = name.replace("_", "-"), value
                if not equals:
                    continue
            elif word.startswith("-"):
                self._check_label(ctx, label, expanded)
                label = ""
            expanded += [label, word] if label else [word]
        self._check_label(ctx, label, expanded)
        return super().parse_args(ctx, expanded)

    @staticmethod
    def _check_label(ctx: click.Context, label: str, expanded: Sequence[str]) -> None:
        """Refuses a label option without a label: all subjects would be segmented."""
        if label and expanded[-2:-1] != [label]:
            raise click.UsageError(f"{label}: expected one label or several", ctx)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["BIDS_DIR", "OUTPUT_DIR", "|".join(LEVELS), "[OPTIONS]", "[OPTIONS OF brainseg-tf predict]"]


def _show_boutiques(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from brainseg_tf_cli.boutiques import descriptor

        click.echo(json.dumps(descriptor(context.command), indent=2))
        context.exit()


@click.command(
    cls=BidsApp,
    name="brainseg-tf-bids",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "ignore_unknown_options": True,
        "allow_interspersed_args": True,
    },
)
@click.argument("bids_dir", type=FILE)
@click.argument("output_dir", type=FILE)
@click.argument("analysis_level", type=click.Choice(LEVELS), metavar="|".join(LEVELS))
@click.argument("predict_options", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--participant-label", multiple=True, metavar="LABEL...", help="Subjects, with or without sub-.  [default: all]"
)
@click.option(
    "--session-label", multiple=True, metavar="LABEL...", help="Sessions, with or without ses-.  [default: all]"
)
@click.option("--html/--no-html", default=True, show_default=True, help="Pages of the scans and index.html.")
@click.option(
    "--boutiques",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_boutiques,
    help="Print the Boutiques descriptor and exit.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, "--version", "-v", prog_name="brainseg-tf")
def bids(
    bids_dir: Path,
    output_dir: Path,
    analysis_level: str,
    predict_options: tuple[str, ...],
    participant_label: tuple[str, ...],
    session_label: tuple[str, ...],
    html: bool,
    debug: bool,
) -> None:
    """Segment the lesions in a BIDS dataset.

    participant writes masks, probabilities, brain masks and pages of the FLAIR scans as a BIDS derivative. Scans that
    an earlier run finished are kept, so subjects can be run one by one or at the same time. group writes lesions.tsv,
    suspects.tsv, volumes.tsv and index.html for all scans that are finished.

    Options of brainseg-tf predict can follow, for instance --contrast t2, --model NAME, --preset small or --workers 4.
    """
    from brainseg_tf.prediction.bids import check_dataset, find_places

    check_dataset(bids_dir)
    if html:
        from brainseg_tf.prediction import pages

        pages.check_installed()
    index = output_dir / INDEX if html else None
    if analysis_level == "group":
        if participant_label or session_label or predict_options:
            raise click.UsageError("group takes no labels and no options of brainseg-tf predict: it uses all results")
        from brainseg_tf.prediction.bids import run_group

        count = run_group(output_dir, index)
        click.echo(f"{output_dir}: tables of {count} scan{'s' * (count != 1)}")
        return
    places = find_places(bids_dir, participant_label, session_label)
    _run_participants(places, output_dir, index, predict_options)


def _run_participants(places: Sequence[Path], out: Path, index: Path | None, options: Sequence[str]) -> None:
    from brainseg_tf.files import printable
    from brainseg_tf_cli.predict import predict

    arguments = ["--save-probability", _PROBABILITY, "--save-lesions", _LESIONS, *options]
    arguments += [] if index is None else ["--html", str(index)]
    # Complete results are kept unless the user gives --overwrite.
    arguments += [] if "--overwrite" in options else ["--continue"]
    with predict.make_context("brainseg-tf predict", [*arguments, "--out-dir", str(out), *map(str, places)]) as context:
        # Words that belong to no option come before the places.
        if extra := context.params["scans"][: -len(places)]:
            words = " ".join(printable(word) for word in extra)
            raise click.UsageError(f"unexpected arguments: {words}; labels follow --participant-label")
        predict.invoke(context)


def run() -> None:
    """The entry point of the installed command."""
    set_up_process()
    bids()
