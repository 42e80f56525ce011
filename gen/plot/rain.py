"""One figure of a file of fine rain: the coarse input, three members, the mean, and the chance of heavy rain.

Cells of the coarse input whose rate lies beyond the training data are outlined.

Cells are drawn as cells, since their edges are what downscaling is about; colours step like a logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw_rain", "is_rain"]

import numpy as np
from numpy.typing import NDArray

from gen.plot.canvas import new_figure, save
from gen.plot.outline import coastline
from gen.projected_grid import PolarStereographic

Array = NDArray[np.float64]

RATES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # mm/h
CHANCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DRY, NO_DATA, COAST, OUTSIDE = "#fbfaf7", "0.82", "0.25", "#d7191c"
MOST_CELLS = 700  # of a side; larger fields are thinned
THRESHOLD = 1.0  # mm/h
READ_MEMBERS = 20


def is_rain(path: Path | str) -> bool:
    """Return whether a file holds fine rain of ours."""
    try:
        with _open(Path(path)) as file:
            return "precipitation" in file and "coarse_precipitation" in file
    except (OSError, ValueError):
        return False


def draw_rain(
    path: Path | str,
    out: Path | str,
    time: str | None = None,
    members: Sequence[int] | None = None,
    threshold: float = THRESHOLD,
) -> Path:
    """Draw the figure and return its path.

    Args:
        path: NetCDF file or Zarr store of `gen sample --task downscaling`.
        out: image to write.
        time: which time (default: the wettest of the coarse input).
        members: numbers of the members to show (default: the first three); the first twenty make mean and chance.
        threshold: mm/h of the chance.

    Raises:
        ValueError: the file has no such time or member.
    """
    with _open(Path(path)) as file:
        rain, coarse, index = file["precipitation"], _maps(file["coarse_precipitation"]), file.get("ood_index")
        when = _time(file, coarse, time)
        shown = list(members or range(min(3, rain.sizes["realization"])))[:3]
        if absent := [m for m in shown if not 0 <= m < rain.sizes["realization"]]:
            raise ValueError(f"{path} has no member {absent[0]}; it has 0 to {rain.sizes['realization'] - 1}")
        plane = rain.dims[-2:]
        step = max(1, -(-max(rain.shape[-2:]) // MOST_CELLS))
        place: dict[Any, Any] = {"time": when, plane[0]: slice(None, None, step), plane[1]: slice(None, None, step)}
        some = rain.isel(place)
        fields = np.asarray(some.isel(realization=slice(0, READ_MEMBERS)).values, np.float64)
        pictures = [np.asarray(some.isel(realization=m).values, np.float64) for m in shown]
        fine = tuple(np.asarray(file[d].values, np.float64)[::step] for d in plane)
        wide = tuple(np.asarray(file[d].values, np.float64) for d in coarse.dims[-2:])
        source = int(file["coarse_member"].values[shown[0]]) if "coarse_member" in file.coords else 0
        given = np.asarray(coarse.isel(time=when, coarse_realization=source).values, np.float64)
        beyond = np.zeros(given.shape, bool)
        if index is not None:
            beyond = np.asarray(_maps(index).isel(time=when, coarse_realization=source).values) > 1
        plane_text = str(file["crs"].attrs["proj4"]) if "crs" in file.variables else None
        heading, warning = _heading(file, when), str(file.attrs.get("warning", ""))
    known = np.isfinite(fields).all(0)
    chance = np.where(known, (fields > threshold).mean(0), np.nan)
    mean = np.where(known, fields.mean(0), np.nan)
    shape = (fine[0][-1] - fine[0][0]) * (1 if plane_text else 1 / np.cos(np.deg2rad(fine[0].mean())))
    ratio = float(np.clip((fine[1][-1] - fine[1][0]) / shape, 0.4, 2.5))
    figure = new_figure(10.5, 2 * 3.3 / ratio + 2.2, heading, warning[:1].upper() + warning[1:])
    axes = figure.subplots(2, 3).ravel()
    draw = _Panel(plane_text, fine)
    filled = draw(axes[0], wide, given, RATES, "coarse input (mm/h)")
    draw.outlined(axes[0], wide, beyond)
    for axis, picture, number in zip(axes[1:], pictures, shown, strict=False):
        draw(axis, fine, picture, RATES, f"member {number} (mm/h)")
    for axis in axes[1 + len(pictures) : 4]:
        axis.set_axis_off()
    draw(axes[4], fine, mean, RATES, f"mean of {len(fields)} members (mm/h)")
    likely = draw(axes[5], fine, chance, CHANCES, f"chance of more than {threshold:g} mm/h")
    _bar(figure, filled, axes[3:5].tolist(), RATES, "mm/h, all maps but the last; grey: no value")
    _bar(figure, likely, [axes[5]], CHANCES, "chance, last map")
    return save(figure, Path(out))


class _Panel:
    """Draw fields on one map plane: degrees, or metres of a projection."""

    def __init__(self, crs: str | None, fine: tuple[Array, ...]) -> None:
        self._plane = None if crs is None else PolarStereographic.parse(crs)
        self._window = [(_edges(axis)[0], _edges(axis)[-1]) for axis in fine]
        west = -180.0 if crs else float(np.mean(self._window[1])) - 180.0
        self._coast = [self._placed(line) for line in coastline(west)]
        self._aspect = 1.0 if crs else 1 / np.cos(np.deg2rad(fine[0].mean()))

    def __call__(self, axes: Any, grid: tuple[Array, ...], values: Array, levels: Sequence[float], title: str) -> Any:
        from matplotlib.collections import LineCollection
        from matplotlib.colors import BoundaryNorm

        colours = _colours(levels)
        norm = BoundaryNorm(levels, colours.N, extend="min" if levels is CHANCES else "both")
        masked = np.ma.masked_invalid(values)
        axes.set_facecolor(NO_DATA)
        filled = axes.pcolormesh(_edges(grid[1]), _edges(grid[0]), masked, cmap=colours, norm=norm, rasterized=True)
        axes.add_collection(LineCollection(self._coast, colors=COAST, linewidths=0.6), autolim=False)
        (south, north), (west, east) = self._window
        axes.set_xlim(west, east)
        axes.set_ylim(south, north)
        axes.set_aspect(self._aspect)
        axes.set_title(title, fontsize=9.5)
        axes.tick_params(labelsize=7)
        if self._plane is not None:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value / 1000:g} km")
        else:
            axes.xaxis.set_major_formatter(lambda value, _: _degrees((value + 180) % 360 - 180, "EW"))
            axes.yaxis.set_major_formatter(lambda value, _: _degrees(value, "NS"))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(_ticks())
        return filled

    def outlined(self, axes: Any, grid: tuple[Array, ...], cells: NDArray[np.bool_]) -> None:
        """Draw a line round the cells that lie outside the training data, and say so below the map."""
        from matplotlib.collections import LineCollection

        if not cells.any():
            return
        y, x = _edges(grid[0]), _edges(grid[1])
        framed = np.pad(cells, 1)
        down = np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1])  # edges between rows
        across = np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1])
        lines = [[(x[j], y[i]), (x[j + 1], y[i])] for i, j in down] + [
            [(x[j], y[i]), (x[j], y[i + 1])] for i, j in across
        ]
        axes.add_collection(LineCollection(lines, colors=OUTSIDE, linewidths=1.0, zorder=4), autolim=False)
        share = 100 * cells.mean()
        legend = f"red outline: ood_index above 1, beyond the training data ({share:.2g} % of cells)"
        axes.set_xlabel(legend, fontsize=7, color=OUTSIDE)

    def _placed(self, line: Array) -> Array:
        if self._plane is None:
            return line
        x, y = self._plane.forward(line[:, 1], line[:, 0])
        near = np.hypot(x, y) < 2.5e7  # what lies beyond the other pole runs away
        return np.stack([np.where(near, x, np.nan), np.where(near, y, np.nan)], -1)


def _open(path: Path) -> Any:
    import xarray as xr

    return xr.open_zarr(path) if path.is_dir() else xr.open_dataset(path, engine="h5netcdf")


def _maps(array: Any) -> Any:
    """Return a variable of the coarse input with its map last, where the file has it before the time or not."""
    return array.transpose("coarse_realization", "time", ...)


def _time(file: Any, coarse: Any, wanted: str | None) -> int:
    """Return the place of a time; by default that of the wettest coarse field."""
    times = file["time"].values.astype("datetime64[m]")
    if wanted is None:
        return int(np.argmax(np.nan_to_num(coarse.mean(coarse.dims[:1] + coarse.dims[2:]).values)))
    try:
        moment = np.datetime64(wanted.rstrip("Z").replace(" ", "T"), "m")
    except ValueError:
        raise ValueError(f"{wanted!r} is not a date; write 2024-01-01 or 2024-01-01T12") from None
    if moment not in times:
        raise ValueError(f"the file has no time {wanted}; it has {times[0]} to {times[-1]}")
    return int(np.flatnonzero(times == moment)[0])


def _heading(file: Any, index: int) -> str:
    end = str(file["time"].values[index].astype("datetime64[m]")).replace("T", " ")
    count = file.sizes["realization"]
    members = f"{count} member{'s' if count > 1 else ''}"
    model = file.attrs.get("model", "generative model")
    return f"Fine rain: {model}, {members}, factor {file.attrs.get('factor', '?')}, interval to {end} UTC - SYNTHETIC"


def _edges(axis: Array) -> Array:
    half = np.diff(axis).mean() / 2
    return np.concatenate([axis - half, [axis[-1] + half]])


def _colours(levels: Sequence[float]) -> Any:
    """Return a colour map with one colour per step and a pale one below."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    strong: Any = matplotlib.colormaps["viridis_r" if levels is RATES else "magma_r"]
    steps = len(levels) if levels is RATES else len(levels) - 1
    return ListedColormap([DRY, *strong(np.linspace(0.06, 0.97, steps))])


def _bar(figure: Any, filled: Any, axes: list[Any], levels: Sequence[float], label: str) -> None:
    bar = figure.colorbar(filled, ax=axes, orientation="horizontal", shrink=0.95, aspect=22 * len(axes), pad=0.03)
    bar.set_ticks(levels)
    bar.ax.xaxis.set_major_formatter("{x:g}")
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=6.5)
    bar.set_label(label, fontsize=8)


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):g}°{letters[0] if value > 0 else letters[1] if value < 0 else ''}"
