"""A forecast model in Python: call it for an ensemble as an `xarray.Dataset`.

    import gen
    model = gen.load("demo")
    forecast = model("2024-01-01", members=8, lead="10d", variables=["z500", "2t"])

The values are those that `gen sample` writes, bit for bit; they are gathered in memory, so a large ensemble of many
variables is better sampled to a file.
"""

from __future__ import annotations

__all__ = ["ForecastPipeline", "load_pipeline"]

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autoencoders.weather import WeatherCodec
from forecast.channels import choose_channels
from forecast.model import ForecastModel
from forecast.request import ForecastRequest
from forecast.task import Forecast
from gen.data.variables import Channel
from gen.fields import Field
from gen.hub import ModelFolder
from gen.sample import stamped
from gen.writers.memory import MemoryWriter
from gen.writers.spec import LayoutName

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger(__name__)


def load_pipeline(model: ModelFolder) -> ForecastPipeline:
    """Load a model folder that has been opened."""
    return ForecastPipeline(ForecastModel.load(model), model.digest, model.path)


class ForecastPipeline:
    """A forecast model that is ready to be called.

    Args:
        model: codec and dynamics.
        digest: SHA-256 of its folder.
        folder: where it lies, for the start states that it may ship.
    """

    def __init__(self, model: ForecastModel, digest: str, folder: Path) -> None:
        """Remember the parts."""
        self.model, self.digest, self.folder = model, digest, folder

    @property
    def codec(self) -> WeatherCodec:
        """Return the codec: physical fields to latents and back, as tensors."""
        return self.model.codec

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Return what the model forecasts."""
        return self.codec.channels

    @property
    def device(self) -> torch.device:
        """Return where the networks are."""
        return self.codec.latent_mean.device

    def to(self, device: str | torch.device) -> ForecastPipeline:
        """Move the networks and return the pipeline."""
        self.model = self.model.to(device)
        return self

    def __call__(
        self,
        init: str | np.datetime64 | Sequence[str | np.datetime64],
        *,
        source: str = "demo",
        members: int = 8,
        lead: str = "10d",
        step: str | None = None,
        variables: Sequence[str] = (),
        levels: Sequence[int] = (),
        region: str | None = None,
        seed: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        dtype: str = "auto",
        batch: int | str | None = None,
        layout: LayoutName = "weatherbench",
        parity: bool = False,
    ) -> xr.Dataset:
        """Make an ensemble forecast.

        Args:
            init: start, or several: "2024-01-01", "2024-01-01T06", "2024-01-01..2024-01-31/1d", a datetime64.
            source: analysis to start from: a path, "wb2", "arco-era5", or "demo" for the states a model ships.
            members: ensemble size.
            lead: length, "10d" or "240h".
            step: time between frames (default: the model's).
            variables: names or codes (default: all); only these are decoded.
            levels: pressure levels in hPa (default: all).
            region: "S,N,W,E" in degrees.
            seed: of the noise.
            sampler: default: the model's.
            steps: sampler steps (default: the model's).
            dtype: arithmetic inside the networks: "auto", "float32" or "bfloat16".
            batch: members computed together, or "auto".
            layout: names and dimensions: "weatherbench", "cf" or "earth2studio".
            parity: sample as the original LaDCast does (see `forecast.parity`).

        Returns:
            What `xarray.open_dataset` reads from a file of `gen sample`.

        Raises:
            ValueError: a wish that cannot be met; one line.
        """
        request = ForecastRequest(
            init=_texts(init), members=members, lead=lead, step=step, variables=tuple(variables), levels=tuple(levels),
            region=region, sampler=sampler, steps=steps, seed=seed, device=str(self.device), dtype=dtype,
            source=source, model=str(self.folder), layout=layout, batch=batch, plot=False, parity=parity,
        )  # fmt: skip
        return self._gather(Forecast(request, self.model, self.digest))

    @torch.no_grad()
    def encode(self, states: Field | xr.Dataset) -> Tensor:
        """Return latents [..., Cz, h, w] of states on the model's grid, float32.

        Args:
            states: all channels of the model in SI units, with any leading dimensions.

        Raises:
            ValueError: a channel is missing, the grid is another, or there are NaN where the model has values.
        """
        field = states.select(self.channels) if isinstance(states, Field) else Field.from_xarray(states, self.channels)
        if field.grid != self.codec.grid:
            have, want = field.grid.shape, self.codec.grid.shape
            raise ValueError(
                f"states are on {have[0]} x {have[1]} cells, the model's grid has {want[0]} x {want[1]}"
                " (or other places): regrid them with gen.grid.regrid"
            )
        leading = field.values.shape[:-3]
        rows = field.values.reshape(-1, *field.values.shape[-3:]).float()
        latents = torch.cat([self.codec.encode(row[None].to(self.device)) for row in rows])
        return latents.reshape(*leading, *latents.shape[1:])

    @torch.no_grad()
    def decode(self, latents: Tensor, variables: Sequence[str] = (), levels: Sequence[int] = ()) -> Field:
        """Return the fields of latents [N, Cz, h, w] with their coordinates.

        Args:
            latents: as `encode` returns them.
            variables: names or codes (default: all); only these are decoded.
            levels: pressure levels in hPa (default: all).
        """
        channels = choose_channels(self.channels, variables, levels)
        index = [self.channels.index(c) for c in channels]
        fields = torch.cat([self.codec.decode(z[None].to(self.device), index).cpu() for z in latents])
        return Field(fields, channels, self.codec.grid, dims=("sample",))

    def _gather(self, task: Forecast) -> xr.Dataset:
        """Draw every unit of a task into memory."""
        if warning := task.warning():
            log.warning("note: %s", warning)
        spec, _ = stamped(task, task.request)
        writer = MemoryWriter(spec)
        for unit in task.units():
            for block in task.sample(unit):
                writer.write(block.part.init_index, block.part.members, block.values.numpy(), block.leads)
        return writer.dataset()


def _texts(init: Any) -> tuple[str, ...]:
    """Return start times as the texts of a request."""
    several = init if isinstance(init, (list, tuple, np.ndarray)) else [init]
    return tuple(str(np.datetime_as_string(t, unit="h")) if isinstance(t, np.datetime64) else str(t) for t in several)
