r"""Time LaDCast at full size with random weights: each network alone, and an ensemble forecast from model to file.

Parts (default): one evaluation of the transformer, encoding, decoding. In one process our network and the plain
statement of the same forward (`plain_ladcast.py`, float32) take turns on the same weights and inputs; the least time
of several counts. "CPU s" is processor time, user and system, over all threads; on a GPU seconds are CUDA events. The
error is that of the output against the plain float32 one, root mean square and largest, both as fractions of its root
mean square. Peak memory is that of a process of its own for each network. The floor is the FLOPs of the plain statement
divided by the rate of the arithmetic: 790 TFLOP/s for bfloat16 on an H200, else the rate of a large matrix product
measured in the same process.

`--rollout` draws an ensemble through the task of `gen sample`, from the model folder to the finished file, and sets
beside it a plain loop over the same weights with the same sampler: float32, one start date at a time, members decoded
one by one, all channels kept. Of the plain loop `--plain-calls` calls are run and scaled to the length of the forecast.

    python benchmarks/ladcast_engine.py --size 375M [--parts network,encode,decode] [--batches 1] [--compile]
    python benchmarks/ladcast_engine.py --size 375M --rollout --members 50 --days 15 --device cuda --out runs/engine
    python benchmarks/ladcast_engine.py --size tiny --rollout --members 2 --days 1
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from reporting import child_result, integers, parser, print_header, print_table, run_child

PARTS = ("network", "encode", "decode")


def main() -> None:
    """Run every case in a process of its own, print tables and write the report."""
    options = arguments()
    if options.case:
        return child_result(lambda: run_case(json.loads(options.case)))
    print_header(options, size=options.size, weights="random")
    report: dict[str, Any] = {"header": header(options), "parts": [], "rollout": []}
    common = {"size": options.size, "device": options.device, "threads": options.threads}
    for part in options.parts if not options.rollout or options.all else ():
        for batch in options.batches:
            report["parts"] += part_rows({**common, "part": part, "batch": batch}, options)
        print_table([row for row in report["parts"] if row["part"] == part])
    if options.rollout or options.all:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            report["rollout"] = rollout_rows(common, options, Path(scratch))
        print_table(report["rollout"])
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "ladcast_engine.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--size", default="375M", choices=["tiny", "375M", "1.6B"])
    made.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    made.add_argument("--batches", type=integers, default=[1])
    made.add_argument("--repeat", type=int, default=3)
    made.add_argument("--compile", action="store_true", help="also compiled, in float32 and bfloat16")
    made.add_argument("--rollout", action="store_true", help="the ensemble forecast instead of the parts")
    made.add_argument("--all", action="store_true", help="parts and rollout")
    made.add_argument("--members", type=int, default=2)
    made.add_argument("--days", type=int, default=1)
    made.add_argument("--starts", type=int, default=1, help="start dates, one day apart")
    made.add_argument("--steps", type=int, default=20, help="evaluations per call, DPM-Solver++ 2M")
    made.add_argument("--dtypes", type=lambda text: text.split(","), default=["float32", "bfloat16"])
    made.add_argument("--variables", type=lambda text: text.split(","), default=[], help="written; default all")
    made.add_argument("--compress", default="fast", choices=["fast", "small", "none"])
    made.add_argument("--batch", type=int, default=None, help="members per block; default what fits")
    made.add_argument("--plain-calls", type=int, default=1, help="calls of the plain loop that are run")
    made.add_argument("--scratch", type=Path, default=None, help="folder for the model and the files while it runs")
    made.add_argument("--out", type=Path, default=None, help="folder for ladcast_engine.json")
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made.parse_args()


def header(options: argparse.Namespace) -> dict[str, object]:
    """Return what a reader of the numbers must know."""
    import platform
    import sys

    import torch

    from gen.provenance import git_commit

    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    return {
        "command": " ".join(["python", *sys.argv]), "device": name, "commit": git_commit() or "unknown",
        "threads": options.threads or torch.get_num_threads(), "load": os.getloadavg(), "torch": torch.__version__,
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }  # fmt: skip


def part_rows(case: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each form of a part."""
    from ladcast_sizes import flops

    forms = ["plain", "float32", "bfloat16"]
    if case["part"] == "network":
        forms += ["prepared float32", "prepared bfloat16", "prepared bfloat16 weights"]
    if options.compile:
        forms += ["compiled float32", "compiled bfloat16"]
    timed = run_child({**case, "kind": "times", "forms": forms, "repeat": options.repeat})
    work, rows = flops(case["part"], case["size"]) * case["batch"], []
    for form in forms:
        found, dtype = timed[form], "bfloat16" if "bfloat16" in form else "float32"
        memory = (
            run_child({**case, "kind": "memory", "form": form}) if form in ("plain", "float32", "bfloat16") else None
        )
        floor = work / timed["rates"][dtype]
        rows.append({
            "part": case["part"], "batch": case["batch"], "form": form, "seconds": found["seconds"],
            "CPU s": found["cpu"], "TFLOP/s": work / found["seconds"] / 1e12, "floor s": floor,
            "time/floor": found["seconds" if case["device"] != "cpu" else "cpu"] / floor,
            "plain/time": timed["plain"][clock := "cpu" if case["device"] == "cpu" else "seconds"] / found[clock],
            "rms error": found["rms"], "largest": found["largest"],
            "peak MiB": memory["MiB"] if memory else "-", "built MiB": memory["built"] if memory else "-",
        })  # fmt: skip
    return rows


