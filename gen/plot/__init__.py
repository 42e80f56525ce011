"""Figures of forecasts and scores; matplotlib and cartopy are imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["quicklook", "run_plot"]


def run_plot(
    file: Path | str,
    out: Path | str | None = None,
    point: str | tuple[float, float] | None = None,
    variables: Sequence[str] | None = None,
    leads: Sequence[int] | None = None,
    init: str | None = None,
    projection: str | None = None,
) -> list[Path]:
    """Draw ensemble mean and spread maps, z500 spaghetti and, for a point, a meteogram of a forecast file.

    Args:
        file: forecast in any of our layouts, NetCDF or Zarr.
        out: path the names start with: `maps.png` gives `maps_z500.png`, ... (default: beside the file).
        point: (latitude, longitude) in degrees, or "LAT,LON".
        variables: channel codes to map (default: z500, 2t, msl, tp06 as far as they are there).
        leads: lead times in hours (default: about 1, 3, 5 and 10 days).
        init: initialisation (default: the first).
        projection: name of a cartopy projection for the maps (default: Equal Earth, or a conic one for a region).

    Returns:
        The files written.

    Raises:
        ValueError: not a forecast file, or a variable, lead time, initialisation or place that it does not have.
    """
    from gen.plot.forecast_view import ForecastView, parse_point
    from gen.plot.maps import draw_maps
    from gen.plot.meteogram import draw_meteogram
    from gen.plot.spaghetti import draw_spaghetti

    view = ForecastView(Path(file), init)
    stem = Path(file if out is None else out)
    stem = stem.with_suffix("") if stem.suffix in (".nc", ".zarr", ".png") else stem
    place = None if point is None else parse_point(point) if isinstance(point, str) else point
    chosen = view.choose_leads(leads)
    written = [
        draw_maps(view, code, chosen, stem.with_name(f"{stem.name}_maps_{code}.png"), projection)
        for code in view.choose_variables(variables)
    ]
    if view.has("z500"):
        written.append(draw_spaghetti(view, chosen, stem.with_name(f"{stem.name}_spaghetti.png")))
    if place is not None:
        written.append(draw_meteogram(view, *place, stem.with_name(f"{stem.name}_meteogram.png")))
    return written


def quicklook(path: Path | str, out: Path | str) -> Path:
    """Draw one figure that shows what a forecast file holds, and return its path (a few seconds)."""
    from gen.plot.forecast_view import ForecastView
    from gen.plot.overview import draw_overview

    return draw_overview(ForecastView(Path(path)), Path(out))
