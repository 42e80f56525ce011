"""Transfer: alignment that leaves equals alone, undoes a known distortion and cuts nothing; guards that hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from downscaling.model import DownscalingMeta, SamplingDefaults
from downscaling.transfer import CLEAR, Transfer, distance, prepare, rain_quantiles, request_index, soft_clamp


def climate(seed: int, maps: int = 200, scale: float = 1.0, wet: float = 0.4) -> np.ndarray:
    """Return coarse rain [maps, 20, 20]: dry, or log-normal with a median of 0.5 mm/h."""
    random = np.random.default_rng(seed)
    rain = scale * 0.5 * np.exp(1.2 * random.standard_normal((maps, 20, 20)))
    return np.where(random.random(rain.shape) < wet, rain, 0.0).astype(np.float32)


def meta(quantiles: np.ndarray | None = None) -> DownscalingMeta:
    found = rain_quantiles([climate(0)]) if quantiles is None else quantiles
    return DownscalingMeta(
        {}, {"name": "flow"}, (1.0, 2.0), (2.5, 8.0), (0.0, 1.0), found.tolist(), "log-normal rain", True,
        SamplingDefaults(),
    )  # fmt: skip


def test_equal_statistics_are_left_as_they_are() -> None:
    """The map between a distribution and itself is the identity, to float32 rounding, in the tail as well."""
    rain = climate(0)
    knows = dataclasses.replace(meta(), quantiles=[*meta().quantiles[:-1], 1e3])  # the guard is far away
    done = Transfer.fit(knows.quantiles, knows, "qm")(rain)
    np.testing.assert_allclose(done.coarse, rain, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.4, 2.5])
def test_a_known_distortion_is_undone(scale: float) -> None:
    """Training rain times a constant comes back within 5 %; what remains is the threshold between wet and dry."""
    plain, knows = climate(0), meta()
    done = prepare(plain * np.float32(scale), knows, "qm")
    some = (plain > 0.5) & (plain < 15)  # far above the threshold, below the guard
    ratio = done.coarse[some] / plain[some]
    assert np.abs(np.quantile(ratio, [0.01, 0.99]) - 1).max() < 0.05
    assert done.notes["alignment"] != "none"
    assert distance(rain_quantiles([done.coarse]), knows.quantiles) < 0.05


def test_the_top_is_never_cut() -> None:
    """Beyond the input's own quantiles rates keep growing, in constant proportion."""
    mapping = Transfer.fit(rain_quantiles([climate(1, scale=2.0)]), meta(), "qm").mapping
    assert mapping is not None
    high = mapping(np.array([200.0, 400.0, 800.0]))
    np.testing.assert_allclose(high[1:] / high[:-1], 2.0)
    back = mapping.inverse(mapping(np.array([0.0, 0.01, 0.3, 5.0, 500.0])))
    np.testing.assert_allclose(back, [0.0, 0.01, 0.3, 5.0, 500.0], rtol=1e-2)


def test_dry_stays_dry_and_missing_stays_missing() -> None:
    """Whatever the share of wet cells in the input, its dry cells are dry afterwards and no other."""
    rain = climate(2, scale=3.0, wet=0.15)
    rain[0, :3] = np.nan
    done = prepare(rain, meta(), "qm").coarse
    np.testing.assert_array_equal(np.isnan(done), np.isnan(rain))
    np.testing.assert_array_equal(done == 0, rain == 0)


def test_auto_leaves_small_differences_and_short_inputs_alone() -> None:
    """A sample of the same climate and a single strange event are not aligned; a long strange input is."""
    same, strange = climate(3), climate(4, scale=8.0)
    assert prepare(same, meta(), "auto").notes["alignment"] == "none"
    assert prepare(strange[:20], meta(), "auto").notes["alignment"] == "none"
    assert distance(rain_quantiles([strange]), meta().quantiles) > CLEAR
    assert prepare(strange, meta(), "auto").notes["alignment"] != "none"
    assert prepare(strange, meta(), "none").notes["alignment"] == "none"


def test_a_thousandfold_error_is_flagged_and_bounded() -> None:
    """Metres called millimetres: the index passes one; what the network sees stays near the training data."""
    rain, knows = climate(6), meta()
    inside = prepare(rain / 2, knows, "none")
    assert inside.ood_index <= 1.05 and float(np.nanmedian(inside.ood)) == 0.0
    wrong = prepare(rain * 1000, knows, "none")
    assert wrong.ood_index > 1.5
    assert float(wrong.coarse.max()) <= 1.65 * knows.quantiles[-1] < float((rain * 1000).max())
    assert int(wrong.notes["guarded_cells"]) > 0


def test_the_guard_bends_smoothly_and_in_order() -> None:
    """Slope one at the knee, growing everywhere, bounded; below the knee nothing changes."""
    x = np.linspace(0, 500, 5001)
    bent, count = soft_clamp(x, meta().quantiles)
    first = int(np.argmax(x > 0)) + np.flatnonzero(bent != x)[0] - 1
    assert count == (bent != x).sum() and (np.diff(bent) > 0).all()
    assert np.diff(bent)[first] == pytest.approx(0.1, rel=0.02)


def test_requests_outside_the_training_ranges_count_octaves() -> None:
    """0 inside, 1 at the edge, 2 an octave outside; instantaneous rates count as a minute."""
    found = request_index(meta(), factors=16.0, spacing_km=1.5, interval_hours=0.0)
    assert found == pytest.approx({"factors": 2.0, "spacing_km": 0.0, "interval_hours": 0.0})
    assert request_index(meta(), spacing_km=0.5)["spacing_km"] == pytest.approx(2.0)
    assert prepare(climate(0), meta(), "none", factors=32.0).ood_index == pytest.approx(3.0)


def test_a_dry_input_and_bad_modes() -> None:
    """Dry maps pass through; an unknown mode is one line."""
    done = prepare(np.zeros((4, 5)), meta(), "qm")
    assert (done.coarse == 0).all() and done.ood_index == 0
    with pytest.raises(ValueError, match="align must be one of none, qm, auto; got 'cdf'"):
        prepare(np.zeros((4, 5)), meta(), "cdf")  # type: ignore[arg-type]
