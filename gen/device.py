"""Where networks run: the device a person asks for, or an accelerator if there is one."""

from __future__ import annotations

import os

import torch

__all__ = ["choose_device"]


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
