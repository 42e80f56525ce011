"""Our forecast models inside NVIDIA earth2studio: its `PrognosticModel` and `DataSource` protocols.

earth2studio (0.19) drives any model that turns a tensor and its coordinates, an ordered mapping of dimension names to
arrays, into those of the next lead time. `Prognostic` does that for a `ForecastModel`, `StartStates` for anything that
`gen` reads; neither needs the package installed, since both protocols are structural.

Dimensions are [ensemble or batch ...,] time, lead_time, variable, lat, lon; latitude runs from north to south, names
are those of earth2studio (t2m, u10m, tp06, z500). A rollout stays in latent space: the frames of one call of the
network are handed out one at a time, and the next call starts from the last of them. The noise of a row has the address
that `gen sample` gives it (seed, member, start, valid time): a member is the same here and there, whatever the batch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Prognostic", "StartStates", "from_lexicon", "to_lexicon"]

import numpy as np
import torch
from torch import Tensor

from autoencoders.store import load_codec
from diffusion.samplers import build_sampler
from forecast.data import Analysis, open_analysis
from forecast.model import ForecastModel
from forecast.rollout import rollout
from gen.data.variables import VARIABLES, Channel
from gen.hub import resolve
from gen.writers.spec import EARTH2STUDIO_NAMES

log = logging.getLogger(__name__)

Coords = OrderedDict[str, np.ndarray]

DIMS = ("time", "lead_time", "variable", "lat", "lon")
NO_LEAD = np.zeros(1, "timedelta64[h]")
SAME_PLACE_DEG = 1e-3
_UPPER = {v.short: v.name for v in VARIABLES.values() if v.kind == "upper"}
_SURFACE = {
    EARTH2STUDIO_NAMES.get(v.short, v.short): Channel(v.name) for v in VARIABLES.values() if v.kind == "surface"
}


def to_lexicon(channel: Channel) -> str:
    """Return earth2studio's name of a channel: `t2m`, `z500`."""
    return EARTH2STUDIO_NAMES.get(channel.code, channel.code)


def from_lexicon(name: str) -> Channel:
    """Return the channel of an earth2studio name; raises ValueError for one that no model of ours can have."""
    if name in _SURFACE:
        return _SURFACE[name]
    match = re.fullmatch(r"([a-z]+)(\d+)", name)
    if match and match[1] in _UPPER:  # "t2" is 2 hPa here, a two-metre temperature elsewhere
        return Channel(_UPPER[match[1]], int(match[2]))
    known = f"{', '.join(_SURFACE)}, and {', '.join(_UPPER)} followed by a level in hPa"
    raise ValueError(f"earth2studio's name {name!r} is none that our models know: {known}")


