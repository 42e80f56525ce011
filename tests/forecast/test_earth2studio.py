"""forecast.earth2studio: the adapter is what the protocol says, and gives what `gen sample` gives."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
import xarray as xr

from forecast.earth2studio import Prognostic, StartStates, from_lexicon, to_lexicon
from forecast.model import ForecastModel
from gen.data.variables import LADCAST_CHANNELS, VARIABLES, Channel, make_channels
from gen.sample import run_sample

SIX_HOURS = np.timedelta64(6, "h")


@runtime_checkable
class PrognosticModel(Protocol):
    """The members of earth2studio 0.19's protocol of this name (models/px/base.py), restated."""

    def __call__(self, x: Any, coords: Any) -> Any: ...
    def create_iterator(self, x: Any, coords: Any) -> Iterator[Any]: ...
    def input_coords(self) -> Any: ...
    def output_coords(self, input_coords: Any) -> Any: ...
    def to(self, device: Any) -> Any: ...


@pytest.fixture(scope="module")
def model(workshop: Path) -> ForecastModel:
    return ForecastModel.load(workshop / "model")


@pytest.fixture(scope="module")
def states(workshop: Path) -> StartStates:
    return StartStates.open("demo", workshop / "model")


@pytest.fixture(scope="module")
def start(states: StartStates, model: ForecastModel, tiny: ModuleType) -> tuple[torch.Tensor, OrderedDict]:
    """Return two start times [2, 1, C, H, W] and their coordinates, as earth2studio's `fetch_data` gives them."""
    coords = Prognostic(model).input_coords()
    coords["time"] = np.array([tiny.START, tiny.SECOND], "datetime64[ns]")
    del coords["batch"]
    coords["lead_time"] = coords["lead_time"].astype("timedelta64[ns]")
    data = states(coords["time"], coords["variable"])
    assert data.dims == ("time", "variable", "lat", "lon") and np.array_equal(data.lat, coords["lat"])
    return torch.from_numpy(data.values.copy())[:, None], coords


def ensemble(
    start: tuple[torch.Tensor, OrderedDict], members: Any, times: slice = slice(None)
) -> tuple[torch.Tensor, OrderedDict]:
    """Give every member the start states, as `run.ensemble` does."""
    x, coords = start[0][times], start[1].copy()
    coords["time"] = coords["time"][times]
    members = np.asarray(members)
    return x.repeat(len(members), 1, 1, 1, 1, 1), OrderedDict({"ensemble": members}) | coords


def trajectory(adapter: Prognostic, x: torch.Tensor, coords: OrderedDict, steps: int) -> torch.Tensor:
    """Return leads 0 .. steps stacked along the axis of lead time."""
    pairs = list(itertools.islice(adapter.create_iterator(x, coords), steps + 1))
    axis = list(coords).index("lead_time")
    for k, (_, c) in enumerate(pairs):
        assert list(c) == list(coords) and c["lead_time"] == coords["lead_time"] + k * SIX_HOURS
    return torch.cat([values for values, _ in pairs], dim=axis)


@pytest.fixture(scope="module")
def five(model: ForecastModel, start: tuple[torch.Tensor, OrderedDict]) -> torch.Tensor:
    """Five members of both starts, leads 0 to 18 h: [5, 2, 4, C, H, W]."""
    return trajectory(Prognostic(model, seed=7), *ensemble(start, range(5)), steps=3)


def test_the_adapter_has_the_shape_of_the_protocol(model: ForecastModel) -> None:
    """Ours has every member of the protocol, and is one of theirs where earth2studio is installed."""
    adapter = Prognostic(model)
    assert isinstance(adapter, PrognosticModel) and adapter.to("cpu") is adapter and callable(adapter.set_rng)
    try:
        from earth2studio.data import DataSource
        from earth2studio.models.px import PrognosticModel as Theirs
    except ImportError:
        return
    assert isinstance(adapter, Theirs) and isinstance(StartStates(None), DataSource)  # type: ignore[arg-type]


def test_coordinates_are_those_of_earth2studio(model: ForecastModel) -> None:
    """Batch and time are free, one lead time of zero, names of the lexicon, north first; output is six hours later."""
    adapter = Prognostic(model)
    coords = adapter.input_coords()
    assert list(coords) == ["batch", "time", "lead_time", "variable", "lat", "lon"]
    assert coords["batch"].shape == coords["time"].shape == (0,) and coords["lead_time"] == np.timedelta64(0, "h")
    assert {"z500", "t2m", "msl", "tp06"} <= set(coords["variable"])
    assert np.array_equal(coords["lat"], model.codec.grid.latitude[::-1]) and (np.diff(coords["lat"]) < 0).all()
    out = adapter.output_coords(coords)
    assert out["lead_time"] == SIX_HOURS and coords["lead_time"] == np.timedelta64(0, "h")
    assert all(np.array_equal(out[k], coords[k]) for k in coords if k != "lead_time")


