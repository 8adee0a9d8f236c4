"""An MLflow run as the records describe it, before it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.identity import digest

COLOUR = "mlflow.runColor"
Point = tuple[str, float, int, int]  # metric, value, milliseconds since the epoch, step


@dataclass(frozen=True)
class Artifact:
    """A file of a run. digest: of its content, known before the file is read or made."""

    digest: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class DataSet:
    """A data set that a run used. context: training | reference."""

    name: str
    digest: str
    source: str
    context: str


@dataclass(frozen=True)
class Model:
    """A network or extractor, which MLflow keeps as a logged model. key: the digest of the task that makes it."""

    key: str
    name: str
    kind: str  # network | extractor
    params: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    key: str
    name: str
    status: str  # FINISHED | FAILED | SCHEDULED (part of it is still to be done) | RUNNING (a training)
    start_ms: int
    end_ms: int
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)  # path -> file
    verdict: str | None = None  # on its setting, known when all cells of the sweep are done
    differences: tuple[Point, ...] = ()  # of its setting from the baseline, known at the same time
    makes: Model | None = None  # what a training makes
    uses: Model | None = None  # the network of a cell
    data: tuple[DataSet, ...] = ()
    measured_on: Mapping[str, DataSet] = field(default_factory=dict)  # metric -> its reference images

    @property
    def folders(self) -> dict[str, str]:
        """Digests of artifacts by the first part of their paths; what changed is uploaded again."""
        parts: dict[str, dict[str, str]] = {}
        for path, artifact in self.artifacts.items():
            parts.setdefault(path.partition("/")[0], {})[path] = artifact.digest
        return {name: digest(files)[:12] for name, files in sorted(parts.items())}

    @property
    def state(self) -> str:
        """A digest of the run without its artifacts and what depends on other runs: verdict and differences."""
        held: list[Any] = [self.name, self.status, self.start_ms, self.end_ms, dict(self.params), _lists(self.points)]
        models = [model and [model.key, model.name] for model in (self.makes, self.uses)]
        return digest([*held, dict(self.tags), models, [[data.name, data.digest] for data in self.data]])

    @property
    def ruling(self) -> str | None:
        """A digest of the verdict and the differences; None before they are known."""
        return digest([self.verdict, _lists(self.differences)])[:12] if self.verdict or self.differences else None


def _lists(points: Iterable[Point]) -> list[list[Any]]:
    return [list(point) for point in points]


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # MLflow takes 0 for "now"


def points_of(values: Iterable[tuple[str, float | None, float, int]]) -> tuple[Point, ...]:
    """Points from metric, value, seconds since the epoch, step. Values have six digits, because MLflow shows all.
    Infinite ones are left out, because it would draw them as 1.8e308.
    """
    return tuple(
        (n, float(f"{v:.6g}"), milliseconds(at), step)
        for n, v, at, step in values
        if v is not None and math.isfinite(v)
    )


def short_key(key: str) -> str:
    """`nag.scale` as `nag`, `train.seed` as `seed`."""
    return key.removesuffix(".scale").rpartition(".")[2]
