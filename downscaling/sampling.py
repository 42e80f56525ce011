r"""Draw fine rain for domains of any size: tiles on one lattice, blended, streamed from south to north.

A tile is a few windows wide. Inside it the estimates of overlapping windows are blended at every evaluation
(`diffusion.tiling.Blended`); neighbouring tiles, whose noise and conditions are the same where they overlap, are
blended with raised cosines once they are drawn, in amounts and chances of rain and not in rates, so that no drizzle
arises. Tiles are drawn whole as far as the input reaches, wherever the region that is written ends. What a pixel
becomes is therefore a function of the tiles that hold it: two regions of one input agree to the bit everywhere (where
amounts are conserved, but for the coarse cells that a rim cuts), two crops of the input itself agree from one tile side
inwards. Memory holds one row of tiles, whatever the number of rows.
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
from downscaling.conserve import conserve
from downscaling.lattice import Axis, Domain
from downscaling.model import DownscalingModel
from downscaling.noise import innovations, noise_field
from downscaling.overlap import Overlap

if TYPE_CHECKING:
    from downscaling.statics import Statics

Values = NDArray[np.float32]

WINDOWS = 3  # of a tile's side
VIOLATION = "conservation_largest_violation_mm_per_h"
MULTIPLIER = "conservation_largest_multiplier"
STRIP = 64  # rows that are finished at once
PIECE = 192  # least pixels of a side of a piece that is conserved by itself


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
    """Weights of the noise, and the middle of the interval in UTC for a model that is told the time."""

    weights: Any
    time: np.datetime64 | None


class RainSampler:
    """Draw members of fine rain on a domain.

    Args:
        model: on its device. domain: where. sampler: of `diffusion.samplers`.
        seed: of the noise. half_life_hours: of its correlation in time.
        interval_hours: time over which the rain is averaged.
        conserved: whether members keep the coarse amounts.
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
        conserved: bool = False,
        dtype: torch.dtype = torch.float32,
        batch: int = 1,
        statics: Statics | None = None,
    ) -> None:
        self.model, self.domain, self.sampler = model, domain, sampler
        self.seed, self.half_life, self.interval = seed, half_life_hours, interval_hours
        self.conserved, self.dtype, self.statics = conserved, dtype, statics
        self.settings = model.meta.sampling.at(domain.rows.factor)
        self.device = next(model.parameters()).device
        self.batch = 1 if self.device.type == "cpu" else batch
        self.side, self.overlap = tile_side(model), model.meta.sampling.overlap
        self.unit = int(model.networks.mean.factor)
        self._overlaps: dict[tuple[int, int, int, int], Overlap] = {}

    def draw(
        self,
        coarse: Values,
        minute: int,
        members: Sequence[int],
        rows: tuple[int, int] | None = None,
        told: Values | None = None,
    ) -> Iterator[Drawn]:
        """Yield the rows of some members, from south to north.

        Args:
            coarse: rates of the input [Hc, Wc] in mm/h, NaN where missing.
            minute: end of the interval in minutes since 1970.
            members: numbers of the members.
            rows: first row of the field and one past the last; all by default. More is yielded where pieces that are
                conserved together begin earlier or end later.
            told: what the networks see instead of `coarse` (aligned, guarded); conserved is always `coarse`.
        """
        axis = self.domain.rows
        chosen = np.ix_(axis.cells, self.domain.columns.cells)
        at_hand, seen = coarse[chosen], (coarse if told is None else told)[chosen]
        first, stop = (0, axis.stop - axis.first) if rows is None else rows
        cuts = [n - axis.first for n in axis.cuts(PIECE)] if self.conserved else []
        if cuts:
            first, stop = max(n for n in cuts if n <= first), min(n for n in cuts if n >= stop)
        moment = _Moment(innovations(minute, self.half_life), self._time(minute))
        levels = self._levels(seen, moment, members, axis.first + first, axis.first + stop)
        marks = [n for n in cuts if first < n <= stop]
        for top, piece in _regrouped(self._rained(levels), marks):
            yield self._finished(piece, top, at_hand)

    def _rained(self, levels: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Values]]:
        for top, values in levels:
            yield top - self.domain.rows.first, self.model.rain(values, self.settings).numpy()

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
        tail = torch.zeros(len(members), 2, 0, self.domain.columns.stop - self.domain.columns.first)
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
        low, high = self._extent(self.domain.columns)
        total = torch.zeros(len(members), 2, row.stop - row.start, right - left)
        weight = torch.zeros(right - left)
        for s in spans(high - low, self.side, self.overlap, low):
            tile = slice(low + s.start, low + s.stop)
            begin, end = max(tile.start, left), min(tile.stop, right)
            if begin >= end:
                continue
            here, place = slice(begin - tile.start, end - tile.start), slice(begin - left, end - left)
            rise = ramp(s, high - low, self.overlap)[here]
            total[..., place] += rise * self._tile(coarse, row, tile, moment, members)[..., here]
            weight[place] += rise
        return total.div_(weight)

    def _extent(self, axis: Axis) -> tuple[int, int]:
        """Return the pixels (first, stop) that tiles may cover: all of the input, rounded out to whole tokens."""
        low, high = axis.covered
        low, high = min(low, axis.first), max(high, axis.stop)
        return low // self.unit * self.unit, -(-high // self.unit) * self.unit

    @torch.no_grad()
    def _tile(self, coarse: Values, row: slice, column: slice, moment: _Moment, members: Sequence[int]) -> Tensor:
        """Draw amounts and chances [M, 2, h, w] of one tile; where no rain is near there is none."""
        rows, columns = (
            axis.positions(span.start, span.stop)
            for axis, span in ((self.domain.rows, row), (self.domain.columns, column))
        )
        shape = (len(rows), len(columns))
        near = [slice(max(int(p.min()) - 1, 0), int(p.max()) + 2) for p in (rows, columns)]
        part = coarse[near[0], near[1]]
        if not (part > 0).any():
            return torch.tensor([0.0, -1.0])[:, None, None].expand(len(members), 2, *shape)
        places = [torch.from_numpy(p - n.start) for p, n in zip((rows, columns), near, strict=True)]
        near_rain, transform = torch.from_numpy(np.ascontiguousarray(part)), self.model.transform
        fields = known_fields(near_rain, places[0], places[1], transform, self._statics(row, column))
        told = self._features(row, column, moment.time)
        known = {"fields": fields[None].to(self.device), "features": told.to(self.device)}
        place = self._place(row, column).to(self.device)
        blended = Blended(
            self.model.networks.denoiser, self.model.meta.sampling.tile, self.overlap, (row.start, column.start)
        )
        out = torch.empty(len(members), 2, *shape)
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
        return out

    def _noise(self, row: slice, column: slice, member: int, weights: Any) -> Tensor:
        rows, columns = range(row.start, row.stop), range(column.start, column.stop)
        return noise_field(rows, columns, self.seed, member, weights, self.domain.columns.period)

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

    def _finished(self, rain: Values, first: int, coarse: Values) -> Drawn:
        """Take missing pixels out and, where asked, project the rows piece by piece onto the coarse amounts."""
        rows, columns = self.domain.rows, self.domain.columns
        top, bottom = rows.first + first, rows.first + first + rain.shape[1]
        cell = [
            np.minimum(axis.positions(*span).astype(np.int64), axis.cells.size - 1)
            for axis, span in ((rows, (top, bottom)), (columns, (columns.first, columns.stop)))
        ]
        known = np.isfinite(coarse[np.ix_(*cell)])
        if not self.conserved:
            return Drawn(first, np.where(known, rain, np.float32(np.nan)))
        out, notes = np.empty_like(rain), {VIOLATION: 0.0, MULTIPLIER: 1.0}
        cuts = columns.cuts(PIECE)
        for left, right in zip(cuts[:-1], cuts[1:], strict=True):
            place = slice(left - columns.first, right - columns.first)
            (a, b), (c, d) = rows.cells_of(top, bottom), columns.cells_of(left, right)
            lap = self._overlap_of(top, bottom, left, right).masked(known[:, place])
            made = conserve(np.where(known[:, place], rain[..., place], 0.0), coarse[a:b, c:d], lap, "input")
            out[..., place] = made.values
            notes[VIOLATION] = max(notes[VIOLATION], made.largest_violation)
            notes[MULTIPLIER] = max(notes[MULTIPLIER], made.largest_multiplier)
        return Drawn(first, out, notes)

    def _overlap_of(self, top: int, bottom: int, left: int, right: int) -> Overlap:
        """Return the overlaps of a piece with the coarse cells that it touches."""
        key = (top, bottom, left, right)
        if key not in self._overlaps:
            rows, columns = self.domain.rows, self.domain.columns
            coarse = [
                rows.coarse_edges(*rows.cells_of(top, bottom)),
                columns.coarse_edges(*columns.cells_of(left, right)),
            ]
            fine = [rows.edges(top, bottom), columns.edges(left, right)]
            if not self.domain.crs:  # areas on the sphere
                coarse[0], fine[0] = np.sin(np.deg2rad(coarse[0])), np.sin(np.deg2rad(fine[0]))
            self._overlaps[key] = Overlap.from_edges((coarse[0], coarse[1]), (fine[0], fine[1]))
        return self._overlaps[key]


def _regrouped(pieces: Iterator[tuple[int, Values]], marks: Sequence[int]) -> Iterator[tuple[int, Values]]:
    """Regroup rows so that pieces end at the marks; without marks they stay as they come."""
    if not marks:
        yield from pieces
        return
    held: list[Values] = []
    begin, ends = -1, iter(marks)
    end = next(ends)
    for first, values in pieces:
        begin = first if begin < 0 else begin
        while values.shape[1]:
            take = min(end - first, values.shape[1])
            held.append(values[:, :take])
            first, values = first + take, values[:, take:]
            if first == end:
                yield begin, held[0] if len(held) == 1 else np.concatenate(held, axis=1)
                held, begin, end = [], end, next(ends, end)
                if begin == end:
                    return
