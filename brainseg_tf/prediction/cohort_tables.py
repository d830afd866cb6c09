"""Tables for statistics in an output folder: ``lesions.tsv``, ``suspects.tsv`` and ``volumes.tsv`` (a row per scan).

They are made from the reports of all scans in ``summary.csv``, so they are complete after each run, whether it was
continued, ran beside others or was interrupted. Each table has a data dictionary as BIDS describes it (``.json``).
"""

import csv
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from brainseg_tf.brain.regions import PERIVENTRICULAR_MM, REGIONS
from brainseg_tf.errors import InputError
from brainseg_tf.files import file_lock, printable, replacing, write_json
from brainseg_tf.images.formats import stem
from brainseg_tf.images.modality_names import without_modality
from brainseg_tf.postprocessing.suspicion import REASONS
from brainseg_tf.prediction import results_table

LESIONS, SUSPECTS, VOLUMES = "lesions.tsv", "suspects.tsv", "volumes.tsv"
# Names of all files that ``write`` makes; the last is the lock.
NAMES = (LESIONS, SUSPECTS, VOLUMES, "lesions.json", "suspects.json", "volumes.json", f".{VOLUMES}.lock")
# How BIDS writes a value that is not known.
_UNKNOWN = "n/a"
_YES_NO = {"yes": "it is", "no": "it is not"}
# What a report says about a lesion and the table takes as it is.
_MEASURED = (
    "side",
    "region",
    "ventricle_mm",
    "intensity_ratio",
    "mean_probability",
    "mean_score",
    "mean_residual",
)


