"""One scan to segment: its inputs, its outputs and the outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from brainseg_tf.prediction import results_table
from brainseg_tf.prediction.pages import Navigation


@dataclass(frozen=True)
class Outputs:
    """Where the results of a scan are written; None: not wanted.

    Attributes:
        mask: the lesion mask, .nii or .nii.gz.
        figure: PNG of the stages.
        residual, reconstruction, probability, uncertainty: maps on the scan's grid.
        brain_mask: the brain mask that the user's own tool made, on the scan's grid.
        dicom: the lesion mask as a DICOM segmentation, of a DICOM series.
        page, thumbnail: the HTML page and the picture for the index.
        report: JSON.
    """

    mask: Path
    figure: Path | None = None
    residual: Path | None = None
    reconstruction: Path | None = None
    probability: Path | None = None
    uncertainty: Path | None = None
    brain_mask: Path | None = None
    dicom: Path | None = None
    page: Path | None = None
    thumbnail: Path | None = None
    report: Path | None = None

    @property
    def named(self) -> dict[str, Path]:
        """The wanted outputs by field, the mask first."""
        places = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: path for name, path in places.items() if path}

    @property
    def paths(self) -> list[Path]:
        """The wanted outputs."""
        return list(self.named.values())

    @property
    def maps(self) -> list[Path]:
        """The wanted outputs on the scan's grid."""
        maps = (self.mask, self.residual, self.reconstruction, self.probability, self.uncertainty, self.brain_mask)
        return [path for path in maps if path]


@dataclass(frozen=True)
class Job:
    """One scan, the files that belong to it, and its outputs.

    Attributes:
        scan: the model's first modality.
        outputs: what to write.
        modalities: the files of the further modalities, by name.
        brain, truth: masks on the scan's grid.
        navigation: the index and the neighbours of the page.
        dicom_required: whether a series that a DICOM segmentation cannot refer to is an error; else it gets a warning.
    """

    scan: Path
    outputs: Outputs
    modalities: Mapping[str, Path] = field(default_factory=dict)
    brain: Path | None = None
    truth: Path | None = None
    navigation: Navigation | None = None
    dicom_required: bool = True

    @property
    def inputs(self) -> list[Path]:
        """The files that are read."""
        return [path for path in (self.scan, *self.modalities.values(), self.brain, self.truth) if path]


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: the scan and its outputs.
        report: what ``Predictor.run`` gave, or an earlier run left; None after a failure.
        error: one line, None unless it failed.
        kept: whether an earlier run had done it.
    """

    job: Job
    report: dict[str, Any] | None = None
    error: str | None = None
    kept: bool = False

    @property
    def row(self) -> results_table.Row:
        """Its row of the summary."""
        job = self.job
        if self.report is None:
            return results_table.row(job.scan, "failed", error=self.error)
        status = "kept" if self.kept else "done"
        return results_table.row(
            job.scan, status, report=self.report, mask=job.outputs.mask, report_file=job.outputs.report
        )
