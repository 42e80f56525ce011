"""Scores of many crops with intervals: records are summed by time, times are resampled in blocks, roots come last.

Neighbouring crops and times see the same weather, so what is resampled is the time, in blocks of consecutive ones
(`gen.metrics.bootstrap`); the same draws serve all systems. Groups are the factors, and the regions within a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["REFERENCE", "quantiles_of", "summarise"]

import numpy as np
from numpy.typing import NDArray

from downscaling.crop_scores import BIN_EDGES, BRIER, FSS_SCALES, FSS_THRESHOLDS, POOLS, TAILS
from gen.metrics.bootstrap import Bootstrap

Array = NDArray[np.float64]
Sums = Mapping[str, Array]  # name -> [..., bins]

REFERENCE = "rainfarm-fused"
PROBABILITIES = (0.9, 0.99, 0.999, 0.9999)
TRUTH = "truth"


class Group:
    """Records of one system by time, ready to be summed.

    Args:
        records: of the crops. truths: of the same crops. unit: [N] number of the time of each crop.
        members: of the system.
    """

    def __init__(self, records: Sequence[Any], truths: Sequence[Any], unit: NDArray[np.int64], members: int) -> None:
        self.members, self.units = members, int(unit.max()) + 1
        self._unit = unit
        named = [*((k, records) for k in records[0]), *((f"truth_{k}", truths) for k in truths[0])]
        self._parts: dict[str, tuple[Array, Array]] = {}
        for name, rows in named:
            key = name.removeprefix("truth_") if rows is truths else name
            self._parts[name] = self._by_unit([row.get(key) for row in rows], key == "histogram")

    def means(self, counts: Array) -> dict[str, Array]:
        """Return means over crops [R, ...] of every statistic for draws `counts` [R, U] of the times."""
        found = {}
        for name, (total, number) in self._parts.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                found[name] = np.tensordot(counts, total, 1) / np.tensordot(counts, number, 1)
        return found

    def _by_unit(self, values: list[Any], sparse: bool) -> tuple[Array, Array]:
        rows = np.stack([_dense(v) for v in values]) if sparse else np.array(values, dtype=np.float64)
        there = np.isfinite(rows)
        total, number = (np.zeros((self.units, *rows.shape[1:])) for _ in range(2))
        np.add.at(total, self._unit, np.where(there, rows, 0.0))
        np.add.at(number, self._unit, there.astype(np.float64))
        return total, number


def summarise(records: Sequence[Mapping[str, Any]], members: Mapping[str, int], bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the scores of all groups.

    Args:
        records: one for each crop: `factor`, `region`, `time` (ISO), `spacing_km` (the wider) and `systems`, the
            records of "truth" and of every system.
        members: of each system.
        bootstrap: how times are resampled.

    Returns:
        `groups`: list of `factor`, `region` (None for all), numbers of crops and times, and for each system
        `scores` (name to value, low, high), `rank`, `wet_rank`, `fss`, `fss_chance`, `brier`, `spectrum`, `quantiles`;
        JSON values.
    """
    groups = []
    for factor in sorted({r["factor"] for r in records}):
        chosen = [r for r in records if r["factor"] == factor]
        regions = sorted({r["region"] for r in chosen})
        for region in [None, *(regions if len(regions) > 1 else [])]:
            part = [r for r in chosen if region in (None, r["region"])]
            groups.append({"factor": factor, "region": region} | _group(part, members, bootstrap))
    return {
        "groups": groups,
        "thresholds": {"brier": BRIER, "fss": FSS_THRESHOLDS, "fss_scales": FSS_SCALES},
        "probabilities": PROBABILITIES,
        "bootstrap": {"resamples": bootstrap.resamples, "level": bootstrap.level, "block": bootstrap.block},
    }


def _group(records: Sequence[Any], members: Mapping[str, int], bootstrap: Bootstrap) -> dict[str, Any]:
    places = [(r["region"], r["time"]) for r in records]
    order = {place: k for k, place in enumerate(sorted(set(places)))}
    unit = np.array([order[p] for p in places])
    truths = [r["systems"][TRUTH] for r in records]
    systems: dict[str, Any] = {}
    draws = np.concatenate([np.ones((1, len(order))), bootstrap.counts(len(order))])
    blocks = np.array([len(order) / bootstrap.block_length(len(order))])
    drawn: dict[str, Sums] = {}
    for name in records[0]["systems"]:
        if name == TRUTH:
            continue
        group = Group([r["systems"][name] for r in records], truths, unit, members[name])
        drawn[name] = group.means(draws)
        scores = {
            n: _interval(f(drawn[name], members[name]), bootstrap, blocks) for n, f in _scores(drawn[name]).items()
        }
        systems[name] = {"scores": scores, "members": members[name]} | _curves(drawn[name], records)
        broken = [r["systems"][name].get("violation_max") for r in records]
        systems[name]["largest_violation"] = max((v for v in broken if v is not None), default=None)
    for name in systems:
        if REFERENCE in drawn and name != REFERENCE:
            gain = 1 - drawn[name]["crps"] / drawn[REFERENCE]["crps"]
            systems[name]["scores"]["crps_gain"] = _interval(gain, bootstrap, blocks)
    return {"crops": len(records), "times": len(order), "systems": systems}


