"""The page of one scan: an interactive viewer, the figure, the lesions, and what ran. One file, no network."""

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

# Voxels around the brain that the viewer keeps.
_MARGIN = 4
# Residuals this small, on the model's scale, are not drawn.
_SPECKLE = 0.08


@dataclass(frozen=True)
class Layer:
    """A volume in the viewer.

    Attributes:
        name: for the reader.
        nifti: the gzipped file, base64.
        colormap, negative: names of NiiVue's colour maps; ``negative`` for values below 0, "" for none.
        low, high: the values that they run between.
        opacity: at the start.
        shown: whether it can be seen at the start.
    """

    name: str
    nifti: str
    colormap: str
    low: float
    high: float
    opacity: float = 1.0
    shown: bool = True
    negative: str = ""


def write_page(
    path: Path,
    scan: Volume,
    result: Segmentation,
    card: ModelCard,
    report: dict[str, Any],
    truth: np.ndarray | None = None,
    navigation: pages.Navigation | None = None,
) -> None:
    """Writes the page of a scan.

    The arguments are what a prediction made; each is one whole and none follows from another.

    Args:
        path: HTML, one file.
        scan: as it was read; its header's free text stays out of the page.
        result: of ``segment``.
        card: of the model.
        report: of ``Predictor.run``.
        truth: (N, H, W) bool on the model's slices, for the figure.
        navigation: the index and the neighbours, for one of many scans.

    Raises:
        InputError: the place cannot be written to.
    """
    figure = io.BytesIO()
    figures.segmentation(result, figure, truth)
    images = result.stack.images[..., 0]
    top = drawing.upper_limit(images[result.stack.brain])
    installed = versions()
    pages.write(
        path,
        "scan.html",
        [pages.viewer_source(), pages.script("scan.js")],
        name=Path(report["scan"]).name,
        report=report,
        layers=[vars(layer) for layer in layers(scan, result, top)],
        figure=base64.b64encode(figure.getvalue()).decode("ascii"),
        ran=wording.what_ran(report, result, card),
        software=wording.software(installed),
        methods=wording.methods(report, result, card, installed),
        citations=wording.citations(card),
        links=_links(path, navigation),
    )


def _links(path: Path, navigation: pages.Navigation | None) -> dict[str, str | None] | None:
    """URLs of the index and, through it, of the nearest pages before and after this one, see ``Navigation``."""
    if navigation is None:
        return None
    index = pages.link(navigation.index, path.parent)
    own = quote(pages.link(path, navigation.index.parent), safe="")
    return {
        "index": index,
        "previous": f"{index}#before={own}" if navigation.previous else None,
        "next": f"{index}#after={own}" if navigation.next else None,
    }


def layers(scan: Volume, result: Segmentation, top: float) -> list[Layer]:
    """Scan and mask on the scan's grid, cropped to the brain; the maps on the model's, which the viewer resamples.

    Args:
        scan, result: as in ``write_page``.
        top: residuals beyond half of this look alike.
    """
    box = tuple(
        slice(max(0, side.start - _MARGIN), side.stop + _MARGIN)
        for side in ndimage.find_objects(result.brain.astype(np.uint8))[0]
    )
    corner = np.eye(4)
    corner[:3, 3] = [side.start for side in box]
    affine = scan.affine @ corner
    low, high = (float(value) for value in np.quantile(scan.data[result.brain], [0.001, 0.998]))
    low = min(low, float(scan.data[box].min()))
    residual = result.residual.mean(axis=-1)
    return [
        Layer("scan", _encode(scan.data[box], affine, low, high), "gray", low, high),
        Layer("lesion", _encode(result.mask[box], affine, 0, 1), "red", 0, 1, opacity=0.5),
        Layer(
            "residual",
            _encode(residual.T, result.stack.affine, -top, top),
            "warm",
            _SPECKLE,
            top / 2,
            opacity=0.7,
            shown=False,
            negative="winter",
        ),
        Layer(
            "probability",
            _encode(result.outline.probability.T, result.stack.affine, 0, 1),
            "viridis",
            0.05,
            1,
            opacity=0.7,
            shown=False,
        ),
    ]


def _encode(data: np.ndarray, affine: np.ndarray, low: float, high: float) -> str:
    """A gzipped NIfTI file of bytes between ``low`` and ``high``, without anything else of the scan's header."""
    step = (high - low) / 250 or 1.0
    # Zero stays zero: it is where nothing is drawn.
    start = round(low / step) * step
    levels = np.clip(np.rint((data.astype(np.float32) - start) / step), 0, 255).astype(np.uint8)
    image = nib.Nifti1Image(levels, affine)
    image.header.set_slope_inter(step, start)
    image.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode("ascii")
