"""The tasks of one cell: its stream, its extracts, one score task per extractor and metric, and its measurements."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nag.noise_shift import NoiseShift
from orchestrator import identity
from orchestrator.errors import BadInput
from orchestrator.identity import digest
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.model import PlannedCell, Scored
from orchestrator.plan.reported import Reported, reported
from orchestrator.spec.reference_file import Published
from orchestrator.spec.score_section import fed, of_training, reads_pixels, refusal, trained_on
from orchestrator.tasks.measured import measured as measured_scale

if TYPE_CHECKING:
    from orchestrator.spec.model import Cell, Measure, Sweep


def suffix(sweep: Sweep, extractor: Any) -> str:
    """Metrics of the first extractor are unsuffixed, others carry its name."""
    assert sweep.score is not None
    return "" if extractor == sweep.score.features[0] else f"_{identity.name_of(extractor)}"


def stream(builder: TaskBuilder, sweep: Sweep, cell: Cell, scales: Sequence[str] = ()) -> str:
    """The task that samples a cell. scales: the measure tasks whose mean is the scale of its CFG."""
    network = builder.network(cell.network)
    references = {name: builder.network(other) for name, other in cell.references.items()}
    return builder.add(
        "sample",
        {
            "network": network,
            "guidance": [_guidance(builder, cell, g, scales) for g in cell.guidance],
            **({"compose": cell.compose} if cell.compose != "sum" and _composed(cell) else {}),
            "sampler": builder.identity(cell.sampler),
            "labels": cell.sample.labels,
            "seed": cell.sample.seed,
            "training": list(cell.network.seeds),
            "block": cell.sample.block,
            "precision": identity.changed_fields(sweep.precision),
            "stores": cell.network.stores,
        },
        (network, *(references[name] for name in sorted(references)), *scales),
        -(-cell.sample.count // cell.sample.block),
    )


def extract(builder: TaskBuilder, scoring: Scoring, cell: Cell, samples: str) -> str:
    """The task that takes an extractor's outputs on the samples of a stream."""
    decode = builder.tasks[samples].params["stores"] == "latents" and scoring.decode
    params = {**scoring.opened, "stream": samples, **({"decode": decode} if decode else {})}
    return builder.add("extract", params, (samples, *scoring.needs), -(-cell.sample.count // cell.sample.block))


def planned(builder: TaskBuilder, sweep: Sweep, cell: Cell, scales: Sequence[str] = ()) -> PlannedCell:
    """A cell with its tasks. scales: as for `stream`."""
    samples = stream(builder, sweep, cell, scales)
    extracts, scores = [], []
    for extractor in sweep.score.features if sweep.score else ():
        scoring = scoring_of(builder, sweep, cell, extractor)
        features = extract(builder, scoring, cell, samples)
        extracts.append(features)
        what = {"features": features, "count": cell.sample.count, "block": cell.sample.block}
        scores += _scores(builder, sweep, scoring, what, (features,))
    scores += [
        measured(builder, sweep, measure, cell, samples)
        for measure in sweep.measures
        if cell.sampler.steps is not None or not isinstance(measure, NoiseShift)  # it observes no adaptive solver
    ]
    key = digest({"stream": samples, "count": cell.sample.count})
    return PlannedCell(
        arm=cell.arm,
        params=cell.params,
        digest=key,
        stream=samples,
        count=cell.sample.count,
        extracts=tuple(extracts),
        scores=tuple(scores),
        cell=cell,
    )


def _composed(cell: Cell) -> bool:
    """Whether the cell has guidance that nests, and guidance to nest it in."""
    return len({guidance.nests for guidance in cell.guidance}) == 2


def _guidance(builder: TaskBuilder, cell: Cell, guidance: Any, scales: Sequence[str]) -> dict[str, Any]:
    """A guidance's identity, with the digest of its reference network in place of the name, and with the measure tasks
    that give a matched scale.
    """
    own = builder.identity(guidance)
    if scales and identity.name_of(guidance) == "cfg":
        own = {**own, "fields": {**own["fields"], "scale": measured_scale(scales)}}
    if guidance.reference is None:
        return own
    return {**own, "fields": {**own["fields"], "reference": builder.network(cell.references[guidance.reference])}}


def measured(builder: TaskBuilder, sweep: Sweep, measure: Measure, cell: Cell, stream: str) -> Scored:
    params: dict[str, Any] = {
        "measure": {"name": identity.name_of(measure), "version": type(measure).VERSION},
        "stream": stream,
        "count": min(measure.count, cell.sample.count),
        "block": cell.sample.block,
    }
    inputs: tuple[str, ...] = (stream,)
    if isinstance(measure, NoiseShift):
        assert sweep.estimator is not None
        estimator = builder.network(sweep.estimator)
        data, needs = builder.states(cell.network)
        params |= {"levels": measure.levels, "estimator": estimator, "data": data}
        params |= {"finer": measure.finer} if measure.finer > 1 else {}
        inputs += (estimator, *needs)
    return Scored(_reported(builder, measure, None, ""), builder.add("measure", params, inputs))


@dataclass(frozen=True)
class Scoring:
    """What an extractor's scores of a cell share."""

    extractor: Any
    opened: dict[str, Any]
    reference: str  # the task
    trained: str  # the same of the network's training images, for metrics that need them
    splits: bool  # whether the reference is of a data set, which may have held-out images
    decode: dict[str, Any] | None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.opened["weights"],) if self.opened["weights"] else ()


def scoring_of(builder: TaskBuilder, sweep: Sweep, cell: Cell, extractor: Any) -> Scoring:
    """The Scoring of a network and an extractor, made once: a sweep may have 100,000 cells."""
    key = (id(cell.network), id(extractor))
    scoring = builder.scorings.get(key) or _new_scoring(builder, sweep, cell, extractor)
    return builder.scorings.setdefault(key, scoring)


def _new_scoring(builder: TaskBuilder, sweep: Sweep, cell: Cell, extractor: Any) -> Scoring:
    score = sweep.score
    assert score is not None
    images = trained_on(score, cell.network.data)
    opened = builder.extractor(extractor, images)
    limits = score.rows, score.reference_images
    file, of_its_own = score.reference, [m for m in score.metrics if of_training(m) and images is not None]
    if isinstance(file, Published):
        statistics = builder.published(file)
        _check_file(builder, file, extractor, [metric for metric in score.metrics if metric not in of_its_own])
        held = {"statistics": statistics, "moments": sorted(file.usable(extractor))}
        reference = builder.reference(opened, held, *limits)
    else:
        reference = builder.reference(opened, {"data": builder.images(file or cell.network.data)}, *limits)
    trained = reference
    if any(fed(metric, extractor) for metric in of_its_own):
        trained = builder.reference(opened, {"data": builder.images(images)}, *limits)
    vae = score.decode or cell.network.autoencoder
    decode = builder.identity(vae) if vae is not None and reads_pixels(extractor) else None
    return Scoring(extractor, opened, reference, trained, not isinstance(file, Published), decode)


def _check_file(builder: TaskBuilder, file: Published, extractor: Any, metrics: Iterable[Any]) -> None:
    """Check the file again: one at a URL was not here when the sweep was read."""
    for metric in metrics if builder.hashes else ():
        if fed(metric, extractor) and (reason := refusal(file, extractor, metric)):
            raise BadInput(f"score.reference: {identity.name_of(metric)!r}: {reason}.")


def floor(builder: TaskBuilder, sweep: Sweep, cell: Cell, extractor: Any) -> tuple[str, tuple[Scored, ...]]:
    scoring = scoring_of(builder, sweep, cell, extractor)
    if not scoring.splits:
        return scoring.reference, ()
    return scoring.reference, tuple(_scores(builder, sweep, scoring, {"features": None}, ()))


def _scores(
    builder: TaskBuilder, sweep: Sweep, scoring: Scoring, what: dict[str, Any], inputs: tuple[str, ...]
) -> list[Scored]:
    """The score tasks of an extractor's metrics; for a cell, also of distances to held-out images."""
    assert sweep.score is not None
    metrics = [metric for metric in sweep.score.metrics if fed(metric, scoring.extractor)]
    if scoring.splits and what["features"] is not None:
        metrics += [twin for metric in metrics if (twin := _held_out(metric)) and twin not in metrics]
    scores, own = [], suffix(sweep, scoring.extractor)
    for metric in metrics:
        reference = scoring.trained if of_training(metric) else scoring.reference
        if what["features"] is None and (reference != scoring.reference or metric.against == "held_out"):
            continue  # here the reference's held-out images are scored; they are not compared with themselves
        params = {**what, "metric": builder.identity(metric), "reference": reference}
        task = builder.add("score", params, (*inputs, reference))
        scores.append(Scored(_reported(builder, metric, scoring.extractor, own), task))
    return scores


def _held_out(metric: Any) -> Any:
    """The same distance to held-out images; None for a metric without one."""
    return _twin(metric) if metric.against == "train" else None


def _reported(builder: TaskBuilder, metric: Any, extractor: Any, suffix: str) -> Reported:
    key = (id(metric), id(extractor), suffix)
    return builder.reported.get(key) or builder.reported.setdefault(key, reported(metric, extractor, suffix))


@functools.cache
def _twin(metric: Any) -> Any:
    """One object for all cells, so that its identity is computed once."""
    return replace(metric, against="held_out")
