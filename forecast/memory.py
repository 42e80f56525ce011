"""How many members fit into the memory: the block size of `--batch auto`.

Weights lie in the memory already; what grows with a block are the activations of the networks and, in the memory of
the host, the decoded fields that wait to be written. One member is drawn and decoded once, and the largest result of
an operation is noted. Peaks of published sizes are about that many times it: the 375 M transformer 7 (55 MB; 407 MB
above its weights), the LaDCast decoder 14 (29 MB; 420 MB).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["fitting_block", "free_memory", "largest_result"]

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gen.device import free_memory

PEAK_RESULTS = 16  # largest results that a network holds at its peak, with the working memory of convolutions
WAITING_CALLS = 6  # decoded calls in the host's memory: being copied, queued, encoded
SHARE = 0.5  # of the free memory


class _Largest(TorchDispatchMode):
    """Note the bytes of the largest result of an operation that is no view of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        made = [t.nbytes for t in _tensors(out) if t.untyped_storage().data_ptr() not in given]
        self.nbytes = max([self.nbytes, *made])
        return out


def _tensors(values: Any) -> list[torch.Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, torch.Tensor)]


def largest_result(action: Callable[[], Any]) -> int:
    """Call `action` and return the bytes of the largest tensor that one of its operations made."""
    with _Largest() as seen:
        action()
    return seen.nbytes


def fitting_block(wanted: int, result_bytes: int, call_bytes: int, device: torch.device) -> int:
    """Return how many members to draw at once: at most `wanted`, else a power of two.

    Powers of two keep the number, and so the bits, the same while the free memory changes a little.

    Args:
        wanted: members of all starts together.
        result_bytes: `largest_result` of one member.
        call_bytes: decoded fields of one member and one call, in the host's memory.
        device: where the networks run.
    """
    active, waiting = PEAK_RESULTS * max(1, result_bytes), WAITING_CALLS * call_bytes
    if device.type == "cpu":
        room = free_memory(device) / (active + waiting)
    else:
        room = min(free_memory(device) / active, free_memory(torch.device("cpu")) / max(1, waiting))
    fits = max(1, int(SHARE * room))
    return min(wanted, 1 << (fits.bit_length() - 1))
