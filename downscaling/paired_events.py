"""Training on pairs of two data sets: input and target at the same times, crops where both have values.

Crops are drawn by strata of the mean of the *input*. What a model learns is the law of the fine rain given the input,
and that law is kept when crops are chosen by the input, not when they are chosen by the target, which the input does
not determine here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

__all__ = ["InputRain", "PairedSource", "PairedStream", "crop_index", "open_paired", "predictors_over"]

import numpy as np
from numpy.typing import NDArray

from downscaling.paired import cell_positions, centre_cells, matched, window
from downscaling.pairs import CACHE_BYTES, CropIndex, Pair
from downscaling.predictors import PredictorMaps, maps_of, open_predictors
from downscaling.sources.base import Grid, PrecipitationSource
from downscaling.sources.opening import open_precipitation
from downscaling.sources.rainshift import open_rainshift, region_folders
from gen.data.cache import ArrayCache
from gen.data.sources import SourceError
from gen.seeding import derive_seed

Values = NDArray[np.float32]


@dataclass(frozen=True)
class PairedSource:
    """Fine and coarse rain of one place.

    Args:
        fine: the target. coarse: the input.
        times: [N, 2] numbers of the times that both have, in the target and in the input.
        maps: predictors on the grid of the input, None if there are none.
    """

    fine: PrecipitationSource
    coarse: PrecipitationSource
    times: NDArray[np.int64]
    maps: PredictorMaps | None = None

    @cached_property
    def factor(self) -> float:
        """Return the width of coarse in fine cells."""
        places = cell_positions(self.coarse.grid, self.fine.grid)[0]
        return float(np.round((places.size - 1) / (places[-1] - places[0]), 6))


class InputRain:
    """The input on the pixels of the target, by which crops are sorted into strata; NaN where either is missing.

    Args:
        source: of which the input is shown.
    """

    def __init__(self, source: PairedSource) -> None:
        self.source, self.grid = source, source.fine.grid
        self.cells = centre_cells(source.coarse.grid, source.fine.grid)

    def times(self) -> np.ndarray:
        """Return the times that both have."""
        return np.asarray(self.source.fine.times()[self.source.times[:, 0]])

    def read(self, index: int, member: int = 0) -> Values:
        """Return the rates [H, W] in mm/h."""
        fine, coarse = self.source.times[index].tolist()
        near = self.source.coarse.read(coarse)[np.ix_(*self.cells)]
        return np.where(np.isfinite(self.source.fine.read(fine)), near, np.float32(np.nan))


class PairedStream:
    """An endless stream of pairs, each a function of the seed and its number (see `downscaling.pairs.PairStream`).

    Args:
        sources: where the fields come from. index: crops by strata of the input. seed: of the stream.
    """

    def __init__(self, sources: Sequence[PairedSource], index: CropIndex, *, seed: int) -> None:
        self._sources, self._index, self._seed = list(sources), index, derive_seed("paired", seed)
        self._cache = ArrayCache(CACHE_BYTES)

    def sample(self, number: int) -> Pair:
        """Return the n-th pair."""
        crop, weight = self._index.draw(self._seed, number)
        source = self._sources[crop.source]
        first, second = source.times[crop.time].tolist()
        fine = self._cache.get(("fine", crop.source, first), lambda: source.fine.read(first))
        coarse = self._cache.get(("coarse", crop.source, second), lambda: source.coarse.read(second))
        rows, columns = (slice(a, a + n) for a, n in zip((crop.row, crop.column), self._index.size, strict=True))
        pair = matched(fine[rows, columns], window(source.fine.grid, rows, columns), coarse, source.coarse.grid)
        time = source.fine.times()[source.times[crop.time, 0]]
        return dataclasses.replace(
            pair,
            factor=source.factor,
            weight=weight,
            crop=crop,
            interval_hours=float(source.fine.interval_hours),
            time=time,
            predictors=predictors_over(source.maps, time, pair.coarse_grid),
        )


def predictors_over(maps: PredictorMaps | None, time: np.datetime64, grid: Grid) -> dict[str, Values]:
    """Return the predictors on the cells of a part of their grid, as they are in the file; empty if there are none."""
    if maps is None:
        return {}
    rows, columns = (slice(int(p[0]), int(p[0]) + p.size) for p in cell_positions(maps.grid, grid))
    return {name: values[rows, columns] for name, values in maps.at(time).items()}


def open_paired(
    path: str | Path | None = None,
    coarse: str | Path | None = None,
    rainshift: str | Path | None = None,
    regions: Sequence[str] = (),
    split: Literal["train", "test"] = "train",
    every: int = 1,
    predictors: Sequence[str] = (),
) -> list[PairedSource]:
    """Open pairs of rain.

    Args:
        path: file of fine rain.
        coarse: file of coarse rain.
        rainshift: folder of RainShift instead of these.
        regions: names, all that are there by default.
        split: which part.
        every: every n-th of the times that both have.
        predictors: names of predictors in the file of the coarse rain; pairs have all of them or, if one is missing in
            a plain file, none. RainShift must have them.

    Raises:
        SourceError: files that cannot be read, or have no time in common.
    """
    if (rainshift is None) == (path is None or coarse is None):
        raise SourceError("pairs need either rainshift, or path and coarse")
    if rainshift is not None:
        found = []
        for folder in region_folders(rainshift, regions).values():
            store = open_rainshift(folder, split)
            maps = maps_of(store.inputs, f"{folder.name}/{split}_data_in", predictors) if predictors else None
            found.append(_paired(store.fine, store.coarse, every, maps))
        return found
    maps, _ = open_predictors(Path(str(coarse)), predictors)
    return [_paired(open_precipitation(str(path)), open_precipitation(str(coarse)), every, maps)]


def _paired(
    fine: PrecipitationSource, coarse: PrecipitationSource, every: int, maps: PredictorMaps | None
) -> PairedSource:
    _, first, second = np.intersect1d(fine.times(), coarse.times(), return_indices=True)
    if not first.size:
        raise SourceError(
            f"{fine.name} and {coarse.name} have no time in common: {fine.times()[0]} to {fine.times()[-1]} and "
            f"{coarse.times()[0]} to {coarse.times()[-1]}"
        )
    if fine.interval_hours != coarse.interval_hours:
        raise SourceError(
            f"{fine.name} is averaged over {fine.interval_hours:g} h and {coarse.name} over {coarse.interval_hours:g} h"
        )
    return PairedSource(fine, coarse, np.stack([first, second], axis=1)[::every].astype(np.int64), maps)


def crop_index(sources: Sequence[PairedSource], crop: int) -> CropIndex:
    """Return the crops of pairs, by strata of the mean of the input."""
    inputs: list[Any] = [InputRain(s) for s in sources]
    return CropIndex.build(inputs, (crop, crop))
