"""Lists and tables of the Markdown card."""

from collections.abc import Mapping
from typing import Any

# The metrics in the Markdown card, with their headings; the JSON card contains all metrics.
_METRICS = {
    "dice": "Dice",
    "dice_interval": "95 % interval",
    "dice_median": "median Dice",
    "missed": "missed",
    "iou": "IoU",
    "iou_slice": "IoU by slice",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "hausdorff95": "HD95, mm",
    "average_precision": "AP",
    "brier": "Brier",
    "calibration_error": "ECE",
    "false_ml_p95": "ml in tumour-free slices, 95 %",
}


def metrics_table(metrics: Mapping[str, Any]) -> list[str]:
    """Markdown lines: a table of the network's cuts and of the baseline, and a list of the other metrics.

    What was not measured has an empty cell.
    """
    others = dict(metrics)
    rows = {f"network, {cut}": numbers for cut, numbers in others.pop("network", {}).items()}
    if "no network" in others:
        rows["no network, mixture"] = others.pop("no network")
    if not rows:
        return bullets(others)
    table = [["method, cut", *_METRICS.values()], ["---"] * (1 + len(_METRICS))]
    for name, numbers in rows.items():
        table.append([name, *("" if numbers.get(key) is None else _text(numbers[key]) for key in _METRICS)])
    return ["", *(f"| {' | '.join(row)} |" for row in table), "", *bullets(others)]


def bullets(values: Mapping[str, Any]) -> list[str]:
    """Markdown lines: a list of names and values; numbers with four significant digits."""
    return [f"- {name}: {_text(value)}" for name, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        interval = len(value) == 2 and all(isinstance(one, float) for one in value)
        return (" to " if interval else ", ").join(map(_text, value))
    return "none" if value is None else str(value)
