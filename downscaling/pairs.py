"""Training pairs from fine rain alone: coarse fields by area averaging, crops by intensity, splits by weather event.

A crop's address is (source, time, row, column); the n-th sample of a seed is a function of seed and n alone, so a
stream can be restarted or dealt out among processes without a state. Crops are drawn by strata of their mean rain with
equal chance for every stratum that occurs, and carry the importance weight

    w = (N_s / N) S,      N_s crops of N in the stratum, S strata that occur,

so that weighted means estimate those of all crops and rain is learned more often without being made more frequent
(Ravuri et al. 2021, doi 10.1038/s41586-021-03854-z, sample by intensity likewise).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

__all__ = ["Crop", "CropIndex", "Pair", "PairStream", "coarse_grid", "make_pair", "split_events", "weather_events"]

import numpy as np
from numpy.typing import NDArray

from downscaling.overlap import MIN_SHARE, Grid, Overlap
from downscaling.sources.base import PrecipitationSource
from gen.data.cache import ArrayCache
from gen.grid import LatLonGrid
from gen.projected_grid import ProjectedGrid
from gen.seeding import derive_seed

Values = NDArray[np.float32]

EDGES = (0.002, 0.02, 0.1, 0.5, 2.0)  # mm/h of a crop's mean, between strata
VALID = 0.95  # share of a crop's pixels that must have values
CACHE_BYTES = 1 << 28
LARGEST_DENOMINATOR = 20


@dataclass(frozen=True)
class Crop:
    """Where a crop lies: number of the source, of the time, first row and column, and its stratum."""

    source: int
    time: int
    row: int
    column: int
    stratum: int = 0


@dataclass(frozen=True)
class Pair:
    """A fine field and its coarse one, in mm/h, NaN where missing.

    Args:
        fine: [Hf, Wf].
        coarse: [Hc, Wc]; NaN where too little of the cell is known.
        fine_grid: cells of the fine field.
        coarse_grid: cells of the coarse field; averaged pairs have the same outer edges, others any (`matched`).
        factor: width of coarse in fine cells.
        weight: importance weight of the sample.
        crop: its address.
        interval_hours: time over which the rain is averaged. time: end of that interval, if it is known.
        predictors: other coarse fields by name, on the coarse grid, in the units of their file.
    """

    fine: Values
    coarse: Values
    fine_grid: Grid
    coarse_grid: Grid
    factor: float
    weight: float = 1.0
    crop: Crop | None = None
    interval_hours: float = 0.0
    time: np.datetime64 | None = None
    predictors: Mapping[str, Values] = field(default_factory=dict)


def whole_cells(factor: float) -> int:
    """Return the least number of fine cells that is a whole number of coarse ones: 5 for 2.5.

    Raises:
        ValueError: when the factor is below one or no ratio of small numbers.
    """
    ratio = Fraction(factor).limit_denominator(LARGEST_DENOMINATOR)
    if factor < 1 or abs(float(ratio) - factor) > 1e-9:
        raise ValueError(
            f"factor must be at least 1 and a ratio with a denominator up to {LARGEST_DENOMINATOR}; got {factor:g}"
        )
    return ratio.numerator


def coarse_grid(fine: Grid, factor: float) -> Grid:
    """Return the whole coarse cells that fit on an evenly spaced fine grid, from its south-western corner on.

    Raises:
        ValueError: when the factor is below one or fewer than two cells fit.
    """
    whole_cells(factor)
    if isinstance(fine, ProjectedGrid):
        return fine.coarsen(factor)
    axes = []
    for axis in (fine.latitude, fine.longitude):
        step = (axis[-1] - axis[0]) / (axis.size - 1)
        count = int(np.floor(axis.size / factor + 1e-9))
        axes.append(axis[0] - step / 2 + step * factor * (np.arange(count) + 0.5))
    return LatLonGrid(axes[0], axes[1])


def make_pair(fine: Values, grid: Grid, factor: float, min_share: float = MIN_SHARE) -> Pair:
    """Average a fine field over coarse cells.

    Args:
        fine: [H, W] in mm/h, NaN where missing; rows and columns beyond the last whole coarse cell are cut off.
        grid: its cells, evenly spaced.
        factor: width of coarse in fine cells, whole or not.
        min_share: share of a coarse cell's area that must be known; others are NaN.

    Raises:
        ValueError: when shapes do not fit or fewer than two coarse cells fit each way.
    """
    if fine.shape != grid.shape:
        raise ValueError(f"a field of {fine.shape} does not lie on a grid of {grid.shape}")
    unit = whole_cells(factor)
    rows, columns = (slice(0, n - n % unit) for n in fine.shape)
    if min(rows.stop, columns.stop) < 2 * factor:
        raise ValueError(f"{fine.shape[0]}x{fine.shape[1]} fine cells hold no 2x2 coarse ones of factor {factor:g}")
    fine, grid = fine[rows, columns], _window(grid, rows, columns)
    coarse = coarse_grid(grid, factor)
    overlap = Overlap.between(coarse, grid, np.isfinite(fine), min_share)
    return Pair(fine, overlap.apply(fine).astype(np.float32), grid, coarse, factor)


def weather_events(times: np.ndarray, gap_hours: float = 24.0) -> list[NDArray[np.int64]]:
    """Return the numbers of the times of each event: runs that no gap longer than `gap_hours` interrupts.

    Args:
        times: [N] datetime64, ascending.
        gap_hours: weather further apart than this is another event.
    """
    hours = np.asarray(times).astype("datetime64[m]").astype(np.int64) / 60
    return list(np.split(np.arange(hours.size), np.flatnonzero(np.diff(hours) > gap_hours) + 1))


def split_events(names: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Deal events out to parts, such as training and test; an event is in one part only.

    Events are ordered by a hash of seed and name, so that the order of `names` does not matter, then cut into runs; a
    part with a share gets at least one event.

    Args:
        names: different names of events (files, dates).
        shares: share of each part; they sum to one.
        seed: another seed, another split.

    Raises:
        ValueError: when names repeat, shares do not sum to one, or there are fewer events than parts.
    """
    if len(set(names)) != len(names):
        raise ValueError("two events share a name: a split by event needs different ones")
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values(), default=0) <= 0:
        raise ValueError(f"shares must be positive and sum to 1; got {dict(shares)}")
    if len(names) < len(shares):
        raise ValueError(f"{len(names)} events cannot be dealt out to {len(shares)} parts")
    ordered = sorted(names, key=lambda name: (derive_seed("event", seed, name), name))
    cuts = np.round(np.cumsum(list(shares.values())) * len(names)).astype(int)
    for k in range(len(cuts)):  # at least one each, and enough left for those that follow
        cuts[k] = min(max(cuts[k], k + 1, cuts[k - 1] + 1 if k else 1), len(names) - (len(cuts) - 1 - k))
    starts = [0, *cuts[:-1].tolist()]
    return {part: ordered[a:b] for part, a, b in zip(shares, starts, cuts.tolist(), strict=True)}


