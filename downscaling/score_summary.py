"""Scores of many crops with intervals: records are summed by unit, units are resampled in blocks, roots come last.

Neighbouring crops and times see the same weather, so what is resampled is the time, in blocks of consecutive ones, or
for long records the day (`gen.metrics.bootstrap`); where five events or more are pooled it is the event, so that the
interval tells of other events. The same draws serve all systems. Groups are the factors, and the regions (or events)
within a factor. The transfer gap of a region is its score over that of the regions at home, minus one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

__all__ = ["GAPS", "REFERENCE", "By", "day_of", "quantiles_of", "summarise"]

import numpy as np
from numpy.typing import NDArray

from downscaling.crop_scores import BIN_EDGES, BRIER, FSS_SCALES, FSS_THRESHOLDS, POOLS, TAILS
from gen.metrics.bootstrap import Bootstrap

Array = NDArray[np.float64]
Sums = Mapping[str, Array]  # name -> [..., bins]

REFERENCE = "rainfarm-fused"
PLAIN = "bilinear"
PROBABILITIES = (0.9, 0.99, 0.999, 0.9999)
GAPS = ("crps", "crps_biased", "mae", "rmse", *(f"twcrps_{t:g}" for t in TAILS), "crps_relative")
TRUTH = "truth"
EVENTS = 5  # from which on events are resampled
By = Literal["time", "day"]


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


def summarise(
    records: Sequence[Mapping[str, Any]],
    members: Mapping[str, int],
    bootstrap: Bootstrap,
    *,
    by: By = "time",
    home: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the scores of all groups.

    Args:
        records: one for each crop: `factor`, `region`, `time` (ISO), `spacing_km` (the wider) and `systems`, the
            records of "truth" and of every system.
        members: of each system.
        bootstrap: how times are resampled.
        by: "time", or "day" for long records: days are then resampled, one by one unless the bootstrap has blocks.
        home: regions that are known to the model.

    Returns:
        `groups`: list of `factor`, `region` (None for all), numbers of crops, times, days and events, what is resampled
        (`resampled`, `blocks`), and for each system `scores` (name to value, low, high), `gaps` (the same, for regions
        that are not `home`), `rank`, `wet_rank`, `fss`, `fss_chance`, `brier`, `spectrum`, `quantiles`; JSON values.
    """
    groups = []
    for factor in sorted({r["factor"] for r in records}):
        chosen = [r for r in records if r["factor"] == factor]
        regions = sorted({r["region"] for r in chosen})
        at_home = [r for r in chosen if r["region"] in home]
        known = Draws(at_home, members, bootstrap, by) if at_home else None
        for region in [None, *(regions if len(regions) > 1 else [])]:
            draws = Draws([r for r in chosen if region in (None, r["region"])], members, bootstrap, by)
            group = {"factor": factor, "region": region} | draws.group()
            if known is not None and region is not None and region not in home:
                for name, gaps in draws.gaps(known).items():
                    group["systems"][name]["gaps"] = gaps
            groups.append(group)
    return {
        "groups": groups,
        "thresholds": {"brier": BRIER, "fss": FSS_THRESHOLDS, "fss_scales": FSS_SCALES},
        "probabilities": PROBABILITIES,
        "bootstrap": {"resamples": bootstrap.resamples, "level": bootstrap.level, "block": bootstrap.block},
    }


