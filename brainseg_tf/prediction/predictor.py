"""From scan files to mask files: reads, segments, writes mask, maps, figure and report of a scan."""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from threading import Lock
from typing import Any

import numpy as np

from brainseg_tf import __version__
from brainseg_tf.brain.skull_strip import strip
from brainseg_tf.errors import InputError
from brainseg_tf.files import check_writable, replacing, write_json
from brainseg_tf.images import dicom
from brainseg_tf.images.volume import (
    Volume,
    check_name,
    read_mask,
    read_on_same_grid,
    read_segmentation,
    read_volume,
    write_dicom,
    write_map,
)
from brainseg_tf.metrics import dice, iou
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import PredictOptions
from brainseg_tf.prediction.jobs import Job, Outputs
from brainseg_tf.prediction.modality_names import other_modality
from brainseg_tf.prediction.pages import Navigation
from brainseg_tf.prediction.uncertainty import spread
from brainseg_tf.reconstruction import Reconstruction, Reconstructor
from brainseg_tf.segmentation import Segmentation, segment
from brainseg_tf.slices import from_stack, onto_stack


class Predictor:
    """Runs jobs, also several at once, with one model, which is loaded at the first scan that proves readable.

    Args:
        card: of the model.
        load: gives the model.
        options: how scans are segmented.
        server: where the model runs, None for this process; for the report.
    """

    def __init__(
        self,
        card: ModelCard,
        load: Callable[[], Reconstructor],
        options: PredictOptions,
        *,
        server: str | None = None,
    ) -> None:
        self._card, self._load, self._options, self._server = card, load, options, server
        self._model: Future[Reconstructor] | None = None
        self._starting = Lock()

    def run(self, job: Job, *, overwrite: bool = False) -> dict[str, Any]:
        """Segments one scan and writes what the job asks for; returns the report.

        Args:
            job: the scan.
            overwrite: replace this one's outputs if they exist.

        Raises:
            InputError: something about the job's files; no output was written then.
        """
        start = time.perf_counter()
        self._check_outputs(job, self._options.overwrite or overwrite)
        job, dropped = _without_impossible(job)
        scans = self._read(job)
        brain = self._brain(job, scans[0])
        truth = read_segmentation(job.truth, scans[0]) if job.truth else None
        read = time.perf_counter()
        # The files are sound. While the model is loaded, which takes seconds, the slices are cut.
        model = _LazyModel(self._start_loading())
        try:
            result = segment(scans, model, self._card, self._options.segmentation, brain)
        except InputError:
            model.check()
            raise
        result.warnings.extend(
            [*(doubt for scan in scans for doubt in scan.doubts), *dropped, *self._name_warnings(job)]
        )
        result.seconds["model"] = round(result.seconds["model"] - model.waited, 3)
        result.seconds.update(read=round(read - start, 3), load_model=round(model.waited, 3))
        unsure = None
        if job.outputs.uncertainty:
            start = time.perf_counter()
            unsure = spread(result.stack, model, self._card, self._options.segmentation, self._options.copies)
            result.seconds["uncertainty"] = round(time.perf_counter() - start, 3)
        report = self._report(job, scans[0], result)
        if truth is not None:
            report |= {"dice": dice(result.mask, truth), "iou": iou(result.mask, truth)}
        self._write(job, scans, result, unsure, truth, report)
        return report

    def matches_report(self, report: Mapping[str, Any]) -> bool:
        """Whether a report tells of this version, this model and these options."""
        return all(report.get(name) == value for name, value in json.loads(json.dumps(self._method())).items())

    def _method(self) -> dict[str, Any]:
        card = self._card
        return {
            "model": {"name": card.name, "version": card.version, "modalities": list(card.modalities)},
            "options": asdict(self._options.segmentation),
            "skull_strip": self._options.skull_strip,
            "brainseg_tf": __version__,
        }

    def _start_loading(self) -> Future[Reconstructor]:
        """Loads the model in a thread of its own, once, and again for the next scan if that failed."""
        with self._starting:
            if self._model is None or (self._model.done() and self._model.exception()):
                pool = ThreadPoolExecutor(1)
                self._model = pool.submit(self._load)
                pool.shutdown(wait=False)
        return self._model

    def _brain(self, job: Job, scan: Volume) -> np.ndarray | None:
        """The brain mask that comes with the scan; None leaves it to ``segment`` to find the brain."""
        if self._options.skull_strip is not None:
            return strip(self._options.skull_strip, scan)
        if job.brain is None:
            return None
        brain = read_mask(job.brain, scan)
        if not brain.any():
            raise InputError(f"{job.brain}: is empty; give a mask that covers the brain")
        return brain

    def _check_outputs(self, job: Job, overwrite: bool) -> None:
        for path in job.outputs.maps:
            check_name(path)
        wanted, inputs = job.outputs.paths, [file.resolve() for file in job.inputs]
        for path in wanted:
            if path.resolve() in inputs or wanted.count(path) > 1:
                raise InputError(f"{path}: is named twice; an output needs a name of its own")
            check_writable(path, overwrite=overwrite)
        dicom_file = job.outputs.dicom
        if dicom_file:
            if not job.scan.is_dir():
                raise InputError(f"{job.scan}: is no folder of DICOM slices; --save-dicom-seg needs one")
            if dicom_file.suffix != ".dcm":
                raise InputError(f"{dicom_file}: the name must end in .dcm")

    def _read(self, job: Job) -> list[Volume]:
        card = self._card
        for name in job.modalities:
            if name not in card.modalities[1:]:
                others = " and ".join(card.modalities[1:]) or "nothing else"
                raise InputError(
                    f"model {card.name}: takes {card.modalities[0]} and {others}, not {name}; choose another --model"
                )
        for name in card.modalities[1:]:
            if name not in job.modalities:
                raise InputError(f"model {card.name}: needs {name} too; add --modality {name}=FILE")
        scan = read_volume(job.scan)
        return [scan, *(read_on_same_grid(job.modalities[name], scan) for name in card.modalities[1:])]

    def _name_warnings(self, job: Job) -> list[str]:
        """A warning if the scan's name says that it is of another modality than the model's."""
        expected = self._card.modalities[0]
        named = other_modality(job.scan, expected)
        if named is None:
            return []
        return [f"{job.scan}: is {named} by its name, model {self._card.name} is for {expected}; the mask may be wrong"]

    def _report(self, job: Job, scan: Volume, result: Segmentation) -> dict[str, Any]:
        lesion = result.outline.mixture.lesion
        return {
            "scan": str(job.scan),
            "mask": str(job.outputs.mask),
            "outputs": {name: str(path) for name, path in job.outputs.named.items()},
            "lesion_ml": round(sum(one.ml for one in result.lesions), 4),
            "components": len(result.lesions),
            "lesions": [asdict(one) for one in result.lesions],
            "brain": {
                "ml": round(float(result.brain.sum()) * scan.voxel_ml, 1),
                "median_intensity": float(np.median(scan.data[result.brain])),
            },
            "mixture": {
                "means": result.outline.mixture.means.round(4).tolist(),
                "stddevs": result.outline.mixture.stddevs.round(4).tolist(),
                "weights": result.outline.mixture.weights.round(4).tolist(),
                "lesion": lesion,
                "separation": round(result.outline.mixture.separation, 2),
                "healthy_threshold": result.outline.healthy_threshold,
            },
            "seconds": result.seconds,
            "server": self._server,
            **self._method(),
            "warnings": result.warnings,
            "note": "for research; not a medical device",
        }

    def _write(
        self,
        job: Job,
        scans: list[Volume],
        result: Segmentation,
        unsure: np.ndarray | None,
        truth: np.ndarray | None,
        report: dict[str, Any],
    ) -> None:
        """Writes all outputs beside their places, then renames them: the report first, the mask last.

        After a failure none of them is there, and where the mask is, the others are.
        """
        start = time.perf_counter()
        with ExitStack() as places:
            staged = {name: places.enter_context(replacing(path)) for name, path in job.outputs.named.items()}
            beside = Outputs(**staged)
            try:
                _write_maps(beside, scans[0], result, unsure)
                self._draw(beside, job.navigation, scans[0], result, truth, report)
                if beside.report:
                    result.seconds["write"] = round(time.perf_counter() - start, 3)
                    write_json(beside.report, report)
            except InputError as error:
                # The user knows the outputs by their own names.
                message = str(error)
                for name, path in job.outputs.named.items():
                    message = message.replace(str(staged[name]), str(path))
                raise InputError(message) from error

    def _draw(
        self,
        outputs: Outputs,
        navigation: Navigation | None,
        scan: Volume,
        result: Segmentation,
        truth: np.ndarray | None,
        report: dict[str, Any],
    ) -> None:
        if not (outputs.figure or outputs.page or outputs.thumbnail):
            return
        from brainseg_tf.prediction import figures

        outlined = None if truth is None else onto_stack(truth, scan, result.stack) > 0.5
        if outputs.figure:
            figures.segmentation(result, outputs.figure, outlined)
        if outputs.thumbnail:
            figures.thumbnail(result, outputs.thumbnail)
        if outputs.page:
            from brainseg_tf.prediction.pages.scan import write_page

            write_page(outputs.page, scan, result, self._card, report, outlined, navigation)


