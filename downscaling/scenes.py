"""What a network is told of a pair, and the streams of training: events in turn, batches by number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Events", "SceneStream", "Told", "open_event", "scene", "spacing_km"]

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from downscaling.conditions import features, known_fields, place_km
from downscaling.paired import cell_positions
from downscaling.paired_events import PairedStream, crop_index, open_paired
from downscaling.pairs import CropIndex, Pair, PairStream
from downscaling.predictors import Predictor, PredictorMaps, normalised, predictor_fields
from downscaling.predictors import turned as turned_over
from downscaling.sources.base import PrecipitationSource
from downscaling.sources.derived import InMemory, accumulated, coarsened
from downscaling.sources.opening import open_precipitation
from downscaling.statics import Statics, flipped
from downscaling.transform import RainTransform
from gen.grid import LatLonGrid
from gen.seeding import derive_seed

MINUTES = 60.0
SAME = 1e-4  # factors


class Sampled(Protocol):
    """A stream of pairs."""

    def sample(self, number: int) -> Pair: ...  # noqa: D102


@dataclass(frozen=True)
class Told:
    """Conditions that may be missing.

    Args:
        time: whether the time of day and year is told.
        statics: elevation and land, None if they are not told.
        dropout: chance that a training sample is told no time, that it is told no statics and no latitude, so that
            place is not learnt by heart, and that it is told no predictors: the model runs without each.
        predictors: other coarse fields that the networks have channels for; without any if there are none.
    """

    time: bool = False
    statics: Statics | None = None
    dropout: float = 0.0
    predictors: tuple[Predictor, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of what is told."""
        return ("time",) * self.time + ("statics",) * (self.statics is not None)


NOTHING = Told()


class Events:
    """Weather events of one part of the split: their rain in memory, and one stream of pairs for each factor.

    Args:
        events: see `DownscalingParams.train`. factors: of the streams. crop: side of a crop. seed: of the streams.
        predictors: names of predictors that pairs of two data sets have.
    """

    def __init__(
        self,
        events: Sequence[dict[str, Any]],
        factors: Sequence[float],
        crop: int,
        seed: int,
        predictors: Sequence[str] = (),
    ) -> None:
        self.sources: list[PrecipitationSource] = []
        self.maps: list[PredictorMaps] = []
        shares: list[float] = []
        parts: list[Callable[[float], Sampled | None]] = []
        for event in events:
            settings = dict(event)
            shares.append(float(settings.pop("share", 1.0)))
            paired = "rainshift" in settings or "coarse" in settings
            parts.append(self._paired(settings, crop, seed, predictors) if paired else self._made(settings, crop, seed))
        if min(shares, default=0.0) <= 0:
            raise ValueError(f"the share of an event must be positive; got {min(shares, default=0.0):g}")
        self.streams = [self._stream(float(f), parts, shares, seed) for f in factors]

    def _made(self, settings: dict[str, Any], crop: int, seed: int) -> Callable[[float], Sampled | None]:
        """Return what makes a stream of averaged pairs for a factor."""
        sources = open_event(**settings)
        self.sources += sources
        index = CropIndex.build(sources, (crop, crop))
        return lambda factor: PairStream(sources, index, factor, seed=seed)

    def _paired(
        self, settings: dict[str, Any], crop: int, seed: int, predictors: Sequence[str]
    ) -> Callable[[float], Sampled | None]:
        """Return what makes a stream of pairs of two data sets, if it is for the factor of their grids."""
        sources = open_paired(**settings, predictors=predictors)
        self.sources += [s.fine for s in sources]
        self.maps += [s.maps for s in sources if s.maps is not None]
        own = {s.factor for s in sources}
        if len(own) > 1:
            raise ValueError(f"pairs of one event have one factor; got {', '.join(f'{f:g}' for f in sorted(own))}")
        stream = PairedStream(sources, crop_index(sources, crop), seed=seed)
        return lambda factor: stream if abs(factor - next(iter(own))) < SAME else None

    @staticmethod
    def _stream(
        factor: float, parts: Sequence[Callable[[float], Sampled | None]], shares: Sequence[float], seed: int
    ) -> EventStream:
        made = [(part(factor), share) for part, share in zip(parts, shares, strict=True)]
        found = [(stream, share) for stream, share in made if stream is not None]
        if not found:
            raise ValueError(
                f"no event has pairs of factor {factor:g}: pairs of two data sets have that of their grids"
            )
        return EventStream([stream for stream, _ in found], [share for _, share in found], seed)


class EventStream:
    """Pairs of several events; the event of a number is drawn by the shares.

    Args:
        streams: one for each event. shares: how often each is drawn, in proportion. seed: of the draws.
    """

    def __init__(self, streams: Sequence[Sampled], shares: Sequence[float], seed: int) -> None:
        self._streams, self._seed = list(streams), seed
        self._reached = np.cumsum(shares) / np.sum(shares)

    def sample(self, number: int) -> Pair:
        """Return the n-th pair."""
        drawn = np.random.Generator(np.random.Philox(key=derive_seed("event", self._seed, number))).random()
        return self._streams[int(np.searchsorted(self._reached, drawn, side="right"))].sample(number)


