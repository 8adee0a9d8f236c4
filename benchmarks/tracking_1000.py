"""1,000 cells to MLflow: the first sync, an unchanged one, one more cell. Bounds: 200 s, 1 s. Then MLflow's own server
on 127.0.0.1: what its page asks for 1,000 runs (bound: 3 s), and with a Chromium the first chart of the link.

python benchmarks/tracking_1000.py [TRACKING_URI] [--cells 1000]      (default: a new SQLite database)

Two idle cores: first sync 31 s, unchanged 0.3 s, one more cell 1.6 s; 1,000 cells in one answer 2.7 s and 2.3 s, 100
settings 0.3 s; first chart 4.8 s, then 2.2 s.

The results are synthetic; the plan, the records of ten trainings and the database are real.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
import urllib.request
from pathlib import Path

from orchestrator.plan.make import plan
from orchestrator.report.results import CellResult, Results
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tracking.address import written_state
from orchestrator.tracking.sync import sync
from orchestrator.tracking.ui import Served, ui

SWEEP = """\
name: thousand
networks:
  sit:
    data: digits
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
    train: {steps: 500, batch: 128, lr: 2e-3, noise_dropout: 0.1, seed: {grid: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}}
sampler: {name: euler, steps: 10}
sample: {count: 1000, block: 100}
score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}
arms:
  nag: {nag: {scale: {grid: [SCALES]}}}
"""


def synthetic(folder: Path, count: int) -> tuple[Results, Store]:
    file = folder / "thousand.yaml"
    file.write_text(SWEEP.replace("SCALES", ", ".join(f"{(i + 1) / 50:g}" for i in range(count // 10))))
    planned, store = plan(read_sweep(file)), Store(str(folder / "store"))
    for task in planned.tasks.values():
        if task.trains == "network":
            loss = [[step, 1 / math.sqrt(step)] for step in range(2, 501, 2)]
            store.create_record(task.record_name, {"loss": loss, "steps": 500, "started": 1.7e9, "seconds": 60.0})
    cells = [
        CellResult(
            cell.cell.arm,
            cell.digest,
            cell.cell.params,
            {
                name + scored.suffix: {
                    "score": {
                        **{"value": n + 0.5, "low": n + 0.4, "high": n + 0.6, "extrapolated": n + 0.3, "reason": None}
                    },
                    "task": scored.task,
                    "name": name,
                    "stamp": {"count": 1000, "extractor": {"name": scored.extractor}},
                }
                for scored in cell.scores
                for name in scored.metric.names
            },
            finished=1.7e9 + n,
            network_calls=20,
            seconds=3.0,
        )
        for n, cell in enumerate(planned.cells)
    ]
    return Results(planned, cells, {}), store


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("uri", nargs="?")
    arguments.add_argument("--cells", type=int, default=1000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results, store = synthetic(Path(folder), options.cells)
        uri = options.uri or f"sqlite:///{folder}/mlflow.db"
        last = results.cells.pop()
        for what in ("first", "unchanged", "one more cell"):
            if what == "one more cell":
                results.cells.append(last)
            began = time.perf_counter()
            written = sync(results, uri, store)
            print(f"{what:14} {written:5} runs {time.perf_counter() - began:7.2f} s", flush=True)
        if not uri.startswith("http"):
            with ui("thousand", uri) as served:
                answers(served, uri)
                first_chart(served.link)


def answers(served: Served, uri: str) -> None:
    """Searches of 100 and of 1,000 runs over HTTP, a second time too; and an unchanged sync through the server."""
    server = f"http://127.0.0.1:{served.port}"
    number = served.link.partition("/experiments/")[2].partition("/")[0]
    for kind, most in (("setting", 100), ("cell", 100), ("cell", 1000)):  # the page asks for 100 at a time, sorted
        body = {"experiment_ids": [number], "filter": f"tags.kind = '{kind}'", "max_results": most}
        body |= {"order_by": ["metrics.`fid` ASC"]}
        for when in ("first", "again"):
            data, began = json.dumps(body).encode(), time.perf_counter()
            request = urllib.request.Request(
                f"{server}/api/2.0/mlflow/runs/search", data, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                found = json.load(answer).get("runs", [])
            print(f"search {when:7} {len(found):5} {kind}s {time.perf_counter() - began:5.2f} s", flush=True)
    began = time.perf_counter()
    written_state(server, "thousand")
    print(f"unchanged, over HTTP      {time.perf_counter() - began:7.2f} s", flush=True)


def first_chart(link: str) -> None:
    """Seconds from opening the link to the first chart that is drawn, in a headless Chromium."""
    browser = shutil.which("chromium")
    if browser is None:
        print("no chromium: the page is not opened")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": 1900, "height": 1100}
        )
        for when in ("first", "again"):
            page.goto("about:blank")
            began = time.perf_counter()
            page.goto(link)
            page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=180_000)
            print(f"page {when:9} first chart {time.perf_counter() - began:7.2f} s", flush=True)


if __name__ == "__main__":
    main()
