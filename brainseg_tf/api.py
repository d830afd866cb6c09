"""The functions for programs and notebooks: ``brainseg_tf.load_model``, ``predict`` and ``compare``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from brainseg_tf.brain.mask import find_brain
from brainseg_tf.errors import InputError
from brainseg_tf.images import registration
from brainseg_tf.images.formats import as_nifti
from brainseg_tf.images.maps import map_image
from brainseg_tf.images.volume import (
    Volume,
    mask_of,
    read_mask,
    read_segmentation,
    read_volume,
    segmentation_of,
    volume_of,
)
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import CompareOptions, Engine, PredictOptions, SegmentationOptions
from brainseg_tf.postprocessing.lesions import Lesion
from brainseg_tf.postprocessing.suspicion import Suspect
from brainseg_tf.prediction.comparison import compare_time_points, time_point
from brainseg_tf.prediction.longitudinal import LesionChange
from brainseg_tf.prediction.predictor import Predictor, name_warnings
from brainseg_tf.resources import Runtime, choose_engine
from brainseg_tf.saved_model import best_for, find, shipped_brain_network
from brainseg_tf.segmentation import Segmentation
from brainseg_tf.slices import from_stack

# A scan or mask: a file or folder, an image, or an array with an affine.
Image = str | Path | nib.Nifti1Image | tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model that is ready for predictions. Several threads can use it.

    Attributes:
        card: what the model was trained with, and how good it is.
        predictor: runs it; the networks are loaded with the first scan.
    """

    card: ModelCard
    predictor: Predictor


@dataclass(frozen=True)
class Prediction:
    """The result of ``predict``. All images are on the grid of the scan, with its affine.

    Attributes:
        mask: the lesions, uint8: 1 in a lesion, else 0.
        probability: posterior probability of a lesion (section 5.3, step 3), float32.
        residual: mean over the modalities of input minus reconstruction, float32, in units of the slices' intensity.
        suspicion: uint8, what is abnormal but not in the mask.
        brain: the brain mask that was used, uint8.
        lesions: the components of the mask, largest first: volume in ml, centroid in mm, region.
        suspects: the components of ``suspicion``, largest first, and why they are not in the mask.
        warnings: sentences for the user.
        segmentation: all stages, on the model's slices.
    """

    mask: nib.Nifti1Image
    probability: nib.Nifti1Image
    residual: nib.Nifti1Image
    suspicion: nib.Nifti1Image
    brain: nib.Nifti1Image
    lesions: list[Lesion]
    suspects: list[Suspect]
    warnings: list[str]
    segmentation: Segmentation

    @property
    def lesion_ml(self) -> float:
        """Volume of all lesions in millilitres."""
        return sum(one.ml for one in self.lesions)


@dataclass(frozen=True)
class ComparedScans:
    """The result of ``compare``.

    Attributes:
        lesions: at both time points, the largest first: status, volumes before and after, centroid, side, region.
        before_ml, after_ml: volume of all lesions in millilitres.
        before_mask, after_mask: the lesion masks, uint8, each on the grid of its scan.
        registered: the scan after on the grid of the scan before, float32.
        change: what has changed, uint8, on the grid of the scan before: 1 in both masks, 2 only after, 3 only before,
            4 only before and outside the field of view of the scan after.
        matrix: (4, 4), from positions in the scan before to those in the scan after, in millimetres in RAS world space.
        correlation: of the registered scans in the head; low if the registration failed.
        warnings: sentences for the user.
    """

    lesions: list[LesionChange]
    before_ml: float
    after_ml: float
    before_mask: nib.Nifti1Image
    after_mask: nib.Nifti1Image
    registered: nib.Nifti1Image
    change: nib.Nifti1Image
    matrix: np.ndarray
    correlation: float
    warnings: list[str]


