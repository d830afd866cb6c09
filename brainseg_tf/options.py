"""Options that stand on both sides of a heavy import: the standard library is all that this module needs."""

from dataclasses import dataclass
from typing import Literal

Normalisation = Literal["slice", "volume", "robust"]


@dataclass(frozen=True)
class SliceOptions:
    """How volumes become slices. Saved with every model, since a model is only right for its own slices.

    Attributes:
        size: pixels along each side of a slice.
        field_of_view: millimetres along each side of a slice.
        spacing: millimetres from slice to slice.
        normalisation: ``slice`` and ``volume``: minimum to 0 and maximum to 1 (section 5.1) of each slice or volume;
            ``robust``: the brain's 1st percentile to 0, its median to 0.3, clipped to [0, 1].
        min_brain: a slice is learned from if brain covers this share of its pixels, and
        central: if it lies in this middle share of the brain's height.
    """

    size: int = 128
    field_of_view: float = 240.0
    spacing: float = 1.0
    normalisation: Normalisation = "robust"
    min_brain: float = 0.04
    central: float = 1.0

    @property
    def pixel(self) -> float:
        """Millimetres from pixel to pixel."""
        return self.field_of_view / self.size
