"""Cost of metrics, as ratios within one run, and coverage of their intervals.

    python -m benchmarks.metrics frechet       compared with clean-fid's, one thread each, and the cost of the interval
    python -m benchmarks.metrics neighbours    k-NN of 50,000 against 50,000, compared with its matrix products alone
    python -m benchmarks.metrics all           all metrics of one extractor together, in CPU seconds and MB
    python -m benchmarks.metrics later         fd_ratio, cmmd, mind, vendi, authenticity and fld, each by itself
    python -m benchmarks.metrics coverage      of differences between arms, simulated by tests/nag/simulated.py
    python -m benchmarks.metrics bootstrap     standard errors by influence and by bootstrap, on the same samples

Bounds: frechet at least 7; neighbours at most 2.5; all at most 400 CPU s, 200 s on 2 idle cores, and 2 GB (340 CPU s
and 1.96 GB); coverage 89 to 97 % at N/d = 5 and 92 to 97 % at 24.
`--n`, `--reference`, `--dim` and `--repetitions` change the sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

LATER: list[tuple[str, dict[str, Any]]] = [
    ("nag.metrics.authenticity:Authenticity", {}),
    ("nag.metrics.fd_ratio:FDRatio", {}),
    ("nag.metrics.cmmd:CMMD", {}),
    ("nag.metrics.mind:MIND", {}),
    ("nag.metrics.vendi:Vendi", {}),
    ("nag.metrics.fld:FLD", {}),
]
METRICS: list[tuple[str, dict[str, Any]]] = [  # those of one output are neighbours in this list
    ("nag.metrics.fid:FID", {}),
    ("nag.metrics.fid:FID", {"against": "held_out"}),
    ("nag.metrics.fid_infinity:FIDInfinity", {}),
    ("nag.metrics.kid:KID", {}),
    ("nag.metrics.precision_recall:PrecisionRecall", {}),
    ("nag.metrics.density_coverage:DensityCoverage", {}),
    ("nag.metrics.memorisation:Memorisation", {}),
    *LATER,
    ("nag.metrics.sfid:SFID", {}),
    ("nag.metrics.inception_score:InceptionScore", {}),
]
BARE = "the bare products of all pairs in float32"
KINDS = {"features": 0, "held_out": 1, "spatial": 2, "logits": 3}


def synthetic(path: Path, n: int, dim: int, seed: int, kind: int) -> None:
    """(n, dim) float32: 256 common factors and noise, cut at 0 like pooled features."""
    mix = np.random.default_rng(kind).standard_normal((256, dim)).astype(np.float32) / 16
    rng = np.random.default_rng([seed, kind])
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (n, dim))
    for start in range(0, n, 1000):
        part = rows[start : start + 1000]
        x = rng.standard_normal((len(part), 256), dtype=np.float32) @ mix + 0.3 * (1 + 0.1 * seed)
        part[:] = np.maximum(x + 0.3 * rng.standard_normal((len(part), dim), dtype=np.float32), 0)


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Median wall-clock seconds: for an idle machine."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def frechet(options: argparse.Namespace) -> None:
    from cleanfid.fid import frechet_distance as theirs

    from nag.metrics.frechet import Reference, frechet_distance
    from nag.metrics.moments import moments

    warnings.simplefilter("ignore", DeprecationWarning)  # clean-fid asks for sqrtm(disp=False)
    d, n = options.dim, 5 * options.dim
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for seed in (0, 1):
            synthetic(Path(folder) / f"{seed}.npy", n, d, seed, 0)
            sides.append(np.load(Path(folder) / f"{seed}.npy"))
    a, b = map(moments, sides)
    arrays = (a.mean, a.cov, b.mean, b.cov)
    ours, cleans = frechet_distance(*arrays), float(_with_sqrtm(theirs)(*arrays))
    print(f"dimension {d}: {ours:.9g}, clean-fid's {cleans:.9g}, relative difference {abs(ours / cleans - 1):.1e}")
    one, other = seconds(lambda: frechet_distance(*arrays)), seconds(lambda: _with_sqrtm(theirs)(*arrays))
    target = Reference(b.mean, b.cov)
    known = seconds(lambda: target.distance(a.mean, a.cov))
    with_interval = seconds(lambda: target.influence(sides[0], a))
    print(f"clean-fid {other:.2f} s, ours {one:.2f} s: {other / one:.1f} times as fast (bound: 7)")
    print(f"the reference's factor known: {known:.2f} s; with the influence of {n:,} samples: {with_interval:.2f} s")


def _with_sqrtm(distance: Callable[..., Any]) -> Callable[..., Any]:
    """clean-fid's function, also on a SciPy without the sqrtm(disp=...) that it needs."""
    import inspect

    import cleanfid.fid

    if "disp" in inspect.signature(cleanfid.fid.linalg.sqrtm).parameters:
        return distance

    class Linalg:
        @staticmethod
        def sqrtm(matrix: np.ndarray, disp: bool = True) -> Any:
            import scipy.linalg

            root = scipy.linalg.sqrtm(matrix)
            return root if disp else (root, 0.0)

    cleanfid.fid.linalg = Linalg
    return distance