def times(
    size: str, part: str, batch: int, device: str, threads: int | None, forms: list[str], repeat: int
) -> dict[str, Any]:
    """Time the forms of one part by turns on the same weights, and compare their outputs."""
    import torch
    from ladcast_clock import clocked, rate, set_threads

    set_threads(threads)
    calls = {form: _form(size, part, batch, device, form) for form in forms}
    best: dict[str, dict[str, float]] = {form: {"seconds": float("inf"), "cpu": float("inf")} for form in forms}
    found: dict[str, Any] = {}
    expected: torch.Tensor | None = None
    with torch.inference_mode():
        for form, call in calls.items():
            out = call().float()
            expected = expected if expected is not None else out
            scale, error = expected.square().mean().sqrt(), out - expected
            best[form] |= {
                "rms": float(error.square().mean().sqrt() / scale),
                "largest": float(error.abs().max() / scale),
            }
        for _ in range(repeat):
            for form, call in calls.items():
                seconds, cpu = clocked(call, device)
                best[form]["seconds"] = min(best[form]["seconds"], seconds)
                best[form]["cpu"] = min(best[form]["cpu"], cpu)
        found["rates"] = {dtype: rate(device, dtype) for dtype in ("float32", "bfloat16")}
    return {**found, **best}


def memory(size: str, part: str, batch: int, device: str, threads: int | None, form: str) -> dict[str, float]:
    """Return the memory of a process that makes one network and calls it, MiB: at the peak and before the call."""
    import resource

    import torch
    from ladcast_clock import set_threads

    set_threads(threads)
    call = _form(size, part, batch, device, form)
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device != "cpu":
        built = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"MiB": peak if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20, "built": built}


def _form(size: str, part: str, batch: int, device: str, form: str) -> Callable[[], Any]:
    """Return a call of one part in one form; modules are made once in a process."""
    import torch
    from ladcast_sizes import attention_shape, inputs
    from plain_ladcast import plain_decode, plain_encode, plain_transformer

    module, given = _module(size, part, device), {k: v.to(device) for k, v in inputs(part, batch).items()}
    if form == "plain":
        weights = dict(module.named_parameters())
        if part == "network":
            return lambda: plain_transformer(weights, *given.values(), *attention_shape(module))
        plain = plain_encode if part == "encode" else plain_decode
        channels = slice(0, 84)
        return lambda: plain(weights, **given)[:, channels]
    if "weights" in form:
        module = copy.deepcopy(module).bfloat16()
    made = module if part == "network" else getattr(module, part)
    if part == "network" and form not in ("float32", "bfloat16"):
        given = _prepared(module, given, "bfloat16" in form)
    if "compiled" in form:
        made = torch.compile(made, fullgraph=True, dynamic=False, mode=None if device == "cpu" else "reduce-overhead")
    lower = "bfloat16" in form and "weights" not in form

    def call() -> Any:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=lower):
            return made(**given)

    return call


