"""The options of ``brainseg-tf predict``, except those of the post-processing."""

import shlex
from pathlib import Path

import click

from brainseg_tf.options import PredictOptions
from brainseg_tf_cli.option_factory import apply, from_field, option
from brainseg_tf_cli.options import FILE, resource_options, shipped_names

INPUT, OUTPUT, BRAIN, MODEL = "Input", "Output", "Brain", "Model"
MANY, SERVER = "Many scans", "Server"
# Contrasts of the main scan for which a model is shipped, the most frequent one first.
CONTRASTS = ("flair", "t2")


def brain_method(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Checks how the brain is found before anything else is done."""
    from brainseg_tf.brain.mask import METHODS
    from brainseg_tf.brain.tools import CHOICES, command_of

    if value in METHODS:
        return value
    command = command_of(value)
    if command is None:
        raise click.BadParameter(f"{value}: {CHOICES}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.BadParameter(f"{error}; quote it as for a shell") from None
    if not words or any(place in words[0] for place in ("{scan}", "{mask}")):
        raise click.BadParameter(f"{value}: does not begin with a program; {CHOICES}")
    return value


def _modalities(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """NAME=FILE options by name; the name can be in capitals."""
    from brainseg_tf.images.modality_names import modality_name

    files: dict[str, Path] = {}
    for value in values:
        word, equals, file = value.partition("=")
        if not (word and equals and file):
            raise click.BadParameter(f"{word}: expected NAME=FILE")
        name = modality_name(word)
        if name in files:
            raise click.BadParameter(f"{name}: is given twice")
        files[name] = Path(file)
    return files


input_output_and_model = apply(
    [
        option(
            "--modality",
            group=INPUT,
            multiple=True,
            metavar="NAME=FILE",
            callback=_modalities,
            help="Scan of a further modality, for instance t2=t2.nii.gz.",
        ),
        from_field(PredictOptions, "register", "--register/--no-register", group=INPUT, advanced=True),
        option(
            "--contrast",
            group=INPUT,
            type=click.Choice(CONTRASTS),
            help="Contrast of the main scan, which decides the model.  [default: that in the names or series "
            "descriptions of the scans, else flair]",
        ),
        option("--truth", group=INPUT, type=FILE, help="Ground truth on the scan's grid; adds the Dice and a panel."),
        option("--out", group=OUTPUT, type=FILE, help="Lesion mask of one scan, .nii or .nii.gz."),
        option(
            "--out-dir", group=OUTPUT, type=FILE, help="Folder for the masks, reports and figures of several scans."
        ),
        option("--report", group=OUTPUT, type=FILE, help="JSON report: volumes, components, seconds, model, options."),
        option("--figure", group=OUTPUT, type=FILE, help="PNG of input, reconstruction, residual and result."),
        option(
            "--html",
            group=OUTPUT,
            type=FILE,
            help="Page for a browser: viewer, lesions, what was run. With --out-dir: an index, and a page per scan.",
        ),
        option(
            "--save-probability",
            group=OUTPUT,
            type=FILE,
            help="Posterior probability of a lesion, float32, on the scan's grid.",
        ),
        option(
            "--save-suspicion",
            group=OUTPUT,
            type=FILE,
            help="Mask of what is abnormal but not in the lesion mask, on the scan's grid.",
        ),
        option(
            "--save-lesions",
            group=OUTPUT,
            type=FILE,
            help="Number of each lesion in the report, 1 for the largest, on the scan's grid.",
        ),
        option(
            "--viewer-tables",
            group=OUTPUT,
            is_flag=True,
            help="Label tables with names and colours for FSLeyes, ITK-SNAP and Freeview, beside the mask and the file "
            "of --save-lesions.",
        ),
        option("--save-brain-mask", group=OUTPUT, type=FILE, help="Mask of the brain, on the scan's grid."),
        option(
            "--save-residual",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Input minus reconstruction, on the scan's grid.",
        ),
        option(
            "--save-reconstruction",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="The network's reconstruction, on the scan's grid.",
        ),
        option(
            "--save-uncertainty",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Standard deviation of the score over noisy copies of the scan, on the scan's grid.",
        ),
        from_field(PredictOptions, "copies", group=OUTPUT, advanced=True),
        option(
            "--save-dicom-seg",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Lesion mask of a DICOM series as a DICOM segmentation, .dcm.",
        ),
        option(
            "--save-rtstruct",
            group=OUTPUT,
            advanced=True,
            type=FILE,
            help="Lesions of a DICOM series as a DICOM RT structure set, .dcm.",
        ),
        from_field(PredictOptions, "overwrite", group=OUTPUT),
        option("--brain-mask", group=BRAIN, type=FILE, help="Brain mask on the scan's grid."),
        from_field(
            PredictOptions,
            "brain",
            group=BRAIN,
            metavar="METHOD",
            callback=brain_method,
        ),
        option(
            "--model",
            group=MODEL,
            shell_complete=shipped_names,
            help="Name of a shipped model, or a model folder (./FOLDER). shipped:NAME[/VERSION] is always a shipped "
            "model.  [default: the best one for --contrast and what --modality adds]",
        ),
    ]
)
many_scans_and_server = apply(
    [
        from_field(PredictOptions, "engine", group=MODEL, advanced=True),
        resource_options(MODEL),
        option(
            "--workers",
            group=MANY,
            type=click.IntRange(1),
            default=2,
            show_default=True,
            help="Number of scans that are processed at the same time.",
        ),
        option("--continue", "proceed", group=MANY, is_flag=True, help="Keep what an earlier run finished."),
        option(
            "--scheduler", group=MANY, metavar="URL", help="Address of a Dask scheduler to run on, tcp://host:8786."
        ),
        option(
            "--server",
            group=SERVER,
            metavar="URL",
            help="TensorFlow Serving that runs the model: grpc[s]:// or http[s]://host:port.",
        ),
        option(
            "--server-model", group=SERVER, advanced=True, help="Name of the model there.  [default: the model's own]"
        ),
        option(
            "--server-version",
            group=SERVER,
            advanced=True,
            type=click.IntRange(1),
            help="Version of the model there.  [default: the newest]",
        ),
        option("--server-label", group=SERVER, advanced=True, help="Label of the version there, for instance stable."),
        option(
            "--server-ca",
            group=SERVER,
            advanced=True,
            type=FILE,
            help="PEM file of certificates that the server's certificate is checked with.  [default: the system's]",
        ),
        option(
            "--server-timeout",
            group=SERVER,
            advanced=True,
            type=click.FloatRange(0.1, 86400),
            default=60.0,
            show_default=True,
            help="Seconds for one request, from the connection to the last byte of the answer.",
        ),
    ]
)
