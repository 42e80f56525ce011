"""Partial sums of a verification: one area mean per start date, lead and channel; square roots come last.

A statistic (squared error, CRPS, ensemble variance, ...) is averaged over the sphere as soon as it is computed and then
kept as one number per (init, lead, channel), or one vector where it has bins (rank histogram, spectrum). Every score is
a function of means of such statistics over start dates, so evaluations split over files or machines merge by
concatenation without loss, and the bootstrap can resample start dates afterwards. The separation into statistic,
aggregation and metric follows WeatherBench-X (Rasp et al. 2024, arXiv:2308.15560).
"""

from __future__ import annotations

__all__ = ["PartialSums", "area_mean", "check_agreement", "merge"]

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def area_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Average over the last two dimensions with cell areas, leaving cells out where the value is NaN.

    Args:
        values: [..., H, W].
        weights: [H, W], non-negative, any scale; zero outside a region.

    Returns:
        [...] float64; NaN where no cell with a weight has a value.
    """
    w = weights.to(torch.float64)
    v = values.to(torch.float64)
    total = torch.einsum("...hw,hw->...", v, w)
    if bool(torch.isfinite(total).all()):
        return total / w.sum()
    valid = ~torch.isnan(v)
    total = torch.einsum("...hw,hw->...", torch.where(valid, v, 0.0), w)
    return total / torch.einsum("...hw,hw->...", valid.to(w.dtype), w)


@dataclass(frozen=True)
class PartialSums:
    """Statistics of some start dates, ready to be merged with those of others.

    Args:
        inits: [N] datetime64[h], strictly ascending.
        leads: [L] timedelta64[h].
        channels: C codes such as "z500".
        statistics: name ("system/statistic") to float64 array [N, L, C, ...bins]; NaN where there was nothing to score.
        setup: what must agree for a merge to have a meaning (ensemble sizes, grid, region, thresholds); JSON values.
    """

    inits: np.ndarray
    leads: np.ndarray
    channels: tuple[str, ...]
    statistics: Mapping[str, np.ndarray]
    setup: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes and the order of the start dates."""
        object.__setattr__(self, "inits", np.asarray(self.inits, dtype="datetime64[h]"))
        object.__setattr__(self, "leads", np.asarray(self.leads, dtype="timedelta64[h]"))
        if np.any(np.diff(self.inits.astype(np.int64)) <= 0):
            raise ValueError("start dates must be strictly ascending; sort them and drop repeated ones")
        shape = (self.inits.size, self.leads.size, len(self.channels))
        for name, values in self.statistics.items():
            if values.shape[:3] != shape:
                raise ValueError(f"statistic {name} has shape {values.shape}; it must begin with {shape}")

    def save(self, path: str | Path) -> Path:
        """Write one compressed npz file; it appears under its name only when complete."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = {"channels": list(self.channels), "setup": dict(self.setup)}
        arrays = {
            "inits": self.inits.astype(np.int64),
            "leads": self.leads.astype(np.int64),
            "head": np.array(json.dumps(head)),
        }
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        arrays |= {f"statistic:{k}": v for k, v in self.statistics.items()}
        try:
            with partial.open("wb") as sink:
                np.savez_compressed(sink, **arrays)  # type: ignore[arg-type]
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> PartialSums:
        """Read a file written by `save`.

        Raises:
            ValueError: when the file is missing or is not one of ours.
        """
        import zipfile

        try:
            with np.load(path, allow_pickle=False) as data:
                head = json.loads(str(data["head"]))
                named = {k.removeprefix("statistic:"): data[k] for k in data.files if k.startswith("statistic:")}
                inits, leads = data["inits"].astype("datetime64[h]"), data["leads"].astype("timedelta64[h]")
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such file of partial sums") from error
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} does not hold partial sums; write one with `gen evaluate --partial`") from error
        return cls(inits, leads, tuple(head["channels"]), named, head["setup"])


def merge(parts: Sequence[PartialSums]) -> PartialSums:
    """Concatenate the start dates of several partial sums, sorted by date.

    Raises:
        ValueError: when nothing is given, a start date occurs twice, or leads, channels, statistics or setup differ.
    """
    if not parts:
        raise ValueError("nothing to merge; give at least one file of partial sums")
    first = parts[0]
    for other in parts[1:]:
        check_agreement(first, other)
    inits = np.concatenate([p.inits for p in parts])
    order = np.argsort(inits, kind="stable")
    repeated = inits[order][1:][np.diff(inits[order].astype(np.int64)) == 0]
    if repeated.size:
        raise ValueError(f"start date {repeated[0]} is in more than one part; score each date once")
    named = {k: np.concatenate([p.statistics[k] for p in parts])[order] for k in first.statistics}
    return PartialSums(inits[order], first.leads, first.channels, named, first.setup)


def check_agreement(first: PartialSums, other: PartialSums, *, statistics: bool = True) -> None:
    """Raise ValueError, naming what differs, when two parts cannot be merged; `statistics` compares their names too."""
    pairs = {
        "leads": (first.leads.astype(int).tolist(), other.leads.astype(int).tolist()),
        "channels": (list(first.channels), list(other.channels)),
        "statistics": (sorted(first.statistics), sorted(other.statistics)) if statistics else (None, None),
        **{key: (first.setup.get(key), other.setup.get(key)) for key in {*first.setup, *other.setup}},
    }
    for name, (a, b) in pairs.items():
        if a != b:
            raise ValueError(f"partial sums differ in {name} ({_short(a)} and {_short(b)}) and cannot be merged")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
