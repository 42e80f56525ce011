"""Figures of scores draw the numbers of the evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gen.metrics.base import PartialSums
from gen.metrics.summary import summarise
from gen.plot.scores import plot_scores

CODES = ("z500", "2t")


@pytest.fixture(scope="module")
def scores():
    """Score 8 start dates of made-up statistics."""
    rng = np.random.default_rng(0)
    shape, members = (8, 3, 2), 4
    statistics = {}
    for system, size in (("model", 1.0), ("climatology", 2.0), ("persistence", 3.0)):
        error = size * np.array([98.0665, 1.0]) * rng.gamma(50, 1 / 50, shape)
        statistics[f"{system}/crps"] = error
        statistics[f"{system}/squared_error"] = error**2
    statistics["model/variance"] = statistics["model/squared_error"]
    statistics["model/rank_histogram"] = np.broadcast_to([0.3, 0.2, 0.1, 0.2, 0.2], (*shape, 5)).copy()
    statistics["truth/power"] = np.broadcast_to((1.0 + np.arange(9)) ** -3, (*shape, 9)).copy()
    statistics["model/power"] = 0.8 * statistics["truth/power"]
    dates = np.datetime64("2041-01-01", "h") + 240 * np.arange(8).astype("timedelta64[h]")
    leads = np.array([24, 120, 240], "timedelta64[h]")
    return summarise(PartialSums(dates, leads, CODES, statistics, {"members": {"model": members}}))


def test_all_four_figures_are_written_from_a_file(scores, tmp_path):
    """From the JSON that `gen evaluate` writes."""
    source = tmp_path / "scores.json"
    source.write_text(json.dumps(scores))
    written = plot_scores(source, tmp_path / "figures")
    assert [p.name for p in written] == ["crps.png", "spread_skill.png", "rank_histogram.png", "spectra.png"]
    assert all(p.stat().st_size > 10_000 for p in written)


def test_crps_curves_are_the_scores_in_customary_units(scores, figures, tmp_path):
    """z500 in dam: the model's curve is value / 98.0665 at lead days 1, 5, 10; baselines are beside it."""
    plot_scores(scores, tmp_path)
    curves = {line.get_label(): line for line in figures[0].axes[0].get_lines()}
    assert set(curves) == {"model", "climatology", "persistence"}
    value = np.array(scores["scores"]["model"]["crps"]["z500"]["value"])
    assert np.allclose(curves["model"].get_ydata(), value / 98.0665)
    assert np.allclose(curves["model"].get_xdata(), [1, 5, 10])
    assert figures[0].axes[0].get_ylabel() == "dam" and figures[0].axes[1].get_ylabel() == "K"
    assert "8 start dates" in figures[0].get_suptitle()


def test_rank_histograms_are_relative_to_uniform(scores, figures, tmp_path):
    """Five bins centred on 0..4: frequency times 5."""
    plot_scores(scores, tmp_path)
    steps = figures[2].axes[0].patches[0]
    values, edges, _ = steps.get_data()
    assert np.allclose(values, [1.5, 1.0, 0.5, 1.0, 1.0]) and np.allclose(edges, np.arange(6) - 0.5)


def test_spectra_show_power_and_its_ratio(scores, figures, tmp_path):
    """Wavenumbers from 1, truth and model above, the constant ratio 0.8 below."""
    plot_scores(scores, tmp_path)
    upper, lower = figures[3].axes[0], figures[3].axes[2]
    truth = next(line for line in upper.get_lines() if line.get_label() == "truth")
    assert np.allclose(truth.get_xdata(), np.arange(1, 9)) and np.allclose(
        truth.get_ydata(), (2.0 + np.arange(8)) ** -3
    )
    ratio = next(line for line in lower.get_lines() if line.get_label() == "model")
    assert np.allclose(ratio.get_ydata(), 0.8)


def test_missing_parts_are_left_out(scores, figures, tmp_path):
    """Scores without spectra or histograms (an old file, one member) still give their curves."""
    few = {k: v for k, v in scores.items() if k not in ("spectra", "rank_histogram")}
    assert [p.name for p in plot_scores(few, tmp_path)] == ["crps.png", "spread_skill.png"]
