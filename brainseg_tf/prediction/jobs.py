"""A scan to segment: its input files, its output files and the outcome."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from brainseg_tf.files import printable
from brainseg_tf.images.formats import files_of, stem
from brainseg_tf.prediction import results_table
from brainseg_tf.prediction.pages import Navigation
from brainseg_tf.prediction.viewer_tables import SUFFIXES

# The name of the dataset of the scans in the BIDS URIs of a derivative.
RAW = "raw"
# Number of samples of a file by which it is known again, and their size.
_SAMPLES, _SAMPLE_BYTES = 32, 4096
_GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Outputs:
    """The output files of a scan; None for an output that is not written.

    Attributes:
        mask: the lesion mask, .nii or .nii.gz.
        figure: PNG of the stages of the segmentation.
        residual, reconstruction, probability, uncertainty: maps on the scan's grid.
        suspicion: mask of what is suspected but not in the lesion mask, on the scan's grid.
        lesions: the number of each lesion in the report's list, from 1, on the scan's grid.
        brain_mask: the brain mask, on the scan's grid.
        dicom: the lesion mask as a DICOM segmentation; for DICOM series only.
        rtstruct: the lesions as a DICOM RT structure set; for DICOM series only.
        page: the HTML page.
        thumbnail: PNG for the index page.
        report: JSON.
        tables: label tables for viewers by ``KIND_VIEWER``, see ``with_tables``.
    """

    mask: Path
    figure: Path | None = None
    residual: Path | None = None
    reconstruction: Path | None = None
    probability: Path | None = None
    uncertainty: Path | None = None
    suspicion: Path | None = None
    lesions: Path | None = None
    brain_mask: Path | None = None
    dicom: Path | None = None
    rtstruct: Path | None = None
    page: Path | None = None
    thumbnail: Path | None = None
    report: Path | None = None
    tables: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Mapping[str, Path]) -> "Outputs":
        """The outputs with these paths, which are named as in ``named``."""
        single = {one.name for one in fields(cls)} - {"tables"}
        paths: dict[str, Any] = {name: path for name, path in named.items() if name in single}
        return cls(**paths, tables={name: path for name, path in named.items() if name not in single})

    def with_tables(self) -> "Outputs":
        """The same outputs with label tables for viewers beside the lesion mask and the map of the lesions."""
        kinds = {"mask": self.mask, "lesions": self.lesions}
        tables = {
            f"{kind}_{viewer}": path.with_name(stem(path) + suffix)
            for kind, path in kinds.items()
            if path
            for viewer, suffix in SUFFIXES.items()
        }
        return replace(self, tables=tables)

    @property
    def named(self) -> dict[str, Path]:
        """The outputs that are written, by field, and the tables by their names; the mask is the first."""
        paths = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "tables"}
        return {name: path for name, path in paths.items() if path} | dict(self.tables)

    @property
    def paths(self) -> list[Path]:
        """The outputs that are written."""
        return list(self.named.values())

    @property
    def maps(self) -> list[Path]:
        """The outputs that are NIfTI files on the scan's grid."""
        maps = (
            self.residual,
            self.reconstruction,
            self.probability,
            self.uncertainty,
            self.suspicion,
            self.lesions,
            self.brain_mask,
        )
        return [self.mask, *(path for path in maps if path)]


