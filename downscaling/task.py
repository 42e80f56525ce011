"""The downscaling task: from a request to bands of fine rain (see `gen.sample` for the loop that writes them).

A unit is some members of one time that belong to the same coarse member; its parts are bands of rows. Units are
independent of each other, and a unit of which some bands are there already is continued at the first that is missing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Downscaling", "SAMPLE"]

import numpy as np
import torch

from diffusion.samplers import Sampler, build_sampler
from downscaling.lattice import Domain, Target, build_domain
from downscaling.model import DownscalingMeta, DownscalingModel
from downscaling.one_piece import conserved_in
from downscaling.ood_table import IndexSummary, named_cells, summarised, table, told
from downscaling.overlap import Grid
from downscaling.predictors import PredictorMaps, normalised, open_predictors
from downscaling.request import DownscalingRequest
from downscaling.sampling import Drawn, RainSampler, tile_side
from downscaling.sources.base import PrecipitationSource
from downscaling.sources.grids import latlon_grid
from downscaling.sources.opening import open_precipitation
from downscaling.statics import Statics
from downscaling.transfer import Transfer, rain_quantiles
from gen.device import choose_device
from gen.hub import open_model, resolve
from gen.writers.raster import BAND, RasterSpec, band_rows

log = logging.getLogger(__name__)

SAMPLE = "sample.nc"  # in the model folder
MEMBERS = 8
CHECKED = 512  # maps that are looked at before anything is written
MUCH = 1.3  # index from which a request is called outside: a quarter more than in training
DEFAULT_FACTORS = (2.5, 4.0, 5.0, 8.0, 2.0)


@dataclass(frozen=True)
class Part:
    """A band of some members of one time; `init_index` counts bands within times, as the writer does."""

    init_index: int
    members: slice


@dataclass(frozen=True)
class Unit:
    """Bands of one time of members that belong to one coarse member."""

    time: int
    coarse_member: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Band:
    """Values [m, 1, 1, rows, W] of one part, in mm/h, and what conservation cost."""

    part: Part
    values: np.ndarray
    notes: dict[str, float]
    leads: slice = field(default_factory=lambda: slice(0, 1))


class Downscaling:
    """An ensemble of fine rain that can be drawn unit by unit.

    Args:
        request: what is wanted. model: the model; digest: its SHA-256. source: the coarse rain.
    """

    Request = DownscalingRequest
    counted = "bands of members"

    def __init__(
        self,
        request: DownscalingRequest,
        model: DownscalingModel,
        digest: str,
        source: PrecipitationSource,
        maps: PredictorMaps | None = None,
    ) -> None:
        """Check the request against model and input."""
        self.request, self.digest, self.meta, self.source = request, digest, model.meta, source
        self.device = choose_device(request.device)
        self.model = model.to(self.device)
        self.index = request.chosen(source.times())
        self.domain = self._domain()
        self.members, self.per_coarse = self._members()
        self.sampler_name, self.steps, self.sampler = self._sampler()
        self.dtype = torch.bfloat16 if self._half() else torch.float32
        self.block_size = request.batch or self.meta.sampling.members_per_block
        self.transfer, self.ood_index, self.outside = self._compared()
        self.statics, self.maps = self._statics(), maps
        self.drawer = RainSampler(
            self.model,
            self.domain,
            self.sampler,
            seed=request.seed,
            half_life_hours=request.half_life,
            interval_hours=source.interval_hours,
            keep=request.conserve,
            dtype=self.dtype,
            batch=self.block_size,
            statics=self.statics if self._tells("statics") else None,
        )
        self.piece = conserved_in(self.drawer.keeper, self.block_size)

    @classmethod
    def open(cls, request: DownscalingRequest) -> Downscaling:
        """Load the model and open the input that the request names."""
        folder = resolve(request.model)
        model = DownscalingModel.load(folder)
        path = folder / SAMPLE if request.input is None else Path(request.input)
        source = open_precipitation(
            path,
            variable=request.variable,
            units=request.units,
            interval_hours=request.interval,
        )
        return cls(request, model, open_model(folder).digest, source, predictors_of(path, model.meta, source))

    def _domain(self) -> Domain:
        request = self.request
        fine = None if request.grid is None else open_grid(Path(request.grid))
        factor = request.factor
        if factor is None and request.spacing is None and fine is None:
            low, high = self.meta.factors
            factor = next((f for f in DEFAULT_FACTORS if low <= f <= high), max(low, 1.0))
        target = Target(factor, request.spacing, fine, request.box)
        return build_domain(self.source.grid, target, tile_side(self.model))

    def _statics(self) -> Statics | None:
        """Open the orography that the request names and see that it covers what is written."""
        request = self.request
        if request.orography is None:
            return None
        statics = Statics.open(request.orography, request.land_mask)
        statics.check(self.domain.grid)
        return statics

    def _tells(self, condition: str) -> bool:
        return condition in self.meta.conditions

    def _members(self) -> tuple[int, int]:
        """Return the ensemble size and the number of fine members of each coarse one."""
        coarse = self.source.members
        wanted = self.request.members or (coarse if coarse > 1 else MEMBERS)
        if wanted > coarse and wanted % coarse:
            raise ValueError(
                f"the input has {coarse} members: members must be at most that or a multiple; got {wanted}"
            )
        return wanted, max(1, wanted // coarse)

    def _sampler(self) -> tuple[str, int, Sampler]:
        defaults = self.meta.sampling
        name, steps = self.request.sampler or defaults.sampler, self.request.steps or defaults.steps
        settings: dict[str, Any] = dict(defaults.settings) if name == defaults.sampler else {}
        return name, steps, build_sampler(name, steps, **settings)

    def _half(self) -> bool:
        wish = self.request.dtype
        return wish == "bfloat16" or (wish == "auto" and self.device.type == "cuda")

    def _compared(self) -> tuple[Transfer, float, list[IndexSummary]]:
        """Read maps before anything is written, so that rain that is none stops here; compare them with training.

        Returns:
            What prepares maps, the largest index of the request and of the cells that are refined, that of regions.
        """
        pairs = [(int(i), m) for i in self.index for m in range(min(self.source.members, self.members))]
        looked = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), CHECKED)).astype(int))]
        transfer = Transfer.fit(
            rain_quantiles(self.source.read(*pair) for pair in looked),
            self.meta,
            self.request.align,
            len(pairs),
            factors=self.domain.rows.factor,
            spacing_km=self.domain.spacing_km,
            interval_hours=self.source.interval_hours,
        )
        place, grid = self._coarse_cells()
        found = summarised(
            (transfer(self.source.read(*pair)[place]).ood for pair in looked), named_cells(grid, self.request.region)
        )
        return transfer, max([np.nan_to_num(found[0].largest), *transfer.parts.values()]), found

    def _coarse_cells(self) -> tuple[tuple[np.ndarray, ...], Grid]:
        """Return the places in a map of the coarse cells that the fine field touches, and their grid."""
        rows, columns, grid = self.domain.coarse()
        return np.ix_(self.domain.rows.cells[rows], self.domain.columns.cells[columns]), grid

    @property
    def extent(self) -> str:
        """Return the size of a field."""
        return f"{self.domain.shape[0]} x {self.domain.shape[1]}"

    @property
    def bands(self) -> int:
        """Return the number of bands of a field."""
        return -(-self.domain.shape[0] // BAND)

    def _rows(self, part: Part) -> tuple[int, int]:
        """Return the rows (first, stop) of a band."""
        return band_rows(self.domain.shape[0], part.init_index % self.bands, str(self.request.format))

    def units(self) -> list[Unit]:
        """Return every unit, in the order of time and members."""
        found = []
        for t in range(self.index.size):
            for first in range(0, self.members, self.per_coarse):
                for k in range(0, self.per_coarse, self.block_size):
                    chosen = slice(first + k, first + min(k + self.block_size, self.per_coarse))
                    parts = tuple(Part(t * self.bands + b, chosen) for b in range(self.bands))
                    found.append(Unit(t, first // self.per_coarse, parts))
        return found

    def cut(self, unit: Unit, parts: Sequence[Part]) -> Unit:
        """Return the unit from the first of the parts that are wanted to the last."""
        numbers = [unit.parts.index(p) for p in parts]
        return dataclasses.replace(unit, parts=unit.parts[min(numbers) : max(numbers) + 1])

    def spec(self) -> RasterSpec:
        """Return what the file holds and says."""
        place, grid = self._coarse_cells()
        count = -(-self.members // self.per_coarse)

        def coarse(time: int, member: int) -> np.ndarray:
            return self.source.read(int(self.index[time]), member)[place]

        return RasterSpec(
            grid=self.domain.grid,
            members=self.members,
            times=self.source.times()[self.index],
            interval_hours=self.source.interval_hours,
            attrs=self.attributes(),
            coarse_member=tuple(k // self.per_coarse for k in range(self.members)),
            coarse_grid=grid,
            coarse_members=count,
            coarse=coarse,
            index=lambda rates: self.transfer(rates).ood,
        )

    def closing(self) -> list[str]:
        """Return how far the input lies outside the training data, as a table."""
        return table(self.outside)

    def attributes(self) -> dict[str, str]:
        """Return the facts that make the file reproducible and honest."""
        domain, source = self.domain, self.source
        facts = {
            "title": "Ensemble of fine precipitation drawn by a generative model; synthetic data",
            "product": "downscaled precipitation",
            "model": self.meta.name,
            "model_trained_on": self.meta.trained_on,
            "input": source.name,
            "input_attribution": source.attribution,
            "factor": f"{domain.rows.factor:g} x {domain.columns.factor:g}",
            "sampler": f"{self.sampler_name}, {self.steps} steps, {self.sampler.evaluations} evaluations",
            "network_dtype": str(self.dtype).removeprefix("torch."),
            "noise_half_life_hours": f"{self.request.half_life:g}",
            "conservation": {
                "input": "every member keeps the amounts of the input, up to the largest violation stated",
                "coarse": "every member keeps the coarse amounts that the model expects instead of those of the input "
                "(area means of its expected fine rain; cells that expect less than one pixel of the least rain are "
                "free), up to the largest violation stated, which refers to them",
                "none": "none",
            }[self.request.conserve]
            + self.piece,
            "alignment": "none" if self.transfer.mapping is None else "quantile mapping to the training rates",
            "ood_index": f"{self.ood_index:.3g} (0 inside, 1 at the edge of the training data, more outside)",
            "ood_index_of_request": ", ".join(f"{n} {v:.3g}" for n, v in self.transfer.parts.items()),
            "ood_index_of_regions": told(self.outside),
            "ensemble": f"{self.per_coarse} fine member(s) for each of {-(-self.members // self.per_coarse)} coarse "
            "member(s), in order; see coarse_member",
        }
        if self.statics is not None and self._tells("statics"):
            facts["orography"] = self.statics.described
        elif self._tells("statics"):
            facts["orography"] = "none; the model was trained with elevation and land as well as without"
        if self.meta.predictors:
            names = ", ".join(p.name for p in self.meta.predictors)
            facts["predictors"] = f"{names}, of the input" if self.maps else f"none; the model also knows {names}"
        if warning := self.warning():
            facts["warning"] = warning
        return facts

    def warning(self) -> str:
        """Return what must be said before anyone believes the fields, or an empty text."""
        notes = []
        if self.meta.simulated:
            notes.append("the model was trained on simulated rain")
        if self.source.synthetic:
            notes.append("the input is synthetic")
        for name, value, (low, high), unit in (
            ("factors", self.domain.rows.factor, self.meta.factors, ""),
            ("spacing_km", self.domain.spacing_km, self.meta.spacing_km, " km"),
            ("interval_hours", self.source.interval_hours, self.meta.interval_hours, " h"),
        ):
            if self.transfer.parts[name] > MUCH:
                word = name.split("_")[0].removesuffix("s")
                notes.append(f"{word} {value:.3g}{unit} lies outside the training data ({low:.3g} to {high:.3g}{unit})")
        if max(self.ood_index, self.transfer.parts["distribution"]) > max(1.0, *self.transfer.parts.values()):
            notes.append(f"rates lie outside the training data (ood_index {self.ood_index:.2g}); they are guarded")
        if self.statics is not None and not self._tells("statics"):
            notes.append(f"the model was trained without orography: {self.statics.elevation.name} was not used")
        return "; ".join(notes)

    def sample(self, unit: Unit) -> Iterator[Band]:
        """Yield the bands of one unit, from south to north."""
        spans = {part.init_index: self._rows(part) for part in unit.parts}
        rows = spans[unit.parts[0].init_index][0], spans[unit.parts[-1].init_index][1]
        coarse = self.source.read(int(self.index[unit.time]), unit.coarse_member)
        minute = int(self.source.times()[self.index[unit.time]].astype("datetime64[m]").astype(np.int64))
        chosen = unit.parts[0].members
        told = self.transfer(coarse).coarse
        time = self.source.times()[self.index[unit.time]]
        more = None if self.maps is None else normalised(self.maps.at(time), self.meta.predictors)
        pieces = self.drawer.draw(coarse, minute, range(chosen.start, chosen.stop), rows, told, more)
        for number, values, notes in _bands(pieces, spans):
            yield Band(Part(number, chosen), values[:, None, None], notes)


def predictors_of(path: Path, meta: DownscalingMeta, source: PrecipitationSource) -> PredictorMaps | None:
    """Return the predictors that a model knows, if the file of its input has all of them on the grid of the rain.

    Raises:
        SourceError: units that differ from those of training.
    """
    if not meta.predictors:
        return None
    maps, missing = open_predictors(path, [p.name for p in meta.predictors])
    if maps is not None and maps.grid != source.grid:
        maps, missing = None, ["their grid, which is not that of the rain,"]
    if maps is None:
        log.info("%s lacks %s; the model draws without predictors", path.name, ", ".join(missing))
        return None
    maps.check(meta.predictors)
    log.info("predictors: %s of %s", ", ".join(maps.names), path.name)
    return maps


def open_grid(path: Path) -> Any:
    """Return the grid of a file: of its precipitation, else of its latitudes and longitudes.

    Raises:
        ValueError: no grid is found.
    """
    from gen.data.sources import SourceError

    try:
        return open_precipitation(path, units="mm", interval_hours=1.0).grid
    except SourceError:
        if not path.exists() or path.suffix not in (".nc", ".nc4", ".zarr"):
            raise
    import xarray as xr

    from gen.data.conventions import AXIS_NAMES

    with xr.open_zarr(path) if path.is_dir() else xr.open_dataset(path) as opened:
        names = [next((n for n in AXIS_NAMES[a] if n in opened.coords), None) for a in ("latitude", "longitude")]
        if None in names or any(opened[n].ndim != 1 for n in names):
            raise ValueError(f"{path} has no latitude and longitude axes: it cannot serve as the fine grid")
        return latlon_grid(*(np.asarray(opened[n]) for n in names))[0]


def _bands(
    pieces: Iterator[Drawn], spans: Mapping[int, tuple[int, int]]
) -> Iterator[tuple[int, np.ndarray, dict[str, float]]]:
    """Cut rows as they come into the bands of the file; what a piece cost counts for every band that it touches."""
    held: list[np.ndarray] = []
    notes: dict[str, float] = {}
    waiting = list(spans.items())
    for piece in pieces:
        first, values = piece.first, piece.values
        while waiting and values.shape[1]:
            number, (begin, end) = waiting[0]
            start, stop = max(first, begin), min(first + values.shape[1], end)
            if start >= stop:
                break
            held.append(values[:, start - first : stop - first])
            notes |= {name: max(value, notes.get(name, value)) for name, value in piece.notes.items()}
            first, values = stop, values[:, stop - first :]
            if stop == end:
                yield number, np.concatenate(held, axis=1), notes
                held, notes, waiting = [], {}, waiting[1:]
