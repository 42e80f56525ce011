"""Make the folder that a package ships out of a trained one: half-precision weights, start states, model card.

Use: `python -m forecast.publish runs/demo/export forecast/weights/demo --archive runs/initial_states.nc --card CARD.md`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

__all__ = ["main", "publish"]

import torch

from forecast.data import ARCHIVE
from forecast.model import ForecastModel, SamplingDefaults
from gen.hub import seal


def publish(
    source: Path, target: Path, archive: Path | None = None, card: str = "", sampling: SamplingDefaults | None = None
) -> str:
    """Write `source` to `target` with float16 weights and return the digest of the new folder.

    Args:
        source: model folder of a training run.
        target: folder to write; an older model folder there is replaced.
        archive: NetCDF file of start states to ship.
        card: text of the model card.
        sampling: defaults of the sampler (chosen on validation years), if not those of the training run.
    """
    model = ForecastModel.load(source)
    if sampling is not None:
        model.meta = dataclasses.replace(model.meta, sampling=sampling)
    if archive is not None and model.codec.orography is None:
        model.codec.orography = _orography(archive)
    model.save(target, card=card, dtype=torch.float16)
    if archive is not None:
        shutil.copyfile(archive, target / ARCHIVE)
    return seal(target)


def _orography(archive: Path) -> torch.Tensor:
    """Read the geopotential at the surface of an archive of start states."""
    import xarray as xr

    with xr.open_dataset(archive, engine="h5netcdf") as states:
        return torch.from_numpy(states["geopotential_at_surface"].values.astype("float32"))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--card", type=Path)
    parser.add_argument("--sampling", type=json.loads, help="JSON of forecast.model.SamplingDefaults")
    chosen = parser.parse_args()
    card = chosen.card.read_text() if chosen.card else ""
    sampling = SamplingDefaults(**chosen.sampling) if chosen.sampling else None
    publish(chosen.source, chosen.target, chosen.archive, card, sampling)


if __name__ == "__main__":
    main()
