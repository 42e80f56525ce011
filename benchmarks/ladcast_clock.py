"""Clocks of `ladcast_engine.py`: seconds of a call, and how fast the arithmetic of a device is."""

from __future__ import annotations

__all__ = ["clocked", "rate", "set_threads"]

import time
from collections.abc import Callable

import torch

KNOWN_RATES = {("H200", "bfloat16"): 790e12}  # dense, random data, measured; data sheets promise more
GEMM = {"cpu": 2048, "cuda": 8192}


def clocked(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Return seconds (CUDA events on a GPU) and processor seconds of a call."""
    busy = time.process_time()
    if device == "cpu":
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun, time.process_time() - busy
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3, time.process_time() - busy


def rate(device: str, dtype: str) -> float:
    """Return FLOP/s of the arithmetic: known for the chip, or of a large matrix product on random numbers.

    On a processor that is FLOP per processor second, as several threads share the machine with other work.
    """
    if device != "cpu":
        name = torch.cuda.get_device_name()
        for (chip, kind), known in KNOWN_RATES.items():
            if chip in name and kind == dtype:
                return known
    size = GEMM[torch.device(device).type]
    a, b = torch.randn(2, size, size, device=device, dtype=getattr(torch, dtype))
    a @ b
    best = min(clocked(lambda: a @ b, device)[1 if device == "cpu" else 0] for _ in range(8))
    return 2 * size**3 / best


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads."""
    if threads:
        torch.set_num_threads(threads)
