"""Judge a rain codec: what is left of true rain when it is encoded and decoded.

Use: `python -m downscaling.codec_gate CODEC --events A,B [--crops 32] [--crop-size 120] [--out gate.json]`

A codec bounds the skill of all that is drawn in its latents. It passes when on every event that it was not trained on
q99.9 of the rates keeps within 2 %, radial spectra within 1 dB down to two pixels, and the wet frequency within one
point. The finding is written into the codec's folder, under its digest; training in latent space asks for it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LIMITS", "admitted", "fidelity", "judge", "main", "record"]

import torch
from torch import Tensor

from downscaling.rain_codec import GATE, RainCodec
from downscaling.transform import RainTransform
from gen.hub import HubError, resolve, seal
from gen.metrics.precipitation import log_spectral_distance, quantile_error, wet_frequency

LIMITS = {"q99.9_error_percent": 2.0, "spectral_distance_db": 1.0, "wet_frequency_error_points": 1.0}
CROPS, CROP_SIZE = 32, 120
BATCH = 8
SAME = 1.0  # factor of the pairs: the fine rain alone is judged


@torch.no_grad()
def fidelity(codec: RainCodec, rain: Tensor) -> dict[str, float]:
    """Compare crops with themselves after the codec, by the names of `LIMITS`.

    Quantile and wet frequency are those of all pixels, the spectral distance (with a Hann window) is a mean over crops.

    Args:
        codec: on the device of the rain.
        rain: mm/h [N, H, W], NaN where missing; such pixels count as dry in spectra.
    """
    again = torch.cat([codec.again(part) for part in rain.split(BATCH)]).double().cpu()
    truth = rain.double().cpu()
    found, true = (torch.nan_to_num(x) for x in (again, truth))
    distance = log_spectral_distance(found, true, (1.0, 1.0), hann=True)
    share = [wet_frequency(x.flatten(0, 1), torch.ones(())) for x in (again, truth)]
    return {
        "q99.9_error_percent": 100 * float(quantile_error(again, truth, [0.999])[0]),
        "spectral_distance_db": float(distance[torch.isfinite(distance)].mean()),
        "wet_frequency_error_points": 100 * float(share[0] - share[1]),
    }


def judge(codec: RainCodec, events: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the finding: figures for each event, and whether all keep within `LIMITS`.

    Args:
        codec: the codec.
        events: crops [N, H, W] in mm/h by the name of their event.
    """
    found = {name: fidelity(codec, rain) for name, rain in events.items()}
    passed = all(abs(figures[k]) <= limit for figures in found.values() for k, limit in LIMITS.items())
    return {"passed": passed, "limits": LIMITS, "events": found}


def record(folder: Path, finding: Mapping[str, Any]) -> str:
    """Write a finding into a codec's folder and return the digest of the folder."""
    text = json.dumps(dict(finding), indent=2) + "\n"
    (folder / f"{GATE}.json").write_text(text, encoding="utf-8")
    return seal(folder)


def admitted(folder: str | Path, transform: Mapping[str, Any]) -> RainCodec:
    """Load a codec that has passed the gate.

    Args:
        folder: of the codec.
        transform: arguments of `RainTransform` that rain is encoded with.

    Raises:
        ValueError: it has not been judged, it has failed, or it knows another transform.
    """
    codec = RainCodec.load(resolve(folder))
    if codec.gate is None:
        raise ValueError(
            f"codec {folder} has not been judged: run `python -m downscaling.codec_gate`, or use space: pixel"
        )
    if not codec.gate["passed"]:
        raise ValueError(f"codec {folder} has not passed the gate (see its {GATE}.json): use space: pixel")
    if RainTransform(**transform) != codec.transform:
        raise ValueError(f"codec {folder} was trained with transform {codec.meta.transform}; got {dict(transform)}")
    return codec


def crops_of(codec: RainCodec, events: Sequence[str], crops: int, size: int) -> dict[str, Tensor]:
    """Return rainy crops of events by name.

    Raises:
        ValueError: an event that the codec was trained on, or crops that are no whole number of latent cells.
    """
    from downscaling.drawing import choose_cases

    if size % codec.factor:
        raise ValueError(f"crop_size must be a multiple of {codec.factor}, the side of a latent cell; got {size}")
    chosen = choose_cases(events, [SAME], crops, size)
    if seen := sorted({s.name for s in chosen.sources} & set(codec.meta.events)):
        raise ValueError(f"the codec was trained on {', '.join(seen)}: judge it by other events")
    found: dict[str, list[Tensor]] = {}
    for case in chosen.cases:
        found.setdefault(case.event, []).append(torch.from_numpy(chosen.pair(case).fine).float())
    return {name: torch.stack(rain) for name, rain in found.items()}


def table(finding: Mapping[str, Any]) -> str:
    """Return the finding as lines of text."""
    lines = [f"{'event':<40} {'q99.9':>9} {'spectrum':>10} {'wet':>11}"]
    for name, figures in finding["events"].items():
        q, d, w = (figures[k] for k in LIMITS)
        lines.append(f"{name:<40} {q:>+8.2f}% {d:>7.2f} dB {w:>+8.2f} pt")
    return "\n".join([*lines, "passed" if finding["passed"] else "failed: use space: pixel"])


def main(argv: Sequence[str] | None = None) -> int:
    """Judge a codec from the command line: 0 it passed, 1 it failed, 2 it could not be judged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("codec", help="model folder")
    parser.add_argument("--events", required=True, help="files or folders of rain, separated by commas")
    parser.add_argument("--crops", type=int, default=CROPS, help="crops of each event")
    parser.add_argument("--crop-size", type=int, default=CROP_SIZE, help="their side in pixels")
    parser.add_argument("--out", type=Path, help="a further copy of the finding")
    chosen = parser.parse_args(argv)
    try:
        folder = resolve(chosen.codec)
        codec = RainCodec.load(folder)
        finding = judge(codec, crops_of(codec, chosen.events.split(","), chosen.crops, chosen.crop_size))
    except (HubError, ValueError, OSError) as error:
        sys.stderr.write(f"Error: {' '.join(str(error).split())}\n")
        return 2
    record(folder, finding)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(finding, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(finding) + "\n")
    return 0 if finding["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
