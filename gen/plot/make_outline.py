"""Make `data/outline.npz`, the coastline that the maps draw, from Natural Earth's 110 m land polygons.

Natural Earth is in the public domain (naturalearthdata.com). Its polygons come packed as TopoJSON in the npm package
world-atlas; run, in an empty folder,

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python -m gen.plot.make_outline package/land-110m.json

TopoJSON stores each line once ("arc"), as integers that are differences along the line; coordinates are
`scale * integer + translate` (TopoJSON specification 1.0, section 2.1.3).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["main", "polylines"]

TARGET = Path(__file__).parent / "data" / "outline.npz"
STEPS_PER_DEGREE = 100
EDGE_DEG = 0.02


def polylines(topology: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """Return the arcs as [n, 2] (longitude, latitude), cut where they run along the date line or jump across it."""
    scale, translate = topology["transform"]["scale"], topology["transform"]["translate"]
    lines: list[NDArray[np.float64]] = []
    for arc in topology["arcs"]:
        line = np.cumsum(np.asarray(arc, np.float64), axis=0) * scale + translate
        lines.extend(_cut(line))
    return lines


def main(arguments: list[str]) -> None:
    """Write the outline from the TopoJSON file named on the command line."""
    lines = polylines(json.loads(Path(arguments[0]).read_text()))
    points = np.concatenate(lines)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TARGET,
        points=np.round(points * STEPS_PER_DEGREE).astype(np.int16),
        lengths=np.asarray([len(line) for line in lines], np.int16),
    )


def _cut(line: NDArray[np.float64]) -> Iterable[NDArray[np.float64]]:
    """Drop the segments that are no coast: polygon edges along 180 degrees and the southern rim, and jumps."""
    first, last = line[:-1], line[1:]
    on_date_line = (np.abs(np.abs(first[:, 0]) - 180) < EDGE_DEG) & (np.abs(np.abs(last[:, 0]) - 180) < EDGE_DEG)
    on_pole = (first[:, 1] < -90 + EDGE_DEG) | (last[:, 1] < -90 + EDGE_DEG)
    jump = np.abs(first[:, 0] - last[:, 0]) > 180
    ends = np.flatnonzero(on_date_line | on_pole | jump) + 1
    return [part for part in np.split(line, ends) if len(part) > 1]


if __name__ == "__main__":
    main(sys.argv[1:])
