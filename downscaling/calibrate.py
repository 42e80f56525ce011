r"""Fit what a trained model leaves open, factor by factor, on validation events.

Three things depend on the factor (`downscaling.calibration`), all fitted to rain as it will be written, after
conservation. The noise that sampling starts from is scaled by s until spread matches error: with variance v_i and
squared error e_i of the mean of M members in crop i,

    rho(s)^2 = (M + 1) / M  sum_i v_i^(1/2) / sum_i e_i v_i^(-1/2) = 1,

found by secants in log s and log rho. Weights that depend on the forecast alone leave the condition unbiased, as a
reliable ensemble has E e_i = (M + 1) / M v_i in every crop. Weights 1 are what scores report, but there the heaviest of
twelve crops has half of all error; weights 1 / v_i give all crops one voice and calibrate drizzle. The square root lies
between; rho of plain sums and the geometric mean of rho_i are printed beside it. For each s the chance above which it
rains is bisected to the share of wet pixels of the truth, with the samples at hand. At last a monotone map of heavy
rain brings the pooled quantiles of the members to those of the truth; it is kept only where maps fitted on part of the
crops lower the error of the quantiles of the others.

    python -m downscaling.calibrate MODEL --events radar.nc,other.nc [--factors 2.5,4,8] [--crops 12] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

__all__ = ["Fit", "Report", "Samples", "fit_factor", "fit_tail", "main", "report", "solve", "solve_threshold", "store"]

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from downscaling.calibration import RATIOS, Calibration, Settings, TailMap
from downscaling.conserve import Mode
from downscaling.drawing import CaseList, PairDrawer, choose_cases, numbered, told_statics
from downscaling.model import DownscalingModel, SamplingDefaults
from downscaling.overlap import Overlap
from downscaling.pairs import Pair
from gen.errors import guarded
from gen.metrics.precipitation import WET

log = logging.getLogger(__name__)

Values = NDArray[np.float32]
Array = NDArray[np.float64]

LOWEST, HIGHEST = 0.5, 2.0  # noise scales
ENOUGH = 0.02  # of log rho
SLOPE = 2.0  # of log rho over log s, as the demo has it
ROUNDS = 4  # noise scales that are tried
CHANCES = (-0.99, 0.95)  # of the wet threshold
BISECTIONS = 9
FEW = 4  # members that the wet share is taken from while the threshold is sought
LEVELS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9995)  # of wet pixels: corners of the tail map
PIXELS = 20  # of the truth beyond a level, else it is left out
TAIL_ROUNDS = 2
FOLDS = 4


class Samples:
    """Members for crops of one factor: amounts and chances are drawn once for every noise scale.

    Args:
        drawer: of members. cases: of any factors. factor: the one that is taken.
    """

    def __init__(self, drawer: PairDrawer, cases: CaseList, factor: float) -> None:
        self.drawer, self.members = drawer, drawer.members
        self.work: list[tuple[int, Pair, Overlap]] = []
        for number, case in numbered(cases):
            if case.factor == factor:
                pair = cases.pair(case)
                overlap = Overlap.between(pair.coarse_grid, pair.fine_grid, np.isfinite(pair.fine))
                self.work.append((number, pair, overlap))
        self.truths = [pair.fine for _, pair, _ in self.work]
        self._levels: dict[float, list[Tensor]] = {}

    def rain(self, settings: Settings, crops: Sequence[int] | None = None, members: int | None = None) -> list[Values]:
        """Return the finished rain [M, H, W] of all or some crops."""
        found, work = self._drawn(settings), self.work
        chosen = range(len(work)) if crops is None else crops
        return [self.drawer.finished(found[k][:members], work[k][1], work[k][2], settings) for k in chosen]

    def prior(self, settings: Settings, crops: Sequence[int]) -> list[Values]:
        """Return the rain of some crops before amounts are conserved."""
        return [self.drawer.model.rain(self._drawn(settings)[k], settings).numpy() for k in crops]

    def _drawn(self, settings: Settings) -> list[Tensor]:
        if (scale := settings.noise_scale) not in self._levels:
            self._levels[scale] = [self.drawer.levels(pair, number, settings) for number, pair, _ in self.work]
        return self._levels[scale]


@dataclass(frozen=True)
class Report:
    """How members compare with the truth.

    Args:
        ratio: spread over error as it is fitted. summed: of sums over crops. typical: geometric mean over crops.
        wet: share of pixels with at least 0.1 mm/h minus the truth's.
        extreme: 99.9 % quantile of all pixels over the truth's, minus one; NaN where the truth's is dry.
    """

    ratio: float
    summed: float
    typical: float
    wet: float
    extreme: float


@dataclass(frozen=True)
class Fit:
    """Fitted settings of a factor, with reports before and after."""

    settings: Settings
    before: Report
    after: Report


def fit_factor(samples: Samples, start: Settings) -> Fit:
    """Fit noise, wet threshold and tail, in this order.

    Args:
        samples: members of one factor.
        start: first guess, which the fit is compared with.
    """
    plain = dataclasses.replace(start, tail=TailMap())
    thresholds: dict[float, float] = {}

    def measure(scale: float) -> float:
        trial = dataclasses.replace(plain, noise_scale=scale)
        thresholds[scale] = fit_threshold(samples, trial)
        trial = dataclasses.replace(trial, wet_threshold=thresholds[scale])
        return report(samples.rain(trial), samples.truths).ratio

    tried = solve(measure, start.noise_scale)
    scale, _ = min(tried, key=_distance)
    fitted = Settings(scale, thresholds[scale])
    fitted = dataclasses.replace(fitted, tail=checked_tail(samples, fitted))
    before, after = (report(samples.rain(s), samples.truths) for s in (start, fitted))
    return Fit(fitted, before, after)


def report(rain: Sequence[Values], truths: Sequence[Values]) -> Report:
    """Compare members [M, H, W] of crops with the truth [H, W] of each; pixels without truth count nowhere."""
    variance, error = (np.empty(len(rain)) for _ in range(2))
    for k, (members, truth) in enumerate(zip(rain, truths, strict=True)):
        there = np.isfinite(truth)
        x, y = members[:, there].astype(np.float64), truth[there].astype(np.float64)
        variance[k], error[k] = x.var(axis=0, ddof=1).mean(), np.square(x.mean(axis=0) - y).mean()
    count = len(rain[0])
    variance, error = np.maximum((count + 1) / count * variance, 1e-9), np.maximum(error, 1e-9)
    root = np.sqrt(variance)
    ours, theirs = _pooled(rain, truths)
    extremes = np.quantile(ours, 0.999), np.quantile(theirs, 0.999)
    return Report(
        ratio=math.sqrt(root.sum() / (error / root).sum()),
        summed=math.sqrt(variance.sum() / error.sum()),
        typical=math.exp(np.log(variance / error).mean() / 2),
        wet=float((ours >= WET).mean() - (theirs >= WET).mean()),
        extreme=float(extremes[0] / extremes[1] - 1) if extremes[1] > 0 else math.nan,
    )


def solve(measure: Callable[[float], float], start: float) -> list[tuple[float, float]]:
    """Look for s with measure(s) = 1 by secants between `LOWEST` and `HIGHEST`; return all (s, measure(s)) tried."""
    tried = [(start, measure(start))]
    while True:
        log.info("noise scale %.4f: spread/skill %.3f", *tried[-1])
        if len(tried) == ROUNDS or min(map(_distance, tried)) < ENOUGH:
            return tried
        guess = _next(tried)
        if any(abs(math.log(guess / s)) < 1e-3 for s, _ in tried):
            return tried
        tried.append((guess, measure(guess)))


def fit_threshold(samples: Samples, settings: Settings) -> float:
    """Return the chance from which the members have the truth's share of wet pixels."""

    def excess(threshold: float) -> float:
        rain = samples.rain(dataclasses.replace(settings, wet_threshold=threshold), members=FEW)
        ours, theirs = _pooled(rain, samples.truths)
        return float((ours >= WET).mean() - (theirs >= WET).mean())

    return solve_threshold(excess)