def _scores(m: Sums) -> dict[str, Callable[[Sums, int], Array]]:
    """Return the scores that the statistics allow, as functions of means [R, ...] and the number of members."""
    found: dict[str, Callable[[Sums, int], Array]] = {name: _same(name) for name in ("crps", "crps_biased")}
    found |= {f"crps_{k}_{n}": _same(f"crps_{k}_{n}") for n in POOLS for k in ("mean", "max")}
    found |= {f"twcrps_{t:g}": _same(f"twcrps_{t:g}") for t in TAILS}
    found |= {
        "rmse": lambda s, _: np.sqrt(s["squared_error"]),
        "spread_skill": lambda s, n: np.sqrt((n + 1) / n * s["variance"] / s["squared_error"]),
        "reliability": lambda s, _: _departure(s["rank"]),
        "wet_reliability": lambda s, _: _departure(s["wet_rank"]),
        "spectral_distance": _same("spectral_distance"),
        "mean_spectral_distance": lambda s, _: _decibels(s["spectrum"], s["truth_spectrum"]),
        "wet_error": lambda s, _: s["wet"] - s["truth_wet"],
        "bias": lambda s, _: s["mean"] / s["truth_mean"] - 1,
        **{f"q{100 * p:g}_error": _quantile_error(p) for p in PROBABILITIES},
        **{n: _same(n) for n in ("sal_s", "sal_a", "sal_l", "sal_s_abs", "sal_a_abs")},
        "violation_mean": _same("violation_mean"),
        "seam": lambda s, _: s["seam"] / s["truth_seam"], "seconds": _same("seconds"),
    }  # fmt: skip
    needs = {"seam": "seam", "spread_skill": "variance", "violation_mean": "violation_mean", "seconds": "seconds"}
    needs |= {n: n for n in found if n.startswith(("crps_m", "sal"))}
    return {n: f for n, f in found.items() if needs.get(n, "crps") in m}


def _curves(m: Sums, records: Sequence[Any]) -> dict[str, Any]:
    """Return what is drawn or tabled whole, from all crops."""
    whole = {name: values[0] for name, values in m.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        skill = {name: 1 - whole[name][..., 0] / whole[name][..., 1] for name in ("fss", "fss_chance")}
    found: dict[str, Any] = {
        "rank": whole["rank"],
        "wet_rank": whole["wet_rank"] / max(whole["wet_rank"].sum(), 1e-12),
        **skill,
        "brier": whole["brier"],
        "brier_fair": whole["brier_fair"],
        "spectrum": whole["spectrum"],
        "truth_spectrum": whole["truth_spectrum"],
        "quantiles": quantiles_of(whole["histogram"], np.array(PROBABILITIES)),
        "truth_quantiles": quantiles_of(whole["truth_histogram"], np.array(PROBABILITIES)),
    }
    count, spacing = len(whole["spectrum"]), float(np.mean([r["spacing_km"] for r in records]))
    wavelength = 2 * spacing * count / np.arange(1, count + 1)
    return {k: _json(v) for k, v in found.items()} | {"wavelength_km": _json(wavelength)}


def quantiles_of(histogram: Array, probabilities: Array) -> Array:
    """Return quantiles [..., P] of counts [..., bins] in the bins of `BIN_EDGES`, straight lines inside a bin."""
    share = np.cumsum(histogram, axis=-1) / histogram.sum(axis=-1, keepdims=True)
    flat = share.reshape(-1, share.shape[-1])[:, :-1]
    rows = [np.interp(probabilities, row, BIN_EDGES, left=0.0) for row in flat]
    return np.asarray(rows).reshape(*share.shape[:-1], len(probabilities))


def _quantile_error(probability: float) -> Callable[[Sums, int], Array]:
    def score(s: Sums, _: int) -> Array:
        ours, theirs = (quantiles_of(s[n], np.array([probability]))[..., 0] for n in ("histogram", "truth_histogram"))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(theirs > 0, ours / theirs - 1, np.nan))

    return score


def _same(name: str) -> Callable[[Sums, int], Array]:
    return lambda s, _: s[name]


def _departure(histogram: Array) -> Array:
    """Return sum |f - 1 / bins| of histograms [R, bins]."""
    share = histogram / np.maximum(histogram.sum(axis=-1, keepdims=True), 1e-12)
    return np.asarray(np.abs(share - 1 / histogram.shape[-1]).sum(axis=-1))


def _decibels(ours: Array, theirs: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(np.square(10 * np.log10(theirs / ours)).mean(axis=-1)))


def _interval(drawn: Array, bootstrap: Bootstrap, blocks: Array) -> dict[str, float | None]:
    """Return the value (first draw) and the limits of the others."""
    low, high = bootstrap.limits(drawn[1:, None], blocks)
    return {"value": _json(drawn[0]), "low": _json(low[0]), "high": _json(high[0])}


def _dense(sparse: Sequence[Sequence[int]]) -> Array:
    count = np.zeros(BIN_EDGES.size + 1)
    pairs = np.asarray(sparse, dtype=np.int64)
    count[pairs[:, 0]] = pairs[:, 1]
    return count


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim:
        return [_json(v) for v in value]
    number = float(value)
    return round(number, 9) if np.isfinite(number) else None