def neighbours(options: argparse.Namespace) -> None:
    """Precision and recall of n samples and n reference images, which is all k-NN work."""
    import torch

    from nag.metrics import cache as kept
    from nag.metrics.neighbours import COLUMNS, ROWS, parts
    from nag.metrics.precision_recall import PrecisionRecall

    n, m, d = options.n, options.reference, options.dim
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for seed, size in ((0, n), (1, m)):
            synthetic(Path(folder) / f"{seed}.npy", size, d, seed, 0)
            sides.append(np.load(Path(folder) / f"{seed}.npy"))
    x, r = sides

    def products(dtype: torch.dtype) -> None:
        """The matrix products of the k-NN searches: x with x, r with r, x with r."""
        for a, b in ((x, x), (r, r), (x, r)):
            for rows in parts(0, len(a), ROWS):
                left = torch.from_numpy(a[rows]).to(dtype)
                for columns in parts(0, len(b), COLUMNS):
                    left @ torch.from_numpy(b[columns]).to(dtype).T

    def ours() -> None:
        kept._kept.clear()
        PrecisionRecall()({"features": x}, {"features": r})

    took = seconds(ours, 1)
    print(f"precision and recall, {n:,} x {d} against {m:,}: {took:.1f} s, {_peak_mb():,.0f} MB at most")
    for dtype in (torch.float64, torch.float32):
        bare = seconds(lambda dtype=dtype: products(dtype), 1)
        print(f"bare matrix products in {str(dtype)[6:]}: {bare:.1f} s; ours {took / bare:.2f} times that (bound: 2.5)")


def everything(options: argparse.Namespace) -> None:
    """All in one process, so that they share what they find of all pairs."""
    with tempfile.TemporaryDirectory() as folder:
        _write_outputs(Path(folder), options)
        total = bare = peak = 0.0
        for name, took, peak, _ in _measured(folder, options):
            print(f"{name:45} {took:7.2f} CPU s, {peak:,.0f} MB at most so far", flush=True)
            total, bare = total + bare, took  # the last row is the bare products
    print(f"all: {total:.1f} CPU s (bound: 400), {peak:,.0f} MB (bound: 2,000)")
    print(f"{BARE}: {bare:.1f} CPU s; all metrics take {total / bare:.2f} times that")


def later(options: argparse.Namespace) -> None:
    """Each in a process of its own: what it costs alone."""
    with tempfile.TemporaryDirectory() as folder:
        _write_outputs(Path(folder), options, ("features", "held_out"))
        for place in range(len(LATER)):
            for name, took, peak, own in _measured(folder, options, place):
                print(f"{name:30} {took:7.2f} CPU s, {peak:,.0f} MB, {own:,.0f} of them its own", flush=True)


def _write_outputs(folder: Path, options: argparse.Namespace, outputs: Iterable[str] = tuple(KINDS)) -> None:
    sizes = {"features": options.dim, "held_out": options.dim, "spatial": min(2023, options.dim), "logits": 1000}
    for output in outputs:
        kind = KINDS[output]
        for seed, (side, n) in enumerate((("samples", options.n), ("reference", options.reference))):
            if (side, output) != ("samples", "held_out"):
                held_out = output == "held_out"  # features of other images than the reference's
                path = folder / f"{side}_{output}.npy"
                synthetic(path, n, sizes[output], 2 if held_out else seed, 0 if held_out else kind)


