"""The noise shift of a stream: readings of an estimator on its states while it is sampled again, and on true states."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.errors import TaskError
from orchestrator.store.arrays import pack
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.sample import draw, seed_of
from orchestrator.tasks.sampled_again import sample_again
from orchestrator.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from nag.samplers.fixed_step import Observe

READINGS = ("mean", "mode")  # of the posterior


class Seen(NamedTuple):
    """Readings at K levels t, the noisiest first: of sampled and of true states, and the response of each true state.

    Shapes: t (K,), the others (K, M, 2), the last axis as READINGS.
    """

    t: np.ndarray
    sampled: np.ndarray
    true: np.ndarray
    response: np.ndarray

    def of(self, reading: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        k = READINGS.index(reading)
        return self.sampled[..., k], self.true[..., k], self.response[..., k]


def measure_shift(context: Context, task: Task) -> None:
    from nag.noise_shift import NoiseShift, curve, of_classes, parts, per_sample, shift

    started = time.time()
    params = task.params
    split = context.rebuild("datasets", params["data"]).open("train")
    seed = seed_of(context.task(params["stream"]))  # the true states differ by training seed, as samples do
    g = context.estimator(params["estimator"])
    wanted, observer = _steps(context, task), _Observer(g)
    states, labels = sample_again(context, task, observer.watching(wanted))
    positions = of_classes(split, labels, seed)
    if (positions >= 0).sum() < 2 or not wanted:
        passes = "a sampler of one step passes through no level between noise and data"
        raise TaskError(passes if not wanted else "the training images have none of the classes of these samples")

    def seen(observed: dict[float, np.ndarray]) -> Seen:
        return _with_true(context, g, split, positions, seed, observed)

    coarse = seen(observer.taken())
    measured = shift(coarse.t, *coarse.of("mean"))
    measured["mode"] = {"t": measured["t"], **curve(per_sample(*coarse.of("mode"))), "count": measured["count"]}
    if (finer := params.get("finer", 1)) > 1:
        fine = seen(_finer(context, task, g, wanted, finer))
        both = [per_sample(*each.of("mean")) for each in (coarse, fine)]
        measured["finer"] = {"times": finer, **parts(coarse.t, both[0], fine.t, both[1])}
    values = {}
    for name in NoiseShift.names:
        score = measured.pop(name)
        reason = None if score else _reason(name, coarse)
        empty = {"value": None, "low": None, "high": None}
        values[name] = {**(score or empty), "extrapolated": None, "reason": reason}
    (sampled, true, response), (sampled_mode, true_mode, _) = coarse.of("mean"), coarse.of("mode")
    arrays = {"t": coarse.t, "sampled": sampled, "true": true, "response": response}
    arrays |= {"sampled_mode": sampled_mode, "true_mode": true_mode}
    files = {"shift.safetensors": pack({key: _float32(value) for key, value in arrays.items()}, {})}
    record = {"values": values, "shift": measured, "count": params["count"], "states": states}
    finish(context, task, files, record, started)


def _float32(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(values, dtype=np.float32)


def _reason(name: str, seen: Seen) -> str:
    from nag.noise_shift import LATE

    if name == "shift_late" and not (seen.t < LATE).any():
        return "the sampler stops at no level below 0.3"
    return "the estimator does not respond to the noise of true states; train it longer"


def _steps(context: Context, task: Task) -> list[int]:
    """The solver's steps to observe."""
    from nag.noise_shift import observed_steps

    sampler = context.rebuild("samplers", context.task(task.params["stream"]).params["sampler"])
    return observed_steps(sampler.steps, task.params["levels"])


class _Observer:
    """Readings of the states before some steps of a sampler, by level."""

    def __init__(self, g: Any) -> None:
        self.g = g
        self.seen: dict[float, list[np.ndarray]] = defaultdict(list)

    def watching(self, wanted: list[int]) -> Observe:
        steps = set(wanted)

        def observe(step: int, t: float, x: Any) -> None:
            if step in steps:
                self.seen[t].append(self.g.read(x).cpu().numpy())

        return observe

    def taken(self) -> dict[float, np.ndarray]:
        import numpy as np

        return {t: np.concatenate(each) for t, each in self.seen.items()}


def _finer(context: Context, task: Task, g: Any, wanted: list[int], times: int) -> dict[float, np.ndarray]:
    """Readings of the same samples with so many times the steps, at the steps of about the same levels."""
    import numpy as np

    stream, observer = context.task(task.params["stream"]), _Observer(g)
    sampler = stream.params["sampler"]
    fields = {**sampler["fields"], "steps": sampler["fields"]["steps"] * times}
    stream = replace(stream, params={**stream.params, "sampler": {**sampler, "fields": fields}})
    observe, block = observer.watching([(step - 1) * times + 1 for step in wanted]), stream.params["block"]
    for number in range(-(-task.params["count"] // block)):
        draw(context, stream, np.arange(number * block, (number + 1) * block), observe)
    return observer.taken()


def _with_true(
    context: Context, g: Any, split: Any, positions: np.ndarray, seed: int, observed: dict[float, np.ndarray]
) -> Seen:
    """The readings with those of true states of the images at `positions`; samples at -1 are left out."""
    import numpy as np

    from nag.noise_shift import injected, predictions, true_states

    kept = np.flatnonzero(positions >= 0)
    device, batch = context.options.device, context.options.micro_batch
    levels = sorted(observed)[::-1]
    sampled, true, response = [], [], []
    for t in levels:
        low, high = injected(t)
        at, below, above = (
            predictions(g.read, true_states(split, g.interpolant, t, positions[kept], seed, as_), device, batch)
            for as_ in (None, low, high)
        )
        sampled.append(observed[t][kept].astype(np.float64))
        true.append(at.astype(np.float64))
        response.append((above.astype(np.float64) - below) / (high - low))
    return Seen(np.array(levels), np.array(sampled), np.array(true), np.array(response))