@dataclass(frozen=True)
class CropIndex:
    """All crops of some fields, by stratum.

    Args:
        size: rows and columns of a crop.
        address: [N, 4] source, time, row, column.
        stratum: [N] number of the stratum.
        edges: mean rains between the strata, mm/h.
    """

    size: tuple[int, int]
    address: NDArray[np.int32]
    stratum: NDArray[np.int8]
    edges: tuple[float, ...] = EDGES

    @classmethod
    def build(
        cls,
        sources: Sequence[PrecipitationSource],
        size: tuple[int, int],
        *,
        times: Sequence[Sequence[int]] | None = None,
        stride: int | None = None,
        edges: Sequence[float] = EDGES,
        valid: float = VALID,
    ) -> CropIndex:
        """Read every field once and note the crops that have enough values.

        Args:
            sources: where the fields come from.
            size: rows and columns of a crop.
            times: numbers of the times to use, for each source; all by default. This is where a split by event enters.
            stride: step between crops, half the shorter side by default.
            edges: mean rains between the strata, mm/h, ascending.
            valid: share of pixels that must have values.

        Raises:
            ValueError: when no crop is found.
        """
        step = stride or max(1, min(size) // 2)
        found, strata = [np.empty((0, 4), np.int32)], [np.empty(0, np.int8)]
        for s, source in enumerate(sources):
            for t in range(len(source.times())) if times is None else times[s]:
                rows, columns, mean = _crops(source.read(t), size, step, valid)
                whole = np.stack([np.full_like(rows, s), np.full_like(rows, t), rows, columns], axis=1)
                found.append(whole.astype(np.int32))
                strata.append(np.searchsorted(edges, mean, side="right").astype(np.int8))
        address = np.concatenate(found)
        if not len(address):
            raise ValueError(f"no crop of {size[0]}x{size[1]} with {valid:.0%} of its pixels known in any field")
        return cls(size, address, np.concatenate(strata), tuple(edges))

    def counts(self) -> NDArray[np.int64]:
        """Return the number of crops in each stratum."""
        return np.bincount(self.stratum, minlength=len(self.edges) + 1)

    @cached_property
    def _strata(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[np.int64]]]:
        """Return the number of crops in each stratum, the strata that occur, and the crops of each."""
        counts = self.counts()
        return counts, np.flatnonzero(counts), [np.flatnonzero(self.stratum == s) for s in range(counts.size)]

    def draw(self, seed: int, number: int) -> tuple[Crop, float]:
        """Return the n-th crop of a seed and its importance weight."""
        random = np.random.Generator(np.random.Philox(key=derive_seed("crop", seed, number)))
        counts, strata, ordered = self._strata
        stratum = int(strata[random.integers(strata.size)])
        members = ordered[stratum]
        place = self.address[members[random.integers(members.size)]]
        weight = float(counts[stratum] / counts.sum() * strata.size)
        source, time, row, column = place.tolist()
        return Crop(source, time, row, column, stratum), weight


