"""Time and peak memory of fine rain against the size of the domain, from opening the model to the finished file.

Every line is a run of `gen sample --task downscaling` in a process of its own on synthetic rain (a random field, a
third of it wet). Memory should not grow with the number of rows, as the domain is drawn one row of tiles after the
other. The reference error is the largest violation of the coarse amounts that the file states, over the largest amount.

    python benchmarks/downscaling_domain.py [--model downscaling-demo] [--quick] [--sizes 1000,2000,4000] [--factor 4]
                                            [--members 2] [--steps 1] [--device cpu] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from reporting import child_result, integers, parser, print_header, print_table, run_child

STEP = 0.01  # degrees between fine pixels


def main() -> None:
    """Run every size and print one table."""
    made = parser(__doc__)
    made.set_defaults(model="downscaling-demo")
    made.add_argument("--sizes", type=integers, default=[1000, 2000, 4000], help="sides of the domain in pixels")
    made.add_argument("--factor", type=float, default=4.0)
    made.add_argument("--members", type=int, default=2)
    made.add_argument("--steps", type=int, default=1, help="of the sampler; few, since memory does not depend on them")
    made.add_argument("--case", help=argparse.SUPPRESS)
    options = made.parse_args()
    if options.case:
        return child_result(lambda: sample(json.loads(options.case)))
    sizes = [200, 400] if options.quick else options.sizes
    print_header(options, members=options.members, factor=options.factor, steps=options.steps)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            coarse = write_input(Path(folder) / f"coarse{size}.nc", size, options.factor)
            asked = {k: getattr(options, k) for k in ("model", "factor", "members", "steps", "device", "threads")}
            found = run_child({**asked, "input": str(coarse), "out": str(Path(folder) / "fine.nc")})
            rows.append(line(size, options.members, found, rows))
    print_table(rows)


def write_input(path: Path, size: int, factor: float) -> Path:
    """Write coarse rain whose fine grid has `size` rows and columns."""
    import xarray as xr

    from downscaling.publish import synthetic_rain

    count = int(size / factor)
    axis = STEP * factor * (np.arange(count) + 0.5)
    attrs = {"standard_name": "lwe_precipitation_rate", "units": "mm/h"}
    rain = synthetic_rain((count, count), times=1)
    axes = {"time": [np.datetime64("2024-06-01T12", "ns")], "latitude": 30 + axis, "longitude": axis}
    data = xr.Dataset({"rain": (("time", "latitude", "longitude"), rain, attrs)}, axes, {"synthetic": "true"})
    data.to_netcdf(path, engine="h5netcdf")
    return path


def sample(case: dict[str, Any]) -> dict[str, Any]:
    """Draw one ensemble in this process."""
    import logging

    import torch
    import xarray as xr

    from gen.sample import run_sample
    from gen.tasks import load_task

    logging.disable(logging.WARNING)
    if case["threads"]:
        torch.set_num_threads(case["threads"])
    load_task("downscaling")  # imports are not timed
    request = {k: v for k, v in case.items() if k != "threads"} | {k: Path(case[k]) for k in ("input", "out")}
    begun = time.perf_counter(), time.process_time()
    path = run_sample("downscaling", {**request, "plot": False})
    seconds, busy = time.perf_counter() - begun[0], time.process_time() - begun[1]
    with (
        xr.open_dataset(path, engine="h5netcdf") as opened,
        xr.open_dataset(case["input"], engine="h5netcdf") as coarse,
    ):
        worst = max((float(v) for k, v in opened.attrs.items() if k.startswith("conservation_largest_violation")))
        violation = worst / float(coarse["rain"].max())
    size = path.stat().st_size
    path.unlink()
    return {"seconds": seconds, "processor_seconds": busy, "violation": violation, "bytes": size}


def line(size: int, members: int, found: dict[str, Any], before: list[dict[str, object]]) -> dict[str, object]:
    """Return one row of the table."""
    pixels = size * size * members
    first = float(str(before[0]["peak MB"])) if before else found["peak_mb"]
    return {
        "side": size,
        "seconds": found["seconds"],
        "processor s": found["processor_seconds"],
        "processor us/pixel": 1e6 * found["processor_seconds"] / pixels,
        "peak MB": found["peak_mb"],
        "over the first": found["peak_mb"] / first,
        "written MB": found["bytes"] / 1e6,
        "violation": found["violation"],
    }


if __name__ == "__main__":
    main()
