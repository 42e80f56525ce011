"""Score fine rain: files of `gen sample --task downscaling`, or a model and its baselines on known events.

With a model, crops of fine rain are averaged to coarse rain and downscaled again (a perfect-model test), or input and
truth of RainShift's regions are taken as they are. Every system gets the same cases. Each finished one is a line of
`crops.jsonl`, from which a stopped run continues and all scores are formed (`downscaling.crop_scores`,
`downscaling.score_summary`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = ["EvaluateRequest", "run_evaluate"]

import numpy as np
import torch

from downscaling.baselines import BASELINES, Ranked, draw_baseline, fit_ranked
from downscaling.conditions import place_km
from downscaling.conserve import Mode
from downscaling.crop_scores import plain, score_crop, truth_record
from downscaling.drawing import Case, CaseList, Cases, PairDrawer, choose_cases, numbered, told_statics
from downscaling.model import DownscalingModel
from downscaling.overlap import Grid, Overlap
from downscaling.paired import centre_cells
from downscaling.pairs import Pair, whole_cells
from downscaling.rainshift_cases import RegionCases
from downscaling.rainshift_statics import open_region_statics
from downscaling.score_lines import Lines
from downscaling.score_summary import TRUTH, By, summarise
from downscaling.score_table import markdown
from downscaling.sources.opening import open_precipitation
from downscaling.sources.rainshift import region_names
from downscaling.statics import Statics
from downscaling.transfer import Align, Transfer
from gen.data.sources import SourceError
from gen.device import choose_device
from gen.grid import LatLonGrid
from gen.hub import open_model, resolve
from gen.metrics.bootstrap import Bootstrap
from gen.progress import SILENT, Reporter

LINES, SCORES = "crops.jsonl", "scores.json"
LEARNT = 60  # crops of each training event, or hours of each region, for quantile mapping
FREE = ("resamples", "block", "out", "figures", "device")  # may change between runs that share their lines
MODEL = "model"
MEMBERS, PAPER_MEMBERS = 20, 8  # the paper of RainShift scores eight


@dataclass(frozen=True)
class EvaluateRequest:
    """What to score and how.

    Args:
        forecasts: files of fine rain, scored against `truth`.
        truth: fine rain on the same grid.
        model: model folder or name, scored with the baselines on pairs made from `events`.
        events: fine rain, one path for each weather event, "name=path" if wanted.
        train: fine rain of other events, from which quantile mapping learns; without it that baseline is left out.
        rainshift: folder of RainShift regions instead of `events`: input and truth are those of the data set.
        regions: names of regions; by default all that are there. split: "test" or "train".
        times: days, times or ranges "A..B". days: number of days to score, evenly spread over the record.
        home: regions that count as known to the model; the others get a transfer gap against these.
        align: "none", "qm" or "auto", for the input of RainShift (`downscaling.transfer`).
        baselines: names of `downscaling.baselines.BASELINES`; all by default.
        factors: coarse over fine spacing.
        members: ensemble size of the model and of RainFARM; by default 20, or 8 with `rainshift`, as in its paper.
        crops: number for each event. crop_size: side in pixels, a whole number of coarse cells of every factor.
        accumulate: steps of time of events that are averaged, 6 for hours of frames ten minutes apart. substeps: parts
            of each step through which the rain is carried along its motion (`downscaling.sources.derived.accumulated`).
        conserve: "input" projects the model's members onto the coarse amounts, "coarse" onto those that the model
            expects instead, "none" does not.
        orography, land_mask: files of elevation and land for a model that was trained with them.
        noise_scale, sampler, steps: instead of the model's.
        seed: of crops, noise and bootstrap.
        resamples: draws of the bootstrap. block: times per block, with `rainshift` days (one by default).
        out: folder for crops.jsonl, scores.json and scores.md; unfinished work there is continued.
        figures: folder for figures.
        device: default: an accelerator if there is one. dtype: "auto", "float32" or "bfloat16".

    Raises:
        ValueError: a value outside its range, or neither or both forms of the request.
    """

    forecasts: Sequence[str | Path] = ()
    truth: str | None = None
    model: str | None = None
    events: Sequence[str] = ()
    train: Sequence[str] = ()
    rainshift: str | Path | None = None
    regions: Sequence[str] = ()
    split: Literal["train", "test"] = "test"
    times: Sequence[str] = ()
    days: int | None = None
    home: Sequence[str] = ()
    align: Align = "none"
    baselines: Sequence[str] | None = None
    factors: Sequence[float] = (2.5, 4.0, 8.0)
    members: int = 0
    crops: int = 24
    crop_size: int = 160
    accumulate: int = 1
    substeps: int = 1
    conserve: Mode = "none"
    orography: str | Path | None = None
    land_mask: str | Path | None = None
    noise_scale: float | None = None
    sampler: str | None = None
    steps: int | None = None
    seed: int = 0
    resamples: int = 1000
    block: int | None = None
    out: str | Path | None = None
    figures: str | Path | None = None
    device: str | None = None
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without opening a file."""
        if not self.members:
            object.__setattr__(self, "members", MEMBERS if self.rainshift is None else PAPER_MEMBERS)
        if bool(self.forecasts) == bool(self.model or self.events or self.rainshift):
            raise ValueError("give either files of fine rain with --truth, or --model with --events")
        if self.forecasts and self.truth is None:
            raise ValueError("files of fine rain need a truth to be scored against; give --truth")
        if self.rainshift and (self.events or self.train or self.truth):
            raise ValueError("--rainshift holds input, truth and training data: leave out --events, --train, --truth")
        if not self.forecasts and not (self.model and (self.events or self.rainshift)):
            raise ValueError("a model is scored on weather events: give both --model and --events (or --rainshift)")
        given = [n for n in ("regions", "times", "days", "home") if getattr(self, n)]
        if not self.rainshift and (given or self.align != "none"):
            raise ValueError(f"--{[*given, 'align'][0]} belongs to --rainshift")
        if max(self.accumulate, self.substeps) > 1 and not self.events:
            raise ValueError("--accumulate averages frames of --events")
        if self.align not in get_args(Align):
            raise ValueError(f"align must be one of {', '.join(get_args(Align))}; got {self.align!r}")
        least_values = {"members": 2, "crops": 1, "crop_size": 16, "seed": 0, "accumulate": 1, "substeps": 1}
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.noise_scale is not None and not 0 < self.noise_scale <= 3:
            raise ValueError(f"noise_scale must be in (0, 3]; got {self.noise_scale:g}")
        if self.land_mask is not None and self.orography is None:
            raise ValueError("a land mask goes with an orography: give --orography as well")
        if self.conserve not in get_args(Mode):
            raise ValueError(f"conserve must be one of {', '.join(get_args(Mode))}; got {self.conserve!r}")
        if unknown := sorted(set(self.baselines or ()) - set(BASELINES)):
            raise ValueError(f"unknown baseline {unknown[0]!r}; the baselines are {', '.join(BASELINES)}")