class PairStream:
    """An endless stream of pairs, each a function of the seed and its number.

    Args:
        sources: where the fields come from, as the index knows them.
        index: the crops.
        factor: width of coarse in fine cells.
        seed: seed of the stream.
        start: number of the first pair.
        step: difference of numbers, the number of processes when each takes its own part.
        min_share: share of a coarse cell's area that must be known.

    Raises:
        ValueError: when the crops are no whole number of coarse cells.
    """

    def __init__(
        self,
        sources: Sequence[PrecipitationSource],
        index: CropIndex,
        factor: float,
        *,
        seed: int,
        start: int = 0,
        step: int = 1,
        min_share: float = MIN_SHARE,
    ) -> None:
        """Check that crops and factor fit."""
        unit = whole_cells(factor)
        if any(n % unit or n < 2 * factor for n in index.size):
            raise ValueError(
                f"crops of {index.size[0]}x{index.size[1]} are no whole number of coarse cells of factor {factor:g}; "
                f"take multiples of {unit}"
            )
        self._sources, self._index, self._factor = list(sources), index, factor
        self._seed, self._start, self._step, self._share = seed, start, step, min_share
        self._cache = ArrayCache(CACHE_BYTES)

    def sample(self, number: int) -> Pair:
        """Return the n-th pair."""
        crop, weight = self._index.draw(self._seed, number)
        source = self._sources[crop.source]
        field = self._cache.get((crop.source, crop.time), lambda: source.read(crop.time))
        rows, columns = (slice(a, a + n) for a, n in zip((crop.row, crop.column), self._index.size, strict=True))
        pair = make_pair(field[rows, columns], _window(source.grid, rows, columns), self._factor, self._share)
        hours, time = float(source.interval_hours), source.times()[crop.time]
        return replace(pair, weight=weight, crop=crop, interval_hours=hours, time=time)

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs from `start` on."""
        number = self._start
        while True:
            yield self.sample(number)
            number += self._step


def _window(grid: Grid, rows: slice, columns: slice) -> Grid:
    if isinstance(grid, ProjectedGrid):
        return grid.window(rows, columns)
    return LatLonGrid(grid.latitude[rows], grid.longitude[columns])


def _crops(
    field: Values, size: tuple[int, int], step: int, valid: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return rows, columns and mean rain of the crops with enough values, by summed-area tables."""
    known = np.isfinite(field)
    total, count = (_window_sums(x, size, step) for x in (np.where(known, field, 0.0), known))
    rows, columns = np.nonzero(count >= valid * size[0] * size[1])
    mean = total[rows, columns] / np.maximum(count[rows, columns], 1)
    return rows * step, columns * step, mean


def _window_sums(field: np.ndarray, size: tuple[int, int], step: int) -> NDArray[np.float64]:
    """Return the sums over all windows that fit, every `step` rows and columns."""
    table = np.zeros((field.shape[0] + 1, field.shape[1] + 1))
    np.cumsum(np.cumsum(field, axis=0, dtype=np.float64), axis=1, out=table[1:, 1:])
    first = [np.arange(0, max(n - k + 1, 0), step) for n, k in zip(field.shape, size, strict=True)]
    (a, b), (h, w) = first, size
    return table[np.ix_(a + h, b + w)] - table[np.ix_(a, b + w)] - table[np.ix_(a + h, b)] + table[np.ix_(a, b)]
