"""Score forecast files against analyses and baselines.

`run_evaluate` goes through the start dates one by one, keeps only partial sums, and writes a Markdown table, JSON and
figures. Partial sums can be stored, continued after an interruption, and merged from several runs: every score is a
function of means over start dates (`gen.metrics.base`), so merged results equal those of one pass. The layout of the
result is described in `gen.metrics.summary`.
"""

from __future__ import annotations

__all__ = ["EvaluateRequest", "run_evaluate", "run_task"]

import importlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gen.progress import SILENT, Reporter

if TYPE_CHECKING:
    from gen.data.variables import Channel
    from gen.metrics.base import PartialSums
    from gen.metrics.scorer import Climatology, Scorer
    from gen.metrics.stores import ForecastFiles

log = logging.getLogger(__name__)

HEADLINE = ("z500", "t850", "u850", "q850", "2t", "msl")
BASELINES = ("persistence", "climatology")
SECONDS_BETWEEN_SAVES = 60.0
EVALUATIONS = {  # task -> request and function; resolved only when asked for, since gen imports no task
    "forecast": ("gen.evaluate:EvaluateRequest", "gen.evaluate:run_evaluate"),
    "downscaling": ("downscaling.evaluate:EvaluateRequest", "downscaling.evaluate:run_evaluate"),
}