class SceneStream(IterableDataset[dict[str, Tensor]]):
    """Yield endless batches of scenes with their truth; batch n is a function of the seed and n alone.

    Args:
        events: the rain to draw from. transform: of the rain.
        batch_size, rank, world: of the training run.
        told: conditions that may be missing. seed: of what is withheld.
    """

    def __init__(
        self,
        events: Events,
        transform: RainTransform,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        *,
        told: Told = NOTHING,
        seed: int = 0,
    ) -> None:
        self.events, self.transform, self.told, self.seed = events, transform, told, seed
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.batch = 0

    def state_dict(self) -> dict[str, int]:
        """Return the number of the next batch."""
        return {"batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a state returned by `state_dict`."""
        self.batch = state["batch"]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches from the current one on, without end."""
        while True:
            number, self.batch = self.batch, self.batch + 1
            yield self.numbered(number)

    def numbered(self, number: int) -> dict[str, Tensor]:
        """Return batch n; all of its samples have one factor, the factors take turns."""
        stream = self.events.streams[number % len(self.events.streams)]
        first = (number * self.world + self.rank) * self.batch_size
        scenes = [self._scene(stream.sample(n), n) for n in range(first, first + self.batch_size)]
        return {name: torch.stack([s[name] for s in scenes]) for name in scenes[0]}

    def _scene(self, pair: Pair, number: int) -> dict[str, Tensor]:
        random = np.random.Generator(np.random.Philox(key=derive_seed("told", self.seed, number)))
        time, place, more = (random.random(3) >= self.told.dropout).tolist()
        told = dataclasses.replace(
            self.told, time=self.told.time and time, statics=self.told.statics if place else None
        )
        pair = pair if more else dataclasses.replace(pair, predictors={})
        return scene(pair, self.transform, told, flip=number, latitude=place)


def scene(
    pair: Pair, transform: RainTransform, told: Told = NOTHING, *, flip: int = 0, latitude: bool = True
) -> dict[str, Tensor]:
    """Return what is known of a pair and its truth.

    Args:
        pair: fine and coarse rain.
        transform: of the rain.
        told: conditions that may be missing.
        flip: its two lowest bits turn rows and columns over, terrain and winds with them.
        latitude: whether the latitude is told.

    Returns:
        `fields`, `features`, `place` as `downscaling.conditions` makes them, `rain` [H, W] in mm/h, NaN where missing.
    """
    turned = tuple(axis for axis, bit in ((0, 1), (1, 2)) if flip & bit)
    fine, coarse = (np.flip(a, turned) for a in (pair.fine, pair.coarse))
    rows, columns = (
        torch.from_numpy(n - p[::-1] if axis in turned else p)
        for axis, (p, n) in enumerate(zip(cell_positions(pair.coarse_grid, pair.fine_grid), coarse.shape, strict=True))
    )
    place, time = place_km(pair.fine_grid), None
    if told.time and pair.time is not None:
        time = pair.time - np.timedelta64(round(pair.interval_hours * MINUTES / 2), "m")
    statics = None if told.statics is None else flipped(told.statics.fields(pair.fine_grid), turned)
    fields = known_fields(torch.from_numpy(coarse.copy()), rows, columns, transform, statics)
    if told.predictors:
        values = normalised(turned_over(pair.predictors, turned), told.predictors)
        known = None if values is None else torch.from_numpy(values)
        fields = torch.cat([fields, predictor_fields(known, len(told.predictors), rows, columns)])
    return {
        "fields": fields,
        "features": features(
            pair.factor,
            spacing_km(place),
            pair.interval_hours,
            *_middle(pair.fine_grid),
            time=time,
            latitude_known=latitude,
        ),
        "place": place,
        "rain": torch.from_numpy(fine.copy()).float(),
    }


def open_event(
    path: str, accumulate: Any = (1,), coarsen: Any = (1,), every: int = 1, substeps: int = 1, **options: Any
) -> list[PrecipitationSource]:
    """Open rain and return it in memory, once for every accumulation and coarsening."""
    base = InMemory(open_precipitation(path, **options), every)
    means = [base if n == 1 else InMemory(accumulated(base, int(n), substeps)) for n in accumulate]
    return [mean if c == 1 else InMemory(coarsened(mean, int(c))) for mean in means for c in coarsen]


def spacing_km(place: Tensor) -> float:
    """Return kilometres between rows."""
    return float((place[0, -1, 0] - place[0, 0, 0]).abs()) / (place.shape[1] - 1)


def _middle(grid: Any) -> tuple[float, float]:
    """Return latitude and longitude of the middle of a grid, degrees."""
    if isinstance(grid, LatLonGrid):
        return float(grid.latitude.mean()), float(grid.longitude.mean())
    rows, columns = (slice(n // 2 - 1, n // 2 + 1) for n in grid.shape)
    latitude, longitude = grid.window(rows, columns).latlon()
    return float(latitude.mean()), float(longitude.mean())
