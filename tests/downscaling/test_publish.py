"""The folder that a package ships: half-precision weights, a sample that is rain."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from downscaling.model import DownscalingModel
from downscaling.publish import SHAPE, STEP, TIMES, synthetic_rain
from downscaling.sources.opening import open_precipitation
from gen.hub import open_model


def test_the_shipped_folder_opens_with_its_sample(model_folder: Path, tiny_model: DownscalingModel) -> None:
    """Hashes hold, weights agree to half precision, the sample is synthetic hourly rain on its grid."""
    model = DownscalingModel.load(open_model(model_folder).path)
    for a, b in zip(model.state_dict().values(), tiny_model.state_dict().values(), strict=True):
        assert (a - b).abs().max() <= 1e-3 * b.abs().max()
    sample = open_precipitation(model_folder / "sample.nc")
    assert sample.synthetic and sample.interval_hours == 1 and sample.grid.shape == SHAPE
    assert len(sample.times()) == TIMES and np.allclose(np.diff(sample.grid.latitude), STEP)  # type: ignore[union-attr]


def test_the_sample_looks_like_rain() -> None:
    """A third of it is wet, peaks are heavy and not absurd, neighbouring hours are alike but not the same."""
    rain = synthetic_rain()
    assert 0.25 < (rain > 0.1).mean() < 0.4 and 5 < rain.max() < 30 and not (rain < 0).any()
    alike = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(rain, rain[1:], strict=False)]
    assert min(alike) > 0.5 and max(alike) < 0.99
