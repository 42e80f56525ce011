"""Time forecasts: seconds per member and day, peak memory and bytes written against members, block size and precision.

Every line is a run of `gen sample` in a process of its own, from opening the model to the finished file (imports are
not counted). The reference error is the root mean square difference from a float32 run of the same noise with the
model's block size, as a fraction of each channel's standard deviation, the largest of all channels, at the first and
the last lead time; differences grow with lead time as any small error does. 0 means: the same bits.

    python benchmarks/sampling.py [--model demo] [--quick] [--members 1,8,20,50,200] [--blocks 1,2,4,8,16] [--lead 1d]
                                  [--init 2024-01-01] [--source demo] [--device cpu] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from reporting import child_result, integers, parser, print_header, print_table, run_child

REFERENCE_MEMBERS = 8


def main() -> None:
    """Run every case and print one table for each question."""
    made = parser(__doc__)
    made.add_argument("--members", type=integers, default=[1, 8, 20, 50, 200])
    made.add_argument("--blocks", type=integers, default=[1, 2, 4, 8, 16])
    made.add_argument("--lead", default="1d")
    made.add_argument("--init", default="2024-01-01")
    made.add_argument("--source", default="demo")
    made.add_argument("--format", default="netcdf", choices=["netcdf", "zarr", "latent"])
    made.add_argument("--case", help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.case:
        return child_result(lambda: sample(json.loads(options.case)))
    if options.quick:
        options.members, options.blocks, options.lead = [1, 8], [1, 4], "12h"
    print_header(options, **facts(options.model))
    with tempfile.TemporaryDirectory() as folder:
        report(options, Path(folder))


def report(options: argparse.Namespace, folder: Path) -> None:
    """Print the three tables."""
    asked = vars(options)
    common = {k: asked[k] for k in ("model", "source", "init", "lead", "device", "threads")} | {"dtype": "float32"}
    reference = run_child({**common, "members": REFERENCE_MEMBERS, "out": str(folder / "reference.nc")})
    sweeps: dict[str, list[dict[str, Any]]] = {
        "Members, float32": [{"members": m, "format": options.format} for m in options.members],
        "Members per block, float32": [{"members": 8, "batch": b} for b in options.blocks],
        "Precision inside the network": [{"members": 8, "dtype": d} for d in ("float32", "bfloat16")],
    }
    for title, cases in sweeps.items():
        rows = []
        for case in cases:
            out = folder / f"case.{'nc' if case.get('format', 'netcdf') == 'netcdf' else 'zarr'}"
            found = run_child({**common, **case, "out": str(out)})
            rows.append(line({**common, **case}, found, errors(out, Path(reference["path"]))))
            remove(out)
        print(f"{title} ({options.lead})\n")
        print_table(rows)


def sample(case: dict[str, Any]) -> dict[str, Any]:
    """Draw one forecast in this process."""
    import logging
    import time

    import torch

    from gen.sample import run_sample
    from gen.tasks import load_task

    logging.disable(logging.WARNING)
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    request = {k: v for k, v in case.items() if k not in ("threads", "init")}
    load_task("forecast")  # imports are not timed
    begun = time.perf_counter(), time.process_time()
    path = run_sample("forecast", {**request, "init": (case["init"],), "out": Path(case["out"]), "plot": False})
    seconds, busy = time.perf_counter() - begun[0], time.process_time() - begun[1]
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    return {"path": str(path), "bytes": size, "seconds": seconds, "processor_seconds": busy}


def line(case: dict[str, Any], found: dict[str, Any], error: tuple[float, float] | None) -> dict[str, object]:
    """Return one row of a table."""
    from forecast.request import parse_duration

    work = case["members"] * parse_duration(case["lead"]) / 24
    row: dict[str, object] = {
        "members": case["members"],
        "block": case.get("batch", "model's"),
        "dtype": case["dtype"],
        "seconds": found["seconds"],
        "s/member-day": found["seconds"] / work,
        "processor s/member-day": found["processor_seconds"] / work,
        "peak MB": found["peak_mb"],
    }
    if case["device"] != "cpu":
        row["peak MB on device"] = found["device_peak_mb"]
    first, last = error or ("-", "-")
    return row | {"written MB": found["bytes"] / 1e6, "error first lead": first, "error last lead": last}


def errors(path: Path, reference: Path) -> tuple[float, float] | None:
    """Return the largest relative difference at the first and the last lead time; None for latents."""
    from gen.metrics.stores import ForecastStore

    if (path / "latent").exists():
        return None
    ours, theirs = ForecastStore(path), ForecastStore(reference)
    members = slice(0, min(ours.members, theirs.members))
    worst = []
    for lead in (ours.leads[:1], ours.leads[-1:]):
        found = []
        for channel in theirs.channels:
            a, b = (s.read(theirs.inits[0], lead, channel, members).double() for s in (ours, theirs))
            found.append(float((a - b).square().mean().sqrt() / b.std()) if bool((a != b).any()) else 0.0)
        worst.append(max(found))
    return worst[0], worst[1]


def facts(model: str) -> dict[str, object]:
    """Return what the header says of the model."""
    from gen.hub import open_model, resolve

    folder = open_model(resolve(model))
    dynamics = folder.document("dynamics")
    used = dynamics["sampling"]
    return {
        "model": f"{dynamics['name']}, SHA-256 {folder.digest[:12]}",
        "sampler": f"{used['sampler']}, {used['steps']} steps, {used['members_per_block']} members per block, "
        f"{dynamics['frames']} frames of {dynamics['step_hours']} h per call",
    }


def remove(path: Path) -> None:
    """Delete a file or a store."""
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


if __name__ == "__main__":
    main()
