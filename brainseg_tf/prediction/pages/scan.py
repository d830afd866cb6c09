"""The page of one scan: an interactive viewer, the lesions, the figure and the processing steps, in a single file."""

import base64
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainseg_tf import drawing
from brainseg_tf.images.volume import Volume
from brainseg_tf.model_card import ModelCard, versions
from brainseg_tf.prediction import figures, pages
from brainseg_tf.prediction.pages import wording
from brainseg_tf.segmentation import Segmentation

# Millimetres around the brain that are shown in the viewer: of a stripped scan, and of a head.
_MARGIN_MM, _HEAD_MARGIN_MM = 4.0, 30.0
# Smaller residuals, on the scale of the model's input, are transparent.
_SMALLEST_RESIDUAL = 0.08


@dataclass(frozen=True)
class Layer:
    """A volume in the viewer.

    Attributes:
        name: the name on the page.
        nifti: the gzipped NIfTI file in base64.
        colormap: name of a colour map of NiiVue.
        low, high: values at the ends of the colour map.
        opacity: initial opacity.
        shown: whether the layer is initially visible.
        negative: colour map for negative values; empty for none.
        labels: if the values are labels, the colour of each value from 0 as NiiVue wants them: names and channels.
    """

    name: str
    nifti: str
    colormap: str
    low: float
    high: float
    opacity: float = 1.0
    shown: bool = True
    negative: str = ""
    labels: dict[str, list[Any]] | None = None


def write_page(
    path: Path,
    scan: Volume,
    result: Segmentation,
    card: ModelCard,
    report: dict[str, Any],
    backdrop: figures.Backdrop,
    navigation: pages.Navigation | None = None,
) -> None:
    """Writes the page of a scan.

    There are seven parameters because the results of a prediction are independent objects.

    Args:
        path: the HTML file.
        scan: the scan; the text fields of its header are not written to the page.
        result: of ``segment``.
        card: of the model.
        report: of ``Predictor.run``.
        backdrop: the scan and the ground truth, for the figure.
        navigation: the index and the neighbouring pages, in a batch of scans.

    Raises:
        InputError: the file cannot be written.
    """
    figure = io.BytesIO()
    figures.segmentation(result, figure, backdrop)
    images = result.stack.images[..., 0]
    top = drawing.upper_limit(images[result.stack.brain])
    installed = versions()
    pages.write(
        path,
        "scan.html",
        [pages.viewer_source(), pages.script("rows.js"), pages.script("scan.js")],
        name=_name(report),
        report=report,
        layers=[vars(layer) for layer in layers(scan, result, top)],
        figure=base64.b64encode(figure.getvalue()).decode("ascii"),
        processing=wording.processing_table(report, result, card),
        software=wording.software(installed),
        methods=wording.methods(report, result, card, installed),
        citations=wording.citations(card),
        links=_links(path, navigation),
    )


def _name(report: dict[str, Any]) -> str:
    """The name of the scan, after that of the subject and the session if it does not contain them."""
    name = Path(report["scan"]).name
    missing = [part for part in (report["subject"], report["session"]) if part and part not in name]
    return ": ".join([" ".join(missing), name]) if missing else name


def _links(path: Path, navigation: pages.Navigation | None) -> dict[str, str | None] | None:
    """URLs of the index and of the previous and next page, which are opened through the index; see ``Navigation``."""
    if navigation is None:
        return None
    index = pages.link(navigation.index, path.parent)
    page = quote(pages.link(path, navigation.index.parent), safe="")
    return {
        "index": index,
        "previous": f"{index}#before={page}" if navigation.previous else None,
        "next": f"{index}#after={page}" if navigation.next else None,
    }


def layers(scan: Volume, result: Segmentation, top: float) -> list[Layer]:
    """The layers of the viewer.

    Scan and mask are on the scan's grid, cropped to the brain. The maps are on the model's grid; the viewer resamples
    them.

    Args:
        scan, result: as in ``write_page``.
        top: upper limit of the input's intensities. The colour map of the residual ends at half of it.
    """
    margins = np.rint((_MARGIN_MM if result.brain.source == "stripped" else _HEAD_MARGIN_MM) / np.array(scan.spacing))
    box = tuple(
        slice(max(0, side.start - int(margin)), side.stop + int(margin))
        for side, margin in zip(
            ndimage.find_objects(result.brain.mask.astype(np.uint8))[0], np.maximum(margins, 2), strict=True
        )
    )
    corner = np.eye(4)
    corner[:3, 3] = [side.start for side in box]
    affine = scan.affine @ corner
    low, high = (float(value) for value in np.quantile(scan.data[result.brain.mask], [0.001, 0.998]))
    low = min(low, float(scan.data[box].min()))
    residual = result.residual.mean(axis=-1)
    return [
        Layer("scan", encode(scan.data[box], affine, low, high), "gray", low, high),
        Layer("lesion", encode(result.mask[box], affine, 0, 1), "red", 0, 1, opacity=0.5),
        *(
            [Layer("suspected", encode(result.suspected[box], affine, 0, 1), "blue", 0, 1, opacity=0.5, shown=False)]
            if result.suspects
            else []
        ),
        Layer("brain", encode(result.brain.mask[box], affine, 0, 1), "green", 0, 1, opacity=0.3, shown=False),
        Layer(
            "residual",
            encode(residual.T, result.stack.affine, -top, top),
            "warm",
            _SMALLEST_RESIDUAL,
            top / 2,
            opacity=0.7,
            shown=False,
            negative="winter",
        ),
        Layer(
            "probability",
            encode(result.outline.probability.T, result.stack.affine, 0, 1),
            "viridis",
            0.05,
            1,
            opacity=0.7,
            shown=False,
        ),
    ]


def encode(data: np.ndarray, affine: np.ndarray, low: float, high: float) -> str:
    """A gzipped NIfTI file with 8 bits per voxel and a new header, in base64; values are clipped to [low, high]."""
    step = (high - low) / 250 or 1.0
    # A multiple of the step, so that 0 is represented exactly: voxels with 0 are transparent.
    start = round(low / step) * step
    levels = np.clip(np.rint((data.astype(np.float32) - start) / step), 0, 255).astype(np.uint8)
    image = nib.Nifti1Image(levels, affine)
    image.header.set_slope_inter(step, start)
    image.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode("ascii")
