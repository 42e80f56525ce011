"""Seams of the downscaling demo: steps of fine rain at the edges of tiles and windows, against a field without any.

A radar composite is averaged to coarse cells and refined twice with the same noise: in tiles and windows as always,
and in one piece. For each kind of line `index` is the plain seam index of the tiled field (mean step across these
lines over that across all others, `gen.metrics.precipitation.seam_index`), which mostly tells where the rain is, and
`paired` the same index divided by that of the field in one piece: rain and prints of tokens cancel, and 1 means that
no seam shows. `spread` is the standard deviation of `paired` for as many lines chosen at random away from all seams,
what 1 is to be judged by. The tiled field is drawn from a crop of the coarse input as well; the largest difference
from the whole is that of pixels at least one tile side inside the rims of both. With `--shifts n` the rain is moved
n times against the lattice of the tiles: `pooled` is the mean step at lines of the radar when a seam passes over that
at the same lines when none does, the seam index free of where it rains, without a field in one piece.

    python benchmarks/downscaling_seams.py --radar FILE [--cells 128] [--members 1] [--tile 128 --overlap 32] [--crop]
                                           [--shifts 8]
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import parser, print_header

from diffusion.samplers import build_sampler
from downscaling.conserve import Mode
from downscaling.lattice import Axis, Target, build_domain
from downscaling.model import DownscalingModel
from downscaling.sampling import RainSampler, tile_side
from downscaling.sources.opening import open_precipitation
from gen.hub import resolve
from gen.metrics.precipitation import seam_index
from gen.projected_grid import ProjectedGrid

FACTOR = 4
LIGHT = 1.0  # mm/h at which rates are cut in the lines named light
TRIALS = 200
MODES: tuple[Mode, ...] = ("none", "input")


class Replayed(RainSampler):
    """Conserve what another sampler has drawn."""

    drawn: np.ndarray

    def _rained(self, levels: Any, members: int) -> Iterator[tuple[int, np.ndarray]]:
        yield self.domain.rows.first, self.drawn


def main() -> None:
    """Draw, measure and print."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    print_header(options, bar="paired 0.98 to 1.02, crops 1e-5 mm/h")
    model, coarse = _model(options), _coarse(options)
    began = time.perf_counter()
    tiled, fields = _drawn(model, coarse, options)
    _, whole = _drawn(_model(options, tile=4096), coarse, options)
    facts: dict[str, Any] = {
        "fine": list(fields["none"].shape),
        "wet_share": round(float((coarse[0] >= 0.1).mean()), 3),
        "windows": f"{model.meta.sampling.tile}, overlap {tiled.overlap}; tiles of {tiled.side}",
        "evaluations": tiled.sampler.evaluations,
    }
    for mode, cut in itertools.product(MODES, ("", "_light")):
        pair = [np.minimum(f[mode], LIGHT if cut else np.inf) for f in (fields, whole)]
        facts[f"conserve_{mode}{cut}"] = {
            kind: _index(pair, *lines, _quiet(tiled)) for kind, lines in _lines(tiled).items()
        }
    if options.crop:
        facts["crop"] = _crop(model, coarse, options, tiled, fields["none"])
    if options.shifts > 1:
        facts["pooled"] = _pooled(model, options)
    facts["seconds"] = round(time.perf_counter() - began, 1)
    text = json.dumps(facts, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text)


def _options() -> Any:
    made = parser(__doc__)
    made.set_defaults(model="downscaling-demo")
    made.add_argument("--radar", type=Path, required=True, help="file or folder of fine rain on a map plane")
    made.add_argument("--index", type=int, help="which time (default: the wettest)")
    made.add_argument("--cells", type=int, default=128, help="coarse cells of a side; missing ones are called dry")
    made.add_argument("--members", type=int, default=1, help="ensemble members")
    made.add_argument("--tile", type=int, help="window of the model in pixels (default: its own)")
    made.add_argument("--overlap", type=int, help="overlap of windows and tiles in pixels (default: the model's)")
    made.add_argument("--steps", type=int, help="sampler steps (default: the model's)")
    made.add_argument("--crop", action="store_true", help="draw a crop as well")
    made.add_argument("--shifts", type=int, default=1, help="moves of the rain against the lattice of the tiles")
    made.add_argument("--out", type=Path, help="write the JSON there as well")
    return made.parse_args()