@dataclass(frozen=True)
class EvaluateRequest:
    """What to score and how.

    Args:
        forecasts: files of one forecast system, each start date once; may be empty when partial sums are merged.
        truth: source of analyses (path or cloud name), see `gen.data.sources.open_source`.
        baselines: of "persistence" and "climatology".
        climatology: source of past states (an ensemble of them is scored), or a daily climatology of `gen data
            climatology` (its mean is scored); by default the truth itself outside the years that are scored.
        climatology_years: years to draw from; by default all of the source but those that are scored.
        climatology_members: states per valid time.
        climatology_window_days: half width of the window around the calendar day.
        reference: forecast store of a perfect-model ensemble, the ceiling.
        variables: channel codes; by default the headline channels that the files have, else all.
        leads: hours; by default whole days, else all of the file.
        region: "S,N,W,E" in degrees.
        quantiles: of the local climatology; exceeding one is an event of the Brier score.
        max_wavenumber: highest total wavenumber of the spectra; by default the highest the grid resolves.
        out: folder for scores.md and scores.json, or the name of the JSON file.
        figures: folder for figures; none are drawn without it.
        partial: file of partial sums to write; an existing one is continued.
        merge: files of partial sums to combine with this run's.
        resamples: draws of the bootstrap.
        block: start dates per block of the bootstrap; None takes the cube root of their number.
        seed: of the bootstrap.
    """

    forecasts: Sequence[str | Path] = ()
    truth: str | None = None
    baselines: Sequence[str] = BASELINES
    climatology: str | Path | None = None
    climatology_years: Sequence[int] | None = None
    climatology_members: int = 50
    climatology_window_days: int = 10
    reference: str | Path | None = None
    variables: Sequence[str] | None = None
    leads: Sequence[int] | None = None
    region: str | None = None
    quantiles: Sequence[float] = (0.1, 0.9)
    max_wavenumber: int | None = None
    out: str | Path | None = None
    figures: str | Path | None = None
    partial: str | Path | None = None
    merge: Sequence[str | Path] = ()
    resamples: int = 2000
    block: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without opening a file."""
        if not self.forecasts and not self.merge:
            raise ValueError("nothing to evaluate; name forecast files, or partial sums with --merge")
        if self.forecasts and self.truth is None:
            raise ValueError("forecasts need analyses to be scored against; give --truth")
        if unknown := sorted(set(self.baselines) - set(BASELINES)):
            raise ValueError(f"unknown baseline {unknown[0]!r}; the baselines are {', '.join(BASELINES)}")
        if self.climatology_members < 2:
            raise ValueError(f"climatology_members must be at least 2; got {self.climatology_members}")
        if not all(0 < q < 1 for q in self.quantiles):
            raise ValueError(f"quantiles must be between 0 and 1; got {list(self.quantiles)}")


def run_task(task: str, options: Mapping[str, Any], reporter: Reporter = SILENT) -> dict[str, Any]:
    """Score what a task makes; see the request of the task for its options.

    Raises:
        ValueError: an unknown task, or an option that belongs to another one.
    """
    if task not in EVALUATIONS:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(EVALUATIONS)}")
    request, run = (_resolve(name) for name in EVALUATIONS[task])
    known = {field.name for field in fields(request)}
    given = {name: value for name, value in options.items() if name in known or value not in ((), None)}
    if other := sorted(set(given) - known):
        raise ValueError(f"--{other[0].replace('_', '-')} does not belong to --task {task}")
    found: dict[str, Any] = run(**given, reporter=reporter)
    return found


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def run_evaluate(
    forecasts: Sequence[str | Path] = (), truth: str | None = None, *, reporter: Reporter = SILENT, **options: Any
) -> dict[str, Any]:
    """Score forecasts, write what `options` ask for and return the scores (`gen.metrics.summary`).

    Args:
        forecasts: files of one forecast system.
        truth: source of analyses.
        reporter: where progress and the table go.
        options: further fields of `EvaluateRequest`.

    Raises:
        ValueError: bad request, unreadable files, nothing in common between forecast and truth.
    """
    from gen.metrics.base import PartialSums, merge
    from gen.metrics.bootstrap import Bootstrap
    from gen.metrics.report import markdown
    from gen.metrics.summary import summarise

    request = EvaluateRequest(forecasts=tuple(forecasts), truth=truth, **options)
    bootstrap = Bootstrap(resamples=request.resamples, block=request.block, seed=request.seed)
    parts = [PartialSums.load(path) for path in request.merge]
    if request.forecasts:
        parts.append(_accumulate(request, reporter))
    sums = merge(parts)
    if request.merge and request.partial:
        sums.save(request.partial)
    scores = summarise(sums, bootstrap)
    table = markdown(scores)
    _write(request, scores, table)
    reporter.say(table)
    return scores


def _accumulate(request: EvaluateRequest, reporter: Reporter) -> PartialSums:
    """Score all start dates that the file of partial sums does not have yet."""
    from gen.metrics.base import PartialSums, check_agreement, merge
    from gen.metrics.stores import ForecastFiles

    files = ForecastFiles(request.forecasts)
    scorer, setup = _scorer(request, files)
    _check_overlap(files, scorer)
    codes = tuple(c.code for c in scorer.truth.channels)
    parts = []
    if request.partial and not request.merge and Path(request.partial).exists():
        parts.append(PartialSums.load(request.partial))
        check_agreement(parts[0], PartialSums(files.inits[:0], scorer.leads, codes, {}, setup), statistics=False)
    done = {init for part in parts for init in part.inits}
    saved = time.monotonic()
    with reporter.bar("scoring", files.inits.size, "start dates") as bar:
        bar.report(len(done))
        for init in files.inits:
            if init in done:
                continue
            named = {k: v[None] for k, v in scorer.score(init).items()}
            parts.append(PartialSums(np.array([init]), scorer.leads, codes, named, setup))
            bar.advance(1, str(init))
            if request.partial and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                parts = [merge(parts)]
                parts[0].save(request.partial)
                saved = time.monotonic()
    sums = merge(parts)
    if request.partial:
        sums.save(request.partial)
    return sums


def _scorer(request: EvaluateRequest, files: ForecastFiles) -> tuple[Scorer, dict[str, Any]]:
    """Open everything that the request names; return the scorer and what must agree for a merge."""
    from gen.data.sources import open_source
    from gen.grid import Region
    from gen.metrics.scorer import Scorer, Truth, region_weights
    from gen.metrics.stores import ForecastFiles

    channels, leads = _channels(request, files), _leads(request, files)
    source = open_source(str(request.truth))
    if missing := source.missing(channels):
        raise ValueError(f"{request.truth} lacks {', '.join(c.code for c in missing)}; choose others with --variables")
    truth = Truth(source, channels, files.grid)
    climatology = _climatology(request, truth, files.inits, leads) if "climatology" in request.baselines else None
    reference = ForecastFiles([request.reference]) if request.reference else None
    harmonics = _harmonics(request, files)
    quantiles = tuple(request.quantiles) if climatology and climatology.count > 1 else ()
    scorer = Scorer(
        files,
        truth,
        leads,
        region_weights(files.grid, Region.parse(request.region) if request.region else None),
        persistence="persistence" in request.baselines,
        climatology=climatology,
        reference=reference,
        quantiles=quantiles,
        harmonics=harmonics,
    )
    members = {"model": files.members}
    members |= {"climatology": climatology.count} if climatology else {}
    members |= {"reference": reference.members} if reference else {}
    setup = {
        "members": members,
        "persistence": scorer.persistence,
        "grid": files.grid.to_dict(),
        "region": request.region,
        "events": [f"above quantile {q:g}" for q in quantiles],
        "lmax": harmonics.lmax if harmonics else None,
    }
    return scorer, json.loads(json.dumps(setup))


def _channels(request: EvaluateRequest, files: ForecastFiles) -> tuple[Channel, ...]:
    from gen.data.variables import parse_channel

    if request.variables is None:
        headline = tuple(c for code in HEADLINE for c in files.channels if c.code == code)
        return headline or files.channels
    wanted = tuple(parse_channel(code) for code in request.variables)
    if missing := [c.code for c in wanted if c not in files.channels]:
        have = ", ".join(c.code for c in files.channels)
        raise ValueError(f"the forecast lacks {', '.join(missing)}; it has {have}")
    return wanted


def _leads(request: EvaluateRequest, files: ForecastFiles) -> np.ndarray:
    hours = files.leads.astype("timedelta64[h]").astype(int)
    if request.leads is None:
        hours = hours[hours > 0] if (hours > 0).any() else hours
        days = hours[hours % 24 == 0]
        return (days if days.size else hours).astype("timedelta64[h]")
    if missing := sorted(set(request.leads) - set(hours.tolist())):
        raise ValueError(f"the forecast has no lead of {missing[0]} h; it has {hours.min()} to {hours.max()} h")
    return np.array(sorted(request.leads), dtype="timedelta64[h]")


def _climatology(request: EvaluateRequest, truth: Any, inits: np.ndarray, leads: np.ndarray) -> Climatology | None:
    """Return the climatology of the years that are not scored; None with a warning when the truth has no others."""
    from gen.data.sources import open_source
    from gen.metrics.scorer import Climatology

    if request.climatology and _is_daily(Path(request.climatology)):
        return Climatology.of_means(Path(request.climatology), truth)
    source = open_source(str(request.climatology)) if request.climatology else truth.source
    scored = _years(np.concatenate([inits, inits + leads.max()]))
    years = request.climatology_years
    if years is None:
        years = [y for y in _years(np.asarray(source.times())) if y not in scored]
    if leak := sorted(set(years) & set(scored)):
        log.warning("the climatology contains %s, which is scored: its scores are too good", leak[0])
    if not years:
        log.warning("no climatology: the source has no year beside the scored ones; name one with --climatology")
        return None
    window = request.climatology_window_days
    members = min(request.climatology_members, (2 * window + 1) * len(years))
    return Climatology.of_states(source, truth, years=years, members=members, window_days=window)


def _is_daily(path: Path) -> bool:
    """Return whether a file was written by `gen data climatology`."""
    import xarray

    from gen.data.climatology import KIND

    if not path.is_file():
        return False
    try:
        with xarray.open_dataset(path, decode_times=False) as data:
            return data.attrs.get("kind") == KIND
    except (OSError, ValueError):
        return False


def _years(times: np.ndarray) -> list[int]:
    return [int(y) + 1970 for y in np.unique(times.astype("datetime64[Y]").astype(int))]


def _harmonics(request: EvaluateRequest, files: ForecastFiles) -> Any:
    from gen.metrics.spectra import SphericalHarmonics

    if request.region:
        return None
    try:
        return SphericalHarmonics(files.grid, request.max_wavenumber)
    except ValueError as error:
        log.warning("no spectra: %s", error)
        return None


def _check_overlap(files: ForecastFiles, scorer: Scorer) -> None:
    valid = (files.inits[:, None] + scorer.leads).reshape(-1)
    there = scorer.truth.has(valid)
    if not there.any():
        raise ValueError(f"the truth has none of the valid times {valid.min()} to {valid.max()}; give other analyses")
    if not there.all():
        log.warning("%d of %d valid times have no truth and are left out", int((~there).sum()), there.size)


def _write(request: EvaluateRequest, scores: dict[str, Any], table: str) -> None:
    if request.out:
        out = Path(request.out)
        target = out if out.suffix == ".json" else out / "scores.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n")
        target.with_suffix(".md").write_text(table)
    if request.figures:
        from gen.plot.scores import plot_scores

        plot_scores(scores, Path(request.figures))