def solve_threshold(excess: Callable[[float], float]) -> float:
    """Return the root of a function that does not rise, by bisection between the `CHANCES`; an end if there is none."""
    low, high = CHANCES
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if excess(middle) > 0:
            low = middle
        else:
            high = middle
    return round((low + high) / 2, 4)


def checked_tail(samples: Samples, settings: Settings) -> TailMap:
    """Return the tail map if such maps lower the error of the quantiles of crops they were not fitted on.

    Quantiles are compared fold by fold: over all folds together every truth would have been fitted on.
    """
    count = len(samples.truths)
    if count < 2 or not (found := fit_tail(samples, settings, range(count))).rates:
        return TailMap()
    errors = []
    for fold in np.array_split(np.arange(count), min(FOLDS, count)):
        rest = [k for k in range(count) if k not in fold]
        trial = dataclasses.replace(settings, tail=fit_tail(samples, settings, rest))
        truths = [samples.truths[k] for k in fold]
        errors.append([_tail_error(samples.rain(s, fold.tolist()), truths) for s in (settings, trial)])
    known = np.array(errors)[np.isfinite(errors).all(axis=1)]
    without, held_out = known.mean(axis=0) if len(known) else (0.0, 0.0)
    log.info("error of the heavy quantiles %.3f, with maps of other crops %.3f", without, held_out)
    return found if held_out < without else TailMap()


