"""Compute the statistics of one start date: ensemble, baselines and reference against the truth.

Fields are read a block of lead times and one channel at a time, so memory depends on neither the number of start dates
nor, beyond a budget, on members and leads. All systems go through the same functions, with the same truth and weights.
"""

from __future__ import annotations

__all__ = ["Climatology", "Scorer", "Truth", "region_weights"]

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen.data.variables import Channel
from gen.grid import LatLonGrid, Region, regrid
from gen.metrics.base import area_mean
from gen.metrics.deterministic import deterministic_statistics
from gen.metrics.ensemble import brier_score, ensemble_statistics, quantile
from gen.metrics.spectra import SphericalHarmonics
from gen.metrics.stores import ForecastFiles

SEA_ONLY = ("sea_surface_temperature",)  # NaN over land, where forecast and truth need not agree on the coast
BYTES_PER_BLOCK = 256 << 20
BYTES_OF_CACHE = 256 << 20


class Truth:
    """Analyses on the grid of the forecast; a time that the source does not have is all NaN.

    Args:
        source: a `gen.data.sources.Source`.
        channels: C channels to read.
        grid: grid of the result.
    """

    def __init__(self, source: Any, channels: Sequence[Channel], grid: LatLonGrid) -> None:
        self.source, self.channels, self.grid = source, tuple(channels), grid
        self._times = np.asarray(source.times()).astype("datetime64[h]")
        self.bytes_per_state = 4 * len(self.channels) * int(np.prod(grid.shape))
        self._frame = lru_cache(maxsize=max(1, BYTES_OF_CACHE // self.bytes_per_state))(self._load)

    def has(self, times: np.ndarray) -> np.ndarray:
        """Return which of the times the source has."""
        return np.isin(times, self._times)

    def read(self, times: np.ndarray) -> Tensor:
        """Return the states float64 [T, C, H, W]."""
        return torch.stack([self._frame(time) for time in times]).double()

    def _load(self, time: np.datetime64) -> Tensor:
        if not self.has(np.array([time]))[0]:
            return torch.full((len(self.channels), *self.grid.shape), torch.nan)
        values: Tensor = self.source.read(time, self.channels, self.grid).values
        return values.float()


class Climatology:
    """What is normal at a valid time: `members(time)` are `count` states [n, C, H, W], the last ones kept in memory.

    Args:
        load: returns the states of one valid time.
        count: number of states n; one is a deterministic climatology.
        bytes_per_state: size of one state [C, H, W], for the limit of the memory.
    """

    def __init__(self, load: Callable[[np.datetime64], Tensor], count: int, bytes_per_state: int) -> None:
        self.count = count
        self.members = lru_cache(maxsize=max(1, BYTES_OF_CACHE // (count * bytes_per_state)))(load)

    @classmethod
    def of_states(
        cls, source: Any, truth: Truth, *, years: Sequence[int], members: int = 50, window_days: int = 10
    ) -> Climatology:
        """Take states of `years` at the same hour, within `window_days` of the same calendar day."""
        from gen.data.climatology import climatology_members

        def load(time: np.datetime64) -> Tensor:
            return climatology_members(source, time, truth.channels, members, window_days, years, truth.grid)

        return cls(load, members, truth.bytes_per_state)

    @classmethod
    def of_means(cls, path: Path, truth: Truth) -> Climatology:
        """Take the fitted daily mean that `gen data climatology` wrote."""
        from gen.data.climatology import DailyClimatology

        daily = DailyClimatology.open(path)

        def load(time: np.datetime64) -> Tensor:
            return torch.as_tensor(regrid(daily.mean(time, truth.channels).values, daily.grid, truth.grid))[None]

        return cls(load, 1, truth.bytes_per_state)


class Scorer:
    """Score start dates one after another.

    Args:
        forecast: the forecasts.
        truth: analyses of the same channels on the same grid.
        leads: [L] timedelta64[h].
        weights: [H, W] cell areas, zero outside the region.
        persistence: score the state at the start as a forecast.
        climatology: score it, and use its quantiles as events of the Brier score.
        reference: another ensemble, scored where it has the start date and lead.
        quantiles: E quantiles of the local climatology whose exceedance is an event.
        harmonics: transform for the spectra; None leaves them out.
    """

    def __init__(
        self,
        forecast: ForecastFiles,
        truth: Truth,
        leads: np.ndarray,
        weights: Tensor,
        *,
        persistence: bool = True,
        climatology: Climatology | None = None,
        reference: ForecastFiles | None = None,
        quantiles: Sequence[float] = (),
        harmonics: SphericalHarmonics | None = None,
    ) -> None:
        self.forecast, self.truth, self.leads, self.weights = forecast, truth, leads, weights
        self.persistence, self.climatology, self.reference = persistence, climatology, reference
        self.quantiles = torch.tensor(tuple(quantiles), dtype=torch.float64)
        self.harmonics = harmonics

    def score(self, init: np.datetime64) -> dict[str, np.ndarray]:
        """Return the statistics "system/statistic" [L, C, ...] of one start date."""
        blocks = [self._block(init, leads) for leads in self._lead_blocks()]
        return {name: torch.cat([b[name] for b in blocks]).numpy() for name in blocks[0]}

    def _lead_blocks(self) -> Iterator[np.ndarray]:
        members = max([self.forecast.members] + ([self.reference.members] if self.reference else []))
        size = max(1, BYTES_PER_BLOCK // (3 * 8 * members * int(np.prod(self.truth.grid.shape))))
        yield from (self.leads[k : k + size] for k in range(0, self.leads.size, size))

    def _block(self, init: np.datetime64, leads: np.ndarray) -> dict[str, Tensor]:
        truth = self._common(init, leads, self.truth.read(init + leads))
        out, thresholds = self._climatology(init + leads, truth) if self.climatology else ({}, None)
        if self.persistence:
            start = self.truth.read(np.array([init])).expand_as(truth)
            named = deterministic_statistics(start, truth, self.weights)
            out |= {f"persistence/{k}": v for k, v in named.items()}
        if self.harmonics:
            out["truth/power"] = self.harmonics.power(truth)
        for system, files in (("model", self.forecast), ("reference", self.reference)):
            if files:
                rows = [self._ensemble(files, init, leads, c, truth, thresholds) for c in range(truth.shape[1])]
                out |= {f"{system}/{k}": torch.stack([row[k] for row in rows], dim=1) for k in rows[0]}
        return out

    def _climatology(self, times: np.ndarray, truth: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the climatology's statistics and the thresholds of events [L, E, C, H, W]."""
        assert self.climatology is not None
        rows, thresholds = [], []
        for time, y in zip(times, truth, strict=True):
            states = self.climatology.members(time).double()
            row = ensemble_statistics(states, y, self.weights)
            if self.quantiles.numel():
                thresholds.append(quantile(states, self.quantiles))
                row["brier"] = self._brier(states, y, thresholds[-1])
            rows.append(row)
        named = {f"climatology/{k}": torch.stack([r[k] for r in rows]) for k in rows[0]}
        return named, torch.stack(thresholds) if thresholds else None

    def _ensemble(
        self,
        files: ForecastFiles,
        init: np.datetime64,
        leads: np.ndarray,
        c: int,
        truth: Tensor,
        thresholds: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the statistics [L, ...] of one channel of one ensemble."""
        members, y = self._read(files, init, leads, self.truth.channels[c], truth[:, c])
        named = ensemble_statistics(members, y, self.weights)
        if thresholds is not None:
            per_lead = [self._brier(members[:, k], y[k], thresholds[k, :, c]) for k in range(len(leads))]
            named["brier"] = torch.stack(per_lead)
        if self.harmonics:
            named["power"] = self.harmonics.power(members).mean(dim=0)
        return named

    def _common(self, init: np.datetime64, leads: np.ndarray, truth: Tensor) -> Tensor:
        """Leave out of the truth [L, C, H, W] the land of every forecast: all systems are scored on the same sea."""
        for c, channel in enumerate(self.truth.channels):
            for files in (self.forecast, self.reference) if channel.name in SEA_ONLY else ():
                if files:
                    members, here = self._members(files, init, leads, channel)
                    sea = truth[:, c].masked_fill(torch.isnan(members).any(dim=0), torch.nan)
                    some = ~torch.isnan(sea).flatten(1).all(dim=1) & torch.from_numpy(here)
                    truth[some, c] = sea[some]  # a forecast of nothing but NaN is none: `_read` refuses it
        return truth

    def _members(
        self, files: ForecastFiles, init: np.datetime64, leads: np.ndarray, channel: Channel
    ) -> tuple[Tensor, np.ndarray]:
        """Return members [M, L, H, W] on the truth's grid, and which leads the files have; the others are NaN."""
        grid = self.truth.grid
        members = torch.full((files.members, leads.size, *grid.shape), torch.nan, dtype=torch.float64)
        here = np.isin(leads, files.leads) & (init in files.inits) & (channel in files.channels)
        if here.any():
            values = files.read(init, leads[here], channel).double()
            members[:, here] = values if files.grid == grid else regrid(values, files.grid, grid)
        return members, here

    def _read(
        self, files: ForecastFiles, init: np.datetime64, leads: np.ndarray, channel: Channel, truth: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return members [M, L, H, W] and truth, both NaN where the files have nothing."""
        members, here = self._members(files, init, leads, channel)
        y = truth.masked_fill(~torch.from_numpy(here)[:, None, None], torch.nan)
        broken = (torch.isnan(members).any(dim=0) & ~torch.isnan(y)).flatten(1).any(dim=1)
        if broken.any():
            lead = leads[int(broken.nonzero()[0, 0])].astype(int)
            raise ValueError(f"the forecast of {channel.code} from {init} has NaN at {lead} h; it cannot be scored")
        return members, y

    def _brier(self, members: Tensor, truth: Tensor, thresholds: Tensor) -> Tensor:
        """Return [..., E] for members [M, ..., H, W] and thresholds [E, ..., H, W]."""
        scores = [area_mean(brier_score(members, truth, t), self.weights) for t in thresholds]
        return torch.stack(scores, dim=-1)


def region_weights(grid: LatLonGrid, region: Region | None) -> Tensor:
    """Return cell areas [H, W] in steradian, zero for cells whose centre lies outside the region.

    Raises:
        ValueError: when fewer than two rows or columns lie inside.
    """
    areas = torch.from_numpy(np.ascontiguousarray(grid.cell_areas()))
    if region is None:
        return areas
    rows, columns = grid.indices(region)
    inside = torch.zeros_like(areas)
    inside[np.ix_(rows, columns)] = 1.0
    return areas * inside
