"""torch.compile for the transformer: fewer and larger kernels, and on an accelerator CUDA graphs.

Off by default: a block is compiled for its shape, which takes a minute or so and pays from some hundred evaluations
on. Results agree with those without it to rounding, not in their bits, so the file says whether it was used.
"""

from __future__ import annotations

import logging

__all__ = ["compile_network"]

import torch

from diffusion.samplers import build_sampler
from forecast.model import ForecastModel

log = logging.getLogger(__name__)


@torch.no_grad()
def compile_network(model: ForecastModel, size: int, dtype: torch.dtype, backend: str = "inductor") -> bool:
    """Compile the network of `model` for blocks of `size` members; return whether that works here.

    One evaluation before fills the tables that the network keeps; one after makes the compiler do its work, or fail,
    now. A failure is one line in the log, and the network stays as it was.

    Args:
        model: the model, on its device.
        size: members per block.
        dtype: the arithmetic inside the network.
        backend: compiler known to `torch.compile`.
    """
    device = model.step_std.device
    z = torch.zeros(size, *model.codec.latent_shape, device=device)
    hours = torch.zeros(size, dtype=torch.int64, device=device)
    noise = torch.zeros(size, z.shape[1], model.meta.frames, *z.shape[2:], device=device)
    once = build_sampler("euler", 1)

    def evaluate() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            model.advance(z, hours, noise, once)

    evaluate()
    graphs = "reduce-overhead" if device.type == "cuda" and backend == "inductor" else None
    try:
        model.network.compile(backend=backend, mode=graphs, dynamic=False)
        evaluate()
    except (RuntimeError, ImportError, OSError) as error:  # the compiler's own errors are RuntimeErrors
        model.network._compiled_call_impl = None  # what `compile` set
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        log.warning("note: --compile does not work here (%s); going on without it", reason)
        return False
    return True
