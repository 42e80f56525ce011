"""RainShift: positions on grids that share no edge, regions scored on their own truth, days and events resampled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from downscaling.baselines import draw_baseline
from downscaling.evaluate import MODEL, run_evaluate
from downscaling.model import DownscalingModel
from downscaling.overlap import Overlap
from downscaling.paired import cell_positions, centre_cells, matched
from downscaling.rainshift_cases import RegionCases, chosen_times
from downscaling.score_summary import TRUTH, summarise
from downscaling.sources.rainshift import region_folders
from gen.cli import main
from gen.data.sources import SourceError
from gen.grid import LatLonGrid
from gen.metrics.bootstrap import Bootstrap

BIAS = 0.7  # of the input's amounts in `rainshift_fixture`
ERA5 = LatLonGrid(40 + 0.25 * np.arange(80), -5 + 0.25 * np.arange(80))
IMERG = LatLonGrid(40.05 + 0.1 * np.arange(200), -4.95 + 0.1 * np.arange(200))


@pytest.fixture(scope="module")
def data(write_region: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two regions, six degrees wide: one day to learn from, three days to score."""
    root = tmp_path_factory.mktemp("rainshift")
    write_region(root, "europe_west", bias=BIAS)
    write_region(root, "amazon-basin", seed=1, bias=2.0)
    return root


