"""Where networks run: the device a person asks for, or an accelerator if there is one."""

from __future__ import annotations

import os
from pathlib import Path

import torch

__all__ = ["choose_device", "free_memory"]


def free_memory(device: torch.device | str = "cpu") -> float:
    """Return free bytes on a device."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable"):
            return float(line.split()[1]) * 1024
    return 4.0e9


def choose_device(wish: str | None) -> torch.device:
    """Return the device asked for, else an accelerator (one for each local process) if there is one.

    Raises:
        ValueError: no such kind of device, or none of that number.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wish is None:
        return torch.device(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % found}" if found else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ValueError(f"device must look like cpu, cuda or cuda:1; got {wish!r}") from None
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(f"there is no {wish!r} here; CUDA devices found: {found}")
    return device
