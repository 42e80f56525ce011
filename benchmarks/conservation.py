"""Time the projection onto coarse amounts; the reference error is the largest violation in units of the largest amount.

Cases: 80 x 80 coarse cells over 200 x 200 fine ones (ERA5 over IMERG, factor 2.5) and its neighbours, for a prior of
another event (the hardest), a disturbed truth, and one without dry areas. Rain is synthetic: the exponential of a
Gaussian field with a power-law spectrum, cut at zero.

    python benchmarks/conservation.py [--quick] [--threads 2]
"""

from __future__ import annotations

import time

import numpy as np
from reporting import parser, print_header, print_table

from downscaling.conserve import conserve
from downscaling.overlap import Overlap

CASES = ((2.5, 200), (4.0, 320), (8.0, 640), (2.5, 1000))
REPEATS = 3


def main() -> None:
    """Print one line for each factor, size and prior."""
    options = parser(__doc__).parse_args()
    print_header(options, times=f"the median of {REPEATS} runs, one member each")
    print_table([measure(*case, prior) for case in CASES[: 1 if options.quick else None] for prior in PRIORS])


def rain(size: int, seed: int, wet: float = 0.35) -> np.ndarray:
    """Return synthetic rain [size, size]; a share `wet` is wet."""
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    waves[0, 0] = 1
    noise = np.random.default_rng(seed).standard_normal((size, size))
    gauss = np.fft.ifft2(np.fft.fft2(noise) * waves**-1.6).real
    return np.maximum(np.exp(2.5 * (gauss - np.quantile(gauss, 1 - wet)) / gauss.std()) - 1, 0.0)


def disturbed(size: int) -> np.ndarray:
    """Return the truth with a noise of 30 %."""
    return rain(size, 0) * np.exp(0.3 * np.random.default_rng(1).standard_normal((size, size)))


PRIORS = {
    "another event": lambda size: rain(size, 1),
    "disturbed truth": disturbed,
    "wet everywhere": lambda size: rain(size, 1, wet=1.0) + 0.01,
}


def measure(factor: float, size: int, prior: str) -> dict[str, object]:
    """Project once for each repeat and return one row of the table."""
    overlap = Overlap.by_factor((size, size), factor)
    truth = rain(size, 0) if prior != "wet everywhere" else rain(size, 0, wet=1.0) + 0.01
    coarse, start, seconds, busy = overlap.apply(truth), PRIORS[prior](size), [], []
    for _ in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        made = conserve(start, coarse, overlap)
        seconds.append(time.perf_counter() - wall)
        busy.append(time.process_time() - processor)
    return {
        "coarse": "x".join(map(str, overlap.coarse_shape)),
        "fine": f"{size}x{size}",
        "factor": factor,
        "prior": prior,
        "seconds": float(np.median(seconds)),
        "processor s": float(np.median(busy)),
        "steps": made.iterations,
        "violation": made.largest_violation / float(coarse.max()),
        "least value": float(made.values.min()),
        "multiplier": made.largest_multiplier,
        "filled cells": made.filled_cells,
    }


if __name__ == "__main__":
    main()
