"""Whole ensemble forecasts for `ladcast_engine.py`: through the task of `gen sample`, and in a plain loop.

The plain loop is the original's way: float32, the transformer on all members of one start date, nothing prepared
before, every frame of every member decoded by itself, all channels, no file. It has the sampler and the number of
evaluations of the other; the original needs 39 for its 20 steps.
"""

from __future__ import annotations

__all__ = ["differences", "engine", "plain"]

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ladcast_clock import rate, set_threads
from ladcast_sizes import START, attention_shape
from plain_ladcast import plain_decode, plain_encode, plain_transformer
from torch import Tensor

from diffusion.precondition import EDM, Coefficients
from diffusion.samplers import build_sampler
from forecast.data import open_analysis
from forecast.model import ForecastModel
from gen.metrics.stores import ForecastStore
from gen.sample import run_sample
from gen.tasks import load_task


def engine(
    size: str, folder: str, world: str, members: int, starts: int, device: str, threads: int | None, days: int,
    variables: list[str], compress: str, dtype: str, compile: bool, batch: int | None, out: str,
) -> dict[str, Any]:  # fmt: skip
    """Draw one forecast through the task, from opening the model to the finished file; imports are not timed."""
    logging.disable(logging.WARNING)
    set_threads(threads)
    load_task("forecast")
    dates = np.datetime64(START) + np.arange(starts)
    begun, busy = time.perf_counter(), time.process_time()
    path = run_sample("forecast", {
        "init": tuple(map(str, dates)), "members": members, "lead": f"{days}d", "model": folder, "source": world,
        "device": device, "dtype": dtype, "compile": compile, "batch": batch or "auto", "compress": compress,
        "variables": tuple(variables), "out": Path(out), "plot": False,
    })  # fmt: skip
    took = {"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - busy}
    block = ForecastStore(path).attrs["members_per_block"]
    return {**took, "path": str(path), "bytes": path.stat().st_size, "block": block}


def plain(
    size: str, folder: str, world: str, members: int, starts: int, device: str, threads: int | None, steps: int,
    calls: int,
) -> dict[str, Any]:  # fmt: skip
    """Run the plain loop: one start at a time, float32, decoded frame by frame into arrays of the host."""
    set_threads(threads)
    model = ForecastModel.load(Path(folder)).to(device).requires_grad_(False)
    analysis = open_analysis(world, Path(folder), model.codec)
    sampler = build_sampler("dpmpp_2m", steps, **model.meta.sampling.settings)
    begun, busy = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for day in range(starts):
            _plain_start(model, analysis, sampler, members, np.datetime64(START, "h") + np.timedelta64(day, "D"), calls)
        took = {"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - busy}
        return {**took, "rates": {dtype: rate(device, dtype) for dtype in ("float32", "bfloat16")}}


def _plain_start(
    model: ForecastModel, analysis: Any, sampler: Any, members: int, init: np.datetime64, calls: int
) -> None:
    """Draw and decode all members of one start; of the decoded fields only the last are kept, memory being finite."""
    network, codec = dict(model.network.named_parameters()), dict(model.codec.dcae.named_parameters())
    mean, scale = (v[:, None, None] for v in (model.codec.latent_mean, model.codec.latent_std))
    shape, device, generator = attention_shape(model.network), mean.device, torch.Generator().manual_seed(0)
    field = analysis.source.read(init, model.codec.channels, grid=model.codec.grid)
    normal = model.codec.normalise(field.values[None].float().to(device))
    z = ((plain_encode(codec, normal, model.codec.static) - mean) / scale).expand(members, -1, -1, -1)
    for call in range(calls):
        hours = torch.full((members,), int(init.astype(np.int64)) + 24 * call, device=device)

        def denoise(x: Tensor, sigma: Tensor, z: Tensor = z, hours: Tensor = hours) -> Tensor:
            c = Coefficients(*(v[:, None, None, None, None] for v in EDM(0.5).coefficients(sigma)))
            out = plain_transformer(network, c.inp * x, c.noise.flatten(), z[:, :, None], hours, *shape)
            return c.skip * x + c.out * out

        noise = torch.randn(members, z.shape[1], model.meta.frames, *z.shape[2:], generator=generator)
        frames = sampler(denoise, noise.to(device)).transpose(1, 2)
        for member in frames:
            fields = [plain_decode(codec, latent[None] * scale + mean)[:, : len(field.channels)] for latent in member]
            model.codec.normalizer.inverse(torch.cat(fields)).cpu()
        z = frames[:, -1]


def differences(path: Path, reference: Path) -> float:
    """Return the largest root mean square difference of a channel at the last lead, in its standard deviations."""
    ours, theirs, worst = ForecastStore(path), ForecastStore(reference), 0.0
    for channel in theirs.channels:
        a, b = (s.read(theirs.inits[0], s.leads[-1:], channel).double() for s in (ours, theirs))
        known = torch.isfinite(b)
        if bool((a[known] != b[known]).any()):
            worst = max(worst, float((a[known] - b[known]).square().mean().sqrt() / b[known].std()))
    return worst
