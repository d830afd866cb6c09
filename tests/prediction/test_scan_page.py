"""The page of a scan: its layers, texts and links."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest

from brainseg_tf import __version__
from brainseg_tf.model_card import terms_of
from brainseg_tf.options import Labels, MixtureOptions, PredictOptions
from brainseg_tf.prediction import pages
from brainseg_tf.prediction.jobs import Job, Outputs
from brainseg_tf.prediction.pages import Navigation, wording
from brainseg_tf.prediction.pages.index import write_index
from brainseg_tf.prediction.predictor import Predictor
from helpers import AFFINE, call, fails, make_brain, save
from synthetic_models import OPTIONS, Healthy, Pointing, card
from synthetic_pages import finished, page_in, predictor, read, segmented, volume


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return page_in(tmp_path_factory.mktemp("page"))


def layers(page: Path) -> dict[str, dict[str, object]]:
    found = re.search(r'id="layers">(.*?)</script>', page.read_text(encoding="utf-8"))
    return {one["name"]: one for one in json.loads(found.group(1))}


def test_the_page_contains_the_scan_and_its_maps_but_no_header_text(page):
    text = page.read_text(encoding="utf-8")
    assert "DOE^JOHN" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.nii.gz" in text
    assert "not a medical device" in text
    found = layers(page)
    assert list(found) == ["scan", "lesion", "brain", "residual", "probability"]
    for layer in found.values():
        assert b"DOE^JOHN" not in gzip.decompress(base64.b64decode(layer["nifti"]))
    scan, lesion = volume(found["scan"]), volume(found["lesion"])
    assert scan.shape == lesion.shape
    np.testing.assert_array_equal(scan.affine, lesion.affine)
    mask = nib.load(page.with_name("m.nii.gz"))
    # The layers are cropped; the lesion's voxels have the same world coordinates as in the mask.
    found_positions, positions = (
        nib.affines.apply_affine(one.affine, np.argwhere(one.get_fdata() > 0.5)) for one in (lesion, mask)
    )
    np.testing.assert_allclose(sorted(map(tuple, found_positions)), sorted(map(tuple, positions)), atol=1e-3)
    data = nib.load(page.with_name("<img src=x onerror=alert(1)>.nii.gz"))
    centre = positions.mean(axis=0)
    indices = (np.rint(nib.affines.apply_affine(np.linalg.inv(one.affine), centre)).astype(int) for one in (scan, data))
    levels = [image.get_fdata()[tuple(index)] for image, index in zip((scan, data), indices, strict=True)]
    assert levels[0] == pytest.approx(levels[1], abs=(found["scan"]["high"] - found["scan"]["low"]) / 200)


def test_the_page_says_why_a_suspected_component_is_not_in_the_mask(scan, tmp_path):
    pointing = card(score="probability", healthy_levels=card().healthy_levels | {"probability": 0.5})
    # No component has a conspicuity of 100.
    options = PredictOptions(replace(OPTIONS, min_conspicuity=100.0))
    outputs = Outputs(tmp_path / "m.nii", page=tmp_path / "p.html", report=tmp_path / "r.json")
    Predictor(pointing, Pointing, options).run(Job(scan, outputs))
    (suspect,) = json.loads((tmp_path / "r.json").read_text())["suspects"]
    assert suspect["reason"] == "inconspicuous"
    assert "it is not conspicuous enough" in suspect["explanation"]
    page = read(tmp_path / "p.html")
    assert suspect["explanation"] in page.text
    rows = [each["data-mm"] for _, each in page.elements if "data-mm" in each]
    assert rows == [" ".join(map(str, suspect["centroid_mm"]))]
    assert "suspected" in layers(tmp_path / "p.html")


def test_the_report_has_the_side_of_a_lesion(scan, tmp_path):
    predictor().run(Job(scan, Outputs(tmp_path / "m.nii", report=tmp_path / "r.json")))
    report = json.loads((tmp_path / "r.json").read_text())
    (lesion, *_) = report["lesions"]
    brain = nib.load(scan).get_fdata() > 0
    middle = nib.affines.apply_affine(AFFINE, np.argwhere(brain).mean(axis=0))[0]
    assert lesion["side"] == ("left" if lesion["centroid_mm"][0] < middle else "right")
    assert lesion["mean_residual"] > 0.1
    assert report["brain"]["ml"] == pytest.approx(brain.sum() * 0.084, rel=0.01)


@pytest.mark.parametrize("package", ["nilearn", "jinja2"])
def test_without_the_extra_the_command_stops_before_any_work(scan, tmp_path, monkeypatch, package):
    found = pages.importlib.util.find_spec
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    error = fails(call("predict", scan, "--out", tmp_path / "m.nii.gz", "--html", tmp_path / "p.html"))
    assert "pip install 'brainseg-tf[report]'" in error
    assert list(tmp_path.iterdir()) == [scan]


@pytest.mark.parametrize("name", ["a#b?%20<b>\n\udcff javascript:'\".nii.gz", "back\\slash.nii.gz"])
def test_a_scans_own_page_shows_any_name_and_links_back(name, tmp_path):
    scan = save(make_brain(3)[0], tmp_path / "scan.nii.gz")
    scan = scan.rename(tmp_path / name)
    page = tmp_path / "out" / f"{name}.html"
    page.parent.mkdir()
    job = Job(scan, Outputs(tmp_path / "m.nii.gz", report=tmp_path / "r.json", figure=None))
    result, written = segmented(scan), predictor().run(job)
    navigation = Navigation(tmp_path / "i ndex#.html", None, tmp_path / "out" / "next.html")
    from brainseg_tf.prediction.figures import Backdrop
    from brainseg_tf.prediction.pages.scan import write_page

    write_page(page, *result, card(), written, Backdrop(), navigation)
    found = read(page)
    assert name.replace("\n", r"\n").replace("\udcff", r"\xff") in found.text
    links = {each["rel"]: each["href"] for tag, each in found.elements if tag == "a"}
    assert set(links) == {"up", "next"}
    assert links["up"] == "./../i%20ndex%23.html"
    assert links["next"].startswith(links["up"] + "#after=")
    assert "#" not in links["next"].removeprefix(links["up"] + "#")


def test_the_policy_allows_only_the_scripts_of_the_page(page, tmp_path):
    write_index(tmp_path / "i.html", [finished(tmp_path, "a")])
    for file in (page, tmp_path / "i.html"):
        text = file.read_text(encoding="utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
        rules = dict(part.strip().partition(" ")[::2] for part in policy.split(";") if part.strip())
        assert rules["default-src"] == "'none'"
        # The policy contains no network address.
        assert not re.search(r"https?:|\*|unsafe-eval", policy)
        assert "unsafe" not in rules["script-src"]
        bodies = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies]
        assert rules["script-src"].split() == hashes


PYTHON = re.compile(r"None|True|False|nan|[{}\[\]]|\(\d+, |Options\(|_[a-z]+\b|'[a-z_]+':")


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS,
        replace(
            OPTIONS,
            median=None,
            components=(3,),
            healthy_threshold=0.2,
            match_range=True,
            correct_bias_field=True,
            closing_mm=0.0,
            growth=2.4,
        ),
        replace(
            OPTIONS, score="positive", mixture=MixtureOptions(1, spread="free", lesion="smallest"), boundary_mm=0.0
        ),
    ],
)
def test_the_processing_table_has_sentences_with_units(options, scan, tmp_path):
    job = Job(scan, Outputs(tmp_path / "m.nii.gz", page=tmp_path / "p.html", report=tmp_path / "r.json"))
    written = predictor(options).run(job)
    found = read(job.outputs.page)
    text = found.text[found.text.index("Processing") : found.text.index("Viewer: NiiVue")]
    assert not PYTHON.search(text), PYTHON.search(text)
    for expected in (
        f"brain volume {written['brain']['ml']:.0f} ml",
        "Model perfect, version 1: context variational autoencoder",
        "Axial slices of 48 x 48 pixels of 5 mm, 5 mm apart",
        "Components below 3 ml were removed",
        "The outermost 3.75 mm of the brain were excluded",
        "s in total: ",
    ):
        assert expected in text
    assert ("a ball with a radius of 3 mm" in text) == (options.closing_mm == 3.0)
    assert ("brighter than the brain's median by more than 2.4 standard deviations" in text) == (options.growth == 2.4)
    assert ("a threshold set by the user" in text) == (options.healthy_threshold is not None)


def test_the_texts_follow_the_options(tmp_path, scan):
    """The median filter and the bias field correction of a probability differ from those of other scores."""
    from brainseg_tf.images.volume import read_volume
    from brainseg_tf.segmentation import segment

    levels = {"probability": 0.5, "weighted": 0.4}
    model_card = card(score="probability", healthy_levels=levels, modalities=("flair",))
    options = replace(OPTIONS, median=None, correct_bias_field=None)
    volume = read_volume(scan)
    result = segment([volume], Pointing(), model_card, options)
    written = Predictor(model_card, Pointing, PredictOptions(options)).run(Job(scan, Outputs(tmp_path / "m.nii")))
    table = dict(wording.processing_table(written, result, model_card))
    assert "Lesions were detected in the network's probability of a lesion" in table["Score"]
    assert "The bias field was removed from the slices" in table["Score"]
    assert any("7 slices x 3 x 3 pixels (35 x 15 x 15 mm)" in one for one in table["Score"])
    text = wording.methods(written, result, model_card, {"python": "3.11.7", "tensorflow": "2.21.0"})
    for expected in (f"brainseg-tf {__version__}", "model perfect, version 1", "FLAIR", "bias field", "Python 3.11.7"):
        assert expected in text
    assert not PYTHON.search(text)
    sliced = {**written, "options": {**written["options"], "mixture_region": "slice"}}
    mixture = dict(wording.processing_table(sliced, result, model_card))["Mixture"]
    assert any(", fitted to whole slices, weighted over 3 x 3 x 3 voxels, separated lesion" in one for one in mixture)
    kept = replace(options, correct_bias_field=False)
    written = Predictor(model_card, Pointing, PredictOptions(kept)).run(Job(scan, Outputs(tmp_path / "n.nii")))
    assert "bias field" not in str(wording.processing_table(written, result, model_card))
    # A residual has no conspicuity.
    residual = replace(options, score="weighted")
    of_residual = segment([volume], Pointing(), model_card, residual)
    assert any("conspicuity" in one for one in table["Morphology"])
    assert not any(
        "conspicuity" in one for one in dict(wording.processing_table(written, of_residual, model_card))["Morphology"]
    )


def test_the_page_tells_how_further_modalities_were_registered(scan, tmp_path):
    pytest.importorskip("SimpleITK")
    flair = make_brain(1)[0]
    shift = np.eye(4)
    shift[:3, 3] = [3, -4, 0]
    moved, same = save(flair * 0.8, tmp_path / "t2.nii.gz", shift @ AFFINE), save(flair * 0.7, tmp_path / "t1.nii.gz")
    model_card = card(modalities=("flair", "t2", "t1"))
    job = Job(scan, Outputs(tmp_path / "m.nii.gz", page=tmp_path / "p.html"), {"t2": moved, "t1": same})
    written = Predictor(model_card, Healthy, PredictOptions(OPTIONS)).run(job)
    text = read(job.outputs.page).text
    found = re.search(r"T2 was moved by (\S+) mm and rotated by (\S+) degrees, to the position of FLAIR\.", text)
    # The head is the same, at a distance of 5 mm.
    assert float(found[1]) == pytest.approx(5, abs=0.5) and float(found[2]) < 1
    assert float(found[1]) == pytest.approx(written["registration"]["t2"]["movement_mm"], abs=0.05)
    assert "T1 is on the same grid as FLAIR and was not moved." in text
    assert "The T2 image was registered to the FLAIR image (rigid, mutual information)." in text


def test_the_page_of_one_modality_does_not_mention_registration(page):
    assert "egist" not in read(page).text


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("none", "without any lesion labels"),
        ("slices", "on slices that labels show as tumour-free, without lesion outlines as targets"),
        ("voxels", "on slices with and without lesions, with lesion outlines as targets"),
    ],
)
def test_the_methods_say_how_labels_were_used(labels, expected):
    assert set(get_args(Labels)) == {"none", "slices", "voxels"}
    assert wording._labels(card(training={"labels": labels})) == expected


def test_format_value_has_no_python_syntax():
    assert wording.format_value((2, 3)) == "2 and 3"
    assert wording.format_value({"some_name": None, "b": [True, 0.1]}) == "some name automatic, b yes and 0.1"


def test_the_citations_agree_with_the_citation_file():
    yaml = pytest.importorskip("yaml")
    file = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    text = " ".join(wording.citations(card(terms=terms_of(["BraTS19_CBICA_ABM_1"]))))
    assert f"{file['authors'][0]['name']}. {file['title']} (version {__version__})" in text
    assert str(file["date-released"].year) in text
    for reference in file["references"]:
        assert reference["title"] in text
        assert reference["authors"][0]["family-names"] in text
        assert reference.get("doi", "") in text
    # A model that was not trained on BraTS does not cite it.
    assert "Menze" not in " ".join(wording.citations(card(terms=terms_of(["sub-01"]))))


def test_the_growth_is_named_only_where_it_is_used(scan, tmp_path):
    for modality in ("flair", "t2"):
        job = Job(scan, Outputs(tmp_path / f"{modality}.nii.gz", page=tmp_path / f"{modality}.html"))
        predictor(replace(OPTIONS, growth=2.4), modalities=(modality,)).run(job)
        assert ("lesions were grown" in read(job.outputs.page).text.lower()) == (modality == "flair")
