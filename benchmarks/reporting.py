"""What benchmarks share: facts of the machine above the table, the table, a process of its own per line, the clock.

A benchmark reports and never asserts: a slow machine is no error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "child_result",
    "fastest",
    "integers",
    "parser",
    "print_header",
    "print_table",
    "relative",
    "run_child",
]

MARK = "RESULT "
PACKAGES = ("torch", "numpy", "diffusers", "xarray", "zarr", "netCDF4", "h5netcdf")


def parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark takes."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="demo", help="model folder, or demo")
    made.add_argument("--quick", action="store_true", help="a few small cases, for a first look")
    made.add_argument("--threads", type=int, default=None, help="threads of torch (default: its own choice)")
    made.add_argument("--device", default="cpu", help="cpu or cuda")
    return made


def integers(text: str) -> list[int]:
    """Split "1,8,20" into numbers."""
    return [int(part) for part in text.split(",")]


def print_header(options: argparse.Namespace, **facts: object) -> None:
    """Print command, machine, versions and commit; a number without them means nothing."""
    import torch

    from gen.provenance import git_commit

    rows = {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{_processor()}, {os.cpu_count()} logical processors, {_memory()}, {platform.system()}",
        "load": ", ".join(f"{x:.1f}" for x in os.getloadavg()) + " (other work on the machine slows these numbers)",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": options.threads or torch.get_num_threads(),
        "versions": f"Python {platform.python_version()}, " + ", ".join(_versions()),
        "commit": git_commit() or "unknown",
        **facts,
    }
    for name, value in rows.items():
        print(f"{name:<12} {value}")
    print()


def print_table(rows: Sequence[dict[str, object]]) -> None:
    """Print rows as a Markdown table; numbers get three significant digits."""
    names = list(rows[0])
    cells = [[_text(row[name]) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    for line in [names, ["-" * w for w in widths], *cells]:
        print("| " + " | ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) + " |")
    print(flush=True)


def run_child(case: dict[str, Any]) -> dict[str, Any]:
    """Run this script again for one case, in a process of its own, so that its peak memory is its own."""
    done = subprocess.run([sys.executable, sys.argv[0], "--case", json.dumps(case)], stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    raise SystemExit(f"the case {case} failed with exit code {done.returncode}")


def child_result(work: Callable[[], dict[str, Any]]) -> None:
    """Run `work` in the child and print what it returns with seconds and peak memory."""
    wall, busy = time.perf_counter(), time.process_time()
    found = work()
    found.setdefault("seconds", time.perf_counter() - wall)
    found.setdefault("processor_seconds", time.process_time() - busy)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["device_peak_mb"] = _device_peak()
    print(MARK + json.dumps(found))


def fastest(call: Callable[[], object], repeat: int, device: str) -> tuple[float, float]:
    """Return the least wall-clock and processor time of a call; the first call does not count."""
    import torch

    walls, works = [], []
    for _ in range(repeat + 1):
        wall, work = time.perf_counter(), time.process_time()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return min(walls[1:]), min(works[1:])


def relative(value: Tensor, reference: Tensor) -> float:
    """Return |value - reference| / |reference|."""
    return float((value.double() - reference).norm() / reference.norm())


def _device_peak() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def _versions() -> list[str]:
    from importlib import metadata

    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory"
