"""Integrate the jcm general circulation model and write WeatherBench-named fields.

This file is a script. It runs inside an environment of its own (jcm, jax and zarr; none of this suite), started by
`gen.data.simulate` with the path of one JSON job. Three kinds of job exist:

* ``segment``: spin the model up, then integrate `days` days and write them to `[first, first + 4 * days)` of the
  world's time axis. Every ten-day chunk leaves a restart behind, so that a killed job goes on where it stopped.
* ``grid``: write the model's coordinates and static fields.
* ``ensemble``: start from stored restarts with perturbed spectral coefficients (the perfect-model ensemble).

Model: jcm 3.0 (Apache-2.0), SPEEDY physics (Molteni 2003) on a T31 spectral dynamical core with eight sigma levels.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jax_datetime as jdt  # noqa: E402
import numpy as np  # noqa: E402
import zarr  # noqa: E402

GRAVITY, GAS_CONSTANT, LAPSE_RATE, REFERENCE_PRESSURE = 9.81, 287.04, 0.0065, 1.0e5
STEPS_PER_DAY, CHUNK_DAYS = 4, 10  # as in gen.data.simulate
BUDGET_PREFIX = "global_mean_"


def build_model(start: str, time_step_minutes: float = 30.0) -> tuple[Any, Any]:
    """Build the T31L8 model with the boundary files of the jcm wheel, its clock at `start` (ISO date)."""
    import jcm
    from jcm.forcing import ForcingData
    from jcm.model import Model
    from jcm.physics.speedy.speedy_coords import get_speedy_coords
    from jcm.terrain import TerrainData

    base = Path(jcm.__file__).parent / "data" / "bc" / "t30" / "clim"
    coords = get_speedy_coords(spectral_truncation=31)
    terrain = TerrainData.from_file(str(base / "terrain.nc"), coords=coords)
    forcing = ForcingData.from_file(str(base / "forcing.nc"), coords=coords)
    return Model(coords=coords, terrain=terrain, start_time=start, time_step=time_step_minutes), forcing


def interpolate_to_pressure(field: Any, log_p: Any, target: float, kind: str, t: Any, phi: Any) -> Any:
    """Interpolate `field` [level, lon, lat] linearly in ln p; below the lowest level extrapolate hydrostatically."""
    below = jnp.clip((log_p < target).sum(0), 1, log_p.shape[0] - 1)[None]
    take = lambda a, i: jnp.take_along_axis(a, i, 0)[0]  # noqa: E731
    x0, x1, f0, f1 = take(log_p, below - 1), take(log_p, below), take(field, below - 1), take(field, below)
    inside = f0 + (f1 - f0) * (target - x0) / (x1 - x0)
    depth = target - log_p[-1]
    t_base = t[-1] * jnp.exp(jnp.clip(depth, 0.0, 1.0) * GAS_CONSTANT * LAPSE_RATE / GRAVITY)
    under = {
        "temperature": t_base,
        "geopotential": phi[-1] - GAS_CONSTANT * 0.5 * (t[-1] + t_base) * depth,
    }.get(kind, field[-1])
    return jnp.where(depth > 0, under, inside)


def observe(model: Any, state: Any, carry: Any, levels: tuple[int, ...]) -> dict[str, Any]:
    """Turn a model state into WeatherBench-named fields [level, lat, lon] or [lat, lon], SI units, south to north."""
    grid = model.dycore.to_physics_state(state)
    sigma = jnp.asarray(model.coords.vertical.centers)
    ps = grid.normalized_surface_pressure * REFERENCE_PRESSURE
    log_p = jnp.log(sigma)[:, None, None] + jnp.log(ps)[None]
    t, phi, q = grid.temperature, grid.geopotential, jnp.maximum(grid.specific_humidity, 0.0)
    columns = {"geopotential": phi, "temperature": t, "u_component_of_wind": grid.u_wind}
    columns |= {"v_component_of_wind": grid.v_wind, "specific_humidity": q}
    out = {
        name: jnp.stack([interpolate_to_pressure(f, log_p, float(np.log(p * 100.0)), name, t, phi) for p in levels])
        for name, f in columns.items()
    }
    surface = carry["_surface_flux"]
    height = (phi[-1] + GAS_CONSTANT * t[-1] * jnp.log(sigma[-1])) / GRAVITY
    t_sea = jnp.clip(t[-1] * sigma[-1] ** (-GAS_CONSTANT * LAPSE_RATE / GRAVITY), 255.0, 290.5)
    exponent = GRAVITY / (GAS_CONSTANT * LAPSE_RATE)
    out |= {
        "10m_u_component_of_wind": surface.u0,
        "10m_v_component_of_wind": surface.v0,
        "2m_temperature": surface.t0,
        "surface_pressure": ps,
        "mean_sea_level_pressure": ps * (1.0 + LAPSE_RATE * height / t_sea) ** exponent,
    }
    thickness = jnp.diff(jnp.asarray(model.coords.vertical.boundaries))[:, None, None]
    weight = area_weights(model)
    water = (q * thickness).sum(0) * ps / GRAVITY
    out = {name: jnp.swapaxes(field, -1, -2) for name, field in out.items()}
    out["global_mean_column_water"] = (water * weight).sum()
    out["global_mean_dry_surface_pressure"] = ((ps - GRAVITY * water) * weight).sum()
    return out


def area_weights(model: Any) -> Any:
    """Return Gaussian quadrature weights [lon, lat] that sum to one."""
    _, weights = np.polynomial.legendre.leggauss(model.coords.horizontal.nodal_shape[1])
    lon = model.coords.horizontal.nodal_shape[0]
    return jnp.asarray(np.broadcast_to(weights / (weights.sum() * lon), (lon, weights.size)))


def make_advance(model: Any, forcing: Any, levels: tuple[int, ...]) -> Any:
    """Return a compiled function that advances by `n` six-hour steps and emits the fields after each."""
    step = model._get_op_split_step_fn(forcing)  # jcm is pinned: the public entry cannot sum rain and sample state
    dt = int(model.dt_si.m)
    inner = 86400 // STEPS_PER_DAY // dt
    from jcm.date import DateData

    def substep(value: Any, _: None) -> tuple[Any, None]:
        state, carry, clock, count, rain, evaporation = value
        state, carry = step(state, carry, DateData(clock, count, dt))
        rain = rain + dt * 1e-6 * (carry["_condensation"].precls + carry["_convection"].precnv)
        evaporation = evaporation + dt * 1e-6 * carry["_surface_flux"].evap
        clock = clock + jdt.Timedelta(seconds=jnp.int32(dt))
        return (state, carry, clock, count + jnp.int32(1), rain, evaporation), None

    def frame(value: Any, _: None) -> tuple[Any, dict[str, Any]]:
        zero = jnp.zeros(model.coords.horizontal.nodal_shape)
        value, _ = jax.lax.scan(substep, (*value, zero, zero), None, length=inner)
        *value, rain, evaporation = value
        fields = observe(model, value[0], value[1], levels)
        fields["total_precipitation_6hr"] = jnp.maximum(rain, 0.0).T
        fields["global_mean_evaporation_6hr"] = (evaporation * area_weights(model)).sum()
        return tuple(value), fields

    return jax.jit(lambda value, n: jax.lax.scan(frame, value, None, length=n), static_argnums=1)


def perturb(state: Any, epsilon: float, key: Any) -> Any:
    """Multiply every non-zonal spectral coefficient by 1 + epsilon N(0, 1); zonal means stay as they are."""
    leaves, tree = jax.tree_util.tree_flatten(state)
    keys = jax.random.split(key, len(leaves))
    out = []
    for leaf, k in zip(leaves, keys, strict=True):
        if leaf.ndim == 3:  # [level, m, l] with m = 0, 1, -1, 2, -2, ...: row 0 holds the zonal mean
            noise = epsilon * jax.random.normal(k, leaf.shape)
            leaf = leaf * (1.0 + noise.at[:, 0].set(0.0))
        out.append(leaf)
    return jax.tree_util.tree_unflatten(tree, out)


def save_leaves(path: Path, tree: Any) -> None:
    """Write the leaves of a pytree to an npz file, atomically."""
    leaves = jax.tree_util.tree_leaves(tree)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, *[np.asarray(leaf) for leaf in leaves], allow_pickle=False)
    partial.replace(path)


def load_leaves(path: Path, template: Any) -> Any:
    """Read a pytree written by `save_leaves`."""
    with np.load(path, allow_pickle=False) as data:
        leaves = [jnp.asarray(data[f"arr_{i}"]) for i in range(len(data.files))]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)


KEEP_BITS = {
    "geopotential": 16,
    "mean_sea_level_pressure": 16,
    "surface_pressure": 16,
    "temperature": 13,
    "2m_temperature": 13,
}


def bit_round(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float32 mantissas to `bits` bits (half to even), so that the store compresses."""
    as_int = np.ascontiguousarray(values, dtype=np.float32).view(np.int32)
    drop = 23 - bits
    rounded = as_int + ((1 << (drop - 1)) - 1) + ((as_int >> drop) & 1)
    return np.asarray(((rounded >> drop) << drop).view(np.float32))


