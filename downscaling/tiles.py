"""Tiles along one axis of the fine lattice; round the globe they close without a seam.

Tiles begin at multiples of their step from pixel 0 of the lattice. Where a circle holds a whole number of pixels its
last tile is longer, up to twice a tile, and ends on the first tile of the next circle, into which it fades like any
other: the meridian of 180 degrees is then no special place, for fields that cross it and for those that go round.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Tile", "tiles"]

from torch import Tensor

from diffusion.tiling import ramp, spans
from downscaling.lattice import Axis


class Tile(NamedTuple):
    """One tile.

    Args:
        pixels: its pixels by their numbers in the first circle, by which it is drawn.
        turn: pixels from there to where the input lies at hand.
        begin: number of its first pixel in the field.
        rise: weights of its pixels.
    """

    pixels: slice
    turn: int
    begin: int
    rise: Tensor


def tiles(axis: Axis, side: int, overlap: int, unit: int) -> list[Tile]:
    """Return the tiles that touch the field, in ascending order.

    Args:
        axis: of the field.
        side: of a tile.
        overlap: pixels that neighbours share, below half of the side.
        unit: pixels of a token, to whole ones of which the input is rounded out.
    """
    low, high = axis.covered
    low, high = min(low, axis.first), max(high, axis.stop)
    if axis.circle:  # no end anywhere near the field
        low, high = axis.first - 4 * (side + axis.stop), axis.stop + 4 * (side + axis.stop)
    if axis.period is None or (short := axis.period < 2 * overlap + 4 * unit):
        if axis.circle and short:
            raise ValueError(
                f"a circle of {axis.period} pixels is too short for tiles: take a larger factor or a region"
            )
        low, high = _whole(low, high, unit)
        cut = spans(high - low, side, overlap, low)
        return [Tile(slice(low + s.start, low + s.stop), 0, low + s.start, ramp(s, high - low, overlap)) for s in cut]
    step, count = side - overlap, axis.period // (side - overlap)
    if count < 2:  # a short circle is cut in two, since no tile may reach round it
        step, count = _whole(0, -(-axis.period // 2), unit)[1], 2
        side = step + overlap
    last = _whole(0, axis.period + overlap, unit)[1]
    found = []
    for turn in range((axis.first // axis.period - 1) * axis.period, axis.stop, axis.period):
        start, end = _whole(low - turn, high - turn, unit)
        for k in range(count):
            a, b = max(k * step, start), min(k * step + side if k + 1 < count else last, end)
            if b - a > overlap and a + turn < axis.stop and b + turn > axis.first:
                rise = ramp(slice(a - start, b - start), end - start, overlap)
                found.append(Tile(slice(a, b), 0 if axis.circle else turn, a + turn, rise))
    if found:
        return found
    low, high = _whole(low, high, unit)
    return [Tile(slice(low, high), 0, low, ramp(slice(0, high - low), high - low, overlap))]


def _whole(low: int, high: int, unit: int) -> tuple[int, int]:
    return low // unit * unit, -(-high // unit) * unit
