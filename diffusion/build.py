"""Preconditionings and training noise levels by name, as configurations name them."""

from __future__ import annotations

from typing import Any

__all__ = ["NOISE_LEVELS", "PRECONDITIONS", "build_noise_level", "build_precondition"]

from diffusion.losses import LogitNormal, LogNormal, NoiseLevel
from diffusion.precondition import EDM, Flow, Precondition

PRECONDITIONS: dict[str, type[EDM] | type[Flow]] = {"edm": EDM, "flow": Flow}
NOISE_LEVELS: dict[str, type[LogNormal] | type[LogitNormal]] = {"lognormal": LogNormal, "logitnormal": LogitNormal}


def build_precondition(name: str, **settings: Any) -> Precondition:
    """Build "edm" (`sigma_data`) or "flow" (`time_scale`)."""
    return _lookup(PRECONDITIONS, name, "preconditioning")(**settings)


def build_noise_level(name: str, **settings: Any) -> NoiseLevel:
    """Build "lognormal" or "logitnormal" (`mean`, `std`)."""
    return _lookup(NOISE_LEVELS, name, "noise level")(**settings)


def _lookup(table: dict[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known are {', '.join(sorted(table))}")
    return table[name]
