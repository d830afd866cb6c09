"""Texts of a scan's page: the table of processing steps, a paragraph for a methods section, and the citation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brainseg_tf import __version__
from brainseg_tf.architectures import ARCHITECTURES
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import SegmentationOptions
from brainseg_tf.postprocessing.growth import GROWS_IN
from brainseg_tf.segmentation import Segmentation

# tests/prediction/test_scan_page.py compares the citations with CITATION.cff, which is not installed.
_SOFTWARE = "The brainseg-tf developers. brainseg-tf (version {version}), computer software. {year}."
_YEAR = 2026
_METHOD = (
    "Gubaidullin A. Unsupervised Anomaly Segmentation in Brain MR Images using Context Variational Autoencoder. "
    "University of Bonn."
)
# References for the training data, by a word in the terms of a model's card.
_DATA = {
    "Menze 2015": "Menze BH, et al. The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS). IEEE Transactions "
    "on Medical Imaging. 2015;34(10):1993-2024. doi:10.1109/TMI.2014.2377694.",
    "Bakas 2017": "Bakas S, et al. Advancing The Cancer Genome Atlas glioma MRI collections with expert segmentation "
    "labels and radiomic features. Scientific Data. 2017;4:170117. doi:10.1038/sdata.2017.117.",
    "Bakas 2018": "Bakas S, et al. Identifying the Best Machine Learning Algorithms for Brain Tumor Segmentation, "
    "Progression Assessment, and Overall Survival Prediction in the BRATS Challenge. arXiv:1811.02629. 2018.",
    "TCGA-LGG": "Pedano N, et al. The Cancer Genome Atlas Low Grade Glioma Collection (TCGA-LGG). The Cancer Imaging "
    "Archive. 2016. doi:10.7937/K9/TCIA.2016.L4LTD3TK.",
    "Buda": "Buda M, Saha A, Mazurowski MA. Association of genomic subtypes of lower-grade gliomas with shape features "
    "automatically extracted by a deep learning algorithm. Computers in Biology and Medicine. 2019;109:218-225. "
    "doi:10.1016/j.compbiomed.2019.05.002.",
}
_SCORES = {
    "absolute": "the absolute residual",
    "positive": "the positive part of the residual",
    "weighted": "the geometric mean of the positive residual and the input",
    "probability": "the network's probability of a lesion",
    "input": "the input's intensity, without a network",
    "equalised": "the input's histogram-equalised intensity, without a network",
}
_NORMALISATIONS = {
    "slice": "each slice scaled to its minimum and maximum",
    "volume": "scaled to the volume's minimum and maximum",
    "robust": "scaled by the 1st percentile and the median of the brain",
}
_MODALITIES = {"flair": "FLAIR", "t1": "T1", "t1ce": "contrast-enhanced T1", "t2": "T2"}
_SOURCES = {
    "given": "brain mask given",
    "tool": 'brain mask by the tool "{tool}"',
    "stripped": "the scan is skull-stripped",
    "cleaned": "the scan is skull-stripped with remains outside the brain, which the brain network removed",
    "network": "brain mask by the brain network",
}
_STAGES = {
    "read": "reading",
    "brain": "brain mask",
    "slices": "resampling to slices",
    "load_model": "loading the model",
    "model": "network",
    "grid": "resampling to the scan's grid",
    "write": "writing",
}
_PACKAGES = {"python": "Python", "tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy", "scipy": "SciPy"}


def processing_table(report: Mapping[str, Any], result: Segmentation, card: ModelCard) -> list[tuple[str, list[str]]]:
    """The table of processing steps: a subject and sentences for each row.

    Args:
        report: of ``Predictor.run``.
        result: of ``segment``.
        card: of the model.
    """
    rows = [
        ("Scan", [f"{_joined(_modalities(card))}; {_brain(report)}"]),
        *([("Registration", _registration(report, card))] if len(card.modalities) > 1 else []),
        ("Model", _model(report, card)),
        ("Slices", [_slices(card)]),
        ("Measured accuracy", [_accuracy(card)]),
        ("Score", _score(report, result)),
        ("Mixture", _mixture(report, result)),
        ("Morphology", _morphology(report["options"], result.outline.kind, card)),
        ("Time", [_time(report["seconds"])]),
    ]
    return [(subject, [_capitalised(one).removesuffix(".") for one in sentences]) for subject, sentences in rows]


def software(versions: Mapping[str, str]) -> str:
    """The names and versions of packages, as one text.

    Args:
        versions: of ``model_card.versions``.
    """
    return ", ".join(f"{_PACKAGES.get(name, name)} {value}" for name, value in versions.items())


def methods(report: Mapping[str, Any], result: Segmentation, card: ModelCard, versions: Mapping[str, str]) -> str:
    """A paragraph for a methods section, with the model and the options of the run.

    Args:
        report, result, card: as in ``processing_table``.
        versions: of ``model_card.versions``.
    """
    options = report["options"]
    modalities, network = _joined(_modalities(card)), ARCHITECTURES[card.architecture].title
    scans = f"{modalities} {'images' if len(card.modalities) > 1 else 'image'}"
    sentences = [
        f"Lesions were segmented in the {scans} with brainseg-tf {report['brainseg_tf']} "
        f"(model {card.name}, version {card.version}: a {network} trained {_labels(card)}).",
        _brain_sentence(report),
        _registration_sentence(report, card),
        f"The {'images were' if len(card.modalities) > 1 else 'image was'} resampled to {_slices(card)}.",
        *(f"{_capitalised(one)}." for one in (*_score(report, result), *_mixture_method(report, result))),
        *(f"{_capitalised(one)}." for one in _morphology(options, result.outline.kind, card)),
        f"The software ran on Python {versions.get('python', 'unknown')} with TensorFlow "
        f"{versions.get('tensorflow', 'unknown')}.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def citations(card: ModelCard | None) -> list[str]:
    """References to cite: the software; and if a model was used, the method, and the data that its terms name."""
    software = _SOFTWARE.format(version=__version__, year=_YEAR)
    if card is None:
        return [software]
    return [software, _METHOD, *(reference for word, reference in _DATA.items() if word in card.terms)]


def _labels(card: ModelCard) -> str:
    """How labels were used in the training; cards up to version 0.12 do not say it: then slices were chosen by them."""
    used = card.training.get("labels")
    if used == "none":
        return "without any lesion labels"
    if used == "voxels":
        return "on slices with and without lesions, with lesion outlines as targets"
    return "on slices that labels show as tumour-free, without lesion outlines as targets"


def format_value(value: Any) -> str:
    """An option's value as text without Python syntax."""
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_spaced(str(name))} {format_value(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return _joined([format_value(one) for one in value]) if value else "none"
    return str(value)


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _joined(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def _modalities(card: ModelCard) -> list[str]:
    return [_MODALITIES.get(name, name) for name in card.modalities]


def _brain(report: Mapping[str, Any]) -> str:
    brain = report["brain"]
    text = f"brain volume {brain['ml']:.0f} ml, median intensity {brain['median_intensity']:.4g} (in the scan's units)"
    return f"{text}; {_source(report)}" if _source(report) else text


def _source(report: Mapping[str, Any]) -> str:
    """A phrase about where the brain mask comes from; empty for reports of version 0.10 or earlier."""
    source = report["brain"].get("source", "")
    return _SOURCES.get(source, "").format(tool=report.get("brain_method"))


def _brain_sentence(report: Mapping[str, Any]) -> str:
    source = report["brain"].get("source", "")
    if source in ("network", "cleaned"):
        return "The brain was extracted with the package's brain network."
    if source == "tool":
        return f'The brain was extracted with the tool "{report.get("brain_method")}".'
    return "A brain mask was given." if source == "given" else ""


def _registration(report: Mapping[str, Any], card: ModelCard) -> list[str]:
    """A phrase about each further modality."""
    main, *others = _modalities(card)
    movements = report["registration"]
    return [
        f"{title} was moved by {movements[name]['movement_mm']:.1f} mm and rotated by "
        f"{movements[name]['rotation_deg']:.1f} degrees, to the position of {main}"
        if name in movements
        else f"{title} is on the same grid as {main} and was not moved"
        for name, title in zip(card.modalities[1:], others, strict=True)
    ]


def _registration_sentence(report: Mapping[str, Any], card: ModelCard) -> str:
    main, *others = _modalities(card)
    moved = [title for name, title in zip(card.modalities[1:], others, strict=True) if name in report["registration"]]
    if not moved:
        return ""
    images = "images were" if len(moved) > 1 else "image was"
    return f"The {_joined(moved)} {images} registered to the {main} image (rigid, mutual information)."


def _model(report: Mapping[str, Any], card: ModelCard) -> list[str]:
    network = ARCHITECTURES[card.architecture].title
    place = f", on the server {report['server']}" if report.get("server") else ""
    parameters = _count(card.parameters, "parameter")
    return [f"model {card.name}, version {card.version}: {network}, {parameters}{place}", card.terms]


def _slices(card: ModelCard) -> str:
    slices = card.slices
    normalised = _NORMALISATIONS.get(slices.normalisation, slices.normalisation)
    return (
        f"axial slices of {slices.size} x {slices.size} pixels of {slices.field_of_view / slices.size:.4g} mm, "
        f"{slices.spacing:g} mm apart, intensities {normalised}"
    )


def _accuracy(card: ModelCard) -> str:
    measured = card.metrics.get("network", {}).get("mixture", {})
    if measured.get("dice") is None:
        return "not measured"
    low, high = measured.get("dice_interval") or (None, None)
    interval = f" (95 % interval {low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    patients = f" over {_count(measured['patients'], 'patient')}" if measured.get("patients") is not None else ""
    baseline = card.metrics.get("no network", {}).get("dice")
    return f"mean Dice {measured['dice']:.3f}{patients}{interval}" + (
        f"; without a network {baseline:.3f}" if baseline is not None else ""
    )


def _score(report: Mapping[str, Any], result: Segmentation) -> list[str]:
    options, kind = report["options"], result.outline.kind
    slice_mm, row_mm, column_mm = result.stack.spacing
    window = options.get("median") or SegmentationOptions().median_of(kind)
    slices, rows, columns = (int(edge) for edge in window)
    size_mm = " x ".join(f"{edge * step:.3g}" for edge, step in zip(window, (slice_mm, row_mm, column_mm), strict=True))
    sentences = [f"lesions were detected in {_SCORES.get(kind, kind)}"]
    if options.get("match_range"):
        sentences.append("the range of the reconstruction was matched to that of the input")
    corrected = options.get("correct_bias_field")
    if kind == "probability" if corrected is None else corrected:
        sentences.append("the bias field was removed from the slices")
    edges = f"{_count(slices, 'slice')} x {rows} x {columns} pixels ({size_mm} mm)"
    erosion = SegmentationOptions(erosion_mm=options.get("erosion_mm")).erosion_of(kind)
    sentences += [
        f"the outermost {erosion:g} mm of the brain were excluded" if erosion else "",
        f"the score was smoothed by a median filter over {edges}",
    ]
    return [sentence for sentence in sentences if sentence]


def _mixture_method(report: Mapping[str, Any], result: Segmentation) -> list[str]:
    """How the mixture was fitted."""
    options = report["options"]
    mixture = options.get("mixture") or {}
    edge = mixture.get("neighbourhood", 1)
    where = ", fitted to whole slices" if options.get("mixture_region") == "slice" else ""
    weights = f", weighted over {edge} x {edge} x {edge} voxels," if edge > 1 else "," if where else ""
    spread = {"tied": " with a common standard deviation", "free": " with one standard deviation per component"}
    candidates = [format_value(count) for count in options.get("components", ())]
    selected = f" (selected from {_joined(candidates)})" if len(candidates) > 1 else ""
    return [
        f"a Gaussian mixture of {len(result.outline.mixture.means)} components{selected}"
        f"{spread.get(mixture.get('spread', ''), '')}{where}{weights} separated lesion from healthy tissue",
        f"the {mixture.get('lesion', 'brightest')} component was classified as lesion if its mean exceeded "
        f"{result.outline.healthy_threshold:.4g}, "
        + (
            "a threshold set by the user"
            if options.get("healthy_threshold") is not None
            else "the threshold for healthy tissue"
        ),
    ]


def _mixture(report: Mapping[str, Any], result: Segmentation) -> list[str]:
    """How the mixture was fitted, and its parameters."""
    fitted = report["mixture"]
    means = _joined([f"{mean:.4g}" for mean in fitted["means"]])
    lesion = float(fitted["means"][fitted["lesion"]])
    threshold = fitted["healthy_threshold"]
    conclusion = "above the threshold (lesion)" if lesion > threshold else "not above the threshold (healthy tissue)"
    return [
        *_mixture_method(report, result),
        f"means {means} (score, without unit), separated by {fitted['separation']:.2f} standard deviations; "
        f"{lesion:.4g} is {conclusion}",
    ]


def _morphology(options: Mapping[str, Any], kind: str, card: ModelCard) -> list[str]:
    """The stages after the mixture, and the values of options that have no text in this module."""
    texts: dict[str, Callable[[float], str]] = {
        "closing_mm": lambda value: f"gaps were closed with a ball with a radius of {value:g} mm",
        "boundary_mm": lambda value: f"the mask's boundary was moved to edges in the image by up to {value:g} mm",
        "min_conspicuity": lambda value: (
            f"components with a conspicuity, the mean of probability x (1 + local contrast / 2), below {value:g} were "
            "removed"
        ),
        "growth": lambda value: (
            f"lesions were grown into connected voxels that are brighter than the brain's median by more than "
            f"{value:g} standard deviations of healthy tissue"
        ),
        "min_size_ml": lambda value: f"components below {value:g} ml were removed",
    }
    in_other_rows = {
        "score",
        "match_range",
        "correct_bias_field",
        "erosion_mm",
        "median",
        "components",
        "separation",
        "mixture",
        "mixture_region",
        "healthy_threshold",
    }
    unused = [
        *(["min_conspicuity"] if kind != "probability" else []),
        *(["growth"] if card.modalities[0] != GROWS_IN else []),
    ]
    sentences = [text(options[name]) for name, text in texts.items() if options.get(name) and name not in unused]
    others = {name: value for name, value in options.items() if name not in texts and name not in in_other_rows}
    return sentences + [f"{_spaced(name)}: {format_value(value)}" for name, value in others.items()]


def _time(seconds: Mapping[str, float]) -> str:
    stages = ", ".join(f"{_STAGES.get(name, _spaced(name))} {max(0.0, value):.2f} s" for name, value in seconds.items())
    return f"{sum(seconds.values()):.1f} s in total: {stages}"