class Draws:
    """Statistics of every system for draws of the units of some records; the first draw is the records as they are.

    Args:
        records, members, bootstrap, by: see `summarise`.
    """

    def __init__(self, records: Sequence[Any], members: Mapping[str, int], bootstrap: Bootstrap, by: By) -> None:
        self.records, self.members = records, members
        unit, self.resampled, single = _units(records, by)
        self.bootstrap = replace(bootstrap, block=(bootstrap.block or 1) if by == "day" else 1) if single else bootstrap
        count = int(unit.max()) + 1
        self.blocks = np.array([count / self.bootstrap.block_length(count)])
        draws = np.concatenate([np.ones((1, count)), self.bootstrap.counts(count)])
        truths = [r["systems"][TRUTH] for r in records]
        self.sums: dict[str, Sums] = {}
        for name in records[0]["systems"]:
            if name != TRUTH:
                group = Group([r["systems"][name] for r in records], truths, unit, members[name])
                self.sums[name] = group.means(draws)

    def scores(self, name: str) -> dict[str, Array]:
        """Return the scores of a system for every draw."""
        sums = self.sums[name]
        found = {n: f(sums, self.members[name]) for n, f in _scores(sums).items()}
        if REFERENCE in self.sums and name != REFERENCE:
            found["crps_gain"] = 1 - sums["crps"] / self.sums[REFERENCE]["crps"]
        if PLAIN in self.sums and name != PLAIN:
            found["crps_relative"] = sums["crps"] / self.sums[PLAIN]["crps"]
        return found

    def group(self) -> dict[str, Any]:
        """Return the numbers of everything and the scores of all systems with their intervals."""
        places = {(r["region"], r["time"]) for r in self.records}
        systems: dict[str, Any] = {}
        for name, sums in self.sums.items():
            scores = {n: self._interval(drawn) for n, drawn in self.scores(name).items()}
            systems[name] = {"scores": scores, "members": self.members[name]} | _curves(sums, self.records)
            broken = [r["systems"][name].get("violation_max") for r in self.records]
            systems[name]["largest_violation"] = max((v for v in broken if v is not None), default=None)
        return {
            "crops": len(self.records),
            "times": len(places),
            "days": len({(region, _day(time)) for region, time in places}),
            "events": len({region for region, _ in places}),
            "resampled": self.resampled,
            "block": self.bootstrap.block,
            "blocks": int(np.ceil(self.blocks[0])),
            "systems": systems,
        }

    def gaps(self, known: Draws) -> dict[str, Any]:
        """Return the scores over those of known records, minus one, by system; the two are drawn independently."""
        found: dict[str, Any] = {}
        for name in self.sums:
            ours, theirs = self.scores(name), known.scores(name)
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = {n: ours[n] / theirs[n] - 1 for n in GAPS if n in ours and n in theirs}
            found[name] = {n: self._interval(drawn, known.blocks) for n, drawn in ratio.items()}
        return found

    def _interval(self, drawn: Array, blocks: Array | None = None) -> dict[str, float | None]:
        """Return the value (first draw) and the limits of the others."""
        count = self.blocks if blocks is None else np.minimum(self.blocks, blocks)
        drawn = np.where(np.isfinite(drawn), drawn, np.nan)
        low, high = self.bootstrap.limits(drawn[1:, None], count)
        return {"value": _json(drawn[0]), "low": _json(low[0]), "high": _json(high[0])}


def _units(records: Sequence[Any], by: By) -> tuple[NDArray[np.int64], str, bool]:
    """Return the number of the unit of each record, what units are, and whether they are independent of each other."""
    events = len({r["region"] for r in records})
    if by == "day":
        names, kind = [(r["region"], _day(r["time"])) for r in records], "days"
    elif events >= EVENTS:
        names, kind = [(r["region"], "") for r in records], "events"
    else:
        names, kind = [(r["region"], r["time"]) for r in records], "times"
    order = {name: k for k, name in enumerate(sorted(set(names)))}
    return np.array([order[n] for n in names]), kind, kind != "times"


def day_of(ends: NDArray[Any]) -> NDArray[Any]:
    """Return the days that intervals belong to by their ends: what ends at midnight belongs to the day before."""
    return np.asarray((ends.astype("datetime64[m]") - np.timedelta64(1, "m")).astype("datetime64[D]"))


def _day(time: str) -> str:
    return str(day_of(np.asarray(time, "datetime64[m]")))


def _scores(m: Sums) -> dict[str, Callable[[Sums, int], Array]]:
    """Return the scores that the statistics allow, as functions of means [R, ...] and the number of members."""
    found: dict[str, Callable[[Sums, int], Array]] = {name: _same(name) for name in ("crps", "crps_biased", "mae")}
    found |= {f"crps_{k}_{n}": _same(f"crps_{k}_{n}") for n in POOLS for k in ("mean", "max")}
    found |= {f"twcrps_{t:g}": _same(f"twcrps_{t:g}") for t in TAILS}
    found |= {
        "rmse": lambda s, _: np.sqrt(s["squared_error"]),
        "spread_skill": lambda s, n: np.sqrt((n + 1) / n * s["variance"] / s["squared_error"]),
        "reliability": lambda s, _: _departure(s["rank"]),
        "wet_reliability": lambda s, _: _departure(s["wet_rank"]),
        **{n: _same(n) for n in ("spectral_distance", "spectral_distance_members")},
        "mean_spectral_distance": lambda s, _: _decibels(s["spectrum"], s["truth_spectrum"]),
        "wet_error": lambda s, _: s["wet"] - s["truth_wet"],
        "bias": lambda s, _: s["mean"] / s["truth_mean"] - 1,
        **{f"q{100 * p:g}_error": _quantile_error(p) for p in PROBABILITIES},
        **{n: _same(n) for n in ("sal_s", "sal_a", "sal_l", "sal_s_abs", "sal_a_abs")},
        "violation_mean": _same("violation_mean"),
        "seam": lambda s, _: s["seam"] / s["truth_seam"], "seconds": _same("seconds"),
    }  # fmt: skip
    needs = {n: n for n in ("seam", "violation_mean", "seconds", "mae", "spectral_distance_members")}
    needs["spread_skill"] = "variance"
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
