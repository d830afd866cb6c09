"""Segments scan files: reads a scan, segments it, and writes mask, maps, figure, page and report."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from brainseg_tf import __version__
from brainseg_tf.brain.mask import find_brain
from brainseg_tf.brain.network import BrainNetwork
from brainseg_tf.brain.quality import quality_of
from brainseg_tf.errors import InputError
from brainseg_tf.files import check_outputs, replacing_all, write_json
from brainseg_tf.images import dicom, rtstruct
from brainseg_tf.images.dicom_references import SEGMENTATION, STRUCTURES
from brainseg_tf.images.maps import check_name, write_dicom, write_map, write_structures
from brainseg_tf.images.modality_names import evidence, other_modality
from brainseg_tf.images.registration import Alignment, bring_to
from brainseg_tf.images.volume import Volume, check_same_grid, read_mask, read_segmentation, read_volume
from brainseg_tf.metrics import dice, iou
from brainseg_tf.model_card import ModelCard
from brainseg_tf.options import PredictOptions
from brainseg_tf.postprocessing.lesions import numbered_components
from brainseg_tf.prediction.earlier import warnings_of_left_over
from brainseg_tf.prediction.jobs import Job, Outputs
from brainseg_tf.prediction.loading import Lazy, LazyModel, Loading
from brainseg_tf.prediction.pages import Navigation
from brainseg_tf.prediction.uncertainty import spread
from brainseg_tf.prediction.viewer_tables import labels_of, write_tables
from brainseg_tf.reconstruction import Reconstructor
from brainseg_tf.segmentation import Segmentation, segment
from brainseg_tf.slices import check_coverage, from_stack, onto_stack


class Predictor:
    """Runs jobs with one model. Several threads can run jobs at the same time.

    The networks are loaded when the files of the first scan have been read.

    Args:
        card: of the model; also an attribute.
        load: loads the model.
        options: how scans are segmented.
        load_brain: loads the brain network; without it, scans must be skull-stripped or have a brain mask.
        server: the address of the model's server, for the report; None if the model runs in this process.
    """

    def __init__(
        self,
        card: ModelCard,
        load: Callable[[], Reconstructor],
        options: PredictOptions,
        *,
        load_brain: Callable[[], BrainNetwork | None] | None = None,
        server: str | None = None,
    ) -> None:
        self.card, self._options, self._server = card, options, server
        self._model = Loading(load)
        self._brain_network = None if load_brain is None else Loading(load_brain)

    def run(self, job: Job, *, overwrite: bool = False) -> dict[str, Any]:
        """Segments a scan and writes the outputs of the job.

        Args:
            job: the scan and its outputs.
            overwrite: whether existing outputs of this job are replaced.

        Returns:
            The content of the report.

        Raises:
            InputError: an input file cannot be used, or an output cannot be written. In this case no output is written.
        """
        start = time.perf_counter()
        self._check_outputs(job, self._options.overwrite or overwrite)
        job, dicom_warnings = _without_impossible_dicom(job)
        scans, movements = self._read(job)
        given = self._given_brain(job, scans[0])
        truth = read_segmentation(job.truth, scans[0]) if job.truth else None
        read = time.perf_counter()
        result, model = self.segment(scans, given)
        result.warnings.extend([*dicom_warnings, *name_warnings(job.scan, self.card), *warnings_of_left_over(job)])
        result.seconds["read"] = round(read - start, 3)
        uncertainty = None
        if job.outputs.uncertainty:
            start = time.perf_counter()
            uncertainty = spread(result.stack, model, self.card, self._options.segmentation, self._options.copies)
            result.seconds["uncertainty"] = round(time.perf_counter() - start, 3)
        report = self._report(job, scans[0], result, movements)
        if truth is not None:
            report |= {"dice": dice(result.mask, truth), "iou": iou(result.mask, truth)}
        self._write(job, scans, result, uncertainty, truth, report)
        return report

    def segment(self, scans: Sequence[Volume], given: np.ndarray | None = None) -> tuple[Segmentation, Reconstructor]:
        """Finds the brain and segments the lesions.

        Args:
            scans: one per modality of the model, in the card's order, on one grid.
            given: (X, Y, Z) bool, the brain mask; found if None.

        Returns:
            The segmentation, with the scans' warnings, and the loaded model.

        Raises:
            InputError: there is no brain, or a network cannot be loaded.
        """
        start = time.perf_counter()
        # Both networks are loaded in other threads, which takes seconds, while the slices are resampled.
        network = None
        if self._brain_network is not None and self._options.brain != "stripped":
            network = Lazy(self._brain_network)
        model = LazyModel(self._model)
        brain = find_brain(
            scans[0], given=given, method=self._options.brain, network=None if network is None else network.wait
        )
        found = time.perf_counter()
        uncovered = check_coverage(scans, brain.mask)
        try:
            result = segment(scans, model, self.card, self._options.segmentation, brain)
        except InputError:
            model.check()
            raise
        result.warnings.extend(chain(uncovered, *(scan.warnings for scan in scans)))
        waited = network.waited if network else 0.0
        result.seconds["model"] = round(result.seconds["model"] - model.waited, 3)
        result.seconds.update(brain=round(found - start - waited, 3), load_model=round(model.waited + waited, 3))
        return result, model

    def matches_report(self, report: Mapping[str, Any], job: Job) -> bool:
        """Whether a report was written by this version, with this model and these options.

        Args:
            report: of an earlier run.
            job: which outputs are wanted.
        """
        if job.outputs.uncertainty and report.get("copies", self._options.copies) != self._options.copies:
            return False
        return all(report.get(name) == value for name, value in json.loads(json.dumps(self.method())).items())

    def method(self) -> dict[str, Any]:
        """The part of the report that says how it was segmented; equal if the results of an earlier run can be kept."""
        card = self.card
        return {
            "model": {
                "name": card.name,
                "version": card.version,
                "modalities": list(card.modalities),
                "sha256": card.fingerprint,
            },
            "options": asdict(self._options.segmentation),
            "brain_method": self._options.brain,
            "register": self._options.register,
            "brainseg_tf": __version__,
        }

    def _given_brain(self, job: Job, scan: Volume) -> np.ndarray | None:
        """The brain mask from a file; None if none was given."""
        if job.brain is None:
            return None
        brain = read_mask(job.brain, scan)
        if not brain.any():
            raise InputError(f"{job.brain}: is empty; give a mask that covers the brain")
        return brain

    def _check_outputs(self, job: Job, overwrite: bool) -> None:
        """Checks the names of the outputs, and that they can be written."""
        for path in job.outputs.maps:
            check_name(path)
        check_outputs([*job.outputs.paths, *job.sidecars], job.inputs, overwrite=overwrite)
        for dicom_file in (job.outputs.dicom, job.outputs.rtstruct):
            if dicom_file and dicom_file.suffix != ".dcm":
                raise InputError(f"{dicom_file}: the name must end in .dcm")

    def _read(self, job: Job) -> tuple[list[Volume], dict[str, Alignment]]:
        """Reads the scans of all modalities, see ``on_one_grid``."""
        card = self.card
        for name in job.modalities:
            if name not in card.modalities[1:]:
                modalities = " and ".join(card.modalities)
                raise InputError(f"model {card.name}: uses {modalities}, not {name}; choose another --model")
        for name in card.modalities[1:]:
            if name not in job.modalities:
                raise InputError(f"model {card.name}: needs {name} too; add --modality {name}=FILE")
        scan = read_volume(job.scan)
        return self.on_one_grid(scan, {name: read_volume(job.modalities[name]) for name in card.modalities[1:]})

    def on_one_grid(self, scan: Volume, further: Mapping[str, Volume]) -> tuple[list[Volume], dict[str, Alignment]]:
        """The scans of all modalities, in the order of the model card, on the grid of the first one.

        Args:
            scan: of the first modality.
            further: the scans of the further modalities, by name.

        Returns:
            The scans, and the movements of those that were registered, by name.

        Raises:
            InputError: a scan cannot be registered, or registration is turned off and the grids differ.
        """
        scans, movements = [scan], {}
        for name in self.card.modalities[1:]:
            other, movement = further[name], None
            if self._options.register:
                other, movement = bring_to(other, scan)
            else:
                check_same_grid(other, scan)
            scans.append(other)
            if movement is not None:
                movements[name] = movement
        return scans, movements

    def _report(
        self, job: Job, scan: Volume, result: Segmentation, movements: Mapping[str, Alignment]
    ) -> dict[str, Any]:
        lesion = result.outline.mixture.lesion
        centre = nib.affines.apply_affine(scan.affine, (np.array(scan.data.shape) - 1) / 2)
        return {
            "scan": str(job.scan),
            "inputs": job.inputs_record,
            "subject": job.subject,
            "session": job.session,
            "mask": str(job.outputs.mask),
            "outputs": {name: str(path) for name, path in job.outputs.named.items()},
            "lesion_ml": round(sum(one.ml for one in result.lesions), 4),
            "components": len(result.lesions),
            "lesions": [asdict(one) for one in result.lesions],
            "suspected_ml": round(sum(one.ml for one in result.suspects), 4),
            "suspects": [asdict(one) for one in result.suspects],
            "brain": {
                "source": result.brain.source,
                "ml": round(float(result.brain.mask.sum()) * scan.voxel_ml, 1),
                "median_intensity": float(np.median(scan.data[result.brain.mask])),
            },
            "quality": asdict(quality_of(scan, result.brain.mask, result.alignment)),
            "template": {
                "error_mm": None if result.alignment.error_mm is None else round(result.alignment.error_mm, 2),
                "cut_share": round(result.alignment.cut_share, 3),
                "reliable": result.alignment.is_reliable,
                "matrix": result.alignment.matrix.round(6).tolist(),
            },
            "mixture": {
                "means": result.outline.mixture.means.round(4).tolist(),
                "stddevs": result.outline.mixture.stddevs.round(4).tolist(),
                "weights": result.outline.mixture.weights.round(4).tolist(),
                "lesion": lesion,
                "separation": round(result.outline.mixture.separation, 2),
                "healthy_threshold": result.outline.healthy_threshold,
            },
            "registration": {
                name: {
                    "movement_mm": round(one.movement_mm(centre), 2),
                    "rotation_deg": round(one.rotation_deg, 2),
                    "matrix": one.matrix.round(6).tolist(),
                }
                for name, one in movements.items()
            },
            "seconds": result.seconds,
            "server": self._server,
            **({"copies": self._options.copies} if job.outputs.uncertainty else {}),
            **self.method(),
            "warnings": result.warnings,
            "note": "for research; not a medical device",
            **job.bids_fields,
        }

    def _write(
        self,
        job: Job,
        scans: list[Volume],
        result: Segmentation,
        uncertainty: np.ndarray | None,
        truth: np.ndarray | None,
        report: dict[str, Any],
    ) -> None:
        """Writes all outputs to temporary files and then renames them, the report first and the mask last.

        If writing fails, no output is written. If the mask exists, all other outputs exist too, and are of the same
        run. If any output exists, the report does, by which ``running.attempt`` knows the files of an earlier run.
        """
        start = time.perf_counter()
        named, sidecars = job.outputs.named, {f"sidecar {path.name}": path for path in job.sidecars}
        # They are renamed in reverse order.
        in_order = named | sidecars
        if job.outputs.report:
            in_order = {name: path for name, path in in_order.items() if name != "report"} | {"report": named["report"]}
        with replacing_all(in_order) as staged:
            temporary = Outputs.of({name: staged[name] for name in named})
            _write_maps(temporary, scans[0], result, uncertainty)
            write_tables(temporary.tables, result.lesions)
            self._draw(temporary, job.navigation, scans[0], result, truth, report)
            if temporary.report:
                result.seconds["write"] = round(time.perf_counter() - start, 3)
                write_json(temporary.report, report)
            for name, path in sidecars.items():
                write_json(staged[name], job.sidecars[path])

    def _draw(
        self,
        outputs: Outputs,
        navigation: Navigation | None,
        scan: Volume,
        result: Segmentation,
        truth: np.ndarray | None,
        report: dict[str, Any],
    ) -> None:
        """Draws the figure and the thumbnail, and writes the page."""
        if not (outputs.figure or outputs.page or outputs.thumbnail):
            return
        from brainseg_tf.prediction import figures

        backdrop = figures.Backdrop(
            None if result.brain.source == "stripped" else onto_stack(scan.data, scan, result.stack),
            None if truth is None else onto_stack(truth, scan, result.stack) > 0.5,
        )
        if outputs.figure:
            figures.segmentation(result, outputs.figure, backdrop)
        if outputs.thumbnail:
            figures.thumbnail(result, outputs.thumbnail)
        if outputs.page:
            from brainseg_tf.prediction.pages.scan import write_page

            write_page(outputs.page, scan, result, self.card, report, backdrop, navigation)


def name_warnings(scan: Path, card: ModelCard) -> list[str]:
    """A warning if a scan has another modality than the first one of the model by its name or series description."""
    expected = card.modalities[0]
    other = other_modality(scan, expected)
    if other is None:
        return []
    said = f"is {other} according to its {evidence(scan)}"
    return [f"{scan}: {said}, but model {card.name} needs {expected}; the mask may be wrong"]


def _write_maps(outputs: Outputs, scan: Volume, result: Segmentation, uncertainty: np.ndarray | None) -> None:
    """Writes the masks and maps on the scan's grid."""
    for path, maps in (
        (outputs.residual, result.residual),
        (outputs.reconstruction, result.reconstruction),
        (outputs.probability, result.outline.probability[..., None]),
        (outputs.uncertainty, None if uncertainty is None else uncertainty[..., None]),
    ):
        if path and maps is not None:
            channels = [from_stack(maps[..., c], result.stack, scan) for c in range(maps.shape[-1])]
            write_map(path, channels[0] if len(channels) == 1 else np.stack(channels, axis=-1), scan)
    if outputs.brain_mask:
        write_map(outputs.brain_mask, result.brain.mask, scan)
    if outputs.suspicion:
        write_map(outputs.suspicion, result.suspected, scan)
    if outputs.lesions:
        write_map(outputs.lesions, numbered_components(result.mask), scan)
    if outputs.rtstruct:
        write_structures(outputs.rtstruct, numbered_components(result.mask), labels_of(result.lesions), scan)
    if outputs.dicom:
        write_dicom(outputs.dicom, result.mask, scan)
    write_map(outputs.mask, result.mask, scan)


def _without_impossible_dicom(job: Job) -> tuple[Job, list[str]]:
    """Removes the DICOM segmentation and the structure set from a job if they cannot be written.

    Returns:
        The job, and a warning for each that was removed.

    Raises:
        InputError: one cannot be written and is required.
    """
    outputs, warnings = job.outputs, []
    checks = {
        "dicom": (SEGMENTATION.option, dicom.check_segmentation),
        "rtstruct": (STRUCTURES.option, rtstruct.check_structures),
    }
    for name, (option, check) in checks.items():
        if name not in outputs.named:
            continue
        try:
            if not job.scan.is_dir():
                raise InputError(f"{job.scan}: is not a folder of DICOM slices; leave out {option}")
            check(job.scan)
        except InputError as error:
            if job.dicom_required:
                raise
            outputs = Outputs.of({one: path for one, path in outputs.named.items() if one != name})
            kind = {"dicom": "segmentation", "rtstruct": "structure set"}[name]
            warnings.append(f"{error}; no DICOM {kind} is written")
    return replace(job, outputs=outputs), warnings
