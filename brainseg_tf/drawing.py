"""Helpers for figures.

The figures are ``matplotlib.figure.Figure`` objects. pyplot is not used and no setting of matplotlib is changed, so
several threads can draw at the same time. Names from files and commands are drawn as plain text, never as math text.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, NullFormatter

from brainseg_tf.files import printable, replacing

_DPI = 110
# Largest number of characters of a label. Longer labels would leave too little space for the axes.
_LABEL_LENGTH = 32


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches, and the array of its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def message(text: str) -> Figure:
    """A figure with only a text, for a result without data."""
    figure = Figure(figsize=(3, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def log_if_positive(axis: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Makes an axis logarithmic if any of its values is finite and positive, with tick labels in plain text.

    matplotlib's default labels, powers of ten, are math text, whose parser is not thread-safe.

    Args:
        axis: the axes.
        which: x or y.
        values: the values on that axis.
    """
    numbers = np.asarray(values, float)
    if not (np.isfinite(numbers) & (numbers > 0)).any():
        return
    axis.set(**{f"{which}scale": "log"})
    xy_axis = axis.yaxis if which == "y" else axis.xaxis
    xy_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    # An axis within one decade may have no major tick, so its minor ticks are labelled.
    within_a_decade = np.floor(np.log10(high)) <= np.floor(np.log10(low))
    xy_axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}") if within_a_decade else NullFormatter())


def label(name: str) -> str:
    """A name from a file or command as a label: one line, of limited length, with only characters of the font."""
    available = _characters()
    text = "".join(one if ord(one) in available else one.encode("unicode_escape").decode() for one in printable(name))
    # matplotlib omits labels that begin with an underscore from a legend.
    text = f" {text}" if text.startswith("_") else text
    half = _LABEL_LENGTH // 2 - 1
    return text if len(text) <= _LABEL_LENGTH else f"{text[:half]}...{text[-half:]}"


@lru_cache(1)
def _characters() -> frozenset[int]:
    """Code points of the characters in the font of the labels."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def finite(image: np.ndarray) -> np.ma.MaskedArray:
    """The image with NaN and infinity masked, so that they are not drawn."""
    return np.ma.masked_invalid(image)


def upper_limit(values: np.ndarray) -> float:
    """The upper limit of a grey scale: the 99.8 % quantile of the finite values; 1 if that is not above 0."""
    finite = values[np.isfinite(values)]
    top = float(np.quantile(finite, 0.998)) if finite.size else 0.0
    return top if top > 0 else 1.0


def save(figure: Figure, path: Path | BinaryIO) -> None:
    """Writes a figure as PNG; an existing file is replaced only when the new one is complete."""
    if isinstance(path, Path):
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=_DPI, format="png")
    else:
        figure.savefig(path, dpi=_DPI, format="png")