class Column(NamedTuple):
    """A column of a table, as its data dictionary describes it."""

    name: str
    description: str
    units: str | None = None
    levels: Mapping[str, str] | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The entry in the data dictionary."""
        entry: dict[str, Any] = {"Description": self.description}
        if self.units:
            entry["Units"] = self.units
        return entry | ({"Levels": dict(self.levels)} if self.levels else {})


_SCAN_COLUMNS = (
    Column(
        "participant_id", "Subject: the BIDS label, the column subject of a table of scans, or the name of the scan."
    ),
    Column("session_id", "Session of the subject."),
    Column("scan", "Path of the scan."),
)
_COMPONENT_COLUMNS = (
    Column("volume_ml", "Volume.", "ml"),
    *(Column(f"{axis}_mm", f"Centroid, {axis} in the world space of the scan (RAS).", "mm") for axis in "xyz"),
    *(
        Column(
            f"mni_{axis}_mm", f"Centroid, {axis} in MNI space, by a rough affine alignment of the brain's shape.", "mm"
        )
        for axis in "xyz"
    ),
    Column(
        "side",
        "Side of the patient.",
        levels={"left": "left", "right": "right", "midline": "less than 5 mm from the middle of the brain"},
    ),
    Column(
        "region",
        "Region with most of the lesion, by planes in MNI space along the large fissures.",
        levels={
            **{name: f"{name} lobe" for name in REGIONS[:4]},
            "insula": "insula",
            "deep": "basal ganglia, thalamus and the white matter between them",
            "infratentorial": "cerebellum and brainstem",
        },
    ),
    Column("ventricle_mm", "Smallest distance to the lateral ventricles of the MNI template.", "mm"),
    Column(
        "periventricular",
        f"Whether that distance is at most {PERIVENTRICULAR_MM:g} mm.",
        levels=_YES_NO,
    ),
    Column(
        "intensity_ratio",
        "Mean intensity of the scan, divided by the median of the brain outside lesions and suspected tissue.",
    ),
    Column(
        "mean_probability",
        "Mean posterior probability of a lesion in the mixture. The conspicuity does not use it.",
    ),
    Column(
        "mean_score",
        "Mean of what the mixture was fitted to, for instance of the network's lesion probability, smoothed.",
    ),
    Column("mean_residual", "Mean of input minus reconstruction; the brain's median in the input is 0.3."),
)
LESION_COLUMNS = (
    *_SCAN_COLUMNS,
    Column("lesion", "Number of the lesion in the scan; 1 is the largest."),
    *_COMPONENT_COLUMNS,
)
SUSPECT_COLUMNS = (
    *_SCAN_COLUMNS,
    Column("suspect", "Number of the suspected component in the scan; 1 is the largest."),
    Column("reason", "Why the component is not in the mask.", levels=REASONS),
    *_COMPONENT_COLUMNS,
)
VOLUME_COLUMNS = (
    *_SCAN_COLUMNS,
    Column("brain_ml", "Volume of the brain mask.", "ml"),
    Column("brain_source", "Where the brain mask comes from."),
    Column("lesion_ml", "Volume of all lesions.", "ml"),
    Column("lesions", "Number of lesions."),
    Column("suspected_ml", "Volume that is abnormal but not in the lesion mask.", "ml"),
    Column(
        "snr",
        "Median intensity of the brain, divided by the standard deviation of the noise (Immerkaer 1996). It is high in "
        "resampled scans.",
    ),
    Column("slice_thickness_mm", "Largest voxel size.", "mm"),
    Column("coverage", "Share of the brain in the field of view, from 0 to 1, by the alignment with the MNI template."),
    Column(
        "template_error_mm",
        "Median distance of the brain's surface to that of the MNI template after the alignment. Above 4.5 mm, regions "
        "and MNI coordinates are n/a.",
        "mm",
    ),
    Column(
        "cut_share",
        "Share of the brain's surface that the edge of the scan cuts off. Above 0.1, regions and MNI coordinates are "
        "n/a.",
    ),
    Column("model", "Name of the model."),
    Column("model_version", "Version of the model."),
    Column("brainseg_tf", "Version of brainseg-tf."),
    Column("seconds", "Time for the scan.", "s"),
    Column("warnings", "Number of warnings; the report has their texts."),
)

_COLUMNS = {LESIONS: LESION_COLUMNS, SUSPECTS: SUSPECT_COLUMNS, VOLUMES: VOLUME_COLUMNS}

Row = dict[str, Any]


def write(out: Path) -> None:
    """Writes the tables with their data dictionaries for all scans in the ``summary.csv`` of an output folder.

    Reports that cannot be read, or were written by a version without these values, give rows with unknown values.

    Args:
        out: the folder.

    Raises:
        InputError: ``summary.csv`` cannot be read, or a table cannot be written.
    """
    with (
        # Of several runs in one folder, the last to write has read the rows of the others.
        file_lock(out / VOLUMES),
        _writing(out / LESIONS, LESION_COLUMNS) as lesions,
        _writing(out / SUSPECTS, SUSPECT_COLUMNS) as suspects,
        _writing(out / VOLUMES, VOLUME_COLUMNS) as volumes,
    ):
        for report in _reports(out):
            lesions.writerows(map(_cells, lesion_rows(report)))
            suspects.writerows(map(_cells, suspect_rows(report)))
            volumes.writerow(_cells(volume_row(report)))
    for name, columns in _COLUMNS.items():
        write_json((out / name).with_suffix(".json"), {column.name: column.entry for column in columns})


def check(out: Path, inputs: Collection[Path] = ()) -> None:
    """Checks that the tables of a folder are those of an earlier run, before they are replaced.

    Args:
        out: the folder.
        inputs: files that are read.

    Raises:
        InputError: a file with the name of a table is not one of these tables, or is read.
    """
    read = {file.absolute() for file in inputs}
    for name, columns in _COLUMNS.items():
        table = out / name
        first = ",".join(column.name for column in columns[:3])
        for file, start in ((table, first.replace(",", "\t")), (table.with_suffix(".json"), "{")):
            if not file.exists():
                continue
            try:
                with file.open(encoding="utf-8", errors="replace") as content:
                    ours = content.read(len(start)) == start
                    ours = ours and (start != "{" or first.split(",")[0] in content.read(100))
            except OSError as error:
                raise InputError(
                    f"{printable(file)}: cannot be read ({error.strerror}), but a table of results has this name; move "
                    "it, or choose another --out-dir"
                ) from error
            if not ours or file.absolute() in read:
                raise InputError(
                    f"{printable(file)}: would be replaced by a table of results, but is another file; move it, or "
                    "choose another --out-dir"
                )


def lesion_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a scan in ``lesions.tsv``.

    Args:
        report: of ``Predictor.run``.
    """
    for number, lesion in enumerate(report.get("lesions", []), start=1):
        yield {**_scan_cells(report), "lesion": number, **_component_cells(lesion)}


