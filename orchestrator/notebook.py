"""A sweep in a notebook: `open_sweep("digits")` gives cells as a table, samples and features as arrays.

Nothing is written or computed; what is not there yet is reported as missing. Errors are those of orchestrator.errors,
and IndexError for samples that are not kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.metrics.metric import influence_name
from orchestrator.errors import BadInput, CorruptFile, MissingFile, unknown
from orchestrator.plan.make import plan
from orchestrator.plan.model import StoredCell, StoredPlan, cell_words, find_cell
from orchestrator.plan.stored_plan import plan_of_sweep
from orchestrator.report.cells_csv import SCORE
from orchestrator.report.comparisons import compare
from orchestrator.report.results import Results, collect, influence
from orchestrator.report.verdicts import verdicts
from orchestrator.spec.networks import NAME
from orchestrator.spec.overrides import check_named
from orchestrator.spec.reader import read_sweep
from orchestrator.store.arrays import unpack
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

DEFAULT_STORE = "results/store"
LISTED = 8  # candidates that a message names


def open_sweep(sweep: str | Path, store: str | Path | None = None, overrides: Sequence[str] = ()) -> OpenSweep:
    """A sweep of a store, by its name or its file. The store: `store`, else $NAGBENCH_STORE, else results/store below
    the current folder. overrides: values in place of the file's, as `--set` takes them: ["sample.count=500"].

    Raises BadInput for an invalid sweep or override, for a name that the store does not know, and if there is no such
    store.
    """
    if isinstance(overrides, str):
        raise BadInput(f"overrides is a list: open_sweep(..., overrides=[{overrides!r}]).")
    url = str(store or os.environ.get("NAGBENCH_STORE") or DEFAULT_STORE)
    opened = Store(url)
    if not opened.exists(""):
        raise BadInput(f"there is no store at {url} (looked from {Path.cwd()}). Give it: open_sweep(..., store=...).")
    opened.check_format()
    if not is_sweep_name(sweep):
        return OpenSweep(plan(read_sweep(sweep, overrides=overrides)), opened)
    check_named(str(sweep), overrides)
    return OpenSweep(plan_of_sweep(opened, str(sweep)), opened)


def is_sweep_name(sweep: str | Path) -> bool:
    """Whether this is the name of a sweep in a store, and not of a file."""
    return isinstance(sweep, str) and NAME.fullmatch(sweep) is not None and not os.path.isfile(sweep)


class OpenSweep:
    """A sweep of a store. A cell is named by its digest, by the start of it, or by a row of `cells()`."""

    def __init__(self, plan: StoredPlan, store: Store) -> None:
        self.plan, self.store = plan, store

    def __repr__(self) -> str:
        arms = ", ".join(arm.name for arm in self.plan.sweep.arms)
        return f"<sweep {self.plan.sweep.name}: {len(self.plan.cells)} cells of {arms}; store {self.store.url}>"

    def results(self) -> Results:
        """Everything that is recorded so far, as reports use it."""
        return collect(self.plan, self.store)

    def cells(self) -> pd.DataFrame:
        """The report's cells.csv as a table, a row for each cell: arm, digest, parameters, each metric with _low, _high
        (95 %) and _extrapolated (for differences alone), network_calls, worker_seconds, complete, reason. What is not
        scored yet is NaN.
        """
        import pandas as pd

        results = self.results()
        scores = {f"{m}{'' if part == 'value' else '_' + part}": (m, part) for m in results.metrics for part in SCORE}
        keys = dict.fromkeys(key for cell in results.cells for key in cell.params)
        rows = [
            {"arm": cell.arm, "digest": cell.digest}
            | {key: cell.params.get(key) for key in keys}
            | {column: cell.value(*place) for column, place in scores.items()}
            | {"network_calls": cell.network_calls, "worker_seconds": cell.seconds}
            | {"complete": cell.complete, "reason": cell.reason}
            for cell in results.cells
        ]
        return pd.DataFrame(rows).astype(dict.fromkeys([*scores, "worker_seconds"], "float64"))

    def comparisons(self) -> pd.DataFrame:
        """The report's comparisons: a row for each setting of an arm with a baseline, and each metric. arm, against,
        metric, the setting's parameters, difference (corrected for the bias in N) with low and high (95 %), interval
        (t or influence), reason, and for the metric that decides the verdict with its adjusted_low and adjusted_high.
        """
        import pandas as pd

        results = self.results()
        compared = compare(results, self.store)
        found = {
            (each.group.arm, tuple(each.group.params.items()), each.metric): each
            for each in verdicts(results, compared)
        }
        keys = dict.fromkeys(key for row in compared for key in row.params)
        rows = []
        for row in compared:
            verdict = found.get((row.arm, tuple(row.params.items()), row.metric))
            rows.append(
                {"arm": row.arm, "against": row.against, "metric": row.metric}
                | {key: row.params.get(key) for key in keys}
                | {name: getattr(row, name) for name in ("difference", "low", "high", "interval", "reason")}
                | {"verdict": verdict.outcome if verdict else None}
                | {name: getattr(verdict, name, None) for name in ("adjusted_low", "adjusted_high")}
            )
        table = pd.DataFrame(rows)
        numbers = ("difference", "low", "high", "adjusted_low", "adjusted_high")
        return table.astype({name: "float64" for name in numbers if name in table})

    def figure(self, name: str | None = None) -> Figure:
        """A figure of the report, of matplotlib: `savefig("x.pdf")` writes it. name: as its file below figures/ is
        called; by default the first one. Raises BadInput for a name that this report does not have, with those it has.
        """
        from orchestrator.report.figures.every import draw_all

        results = self.results()
        drawings, _ = draw_all(results, compare(results, self.store), self.store)
        drawn = {drawing.name: drawing.figure for drawing in drawings}
        if not drawn:
            raise BadInput(f"sweep {self.plan.sweep.name} has no figures yet: nothing is scored.")
        if name is not None and name not in drawn:
            raise BadInput(unknown("figure", name, drawn))
        return drawn[name or next(iter(drawn))]

    def samples(self, cell: Any, indices: Iterable[int] | int | None = None) -> np.ndarray:
        """(n, C, H, W) float32, images in [-1, 1], latents as they are stored. indices: any that are kept, in any
        order; by default all that the cell counts.

        Raises IndexError for an index that is not kept.
        """
        import numpy as np

        planned = self._cell(cell)
        kept = self._rows(planned.stream, "samples", indices, planned)
        if kept.dtype == np.uint8:
            return (kept.astype(np.float32) / np.float32(127.5)) - np.float32(1)
        return kept.astype(np.float32)

    def labels(self, cell: Any, indices: Iterable[int] | int | None = None) -> np.ndarray:
        """(n,) int64: the class of each sample."""
        planned = self._cell(cell)
        return self._rows(planned.stream, "labels", indices, planned)

    def features(self, cell: Any, extractor: str | None = None) -> np.ndarray:
        """(N, d) float32 of the N samples that the cell counts. extractor: by name; by default the sweep's first."""
        planned = self._cell(cell)
        return self._rows(self._extract(planned, extractor), "features", None, planned)

    def influence(self, cell: Any, extractor: str | None = None, metric: str | None = None) -> np.ndarray:
        """(N,) float32: how far each sample moves a value of the cell. metric: its name, or a metric's for the metric's
        first value; by default of the first metric that has it.
        """
        planned = self._cell(cell)
        wanted = self._extractor_of(self._extract(planned, extractor))
        names: list[str] = []
        for scored in planned.scores:
            if scored.extractor != wanted:
                continue
            own = scored.metric.names
            names += dict.fromkeys([scored.metric.name, *own])
            if metric not in (None, scored.metric.name, *own):
                continue
            array = influence(self.store, scored.task, influence_name(own, metric if metric in own else own[0]))
            if array is not None:
                return array
        if metric is not None and metric not in names:
            raise BadInput(unknown("metric", metric, names))
        raise BadInput(
            f"cell {planned.digest[:12]} has no influence on record: it is not scored, or the metric has none."
        )

    def _cell(self, cell: Any) -> StoredCell:
        """The cell of a digest, of the start of one, or of a row."""
        if not isinstance(cell, str):
            cell = (
                cell["digest"] if isinstance(cell, Mapping) or hasattr(cell, "keys") else getattr(cell, "digest", cell)
            )
        if not isinstance(cell, str):
            raise BadInput(f"a cell is named by its digest or by a row of cells(), not by {cell!r}.")
        return find_cell(self.plan, cell)

    def _extractor_of(self, task: str) -> str:
        return str(self.plan.tasks[task].params["extractor"]["name"])

    def _extract(self, cell: StoredCell, extractor: str | None) -> str:
        """The task that makes a cell's features with the extractor of this name, by default the sweep's first."""
        tasks = {self._extractor_of(task): task for task in cell.extracts}
        if not tasks:
            raise BadInput(f"sweep {self.plan.sweep.name} scores nothing, so it has no features.")
        if extractor is not None and extractor not in tasks:
            raise BadInput(unknown("extractor", extractor, tasks))
        return tasks[extractor or next(iter(tasks))]

    def _rows(self, task: str, array: str, indices: Iterable[int] | int | None, cell: StoredCell) -> np.ndarray:
        """Rows of the stored blocks of a sample or extract task. A damaged block is only reported, not repaired."""
        import numpy as np

        count, block = cell.count, self.plan.tasks[cell.stream].params["block"]
        wanted = np.atleast_1d(np.asarray(range(count) if indices is None else _whole(indices), dtype=np.int64))
        numbers = {int(name.partition(".")[0]) for name in self.store.list(f"blocks/{task}")}
        for index in wanted:
            if index < 0 or index // block not in numbers:
                raise IndexError(
                    f"index {index} of cell {cell.digest[:12]} ({cell_words(self.plan, cell)}) {_kept(numbers, block)}"
                )
        if not len(wanted):
            wanted_blocks = sorted(numbers)[:1]
            if not wanted_blocks:
                raise IndexError(f"cell {cell.digest[:12]} ({cell_words(self.plan, cell)}): {_kept(numbers, block)}")
            return self._block(task, wanted_blocks[0], array)[:0]
        places = wanted // block
        loaded = {int(number): self._block(task, int(number), array) for number in np.unique(places)}
        first = next(iter(loaded.values()))
        rows = np.empty((len(wanted), *first.shape[1:]), dtype=first.dtype)
        for number, values in loaded.items():
            here = places == number
            rows[here] = values[wanted[here] - number * block]
        return rows

    def _block(self, task: str, number: int, array: str) -> np.ndarray:
        name = block_name(task, number)
        try:
            return unpack(self.store.read(name))[0][array]
        except MissingFile:
            raise
        except ValueError as error:
            raise CorruptFile(f"{name}: {error}; run the sweep again, which makes it again") from error


def _whole(indices: Iterable[int] | int) -> Any:
    import numpy as np

    array = np.asarray(indices if isinstance(indices, int | np.ndarray) else list(indices))
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise BadInput(f"indices must be whole numbers, such as range(16) or [0, 5]; got {array.dtype} values.")
    return array


def _kept(numbers: set[int], block: int) -> str:
    """A message that says which indices are kept."""
    if not numbers:
        return "is not there: nothing of it is kept, or it is not sampled yet."
    end = next(n for n in range(max(numbers) + 2) if n not in numbers)
    if len(numbers) == end:
        return f"is not kept; 0 to {end * block - 1} are."
    return f"is not kept; blocks {', '.join(map(str, sorted(numbers)[:LISTED]))} of {block} samples are."
