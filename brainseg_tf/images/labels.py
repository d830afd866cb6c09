"""The values of a label map."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A value of a label map.

    Attributes:
        value: the value.
        name: its name.
        colour: red, green and blue, from 0 to 255.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