def test_the_iterator_gives_what_gen_sample_gives(
    workshop: Path, tiny: ModuleType, five: torch.Tensor, start: Any, tmp_path: Path
) -> None:
    """The same bits, member by member and lead by lead, for two starts at once; the first is the state itself."""
    wish = {"init": (tiny.START, tiny.SECOND), "members": 5, "lead": "18h", "dtype": "float32", "device": "cpu"}
    wish |= {"model": str(workshop / "model"), "seed": 7, "layout": "earth2studio", "plot": False}
    path = run_sample("forecast", {**wish, "out": tmp_path / "f.nc"})
    with xr.open_dataset(path, decode_timedelta=True) as file:
        for c, name in enumerate(start[1]["variable"]):
            expected = file[name].transpose("ensemble", "time", "lead_time", "lat", "lon")
            assert np.array_equal(expected, five[:, :, 1:, c]) and np.array_equal(file.lat, start[1]["lat"])
    assert torch.equal(five[:, :, :1], ensemble(start, range(5))[0])


def test_calling_advances_by_one_step(model: ForecastModel, start: Any, five: torch.Tensor) -> None:
    """A call is the iterator's first step; a second call goes on from there, at its valid time, with other noise."""
    adapter = Prognostic(model, seed=7)
    x, coords = adapter(*ensemble(start, range(5)))
    assert torch.equal(x, five[:, :, 1:2]) and coords["lead_time"] == SIX_HOURS
    y, later = adapter(x, coords)
    assert later["lead_time"] == 2 * SIX_HOURS and y.shape == x.shape and not torch.equal(y, x)
    assert torch.equal(adapter(x, coords)[0], y)


def test_a_member_does_not_depend_on_its_batch(model: ForecastModel, start: Any, five: torch.Tensor) -> None:
    """Members 3 and 4 of one start, asked for alone, have the bits that they have among all; order does not count."""
    adapter = Prognostic(model, seed=7)
    assert torch.equal(trajectory(adapter, *ensemble(start, [3, 4]), steps=3), five[3:])
    second = trajectory(adapter, *ensemble(start, [4, 0], slice(1, 2)), steps=3)
    assert torch.equal(second[:, 0], five[[4, 0], 1])


def test_without_an_ensemble_there_is_one_member(model: ForecastModel, start: Any, five: torch.Tensor) -> None:
    """[time, lead, ...] as in `run.deterministic` is member 0; two leading dimensions number their rows in order."""
    adapter = Prognostic(model, seed=7)
    assert torch.equal(trajectory(adapter, *start, steps=1), five[0, :, :2])
    x, coords = ensemble(start, range(4))
    coords = OrderedDict(model=np.array(["a", "b"]), ensemble=np.arange(2)) | coords
    coords["ensemble"] = np.arange(2)
    split = trajectory(adapter, x.unflatten(0, (2, 2)), coords, steps=1)
    assert torch.equal(split.flatten(0, 1), five[:4, :, :2])


def test_seed_and_rows_are_the_callers(model: ForecastModel, start: Any, five: torch.Tensor) -> None:
    """`set_rng` changes the noise and brings it back; blocks of another size agree to rounding (1e-4 of the spread)."""
    adapter = Prognostic(model)
    adapter.set_rng(8, reset=False)
    other = trajectory(adapter, *ensemble(start, range(5)), steps=1)
    assert not torch.equal(other[:, :, 1], five[:, :, 1])
    adapter.set_rng(7)
    assert torch.equal(trajectory(adapter, *ensemble(start, range(5)), steps=1), five[:, :, :2])
    wide = trajectory(Prognostic(model, seed=7, rows=10), *ensemble(start, range(5)), steps=1)
    scale = five.std(dim=(-2, -1), keepdim=True).mean(dim=(0, 1, 2), keepdim=True)
    assert float(((wide - five[:, :, :2]) / scale).abs().max()) < 1e-4


def test_each_member_starts_from_its_own_state(model: ForecastModel, start: Any, five: torch.Tensor) -> None:
    """A perturbed member differs, its neighbours keep their bits."""
    x, coords = ensemble(start, range(5))
    x = x.clone()
    x[2, 0, 0, list(coords["variable"]).index("t2m")] += 1.0
    moved = trajectory(Prognostic(model, seed=7), x, coords, steps=1)
    kept = [0, 1, 3, 4]
    assert torch.equal(moved[kept, :, 1], five[kept, :, 1]) and torch.equal(moved[2, 1, 1], five[2, 1, 1])
    assert not torch.equal(moved[2, 0, 1], five[2, 0, 1])


