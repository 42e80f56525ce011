"""Average weights over training: exponential with warm-up, and the power-function average.

Both move the average towards the weights, a <- beta a + (1 - beta) w, with a beta that depends on samples seen (not on
steps), so that a run with another batch size has the same average. With n samples in the step and t samples in all:

    exponential:  beta = 0.5 ** (n / min(halflife, warmup t))      (Karras et al. 2022, EDM, training configuration)
    power:        beta = (1 - n / t) ** (gamma + 1)                (Karras et al. 2024, EDM2, Eq. 2)

where the power profile has the relative width sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))) (its Eq. 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Ema", "EmaProfile", "parse_profile", "power_exponent"]


@dataclass(frozen=True)
class EmaProfile:
    """Shape of an average.

    Args:
        kind: "exponential" or "power".
        value: half-life in samples (exponential, > 0) or relative width (power, in (0, 0.28)).
        warmup: exponential only: the half-life never exceeds this fraction of the samples seen.
    """

    kind: str
    value: float
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in ("exponential", "power"):
            raise ValueError(f"kind of average must be 'exponential' or 'power'; got {self.kind!r}")
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"value of an average must be a positive number; got {self.value}")
        if self.kind == "power":
            power_exponent(self.value)
        if not 0 < self.warmup <= 1:
            raise ValueError(f"warmup of an average must be in (0, 1]; got {self.warmup}")

    def beta(self, samples_seen: int, samples: int) -> float:
        """Return the weight of the old average after a step of `samples`; `samples_seen` counts this step too."""
        if not 0 < samples <= samples_seen:
            raise ValueError(f"need 0 < samples <= samples_seen; got {samples} and {samples_seen}")
        if self.kind == "power":
            return float((1.0 - samples / samples_seen) ** (power_exponent(self.value) + 1.0))
        return float(0.5 ** (samples / min(self.value, self.warmup * samples_seen)))


def parse_profile(text: str) -> EmaProfile:
    """Read a profile: "power:0.1" (relative width) or "exponential:20000" (half-life in samples).

    Raises:
        ValueError: if the text has another form or the number is out of range.
    """
    kind, _, number = text.partition(":")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"average {text!r} must read 'power:WIDTH' or 'exponential:HALFLIFE_SAMPLES'") from None
    return EmaProfile(kind.strip(), value)


def power_exponent(width: float) -> float:
    """Solve sigma_rel(gamma) = width for gamma >= 0.

    The largest real root of gamma^3 + 7 gamma^2 + (16 - width^-2) gamma + (12 - width^-2) = 0, the definition above
    multiplied out.

    Raises:
        ValueError: if no gamma >= 0 has this width, that is outside (0, 12^-1/2].
    """
    if not 0 < width <= 12**-0.5:
        raise ValueError(f"relative width of a power-function average must be in (0, 0.288]; got {width}")
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(roots.real[np.abs(roots.imag) < 1e-6].max()))


class Ema:
    """Hold one average of named parameters, in float32 beside them (sharded parameters stay sharded).

    Args:
        parameters: (name, parameter) pairs; the average starts as their copy.
        profile: shape of the average.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], profile: EmaProfile) -> None:
        self.profile = profile
        self._live = dict(parameters)
        self.average = {name: p.detach().to(torch.float32, copy=True) for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, samples_seen: int, samples: int) -> None:
        """Move the average after an optimiser step of `samples`; `samples_seen` counts them already."""
        weight = 1.0 - self.profile.beta(samples_seen, samples)
        live = [p.detach().float() for p in self._live.values()]
        torch._foreach_lerp_(list(self.average.values()), live, weight)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Put the average into the parameters inside the `with` block, then the parameters back, bit for bit."""
        saved = {name: p.detach().clone() for name, p in self._live.items()}
        try:
            self._copy_to_live(self.average)
            yield
        finally:
            self._copy_to_live(saved)

    @torch.no_grad()
    def _copy_to_live(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(values[name])