def write(store: Any, where: Any, fields: dict[str, Any]) -> None:
    """Write emitted fields to `store[name][where]`; refuse NaN."""
    for name, values in fields.items():
        host = np.asarray(values, dtype=np.float32)
        if not np.isfinite(host).all():
            raise FloatingPointError(f"{name} is not finite at {where}: the integration blew up")
        store[name][where] = host if name.startswith(BUDGET_PREFIX) else bit_round(host, KEEP_BITS.get(name, 11))


def start_value(model: Any, seed: int) -> tuple[Any, ...]:
    """Return (state, carry, clock, step count) at rest, perturbed by `seed`."""
    state = model.initial_state(random_seed=seed)
    state = model._at_fresh_clock(state)
    return state, model.initial_physics_carry(), model.start_time, jnp.int32(0)


def run_segment(job: dict[str, Any]) -> None:
    """Spin up and integrate one segment of the world; goes on from the last finished chunk."""
    spinup, levels = int(job["spinup_days"]), tuple(job["levels"])
    start = np.datetime64(job["start"], "D") - np.timedelta64(spinup, "D")
    model, forcing = build_model(str(start))
    advance = make_advance(model, forcing, levels)
    store, restarts = zarr.open_group(job["world"], mode="r+"), Path(job["restarts"])
    restarts.mkdir(parents=True, exist_ok=True)
    value = start_value(model, int(job["seed"]))
    rolling, done = restarts / f"segment{job['segment']:03d}.npz", 0
    progress = restarts / f"segment{job['segment']:03d}.json"
    if progress.exists() and rolling.exists():
        done, value = json.loads(progress.read_text())["chunks"], load_leaves(rolling, value)
    else:
        for _ in range(spinup // CHUNK_DAYS):
            value, _fields = advance(value, STEPS_PER_DAY * CHUNK_DAYS)
    per_chunk, began = STEPS_PER_DAY * CHUNK_DAYS, time.time()
    for chunk in range(done, int(job["days"]) // CHUNK_DAYS):
        first = int(job["first"]) + chunk * per_chunk
        value, fields = advance(value, per_chunk)
        write(store, slice(first, first + per_chunk), fields)
        save_leaves(rolling, value)
        if job["keep_restarts"]:  # the state of the last frame of this chunk
            shutil.copyfile(rolling, restarts / f"state{first + per_chunk - 1:07d}.npz")
        partial = progress.with_suffix(".partial")
        partial.write_text(json.dumps({"chunks": chunk + 1, "seconds": round(time.time() - began, 1)}))
        partial.replace(progress)


def run_ensemble(job: dict[str, Any]) -> None:
    """Integrate perturbed members from stored restarts: axes (number, time, prediction_timedelta, ...)."""
    levels, epsilon = tuple(job["levels"]), float(job["epsilon"])
    store, frames = zarr.open_group(job["out"], mode="r+"), int(job["frames"])
    model, forcing = build_model(job["starts"][0]["time"])
    advance = make_advance(model, forcing, levels)
    template = start_value(model, 0)
    for start in job["starts"]:
        done = Path(job["progress"]) / f"start{start['index']:04d}.done"
        if done.exists():
            continue
        origin, carry, clock, count = load_leaves(Path(start["restart"]), template)
        for member in range(int(job["members"])):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.PRNGKey(int(job["seed"])), start["index"]), member)
            _, fields = advance((perturb(origin, epsilon, key), carry, clock, count), frames)
            kept = {name: fields[name] for name in fields if not name.startswith(BUDGET_PREFIX)}
            write(store, (member, start["index"]), kept)
        done.touch()


def run_grid(job: dict[str, Any]) -> None:
    """Write latitude, longitude (degrees) and the static fields [lat, lon] to an npz file."""
    model, _ = build_model("2000-01-01")
    lon, sin_lat = model.coords.horizontal.nodal_axes
    np.savez(
        job["out"],
        latitude=np.rad2deg(np.arcsin(sin_lat)),
        longitude=np.rad2deg(lon),
        land_sea_mask=np.asarray(model.terrain.fmask, dtype=np.float32).T,
        geopotential_at_surface=np.asarray(model.terrain.orog, dtype=np.float32).T * GRAVITY,
        allow_pickle=False,
    )


def main() -> None:
    """Run the job whose JSON file is the only argument."""
    job = json.loads(Path(sys.argv[1]).read_text())
    {"segment": run_segment, "ensemble": run_ensemble, "grid": run_grid}[job["kind"]](job)


if __name__ == "__main__":
    main()