def fit_tail(samples: Samples, settings: Settings, crops: Sequence[int]) -> TailMap:
    """Map drawn quantiles so that, once amounts are conserved, those of the truth are met.

    Levels are shares of the truth's wet pixels; those with few pixels beyond are left out. Conservation takes back part
    of what a map does, so that ratios are corrected by what is still missing.

    Args:
        samples: of one factor.
        settings: without a tail map.
        crops: numbers of those to fit on.
    """
    truths = [samples.truths[k] for k in crops]
    drawn, truth = _pooled(samples.prior(settings, crops), truths)
    chances = _chances(truth)
    rates, wanted = np.quantile(drawn, chances), np.quantile(truth, chances)
    keep = (rates > WET) & (np.diff(rates, prepend=0.0) > 1e-3 * rates)
    chances, rates, wanted = chances[keep], rates[keep], wanted[keep]
    tail = TailMap()
    if len(rates) < 2:
        return tail
    ratio = np.ones(len(rates))
    for _ in range(TAIL_ROUNDS):
        rain = samples.rain(dataclasses.replace(settings, tail=tail), crops)
        reached = np.quantile(_pooled(rain, truths)[0], chances)
        ratio = np.clip(ratio * wanted / np.maximum(reached, WET), *RATIOS)
        ratio[0] = 1.0
        mapped = np.maximum.accumulate(rates * ratio)
        tail = TailMap(tuple(rates.tolist()), tuple(mapped.tolist()))
    return tail