@dataclass(frozen=True)
class Job:
    """A scan to segment, with its input and output files.

    Attributes:
        scan: the scan of the model's first modality.
        outputs: the output files.
        modalities: the scans of the further modalities, by name.
        brain: the brain mask, on the scan's grid.
        truth: the ground truth, on the scan's grid.
        navigation: links of the HTML page to the index and the neighbouring pages.
        subject, session: for the tables; empty if they are not known.
        name: what ``{name}`` stands for in the patterns of files that belong to the scan, see ``companions``.
        bids_source: path of the scan in its BIDS dataset; empty if it is not in one.
        dicom_required: whether it is an error if no DICOM segmentation or structure set of the series can be written;
            otherwise it is a warning.
    """

    scan: Path
    outputs: Outputs
    modalities: Mapping[str, Path] = field(default_factory=dict)
    brain: Path | None = None
    truth: Path | None = None
    navigation: Navigation | None = None
    subject: str = ""
    session: str = ""
    name: str = ""
    bids_source: str = ""
    dicom_required: bool = True

    @property
    def inputs(self) -> list[Path]:
        """The input files."""
        return [path for path in (self.scan, *self.modalities.values(), self.brain, self.truth) if path]

    @property
    def inputs_record(self) -> dict[str, dict[str, Any]]:
        """Name, size and checksum of each input file, by its role: whether an earlier result is of these files.

        The folder is left out, because a cohort can be moved or mounted elsewhere. The size of a folder of slices is
        the number of its files. Scans are known again by samples; masks, which are corrected by hand, by all bytes.
        """
        scans: dict[str, Path | None] = {"scan": self.scan, **self.modalities}
        masks = {"brain mask": self.brain, "truth": self.truth}
        return {
            role: {"name": printable(file.name), "size": _size(file)}
            | ({"samples": _sha256(file, sampled=True)} if role in scans else {"sha256": _sha256(file, sampled=False)})
            for role, file in (scans | masks).items()
            if file is not None
        }

    @property
    def bids_fields(self) -> dict[str, Any]:
        """What BIDS wants in the sidecar of the mask, which is the report; empty if the scan is not in a dataset."""
        return {"Type": "Lesion", "Sources": [f"bids:{RAW}:{self.bids_source}"]} if self.bids_source else {}

    @property
    def sidecars(self) -> dict[Path, dict[str, Any]]:
        """The BIDS sidecars of the brain mask, the probability and the numbered lesions, by file."""
        if not self.bids_source:
            return {}
        outputs = self.outputs
        types = {outputs.brain_mask: "Brain", outputs.probability: "Lesion", outputs.lesions: "Lesion"}
        return {
            path.with_name(f"{stem(path)}.json"): self.bids_fields | {"Type": kind}
            for path, kind in types.items()
            if path
        }


def _size(file: Path) -> int | None:
    """Bytes of a file, or number of files in a folder; None if it cannot be read."""
    try:
        return len(files_of(file)) if file.is_dir() else file.stat().st_size
    except OSError:
        return None


def _sha256(scan: Path, *, sampled: bool) -> str | None:
    """SHA-256 of a scan's files, or of samples of them; None if they cannot be read.

    Uncompressed scans of one protocol have one size, and often one header, so samples of the voxels are needed. Whole
    files would be too much to read again for thousands of finished scans.
    """
    try:
        series = scan.is_dir()
        digest = partial(_samples, count=1 if series else _SAMPLES) if sampled else _all_bytes
        parts = [digest(file) for file in files_of(scan)]
        if series:  # In the order of the contents, whatever the files are called. Each slice has its own identifier.
            parts.sort()
    except OSError:
        return None
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _all_bytes(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _samples(file: Path, count: int) -> bytes:
    """The SHA-256 of pieces of a file, the first at its beginning.

    Their distances are multiples of the golden ratio: at equal distances all of them can be in the same row of an
    uncompressed scan's slices, for instance in the background above the head.
    """
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as opened:
        for number in range(count):
            opened.seek(int(size * (number * _GOLDEN_RATIO % 1)))
            digest.update(opened.read(_SAMPLE_BYTES))
    return digest.digest()


@dataclass(frozen=True)
class Outcome:
    """The result of a job.

    Attributes:
        job: the job.
        report: of ``Predictor.run`` or of an earlier run; None after a failure.
        error: one line; None unless the job failed.
        kept: whether the results of an earlier run were kept.
        refused: whether results of an earlier run are there, but of other inputs or options. They stay in the tables.
    """

    job: Job
    report: dict[str, Any] | None = None
    error: str | None = None
    kept: bool = False
    refused: bool = False

    @property
    def row(self) -> results_table.Row:
        """The row of the scan in ``summary.csv``."""
        job = self.job
        if self.report is None:
            return results_table.row(job.scan, "failed", error=self.error, mask=job.outputs.mask)
        status = "kept" if self.kept else "done"
        return results_table.row(
            job.scan, status, report=self.report, mask=job.outputs.mask, report_file=job.outputs.report
        )
