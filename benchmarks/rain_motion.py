"""Judge hourly rain made from radar frames: interpolation along the motion, and how rough the hours are.

First table: every second frame is left out and interpolated from its neighbours; root mean square error (mm/h),
correlation and mass over the truth's. Second table: power at some wavelengths over that at 64 km in dB, the median over
boxes of 240 pixels with at least 0.1 mm/h, of frames, of hours made from them with some parts of each gap between
frames, and of hourly products. Spectra have a Hann window; axes are taken as kilometres per pixel of the grid's rows.

    python benchmarks/rain_motion.py --frames knmi=KNMI_FOLDER --frames mrms=MRMS_FOLDER --hourly radolan=RADOLAN_FILE
                                     [--parts 1,2,3,5] [--left-out knmi] [--hours 1] [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from reporting import integers, parser, print_header, print_table

from downscaling.conditions import place_km
from downscaling.scenes import spacing_km
from downscaling.sources.advection import between, motion
from downscaling.sources.base import PrecipitationSource
from downscaling.sources.derived import accumulated
from downscaling.sources.opening import open_precipitation
from gen.metrics.precipitation import radial_spectrum

BOX, LEAST = 240, 0.1
WAVELENGTHS = (64.0, 16.0, 8.0, 6.0, 4.0)


def main() -> None:
    """Print both tables."""
    made = parser(__doc__)
    made.add_argument("--frames", action="append", default=[], help="name=path of frames minutes apart; repeatable")
    made.add_argument("--hourly", action="append", default=[], help="name=path of an hourly product; repeatable")
    made.add_argument("--left-out", default="", help="names of frames for the first table, separated by commas")
    made.add_argument("--parts", type=integers, default=[1, 2, 3, 5], help="of the gap between frames; 1 is the mean")
    made.add_argument("--hours", type=int, default=4, help="hours (or frames) of each event that are looked at")
    options = made.parse_args()
    torch.set_num_threads(options.threads or 1)
    frames, hourly = ({n: open_precipitation(p) for n, _, p in (e.partition("=") for e in given)}
                      for given in (options.frames, options.hourly))  # fmt: skip
    print_header(options)
    if chosen := [n for n in options.left_out.split(",") if n]:
        print("Every second frame left out\n")
        print_table([row for name in chosen for row in left_out(name, frames[name])])
    print("Power over that at 64 km, dB\n")
    rows = []
    for name, source in frames.items():
        step = float(np.diff(source.times()).min() / np.timedelta64(60, "m"))
        rows.append(roughness(f"{name}, frames", source, options.hours))
        for parts in options.parts:
            source_of_hours = accumulated(source, round(1 / step), parts)
            rows.append(roughness(f"{name}, hours, {parts} part(s)", source_of_hours, options.hours))
    rows += [roughness(f"{name}, product", source, options.hours) for name, source in hourly.items()]
    print_table(rows)


def left_out(name: str, source: PrecipitationSource) -> list[dict[str, object]]:
    """Return a row for each way to make up for frames that are missing."""
    found: dict[str, list[tuple[float, float, float]]] = {"along the motion": [], "mixed": [], "nearest": []}
    for k in range(0, len(source.times()) - 2, 2):
        first, truth, last = (source.read(k + i) for i in range(3))
        carried = next(iter(between(first, last, [0.5], motion(first, last))))
        substitutes: list[np.ndarray] = [carried, (first + last) / 2, first]
        for way, made in zip(found, substitutes, strict=True):
            known = np.isfinite(truth) & np.isfinite(made)
            x, y = made[known].astype(np.float64), truth[known].astype(np.float64)
            error = float(np.sqrt(np.square(x - y).mean()))
            found[way].append((error, float(np.corrcoef(x, y)[0, 1]), float(x.sum() / max(y.sum(), 1e-9))))
    table: list[dict[str, object]] = []
    for way, cases in found.items():
        error, correlation, mass = np.mean(cases, axis=0).tolist()
        table.append({"frames": name, "way": way, "cases": len(cases), "rmse": error, "r": correlation, "mass": mass})
    return table


def roughness(name: str, source: PrecipitationSource, count: int) -> dict[str, object]:
    """Return the median of box spectra at `WAVELENGTHS`, in dB over the first."""
    begun = time.process_time()
    chosen = np.unique(np.linspace(0, len(source.times()) - 1, count).astype(int))
    km = spacing_km(place_km(source.grid))
    found = [spectrum(box, km) for i in chosen for box in boxes(source.read(int(i)))]
    middle = np.median(found, axis=0) if found else np.full(len(WAVELENGTHS), np.nan)
    row: dict[str, object] = {"rain": name, "boxes": len(found)}
    row |= {f"{w:g} km": float(v) for w, v in zip(WAVELENGTHS[1:], (middle - middle[0])[1:], strict=True)}
    return row | {"processor s": time.process_time() - begun}


def boxes(field: np.ndarray) -> Iterable[np.ndarray]:
    """Yield boxes with rain and no missing pixel, half a box apart."""
    for row in range(0, field.shape[0] - BOX + 1, BOX // 2):
        for column in range(0, field.shape[1] - BOX + 1, BOX // 2):
            box = field[row : row + BOX, column : column + BOX]
            if box.mean() >= LEAST:
                yield box


def spectrum(box: np.ndarray, km: float) -> np.ndarray:
    """Return the power of a box at `WAVELENGTHS`, in dB."""
    frequency, power = radial_spectrum(torch.from_numpy(np.ascontiguousarray(box)), (km, km), hann=True)
    return np.interp([1 / w for w in WAVELENGTHS], frequency.numpy(), 10 * np.log10(power.numpy() + 1e-30))


if __name__ == "__main__":
    main()