def store(folder: Path, settings: dict[float, Settings], out: Path | None = None) -> Path:
    """Write fitted settings into a model folder, or into a copy of it, and seal it anew.

    Settings that were fitted at other factors before are kept.

    Raises:
        ValueError: the folder holds no downscaling model, or the copy exists.
    """
    from gen.hub import open_model, seal

    document = open_model(folder).document("downscaling")
    if out is not None and out != folder:
        if out.exists():
            raise ValueError(f"{out} exists; name a new folder")
        shutil.copytree(folder, out)
    target = out or folder
    before = SamplingDefaults.from_dict(document["sampling"]).calibration
    known = {} if before is None else dict(zip(before.factors, before.settings, strict=True))
    factors, values = zip(*sorted((known | settings).items(), key=lambda item: item[0]), strict=True)
    document["sampling"]["calibration"] = asdict(Calibration(factors, values))
    (target / "downscaling.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    seal(target)
    return target


def table(fits: dict[float, Fit]) -> str:
    """Return what was fitted and what it changed; spread over error as fitted, of sums, and of a typical crop."""
    head = "factor  noise  threshold  tail   spread/skill (sums, typical)             wet error, points  q99.9 error, %"
    lines = [head]
    for factor, fit in fits.items():
        s, sides = fit.settings, (fit.before, fit.after)
        ratio = " -> ".join(f"{r.ratio:.2f} ({r.summed:.2f}, {r.typical:.2f})" for r in sides)
        wet, extreme = (" -> ".join(f"{100 * getattr(r, n):+.1f}" for r in sides) for n in ("wet", "extreme"))
        tail = f"x{s.tail.mapped[-1] / s.tail.rates[-1]:.2f}" if s.tail.rates else "none"
        lines.append(
            f"{factor:<7g} {s.noise_scale:<6.3f} {s.wet_threshold:<10.3f} {tail:<6} {ratio:<41} {wet:<18} {extreme}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit and store; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m downscaling.calibrate", description="Fit how a model is sampled.")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--events", required=True, help="fine rain to fit on, [name=]path separated by commas")
    parser.add_argument("--factors", default="2.5,4,8")
    parser.add_argument("--crops", type=int, default=12, help="of each event")
    parser.add_argument("--crop-size", type=int, default=120)
    parser.add_argument("--accumulate", type=int, default=1, help="steps of time of the events that are averaged")
    parser.add_argument("--substeps", type=int, default=1, help="parts of each step, rain carried along its motion")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--conserve", choices=get_args(Mode), default="input", help="as members will be sampled")
    parser.add_argument("--orography", type=Path, help="elevation, if members will be sampled with it")
    parser.add_argument("--land-mask", type=Path, help="share of land, beside --orography")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--out", type=Path, help="copy to write; the model folder itself by default")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.members < 2:
        raise ValueError(f"members must be at least 2; got {options.members}")
    if options.out is not None and options.out.exists():
        raise ValueError(f"{options.out} exists; name a new folder")
    model = DownscalingModel.load(options.model)
    factors = sorted({float(f) for f in options.factors.split(",")})
    events = [e for e in options.events.split(",") if e]
    means = {"accumulate": options.accumulate, "substeps": options.substeps}
    cases = choose_cases(events, factors, options.crops, options.crop_size, options.seed, **means)
    drawer = PairDrawer(
        model, options.members, seed=options.seed, steps=options.steps, keep=options.conserve, dtype=options.dtype,
        statics=told_statics(model, options.orography, options.land_mask),
    )  # fmt: skip
    fits: dict[float, Fit] = {}
    for factor in factors:
        log.info("factor %g", factor)
        fits[factor] = fit_factor(Samples(drawer, cases, factor), model.meta.sampling.at(factor))
    log.info("%s", table(fits))
    log.info("%s", store(options.model, {f: fit.settings for f, fit in fits.items()}, options.out))


def _distance(tried: tuple[float, float]) -> float:
    return abs(math.log(tried[1]))


def _next(tried: Sequence[tuple[float, float]]) -> float:
    """Return the root of the line through the two best points in logarithms; the first step takes `SLOPE`."""
    best = sorted(tried, key=_distance)
    x0, y0 = (math.log(v) for v in best[0])
    slope = SLOPE
    if len(best) > 1:
        x1, y1 = (math.log(v) for v in best[1])
        found = (y1 - y0) / (x1 - x0)
        slope = found if found > 0.1 else SLOPE
    return round(min(max(math.exp(x0 - y0 / slope), LOWEST), HIGHEST), 4)


def _pooled(rain: Sequence[Values], truths: Sequence[Values]) -> tuple[Values, Values]:
    """Return all rates of the members and of the truth where there is a truth."""
    known = [np.isfinite(t) for t in truths]
    ours = np.concatenate([members[:, there].ravel() for members, there in zip(rain, known, strict=True)])
    return ours, np.concatenate([t[there] for t, there in zip(truths, known, strict=True)])


def _chances(truth: Values) -> Array:
    """Return the `LEVELS` of wet pixels with enough of them beyond, as chances among all pixels."""
    wet = int((truth >= WET).sum())
    beyond = np.array([1 - level for level in LEVELS if (1 - level) * wet >= PIXELS])
    return 1 - beyond * wet / max(truth.size, 1)


def _tail_error(rain: Sequence[Values], truths: Sequence[Values]) -> float:
    """Return the mean of |log(quantile / quantile of the truth)| over the levels beyond the first, NaN without any."""
    ours, theirs = _pooled(rain, truths)
    chances = _chances(theirs)[1:]
    if not chances.size:
        return math.nan
    pair = (np.maximum(np.quantile(v, chances), WET) for v in (ours, theirs))
    return float(np.abs(np.subtract(*map(np.log, pair))).mean())


if __name__ == "__main__":
    sys.exit(main())
