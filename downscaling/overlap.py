"""The area-overlap operator: means of a fine field over coarse cells, whatever the factor.

For coarse cell i and fine cell j let w_ij be the area of their overlap and m_j one where the fine field has a value.
The operator and its transpose,

    (A y)_i = sum_j w_ij m_j y_j / W_i,    (A^T c)_j = m_j sum_i w_ij c_i / W_i,    W_i = sum_j w_ij m_j,

are never formed as matrices: on latitude-longitude grids overlaps are products of one length in sin(latitude) and one
in longitude, on map planes of two plain lengths (Jones 1999, doi 10.1175/1520-0493(1999)127<2204:FASOCR>2.0.CO;2).
A coarse cell is active when at least a share `min_share` of its area carries values; others are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

__all__ = ["Grid", "Overlap"]

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid

Array = NDArray[np.float64]
Grid = LatLonGrid | ProjectedGrid

MIN_SHARE = 0.5
DIGITS = 9  # of weights of interpolation, so that they do not depend on where counting begins
SLIVER = 1e-6  # of a fine cell: less is the rounding of positions, as in `downscaling.lattice`
WHOLE = 1 - 1e-9  # share from which a fine cell lies wholly inside a coarse one


@dataclass(frozen=True, eq=False)
class Overlap:
    """Overlaps of two grids, row lengths times column lengths.

    Args:
        rows: [Hc, Hf] overlap lengths of coarse and fine rows.
        columns: [Wc, Wf] overlap lengths of coarse and fine columns.
        height: [Hc] lengths of whole coarse rows, of which the fine grid may cover a part.
        width: [Wc] lengths of whole coarse columns.
        valid: [Hf, Wf] where the fine field has values; everywhere by default.
        min_share: share of a coarse cell's area that must carry values, in (0, 1].
        places: centres of the fine rows [Hf] and columns [Wf], counted in coarse cells from the first edge on.
    """

    rows: csr_array
    columns: csr_array
    height: Array
    width: Array
    valid: NDArray[np.bool_] = field(default_factory=lambda: np.ones((0, 0), bool))
    min_share: float = MIN_SHARE
    places: tuple[Array, Array] = (np.zeros(0), np.zeros(0))

    def __post_init__(self) -> None:
        """Fill in the default mask and check it."""
        if self.valid.size == 0:
            object.__setattr__(self, "valid", np.ones(self.fine_shape, bool))
        if self.valid.shape != self.fine_shape:
            raise ValueError(f"the mask has shape {self.valid.shape}; the fine grid {self.fine_shape}")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"min_share must be in (0, 1]; got {self.min_share:g}")

    @classmethod
    def between(
        cls, coarse: Grid, fine: Grid, valid: NDArray[np.bool_] | None = None, min_share: float = MIN_SHARE
    ) -> Overlap:
        """Overlap two grids of the same kind.

        Raises:
            ValueError: when one is projected and the other not, the projections differ, or the fine cells are wider.
        """
        (rows_c, columns_c), (rows_f, columns_f) = _edges(coarse), _edges(fine)
        if type(coarse) is not type(fine) or getattr(coarse, "crs", None) != getattr(fine, "crs", None):
            raise ValueError("coarse and fine grid must share their projection; regrid the coarse field first")
        period = 360.0 if isinstance(coarse, LatLonGrid) else None
        return cls.from_edges((rows_c, columns_c), (rows_f, columns_f), period, valid, min_share)

    @classmethod
    def from_edges(
        cls,
        coarse: tuple[Array, Array],
        fine: tuple[Array, Array],
        period: float | None = None,
        valid: NDArray[np.bool_] | None = None,
        min_share: float = MIN_SHARE,
    ) -> Overlap:
        """Overlap cells between ascending (row edges, column edges); columns repeat after `period`.

        Raises:
            ValueError: when the fine cells are wider than the coarse ones (a factor below one).
        """
        for name, c, f in zip(("rows", "columns"), coarse, fine, strict=True):
            factor = np.diff(c).mean() / np.diff(f).mean()
            if factor < 1 - 1e-6:
                raise ValueError(f"the fine {name} are wider than the coarse ones: the factor {factor:.3g} is below 1")
        pair = _lengths(coarse[0], fine[0], None), _lengths(coarse[1], fine[1], period)
        mask = np.ones((0, 0), bool) if valid is None else np.asarray(valid, bool)
        places = _places(coarse[0], fine[0], None), _places(coarse[1], fine[1], period)
        return cls(*pair, np.diff(coarse[0]), np.diff(coarse[1]), mask, min_share, places)

    @classmethod
    def by_factor(
        cls,
        fine_shape: tuple[int, int],
        factor: float,
        valid: NDArray[np.bool_] | None = None,
        min_share: float = MIN_SHARE,
    ) -> Overlap:
        """Overlap square fine cells with coarse ones `factor` times as wide, whole ones from the first corner on."""
        edges = [factor * np.arange(int(np.floor(n / factor + 1e-9)) + 1, dtype=np.float64) for n in fine_shape]
        if min(e.size for e in edges) < 2:
            raise ValueError(f"no coarse cell of {factor:g} fits into {fine_shape[0]}x{fine_shape[1]} fine ones")
        fine = [np.arange(n + 1, dtype=np.float64) for n in fine_shape]
        return cls.from_edges((edges[0], edges[1]), (fine[0], fine[1]), None, valid, min_share)

    @property
    def coarse_shape(self) -> tuple[int, int]:
        """Return (rows, columns) of the coarse grid."""
        return self.rows.shape[0], self.columns.shape[0]

    @property
    def fine_shape(self) -> tuple[int, int]:
        """Return (rows, columns) of the fine grid."""
        return self.rows.shape[1], self.columns.shape[1]

    @cached_property
    def coarse_area(self) -> Array:
        """Return W [Hc, Wc]: the area of each coarse cell that carries values."""
        return self.spread_sum(self.valid.astype(np.float64))

    @cached_property
    def fine_area(self) -> Array:
        """Return the area of each fine cell [Hf, Wf] that lies in any coarse cell."""
        return np.outer(self.rows.sum(axis=0), self.columns.sum(axis=0))

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """Return which coarse cells [Hc, Wc] have values on enough of their area."""
        return self.coarse_area >= self.min_share * np.outer(self.height, self.width) * WHOLE

    @cached_property
    def is_nested(self) -> bool:
        """Return whether no fine cell is cut by the edge of a coarse one."""
        return all(np.diff(m.tocsc().indptr).max(initial=0) <= 1 for m in (self.rows, self.columns))

    def masked(self, valid: NDArray[np.bool_]) -> Overlap:
        """Return the same overlaps for a field with other missing pixels."""
        return replace(self, valid=np.asarray(valid, bool))

    def spread_sum(self, fine: Array) -> Array:
        """Return sum_j w_ij x_j [..., Hc, Wc] of x [..., Hf, Wf]."""
        return _both(self.rows, self.columns, fine)

    def gather_sum(self, coarse: Array) -> Array:
        """Return sum_i w_ij x_i [..., Hf, Wf] of x [..., Hc, Wc]."""
        return _both(self.rows.T.tocsr(), self.columns.T.tocsr(), coarse)

    def apply(self, fine: ArrayLike) -> Array:
        """Return A y: means [..., Hc, Wc] over the valid part of each active coarse cell, NaN in others."""
        total = self.spread_sum(np.where(self.valid, np.asarray(fine, np.float64), 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.active, total / self.coarse_area, np.nan)

    def transpose(self, coarse: ArrayLike) -> Array:
        """Return A^T c [..., Hf, Wf]; inactive cells count nothing."""
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = np.where(self.active, np.asarray(coarse, np.float64) / self.coarse_area, 0.0)
        return np.where(self.valid, self.gather_sum(scaled), 0.0)

    def touched_by(self, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which fine cells [Hf, Wf] overlap any of the coarse `cells` [Hc, Wc]."""
        return self.gather_sum(cells.astype(np.float64)) > 0

    @cached_property
    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Return (coarse cell, valid fine cell, area) of all overlaps, cells as flat numbers."""
        rows, columns = self.rows.tocoo(), self.columns.tocoo()
        i = rows.row[:, None] * self.coarse_shape[1] + columns.row[None, :]
        j = rows.col[:, None] * self.fine_shape[1] + columns.col[None, :]
        keep = self.valid.ravel()[j]
        return i[keep].astype(np.int64), j[keep].astype(np.int64), np.outer(rows.data, columns.data)[keep]

    def interpolate(self, coarse: Array) -> Array:
        """Return values [..., Hf, Wf] interpolated linearly between the centres of coarse cells, the outermost held.

        Args:
            coarse: [..., Hc, Wc]; overlaps that were made by `from_edges` know where its centres are.
        """
        rows, columns = (_linear(p, n) for p, n in zip(self.places, self.coarse_shape, strict=True))
        return _both(rows, columns, coarse)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """Return the number of the only coarse cell that each fine cell [Hf, Wf] touches, -1 for several or none."""
        row, column = _only(self.rows), _only(self.columns)
        inside = (row[:, None] >= 0) & (column[None, :] >= 0)
        return np.where(inside, row[:, None] * self.coarse_shape[1] + column[None, :], -1)


def _edges(grid: Grid) -> tuple[Array, Array]:
    """Return row and column edges in measures whose product is area: sin(latitude) and degrees, or metres."""
    if isinstance(grid, LatLonGrid):
        return np.sin(np.deg2rad(grid.latitude_bounds())), grid.longitude_bounds()
    return grid.y_bounds(), grid.x_bounds()


def _lengths(coarse: Array, fine: Array, period: float | None) -> csr_array:
    """Return the overlap lengths [n_coarse, n_fine] of two sets of intervals; slivers are none."""
    shape = coarse.size - 1, fine.size - 1
    total = csr_array(shape, dtype=np.float64)
    for shift in (0.0,) if period is None else (-2 * period, -period, 0.0, period, 2 * period):
        moved = fine + shift
        first = np.searchsorted(coarse, moved[:-1], side="right") - 1
        last = np.searchsorted(coarse, moved[1:], side="left")
        count = np.clip(np.minimum(last, shape[0]) - np.maximum(first, 0), 0, None)
        j = np.repeat(np.arange(shape[1]), count)
        i = np.repeat(np.maximum(first, 0), count) + _counting(count)
        length = np.minimum(coarse[i + 1], moved[j + 1]) - np.maximum(coarse[i], moved[j])
        keep = length > SLIVER * (fine[j + 1] - fine[j])
        total = total + csr_array((length[keep], (i[keep], j[keep])), shape=shape)
    return csr_array(total)


def _places(coarse: Array, fine: Array, period: float | None) -> Array:
    """Return the centres of fine intervals in coarse intervals, those of a circle after the first coarse edge."""
    centres = (fine[1:] + fine[:-1]) / 2
    centres = centres if period is None else coarse[0] + np.mod(centres - coarse[0], period)
    return np.interp(centres, coarse, np.arange(coarse.size, dtype=np.float64))


def _linear(places: Array, count: int) -> csr_array:
    """Return the weights [n_fine, n_coarse] of linear interpolation between coarse centres."""
    low = np.clip(np.floor(places - 0.5).astype(np.int64), 0, max(count - 2, 0))
    high, part = np.minimum(low + 1, count - 1), np.round(np.clip(places - 0.5 - low, 0.0, 1.0), DIGITS)
    fine = np.arange(places.size)
    weights = np.concatenate([1 - part, part]), (np.concatenate([fine, fine]), np.concatenate([low, high]))
    return csr_array(weights, shape=(places.size, count))


def _counting(count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, ... count[0]-1, 0, 1, ... count[1]-1, and so on."""
    return np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)


def _only(lengths: csr_array) -> NDArray[np.int64]:
    """Return the one coarse number that each fine cell touches, -1 for several or none."""
    by_fine = lengths.tocsc()
    count = np.diff(by_fine.indptr)
    out = np.full(count.size, -1, np.int64)
    out[count == 1] = by_fine.indices[by_fine.indptr[:-1][count == 1]]
    return out


def _both(rows: csr_array, columns: csr_array, values: Array) -> Array:
    """Return rows @ values @ columns^T over the last two axes."""
    lead = values.shape[:-2]
    flat = values.reshape(-1, *values.shape[-2:])
    out = np.empty((flat.shape[0], rows.shape[0], columns.shape[0]))
    for k, field_ in enumerate(flat):
        out[k] = (columns @ (rows @ field_).T).T
    return out.reshape(*lead, *out.shape[1:])
