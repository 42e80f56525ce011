"""Generative models of the Earth; this package holds what no single task owns.

Importing `gen` costs nothing: no torch, no numpy, no side effect.
"""

from __future__ import annotations

__all__ = ["__version__", "load"]

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing's, whose import would be the only cost of this package
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def load(model: str | Path) -> Any:
    """Load a model: `gen.load("demo")` or `gen.load("folder")`.

    A forecast model gives a `forecast.pipeline.ForecastPipeline`, which is called to make an ensemble forecast as an
    `xarray.Dataset`; a codec gives an `autoencoders.weather.WeatherCodec`.

    Args:
        model: model folder, or the name of a packaged model.

    Raises:
        ValueError: there is no such model, or it is damaged; one line.
    """
    from gen.hub import load_pipeline

    return load_pipeline(model)
