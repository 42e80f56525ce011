r"""Run networks on the meta device: exact FLOPs and estimates of memory, without weights, data or an accelerator.

A meta tensor has a shape and no content, so that a network with billions of parameters runs in a second. FLOPs count
two per multiply-add in products, convolutions and attention. Memory for training counts what autograd keeps between
the forward and the backward pass; memory for sampling is the peak of what lives at the same time. Neither knows the
working space of kernels or the allocator's waste: plan with a fifth more. (The FLOPs of a backward pass are not taken
from torch's counter, which forgets the groups of depthwise convolutions there; they are twice those of the forward.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

__all__ = ["Cost", "Plan", "measure", "on_meta"]

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[int, torch.dtype], Tensor]


@dataclass(frozen=True)
class Plan:
    """What a recipe computes; every call takes a batch size and a dtype and makes its inputs itself.

    Args:
        networks: by name; those of `trained` are updated, the others only used.
        evaluations: one call of a network by name, as sampling makes it.
        training: the forward pass of training up to the output that enters the loss; None where nothing is trained.
        trained: names of the networks that are trained; parameters that need no gradient do not count.
        member_day: how often a forecast of one member makes each evaluation per day.
        facts: further lines (name, text): volumes of data, lengths of intervals.
    """

    networks: Mapping[str, nn.Module]
    evaluations: Mapping[str, Call]
    training: Call | None = None
    trained: tuple[str, ...] = ()
    member_day: Mapping[str, float] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True)
class Cost:
    """What a call costs: FLOPs, and bytes beside the weights."""

    flops: int
    nbytes: int


def measure(
    call: Call,
    networks: Iterable[nn.Module],
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    kept: bool = False,
) -> Cost:
    """Run a forward pass on the meta device.

    Args:
        call: what to run.
        networks: those that it uses, on the meta device, in `dtype`.
        dtype: of inputs.
        batch: samples.
        kept: count what autograd keeps for a backward pass; else the peak of live tensors without gradients.
    """
    weights = {p.untyped_storage()._cdata for network in networks for p in (*network.parameters(), *network.buffers())}
    count: _Kept | _Live = _Kept(weights) if kept else _Live(weights)
    with on_meta(), torch.set_grad_enabled(kept), count, FlopCounterMode(display=False) as flops:
        out = call(batch, dtype)
    del out
    return Cost(flops.get_total_flops(), count.nbytes)


@contextmanager
def on_meta() -> Iterator[None]:
    """Make the meta device the default and stand in for what it lacks.

    Autocast does not know it: networks that ask are told that it is off. Attention would multiply out its scores there;
    it takes the operator of flash attention instead, which has the same FLOPs and the memory of a real device.
    """
    asked, entered = torch.is_autocast_enabled, torch.autocast

    def enabled(device_type: str | None = None) -> bool:
        return False if device_type == "meta" else asked(*([] if device_type is None else [device_type]))

    def autocast(device_type: str, *args: Any, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == "meta" else entered(device_type, *args, **options)

    changed = (
        mock.patch.object(torch, "is_autocast_enabled", enabled),
        mock.patch.object(torch, "autocast", autocast),
        mock.patch.object(F, "scaled_dot_product_attention", _flash),
    )
    with changed[0], changed[1], changed[2], torch.device("meta"):
        yield


def _flash(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    return out


class _Kept(saved_tensors_hooks):
    """Add up the storages that autograd keeps between forward and backward, without those of weights."""

    def __init__(self, weights: set[int]) -> None:
        self._weights = weights
        self._kept: dict[int, Any] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    @property
    def nbytes(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._kept[storage._cdata] = storage  # held, so that no later storage takes its address
        return tensor


class _Live(TorchDispatchMode):
    """Add up the storages that operations make while they live, without those of weights, and note the peak."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights, self._live, self.nbytes = weights, 0, 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self._seen and storage._cdata not in self._weights:
                self._seen.add(storage)
                self._change(storage.nbytes())
                weakref.finalize(storage, self._change, -storage.nbytes())
        return out

    def _change(self, nbytes: int) -> None:
        self._live += nbytes
        self.nbytes = max(self.nbytes, self._live)