def load_model(
    name: str | None = None,
    *,
    contrast: str = "flair",
    further: tuple[str, ...] = (),
    options: SegmentationOptions | None = None,
    brain: str = "auto",
    engine: Engine = "auto",
) -> Model:
    """Finds a model, and prepares it for predictions.

    Args:
        name: of a shipped model, or the folder of a trained one; by default the best shipped one for the contrast.
        contrast: of the main scan, for instance ``flair`` or ``t2``, if no model is named.
        further: further modalities, if no model is named.
        options: of the stages after the network; ``options.SEGMENTATION_PRESETS`` has some.
        brain: how the brain is found, see ``find_brain``.
        engine: what runs the networks: ``tensorflow``, its ``c-api``, which starts faster and runs on the CPU, or
            ``auto``, the C library unless TensorFlow is imported or there is a GPU.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    found = find(name) if name is not None else best_for([contrast, *further])
    chosen = PredictOptions(segmentation=options or SegmentationOptions(), brain=brain, engine=engine)
    runtime, network = Runtime(choose_engine(engine)), shipped_brain_network()
    predictor = Predictor(found.card, partial(found.load, runtime), chosen, load_brain=partial(network.load, runtime))
    return Model(found.card, predictor)


def predict(
    scan: Image,
    *,
    modalities: Mapping[str, Image] | None = None,
    brain_mask: Image | None = None,
    model: Model | str | None = None,
) -> Prediction:
    """Segments the lesions in a scan, as ``brainseg-tf predict`` does.

    Args:
        scan: a file or a folder of DICOM slices, a nibabel image, or an array (X, Y, Z) with its affine (4, 4) from
            voxel indices to millimetres in RAS world space. With or without skull, in any orientation.
        modalities: scans of the model's further modalities by name. Those on another grid are registered.
        brain_mask: voxels above 0 are brain, on the grid of the scan; found if None.
        model: of ``load_model``, which is faster for several scans, or its name; by default the best shipped one for a
            FLAIR scan and the given modalities. The contrast is not taken from a file's name; if the name says another
            one, there is a warning.

    Raises:
        InputError: a scan cannot be used, cannot be registered, or a modality is missing.
    """
    further = dict(modalities or {})
    if not isinstance(model, Model):
        model = load_model(model, further=tuple(further))
    expected = model.card.modalities[1:]
    if set(further) != set(expected):
        raise InputError(
            f"model {model.card.name}: needs the modalities {' and '.join(expected) or 'none'} besides the scan, "
            f"{' and '.join(further) or 'none'} given"
        )
    first = _volume(scan, "the scan")
    scans, _ = model.predictor.on_one_grid(first, {name: _volume(image, name) for name, image in further.items()})
    given = None if brain_mask is None else _mask(brain_mask, first)
    if given is not None and not given.any():
        raise InputError("the brain mask is empty; give a mask that covers the brain")
    result, _ = model.predictor.segment(scans, given)
    result.warnings.extend(name_warnings(first.path, model.card))
    maps = {
        "probability": from_stack(result.outline.probability, result.stack, first),
        "residual": from_stack(result.residual.mean(axis=-1), result.stack, first),
        "mask": result.mask,
        "suspicion": result.suspected,
        "brain": result.brain.mask,
    }
    images = {name: map_image(data, first) for name, data in maps.items()}
    return Prediction(
        **images, lesions=result.lesions, suspects=result.suspects, warnings=result.warnings, segmentation=result
    )


def compare(
    before: Image,
    after: Image,
    *,
    before_mask: Image | None = None,
    after_mask: Image | None = None,
    model: Model | str | None = None,
    options: CompareOptions | None = None,
) -> ComparedScans:
    """Compares the lesions in two scans of one subject, as ``brainseg-tf compare`` does. Needs SimpleITK.

    Args:
        before, after: the scans, as for ``predict``.
        before_mask, after_mask: their lesion masks, each on the grid of its scan; predicted if None.
        model: for the masks that are not given, as for ``predict``.
        options: how lesions are matched, and when one has grown or shrunk.

    Raises:
        InputError: a scan or a mask cannot be used, or the scans cannot be registered.
    """
    registration.check_installed()
    scans = _volume(before, "the scan before"), _volume(after, "the scan after")
    masks = [
        None if mask is None else _segmentation(mask, scan, name)
        for mask, scan, name in zip(
            (before_mask, after_mask), scans, ("the mask before", "the mask after"), strict=True
        )
    ]
    if any(mask is None for mask in masks) and not isinstance(model, Model):
        model = load_model(model)
    predictor = model.predictor if isinstance(model, Model) else None
    network = partial(shipped_brain_network().load, Runtime(choose_engine("auto")))
    first = time_point(scans[0], masks[0], predictor, partial(find_brain, network=network))
    second = time_point(scans[1], masks[1], predictor)
    result = compare_time_points(first, second, options)
    return ComparedScans(
        lesions=result.lesions,
        before_ml=first.lesion_ml,
        after_ml=second.lesion_ml,
        before_mask=map_image(first.mask, first.scan),
        after_mask=map_image(second.mask, second.scan),
        registered=map_image(result.registered.data, first.scan),
        change=map_image(result.change_map, first.scan),
        matrix=result.alignment.matrix,
        correlation=result.correlation,
        warnings=result.warnings,
    )


def _volume(scan: Image, name: str) -> Volume:
    """A scan in LPS.

    Args:
        scan: see ``predict``.
        name: for messages, if it is in memory.
    """
    if isinstance(scan, (str, Path)):
        return read_volume(Path(scan))
    image, path, warnings = _in_memory(scan, name)
    return volume_of(image, path, warnings)


def _mask(mask: Image, like: Volume) -> np.ndarray:
    if isinstance(mask, (str, Path)):
        return read_mask(Path(mask), like)
    image, path, _ = _in_memory(mask, "the brain mask")
    return mask_of(image, path, like)


def _segmentation(mask: Image, like: Volume, name: str) -> np.ndarray:
    if isinstance(mask, (str, Path)):
        return read_segmentation(Path(mask), like)
    image, path, _ = _in_memory(mask, name)
    return segmentation_of(image, path, like)


def _in_memory(image: Any, name: str) -> tuple[nib.Nifti1Pair, Path, list[str]]:
    """The image, its file's name or the name for messages, and warnings about its header.

    Raises:
        InputError: it is neither a nibabel image nor an array of real numbers with an affine.
    """
    if isinstance(image, (tuple, list)) and len(image) == 2:
        data, affine = np.asarray(image[0]), image[1]
        if np.shape(affine) != (4, 4) or not np.isfinite(np.asarray(affine, float)).all():
            raise InputError(f"{name}: its affine is not a matrix of 4 x 4 finite numbers; give (data, affine)")
        if data.dtype.kind not in "biuf":
            raise InputError(f"{name}: its values are not real numbers; give one real value per voxel")
        # NIfTI has neither bool nor all integers.
        return nib.Nifti1Image(data.astype(np.float32), np.asarray(affine, float)), Path(name), []
    if not isinstance(image, SpatialImage) or image.affine is None:
        raise InputError(f"{name}: is no image with a position; give a path, a nibabel image, or (data, affine)")
    path = Path(image.get_filename() or name)
    nifti, warnings = as_nifti(image, path)
    return nifti, path, warnings
