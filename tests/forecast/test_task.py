"""forecast.task: requests become blocks of fields whose bits depend on nothing but what was asked."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from forecast.model import ForecastModel
from forecast.request import ForecastRequest
from forecast.task import Forecast
from gen.data.variables import parse_channel
from gen.hub import open_model


@pytest.fixture(scope="module")
def model(workshop: Path) -> tuple[ForecastModel, str]:
    return ForecastModel.load(workshop / "model"), open_model(workshop / "model").digest


class Asker:
    """Make forecasts of the tiny model; float32 on the CPU unless asked otherwise."""

    def __init__(self, folder: Path, start: str, model: tuple[ForecastModel, str]) -> None:
        self.folder, self.start, self.model = folder, start, model

    def __call__(self, **wish: Any) -> Forecast:
        wish = {"init": (self.start,), "members": 4, "lead": "1d", "dtype": "float32", "device": "cpu", **wish}
        return Forecast(ForecastRequest(model=str(self.folder), **wish), *self.model)

    def fields(self, **wish: Any) -> np.ndarray:
        """Return all values [inits, members, leads, C, H, W]."""
        forecast = self(**wish)
        spec = forecast.spec()
        out = np.full((len(spec.inits), spec.members, len(spec.leads), *spec.value_shape), np.nan, np.float32)
        for unit in forecast.units():
            for block in forecast.sample(unit):
                out[block.part.init_index, block.part.members, block.leads] = block.values.numpy()
        assert np.isfinite(out).all()
        return out


@pytest.fixture(scope="module")
def ask(workshop: Path, tiny: ModuleType, model: tuple[ForecastModel, str]) -> Asker:
    return Asker(workshop / "model", tiny.START, model)


@pytest.fixture(scope="module")
def whole(ask: Asker) -> np.ndarray:
    """Eight members, one day."""
    return ask.fields(members=8)


def test_a_member_does_not_depend_on_the_ensemble(ask: Asker, whole: np.ndarray) -> None:
    """Member k of 1, 3, 7 and 8 has identical bits: a short last block is padded."""
    for members in (1, 3, 7):
        assert np.array_equal(ask.fields(members=members), whole[:, :members])


def test_only_whole_blocks_are_decoded(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder sees the same number of members whatever the ensemble and the leads: other shapes may round apart."""
    forecast, seen = ask(members=6, lead="18h", step="18h"), []
    decode = forecast.model.codec.decode

    def counted(latent: torch.Tensor, index: list[int]) -> torch.Tensor:
        seen.append(len(latent))
        return decode(latent, index)

    monkeypatch.setattr(forecast.model.codec, "decode", counted)
    sizes = [tuple(b.values.shape[:2]) for u in forecast.units() for b in forecast.sample(u)]
    assert sizes == [(4, 1), (2, 1)] and seen == [4, 4]


def test_another_block_size_is_equal_to_rounding(ask: Asker, whole: np.ndarray) -> None:
    """Blocks of 1, 3 and 8 differ by float32 rounding only: 1e-4 of each channel's standard deviation in space."""
    scale = whole.std(axis=(-2, -1)).mean(axis=(0, 1, 2))[:, None, None]
    for size in (1, 3, 8):
        difference = np.abs(ask.fields(members=8, batch=size) - whole) / scale
        assert difference.max() < 1e-4


def test_members_differ_and_the_seed_decides(ask: Asker, whole: np.ndarray) -> None:
    """No two members are alike; the same seed gives the same bits, another seed other ones in every channel."""
    assert np.array_equal(ask.fields(members=8), whole)
    other = ask.fields(members=8, seed=1)
    assert all(not np.array_equal(other[0, :, :, c], whole[0, :, :, c]) for c in range(whole.shape[3]))
    spread = whole[0, :, -1].std(axis=0).mean(axis=(-2, -1))
    assert (spread > 0).all() and len({w.tobytes() for w in whole[0, :, 0]}) == 8


