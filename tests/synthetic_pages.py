"""What the tests of the HTML pages share: small pages and outcomes, and a parser."""

import base64
import gzip
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np

from brainseg_tf.options import PredictOptions
from brainseg_tf.prediction.jobs import Job, Outcome, Outputs
from brainseg_tf.prediction.predictor import Predictor
from helpers import AFFINE, make_brain
from synthetic_models import OPTIONS, Healthy, card


def predictor(options=OPTIONS, **changes) -> Predictor:
    """A predictor with a model that does not need TensorFlow."""
    return Predictor(card(**changes), Healthy, PredictOptions(options))


def segmented(scan: Path):
    from brainseg_tf.images.volume import read_volume
    from brainseg_tf.segmentation import segment

    volume = read_volume(scan)
    return volume, segment([volume], Healthy(), card(), OPTIONS)


def page_in(folder: Path, affine: np.ndarray = AFFINE) -> Path:
    """Writes the page of a scan with HTML in its name and its header."""
    image = nib.Nifti1Image(make_brain(101)[0], affine)
    image.header["descrip"], image.header["db_name"] = b"<b>DOE^JOHN", b"DOE^JOHN"
    image.header["aux_file"], image.header["intent_name"] = b"DOE^JOHN", b"DOE^JOHN"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    scan = folder / "<img src=x onerror=alert(1)>.nii.gz"
    nib.save(image, scan)
    predictor().run(Job(scan, Outputs(folder / "m.nii.gz", page=folder / "p.html")))
    return folder / "p.html"


class Reader(HTMLParser):
    """Parses a page: the visible text, and the attributes of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._hidden = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.text += data

    def links(self) -> list[str]:
        found = [value for _, each in self.elements for name, value in each.items() if name in ("href", "src")]
        return [value for value in found if not value.startswith(("data:", "#"))]


def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def volume(layer: dict[str, object]) -> nib.Nifti1Image:
    """The image in a layer of a page."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer["nifti"])))


def report(ml: float = 20.0, brain: float = 1400.0, median: float = 300.0) -> dict[str, object]:
    return {
        "lesion_ml": ml,
        "lesions": [{}],
        "components": 1,
        "brain": {"ml": brain, "median_intensity": median},
        "warnings": [],
        "model": {"name": "m", "version": 1},
    }


def finished(folder: Path, name: str, ml: float = 20.0) -> Outcome:
    """The outcome of a segmented scan, with a page and a thumbnail."""
    outputs = Outputs(folder / "m.nii", page=folder / f"{name}.html", thumbnail=folder / f"{name}.png")
    job = Job(folder / name, outputs)
    for file in (outputs.page, outputs.thumbnail):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return Outcome(job, report(ml))
