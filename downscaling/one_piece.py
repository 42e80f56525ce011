"""Fields that cannot be conserved piece by piece: what that takes, and where it is refused.

Pieces end where coarse and fine edges meet. On a grid of one's own (`--grid`) they may meet nowhere, and seldom for an
odd factor; the pieces then reach over all rows, or many, and all members of a block are in memory at once.
"""

from __future__ import annotations

__all__ = ["conserved_in"]

import numpy as np

from downscaling.keeping import Keeper
from downscaling.lattice import LARGEST_DENOMINATOR, SNAP, Axis
from downscaling.request import LARGEST_FACTOR
from gen.device import free_memory

PIXEL_BYTES = 150  # of a member in memory while a piece is projected; 126 to 141 were measured
SHARE = 0.8  # of the free memory
LONGEST = round(LARGEST_FACTOR) * LARGEST_DENOMINATOR  # pixels


def conserved_in(keeper: Keeper | None, members: int) -> str:
    """Return a remark on a field that is conserved in one piece, an empty text for others.

    Args:
        keeper: of the domain, None where nothing is conserved.
        members: that are drawn together.

    Raises:
        ValueError: when a piece does not fit into the free memory.
    """
    if keeper is None:
        return ""
    spans = zip(keeper.rows[:-1], keeper.rows[1:], strict=True)
    height = max(stop - first for first, stop in (keeper.needed(*span) for span in spans))
    width = keeper.domain.columns.stop - keeper.domain.columns.first
    need, free = float(PIXEL_BYTES * members * height * width), free_memory()
    if need > SHARE * free:
        raise ValueError(
            f"coarse and fine edges meet too seldom: {height} x {width} pixels of {members} members are conserved at "
            f"once, which needs {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; take a smaller --batch or "
            "target, a --factor instead of --grid, or --conserve none"
        )
    never = not (_meet(keeper.written.rows) and _meet(keeper.written.columns))
    return "; coarse and fine edges never meet, the field is one piece" if never else ""


def _meet(axis: Axis) -> bool:
    """Return whether edges meet within as many pixels as the longest period of a factor has."""
    places = np.arange(axis.first, axis.first + LONGEST + 1) / axis.factor + axis.shift
    return bool((np.abs(places - np.round(places)) < SNAP).any())
