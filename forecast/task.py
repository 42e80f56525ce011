"""The forecast task: from a request to blocks of fields (see `gen.sample` for the loop that writes them)."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["Forecast"]

import numpy as np
import torch

from diffusion.samplers import Sampler, build_sampler
from forecast.blocks import Block, Part, Unit, pack, rows
from forecast.channels import choose_channels
from forecast.compiling import compile_network
from forecast.data import open_analysis
from forecast.memory import fitting_block, largest_result
from forecast.model import ForecastModel
from forecast.overlap import on_side_stream, to_host
from forecast.parity import STEPS, check_parity, parity_sampler
from forecast.request import ForecastRequest, parse_duration
from forecast.rollout import rollout
from gen.device import choose_device
from gen.grid import LatLonGrid, Region
from gen.hub import open_model, resolve
from gen.writers.latent import CODEC_HASH
from gen.writers.recorded import recorded_attributes
from gen.writers.spec import FileSpec

log = logging.getLogger(__name__)


class Forecast:
    """An ensemble forecast that can be drawn unit by unit.

    Args:
        request: what is wanted.
        model: the model; `digest`: its SHA-256.
    """

    Request = ForecastRequest
    counted = "members"

    def __init__(self, request: ForecastRequest, model: ForecastModel, digest: str) -> None:
        """Check the request against the model and open the analysis."""
        self.request, self.digest, self.meta = request, digest, model.meta
        self.device = choose_device(request.device)
        self.model = model.to(self.device)
        self.channels = choose_channels(model.codec.channels, request.variables, request.levels)
        self.index = [model.codec.channels.index(c) for c in self.channels]
        self.leads = self._leads()
        self.region = None if request.region is None else Region.parse(request.region)
        self.sampler_name, self.steps, self.sampler = self._sampler()
        self.dtype = self._dtype()
        self.analysis = open_analysis(request.source, resolve(request.model), model.codec)
        self.analysis.check(request.inits)
        self.block_size = self._block_size()
        self.compiled = request.compile and compile_network(self.model, self.block_size, self.dtype)
        if request.parity and request.seed:
            log.warning("note: --seed %d has no effect with --parity: member k draws with seed k", request.seed)

    @classmethod
    def open(cls, request: ForecastRequest) -> Forecast:
        """Load the model that the request names."""
        folder = open_model(resolve(request.model))
        return cls(request, ForecastModel.load(folder), folder.digest)

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

    def _sampler(self) -> tuple[str, int, Sampler]:
        """Return name, steps and sampler; the model's settings belong to its own sampler."""
        request, defaults = self.request, self.meta.sampling
        if request.parity:
            check_parity(self.meta.target, request.sampler, request.dtype)
            return "heun", request.steps or STEPS, parity_sampler(request.steps)
        name, steps = request.sampler or defaults.sampler, request.steps or defaults.steps
        settings: dict[str, Any] = dict(defaults.settings) if name == defaults.sampler else {}
        return name, steps, build_sampler(name, steps, **settings)

    def _dtype(self) -> torch.dtype:
        if self.request.dtype != "auto" or self.request.parity:
            return torch.bfloat16 if self.request.dtype == "bfloat16" else torch.float32
        if self.device.type == "cuda":
            return torch.bfloat16
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if fast else torch.float32

    def _block_size(self) -> int:
        """Return the rows of a block; "auto" is what fits, or on --resume what the stopped run found to fit."""
        wish = self.request.batch or self.meta.sampling.members_per_block
        if wish != "auto":
            return int(wish)
        before = recorded_attributes(self.request.path).get("members_per_block") if self.request.resume else None
        if before is not None and before.isdigit() and int(before) > 0:
            return int(before)
        cells = self.model.codec.latent_shape[1:] if self.request.format == "latent" else self._grid().shape
        call_bytes = 4 * self.meta.frames * len(self.model.codec.channels) * int(np.prod(cells))
        wanted = self.request.members * len(self.request.inits)
        return fitting_block(wanted, largest_result(self._one_member), call_bytes, self.device)

    @torch.no_grad()
    def _one_member(self) -> None:
        """Do once what a block does: encode, evaluate the network, decode."""
        with self._autocast():
            z = self.analysis.encode(self.request.inits[0], [0], self.device)
            noise = torch.zeros(1, z.shape[1], self.meta.frames, *z.shape[2:], device=self.device)
            hours = torch.zeros(1, dtype=torch.int64, device=self.device)
            latent = self.model.advance(z, hours, noise, build_sampler("euler", 1))
        self._decode(latent[:, 0])

    def units(self) -> list[Unit]:
        """Return every unit in the order of the file."""
        return pack(len(self.request.inits), self.request.members, self.block_size)

    @property
    def extent(self) -> str:
        """Return the length of the forecast."""
        return f"{self.request.lead_hours} h"

    def cut(self, unit: Unit, parts: Sequence[Part]) -> Unit:
        """Return the whole unit: the shape of a block decides its rounding."""
        return unit

    def spec(self) -> FileSpec:
        """Return what the file holds and says."""
        return FileSpec(
            channels=self.channels,
            grid=self._grid(),
            members=self.request.members,
            inits=self.request.inits,
            leads=self.leads.astype("timedelta64[h]"),
            attrs=self.attributes(),
            layout=self.request.layout,
            latent=self.model.codec.latent_shape if self.request.format == "latent" else None,
        )

    def _grid(self) -> LatLonGrid:
        """Return the grid of what is written."""
        whole = self.model.codec.grid
        return whole if self.region is None else whole.subset(self.region)

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
        if self.request.parity:
            facts["noise"] = "LaDCast's own: torch CPU generator seeded with the member, anew in every call and start"
        if self.compiled:
            facts["compiled"] = "torch.compile"
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

    def closing(self) -> list[str]:
        """Return nothing: the file says it all."""
        return []

    def sample(self, unit: Unit) -> Iterator[Block]:
        """Yield the blocks of one unit, in the order of lead time.

        Whole blocks are decoded, one frame at a time, so that the bits of a member depend neither on the ensemble size
        nor on the leads that are written. On an accelerator a call is decoded while the next one is drawn.
        """
        numbers = itertools.count()

        def finish(latent: torch.Tensor) -> list[Block]:
            return self._blocks(unit, next(numbers), latent)

        overlap = on_side_stream if self.device.type == "cuda" else map
        for blocks in overlap(finish, self._latents(unit)):
            yield from blocks

    def _blocks(self, unit: Unit, call: int, latent: torch.Tensor) -> list[Block]:
        """Decode those frames of a call that are written."""
        native, frames = self.meta.step_hours, self.meta.frames
        reached = native * (call * frames + 1 + np.arange(frames))
        keep = np.flatnonzero(np.isin(reached, self.leads))
        if not keep.size:
            return []
        values = torch.stack([self._decode(latent[:, k])[: unit.size] for k in keep], dim=1)
        begin = int(np.searchsorted(self.leads, reached[keep[0]]))
        pieces = values.split([part.size for part in unit.parts])
        return [Block(p, slice(begin, begin + keep.size), v) for p, v in zip(unit.parts, pieces, strict=True)]

    def _latents(self, unit: Unit) -> Iterator[torch.Tensor]:
        """Yield latents [block size, T, C, h, w], call by call."""
        table = rows(unit, self.block_size)
        starts, members = [i for i, _ in table], [m for _, m in table]
        times = self.request.inits.astype("datetime64[h]")
        calls = -(-self.request.lead_hours // (self.meta.step_hours * self.meta.frames))
        with self._autocast():
            same = [(i, [m for _, m in group]) for i, group in itertools.groupby(table, lambda row: row[0])]
            z = torch.cat([self.analysis.encode(times[i], chosen, self.device) for i, chosen in same])
        hours = [int(times[i].astype(np.int64)) for i in starts]
        stream = rollout(
            self.model, z, hours, members, calls, self.request.seed, self.sampler, parity=self.request.parity
        )
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
            return to_host(latent)
        with self._autocast():
            values = self.model.codec.decode(latent, self.index)
        if self.region is not None:
            lines, columns = self.model.codec.grid.indices(self.region)
            values = values[..., torch.from_numpy(lines), :][..., torch.from_numpy(columns)]
        return to_host(values)
