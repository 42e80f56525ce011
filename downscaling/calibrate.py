"""Fit what a trained model leaves open, on validation events: the noise that makes spread match error.

The spread of an ensemble grows with the noise that sampling starts from. The ratio of spread to error,

    rho(s) = sqrt((M + 1) / M <variance> / <squared error of the mean>),

is measured for noise scales s with the same noise, and s with rho(s) = 1 is found by secants in log s and log rho.

    python -m downscaling.calibrate MODEL --events radar.nc,other.nc [--factors 2.5,4,8] [--crops 12] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Fit", "fit_noise_scale", "main", "spread_skill", "store"]

import numpy as np

from downscaling.drawing import CaseList, PairDrawer, choose_cases, numbered
from downscaling.model import DownscalingModel
from downscaling.overlap import Overlap
from gen.errors import guarded

log = logging.getLogger(__name__)

LOWEST, HIGHEST = 0.5, 2.0  # noise scales
ENOUGH = 0.01  # of log rho
ROUNDS = 6


@dataclass(frozen=True)
class Fit:
    """A fitted noise scale, its ratio of spread to error, and all (scale, ratio) that were measured."""

    noise_scale: float
    ratio: float
    tried: tuple[tuple[float, float], ...]


def fit_noise_scale(
    model: DownscalingModel,
    cases: CaseList,
    *,
    members: int = 10,
    seed: int = 0,
    steps: int | None = None,
    start: float | None = None,
    dtype: str = "auto",
) -> Fit:
    """Find the noise scale at which spread matches error.

    Args:
        model: on its device.
        cases: crops of validation events (`downscaling.drawing.choose_cases`).
        members: M.
        seed: of the noise.
        steps: of the sampler; the model's by default.
        start: first guess; the model's own scale by default.
        dtype: arithmetic inside the networks.
    """

    def measure(scale: float) -> float:
        drawer = PairDrawer(model, members, seed=seed, steps=steps, noise_scale=scale, dtype=dtype)
        return spread_skill(drawer, cases)

    return solve(measure, start or model.meta.sampling.noise_scale)


def spread_skill(drawer: PairDrawer, cases: CaseList) -> float:
    """Return rho of all cases: the geometric mean over factors, so that none outweighs the others."""
    sums: dict[float, list[float]] = {}
    for number, case in numbered(cases):
        pair = cases.pair(case)
        overlap = Overlap.between(pair.coarse_grid, pair.fine_grid, np.isfinite(pair.fine))
        drawn = drawer.draw(pair, overlap, number).astype(np.float64)
        found = sums.setdefault(case.factor, [0.0, 0.0])
        found[0] += float(drawn.var(axis=0, ddof=1).mean())
        found[1] += float(np.square(drawn.mean(axis=0) - pair.fine).mean())
    inflated = (drawer.members + 1) / drawer.members
    ratios = [math.sqrt(inflated * variance / max(error, 1e-12)) for variance, error in sums.values()]
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-6)))))


def solve(measure: Callable[[float], float], start: float) -> Fit:
    """Find s with measure(s) = 1 by secants between `LOWEST` and `HIGHEST`; returns the nearest that was measured."""
    tried = [(start, measure(start))]
    for _ in range(ROUNDS):
        scale, ratio = min(tried, key=lambda t: abs(math.log(t[1])))
        log.info("noise scale %.4f: spread/skill %.3f", *tried[-1])
        if abs(math.log(ratio)) < ENOUGH:
            break
        guess = _next(tried)
        if any(abs(math.log(guess / s)) < 1e-4 for s, _ in tried):
            break
        tried.append((guess, measure(guess)))
    scale, ratio = min(tried, key=lambda t: abs(math.log(t[1])))
    return Fit(scale, ratio, tuple(tried))


def _next(tried: Sequence[tuple[float, float]]) -> float:
    """Return the root of the line through the two best points in logarithms; the first step takes a slope of one."""
    best = sorted(tried, key=lambda t: abs(math.log(t[1])))
    x0, y0 = (math.log(v) for v in best[0])
    slope = 1.0
    if len(best) > 1:
        x1, y1 = (math.log(v) for v in best[1])
        found = (y1 - y0) / (x1 - x0)
        slope = found if found > 0.1 else 1.0
    return float(np.clip(math.exp(x0 - y0 / slope), LOWEST, HIGHEST))


def store(folder: Path, fit: Fit, out: Path | None = None) -> Path:
    """Write a fitted scale into a model folder, or into a copy of it, and seal it anew.

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
    document["sampling"]["noise_scale"] = round(fit.noise_scale, 4)
    (target / "downscaling.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    seal(target)
    return target


def main(argv: Sequence[str] | None = None) -> int:
    """Fit and store; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m downscaling.calibrate", description="Fit the noise of a model.")
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("--events", required=True, help="fine rain to fit on, [name=]path separated by commas")
    parser.add_argument("--factors", default="2.5,4,8")
    parser.add_argument("--crops", type=int, default=12, help="of each event")
    parser.add_argument("--crop-size", type=int, default=160)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="copy to write; the model folder itself by default")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    model = DownscalingModel.load(options.model)
    factors = [float(f) for f in options.factors.split(",")]
    events = [e for e in options.events.split(",") if e]
    cases = choose_cases(events, factors, options.crops, options.crop_size, options.seed)
    fit = fit_noise_scale(model, cases, members=options.members, seed=options.seed, steps=options.steps)
    target = store(options.model, fit, options.out)
    log.info("%s: noise scale %.4f, spread/skill %.3f", target, fit.noise_scale, fit.ratio)


if __name__ == "__main__":
    sys.exit(main())