class Prognostic:
    """A forecast model as earth2studio's `PrognosticModel`.

    Args:
        model: the forecast model.
        seed: of the noise; `set_rng` changes it.
        sampler, steps: default: the model's.
        rows: states computed together (default: the model's members per block; all that are given when that is "auto").
        dtype: arithmetic inside the networks (default: bfloat16 on an accelerator, else float32).
    """

    def __init__(
        self,
        model: ForecastModel,
        *,
        seed: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        rows: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Build the sampler; nothing is computed."""
        if model.meta.simulated:
            log.warning("note: the weights of %s know a simulated world only: no weather forecast", model.meta.name)
        self.model, self.dtype, self.device = model, dtype, model.codec.latent_mean.device
        self.set_rng(seed)
        defaults = model.meta.sampling
        settings: dict[str, Any] = dict(defaults.settings) if sampler in (None, defaults.sampler) else {}
        self.sampler = build_sampler(sampler or defaults.sampler, steps or defaults.steps, **settings)
        wish: int | str = rows or defaults.members_per_block
        self.rows = None if wish == "auto" else int(wish)

    @classmethod
    def load(cls, model: str | Path = "demo", **settings: Any) -> Prognostic:
        """Open a model folder by path or name."""
        return cls(ForecastModel.load(resolve(model)), **settings)

    def set_rng(self, seed: int, reset: bool = True) -> None:
        """Choose the noise; `reset` is part of the protocol and means nothing to noise that has an address."""
        if int(seed) < 0:
            raise ValueError(f"seed must be >= 0; got {seed}")
        self.seed = int(seed)

    def to(self, device: Any) -> Prognostic:
        """Move the weights and return the model itself."""
        self.device = torch.device(device)
        self.model = self.model.to(self.device)
        return self

    def input_coords(self) -> Coords:
        """Return what is taken: any rows, any times, one lead time, every channel, latitude from north to south."""
        grid, channels = self.model.codec.grid, self.model.codec.channels
        return OrderedDict(
            batch=np.empty(0),
            time=np.empty(0),
            lead_time=NO_LEAD.copy(),
            variable=np.array([to_lexicon(c) for c in channels]),
            lat=grid.latitude[::-1].copy(),
            lon=grid.longitude.copy(),
        )

    def output_coords(self, input_coords: Coords) -> Coords:
        """Return the coordinates one step later; raises ValueError for ones that `input_coords` does not allow."""
        self._check(input_coords)
        out = input_coords.copy()
        out["lead_time"] = input_coords["lead_time"] + np.timedelta64(self.model.meta.step_hours, "h")
        return out

    def __call__(self, x: Tensor, coords: Coords) -> tuple[Tensor, Coords]:
        """Advance [..., time, 1, variable, lat, lon] by one step: the first frame of a call from this state."""
        frames = self.create_iterator(x, coords)
        next(frames)
        return next(frames)

    def create_iterator(self, x: Tensor, coords: Coords) -> Iterator[tuple[Tensor, Coords]]:
        """Return an endless iterator: the state itself, then one lead time after another.

        Raises:
            ValueError: coordinates that do not fit, at once.
        """
        self._check(coords)
        if tuple(x.shape) != (shape := tuple(len(v) for v in coords.values())):
            raise ValueError(f"x has shape {tuple(x.shape)}; its coordinates have {shape}")
        return self._frames(x, coords.copy())

    def _frames(self, x: Tensor, coords: Coords) -> Iterator[tuple[Tensor, Coords]]:
        yield x, coords.copy()
        inits, members = _addresses(coords)
        shape, count = x.shape, len(members)
        z = self._encode(x.reshape(-1, *shape[-3:]), inits)
        size = self.rows or count
        streams = [self._stream(z, inits, members, range(a, a + size)) for a in range(0, count, size)]
        for blocks in zip(*streams, strict=True):
            for k in range(self.model.meta.frames):
                values = torch.cat([self._decode(block[:, k]) for block in blocks])[:count]
                coords = self.output_coords(coords)
                yield values.flip(-2).reshape(shape), coords.copy()

    def _stream(self, z: Tensor, inits: Sequence[int], members: Sequence[int], rows: range) -> Iterator[Tensor]:
        """Yield latents [rows, T, C, h, w], call by call, without an end.

        A short last block repeats the last row: blocks of one size make a row's bits independent of how many there are.
        """
        pick = [min(k, len(members) - 1) for k in rows]
        where = [inits[k] for k in pick], [members[k] for k in pick]
        stream = rollout(self.model, z[pick], *where, sys.maxsize, self.seed, self.sampler)
        while True:
            with self._autocast():  # not around the yield: the caller's arithmetic is its own
                latent = next(stream)
            yield latent

    @torch.no_grad()
    def _encode(self, states: Tensor, inits: Sequence[int]) -> Tensor:
        """Return latents [rows, C, h, w] of north-first states; members that share a start state share its latent."""
        latents: list[Tensor] = []
        last: dict[int, tuple[Tensor, Tensor]] = {}
        for state, init in zip(states, inits, strict=True):
            if init not in last or not torch.allclose(last[init][0], state, rtol=0, atol=0, equal_nan=True):
                with self._autocast():
                    latent = self.model.codec.encode(state.flip(-2)[None].float().to(self.device))[0]
                last[init] = state, latent
            latents.append(last[init][1])
        return torch.stack(latents)

    @torch.no_grad()
    def _decode(self, latent: Tensor) -> Tensor:
        with self._autocast():
            values: Tensor = self.model.codec.decode(latent)
        return values.float()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = self.dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _check(self, coords: Coords) -> None:
        """Raise ValueError, naming what is wrong, for coordinates that the model cannot start from."""
        if absent := [name for name in DIMS if name not in coords]:
            raise ValueError(f"coordinates lack {', '.join(absent)}; they must end with {', '.join(DIMS)}")
        if tuple(coords)[-len(DIMS) :] != DIMS:
            raise ValueError(f"coordinates are ordered {', '.join(coords)}; they must end with {', '.join(DIMS)}")
        if len(coords["lead_time"]) != 1:
            raise ValueError(f"the model starts from one lead time; got {len(coords['lead_time'])}")
        wanted, names = self.input_coords(), [str(name) for name in coords["variable"]]
        if absent := [name for name in wanted["variable"] if name not in names]:
            raise ValueError(f"coordinates lack the variables {', '.join(absent)}")
        if names != wanted["variable"].tolist():
            raise ValueError("variables are more than the model's or in another order; take input_coords()['variable']")
        for name in ("lat", "lon"):
            have, want = np.asarray(coords[name]), wanted[name]
            if have.shape != want.shape or np.abs(have - want).max() > SAME_PLACE_DEG:
                raise ValueError(f"{name} must be {_span(want)}; got {_span(have)}")


class StartStates:
    """Fields that `gen` reads, as earth2studio's `DataSource` on the grid of a model.

    They are regridded conservatively and derived where a source lacks a variable, as for `gen sample`.

    Args:
        analysis: where the fields come from.
    """

    def __init__(self, analysis: Analysis) -> None:
        """Remember the analysis; nothing is read yet."""
        self.analysis = analysis

    @classmethod
    def open(cls, source: str = "demo", model: str | Path = "demo") -> StartStates:
        """Open what `gen sample --source SOURCE --model MODEL` would start from."""
        folder = resolve(model)
        return cls(open_analysis(source, folder, load_codec(folder)))

    def __call__(self, time: Any, variable: Any) -> Any:
        """Return an xarray.DataArray [time, variable, lat, lon].

        Args:
            time: one time or several: datetime or datetime64.
            variable: one or several names of earth2studio's lexicon.

        Raises:
            ValueError: a time or variable that the source does not have.
        """
        import xarray

        times, names = np.atleast_1d(np.asarray(time, "datetime64[ns]")), np.atleast_1d(np.asarray(variable, str))
        grid, channels = self.analysis.codec.grid, tuple(from_lexicon(str(name)) for name in names)
        states = [self.analysis.source.read(t.astype("datetime64[h]"), channels, grid=grid) for t in times]
        values = np.stack([state.values.float().numpy()[:, ::-1] for state in states])
        coords = {"time": times, "variable": names, "lat": grid.latitude[::-1], "lon": grid.longitude}
        return xarray.DataArray(values, coords, tuple(coords))

    async def fetch(self, time: Any, variable: Any) -> Any:
        """Return the same; reading is not asynchronous."""
        return self(time, variable)


def _addresses(coords: Coords) -> tuple[list[int], list[int]]:
    """Return start hour (since 1970) and member number of every row of [..., time].

    A single leading dimension of distinct numbers >= 0, such as earth2studio's "ensemble", numbers the members, so that
    a batch of members 8 to 15 is just that; otherwise the rows are counted.
    """
    start = (coords["time"] + coords["lead_time"]).astype("datetime64[ns]")
    hours = start.astype("datetime64[h]")
    if not hours.size or np.isnat(hours).any() or (hours != start).any():
        raise ValueError(f"time must be one or more whole hours; got {start}")
    leading = [np.asarray(coords[name]) for name in tuple(coords)[: -len(DIMS)]]
    members = np.arange(math.prod(len(values) for values in leading))
    if len(leading) == 1 and np.issubdtype(leading[0].dtype, np.integer):
        numbers = leading[0]
        members = numbers if np.unique(numbers).size == numbers.size and numbers.min() >= 0 else members
    return np.tile(hours.astype(np.int64), members.size).tolist(), np.repeat(members, hours.size).tolist()


def _span(axis: np.ndarray) -> str:
    """Return an axis in words."""
    return f"{axis.shape[0]} values from {axis[0]:g} to {axis[-1]:g}" if axis.ndim == 1 and axis.size else "nothing"
