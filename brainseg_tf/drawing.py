"""What all figures share.

The figures are ``matplotlib.figure.Figure`` objects. pyplot is not used and no setting of matplotlib is changed, so
several threads can draw at the same time. Names from files and commands are drawn as plain text, never as mathematics.
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
# Longest label in characters: a longer one would leave no room for the axes.
_LABEL_LENGTH = 32


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches, and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def message(text: str) -> Figure:
    """A figure for a result that has nothing to draw."""
    figure = Figure(figsize=(3, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def log_if_positive(axis: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """Makes an axis logarithmic if anything can be drawn on it then; its numbers are plain text, not mathematics.

    matplotlib's parser of mathematics, which draws powers of ten, cannot be used by two threads at once.
    """
    numbers = np.asarray(values, float)
    if not (np.isfinite(numbers) & (numbers > 0)).any():
        return
    axis.set(**{f"{which}scale": "log"})
    along = axis.yaxis if which == "y" else axis.xaxis
    along.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_ylim() if which == "y" else axis.get_xlim()
    # Within a decade there may be no power of ten to show.
    within_a_decade = np.floor(np.log10(high)) <= np.floor(np.log10(low))
    along.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.2g}") if within_a_decade else NullFormatter())


def label(name: str) -> str:
    """A name from outside as a label: one line, of limited length, in characters that the font has."""
    known = _characters()
    text = "".join(one if ord(one) in known else one.encode("unicode_escape").decode() for one in printable(name))
    # matplotlib leaves labels that begin with an underscore out of a legend.
    text = f" {text}" if text.startswith("_") else text
    half = _LABEL_LENGTH // 2 - 1
    return text if len(text) <= _LABEL_LENGTH else f"{text[:half]}...{text[-half:]}"


@lru_cache(1)
def _characters() -> frozenset[int]:
    """Code points that the font of the labels has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def finite(image: np.ndarray) -> np.ma.MaskedArray:
    """The image with what is not finite masked, so that it is not drawn."""
    return np.ma.masked_invalid(image)


def upper_limit(values: np.ndarray) -> float:
    """The end of a grey scale: nearly the largest finite value, and above 0."""
    finite = values[np.isfinite(values)]
    top = float(np.quantile(finite, 0.998)) if finite.size else 0.0
    return top if top > 0 else 1.0


def save(figure: Figure, path: Path | BinaryIO) -> None:
    """Writes a figure as PNG, beside its place and renamed."""
    if isinstance(path, Path):
        with replacing(path) as beside:
            figure.savefig(beside, dpi=_DPI, format="png")
    else:
        figure.savefig(path, dpi=_DPI, format="png")
