"""`gen data`: make the data that models are trained, started and scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["data"]

from gen.cli_options import (
    EXISTING,
    FILE,
    NAMES,
    Group,
    given,
    make_reporter,
    quiet_option,
)


@click.group(cls=Group)
def data() -> None:
    """Make data: simulate, reference, era5, climatology, check, extract."""


@data.command()
@click.option("--out", type=FILE, required=True, help="Zarr store to write; an unfinished one is continued.")
@click.option("--years", type=float, help="Length, rounded up to whole segments.")
@click.option("--seed", type=int, help="Selects the world.")
@click.option("--start", metavar="DATE", help="First calendar day.")
@click.option("--segment-days", type=int, help="Length of one independent segment.")
@click.option("--spinup-days", type=int, help="Integration thrown away before a segment.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes at the same time.")
@quiet_option
def simulate(quiet: bool, **options: Any) -> None:
    """Simulate a world: 6-hourly fields of the jcm model (real physics)."""
    from gen.data.simulate import WorldRequest, simulate_world

    reporter = make_reporter(quiet)
    with reporter.bar("simulating", unit="ten-day chunks") as bar:
        path = simulate_world(WorldRequest(**given(options)), bar.report)
    reporter.say(str(path))


@data.command()
@click.argument("world", type=EXISTING)
@click.option("--out", type=FILE, required=True, help="Zarr store to write.")
@click.option("--init", type=NAMES, multiple=True, required=True, metavar="DATE[,…]", help="Starts; repeatable.")
@click.option("--members", type=click.IntRange(min=1), help="Members per start.")
@click.option("--lead-days", type=click.IntRange(min=1), help="Length of the runs.")
@click.option("--epsilon", type=float, help="Relative size of the perturbations.")
@click.option("--seed", type=int, help="Seed of the perturbations.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes at the same time.")
@quiet_option
def reference(world: Path, out: Path, init: tuple[tuple[str, ...], ...], quiet: bool, **options: Any) -> None:
    """Run the perfect-model ensemble of a simulated world."""
    from gen.data.simulate import simulate_reference

    reporter, times = make_reporter(quiet), [text for group in init for text in group]
    with reporter.bar("reference ensemble", unit="starts") as bar:
        path = simulate_reference(world, out, times, report=bar.report, **given(options))
    reporter.say(str(path))


@data.command()
@click.option("--source", required=True, help="wb2, arco-era5, or a local Zarr store with the layout of either.")
@click.option("--out", type=FILE, required=True, help="Zarr store to write; an unfinished one is continued.")
@click.option("--start", metavar="DATE", help="First time (default: the source's first).")
@click.option("--stop", metavar="DATE", help="End of the interval, exclusive (default: all of the source).")
@click.option("--every", metavar="DURATION", help='Time between states: "6h" (default), "1h", "1d".')
@click.option("--channels", type=NAMES, metavar="CODE[,…]", help="Channels (default: the 84 of LaDCast).")
@click.option("--chunk", type=click.IntRange(min=1), help="Times in a chunk of the store (default: 4).")
@click.option("--workers", type=click.IntRange(min=1), help="Chunks read at the same time (default: 2).")
@click.option("--min-sea", type=click.FloatRange(0, 1), help="Share of a cell that must be sea (default: any).")
@quiet_option
def era5(quiet: bool, **options: Any) -> None:
    """Copy ERA5 at 1.5 degrees to a local store to train on.

    Contains modified Copernicus Climate Change Service information.
    """
    from gen.data.era5 import run_era5

    run_era5(reporter=make_reporter(quiet), **given(options))


@data.command()
@click.argument("source")
@click.option("--out", type=FILE, required=True, help="NetCDF file to write.")
@click.option("--start", metavar="DATE", help="First time used.")
@click.option("--stop", metavar="DATE", help="Last time used.")
@click.option("--variables", type=NAMES, metavar="CODE[,…]", help="Channels (default: all).")
@quiet_option
def climatology(quiet: bool, **options: Any) -> None:
    """Make the daily climatology that forecasts are compared with."""
    from gen.data.climatology import run_climatology

    run_climatology(**given(options), reporter=make_reporter(quiet))


@data.command()
@click.argument("world", type=EXISTING)
@click.option("--reference", type=EXISTING, help="Perfect-model ensemble of this world: adds error growth.")
@click.option("--out", type=FILE, help="JSON file of the results.")
@quiet_option
def check(quiet: bool, **options: Any) -> None:
    """Check a simulated world: missing values, budgets, variability, error growth."""
    from gen.data.check import run_check

    run_check(**given(options), reporter=make_reporter(quiet))


@data.command()
@click.argument("world", type=EXISTING)
@click.option("--init", type=NAMES, multiple=True, required=True, metavar="DATE[,…]", help="Times; repeatable.")
@click.option("--out", type=FILE, required=True, help="NetCDF file to write.")
@quiet_option
def extract(world: Path, out: Path, init: tuple[tuple[str, ...], ...], quiet: bool) -> None:
    """Copy single states of a world into a small file to start from."""
    from gen.data.extract import extract_states

    make_reporter(quiet).say(str(extract_states(world, [text for group in init for text in group], out)))
