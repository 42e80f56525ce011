r"""Bring coarse rain of another climate or model to what a model knows, and say how far it is from that.

Only statistics of the input enter, never the truth of the target region. Alignment maps wet rates by ranks,

    x' = F_train^{-1}(F_input(x)),        F the distributions of rates >= 0.02 mm/h,

and beyond the 99.9 % quantile q by the constant ratio x' = x q_train / q_input, so that no extreme is cut off (mapping
by plain interpolation cuts everything above the largest quantile). Rates below the threshold are scaled likewise: dry
stays dry, and the share of wet cells is that of the input. Published alignment of this kind hurt in three of eight
pairs of regions (Harder et al. 2025, arXiv:2507.04930), so `auto` applies it only to inputs that differ clearly and are
long enough to have a climate.

`ood_index` counts how far a value, a field or a request lies outside the training data: 0 inside, 1 at their edge,
above 1 beyond. One unit above the edge is: a doubling of factor, spacing or interval; for a rate as many logarithmic
units as lie between the 99 % quantile and the largest rate of training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

__all__ = [
    "Align",
    "Prepared",
    "QuantileMap",
    "Transfer",
    "distance",
    "prepare",
    "rain_quantiles",
    "request_index",
    "soft_clamp",
]

import numpy as np
from numpy.typing import ArrayLike, NDArray

from downscaling.model import DownscalingMeta

Array = NDArray[np.float64]
Values = NDArray[np.float32]
Align = Literal["none", "qm", "auto"]

LEVELS = np.linspace(0.0, 1.0, 1001)
WET = 0.02  # mm/h of a coarse cell's mean
TAIL = 0.999  # from this level on the ratio is constant
CENTRE, EDGE, GUARD = 0.99, 1.0, 0.9999  # levels of training rates: index 0, index 1, where the guard begins
ROOM = 0.5  # logarithmic units that the guard leaves above its knee: a factor 1.65
NEAR, FAR = 0.25, 1.0  # distance of distributions in standard deviations of log rates: index 0 and 1
SPREAD_FLOOR = 0.3  # of log rates, for training data that are nearly constant
CLEAR = 0.5  # distance from which `auto` aligns: well above what events of one climate show
CLIMATE = 100  # maps that an input must have to be called a climate
TOLERANCE = 0.02  # octaves by which a request may pass the edge
SHORTEST_HOURS = 1 / 60  # instantaneous rates count as a minute, as in the model's conditions
SAMPLED = 1 << 22  # values that quantiles are taken from


class Prepared(NamedTuple):
    """Coarse rain ready for the model.

    Args:
        coarse: [..., Hc, Wc] mm/h, aligned and guarded, NaN where missing. The amounts to conserve stay those given.
        ood: [..., Hc, Wc] index of every cell, NaN where missing.
        ood_index: of the whole: the largest of cells, distributions and request.
        notes: what was found and done, for the attributes of a file.
    """

    coarse: Values
    ood: Values
    ood_index: float
    notes: dict[str, float | str]


def rain_quantiles(fields: Iterable[ArrayLike]) -> Array:
    """Return the quantiles of all known rates at 1,001 even levels from 0 to 1; all zero without any.

    Args:
        fields: maps in mm/h, NaN where missing; from long records an even sample is used.
    """
    parts = [np.asarray(f, np.float32).ravel() for f in fields]
    values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    values = values[np.isfinite(values)]
    if not values.size:
        return np.zeros(LEVELS.size)
    top = float(values.max())
    found = np.quantile(values[:: max(1, values.size // SAMPLED)].astype(np.float64), LEVELS)
    return np.append(found[:-1], top)


def wet_quantiles(quantiles: ArrayLike) -> Array:
    """Return quantiles of the rates >= WET at the same levels from those of all rates; empty when all is dry."""
    q = np.asarray(quantiles, np.float64)
    level = np.linspace(0.0, 1.0, q.size)
    if q[-1] < WET:
        return np.zeros(0)
    first = int(np.argmax(q >= WET))
    dry = float(np.interp(WET, q[first - 1 : first + 1], level[first - 1 : first + 1])) if first else 0.0
    return np.interp(dry + (1 - dry) * LEVELS, np.append(dry, level[first:]), np.append(max(WET, q[0]), q[first:]))


@dataclass(frozen=True)
class QuantileMap:
    """Map rates of one distribution to those of another.

    Args:
        source: wet quantiles of the rates that are mapped. target: those they should have; both at even levels.
    """

    source: Array
    target: Array

    @property
    def inverse(self) -> QuantileMap:
        """Return the map back, for what a model has drawn."""
        return QuantileMap(self.target, self.source)

    def __call__(self, rain: ArrayLike) -> Array:
        """Return mapped rates; zero stays zero, NaN stays NaN, and order is kept."""
        x = np.asarray(rain, np.float64)
        if not (self.source.size and self.target.size):
            return x.copy()
        keep = np.linspace(0.0, 1.0, self.source.size) <= TAIL
        a, b = self.source[keep], self.target[keep]
        low, high = b[0] / a[0], b[-1] / a[-1]
        return np.where(x <= a[0], x * low, np.where(x >= a[-1], x * high, np.interp(x, a, b)))


def distance(quantiles: ArrayLike, training: ArrayLike) -> float:
    """Return the Wasserstein distance of wet log rates in standard deviations of the training data; 0 if one is dry."""
    ours, theirs = (wet_quantiles(q) for q in (quantiles, training))
    if not (ours.size and theirs.size):
        return 0.0
    a, b = np.log(ours), np.log(theirs)
    return float(np.abs(a - b).mean() / max(b.std(), SPREAD_FLOOR))


def cell_index(rain: ArrayLike, training: ArrayLike) -> Array:
    """Return the index of rates: 0 up to the 99 % quantile of wet training rates, 1 at the largest."""
    x = np.asarray(rain, np.float64)
    wet = wet_quantiles(training)
    if not wet.size:
        return np.where(np.isnan(x), np.nan, 0.0)
    centre, edge = np.log(np.interp([CENTRE, EDGE], LEVELS, wet))
    with np.errstate(divide="ignore"):
        return np.maximum((np.log(x) - centre) / max(edge - centre, 1e-3), 0.0)


def request_index(meta: DownscalingMeta, **asked: float) -> dict[str, float]:
    """Return the indices of `spacing_km`, `factors` and `interval_hours`: 0 inside, 1 + octaves outside the range."""
    found = {}
    for name, value in asked.items():
        low, high = getattr(meta, name)
        least = SHORTEST_HOURS if name == "interval_hours" else 1e-9
        low, high, value = (max(float(v), least) for v in (low, high, value))
        octaves = max(np.log2(low / value), np.log2(value / high))
        found[name] = 0.0 if octaves <= TOLERANCE else float(1.0 + octaves)
    return found


def soft_clamp(rain: ArrayLike, training: ArrayLike) -> tuple[Array, int]:
    """Bend rates beyond the 99.99 % quantile q of training down to at most 1.65 q, smoothly and in order.

    Returns:
        The rates, and how many were bent.
    """
    x = np.asarray(rain, np.float64)
    wet = wet_quantiles(training)
    if not wet.size:
        return x.copy(), 0
    knee = float(np.interp(GUARD, LEVELS, wet))
    beyond = x > knee
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.log(np.where(beyond, x / knee, 1.0))
    return np.where(beyond, knee * np.exp(ROOM * -np.expm1(-over / ROOM)), x), int(beyond.sum())


@dataclass(frozen=True)
class Transfer:
    """Statistics of an input against those of training, made once and applied map by map.

    Args:
        meta: of the model. mapping: of rates, None to leave them. distance: of the distributions.
        parts: indices that belong to the input as a whole.
    """

    meta: DownscalingMeta
    mapping: QuantileMap | None
    distance: float
    parts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, quantiles: ArrayLike, meta: DownscalingMeta, mode: Align = "auto", maps: int = CLIMATE, **asked: float
    ) -> Transfer:
        """Compare an input with the training data.

        Args:
            quantiles: of the input (`rain_quantiles`).
            meta: of the model.
            mode: "qm" aligns, "auto" only an input of at least 100 maps that differs clearly, "none" never.
            maps: number of maps of the input.
            asked: `spacing_km`, `factors`, `interval_hours` of the request, each a number.

        Raises:
            ValueError: for an unknown mode.
        """
        if mode not in get_args(Align):
            raise ValueError(f"align must be one of {', '.join(get_args(Align))}; got {mode!r}")
        far = distance(quantiles, meta.quantiles)
        wanted = mode == "qm" or (mode == "auto" and far > CLEAR and maps >= CLIMATE)
        mapping = QuantileMap(wet_quantiles(quantiles), wet_quantiles(meta.quantiles)) if wanted else None
        spread = max(0.0, (far - NEAR) / (FAR - NEAR)) if maps >= CLIMATE else 0.0
        return cls(meta, mapping, far, {"distribution": spread, **request_index(meta, **asked)})

    def __call__(self, coarse: ArrayLike) -> Prepared:
        """Return maps [..., Hc, Wc] ready for the model; the index is that of the rates before alignment."""
        rain = np.asarray(coarse, np.float64)
        ood = cell_index(rain, self.meta.quantiles)
        aligned = rain if self.mapping is None else self.mapping(rain)
        guarded, bent = soft_clamp(aligned, self.meta.quantiles)
        worst = float(np.nanmax(ood, initial=0.0))
        index = max([worst, *self.parts.values()])
        notes: dict[str, float | str] = {
            "alignment": "none" if self.mapping is None else "quantile mapping of the input to the training rates",
            "input_distance": round(self.distance, 3),
            "guarded_cells": bent,
            **{f"ood_{name}": round(value, 3) for name, value in self.parts.items()},
        }
        return Prepared(guarded.astype(np.float32), ood.astype(np.float32), index, notes)


def prepare(coarse: ArrayLike, meta: DownscalingMeta, mode: Align = "auto", **asked: float) -> Prepared:
    """Fit to some maps [N, Hc, Wc] (or one) and prepare them; see `Transfer.fit` and `Transfer.__call__`."""
    rain = np.asarray(coarse, np.float32)
    maps = 1 if rain.ndim == 2 else int(np.prod(rain.shape[:-2]))
    return Transfer.fit(rain_quantiles([rain]), meta, mode, maps, **asked)(rain)
