"""Finish one call while the next one is drawn: decoding and copying beside sampling, on an accelerator.

Sampling stays in the calling thread, where compiled CUDA graphs live. A thread of its own decodes on a stream of its
own, which waits for exactly the latents it was given, and copies into pinned memory. Nothing is computed in another
way, so bits do not change. On the CPU both would compete for the same cores: there the file alone is written beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["finish_behind", "on_side_stream", "to_host"]

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def finish_behind(finish: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `finish(item)` in order, each made in one thread while the next item is being drawn in this one.

    An error of either side reaches the caller; leaving early waits for no more than the piece in work.
    """
    with ThreadPoolExecutor(1, "decode") as pool:
        last: Future[Result] | None = None
        for item in items:
            last, ready = pool.submit(finish, item), last
            if ready is not None:
                yield ready.result()
        if last is not None:
            yield last.result()


def on_side_stream(finish: Callable[[Tensor], Result], latents: Iterable[Tensor]) -> Iterator[Result]:
    """Do the same for tensors of a CUDA device, with `finish` on a stream beside that of sampling."""
    side: torch.cuda.Stream | None = None

    def marked() -> Iterator[tuple[Tensor, torch.cuda.Event]]:
        nonlocal side
        for latent in latents:
            side = torch.cuda.Stream(latent.device) if side is None else side
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(latent.device))
            yield latent, ready

    def run(pair: tuple[Tensor, torch.cuda.Event]) -> Result:
        latent, ready = pair
        assert side is not None
        with torch.cuda.stream(side):
            side.wait_event(ready)
            latent.record_stream(side)
            return finish(latent)

    return finish_behind(run, marked())


def to_host(values: Tensor) -> Tensor:
    """Return float32 values on the CPU; from a CUDA device through pinned memory, waiting for this stream only."""
    values = values.float()
    if values.device.type != "cuda":
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return host
