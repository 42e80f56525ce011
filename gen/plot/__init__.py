"""Figures of forecasts and scores; matplotlib and cartopy are imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["quicklook", "run_plot"]


WHAT = ("maps", "spaghetti", "meteogram")


def run_plot(
    file: Path | str,
    out: Path | str | None = None,
    point: str | tuple[float, float] | None = None,
    what: Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
    leads: Sequence[int] | None = None,
    members: Sequence[int] | None = None,
    init: str | None = None,
    projection: str | None = None,
    threshold: float = 1.0,
) -> list[Path]:
    """Draw ensemble mean and spread maps, spaghetti and, for a point, a meteogram of a forecast file.

    A file of fine rain gives one figure: coarse input, three members, mean, chance of more than a threshold.

    Args:
        file: forecast in any of our layouts, NetCDF or Zarr.
        out: path the names start with: `maps.png` gives `maps_z500.png`, ... (default: beside the file).
        point: (latitude, longitude) in degrees, or "LAT,LON".
        what: kinds of figure, of `WHAT`, each of the asked variables (default: maps of the variables, spaghetti of
            z500 if it is there, and for a point the usual meteogram).
        variables: channel codes (default: z500, 2t, msl, tp06 as far as they are there).
        leads: lead times in hours (default: about 1, 3, 5 and 10 days).
        members: numbers of the members to draw and to take mean and spread of (default: all).
        init: initialisation (default: the first).
        projection: name of a cartopy projection for the maps (default: Equal Earth, or a conic one for a region).
        threshold: mm/h of the chance of rain in figures of fine rain, where `init` is the time.

    Returns:
        The files written.

    Raises:
        ValueError: not a forecast file, an unknown kind or projection, a meteogram without a place, or a variable, lead
            time, member, initialisation or place that the file does not have.
    """
    from gen.plot.rain import draw_rain, is_rain

    if is_rain(file):
        return [draw_rain(file, Path(file if out is None else out).with_suffix(".png"), init, members, threshold)]
    from gen.plot.forecast_view import ForecastView, parse_point
    from gen.plot.maps import draw_maps
    from gen.plot.meteogram import draw_meteogram
    from gen.plot.spaghetti import draw_spaghetti

    kinds = _kinds(what, point)
    view = ForecastView(Path(file), init, members)
    stem = _stem(Path(file if out is None else out))
    place = parse_point(point) if isinstance(point, str) else point
    hours, codes = view.choose_leads(leads), view.choose_variables(variables)
    bundles = codes if what and variables else ["z500"] if view.has("z500") else codes if what else []
    maps = codes if "maps" in kinds else []
    written = [draw_maps(view, c, hours, stem.with_name(f"{stem.name}_maps_{c}.png"), projection) for c in maps]
    if "spaghetti" in kinds:
        names = {c: "_spaghetti.png" if c == "z500" else f"_spaghetti_{c}.png" for c in bundles}
        written += [draw_spaghetti(view, hours, stem.with_name(stem.name + name), c) for c, name in names.items()]
    if "meteogram" in kinds and place is not None:
        target = stem.with_name(f"{stem.name}_meteogram.png")
        written.append(draw_meteogram(view, *place, target, codes if what and variables else None))
    return written


def _stem(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in (".nc", ".zarr", ".png") else path


def _kinds(what: Sequence[str] | None, point: object) -> Sequence[str]:
    """Check the kinds of figure; raises ValueError."""
    if unknown := [kind for kind in what or () if kind not in WHAT]:
        raise ValueError(f"there is no figure {unknown[0]!r}; choose of {', '.join(WHAT)}")
    if what and "meteogram" in what and point is None:
        raise ValueError("a meteogram needs a place; give --point LAT,LON")
    return what or WHAT


def quicklook(path: Path | str, out: Path | str) -> Path:
    """Draw one figure that shows what a forecast file holds, and return its path (a few seconds)."""
    from gen.plot.forecast_view import ForecastView
    from gen.plot.overview import draw_overview
    from gen.plot.rain import draw_rain, is_rain

    if is_rain(path):
        return draw_rain(path, out)
    return draw_overview(ForecastView(Path(path)), Path(out))
