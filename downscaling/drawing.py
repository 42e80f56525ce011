"""Draw ensembles for pairs whose truth is known: crops of weather events, one model, noise by address."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

__all__ = ["Case", "CaseList", "Cases", "PairDrawer", "choose_cases", "numbered", "told_statics"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.samplers import build_sampler
from downscaling.calibration import Settings
from downscaling.conserve import Mode, approach, conserve
from downscaling.keeping import demanded
from downscaling.model import DownscalingModel
from downscaling.overlap import Overlap
from downscaling.pairs import Crop, CropIndex, Pair, make_pair, whole_cells
from downscaling.scenes import Told, scene
from downscaling.sources.base import PrecipitationSource
from downscaling.sources.derived import InMemory, accumulated
from downscaling.sources.opening import open_precipitation
from gen.grid import LatLonGrid
from gen.seeding import Address, derive_seed, normal

if TYPE_CHECKING:
    from downscaling.statics import Statics

Values = NDArray[np.float32]

DRY_STRATUM = 0
STREAM = "downscaling-scores"


@dataclass(frozen=True)
class Case:
    """One crop of one event at one time, to be downscaled by one factor."""

    event: str
    crop: Crop
    factor: float

    @property
    def key(self) -> str:
        """Return a name that no other case has."""
        c = self.crop
        return f"{self.event}:{c.time}:{c.row}:{c.column}:x{self.factor:g}"


class Cases(Protocol):
    """Cases with a way to their pairs and times."""

    cases: list[Case]

    def pair(self, case: Case) -> Pair: ...  # noqa: D102 - named above
    def time(self, case: Case) -> np.datetime64: ...  # noqa: D102


class CaseList:
    """Cases and the rain they are cut from; one map is held at a time.

    Args:
        sources: by the number that crops carry. cases: in the order of sources and times. size: side of the crops.
    """

    def __init__(self, sources: Sequence[PrecipitationSource], cases: Sequence[Case], size: int) -> None:
        self.sources, self.cases, self.size = sources, list(cases), size
        self._held: tuple[tuple[int, int], Values] | None = None

    def pair(self, case: Case) -> Pair:
        """Cut the fine rain and average it."""
        crop, place = case.crop, (case.crop.source, case.crop.time)
        if self._held is None or self._held[0] != place:
            self._held = place, self.sources[crop.source].read(crop.time)
        rows, columns = (slice(k, k + self.size) for k in (crop.row, crop.column))
        grid = self.sources[crop.source].grid
        if isinstance(grid, LatLonGrid):
            grid = LatLonGrid(grid.latitude[rows], grid.longitude[columns])
        else:
            grid = grid.window(rows, columns)
        hours = float(self.sources[crop.source].interval_hours)
        pair = make_pair(self._held[1][rows, columns], grid, case.factor)
        return dataclasses.replace(pair, crop=crop, interval_hours=hours, time=self.time(case))

    def time(self, case: Case) -> np.datetime64:
        """Return the time of a case."""
        found: np.datetime64 = self.sources[case.crop.source].times()[case.crop.time]
        return found


def choose_cases(
    events: Sequence[str],
    factors: Sequence[float],
    crops: int,
    size: int,
    seed: int = 0,
    *,
    accumulate: int = 1,
    substeps: int = 1,
) -> CaseList:
    """Choose crops of every event that do not overlap and are known entirely; all factors get the same ones.

    Crops are taken in turn from the strata of mean rain (`downscaling.pairs`), practically dry ones left out; mean rain
    is a function of what every system is given, so that this favours none.

    Args:
        events: paths, each with a name in front if wanted ("flood=radar.nc").
        factors: ratios of grid spacings.
        crops: number for each event.
        size: side in pixels.
        seed: of the choice.
        accumulate: steps of time that are averaged.
        substeps: parts of each step (`downscaling.sources.derived.accumulated`).

    Raises:
        ValueError: names that repeat, substeps of nothing, too few evenly spaced times to average, a size that is no
            whole number of coarse cells, an event without such a crop.
    """
    if substeps > 1 and accumulate == 1:
        raise ValueError("--substeps are parts of the steps that --accumulate averages: give it as well")
    named = [(text.partition("=")[0], text.partition("=")[2]) if "=" in text else (None, text) for text in events]
    sources: list[PrecipitationSource] = [open_precipitation(path) for _, path in named]
    if accumulate != 1:  # dear to make where the rain is carried along, and every map is needed twice
        sources = [InMemory(accumulated(source, accumulate, substeps)) for source in sources]
    names = [name or source.name for (name, _), source in zip(named, sources, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError("two events share a name; put different ones in front: first=PATH,second=PATH")
    unit = int(np.lcm.reduce([whole_cells(f) for f in factors]))
    if size % unit or size < 2 * max(factors):
        raise ValueError(f"crop_size must be a multiple of {unit} for these factors; got {size}")
    chosen = []
    for k, (name, source) in enumerate(zip(names, sources, strict=True)):
        index = CropIndex.build([source], (size, size), stride=size, valid=1.0)
        places = _by_strata(index, crops, derive_seed("cases", seed, name))
        if not places:
            raise ValueError(f"{name} has no crop of {size}x{size} with rain; take smaller ones (crop_size)")
        for n in places:
            _, time, row, column = index.address[n].tolist()
            crop = Crop(k, time, row, column, int(index.stratum[n]))
            chosen += [Case(name, crop, float(f)) for f in factors]
    order = sorted(chosen, key=lambda c: (c.crop.source, c.crop.time, c.crop.row, c.crop.column, c.factor))
    return CaseList(sources, order, size)


def _by_strata(index: CropIndex, count: int, seed: int) -> list[int]:
    """Return crops, one of each stratum in turn, each at most once."""
    random = np.random.Generator(np.random.Philox(key=seed))
    strata = [s for s in np.unique(index.stratum) if s > DRY_STRATUM]
    queues = [list(random.permutation(np.flatnonzero(index.stratum == s))) for s in strata]
    found: list[int] = []
    while len(found) < count and any(queues):
        for queue in queues:
            if queue and len(found) < count:
                found.append(int(queue.pop()))
    return found


class PairDrawer:
    """Draw members for pairs.

    Args:
        model: on its device. members: M. seed: of the noise.
        sampler, steps, noise_scale: by default the model's.
        keep: "input" projects members onto the coarse amounts, "coarse" onto those that the mean stage expects.
        dtype: "auto" takes bfloat16 on devices that compute fast in it.
        statics: elevation and land for a model that was trained with them.
    """

    def __init__(
        self,
        model: DownscalingModel,
        members: int,
        *,
        seed: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        noise_scale: float | None = None,
        keep: Mode = "none",
        dtype: str = "auto",
        statics: Statics | None = None,
    ) -> None:
        defaults = model.meta.sampling
        name, count = sampler or defaults.sampler, steps or defaults.steps
        settings: dict[str, Any] = dict(defaults.settings) if name == defaults.sampler else {}
        self.sampler, self.seed, self.members, self.keep = build_sampler(name, count, **settings), seed, members, keep
        self.model, self.noise_scale = model, noise_scale
        self.device = next(model.parameters()).device
        self.dtype = _number_type(dtype, self.device)
        self.told = Told("time" in model.meta.conditions, statics, predictors=model.meta.predictors)

    def draw(self, pair: Pair, overlap: Overlap, number: int) -> Values:
        """Return members [M, H, W] of a pair in mm/h.

        Args:
            pair: its coarse rain is used.
            overlap: of its grids.
            number: of the case; part of the address of the noise.
        """
        settings = self.settings(pair.factor)
        return self.finished(self.levels(pair, number, settings), pair, overlap, settings)

    def settings(self, factor: float) -> Settings:
        """Return the model's settings at a factor, with the noise scale that was asked for."""
        found = self.model.meta.sampling.at(factor)
        return found if self.noise_scale is None else dataclasses.replace(found, noise_scale=self.noise_scale)

    def levels(self, pair: Pair, number: int, settings: Settings) -> Tensor:
        """Return amounts and chances [M, 2, H, W] of a pair, on the CPU."""
        parts = scene(pair, self.model.transform, self.told)
        known = {k: v[None].to(self.device) for k, v in parts.items() if k != "rain"}
        block = max(1, int(self.model.meta.sampling.members_per_block))
        drawn = []
        with torch.no_grad():
            expected, _ = self.model.networks.expect(known["fields"], known["features"], known["place"])
            for first in range(0, self.members, block):
                noise = self._noise(pair.fine.shape, range(first, min(first + block, self.members)), number)
                with self._autocast():
                    levels = self.model.levels(
                        known["fields"], known["features"], noise, self.sampler, known["place"],
                        expected=expected, settings=settings,
                    )  # fmt: skip
                drawn.append(levels.float().cpu())
        return torch.cat(drawn)

    def finished(self, levels: Tensor, pair: Pair, overlap: Overlap, settings: Settings) -> Values:
        """Return the rain [M, H, W] in mm/h of amounts and chances; coarse amounts are kept if `keep` says so."""
        rain = self.model.rain(levels, settings).numpy()
        if self.keep == "none":
            return rain
        floor, amounts = self.model.transform.threshold, pair.coarse
        if self.keep == "coarse":
            amounts = np.where(np.isfinite(amounts), demanded(self.expected(pair), overlap, floor), np.nan)
        prior = approach(np.where(overlap.valid, rain, 0.0), amounts, overlap)
        return conserve(prior, amounts, overlap, floor=floor).values.astype(np.float32)

    @torch.no_grad()
    def expected(self, pair: Pair) -> Values:
        """Return the expected rain [H, W] of the mean stage in mm/h."""
        parts = scene(pair, self.model.transform, self.told)
        fields, features, place = (parts[k][None].to(self.device) for k in ("fields", "features", "place"))
        expected, _ = self.model.networks.expect(fields, features, place)
        return self.model.expected_rain(expected)[0].cpu().numpy()

    def _noise(self, shape: tuple[int, ...], members: range, number: int) -> Tensor:
        size = self.model.networks.noise_shape(*shape)
        fields = [normal(size, Address(self.seed, m, number, STREAM)) for m in members]
        return torch.stack(fields).to(self.device)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def told_statics(
    model: DownscalingModel, orography: str | Path | None, land_mask: str | Path | None = None
) -> Statics | None:
    """Open elevation and land for a model that was trained with them; None without files.

    Raises:
        ValueError: a land mask without an orography, a model that was trained without them.
    """
    from downscaling.statics import Statics

    if orography is None:
        if land_mask is not None:
            raise ValueError("a land mask goes with an orography: give --orography as well")
        return None
    if "statics" not in model.meta.conditions:
        raise ValueError(f"the model {model.meta.name} was trained without orography: leave out --orography")
    return Statics.open(Path(orography), None if land_mask is None else Path(land_mask))


def numbered(cases: Cases) -> Iterator[tuple[int, Case]]:
    """Yield the cases with their numbers, which are functions of their names alone."""
    for case in cases.cases:
        yield derive_seed("case", case.key) % 2**40, case


def _number_type(wish: str, device: torch.device) -> torch.dtype:
    if wish != "auto":
        return torch.bfloat16 if wish == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32