def run_evaluate(reporter: Reporter = SILENT, **options: Any) -> dict[str, Any]:
    """Score, write what `options` ask for and return the scores.

    Args:
        reporter: where progress and the table go.
        options: fields of `EvaluateRequest`.

    Raises:
        ValueError: a bad request, unreadable files, nothing in common.
    """
    request = EvaluateRequest(**options)
    setup, work, count = _files(request) if request.forecasts else _pairs(request)
    records = Lines(None if request.out is None else Path(request.out) / LINES, setup)
    with reporter.bar("scoring", count, "crops") as bar:
        for key, make in work:
            if key not in records.found:
                records.add(key, make())
            bar.advance(1, key)
    ordered = list(records.found.values())
    bootstrap = Bootstrap(resamples=request.resamples, block=request.block, seed=request.seed)
    by: By = "time" if request.rainshift is None else "day"
    home = region_names(request.home)
    scores = {"setup": setup} | summarise(ordered, setup["members"], bootstrap, by=by, home=home)
    table = markdown(scores)
    if request.out is not None:
        (Path(request.out) / SCORES).write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n")
        (Path(request.out) / "scores.md").write_text(table)
    if request.figures is not None:
        from gen.plot.downscaling_scores import plot_downscaling_scores

        plot_downscaling_scores(scores, Path(request.figures))
    reporter.say(table)
    return scores


Work = Iterator[tuple[str, Any]]


def _pairs(request: EvaluateRequest) -> tuple[dict[str, Any], Work, int]:
    """Return the setup, the keys with functions that make their records, and how many there are."""
    folder = resolve(str(request.model))
    model = DownscalingModel.load(folder).to(choose_device(request.device))
    cases, transfers = _cases(request, model)
    drawer = PairDrawer(
        model,
        request.members,
        seed=request.seed,
        sampler=request.sampler,
        steps=request.steps,
        noise_scale=request.noise_scale,
        keep=request.conserve,
        dtype=request.dtype,
        statics=_statics(request, model),
    )
    mappings = _learnt(request, cases)
    names = [n for n in request.baselines or BASELINES if n != "quantile-mapping" or mappings]
    random = {n: request.members if n.startswith("rainfarm") else 1 for n in names}
    setup = {
        **{k: _plain_setting(v) for k, v in asdict(request).items() if k not in FREE},
        "digest": open_model(folder).digest,
        "name": model.meta.name,
        "network_dtype": str(drawer.dtype).removeprefix("torch."),
        "members": {MODEL: request.members} | random,
        "cases": len(cases.cases),
    }

    scorer = PairScorer(cases, drawer, names, mappings, transfers, request.seed)
    work = ((case.key, lambda n=n, case=case: scorer.record(case, n)) for n, case in numbered(cases))
    return json.loads(json.dumps(setup)), work, len(cases.cases)