def _model(options: Any, **wish: Any) -> DownscalingModel:
    model = DownscalingModel.load(resolve(options.model)).to(options.device)
    asked = {name: getattr(options, name) for name in ("tile", "overlap", "steps") if getattr(options, name)}
    model.meta = dataclasses.replace(model.meta, sampling=dataclasses.replace(model.meta.sampling, **{**asked, **wish}))
    return model


Coarse = tuple[np.ndarray, ProjectedGrid, int, float]


def _coarse(options: Any, cells: int = 0) -> Coarse:
    """Return the coarse field in mm/h, moved by some cells, its grid, the end of its interval in minutes, its hours."""
    source = open_precipitation(options.radar)
    assert isinstance(source.grid, ProjectedGrid), "the radar must lie on a map plane"
    times = range(len(source.times()))
    index = max(times, key=lambda k: float(np.nanmean(source.read(k)))) if options.index is None else options.index
    side = FACTOR * (60 if options.quick else options.cells)
    height, width = (min(side, n // FACTOR * FACTOR) for n in source.grid.shape)
    top, left = ((n - m) // 2 for n, m in zip(source.grid.shape, (height, width), strict=True))
    window = slice(top, top + height), slice(left, left + width)
    moved = slice(max(top + FACTOR * cells, 0), None), slice(max(left + FACTOR * cells, 0), None)
    fine = np.nan_to_num(source.read(index)[moved][:height, :width])
    if min(top, left) + FACTOR * cells < 0 or fine.shape != (height, width):
        raise ValueError(f"the radar ends within {FACTOR * abs(cells)} pixels of the field: take fewer --cells")
    coarse = fine.reshape(height // FACTOR, FACTOR, width // FACTOR, FACTOR).mean((1, 3))
    minute = int(source.times()[index].astype("datetime64[m]").astype(np.int64))
    return coarse.astype(np.float32), source.grid.window(*window).coarsen(FACTOR), minute, source.interval_hours


def _drawn(model: DownscalingModel, coarse: Coarse, options: Any) -> tuple[RainSampler, dict[Mode, np.ndarray]]:
    """Return the sampler and the fine rain [M, H, W] with and without conservation, drawn once."""
    rain, grid, minute, hours = coarse
    domain, defaults = build_domain(grid, Target(float(FACTOR)), tile_side(model)), model.meta.sampling
    found: dict[Mode, np.ndarray] = {}
    for kind, mode in zip((RainSampler, Replayed), MODES, strict=True):
        walk = build_sampler(defaults.sampler, defaults.steps, **defaults.settings)
        sampler = kind(model, domain, walk, half_life_hours=2.0, interval_hours=hours, keep=mode)
        if isinstance(sampler, Replayed):
            sampler.drawn = found["none"]
        pieces = sampler.draw(rain, minute, range(options.members))
        found[mode] = np.concatenate([piece.values for piece in pieces], axis=1)
    return sampler, found


def _lines(sampler: RainSampler) -> dict[str, tuple[list[int], list[int]]]:
    """Return rows and columns of each kind of line: edges of blends and their middles, of tiles and of all windows."""
    overlap, found = sampler.overlap, {}
    for name, side in (("tile", sampler.side), ("window", sampler.model.meta.sampling.tile)):
        for kind, offsets in (("edges", (0, overlap)), ("blends", (overlap // 2,))):
            step = side - overlap
            found[f"{name}_{kind}"] = (
                _at(sampler.domain.rows, step, offsets),
                _at(sampler.domain.columns, step, offsets),
            )
    return found


def _quiet(sampler: RainSampler) -> tuple[list[int], list[int]]:
    """Return the rows and columns that lie in no blend."""
    step = sampler.model.meta.sampling.tile - sampler.overlap
    away = range(sampler.overlap + 1, step)
    return _at(sampler.domain.rows, step, away), _at(sampler.domain.columns, step, away)


def _at(axis: Axis, step: int, offsets: Sequence[int]) -> list[int]:
    """Return the lines of the field that lie `offsets` beyond multiples of `step`."""
    return [k for k in range(1, axis.stop - axis.first) if (k + axis.first) % step in {o % step for o in offsets}]


def _index(pair: list[np.ndarray], rows: list[int], columns: list[int], quiet: tuple[list[int], list[int]]) -> Any:
    """Return the index of the first field, the ratio to that of the second, and the spread of this ratio elsewhere."""
    if not rows and not columns:
        return {"lines": 0}
    steps = [[np.abs(np.diff(f.astype(np.float64), axis=a)).mean((0, 3 - a)) for a in (1, 2)] for f in pair]

    def ratio(rows: Sequence[int], columns: Sequence[int]) -> float:
        at = [sum(s[0][k - 1] for k in rows) + sum(s[1][k - 1] for k in columns) for s in steps]
        away = [s[0][np.array(quiet[0]) - 1].sum() + s[1][np.array(quiet[1]) - 1].sum() for s in steps]
        return float(at[0] / at[1] / (away[0] / away[1]))

    random = np.random.default_rng(0)
    trials = [
        ratio(*(random.choice(q, len(k), replace=False) for q, k in zip(quiet, (rows, columns), strict=True)))
        for _ in range(TRIALS)
    ]
    plain = float(seam_index(torch.from_numpy(pair[0]), rows, columns).mean())
    found = {"index": plain, "paired": ratio(rows, columns), "spread": float(np.std(trials))}
    return {"lines": len(rows) + len(columns)} | {name: round(v, 4) for name, v in found.items()}


def _pooled(model: DownscalingModel, options: Any) -> dict[str, Any]:
    """Return by how much steps at lines of the radar are larger when a seam passes than when none does."""
    period = (tile_side(model) - model.meta.sampling.overlap) // FACTOR  # coarse cells
    if period % options.shifts or period // options.shifts * FACTOR % model.networks.unit:
        raise ValueError(f"--shifts must divide the {period} coarse cells from one tile to the next, by whole tokens")
    moves = [k * period // options.shifts - period // 2 for k in range(options.shifts)]
    sums: dict[str, dict[str, list[np.ndarray]]] = {}  # by axis: [seam or none, sum and count, lines of the radar]
    for move in moves:
        sampler, fields = _drawn(model, _coarse(options, move), options)
        begin, end = (FACTOR * (m - move) for m in (moves[-1], moves[0]))  # of what all fields have, in this one
        for mode, cut in itertools.product(MODES, ("", "_light")):
            field = np.minimum(fields[mode], LIGHT if cut else np.inf).astype(np.float64)
            for kind, lines in _lines(sampler).items():
                made = [np.zeros((2, 2, n + FACTOR * (moves[-1] - moves[0]))) for n in field.shape[1:]]
                tables = sums.setdefault(f"conserve_{mode}{cut}", {}).setdefault(kind, made)
                for axis, (table, at) in enumerate(zip(tables, lines, strict=True)):
                    part = np.moveaxis(field, axis + 1, -1)[:, begin : field.shape[2 - axis] + end]
                    step = np.abs(np.diff(part)).mean((0, 1))
                    line = np.arange(1, step.size + 1)
                    seam = np.where(np.isin(line, at), 0, 1)
                    place = line + FACTOR * (move - moves[0])
                    table[seam, 0, place] += step
                    table[seam, 1, place] += 1.0
    return {name: {kind: _relative(tables) for kind, tables in kinds.items()} for name, kinds in sums.items()}


def _relative(tables: Sequence[np.ndarray]) -> float:
    """Return the mean steps of lines with a seam over those of the same lines without, summed over lines."""
    total = np.zeros(2)
    for table in tables:
        both = (table[:, 1] > 0).all(axis=0)
        total += (table[:, 0, both] / table[:, 1, both]).sum(axis=1)
    return round(float(total[0] / total[1]), 4)


def _crop(
    model: DownscalingModel, coarse: Coarse, options: Any, sampler: RainSampler, fine: np.ndarray
) -> dict[str, float | int]:
    """Draw the crop without the first cells; compare what lies one tile side inside."""
    rain, grid, *moment = coarse
    part = grid.window(slice(7, grid.shape[0]), slice(5, grid.shape[1]))
    other, found = _drawn(model, (rain[7:, 5:], part, *moment), options)
    a, b = sampler.domain, other.domain
    top, left = b.rows.first - a.rows.first, b.columns.first - a.columns.first
    same = np.abs(fine[:, top:, left:] - found["none"])[:, other.side :, other.side :]
    if not same.size:
        return {"pixels": 0}
    return {"pixels": int(same.size), "largest_difference": float(same.max()), "largest_rate": float(fine.max())}


if __name__ == "__main__":
    main()