def test_a_longer_forecast_keeps_the_bits_of_a_shorter_one(ask: Asker, whole: np.ndarray) -> None:
    """6 h, half a call of the model, 18 h and 24 h share their bits."""
    for hours in (6, 18):
        assert np.array_equal(ask.fields(members=8, lead=f"{hours}h"), whole[:, :, : hours // 6])


def test_fewer_frames_are_the_same_frames(ask: Asker, whole: np.ndarray) -> None:
    """--step 12h and 24h write every second and fourth frame, bit for bit; 18 h steps skip a frame within a call."""
    assert np.array_equal(ask.fields(members=8, step="12h"), whole[:, :, 1::2])
    assert np.array_equal(ask.fields(members=8, step="1d"), whole[:, :, 3:])
    three = ask.fields(members=4, lead="36h", step="18h")
    assert np.array_equal(three[:, :, 0], whole[:, :4, 2])


def test_a_part_is_a_part_of_the_whole(ask: Asker, whole: np.ndarray) -> None:
    """Variables, levels and a region over Greenwich are the same bits as in the full file, in the model's order."""
    codes = [c.code for c in ask().channels]
    part = ask(variables=("msl", "q850", "geopotential", "tp06"), levels=(850,), region="-40,50,-60,40", members=8)
    assert [c.code for c in part.channels] == ["z850", "q850", "msl", "tp06"]
    grid = part.spec().grid
    assert grid.longitude[0] < 0 < grid.longitude[-1] and grid.latitude[0] >= -40 and grid.latitude[-1] <= 50
    rows, columns = part.model.codec.grid.indices(part.region)  # type: ignore[arg-type]
    index = [codes.index(c.code) for c in part.channels]
    expected = whole[:, :, :, index][..., rows, :][..., columns]
    got = ask.fields(
        variables=("msl", "q850", "geopotential", "tp06"), levels=(850,), region="-40,50,-60,40", members=8
    )
    assert np.array_equal(got, expected)


def test_starts_are_independent(ask: Asker, whole: np.ndarray, tiny: ModuleType) -> None:
    """Two starts in one request give what each gives alone."""
    both = ask.fields(init=(tiny.START, tiny.SECOND), members=4)
    assert np.array_equal(both[0], whole[0, :4])
    assert np.array_equal(both[1], ask.fields(init=(tiny.SECOND,), members=4)[0])
    assert not np.array_equal(both[0], both[1])


def test_physical_limits_hold(ask: Asker, whole: np.ndarray) -> None:
    """No negative rain or humidity although the decoder wants some; winds keep their sign."""
    forecast = ask()
    codes = [c.code for c in forecast.channels]
    for code in ("tp06", "q500", "q850"):
        assert whole[..., codes.index(code), :, :].min() >= 0
    assert (whole[..., codes.index("tp06"), :, :] == 0).any()
    assert whole[..., codes.index("v850"), :, :].min() < 0
    codec, unlimited = forecast.model.codec, []
    with torch.no_grad():
        for latent in forecast._latents(forecast.units()[0]):
            raw = latent[:, 0] * codec.latent_std[:, None, None] + codec.latent_mean[:, None, None]
            normal = codec._restore(codec.dcae.decode(raw), list(range(len(codes))))
            unlimited.append(codec.normalizer.inverse(normal)[:, codes.index("tp06")])
    assert float(torch.stack(unlimited).min()) < 0


def test_half_precision_stays_inside(ask: Asker, whole: np.ndarray) -> None:
    """bfloat16 is for the networks: the caller's arithmetic is untouched, values are float32 and near float32's.

    The tolerance is a tenth of the spatial standard deviation: 2^-8 roundings through two networks and four frames.
    """
    forecast = ask(dtype="bfloat16")
    assert forecast.attributes()["network_dtype"] == "bfloat16"
    for block in forecast.sample(forecast.units()[0]):
        assert not torch.is_autocast_enabled("cpu") and block.values.dtype == torch.float32
        expected = whole[0, :4, block.leads]
        error = np.abs(block.values.numpy() - expected).mean(axis=(0, 1, 3, 4))
        assert (error < 0.1 * expected.std(axis=(-2, -1)).mean(axis=(0, 1))).all() and error.max() > 0
    members = ask.fields(dtype="bfloat16", members=3), ask.fields(dtype="bfloat16", members=6)
    assert np.array_equal(members[0], members[1][:, :3])


def test_units_cover_every_member_once(ask: Asker, tiny: ModuleType) -> None:
    """Blocks of the model's size, the last one short, in the order of the file; one holds members of both starts."""
    units = ask(init=(tiny.START, tiny.SECOND), members=7).units()
    parts = [[(p.init_index, p.members.start, p.members.stop) for p in u.parts] for u in units]
    assert parts == [[(0, 0, 4)], [(0, 4, 7), (1, 0, 1)], [(1, 1, 5)], [(1, 5, 7)]]
    assert ask(batch=3).block_size == 3 and 1 <= ask(batch="auto", members=2).block_size <= 2


def test_the_file_will_say_what_made_it(ask: Asker) -> None:
    """Sampler and its cost, block size, precision, training data, source, and that the world is simulated."""
    facts = ask().attributes()
    assert facts["sampler"] == "dpmpp_2m, 2 steps, 2 evaluations per call" and facts["members_per_block"] == "4"
    assert facts["model_trained_on"] == "analytic weather" and facts["network_dtype"] == "float32"
    assert "simulated" in facts["analysis"] and facts["warning"].startswith("a forecast of a simulated world")
    euler = ask(sampler="euler", steps=3).attributes()
    assert euler["sampler"] == "euler, 3 steps, 3 evaluations per call"
    assert ask(format="latent").spec().latent == (16, 4, 8)


def test_another_sampler_has_its_own_noise_levels(ask: Asker) -> None:
    """The model's settings belong to its sampler; the same one with more steps keeps them."""
    more = ask(steps=7).sampler
    assert (more.points[0].sigma, more.points[6].sigma) == pytest.approx((20.0, 0.05))
    assert ask(sampler="flow-euler", steps=4).sampler.points[0].alpha == 0


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"step": "9h", "lead": "27h"}, "step must be a multiple of the model's 6 h; got 9 h"),
        ({"lead": "25h"}, "lead 25 h is not a multiple of step 6 h"),
        ({"variables": ("sst",)}, "the model has no 'sst'; it has z500, z850, t500"),
        ({"variables": ("geopotental",)}, "did you mean geopotential"),
        ({"variables": ("z700",)}, "the model has no 'z700'"),
        ({"levels": (700,)}, r"the model has no level 700 hPa; it has \[500, 850\]"),
        ({"sampler": "heum"}, "unknown sampler 'heum'.*did you mean 'heun'"),
        ({"device": "tpu9"}, "device must look like cpu, cuda or cuda:1; got 'tpu9'"),
        ({"device": "cuda:99"}, "there is no 'cuda:99' here"),
        ({"init": ("2020-01-02T06",)}, "the nearest times are 2020-01-02T00 and 2020-01-03T00"),
    ],
)
def test_what_the_model_does_not_have_is_refused(ask: Asker, wish: dict[str, Any], message: str) -> None:
    """One line names the value and what there is."""
    with pytest.raises(ValueError, match=message) as caught:
        ask(**wish)
    assert "\n" not in str(caught.value)


def test_a_region_without_cells_is_refused(ask: Asker) -> None:
    """A box smaller than the grid's cells is refused before the file is begun."""
    with pytest.raises(ValueError, match="needs at least two of each"):
        ask(region="0,1,0,1").spec()


def test_nothing_left_to_write_is_refused(ask: Asker) -> None:
    """A variable on a level that is not asked for leaves no channel."""
    with pytest.raises(ValueError, match="one"):
        ask(variables=("z500",), levels=(850,)).spec()


def test_channels_are_those_of_the_codec(ask: Asker) -> None:
    """Without a wish every channel of the model is written, in its order."""
    codes = ["z500", "z850", "t500", "t850", "u500", "u850", "v500", "v850", "q500", "q850", "2t", "msl", "sp", "tp06"]
    assert ask().channels == tuple(parse_channel(c) for c in codes) == ask().model.codec.channels
