"""The page of two time points: both scans in linked viewers, the lesions, the figure and how it was made."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from scipy import ndimage

from brainseg_tf import drawing
from brainseg_tf.images.background import head_mask
from brainseg_tf.model_card import ModelCard, versions
from brainseg_tf.prediction import comparison_figure, pages
from brainseg_tf.prediction.comparison import Comparison
from brainseg_tf.prediction.comparison_figure import CHANGES
from brainseg_tf.prediction.pages import wording
from brainseg_tf.prediction.pages.scan import Layer, encode

# The largest value of a layer with 8 bits and steps of 1, so that labels are kept.
_STEPS = 250
# Voxels around the head that are shown.
_MARGIN = 2


def write_page(path: Path, result: Comparison, card: ModelCard | None, report: dict[str, Any]) -> None:
    """Writes the page of a comparison.

    Args:
        path: the HTML file.
        result: of ``compare_time_points``; the text fields of the scans' headers are not written to the page.
        card: of the model that predicted the masks; None if both were given.
        report: of ``comparison_job.run``.

    Raises:
        InputError: the file cannot be written.
    """
    figure = io.BytesIO()
    comparison_figure.draw(result, figure)
    pages.write(
        path,
        "comparison.html",
        [pages.viewer_source(), pages.script("rows.js"), pages.script("comparison.js")],
        names=pages.distinct_names([Path(report[name]["scan"]) for name in ("before", "after")]),
        report=report,
        viewers=[[vars(layer) for layer in layers] for layers in viewer_layers(result)],
        changes=list(CHANGES.values()),
        figure=base64.b64encode(figure.getvalue()).decode("ascii"),
        processing=_processing(report),
        software=wording.software(versions()),
        citations=wording.citations(card),
    )


def viewer_layers(result: Comparison) -> tuple[list[Layer], list[Layer]]:
    """The layers of the viewer before and of the viewer after, on the grid of the scan before, cropped to the head."""
    scan = result.before.scan
    head = head_mask(scan.data)
    (box,) = ndimage.find_objects((head if head.any() else np.ones_like(head)).astype(np.uint8))
    box = tuple(slice(max(0, side.start - _MARGIN), side.stop + _MARGIN) for side in box)
    corner = np.eye(4)
    corner[:3, 3] = [side.start for side in box]
    affine = scan.affine @ corner
    changes = encode(result.change_map[box], affine, 0, _STEPS)

    def layers(data: np.ndarray, mask: np.ndarray) -> list[Layer]:
        low, high = float(data[box].min()), drawing.upper_limit(data[head & result.covered])
        lesion = encode(mask[box], affine, 0, 1)
        return [
            Layer("scan", encode(data[box], affine, low, high), "gray", low, high),
            Layer("lesion", lesion, "red", 0, 1, opacity=0.4),
            Layer("changes", changes, "gray", 0, _STEPS, opacity=0.6, shown=False, labels=_label_colours()),
        ]

    return layers(scan.data, result.before.mask), layers(result.registered.data, result.registered_mask)


def _label_colours() -> dict[str, list[Any]]:
    """The colours of the change map as NiiVue wants them; 0 is transparent."""
    colours = [(0, 0, 0), *(tuple(round(255 * one) for one in to_rgb(colour)) for _, colour in CHANGES.values())]
    red, green, blue = (list(channel) for channel in zip(*colours, strict=True))
    names = ["", *(name for name, _ in CHANGES.values())]
    return {"R": red, "G": green, "B": blue, "A": [0] + [255] * len(CHANGES), "labels": names}


def _processing(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The table of how it was made: a subject and a sentence for each row."""
    registration, limits, model = report["registration"], report["limits"], report["model"]
    sources = {
        "given": "the mask was given",
        "predicted": f"the mask was predicted by model {model['name']}, version {model['version']}" if model else "",
    }
    points = [
        (
            name.capitalize(),
            f"{report[name]['lesion_ml']:.2f} ml; {sources[report[name]['source']]}; voxels of "
            f"{' x '.join(f'{mm:.3g}' for mm in report[name]['voxel_mm'])} mm",
        )
        for name in ("before", "after")
    ]
    return [
        *points,
        (
            "Registration",
            f"rigid, by mutual information: movement {registration['movement_mm']:.1f} mm, rotation "
            f"{registration['rotation_deg']:.1f} degrees; correlation of the registered scans "
            f"{registration['correlation']:.2f}",
        ),
        (
            "Lesions",
            f"components that overlap, or that overlap none and are at most {limits['tolerance_mm']:g} mm apart, are "
            "one lesion; grown: "
            f"by at least {limits['min_growth']:g} %; shrunk: by at least {limits['min_shrinkage']:g} %; both by at "
            f"least {limits['min_change_ml']:g} ml; volumes are measured on each mask's own grid",
        ),
    ]
