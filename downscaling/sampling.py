r"""Draw fine rain for domains of any size: tiles on one lattice, blended, streamed from south to north.

A tile is a few windows wide. Inside it the estimates of overlapping windows are blended at every evaluation
(`diffusion.tiling.Blended`); neighbouring tiles, whose noise and conditions are the same where they overlap, are
blended with raised cosines once they are drawn, in amounts and chances of rain and not in rates, so that no drizzle
arises. Tiles are drawn whole as far as the input reaches, wherever the region that is written ends. What a pixel
becomes is therefore a function of the tiles that hold it: two regions of one input agree to the bit everywhere (see
`downscaling.keeping` where amounts are conserved), two crops of the input itself agree from one tile side inwards.
Memory holds one row of tiles, whatever the number of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

__all__ = ["MULTIPLIER", "VIOLATION", "Drawn", "RainSampler", "tile_side"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.tiling import Blended, ramp, spans
from downscaling.conditions import features, known_fields, place_km
from downscaling.conserve import Mode
from downscaling.keeping import MULTIPLIER, VIOLATION, Keeper, known
from downscaling.lattice import Axis, Domain
from downscaling.model import DownscalingModel
from downscaling.noise import innovations, noise_field
from downscaling.predictors import predictor_fields
from downscaling.tiles import tiles

if TYPE_CHECKING:
    from downscaling.statics import Statics

Values = NDArray[np.float32]

WINDOWS = 3  # of a tile's side
STRIP = 64  # rows that are finished at once


def tile_side(model: DownscalingModel) -> int:
    """Return the side of a tile in pixels."""
    tile, overlap = model.meta.sampling.tile, model.meta.sampling.overlap
    return WINDOWS * (tile - overlap) + overlap


@dataclass(frozen=True)
class Drawn:
    """Some finished rows: number of the first in the field, rates [M, h, W] in mm/h, and what conservation cost."""

    first: int
    values: Values
    notes: dict[str, float] = field(default_factory=dict)


class _Moment(NamedTuple):
    """Weights of the noise, the middle of the interval in UTC for a model that is told it, and predictors at hand."""

    weights: Any
    time: np.datetime64 | None
    predictors: Values | None = None


class RainSampler:
    """Draw members of fine rain on a domain.

    Args:
        model: on its device. domain: where. sampler: of `diffusion.samplers`.
        seed: of the noise. half_life_hours: of its correlation in time.
        interval_hours: time over which the rain is averaged.
        keep: "input" or "coarse": members keep the amounts of the input or those that the mean stage expects.
        dtype: of the network. batch: members that one evaluation takes; on the CPU it is always one, since there a
            larger batch gains nothing and would change the rounding.
        statics: elevation and land, for a model that was trained with them.
    """

    def __init__(
        self,
        model: DownscalingModel,
        domain: Domain,
        sampler: Any,
        *,
        seed: int = 0,
        half_life_hours: float = 0.0,
        interval_hours: float = 0.0,
        keep: Mode = "none",
        dtype: torch.dtype = torch.float32,
        batch: int = 1,
        statics: Statics | None = None,
    ) -> None:
        self.model, self.sampler, self.written = model, sampler, domain
        self.keeper = None if keep == "none" else Keeper(domain, keep, model.transform.threshold)
        self.domain = domain if self.keeper is None else self.keeper.domain
        self.extra = int(keep == "coarse")  # one more member, of which the amounts are the expected rain
        self.seed, self.half_life, self.interval = seed, half_life_hours, interval_hours
        self.dtype, self.statics = dtype, statics
        self.settings = model.meta.sampling.at(domain.rows.factor)
        self.device = next(model.parameters()).device
        self.batch = 1 if self.device.type == "cpu" else batch
        self.side, self.overlap = tile_side(model), model.meta.sampling.overlap
        self.unit = model.networks.unit
        if model.meta.sampling.tile % self.unit or self.overlap % self.unit:
            raise ValueError(
                f"tile and overlap of the model must be multiples of {self.unit}; got {model.meta.sampling.tile} and "
                f"{self.overlap}"
            )

    def draw(
        self,
        coarse: Values,
        minute: int,
        members: Sequence[int],
        rows: tuple[int, int] | None = None,
        told: Values | None = None,
        predictors: Values | None = None,
    ) -> Iterator[Drawn]:
        """Yield the rows of some members, from south to north.

        Args:
            coarse: rates of the input [Hc, Wc] in mm/h, NaN where missing.
            minute: end of the interval in minutes since 1970.
            members: numbers of the members.
            rows: first row of the field and one past the last; all by default.
            told: what the networks see instead of `coarse` (aligned, guarded); conserved is always `coarse`.
            predictors: those of the model on the grid of `coarse`, normalised [P, Hc, Wc]; None if they are not known.
        """
        axis = self.written.rows
        chosen = np.ix_(self.domain.rows.cells, self.domain.columns.cells)
        at_hand, seen = coarse[chosen], (coarse if told is None else told)[chosen]
        first, stop = (axis.first, axis.stop) if rows is None else (axis.first + rows[0], axis.first + rows[1])
        need = (first, stop) if self.keeper is None else self.keeper.needed(first, stop)
        more = None if predictors is None else predictors[:, chosen[0], chosen[1]]
        moment = _Moment(innovations(minute, self.half_life), self._time(minute), more)
        rain = self._rained(self._levels(seen, moment, members, *need), len(members))
        if self.keeper is None:
            for top, values in rain:
                there = known(self.domain, at_hand, top, top + values.shape[1])
                yield Drawn(top - axis.first, np.where(there, values, np.float32(np.nan)))
            return
        for top, values, notes in self.keeper.finished(rain, at_hand, first, stop):
            yield Drawn(top - axis.first, values, notes)

    def _rained(self, levels: Iterator[tuple[int, Tensor]], members: int) -> Iterator[tuple[int, Values]]:
        for top, values in levels:
            rain = self.model.rain(values[:members], self.settings)
            yield top, torch.cat([rain, values[members:, 0]]).numpy()

    def _levels(
        self, coarse: Values, moment: _Moment, members: Sequence[int], first: int, stop: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, amounts and chances [M, 2, h, W]) of rows `first` to `stop`, blended over tiles."""
        low, high = self._extent(self.domain.rows)
        tiles = [
            slice(low + s.start, low + s.stop)
            for s in spans(high - low, self.side, self.overlap, low)
            if low + s.start < stop and low + s.stop > first
        ]
        tail = torch.zeros(len(members) + self.extra, 2, 0, self.domain.columns.stop - self.domain.columns.first)
        weight = torch.zeros(0)  # of the rows that the next tile shares
        for k, tile in enumerate(tiles):
            row = self._row(coarse, tile, moment, members)
            rise = ramp(slice(tile.start - low, tile.stop - low), high - low, self.overlap)
            begin, end = max(tile.start, first), min(tile.stop, stop)
            row, rise = row[:, :, begin - tile.start : end - tile.start], rise[begin - tile.start : end - tile.start]
            row *= rise[:, None]
            row[:, :, : tail.shape[2]] += tail
            rise[: weight.shape[0]] += weight
            ready = (max(tiles[k + 1].start, first) if k + 1 < len(tiles) else stop) - begin
            tail, weight = row[:, :, ready:].clone(), rise[ready:].clone()
            for top in range(0, ready, STRIP):
                strip = slice(top, min(top + STRIP, ready))
                yield begin + top, row[:, :, strip] / rise[strip, None]

    def _row(self, coarse: Values, row: slice, moment: _Moment, members: Sequence[int]) -> Tensor:
        """Return amounts and chances [M, 2, h, W] of one row of tiles, blended over its columns."""
        left, right = self.domain.columns.first, self.domain.columns.stop
        total = torch.zeros(len(members) + self.extra, 2, row.stop - row.start, right - left)
        weight = torch.zeros(right - left)
        for tile in tiles(self.domain.columns, self.side, self.overlap, self.unit):
            begin, end = max(tile.begin, left), min(tile.begin + len(tile.rise), right)
            here, place = slice(begin - tile.begin, end - tile.begin), slice(begin - left, end - left)
            drawn = self._tile(coarse, row, tile.pixels, moment, members, tile.turn)
            total[..., place] += tile.rise[here] * drawn[..., here]
            weight[place] += tile.rise[here]
        return total.div_(weight)

    def _extent(self, axis: Axis) -> tuple[int, int]:
        """Return the pixels (first, stop) that tiles may cover: all of the input, rounded out to whole tokens."""
        low, high = axis.covered
        low, high = min(low, axis.first), max(high, axis.stop)
        return low // self.unit * self.unit, -(-high // self.unit) * self.unit

    @torch.no_grad()
    def _tile(
        self, coarse: Values, row: slice, column: slice, moment: _Moment, members: Sequence[int], turn: int = 0
    ) -> Tensor:
        """Draw amounts and chances [M, 2, h, w] of one tile, its input `turn` columns on; far from rain it is dry."""
        rows = self.domain.rows.positions(row.start, row.stop)
        columns = self.domain.columns.positions(column.start + turn, column.stop + turn)
        shape = (len(rows), len(columns))
        near = [slice(max(int(p.min()) - 1, 0), int(p.max()) + 2) for p in (rows, columns)]
        part = coarse[near[0], near[1]]
        if not (part > 0).any():
            return torch.tensor([0.0, -1.0])[:, None, None].expand(len(members) + self.extra, 2, *shape)
        places = [torch.from_numpy(p - n.start) for p, n in zip((rows, columns), near, strict=True)]
        near_rain, transform = torch.from_numpy(np.ascontiguousarray(part)), self.model.transform
        fields = known_fields(near_rain, places[0], places[1], transform, self._statics(row, column))
        if count := len(self.model.meta.predictors):
            more = None if moment.predictors is None else torch.from_numpy(moment.predictors[:, near[0], near[1]])
            fields = torch.cat([fields, predictor_fields(more, count, places[0], places[1])])
        told = self._features(row, column, moment.time)
        known = {"fields": fields[None].to(self.device), "features": told.to(self.device)}
        place = self._place(row, column).to(self.device)
        networks, cell = self.model.networks, self.model.networks.cell
        window, overlap = self.model.meta.sampling.tile // cell, self.overlap // cell
        blended = Blended(networks.denoiser, window, overlap, (row.start // cell, column.start // cell))
        out = torch.empty(len(members) + self.extra, 2, *shape)
        with self._autocast():
            expected, _ = self.model.networks.expect(known["fields"], known["features"], place)
            for k in range(0, len(members), self.batch):
                chosen = list(members[k : k + self.batch])
                padded = chosen + chosen[-1:] * (self.batch - len(chosen))  # one shape, one rounding
                noise = torch.stack([self._noise(row, column, m, moment.weights) for m in padded]).to(self.device)
                drawn = self.model.levels(
                    known["fields"], known["features"], noise, self.sampler, place, blended, expected, self.settings
                )
                out[k : k + len(chosen)] = drawn[: len(chosen)].float().cpu()
        if self.extra:
            out[-1] = self.model.expected_rain(expected)[0].cpu()
        return out

    def _noise(self, row: slice, column: slice, member: int, weights: Any) -> Tensor:
        cell, period = self.model.networks.cell, self.domain.columns.period
        rows, columns = (range(s.start // cell, s.stop // cell) for s in (row, column))
        period = None if period is None or period % cell else period // cell
        return noise_field(rows, columns, self.seed, member, weights, period, self.model.networks.channels)

    def _time(self, minute: int) -> np.datetime64 | None:
        """Return the middle of the interval that ends at a minute, if the model is told the time."""
        if "time" not in self.model.meta.conditions:
            return None
        return np.datetime64(minute - round(30.0 * self.interval), "m")

    def _statics(self, row: slice, column: slice) -> dict[str, Tensor] | None:
        """Return elevation and land of a tile; beyond the region that is written the files may end."""
        if self.statics is None:
            return None
        return self.statics.fields(self.domain.window(row.start, row.stop, column.start, column.stop), beyond=True)

    def _features(self, row: slice, column: slice, time: np.datetime64 | None) -> Tensor:
        """Return the numbers [1, S] that describe a tile."""
        domain = self.domain
        middle = [(s.start + s.stop) // 2 for s in (row, column)]
        if domain.crs:
            latitude, longitude = domain.window(middle[0] - 1, middle[0] + 1, middle[1] - 1, middle[1] + 1).latlon()  # type: ignore[union-attr]
            where = float(latitude.mean()), float(longitude[0, 0])
        else:
            where = (
                float(domain.rows.edges(middle[0], middle[0])[0]),
                float(domain.columns.edges(middle[1], middle[1])[0]),
            )
        return features(domain.rows.factor, domain.spacing_km, self.interval, *where, time=time)[None]

    def _place(self, row: slice, column: slice) -> Tensor:
        return place_km(self.domain.window(row.start, row.stop, column.start, column.stop))

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
