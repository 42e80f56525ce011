"""Keep coarse amounts while rows of fine rain come in: piece by piece, each with all that its pixels depend on.

Pieces end where fine and coarse edges meet, at places of the lattice that do not depend on the region that is written;
no coarse cell is cut but by the rim of the input. Fields are brought near their amounts by smooth factors first
(`downscaling.conserve.approach`), which look `REACH` coarse cells beyond a piece. Rain is therefore drawn on a region
that is larger by that much, and a pixel gets the same bits whatever region it is part of. Where edges never meet, the
region is one piece, and cells that its rim cuts keep their amounts within the region.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

__all__ = ["MULTIPLIER", "VIOLATION", "Keeper", "demanded", "known"]

import numpy as np
from numpy.typing import NDArray

from downscaling.conserve import Mode, approach, conserve
from downscaling.lattice import LARGEST_DENOMINATOR, SNAP, Axis, Domain
from downscaling.overlap import Overlap

Values = NDArray[np.float32]
Array = NDArray[np.float64]

VIOLATION = "conservation_largest_violation_mm_per_h"
MULTIPLIER = "conservation_largest_multiplier"
PIECE = 40  # least pixels of a side of a piece
REACH = 3  # coarse cells on which smooth factors depend


class Keeper:
    """Project rows of fine rain on a domain.

    Args:
        domain: what is written. mode: "input" keeps the amounts of the input, "coarse" those of expected rain, which
            comes as one more member.
        floor: mm/h that wet pixels keep at least.
    """

    def __init__(self, domain: Domain, mode: Mode, floor: float) -> None:
        self.written, self.mode, self.floor = domain, mode, floor
        self.rows, self.columns = (_pieces(axis) for axis in (domain.rows, domain.columns))
        rows, columns = (
            _wider(axis, cuts) for axis, cuts in ((domain.rows, self.rows), (domain.columns, self.columns))
        )
        self.domain = Domain(rows, columns, domain.crs)

    def needed(self, first: int, stop: int) -> tuple[int, int]:
        """Return the rows of the lattice that must come in so that rows `first` to `stop` can be finished."""
        begin, end = max(n for n in self.rows if n <= first), min(n for n in self.rows if n >= stop)
        return self._with_halo(begin, end)

    def finished(
        self, strips: Iterator[tuple[int, Values]], coarse: Values, first: int, stop: int
    ) -> Iterator[tuple[int, Values, dict[str, float]]]:
        """Yield rows `first` to `stop` of the lattice, projected: number of the first, rates, what it cost.

        Args:
            strips: number of the first row and rates [M, h, W] of all columns of `domain`, ascending from `needed` on;
                float32, zero where there is no input.
            coarse: amounts of the input at hand.
            first: of the rows wanted.
            stop: one past the last.
        """
        marks = [(a, b) for a, b in zip(self.rows[:-1], self.rows[1:], strict=True) if b > first and a < stop]
        held, low, high = list[Values](), -1, -1
        for begin, values in strips:
            low = begin if not held else low
            held.append(values)
            high = begin + values.shape[1]
            while marks and high >= (end := self._with_halo(*marks[0]))[1]:
                rain = np.concatenate(held, axis=1)[:, end[0] - low : end[1] - low]
                piece, notes = self._projected(rain, marks[0], coarse)
                (a, b), marks = marks[0], marks[1:]
                keep = slice(max(first - a, 0), min(b, stop) - a)
                left = self.written.columns.first - self.columns[0]
                width = self.written.columns.stop - self.written.columns.first
                yield a + keep.start, piece[:, keep, left : left + width], notes
            if marks:
                begins = self._with_halo(*marks[0])[0]
                held, low = [np.concatenate(held, axis=1)[:, max(begins - low, 0) :]], max(begins, low)

    def _with_halo(self, begin: int, end: int) -> tuple[int, int]:
        margin = _margin(self.domain.rows)
        return max(begin - margin, self.domain.rows.first), min(end + margin, self.domain.rows.stop)

    def _projected(self, rain: Values, rows: tuple[int, int], coarse: Values) -> tuple[Values, dict[str, float]]:
        """Return the projection [M, h, W] of a piece of rows onto the amounts, columns piece by piece."""
        (top, bottom), wide = self._with_halo(*rows), self.domain.columns
        there = known(self.domain, coarse, top, bottom)
        lap, cells = self._overlap(top, bottom, wide.first, wide.stop)
        lap = lap.masked(there)
        prior = np.where(there, rain, 0.0)
        amounts = coarse[cells].astype(np.float64)
        if self.mode == "coarse":
            prior, amounts = prior[:-1], np.where(np.isfinite(amounts), demanded(prior[-1], lap, self.floor), np.nan)
        near = approach(prior, amounts, lap)
        core = slice(rows[0] - top, rows[1] - top)
        out = np.empty((prior.shape[0], rows[1] - rows[0], self.columns[-1] - self.columns[0]), np.float32)
        notes = {VIOLATION: 0.0, MULTIPLIER: 1.0}
        for left, right in zip(self.columns[:-1], self.columns[1:], strict=True):
            place = slice(left - wide.first, right - wide.first)
            part, (a, b) = self._overlap(*rows, left, right)
            within = (
                slice(a.start - cells[0].start, a.stop - cells[0].start),
                slice(b.start - cells[1].start, b.stop - cells[1].start),
            )
            part = part.masked(there[core, place])
            made = conserve(near[:, core, place], amounts[within], part, "input", floor=self.floor)
            out[..., left - self.columns[0] : right - self.columns[0]] = made.values
            was = prior[:, core, place]
            grown = made.values[was > 0] / was[was > 0]
            notes[VIOLATION] = max(notes[VIOLATION], made.largest_violation)
            notes[MULTIPLIER] = max(notes[MULTIPLIER], float(np.nanmax(grown, initial=1.0)))
        return out, notes

    def _overlap(self, top: int, bottom: int, left: int, right: int) -> tuple[Overlap, tuple[slice, slice]]:
        """Return the overlaps of a piece with the coarse cells that it touches, and these cells."""
        rows, columns = self.domain.rows, self.domain.columns
        cells = slice(*rows.cells_of(top, bottom)), slice(*columns.cells_of(left, right))
        coarse = [a.coarse_edges(c.start, c.stop) for a, c in zip((rows, columns), cells, strict=True)]
        fine = [rows.edges(top, bottom), columns.edges(left, right)]
        if not self.domain.crs:  # areas on the sphere
            coarse[0], fine[0] = np.sin(np.deg2rad(coarse[0])), np.sin(np.deg2rad(fine[0]))
        return Overlap.from_edges((coarse[0], coarse[1]), (fine[0], fine[1])), cells


def known(domain: Domain, coarse: Values, top: int, bottom: int) -> NDArray[np.bool_]:
    """Return where rows `top` to `bottom` of the lattice have an input, in the columns of a domain."""
    spans = (domain.rows, top, bottom), (domain.columns, domain.columns.first, domain.columns.stop)
    cell = [np.minimum(axis.positions(*span).astype(np.int64), axis.cells.size - 1) for axis, *span in spans]
    return np.isfinite(coarse[np.ix_(*cell)])


def demanded(expected: Array | Values, overlap: Overlap, floor: float) -> Array:
    """Return the coarse amounts [Hc, Wc] of expected fine rain [Hf, Wf], NaN where they hold no pixel at the floor.

    The chance of rain is nowhere zero; a cell that expects less than its smallest event says nothing on one member.
    """
    amounts = overlap.apply(expected)
    with np.errstate(invalid="ignore"):
        return np.where(amounts * overlap.coarse_area >= floor * overlap.fine_area.max(), amounts, np.nan)


def _period(axis: Axis) -> Fraction:
    return Fraction(axis.factor).limit_denominator(LARGEST_DENOMINATOR)


def _margin(axis: Axis) -> int:
    """Return the pixels beyond a piece that must be known: `REACH` coarse cells, up to where edges meet."""
    width = _period(axis).numerator
    return -(-int(np.ceil(REACH * axis.factor)) // width) * width


def _pieces(axis: Axis) -> list[int]:
    """Return the ends of pieces that hold the field, at places of the lattice or the rim of the input."""
    low, high = axis.covered
    low, high = min(low, axis.first), max(high, axis.stop)
    period = _period(axis)
    places = np.arange(low, high + 1) / axis.factor + axis.shift
    numbers = np.round(places)
    every = -(-PIECE // period.numerator)
    common = np.flatnonzero(np.abs(places - numbers) < SNAP)
    if common.size < 2:
        return [axis.first, axis.stop]
    ends = [int(n) + low for n in common if numbers[n] // period.denominator % every == 0]
    first = max([n for n in ends if n <= axis.first], default=low)
    stop = min([n for n in ends if n >= axis.stop], default=high)
    return [first, *(n for n in ends if first < n < stop), stop]


def _wider(axis: Axis, cuts: list[int]) -> Axis:
    """Return an axis that holds the pieces and what they look at beyond."""
    low, high = axis.covered
    margin = _margin(axis)
    first, stop = max(cuts[0] - margin, min(low, axis.first)), min(cuts[-1] + margin, max(high, axis.stop))
    return replace(axis, first=first, stop=stop)