def _statics(request: EvaluateRequest, model: DownscalingModel) -> Statics | None:
    """Open elevation and land for a model that was trained with them; regions of RainShift have their own."""
    if request.rainshift and request.orography is None and "statics" in model.meta.conditions:
        return open_region_statics(request.rainshift, request.regions)
    return told_statics(model, request.orography, request.land_mask)


def _cases(request: EvaluateRequest, model: DownscalingModel) -> tuple[Cases, list[Transfer]]:
    """Return the cases, and for every region what brings its input to the model."""
    if request.rainshift is None:
        return _chosen(request, request.events, request.crops), []
    unit = model.networks.unit
    chosen = request.regions, request.split, request.times, request.days
    cases = RegionCases(request.rainshift, *chosen, unit, model.meta.predictors)
    if missing := sorted(set(region_names(request.home)) - set(cases.names)):
        raise ValueError(f"--home names {missing[0]}, which is not scored; scored are {', '.join(cases.names)}")
    return cases, cases.transfers(model.meta, request.align)


def _chosen(request: EvaluateRequest, events: Sequence[str], crops: int) -> CaseList:
    means = {"accumulate": request.accumulate, "substeps": request.substeps}
    return choose_cases(events, request.factors, crops, request.crop_size, request.seed, **means)


@dataclass(frozen=True)
class PairScorer:
    """Scores of the model and the baselines on one case after the other.

    Args:
        cases: where pairs come from. drawer: of the model's members. names: of the baselines.
        mappings: of quantile mapping, by factor. transfers: of the input, by the number of its source; none for events.
        seed: of RainFARM.
    """

    cases: Cases
    drawer: PairDrawer
    names: Sequence[str]
    mappings: Mapping[float, Ranked]
    transfers: Sequence[Transfer]
    seed: int

    def record(self, case: Case, number: int) -> dict[str, Any]:
        """Return the record of one case."""
        pair = self.cases.pair(case)
        overlap = Overlap.between(pair.coarse_grid, pair.fine_grid, np.isfinite(pair.fine))
        truth, weights, spacing = torch.from_numpy(pair.fine), *_measures(pair.fine_grid)
        seams = self._seams(pair)
        systems: dict[str, Any] = {TRUTH: truth_record(truth, weights, spacing, seams)}
        for name in (MODEL, *self.names):
            start = time.perf_counter()
            drawn = self._drawn(name, case, pair, overlap, number)
            seconds = (time.perf_counter() - start) / len(drawn)
            record = score_crop(torch.from_numpy(drawn), truth, weights, spacing, seams)
            systems[name] = record | {"seconds": plain(seconds)} | _violations(drawn, pair, overlap)
        return {
            "factor": case.factor,
            "region": case.event,
            "time": str(self.cases.time(case)),
            "spacing_km": plain(max(spacing)),
            "systems": systems,
        }

    def _drawn(self, name: str, case: Case, pair: Pair, overlap: Overlap, number: int) -> np.ndarray:
        """Return the members of one system; the model sees the input as `transfers` make it."""
        if name != MODEL:
            members, mapping = self.drawer.members, self.mappings.get(case.factor)
            return draw_baseline(name, pair, overlap, members, self.seed, mapping)
        settings, told = self.drawer.settings(pair.factor), pair
        if self.transfers:
            told = replace(pair, coarse=self.transfers[case.crop.source](pair.coarse).coarse)
        return self.drawer.finished(self.drawer.levels(told, number, settings), pair, overlap, settings)

    def _seams(self, pair: Pair) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows and columns where a coarse cell begins; for averaged pairs where the grids share an edge."""
        if self.transfers:
            rows, columns = (np.flatnonzero(np.diff(c)) + 1 for c in centre_cells(pair.coarse_grid, pair.fine_grid))
            return rows.tolist(), columns.tolist()
        step = whole_cells(pair.factor)
        return range(step, pair.fine.shape[0], step), range(step, pair.fine.shape[1], step)


def _violations(drawn: np.ndarray, pair: Pair, overlap: Overlap) -> dict[str, Any]:
    """Return mean and largest |A z - c| as shares of the mean and the largest coarse amount."""
    difference = np.abs(overlap.apply(drawn) - pair.coarse)
    scale = max(float(np.nanmean(pair.coarse)), 1e-9), max(float(np.nanmax(pair.coarse)), 1e-9)
    return {
        "violation_mean": plain(float(np.nanmean(difference)) / scale[0]),
        "violation_max": plain(float(np.nanmax(difference)) / scale[1]),
    }


def _learnt(request: EvaluateRequest, scored: Cases) -> dict[float, Ranked]:
    """Return quantile mapping for every factor, learnt from other events or from the other split of the regions.

    With `home` it learns from these regions alone, as the model is meant to.
    """
    cases: Cases
    if isinstance(scored, RegionCases):
        if request.split == "train" or "quantile-mapping" not in (request.baselines or BASELINES):
            return {}
        try:
            cases = RegionCases(str(request.rainshift), request.home or scored.names, "train", unit=scored.unit)
        except SourceError as error:
            raise SourceError(f"{error} (quantile mapping learns from it; leave it out with --baselines)") from None
        cases.thin(LEARNT)
    elif request.train:
        cases = _chosen(request, request.train, LEARNT)
    else:
        return {}
    pairs: dict[float, list[Pair]] = {}
    for case in cases.cases:
        pairs.setdefault(case.factor, []).append(cases.pair(case))
    return {factor: fit_ranked(found) for factor, found in pairs.items()}


def _files(request: EvaluateRequest) -> tuple[dict[str, Any], Work, int]:
    """Return the setup and the work of scoring files; a whole field at one time is a crop."""
    forecasts = [open_precipitation(path) for path in request.forecasts]
    truth = open_precipitation(str(request.truth))
    ends = truth.times()
    found = []
    for source in forecasts:
        if source.grid != truth.grid:
            raise ValueError(
                f"{source.name} has {source.grid.shape[0]}x{source.grid.shape[1]} cells and {truth.name} "
                f"{truth.grid.shape[0]}x{truth.grid.shape[1]} or others: score on one grid (gen sample --grid)"
            )
        found += [(source, i, int(np.flatnonzero(ends == t)[0])) for i, t in enumerate(source.times()) if t in ends]
    if not found:
        raise ValueError(f"{truth.name} has none of the times of the files; it has {ends[0]} to {ends[-1]}")
    if len(counts := {source.members for source in forecasts}) > 1:
        raise ValueError(f"the files have different ensemble sizes ({', '.join(map(str, sorted(counts)))})")
    weights, spacing = _measures(truth.grid)

    def make(source: Any, i: int, j: int) -> dict[str, Any]:
        y = torch.from_numpy(truth.read(j))
        drawn = torch.from_numpy(np.stack([source.read(i, m) for m in range(source.members)]))
        y = torch.where(torch.isnan(drawn).any(dim=0), torch.nan, y)
        systems = {TRUTH: truth_record(y, weights, spacing), MODEL: score_crop(drawn, y, weights, spacing)}
        return {
            "factor": 0.0, "region": "", "time": str(ends[j]), "spacing_km": plain(max(spacing)),
            "systems": systems,
        }  # fmt: skip

    setup = {"forecasts": [str(p) for p in request.forecasts], "truth": str(request.truth), "seed": request.seed}
    setup |= {"members": {MODEL: forecasts[0].members}, "cases": len(found)}
    work = ((f"{s.name}:{ends[j]}", lambda s=s, i=i, j=j: make(s, i, j)) for s, i, j in found)
    return json.loads(json.dumps(setup)), work, len(found)


def _measures(grid: Grid) -> tuple[torch.Tensor, tuple[float, float]]:
    """Return cell areas [H, W] of any scale, and km between rows and columns."""
    place = place_km(grid)
    rows, columns = (float(place[k].diff(dim=k).abs().mean()) for k in (0, 1))
    if isinstance(grid, LatLonGrid):
        weights = torch.cos(torch.deg2rad(torch.from_numpy(np.array(grid.latitude))))[:, None].expand(grid.shape)
    else:
        weights = torch.ones(grid.shape, dtype=torch.float64)
    return weights.double(), (rows, columns)


def _plain_setting(value: Any) -> Any:
    value = str(value) if isinstance(value, Path) else value
    return [str(v) if isinstance(v, Path) else v for v in value] if isinstance(value, tuple | list) else value
