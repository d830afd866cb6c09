"""Label tables for viewers: the names and colours of the values of the lesion mask and of the map of the lesions.

The formats:

- FSLeyes: a line ``label r g b name`` for each label, with colours from 0 to 1. FSLeyes cannot read a table of one
  line, so the background has a line too; FSLeyes does not show label 0.
- ITK-SNAP: ``IDX R G B A VIS MSH "LABEL"``, with colours from 0 to 255, the opacity from 0 to 1, and the visibility in
  slices and as a surface.
- Freeview and the other programs of FreeSurfer: ``No. Name R G B A``, with colours from 0 to 255 and the transparency.
  Names have no spaces.
"""

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from brainseg_tf.images.labels import Label
from brainseg_tf.postprocessing.lesions import Lesion

# The ends of the names of the tables, by viewer.
SUFFIXES = {"fsleyes": "_fsleyes.lut", "itksnap": "_itksnap.txt", "freeview": "_freeview.txt"}
# Steps of this share of the colour circle never return to a hue, and keep hues apart for any number of lesions.
_GOLDEN_RATIO = (5**0.5 - 1) / 2


def write_tables(tables: Mapping[str, Path], lesions: Sequence[Lesion]) -> None:
    """Writes label tables.

    Args:
        tables: the files by ``mask_VIEWER`` and ``lesions_VIEWER``, where the viewer is a key of ``SUFFIXES``.
        lesions: the lesions of the report.
    """
    labels = {"mask": [Label(1, "lesion", colour(1))], "lesions": labels_of(lesions)}
    for name, path in tables.items():
        kind, _, viewer = name.partition("_")
        path.write_text(_WRITERS[viewer](labels[kind]), encoding="utf-8")


def labels_of(lesions: Sequence[Lesion]) -> list[Label]:
    """The labels of the map of the lesions: number, name with the volume, and colour of each lesion."""
    return [
        Label(number, f"lesion {number}, {lesion.ml:.2f} ml", colour(number))
        for number, lesion in enumerate(lesions, start=1)
    ]


def colour(number: int) -> tuple[int, int, int]:
    """A bright colour for a lesion: red for the first one, and another hue for each number."""
    red, green, blue = colorsys.hsv_to_rgb((number - 1) * _GOLDEN_RATIO % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _fsleyes(labels: Sequence[Label]) -> str:
    background = Label(0, "background", (0, 0, 0))
    lines = [
        f"{one.value} {' '.join(f'{channel / 255:.5f}' for channel in one.colour)} {one.name}\n"
        for one in (background, *labels)
    ]
    return "".join(lines)


def _itksnap(labels: Sequence[Label]) -> str:
    lines = ["# ITK-SnAP Label Description File\n", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL\n"]
    lines.append('0 0 0 0 0 0 0 "Clear Label"\n')
    for one in labels:
        red, green, blue = one.colour
        lines.append(f'{one.value} {red} {green} {blue} 1 1 1 "{one.name}"\n')
    return "".join(lines)


def _freeview(labels: Sequence[Label]) -> str:
    lines = ["#No. Label_Name R G B A\n", "0 Unknown 0 0 0 0\n"]
    for one in labels:
        red, green, blue = one.colour
        lines.append(f"{one.value} {one.name.replace(',', '').replace(' ', '_')} {red} {green} {blue} 0\n")
    return "".join(lines)


_WRITERS: dict[str, Callable[[Sequence[Label]], str]] = {
    "fsleyes": _fsleyes,
    "itksnap": _itksnap,
    "freeview": _freeview,
}
