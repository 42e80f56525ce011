"""Rain between frames: cells that move, stand, vanish at the edge, and the hour that frames make."""

from __future__ import annotations

import numpy as np
import pytest

from downscaling.sources.advection import between, motion
from downscaling.sources.base import GriddedRain, PrecipitationSource
from downscaling.sources.derived import accumulated
from gen.grid import LatLonGrid

SHAPE, START, SPEED = (160, 224), np.array([[60.0, 40.0], [95.0, 66.0]]), np.array([3.0, 14.0])  # pixels, pixels a step
STEP = np.timedelta64(10, "m")


def cells(step: float, speed: np.ndarray = SPEED) -> np.ndarray:
    """Return two Gaussian showers, 20 and 12 mm/h, `step` steps after the start."""
    rows, columns = np.indices(SHAPE)
    rain = np.zeros(SHAPE)
    for (y, x), peak, width in zip(START + step * speed, (20.0, 12.0), (4.0, 6.0), strict=True):
        rain += peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    return np.where(rain < 0.01, 0, rain).astype(np.float32)


def source(frames: list[np.ndarray], hours: float = 0.0) -> PrecipitationSource:
    height, width = frames[0].shape
    grid = LatLonGrid(50 + 0.01 * np.arange(height), 5 + 0.01 * np.arange(width))
    times = np.datetime64("2020-06-01T00:00") + STEP * np.arange(len(frames))
    return GriddedRain("frames", grid, times, hours, "test", lambda i, m: frames[i])


def test_moving_cells_leave_a_smooth_hour() -> None:
    """The advected hour is the finely sampled one within 3 % of its norm; the mean of frames misses it by over 30 %."""
    frames = [cells(k) for k in range(7)]
    fine = np.mean([cells(k / 50) for k in range(1, 300)] + [(cells(0) + cells(6)) / 2], axis=0)
    advected, plain = (accumulated(source(frames), 6, n) for n in (10, 1))
    error = [np.linalg.norm(s.read(-1) - fine) / np.linalg.norm(fine) for s in (advected, plain)]
    assert error[0] < 0.03 and error[1] > 0.3
    assert advected.read(0).sum() == pytest.approx(fine.sum(), rel=0.01)
    assert advected.read(0).min() >= 0 and (advected.read(0)[:20] == 0).all()
    assert (
        len(advected.times()) == 1 and len(plain.times()) == 2 and advected.interval_hours == plain.interval_hours == 1
    )


def test_motion_is_that_of_the_cells() -> None:
    """Their displacement within a tenth of a pixel where it rains, that of the rain where it is dry, none when dry."""
    found = motion(cells(0), cells(1))
    wet = cells(0.5) > 1
    for component, true in zip(found, SPEED, strict=True):
        np.testing.assert_allclose(component[wet], true, atol=0.1)
        np.testing.assert_allclose(component, true, atol=2)
    np.testing.assert_array_equal(motion(np.zeros(SHAPE, np.float32), cells(1)), 0)
    turned = motion(cells(0).T.copy(), cells(1).T.copy())
    np.testing.assert_allclose(turned[::-1].transpose(0, 2, 1), found, atol=0.05)


def test_standing_rain_is_the_plain_mean() -> None:
    """Rain that stands is itself; where it swells by half and shrinks, within 3 % of the trapezoidal mean."""
    frames = [cells(0) * np.float32(k) for k in (2, 3, 2, 2)]
    trapezium = (frames[0] / 2 + frames[1] + frames[2] + frames[3] / 2) / 3
    hour = accumulated(source(frames), 3, 5).read(0)
    assert np.linalg.norm(hour - trapezium) < 0.03 * np.linalg.norm(trapezium)
    still = np.zeros((2, *SHAPE), np.float32)
    np.testing.assert_allclose(next(between(*frames[:2], [0.25], still)), frames[0] * 1.125, rtol=1e-3, atol=1e-3)
    same = accumulated(source([frames[0]] * 4), 3, 5).read(0)
    np.testing.assert_allclose(same, accumulated(source([frames[0]] * 4), 3).read(0), rtol=1e-4, atol=1e-5)


def test_frames_are_met_at_both_ends() -> None:
    """Shares 0 and 1 return the frames; a third of the way the cells are a third of the way, with their mass."""
    first, second = cells(0), cells(1)
    start, third, end = between(first, second, [0.0, 1 / 3, 1.0], motion(first, second))
    np.testing.assert_allclose(start, first, atol=1e-3)
    np.testing.assert_allclose(end, second, atol=1e-3)
    assert np.linalg.norm(third - cells(1 / 3)) < 0.05 * np.linalg.norm(third)
    assert third.sum() == pytest.approx(first.sum(), rel=0.01)


def test_missing_stays_missing_and_does_not_spread() -> None:
    """The hour is missing where a frame is and nowhere else; where motion leads out of the known, frames are mixed."""
    frames = [cells(k) for k in range(4)]
    frames[1] = frames[1].copy()
    frames[1][40:50, 70:90] = np.nan
    for frame in frames:
        frame[:, :30] = np.nan
    hour = accumulated(source(frames), 3, 5).read(0)
    np.testing.assert_array_equal(np.isnan(hour), np.isnan(sum(frames)))
    shift = np.stack([np.zeros(SHAPE), np.full(SHAPE, 30.0)]).astype(np.float32)
    ramp = np.broadcast_to(np.arange(SHAPE[1], dtype=np.float32), SHAPE)
    middle = next(between(ramp, ramp + 2, [0.5], shift))
    np.testing.assert_allclose(middle[:, :15], ramp[:, :15] + 1)  # its source lies beyond the map
    np.testing.assert_allclose(middle, ramp + 1, atol=1e-3)


def test_dry_frames_stay_dry() -> None:
    """Nothing comes from nothing; a shower that dies in the first of two steps leaves a quarter, where it was."""
    dry = np.zeros(SHAPE, np.float32)
    assert (accumulated(source([dry] * 3), 2, 5).read(0) == 0).all()
    np.testing.assert_allclose(
        accumulated(source([cells(0), dry, dry]), 2, 5).read(0), cells(0) / 4, rtol=1e-4, atol=1e-6
    )


def test_small_maps_and_single_pixels_have_no_motion_to_find() -> None:
    """Maps smaller than a block and showers that leave no trace are averaged in place."""
    frames = [np.full((5, 7), float(k), np.float32) for k in range(3)]
    np.testing.assert_allclose(accumulated(source(frames), 2, 4).read(0), 1.0, rtol=1e-6)


def test_wrong_input_says_what_is_wrong() -> None:
    """Too few frames, no substeps, frames without gaps, shapes and shares that do not fit."""
    frames = [cells(0)] * 3
    with pytest.raises(ValueError, match="no 4 evenly spaced times"):
        accumulated(source(frames), 3, 2)
    with pytest.raises(ValueError, match="at least one substep"):
        accumulated(source(frames), 2, 0)
    with pytest.raises(ValueError, match="no time to interpolate"):
        accumulated(source(frames, hours=1 / 6), 2, 2)
    with pytest.raises(ValueError, match="one shape"):
        motion(cells(0), cells(0)[1:])
    shift = np.zeros((2, *SHAPE), np.float32)
    with pytest.raises(ValueError, match="0 to 1"):
        next(between(cells(0), cells(1), [1.5], shift))
    with pytest.raises(ValueError, match="displacement"):
        next(between(cells(0), cells(1), [0.5], shift[:, 1:]))
