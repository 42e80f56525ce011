"""Make the folder that a package ships out of a trained one: half-precision weights, a rain sample, model card.

Use: `python -m downscaling.publish runs/downscaling/export downscaling/weights/demo --card CARD.md`

The sample is synthetic: a Gaussian random field with a power-law spectrum drifts over a box by the North Sea, its
upper quantiles are rain. It lies on a coarse grid of 0.05 degrees, 2.5 times a spacing that the demo has seen, so that
`gen sample --task downscaling` runs with no argument beyond the task.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

__all__ = ["main", "publish", "synthetic_rain", "write_sample"]

import numpy as np
import torch
from numpy.typing import NDArray

from downscaling.model import DownscalingModel, SamplingDefaults
from downscaling.task import SAMPLE
from gen.hub import seal

SPECTRUM = 2.6  # power of the wavenumber that the variance density falls with
WET_SHARE = 0.35
SOUTH, WEST, STEP = 51.0, 3.0, 0.05  # degrees
SHAPE, TIMES = (40, 48), 4
RATE, GROWTH = 0.9, 1.0  # mm/h, and the growth of its logarithm with the field


def publish(source: Path, target: Path, card: str = "", sampling: SamplingDefaults | None = None) -> str:
    """Write `source` to `target` with float16 weights and a rain sample, and return the digest of the new folder.

    Args:
        source: model folder of a training run.
        target: folder to write; an older model folder there is replaced.
        card: text of the model card.
        sampling: defaults of the sampler (chosen on validation events), if not those of the training run.
    """
    model = DownscalingModel.load(source)
    if sampling is not None:
        model.meta = dataclasses.replace(model.meta, sampling=sampling)
    model.save(target, card=card, dtype=torch.float16)
    write_sample(target / SAMPLE)
    return seal(target)


def synthetic_rain(
    shape: tuple[int, int] = SHAPE, times: int = TIMES, seed: int = 0, drift: tuple[float, float] = (0.5, 2.0)
) -> NDArray[np.float32]:
    """Return rain rates [times, H, W] in mm/h of a random field that drifts and slowly changes.

    Args:
        shape: rows and columns.
        times: number of fields.
        seed: of the field.
        drift: cells by which the field moves between two times, north and east.
    """
    random = np.random.Generator(np.random.Philox(key=seed))
    size = 2 * max(shape)  # a torus larger than the box, so that its ends do not meet inside
    ky, kx = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
    k = np.hypot(ky, kx)
    amplitude = np.where(k > 0, np.maximum(k, 1.5) ** (-SPECTRUM / 2 - 0.5), 0.0)
    waves = [np.fft.rfft2(random.standard_normal((size, size))) for _ in range(2)]
    fields = []
    for t in range(times):
        angle = 0.25 * t
        shift = np.exp(-2j * np.pi * t * (ky * drift[0] + kx * drift[1]) / size)
        turned = np.cos(angle) * waves[0] + np.sin(angle) * waves[1]
        fields.append(np.fft.irfft2(turned * amplitude * shift, s=(size, size))[: shape[0], : shape[1]])
    field = np.stack(fields)
    z = (field - field.mean()) / field.std()
    limit = np.quantile(z, 1 - WET_SHARE)
    excess = np.maximum(z - limit, 0.0)
    rain = RATE * np.expm1(GROWTH * excess)
    return np.where(rain >= 0.05, rain, 0.0).astype(np.float32)


def write_sample(path: Path, seed: int = 0) -> Path:
    """Write the synthetic sample as NetCDF."""
    import xarray as xr

    rain = synthetic_rain(seed=seed)
    ends = np.datetime64("2024-01-15T07", "ns") + np.arange(TIMES) * np.timedelta64(1, "h")
    starts = ends - np.timedelta64(1, "h")
    attrs = {"standard_name": "precipitation_flux", "units": "kg m-2 h-1", "cell_methods": "area: mean time: mean"}
    axes = {
        "time": ("time", ends, {"bounds": "time_bnds", "standard_name": "time"}),
        "latitude": ("latitude", SOUTH + STEP * np.arange(SHAPE[0]), {"units": "degrees_north"}),
        "longitude": ("longitude", WEST + STEP * np.arange(SHAPE[1]), {"units": "degrees_east"}),
    }
    dataset = xr.Dataset(
        {
            "precipitation": (("time", "latitude", "longitude"), rain, attrs),
            "time_bnds": (("time", "bnds"), np.stack([starts, ends], -1)),
        },
        axes,
        {"title": "Synthetic rain from a random field", "synthetic": "true", "institution": "gen-earth (synthetic)"},
    )
    dataset["time"].encoding = dataset["time_bnds"].encoding = {"units": "minutes since 1970-01-01", "dtype": "int64"}
    packed = {"precipitation": {"zlib": True, "dtype": "float32"}}
    dataset.to_netcdf(path, engine="h5netcdf", encoding=packed)
    return path


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--card", type=Path)
    parser.add_argument("--sampling", type=json.loads, help="JSON of downscaling.model.SamplingDefaults")
    chosen = parser.parse_args()
    card = chosen.card.read_text() if chosen.card else ""
    publish(chosen.source, chosen.target, card, SamplingDefaults(**chosen.sampling) if chosen.sampling else None)


if __name__ == "__main__":
    main()
