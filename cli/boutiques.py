"""The Boutiques descriptor of ``brainseg-tf-bids``, from its options.

T. Glatard et al., Boutiques: a flexible framework to integrate command-line applications in computing platforms,
GigaScience 7 (2018).
"""

from typing import Any

import click

from brainseg_tf import __version__

_SCHEMA_VERSION = "0.5"


def descriptor(command: click.Command) -> dict[str, Any]:
    """The descriptor, schema version 0.5.

    Args:
        command: ``brainseg-tf-bids``.
    """
    described = [_input(parameter) for parameter in command.params if parameter.expose_value]
    return {
        "name": command.name,
        "description": "Unsupervised segmentation of lesions in brain MR images of a BIDS dataset. For research; not a "
        "medical device.",
        "author": "The brainseg-tf developers",
        "tool-version": __version__,
        "schema-version": _SCHEMA_VERSION,
        "command-line": " ".join([str(command.name), *(one["value-key"] for one in described)]),
        "inputs": described,
        "output-files": [
            {
                "id": "derivative",
                "name": "BIDS derivative",
                "description": "Masks, probabilities, reports, pages and tables.",
                "path-template": "[OUTPUT_DIR]",
            }
        ],
        "suggested-resources": {"cpu-cores": 2, "ram": 2},
        "tags": {"domain": ["neuroinformatics", "bids"]},
    }


def _input(parameter: click.Parameter) -> dict[str, Any]:
    """An argument or option as Boutiques describes it."""
    name = str(parameter.name)
    entry: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " "),
        "value-key": f"[{name.upper()}]",
        "type": "String",
        "optional": not parameter.required,
    }
    if isinstance(parameter, click.Option):
        entry["command-line-flag"] = parameter.opts[0]
        entry["description"] = str(parameter.help)
        if parameter.is_flag:
            # A flag that is on by default is given by its opposite.
            entry |= {"type": "Flag"}
            if parameter.secondary_opts:
                flag = parameter.secondary_opts[0]
                entry |= {"command-line-flag": flag, "name": flag.strip("-").replace("-", " ")}
                entry["description"] = f"Not: {parameter.help}"
    else:
        entry["description"] = _ARGUMENTS[name]
    if isinstance(parameter.type, click.Path):
        entry["type"] = "String" if name == "output_dir" else "File"
    if isinstance(parameter.type, click.Choice):
        entry["value-choices"] = list(parameter.type.choices)
    if parameter.multiple or parameter.nargs == -1:
        entry |= {"list": True, "optional": True}
    return entry


_ARGUMENTS = {
    "bids_dir": "Root of the BIDS dataset.",
    "output_dir": "Folder for the BIDS derivative; created if it does not exist.",
    "analysis_level": "participant segments scans; group writes the tables of all segmented scans.",
    "predict_options": "Options of brainseg-tf predict.",
}
