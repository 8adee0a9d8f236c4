"""Run the parts in order, most valuable first, each within its share of the minutes; one that fails ends alone.

    python -m benchmarks.gpu --minutes 9 --out FOLDER --vectors ../shared/vectors --images ../shared/data/cifar10-small
    python -m benchmarks.gpu --device cpu --tiny --minutes 1      the same code with tiny networks

It needs a checkout, torch 2.8 or newer and, of pure Python or with wheels everywhere, numpy, scipy, pydantic and
safetensors; with diffusers it also decodes, with pillow it also reads images and writes PNG, with scikit-learn it also
measures what precision does to FID. It needs neither MLflow, Ray, submitit nor typer.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

from benchmarks.gpu.bench import Bench, OverTime, at_most
from benchmarks.gpu.device import NoDevice, opened, out_of_memory, stamp
from benchmarks.gpu.tables import markdown

# name, module, share of the minutes; in this order, and what a part leaves is the next ones'
PARTS = (
    ("truth", 0.10),
    ("sampling", 0.24),
    ("steps", 0.06),
    ("decoding", 0.08),
    ("training", 0.12),
    ("answer", 0.32),
    ("precision", 0.08),
)
GRACE = 1.25  # a part that does not end by itself is ended after so many times its share


def main() -> int:
    given = _arguments()
    try:
        device = opened(given.device)
    except NoDevice as error:
        print(error, file=sys.stderr)
        return 3
    wanted = [(name, share) for name, share in PARTS if name in given.parts]
    ends = time.monotonic() + 60 * given.minutes
    document = {**stamp(device, given.tiny), "minutes": given.minutes, "parts": []}
    for number, (name, share) in enumerate(wanted):
        left = sum(other for _, other in wanted[number:])
        seconds = (ends - time.monotonic()) * share / left
        document["parts"].append(_part(name, Bench(device, given.tiny, given.vectors, given.images, seconds)))
        _write(given.out, document)  # after each part, so that whatever ends this process leaves what was measured
    print(markdown(document))
    print(json.dumps(document, indent=1))
    return int(any(part["failed"] for part in document["parts"]))


def _part(name: str, bench: Bench) -> dict[str, object]:
    """A part as JSON: its rows, notes, seconds, and why it failed."""
    from importlib import import_module

    part, failed, began = import_module(f"benchmarks.gpu.{name}"), "", time.monotonic()
    print(f"{name}: at most {bench.seconds:.0f} s", file=sys.stderr, flush=True)
    try:
        with at_most(GRACE * bench.seconds + 5):
            part.run(bench)
    except OverTime:
        bench.note(f"ended after {time.monotonic() - began:.0f} s; what is missing did not fit")
    except Exception as error:  # noqa: BLE001  (the other parts are worth having)
        failed = "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {error}"
        traceback.print_exc()
    title = (part.__doc__ or name).partition("\n")[0]
    took = round(time.monotonic() - began, 1)
    return {"name": name, "title": title, "seconds": took, "rows": bench.rows, "notes": bench.notes, "failed": failed}


def _write(out: Path | None, document: dict[str, object]) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
        (out / "gpu.md").write_text(markdown(document) + "\n")


def _arguments() -> argparse.Namespace:
    names = [name for name, _ in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together (9)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu (cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: to see that everything runs")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--out", type=Path, help="a folder for gpu.md and gpu.json")
    parser.add_argument("--vectors", type=Path, help="a folder with sit.npz and dit.npz of the official code")
    parser.add_argument("--images", type=Path, help="a folder with train/ and test/ of class folders")
    given = parser.parse_args()
    if not given.minutes > 0:
        parser.error(f"--minutes must be above 0, not {given.minutes:g}")
    for option in ("vectors", "images"):
        place = getattr(given, option)
        if place is not None and not place.is_dir():
            parser.error(f"--{option}: there is no folder {place}")
    return given


if __name__ == "__main__":
    sys.exit(main())
