"""Cases of RainShift to score: whole boxes of regions, hour by hour, with the input and the truth of two data sets.

The input rain is a reanalysis and the truth a satellite product (Harder et al. 2025, arXiv:2507.04930), so that nothing
is averaged here: pairs are what the stores hold. Input rain may be aligned with a model's training rates first, by its
own statistics alone (`downscaling.transfer`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

__all__ = ["RegionCases", "chosen_times"]

import numpy as np
from numpy.typing import NDArray

from downscaling.conditions import place_km
from downscaling.drawing import Case
from downscaling.model import DownscalingMeta
from downscaling.paired import cell_positions, matched, window
from downscaling.paired_events import predictors_over
from downscaling.pairs import Crop, Pair
from downscaling.predictors import Predictor, PredictorMaps, maps_of
from downscaling.request import parse_time
from downscaling.scenes import spacing_km
from downscaling.score_summary import day_of
from downscaling.sources.rainshift import RainShiftStore, open_rainshift, region_folders
from downscaling.transfer import Align, Transfer, rain_quantiles

Values = NDArray[np.float32]

CHECKED = 512  # maps that the statistics of an input are taken from


def chosen_times(ends: np.ndarray, times: Sequence[str] = (), days: int | None = None) -> NDArray[np.int64]:
    """Return the numbers of the wanted times.

    Args:
        ends: [N] datetime64[m], ends of the hours.
        times: days, times or ranges "A..B"; all by default.
        days: number of whole days to take, evenly spread over those that remain; all by default.

    Raises:
        ValueError: a wanted time is not there, or there are fewer days.
    """
    keep = np.ones(ends.size, bool)
    if times:
        spans = [parse_time(text) for text in times]
        found = [(ends >= first) & (ends <= last) for first, last in spans]
        if missing := [text for text, f in zip(times, found, strict=True) if not f.any()]:
            raise ValueError(f"there is no time {missing[0]}; there are {ends[0]} to {ends[-1]}")
        keep = np.any(found, axis=0)
    if days is not None:
        there, hours = np.unique(day_of(ends[keep]), return_counts=True)
        there = there[2 * hours > hours.max()]  # a day is not an hour that ends at midnight
        if there.size < days:
            raise ValueError(f"{days} days are wanted and {there.size} are there")
        picked = there[np.unique(np.linspace(0, there.size - 1, days).round().astype(int))]
        keep &= np.isin(day_of(ends), picked)
    return np.flatnonzero(keep)


class RegionCases:
    """Whole boxes of some regions at some times (see `downscaling.drawing.CaseList`); one hour is held at a time.

    Args:
        root: of the data. regions: see `region_folders`. split: "train" or "test".
        times, days: see `chosen_times`.
        unit: pixels that the sides of a field must be multiples of; rows and columns beyond are cut off.
        predictors: of the model, taken from the inputs.

    Raises:
        ValueError: nothing that can be read or scored.
    """

    def __init__(
        self,
        root: str | Path,
        regions: Sequence[str] = (),
        split: Literal["train", "test"] = "test",
        times: Sequence[str] = (),
        days: int | None = None,
        unit: int = 1,
        predictors: Sequence[Predictor] = (),
    ) -> None:
        """Open the stores and list the cases, region by region."""
        folders = region_folders(root, regions)
        self.names = list(folders)
        self.stores: list[RainShiftStore] = [open_rainshift(path, split) for path in folders.values()]
        self.unit, self.maps = unit, [self._maps(k, predictors) for k in range(len(self.names))]
        self.numbers = [chosen_times(store.fine.times(), times, days) for store in self.stores]
        self.cases = [
            Case(name, Crop(k, int(t), 0, 0), self.factor(k))
            for k, name in enumerate(self.names)
            for t in self.numbers[k]
        ]

    def _maps(self, number: int, predictors: Sequence[Predictor]) -> PredictorMaps | None:
        if not predictors:
            return None
        found = maps_of(self.stores[number].inputs, f"the input of {self.names[number]}", [p.name for p in predictors])
        found.check(predictors)
        return found

    def thin(self, count: int) -> None:
        """Keep `count` cases of each region, evenly spread over its times."""
        kept = []
        for k in range(len(self.stores)):
            own = [c for c in self.cases if c.crop.source == k]
            kept += [own[i] for i in np.unique(np.linspace(0, len(own) - 1, min(count, len(own))).astype(int))]
        self.cases = kept

    def factor(self, number: int) -> float:
        """Return the ratio of the spacings of a region's grids."""
        store = self.stores[number]
        places = cell_positions(store.coarse.grid, store.fine.grid)[0]
        return float(np.round((places.size - 1) / (places[-1] - places[0]), 6))

    def pair(self, case: Case) -> Pair:
        """Return the truth and the input of a case."""
        store, number = self.stores[case.crop.source], case.crop.time
        rows, columns = (slice(0, n - n % self.unit) for n in store.fine.grid.shape)
        grid = window(store.fine.grid, rows, columns)
        fine = store.fine.read(number)[rows, columns]
        found = matched(fine, grid, store.coarse.read(number), store.coarse.grid)
        return dataclasses.replace(
            found,
            factor=case.factor,
            crop=case.crop,
            interval_hours=store.fine.interval_hours,
            time=self.time(case),
            predictors=predictors_over(self.maps[case.crop.source], self.time(case), found.coarse_grid),
        )

    def time(self, case: Case) -> np.datetime64:
        """Return the end of the hour."""
        found: np.datetime64 = self.stores[case.crop.source].fine.times()[case.crop.time]
        return found

    def transfers(self, meta: DownscalingMeta, align: Align) -> list[Transfer]:
        """Compare the input rain of every region with a model's training; statistics of the truth do not enter."""
        found = []
        for k, store in enumerate(self.stores):
            numbers = self.numbers[k]
            looked = numbers[np.unique(np.linspace(0, numbers.size - 1, min(numbers.size, CHECKED)).astype(int))]
            found.append(
                Transfer.fit(
                    rain_quantiles(store.coarse.read(int(i)) for i in looked),
                    meta,
                    align,
                    int(numbers.size),
                    factors=self.factor(k),
                    spacing_km=spacing_km(place_km(store.fine.grid)),
                    interval_hours=store.coarse.interval_hours,
                )
            )
        return found