def suspect_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a scan in ``suspects.tsv``.

    Args:
        report: of ``Predictor.run``.
    """
    for number, suspect in enumerate(report.get("suspects", []), start=1):
        yield {
            **_scan_cells(report),
            "suspect": number,
            "reason": suspect.get("reason"),
            **_component_cells(suspect),
        }


def volume_row(report: Mapping[str, Any]) -> Row:
    """The row of a scan in ``volumes.tsv``.

    Args:
        report: of ``Predictor.run``.
    """
    quality, brain, model = (report.get(name, {}) for name in ("quality", "brain", "model"))
    return {
        **_scan_cells(report),
        "brain_ml": brain.get("ml"),
        "brain_source": brain.get("source"),
        "lesion_ml": report.get("lesion_ml"),
        "lesions": report.get("components"),
        "suspected_ml": report.get("suspected_ml"),
        **{name: quality.get(name) for name in ("snr", "slice_thickness_mm", "coverage")},
        "template_error_mm": report.get("template", {}).get("error_mm"),
        "cut_share": report.get("template", {}).get("cut_share"),
        "model": model.get("name"),
        "model_version": model.get("version"),
        "brainseg_tf": report.get("brainseg_tf"),
        "seconds": round(sum(report.get("seconds", {}).values()), 2),
        "warnings": len(report.get("warnings", [])),
    }


def _reports(out: Path) -> Iterator[Mapping[str, Any]]:
    """The reports of the scans in ``summary.csv`` that were segmented, sorted by path of the scan."""
    seen = set()
    for row in sorted(results_table.read(out / results_table.NAME), key=lambda row: row["scan"]):
        file = results_table.located(row["report"], out)
        # A scan whose dataset was moved has two rows, but one report.
        if not row["report"] or file.absolute() in seen:
            continue
        seen.add(file.absolute())
        known = {
            "scan": row["scan"],
            "lesion_ml": row["lesion_ml"],
            "components": row["lesions"],
            "suspected_ml": row["suspected_ml"],
            "brain": {"ml": row["brain_ml"], "source": row["brain_source"]},
        }
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            report = None
        yield known | report | {"scan": row["scan"]} if isinstance(report, dict) else known


def _scan_cells(report: Mapping[str, Any]) -> Row:
    scan = str(report["scan"])
    return {
        "participant_id": report.get("subject") or without_modality(Path(scan)) or stem(Path(scan)),
        "session_id": report.get("session"),
        "scan": scan,
    }


def _component_cells(component: Mapping[str, Any]) -> Row:
    distance = component.get("ventricle_mm")
    return {
        "volume_ml": round(component["ml"], 4),
        **_point("{}_mm", component.get("centroid_mm")),
        **_point("mni_{}_mm", component.get("mni_mm")),
        "periventricular": None if distance is None else "yes" if distance <= PERIVENTRICULAR_MM else "no",
        **{name: component.get(name) for name in _MEASURED},
    }


def _point(name: str, point: Iterable[float] | None) -> Row:
    """The three coordinates of a point, in columns whose names have the axis."""
    return {name.format(axis): value for axis, value in zip("xyz", point or (None, None, None), strict=True)}


def _cells(row: Row) -> Row:
    return {name: _UNKNOWN if value in (None, "") else printable(value) for name, value in row.items()}


@contextmanager
def _writing(path: Path, columns: Iterable[Column]) -> Iterator["csv.DictWriter[str]"]:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in columns], dialect="excel-tab", lineterminator="\n")
        writer.writeheader()
        yield writer