@pytest.fixture(scope="module")
def model(tiny_model: DownscalingModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model.save(folder)
    return folder


def test_positions_come_from_the_grids() -> None:
    """40.05 N lies 0.175 degrees above the lower edge of the cell centred on 40 N: 0.7 of it. No pixel edge is shared.

    The cell of a centre is the nearest ERA5 point; longitudes that differ by whole circles are the same.
    """
    rows, columns = cell_positions(ERA5, IMERG)
    np.testing.assert_allclose(rows, (IMERG.latitude - 39.875) / 0.25, atol=1e-9)
    assert columns[0] == 0.7 and rows[-1] == pytest.approx(80.3)  # the last centre lies beyond the last cell
    edges = (IMERG.latitude_bounds() - 39.875) / 0.25
    assert np.abs(edges - edges.round()).min() > 0.05
    cells, _ = centre_cells(ERA5, IMERG)
    expected = np.abs(IMERG.latitude[:, None] - ERA5.latitude[None]).argmin(axis=1)
    np.testing.assert_array_equal(cells, expected)
    far = LatLonGrid(IMERG.latitude, IMERG.longitude + 300)
    turned = LatLonGrid(ERA5.latitude, ERA5.longitude - 60)
    np.testing.assert_allclose(cell_positions(turned, far)[1], columns, atol=1e-9)


def test_a_window_takes_the_cells_over_it_and_a_margin() -> None:
    """Pixels 40 to 79 lie over the cells of positions 16.5 to 32.5: cells 16 to 32, one more on either side."""
    rows = slice(40, 80)
    fine = LatLonGrid(IMERG.latitude[rows], IMERG.longitude[rows])
    coarse = np.add.outer(np.arange(80.0), 100 * np.arange(80.0)).astype(np.float32)
    pair = matched(np.ones((40, 40), np.float32), fine, coarse, ERA5)
    np.testing.assert_array_equal(pair.coarse, coarse[15:34, 15:34])
    assert pair.factor == 2.5 and np.isfinite(pair.fine).all()
    np.testing.assert_allclose(cell_positions(pair.coarse_grid, fine)[0], cell_positions(ERA5, fine)[0] - 15)
    whole = matched(np.ones((200, 200), np.float32), IMERG, coarse, ERA5)
    assert np.isnan(whole.fine[-1]).all() and np.isnan(whole.fine[:, -1]).all() and np.isnan(whole.fine).sum() == 399
    with pytest.raises(ValueError, match="lies beside the coarse one"):
        matched(np.ones((40, 40), np.float32), LatLonGrid(fine.latitude - 30, fine.longitude), coarse, ERA5)


def test_baselines_know_where_the_pixels_lie() -> None:
    """A plane is interpolated exactly between the outer centres; RainFARM keeps the amounts of cells out of step."""
    north, east = np.meshgrid(ERA5.latitude - 40, ERA5.longitude + 5, indexing="ij")
    fine = LatLonGrid(IMERG.latitude[20:100], IMERG.longitude[20:100])
    pair = matched(np.ones((80, 80), np.float32), fine, (1 + north + 2 * east).astype(np.float32), ERA5)
    overlap = Overlap.between(pair.coarse_grid, fine)
    expected = 1 + (fine.latitude[:, None] - 40) + 2 * (fine.longitude[None] + 5)
    np.testing.assert_allclose(draw_baseline("bilinear", pair, overlap, 1, 0)[0], expected, rtol=1e-5)
    drawn = draw_baseline("rainfarm-fused", pair, overlap, 2, 0)
    inside = np.where(overlap.active, pair.coarse, np.nan)
    assert np.nanmax(np.abs(overlap.apply(drawn) - inside)) < 1e-4 * pair.coarse.max()


def record(region: str, time: np.datetime64, error: float) -> dict:
    system = {"crps": error, "crps_biased": error, "squared_error": error**2, "error": error, "mean": 1.0, "wet": 0.5}
    system |= {"rank": [0.5, 0.5], "wet_rank": [0.5, 0.5], "fss": [[[0.0, 1.0]]], "fss_chance": [[[0.0, 1.0]]]}
    system |= {"brier": [0.0], "brier_fair": [0.0], "spectrum": [1.0], "spectral_distance": 1.0, "histogram": [[1, 1]]}
    system |= {f"twcrps_{t}": error for t in (1, 5, 10)}
    truth = {"mean": 1.0, "wet": 0.5, "spectrum": [1.0], "histogram": [[1, 1]]}
    return {
        "factor": 2.5, "region": region, "time": str(time), "spacing_km": 11.0,
        "systems": {TRUTH: truth, MODEL: system},
    }  # fmt: skip


def hours(days: int) -> np.ndarray:
    return np.datetime64("2021-01-01T01:00", "m") + 60 * np.arange(24 * days) * np.timedelta64(1, "m")


def test_days_are_resampled_whole() -> None:
    """Errors that are the same all day: the interval is that of six daily values, not of 144 hours."""
    daily = np.random.default_rng(0).gamma(2.0, size=6)
    records = [record("a", t, float(daily[k // 24])) for k, t in enumerate(hours(6))]
    bootstrap = Bootstrap(resamples=500, seed=3)
    group = summarise(records, {MODEL: 1}, bootstrap, by="day")["groups"][0]
    expected = Bootstrap(resamples=500, block=1, seed=3).interval(lambda x: x, daily)
    found = group["systems"][MODEL]["scores"]["crps"]
    assert [found[k] for k in ("value", "low", "high")] == pytest.approx(
        [float(x) for x in (expected.value, expected.low, expected.high)], rel=1e-6
    )
    assert (group["times"], group["days"], group["resampled"], group["blocks"]) == (144, 6, "days", 6)
    by_hour = summarise(records, {MODEL: 1}, bootstrap)["groups"][0]["systems"][MODEL]["scores"]["crps"]
    assert by_hour["high"] - by_hour["low"] < 0.8 * (found["high"] - found["low"])


def test_five_events_are_resampled_as_events() -> None:
    """Pooled over five events the events are drawn, each with all of its hours; over four the times are."""
    errors = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    records = [record(f"e{k}", t, float(e)) for k, e in enumerate(errors) for t in hours(1)[:7]]
    group = summarise(records, {MODEL: 1}, Bootstrap(resamples=500, seed=1))["groups"]
    assert [g["region"] for g in group] == [None, "e0", "e1", "e2", "e3", "e4"]
    assert (group[0]["resampled"], group[0]["blocks"], group[0]["events"]) == ("events", 5, 5)
    expected = Bootstrap(resamples=500, block=1, seed=1).interval(lambda x: x, errors)
    found = group[0]["systems"][MODEL]["scores"]["crps"]
    assert (found["low"], found["high"]) == pytest.approx((float(expected.low), float(expected.high)), rel=1e-6)
    few = summarise(records[:28], {MODEL: 1}, Bootstrap(resamples=100))["groups"][0]
    assert (few["resampled"], few["events"], few["days"]) == ("times", 4, 4)


def test_the_transfer_gap_is_a_ratio_of_means() -> None:
    """Twice the error away from home is a gap of 100 %; regions at home have none."""
    random = np.random.default_rng(0)
    errors = {"home1": 1.0, "home2": 3.0, "away": 4.0}
    records = [record(r, t, e * float(random.uniform(0.9, 1.1))) for r, e in errors.items() for t in hours(4)]
    groups = summarise(records, {MODEL: 1}, Bootstrap(resamples=100), by="day", home=["home1", "home2"])["groups"]
    systems = {g["region"]: g["systems"][MODEL] for g in groups}
    gap = systems["away"]["gaps"]["crps"]
    assert gap["value"] == pytest.approx(1.0, abs=0.05) and gap["low"] < gap["value"] < gap["high"]
    assert "gaps" not in systems["home1"] and "gaps" not in systems[None]


def options(data: Path, model: Path, out: Path | None = None) -> dict:
    return {
        "rainshift": data, "model": str(model), "days": 1, "members": 2, "resamples": 100, "dtype": "float32",
        "baselines": ("bilinear", "quantile-mapping", "rainfarm-fused"), "out": out,
        "times": ("2021-07-01T01:00..2021-07-01T02:00",),
    }  # fmt: skip


def test_regions_are_scored_on_their_own_truth(data: Path, model: Path, tmp_path: Path) -> None:
    """Interpolated input has the known bias of the input, quantile mapping of the same region has hardly any."""
    chosen = {"regions": ("europe-west",), "times": ("2021-07-01T01:00..2021-07-01T04:00",)}
    settings = options(data, model, tmp_path) | chosen
    scores = run_evaluate(**settings | {"baselines": ("bilinear", "quantile-mapping")}, steps=1)
    group = scores["groups"][0]
    assert (group["times"], group["days"], group["factor"]) == (4, 1, 2.5)
    bias = {name: s["scores"]["bias"]["value"] for name, s in group["systems"].items()}
    assert bias["bilinear"] == pytest.approx(BIAS - 1, abs=0.05)
    assert abs(bias["quantile-mapping"]) < 0.15
    assert scores["setup"]["members"] == {MODEL: 2, "bilinear": 1, "quantile-mapping": 1}


def test_the_command_writes_a_table_for_each_region(data: Path, model: Path, tmp_path: Path) -> None:
    """Both regions, gaps against home, eight members by default; a second call computes nothing anew."""
    line = (
        f"evaluate --task downscaling --model {model} --rainshift {data} --home europe_west --times 2021-07-01T03:00 "
        f"--baselines bilinear,rainfarm-fused --resamples 100 --out {tmp_path} --figures {tmp_path}/figures --quiet"
    ).split()
    assert main(line) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [g["region"] for g in scores["groups"]] == [None, "amazon-basin", "europe_west"]
    assert scores["setup"]["members"][MODEL] == 8
    table = (tmp_path / "scores.md").read_text()
    assert "### Factor 2.5, amazon-basin: 1 crops at 1 times" in table and "amazon-basin: model" in table
    gaps = scores["groups"][1]["systems"]["bilinear"]["gaps"]
    values = [g["systems"]["bilinear"]["scores"]["crps"]["value"] for g in scores["groups"][1:]]
    assert gaps["crps"]["value"] == pytest.approx(values[0] / values[1] - 1, rel=1e-6)
    assert (tmp_path / "figures" / "regions.png").stat().st_size > 10_000
    lines = (tmp_path / "crops.jsonl").read_text()
    assert main(line) == 0 and (tmp_path / "crops.jsonl").read_text() == lines


def test_alignment_changes_what_the_model_sees_and_nothing_else(data: Path, model: Path) -> None:
    """Input twice too wet, mapped to the training rates of another law: other members, the same baselines."""
    found = []
    for align in ("none", "qm"):
        settings = options(data, model) | {"regions": ("amazon-basin",), "align": align, "baselines": ("bilinear",)}
        found.append(run_evaluate(**settings)["groups"][0]["systems"])
    values = [{n: s["scores"]["crps"]["value"] for n, s in f.items()} for f in found]
    assert values[0]["bilinear"] == values[1]["bilinear"] and values[0][MODEL] != values[1][MODEL]


def test_times_and_days_are_chosen() -> None:
    """Whole days, evenly spread; the hour that ends at midnight belongs to the day before."""
    ends = hours(10)
    picked = chosen_times(ends, days=3)
    assert picked.size == 72 and picked[0] == 0 and picked[-1] == 239
    assert chosen_times(ends, times=["2021-01-02..2021-01-03"], days=1).size == 24
    with pytest.raises(ValueError, match="11 days are wanted and 10 are there"):
        chosen_times(ends, days=11)
    with pytest.raises(ValueError, match="there is no time 2022-01-01; there are 2021-01-01"):
        chosen_times(ends, times=["2022-01-01"])


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        ({"regions": ("europe_wset",)}, "did you mean europe_west"),
        ({"regions": ("blacksea",)}, "has no folder blacksea; it has"),
        ({"home": ("amazon-basin",), "regions": ("europe_west",)}, "--home names amazon-basin, which is not scored"),
        ({"events": ("a.nc",)}, "leave out --events, --train, --truth"),
        ({"rainshift": None, "events": ("a.nc",)}, "--times belongs to --rainshift"),
        ({"align": "rank"}, "align must be one of none, qm, auto"),
    ],
)
def test_bad_requests_are_one_line(data: Path, model: Path, extra: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        run_evaluate(**options(data, model) | extra)
    assert "\n" not in str(caught.value)


def test_a_folder_without_regions_is_refused(tmp_path: Path, data: Path) -> None:
    """Nothing there, no test split: one line each; the folder of one region is enough."""
    with pytest.raises(SourceError, match="no folder with the name of a RainShift region"):
        region_folders(tmp_path)
    assert list(region_folders(data / "europe_west")) == ["europe_west"]
    (tmp_path / "blacksea").mkdir()
    with pytest.raises(SourceError, match="holds neither test_data_in.zarr"):
        RegionCases(tmp_path)
