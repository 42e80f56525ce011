"""Choose where it may rain so that coarse amounts can be kept exactly: the prior's rain mask wherever that is possible.

With a floor f > 0 every wet pixel shall keep at least f (the threshold from which rain counts), so that scaling a cell
down does not dry it. The mask is changed only where amounts z >= f on it could not add up:

    - a cell whose amount is less than f times its wet area loses its pixels with the least prior; the last one stays,
      below f if it must;
    - a wet cell without a wet pixel of its own (wholly inside it) gets one where its amount does not fit into pixels
      that it shares with neighbours, or several, up to half of them and each with about twice the mean of the cell, at
      the highest first guess (linear interpolation of the amounts). With f = 0 all its own pixels become wet.

Each wet cell then has a pixel that no other cell asks for, or shared ones that fit: the projection has a solution.
(Whether shared pixels fit is asked of one even filling of each cell, which is sufficient but not necessary.)
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Prior", "opened", "wet_mask"]

import numpy as np
from numpy.typing import NDArray

from downscaling.overlap import Overlap

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FAINT = 1e-6  # of the coarse amount: a prior below it counts as dry when a wet cell needs pixels of its own
SEED = 1e-3  # of the coarse amount: what pixels that are made wet get beside shared ones
SLACK = 0.99  # of what a neighbour has left that shared pixels may claim
DENSE = 2.0  # times the mean of the cell, or the floor: what pixels that are made wet carry
ROUNDING = 1e-12


class Prior(NamedTuple):
    """What is projected.

    Args:
        values: rates [Hf, Wf], 0 where it stays dry. least: what each may become at least.
        wet: cells [Hc, Wc] that demand rain. filled: how many of them got wet pixels to put it.
    """

    values: Array
    least: Array
    wet: Mask
    filled: int


def wet_mask(y: Array, c: Array, overlap: Overlap, floor: float) -> Prior:
    """Return the prior with a rain mask on which the amounts can be kept.

    Args:
        y: prior [Hf, Wf] >= 0, zero where invalid.
        c: amounts [Hc, Wc], NaN asks for nothing.
        overlap: how the cells lie.
        floor: least rate of a wet pixel.
    """
    asked = overlap.active & np.isfinite(c)
    wet = asked & (c > 0)
    allowed = overlap.valid & ~overlap.touched_by(asked & (c == 0))
    problem = _Cells(np.where(allowed, y, 0.0), np.where(wet, c, 0.0), allowed, overlap, floor)
    filled = np.zeros(c.size, bool)
    problem.fit()
    while (poor := problem.poor() & ~filled).any():
        problem.fill(poor)
        filled |= poor
        problem.fit()
    shape = y.shape
    return Prior(problem.y.reshape(shape), problem.least.reshape(shape), wet, int(filled.sum()))


def opened(prior: Prior, c: Array, cells: Mask, overlap: Overlap) -> Prior:
    """Return a prior without floors that is wet in and around some cells wherever no dry cell forbids it.

    The last resort where cells are so narrow (factors below 1.5) that they own no pixel and the mask holds no solution.

    Args:
        prior: what was tried.
        c: amounts [Hc, Wc].
        cells: cells [Hc, Wc] that missed their amounts.
        overlap: how the cells lie.
    """
    near = cells
    for _ in range(2):
        near = overlap.spread_sum(overlap.touched_by(near).astype(np.float64)) > 0
    amount = np.where(prior.wet, c, 0.0)
    level = overlap.gather_sum(amount) / np.maximum(overlap.fine_area, ROUNDING)
    dry = overlap.touched_by(overlap.active & np.isfinite(c) & (c == 0))
    free = overlap.touched_by(near) & overlap.valid & ~dry
    values = np.where(free & (prior.values <= FAINT * level), level, prior.values)
    return Prior(values, np.where(free, 0.0, prior.least), prior.wet, prior.filled + int((near & prior.wet).sum()))


class _Cells:
    """Amounts, pixels and their overlaps (cell i, pixel j, area) as flat arrays, and a mask that is made to fit."""

    def __init__(self, y: Array, amount: Array, allowed: Mask, overlap: Overlap, floor: float) -> None:
        self.y, self.floor, self.overlap, self.allowed = y.ravel().copy(), floor, overlap, allowed.ravel()
        self.amount = amount.ravel()
        self.budget = self.amount * overlap.coarse_area.ravel()
        self.own = np.where(allowed, overlap.owner, -1).ravel()
        self.least, self.made = np.where(self.y > 0, floor, 0.0), np.zeros(y.size, bool)
        i, j, area = overlap.entries
        keep = self.allowed[j] & (self.budget[i] > 0)
        self.i, self.j, self.area = i[keep], j[keep], area[keep]

    def sums(self, values: Array) -> Array:
        """Return the sums over cells of `values` of the overlaps."""
        return np.asarray(np.bincount(self.i, values, minlength=self.budget.size), np.float64)

    def fit(self) -> None:
        """Dry the least pixels of the cells whose wet pixels need more than there is, until all fit; made ones last."""
        while (over := self.sums(self.area * self.least[self.j]) > self.budget * (1 + ROUNDING)).any():
            use = over[self.i] & (self.least[self.j] > 0)
            i, j, area = self.i[use], self.j[use], self.area[use]
            order = np.lexsort((j, -self.y[j], ~self.made[j], i))
            i, j, need = i[order], j[order], np.cumsum(area[order] * self.floor)
            begin = np.flatnonzero(np.r_[True, i[1:] != i[:-1]])
            size = np.diff(np.r_[begin, i.size])
            need -= np.repeat(np.r_[0.0, need[begin[1:] - 1]], size)
            first = np.zeros(i.size, bool)
            first[begin] = True
            beyond = need > self.budget[i] * (1 + ROUNDING)
            self.least[j[beyond]] = 0.0
            self.y[j[beyond & ~first]] = 0.0

    def poor(self) -> Mask:
        """Return the wet cells without wet pixels of their own whose amount does not fit into shared ones."""
        faint = FAINT * self.amount[self.i]
        is_own = self.own[self.j] == self.i
        poor = (self.budget > 0) & (self.sums(is_own & (self.y[self.j] > faint)) == 0)
        if not poor.any():
            return poor
        left = self.budget - self.sums(self.area * self.least[self.j])
        claims = np.bincount(self.j[poor[self.i]], minlength=self.y.size)
        use = poor[self.i] & (self.y[self.j] > faint) & (claims[self.j] == 1)
        room = self.sums(use * self.area)
        level = np.bincount(self.j[use], (left / np.where(room > 0, room, 1.0))[self.i[use]], minlength=self.y.size)
        crowded = ~poor & (self.sums(self.area * level[self.j]) > SLACK * left)
        hurt = np.bincount(self.j, crowded[self.i], minlength=self.y.size) > 0
        return poor & ((room == 0) | (self.sums(use & hurt[self.j]) > 0))

    def fill(self, poor: Mask) -> None:
        """Wet own pixels of the cells, the highest first guesses, or shared ones where a cell owns none."""
        empty = poor & ~(self.sums(self.area * self.y[self.j]) > FAINT * self.budget)
        j = np.flatnonzero((self.own >= 0) & poor[self.own])
        if self.floor > 0:
            j = self._highest(j)
        seed = np.where(empty, self.amount, np.maximum(SEED * self.amount, self.floor))
        self.y[j] = np.maximum(self.y[j], seed[self.own[j]])
        self.least[j], self.made[j] = self.floor, True
        lonely = empty & (np.bincount(self.own[self.own >= 0], minlength=poor.size) == 0)
        if lonely.any():
            lap = self.overlap
            level = lap.gather_sum((lonely * self.amount).reshape(lap.coarse_shape)).ravel()
            level = np.where(self.allowed, level / np.maximum(lap.fine_area.ravel(), ROUNDING), 0.0)
            self.least[(self.y == 0) & (level > 0)] = self.floor
            self.y = np.maximum(self.y, level)

    def _highest(self, j: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return of own pixels `j` as many of each cell as carry its amount at `DENSE` times its mean or the floor."""
        guess = self.overlap.interpolate(self.amount.reshape(self.overlap.coarse_shape)).ravel()
        cell = self.own[j]
        order = np.lexsort((j, -guess[j], cell))
        j, cell = j[order], cell[order]
        begin = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
        size = np.diff(np.r_[begin, cell.size])
        area = self.overlap.fine_area.ravel()[j]
        rate = DENSE * np.maximum(self.amount[cell], self.floor)
        count = np.floor(np.minimum(self.budget[cell] / (rate * area), np.repeat(size, size) / 2))
        rank = np.arange(j.size) - np.repeat(begin, size)
        return np.asarray(j[rank < np.maximum(count, 1)])