def _prepared(network: Any, given: dict[str, Any], lower: bool) -> dict[str, Any]:
    """Return arguments of the network as a sampler gives them: what is known before the noise level computed before."""
    import torch

    with torch.inference_mode():
        kind = network.proj_out.weight.dtype
        with torch.autocast(given["x"].device.type, torch.bfloat16, enabled=lower and kind == torch.float32):
            conditions = network.prepare(given["cond"].to(kind), given["hours"])
    return {"x": given["x"].to(kind), "c_noise": given["c_noise"], "conditions": conditions}


@cache
def _module(size: str, part: str, device: str) -> Any:
    from ladcast_sizes import make_codec, make_network

    return (make_network if part == "network" else make_codec)(size).to(device)


def rollout_rows(common: dict[str, Any], options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Return rows of whole forecasts: the engine in each precision, the plain loop, and their floors."""
    from ladcast_rollout import differences
    from ladcast_sizes import flops, make_folder, make_world

    folder = make_folder(options.size, scratch / "model", options.steps)
    world = make_world(scratch / "world.nc", options.starts)
    calls, units = options.days, options.members * options.starts  # a call reaches 24 h
    work = units * calls * (options.steps * flops("network", options.size) + 4 * flops("decode", options.size))
    asked = {**common, "folder": str(folder), "world": str(world), "members": options.members, "starts": options.starts}
    plain = run_child({**asked, "kind": "plain", "steps": options.steps, "calls": min(calls, options.plain_calls)})
    scale = calls / min(calls, options.plain_calls)
    rows = [_rollout_row("plain float32", plain, scale, work, plain["rates"]["float32"], plain["seconds"] * scale, "-")]
    settings = {"days": options.days, "variables": options.variables, "compress": options.compress}
    reference, sizes = None, ("members", "days", "starts")
    for dtype in options.dtypes:
        for compiled in [False, True] if options.compile else [False]:
            name = f"engine {dtype}{' compiled' if compiled else ''}"
            out = str(scratch / f"{dtype}{compiled}.nc")
            case = {**asked, **settings, "kind": "engine", "dtype": dtype, "compile": compiled, "batch": options.batch}
            found = run_child({**case, "out": out})
            short = {**case, "members": min(options.members, 2), "days": 1, "starts": 1, "out": f"{out}.short.nc"}
            small = found["path"] if all(case[k] == short[k] for k in sizes) else run_child(short)["path"]
            reference = reference or small
            error = differences(Path(small), Path(reference))
            rows.append(_rollout_row(name, found, 1, work, plain["rates"][dtype], rows[0]["seconds"], error))
            if small != out:
                Path(out).unlink()
    return rows


def _rollout_row(
    name: str, found: dict[str, Any], scale: float, work: float, rate: float, plain: float, error: object
) -> dict[str, Any]:
    seconds, floor = found["seconds"] * scale, work / rate
    return {
        "form": name, "seconds": seconds, "CPU s": found["processor_seconds"] * scale, "TFLOP/s": work / seconds / 1e12,
        "floor s": floor, "time/floor": seconds / floor, "plain/time": plain / seconds, "error 24 h": error,
        "written MB": found.get("bytes", 0) / 1e6, "block": found.get("block", "-"), "peak MB": found["peak_mb"],
        "device MB": found["device_peak_mb"], "run": "all" if scale == 1 else f"1/{scale:g}",
    }  # fmt: skip


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Do in a process of its own what a case asks for."""
    import ladcast_rollout

    kinds = {"times": times, "memory": memory, "engine": ladcast_rollout.engine, "plain": ladcast_rollout.plain}
    return kinds[case.pop("kind")](**case)


if __name__ == "__main__":
    main()