def reversed_along(coords: OrderedDict, name: str) -> OrderedDict:
    return OrderedDict(coords, **{name: coords[name][::-1]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: OrderedDict((k, v) for k, v in c.items() if k != "lat"), "coordinates lack lat; they must end with"),
        (lambda c: OrderedDict(reversed(c.items())), "coordinates are ordered lon, lat, variable, lead_time, time"),
        (lambda c: reversed_along(c, "variable"), "variables are more than the model's or in another order"),
        (lambda c: c | {"variable": np.array(["t2m", "z500"])}, "coordinates lack the variables z850, t500"),
        (lambda c: reversed_along(c, "lat"), "lat must be 16 values from .* to -.*; got 16 values from -"),
        (lambda c: c | {"lon": c["lon"][::2]}, "lon must be 32 values from 0 to 348.75; got 16 values"),
        (lambda c: c | {"lead_time": np.array([-6, 0], "timedelta64[h]")}, "one lead time; got 2"),
        (lambda c: c | {"time": c["time"][:1]}, r"x has shape \(2, 1, 14, 16, 32\); its coordinates have \(1, 1"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(model: ForecastModel, start: Any, spoil: Any, message: str) -> None:
    """Before anything is computed, one line names what is wrong."""
    with pytest.raises(ValueError, match=message) as caught:
        Prognostic(model).create_iterator(start[0], OrderedDict(spoil(start[1])))
    assert "\n" not in str(caught.value)


def test_values_that_cannot_be_used_are_refused(model: ForecastModel, start: Any) -> None:
    """Half hours, and missing values, are named."""
    x, coords = start
    half = OrderedDict(coords, time=coords["time"] + np.timedelta64(30, "m"))
    with pytest.raises(ValueError, match="whole hours"):
        list(itertools.islice(Prognostic(model).create_iterator(x, half), 2))
    x = x.clone()
    x[0, 0, list(coords["variable"]).index("msl"), 3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in msl"):
        list(itertools.islice(Prognostic(model).create_iterator(x, coords), 2))


def test_gaps_that_the_codec_knows_are_taken(model: ForecastModel, start: Any, monkeypatch: Any) -> None:
    """Sea-surface temperature is NaN over land: such a channel may have gaps, and members share the encoded state."""
    x, coords = ensemble(start, range(3))
    x = x.clone()
    x[..., list(coords["variable"]).index("t2m"), 3:9, 3:9] = torch.nan
    encode, calls = model.codec.encode, []
    monkeypatch.setattr(model.codec, "missing", {"2t": -2.0})
    monkeypatch.setattr(model.codec, "encode", lambda values: calls.append(len(values)) or encode(values))
    frames = trajectory(Prognostic(model), x, coords, steps=1)
    assert torch.isfinite(frames[:, :, 1]).all() and calls == [1, 1]


def test_start_states_answer_as_a_data_source(states: StartStates, tiny: ModuleType) -> None:
    """One or several times and names, datetime or datetime64, also asynchronously; what is not there is named."""
    one = states(datetime.fromisoformat(tiny.START), "t2m")
    assert one.shape == (1, 1, 16, 32) and one["variable"].item() == "t2m"
    assert float(one.mean()) == pytest.approx(280, abs=30)
    both = asyncio.run(states.fetch(np.array([tiny.START, tiny.SECOND], "datetime64[ns]"), ["z500", "t2m"]))
    assert both.shape == (2, 2, 16, 32) and np.array_equal(both[0, 1], one[0, 0])
    with pytest.raises(ValueError, match="the nearest times are"):
        states(np.datetime64("2020-01-02T06"), "t2m")
    with pytest.raises(ValueError, match="lacks w at 500 hPa"):
        states(np.datetime64(tiny.START), "w500")


def test_the_lexicon_goes_round_for_every_channel() -> None:
    """84 LaDCast channels, those of the demo and every other: name and back; 2t, 10u and 10v are t2m, u10m and v10m."""
    every = make_channels([n for n, v in VARIABLES.items() if v.kind == "upper"], range(1, 1101))
    surface = tuple(Channel(n) for n, v in VARIABLES.items() if v.kind == "surface")
    assert len(set(LADCAST_CHANNELS)) == 84 and set(LADCAST_CHANNELS) <= {*every, *surface}
    names = [to_lexicon(channel) for channel in (*every, *surface)]
    assert len(set(names)) == len(names)
    assert [from_lexicon(name) for name in names] == [*every, *surface]
    assert [to_lexicon(c) for c in LADCAST_CHANNELS[-6:]] == ["u10m", "v10m", "t2m", "msl", "sst", "tp06"]
    try:
        from earth2studio.lexicon.base import E2STUDIO_VOCAB
    except ImportError:
        return
    assert {to_lexicon(c) for c in LADCAST_CHANNELS} | {"sp"} <= set(E2STUDIO_VOCAB)


@pytest.mark.parametrize("name", ["2t", "10u", "z", "zs", "lsm", "tas", "geopotential", "tcwv", "z0"])
def test_names_outside_the_lexicon_are_refused(name: str) -> None:
    """Our own codes, other people's names, fields that no model predicts."""
    with pytest.raises(ValueError, match="none that our models know|needs a pressure level"):
        from_lexicon(name)


def test_a_model_of_a_simulated_world_says_so(model: ForecastModel, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever runs it beside others on real analyses is told."""
    Prognostic(model)
    assert model.meta.simulated and "simulated world" in caplog.text