def _measured(
    folder: str, options: argparse.Namespace, place: int | None = None
) -> Iterator[tuple[str, float, float, float]]:
    """Rows of a process of `each`, as it prints them: what was computed, CPU seconds, peak memory in MB, and how much
    of that is beyond the libraries and all outputs that were read.
    """
    command = [sys.executable, "-m", "benchmarks.metrics", "each", "--folder", folder]
    command += ["--threads", str(options.threads), *(["--place", str(place)] if place is not None else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield tuple(json.loads(line))
    if process.returncode:
        sys.exit(f"{' '.join(command[1:])} ended with {process.returncode}")


def each(options: argparse.Namespace) -> None:
    """Run in a process of its own, to measure the memory of metrics alone; outputs are read when first needed."""
    import scipy.stats  # noqa: F401  (not a metric's time and memory)
    import torch  # noqa: F401

    from nag.registry import METHODS, name_of

    METHODS["metrics"] |= {path.rpartition(".")[2].partition(":")[0]: path for path, _ in METRICS}
    held: dict[str, dict[str, np.ndarray]] = {"samples": {}, "reference": {}}
    for path, fields in METRICS if options.place is None else [LATER[options.place]]:
        module, _, name = path.partition(":")
        metric = getattr(__import__(module, fromlist=[name]), name)(**fields)
        _read_outputs(held, metric, Path(options.folder))
        before, began = _peak_mb(), time.process_time()
        scores = metric(held["samples"], held["reference"])
        took = time.process_time() - began
        known = {key: score["value"] for key, score in scores["values"].items()}  # None: too few samples for it
        values = ", ".join(f"{key} {'none' if value is None else f'{value:.4g}'}" for key, value in known.items())
        peak = _peak_mb()
        print(json.dumps((f"{name_of(metric)}: {values}", took, peak, peak - before)), flush=True)
    if options.place is None:
        sides = {side: np.load(Path(options.folder) / f"{side}_features.npy") for side in held}
        print(json.dumps((BARE, _bare_products(sides["samples"], sides["reference"]), peak, 0)), flush=True)


def _read_outputs(held: dict[str, dict[str, np.ndarray]], metric: Any, folder: Path) -> None:
    wanted = {*metric.needs, *(("held_out",) if "features" in metric.needs else ())}
    for side, arrays in held.items():
        for output in arrays.keys() - wanted:
            del arrays[output]
        for output in wanted - arrays.keys():
            if (file := folder / f"{side}_{output}.npy").exists():
                arrays[output] = np.load(file)


def _bare_products(x: np.ndarray, r: np.ndarray) -> float:
    """CPU seconds of the float32 products of all pairs of samples and of the reference, each pair once."""
    import torch

    from nag.metrics.neighbours import COLUMNS, ROWS, parts

    began = time.process_time()
    for a, b in ((x, x), (r, r), (x, r)):
        for rows in parts(0, len(a), ROWS):
            left = torch.from_numpy(a[rows])
            for columns in parts(rows.start if b is a else 0, len(b), COLUMNS):
                left @ torch.from_numpy(b[columns]).T
    return time.process_time() - began


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def coverage(options: argparse.Namespace) -> None:
    from tests.nag.simulated import coverage as simulated

    print(f"{options.repetitions:,} repetitions; the arms are at one true distance, the guided one's covariance shrunk")
    print("share of intervals of 95 % that hold the difference, 0; width over the true spread")
    for ratio, asked in ((5, "89 to 97"), (24, "92 to 97")):
        for d in options.dims:
            for rho in (1.0, 0.9):
                found = simulated(d, ratio * d, rho, options.repetitions)
                shown = f"extrapolated {100 * found.extrapolated:5.1f} % (bound: {asked}), width {found.width:.2f}"
                print(
                    f"  N/d = {ratio:2}, d = {d:3}, noise rho {rho:.1f}: plain {100 * found.plain:5.1f} %, {shown}",
                    flush=True,
                )


def bootstrap(options: argparse.Namespace) -> None:
    from tests.nag.simulated import bootstrap as simulated

    for ratio in (5, 24, 100):
        for d in options.dims:
            found = [simulated(d, ratio * d, max(100, options.repetitions // 5), seed) for seed in range(3)]
            ratios = ", ".join(f"{by_influence / by_bootstrap:.2f}" for by_influence, by_bootstrap in found)
            print(f"  N/d = {ratio:3}, d = {d:3}: influence over bootstrap {ratios}", flush=True)


COMMANDS = {
    "frechet": frechet,
    "neighbours": neighbours,
    "all": everything,
    "later": later,
    "each": each,
    "coverage": coverage,
    "bootstrap": bootstrap,
}
THREADS = {"neighbours": 2, "all": 2, "later": 2}
REFERENCE = {"neighbours": 50_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--reference", type=int)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128], help="of coverage and bootstrap")
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.reference = options.reference or REFERENCE.get(options.command, 10_000)
    options.threads = options.threads or THREADS.get(options.command, 1)
    if os.environ.get("OMP_NUM_THREADS") != str(options.threads):  # read by the libraries when they are loaded
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.metrics", *sys.argv[1:]])
    COMMANDS[options.command](options)


if __name__ == "__main__":
    main()
