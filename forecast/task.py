"""The forecast task: from a request to blocks of fields (see `gen.sample` for the loop that writes them)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Block", "Forecast", "Unit"]

import numpy as np
import torch

from diffusion.samplers import build_sampler
from forecast.channels import choose_channels
from forecast.data import open_analysis
from forecast.model import ForecastModel
from forecast.request import ForecastRequest, parse_duration
from forecast.rollout import rollout
from gen.grid import Region
from gen.hub import open_model, resolve
from gen.writers.latent import CODEC_HASH
from gen.writers.spec import FileSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """The smallest piece that is computed and kept as a whole: one start, one block of members."""

    init_index: int
    members: slice


@dataclass(frozen=True)
class Block:
    """Values [m, L, C, H, W] of one unit for the leads `leads`."""

    unit: Unit
    leads: slice
    values: torch.Tensor


class Forecast:
    """An ensemble forecast that can be drawn unit by unit.

    Args:
        request: what is wanted.
        model: the model; `digest`: its SHA-256.
    """

    Request = ForecastRequest

    def __init__(self, request: ForecastRequest, model: ForecastModel, digest: str) -> None:
        """Check the request against the model and open the analysis."""
        self.request, self.digest, self.meta = request, digest, model.meta
        self.device = _device(request.device)
        self.model = model.to(self.device)
        self.channels = choose_channels(model.codec.channels, request.variables, request.levels)
        self.index = [model.codec.channels.index(c) for c in self.channels]
        self.leads = self._leads()
        self.region = None if request.region is None else Region.parse(request.region)
        defaults = model.meta.sampling
        changed = request.sampler is not None and request.sampler != defaults.sampler
        settings: dict[str, Any] = {} if changed else dict(defaults.settings)
        self.sampler_name, self.steps = request.sampler or defaults.sampler, request.steps or defaults.steps
        self.sampler = build_sampler(self.sampler_name, self.steps, **settings)
        self.dtype = self._dtype()
        self.block_size = self._block_size()
        self.analysis = open_analysis(request.source, resolve(request.model), model.codec)
        self.analysis.check(request.inits)

    @classmethod
    def open(cls, request: ForecastRequest) -> Forecast:
        """Load the model that the request names."""
        folder = resolve(request.model)
        return cls(request, ForecastModel.load(folder), open_model(folder).digest)

    def _leads(self) -> np.ndarray:
        """Return the written lead times in hours."""
        native, step = self.meta.step_hours, self.meta.step_hours
        if self.request.step:
            step = parse_duration(self.request.step, "step")
        if step % native:
            raise ValueError(f"step must be a multiple of the model's {native} h; got {step} h")
        if self.request.lead_hours % step:
            raise ValueError(f"lead {self.request.lead_hours} h is not a multiple of step {step} h")
        return np.arange(step, self.request.lead_hours + 1, step)

    def _dtype(self) -> torch.dtype:
        if self.request.dtype != "auto":
            return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.request.dtype]
        if self.device.type == "cuda":
            return torch.bfloat16
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if fast else torch.float32

    def _block_size(self) -> int:
        wish = self.request.batch or self.meta.sampling.members_per_block
        if wish != "auto":
            return int(wish)
        c, h, w = len(self.model.codec.latent_mean), *self.model.codec.grid.shape
        per_member = 4 * self.meta.frames * (len(self.model.codec.channels) + c) * h * w * 64
        free = _free_memory(self.device)
        return int(max(1, min(self.request.members, 0.5 * free // per_member)))

    def units(self) -> list[Unit]:
        """Return every unit in the order of the file."""
        size, members = self.block_size, self.request.members
        blocks = [slice(a, min(a + size, members)) for a in range(0, members, size)]
        return [Unit(i, block) for i in range(len(self.request.inits)) for block in blocks]

    def spec(self) -> FileSpec:
        """Return what the file holds and says."""
        grid = self.model.codec.grid
        return FileSpec(
            channels=self.channels,
            grid=grid if self.region is None else grid.subset(self.region),
            members=self.request.members,
            inits=self.request.inits,
            leads=self.leads.astype("timedelta64[h]"),
            attrs=self.attributes(),
            layout=self.request.layout,
            latent=self.model.codec.latent_shape if self.request.format == "latent" else None,
        )

    def attributes(self) -> dict[str, str]:
        """Return the facts that make the file reproducible and honest."""
        facts = {
            "title": "Ensemble forecast of a generative model; synthetic data",
            "model": self.meta.name,
            "model_trained_on": self.meta.trained_on,
            "sampler": f"{self.sampler_name}, {self.steps} steps, {self.sampler.evaluations} evaluations per call",
            "members_per_block": str(self.block_size),
            "network_dtype": str(self.dtype).removeprefix("torch."),
            "analysis": self.analysis.description,
        }
        if self.request.format == "latent":
            facts[CODEC_HASH] = self.digest  # decoding with another model is refused
        if self.analysis.notes:
            facts["analysis_notes"] = "; ".join(self.analysis.notes)
        if warning := self.warning():
            facts["warning"] = warning
        return facts

    def warning(self) -> str:
        """Return what must be said before anyone believes the fields, or an empty text."""
        if not self.meta.simulated:
            return ""
        if self.analysis.simulated:
            return "a forecast of a simulated world, not of the real atmosphere"
        return (
            "started from a real analysis with weights trained on simulated data only: this is not a weather forecast"
        )

    def sample(self, unit: Unit) -> Iterator[Block]:
        """Yield the blocks of one unit, in the order of lead time.

        Whole blocks are decoded, one frame at a time, so that the bits of a member depend neither on the ensemble size
        nor on the leads that are written.
        """
        count = unit.members.stop - unit.members.start
        native, frames = self.meta.step_hours, self.meta.frames
        for call, latent in enumerate(self._latents(unit)):
            reached = native * (call * frames + 1 + np.arange(frames))
            keep = np.flatnonzero(np.isin(reached, self.leads))
            if keep.size:
                begin = int(np.searchsorted(self.leads, reached[keep[0]]))
                values = torch.stack([self._decode(latent[:, k])[:count] for k in keep], dim=1)
                yield Block(unit, slice(begin, begin + keep.size), values)

    def _latents(self, unit: Unit) -> Iterator[torch.Tensor]:
        """Yield latents [block size, T, C, h, w], call by call; a short last block is padded with further members."""
        time = self.request.inits[unit.init_index]
        members = [unit.members.start + k for k in range(self.block_size)]
        calls = -(-self.request.lead_hours // (self.meta.step_hours * self.meta.frames))
        with self._autocast():
            z = self.analysis.encode(time, members, self.device)
        hours = int(time.astype("datetime64[h]").astype(np.int64))
        stream = rollout(self.model, z, hours, members, calls, self.request.seed, self.sampler)
        for _ in range(calls):
            with self._autocast():  # not around the yield: the caller's arithmetic is its own
                latent = next(stream)
            yield latent

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Decode [m, C, h, w] to the wanted channels and region."""
        if self.request.format == "latent":
            return latent.float().cpu()
        with self._autocast():
            values = self.model.codec.decode(latent, self.index)
        if self.region is not None:
            rows, columns = self.model.codec.grid.indices(self.region)
            values = values[..., torch.from_numpy(rows), :][..., torch.from_numpy(columns)]
        return values.float().cpu()


def _device(wish: str | None) -> torch.device:
    """Return the device asked for, else an accelerator (one for each local process) if there is one."""
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wish is None:
        return torch.device(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % found}" if found else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ValueError(f"device must look like cpu, cuda or cuda:1; got {wish!r}") from None
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(f"there is no {wish!r} here; CUDA devices found: {found}")
    return device


def _free_memory(device: torch.device) -> float:
    """Return free bytes on the device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable"):
            return float(line.split()[1]) * 1024
    return 4.0e9