def _write_maps(outputs: Outputs, scan: Volume, result: Segmentation, unsure: np.ndarray | None) -> None:
    for path, maps in (
        (outputs.residual, result.residual),
        (outputs.reconstruction, result.reconstruction),
        (outputs.probability, result.outline.probability[..., None]),
        (outputs.uncertainty, None if unsure is None else unsure[..., None]),
    ):
        if path and maps is not None:
            channels = [from_stack(maps[..., c], result.stack, scan) for c in range(maps.shape[-1])]
            write_map(path, channels[0] if len(channels) == 1 else np.stack(channels, axis=-1), scan)
    if outputs.brain_mask:
        write_map(outputs.brain_mask, result.brain, scan)
    if outputs.dicom:
        write_dicom(outputs.dicom, result.mask, scan)
    write_map(outputs.mask, result.mask, scan)


def _without_impossible(job: Job) -> tuple[Job, list[str]]:
    """The job without a DICOM segmentation that cannot be made, with a sentence for the user.

    Raises:
        InputError: it cannot be made, and is required.
    """
    if job.outputs.dicom is None:
        return job, []
    try:
        dicom.check_segmentation(job.scan)
    except InputError as error:
        if job.dicom_required:
            raise
        return replace(job, outputs=replace(job.outputs, dicom=None)), [f"{error}; the mask is written as NIfTI alone"]
    return job, []


class _LazyModel:
    """A model that is still being loaded, for one scan, which waits for it when it needs it.

    Attributes:
        waited: seconds of that.
    """

    def __init__(self, future: Future[Reconstructor]) -> None:
        self._future = future
        self.waited = 0.0

    def check(self) -> None:
        """Raises what kept the model from being loaded."""
        if self._future.done():
            self._future.result()

    def reconstruct(self, images: np.ndarray) -> Reconstruction:
        """As the model does."""
        start = time.perf_counter()
        model = self._future.result()
        self.waited += time.perf_counter() - start
        return model.reconstruct(images)
