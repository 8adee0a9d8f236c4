"""sample: one block of a stream. Sample i depends only on the task's params and on i.

Its noise and label come from the sample seed and the network's training seeds (`nag.noise.replicate`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import NotFinite
from orchestrator.store.layout import block_name
from orchestrator.tasks.context import Context
from orchestrator.tasks.measured import resolved
from orchestrator.tasks.task import Costs, Kind, Task
from orchestrator.tasks.used import used

if TYPE_CHECKING:
    import numpy as np

    from nag.field import Calls, Field
    from nag.numerics import Precision
    from nag.samplers.fixed_step import Observe

    Watch = Callable[[Field, Field, np.ndarray], Field]  # (guided, network, indices of a micro-batch) -> guided

UNKNOWN_CALLS = 100.0  # a guess for samplers that do not report theirs


def run(context: Context, task: Task, number: int) -> None:
    import platform

    import numpy as np

    from nag.hardware import kind

    started = time.time()
    block = task.params["block"]
    indices = np.arange(number * block, (number + 1) * block, dtype=np.int64)
    x, labels, calls = draw(context, task, indices)
    samples = as_stored(task, x)
    record = {
        "kind": task.kind,
        "digest": task.digest,
        "first": int(indices[0]),
        "count": len(indices),
        "network_calls": calls.made / len(indices),
        **({"residual_calls": calls.residuals / len(indices)} if calls.residuals else {}),
        "started": round(started, 3),
        "seconds": round(time.time() - started, 4),
        "host": platform.node(),
        "device": context.options.device,
        "kind_of_device": kind(context.options.device),
        "micro_batch": context.options.micro_batch,
        "used": used(context.options.device, started),
    }
    arrays = {"samples": samples, "labels": labels}
    context.store.create_arrays(block_name(task.digest, number), arrays, record)
    # Keep it loaded for the extract tasks of this bundle.
    context.load("block", block_name(task.digest, number), lambda: (arrays, record))


def seed_of(task: Task) -> int:
    """The seed of a stream's noise and labels."""
    from nag.noise import replicate

    return replicate(task.params["seed"], task.params["training"])


def as_stored(task: Task, x: np.ndarray) -> np.ndarray:
    """Samples as a block stores them: pixels as uint8, latents as float16."""
    import numpy as np

    from nag.datasets.dataset import to_uint8

    return to_uint8(x) if task.params["stores"] == "pixels" else x.astype(np.float16)


def draw(
    context: Context,
    task: Task,
    indices: np.ndarray,
    observe: Observe | None = None,
    watch: Watch | None = None,
) -> tuple[np.ndarray, np.ndarray, Calls]:
    """Samples (N, C, H, W) float32, labels (N,) and the network calls that were made, for any indices of the stream.

    `observe(k, t, x)` is called for each micro-batch before step k, and once more at the end. `watch` gives the field
    to sample each micro-batch from: the guided one, observed. Raises NotFinite, naming the step, once a state is not
    finite.
    """
    import numpy as np
    import torch

    from nag import noise
    from nag.field import Calls
    from nag.finite import EVERY, FiniteStates
    from nag.numerics import Precision
    from nag.sampling import begun, guided

    params = task.params
    calls = Calls()
    precision = Precision(**params["precision"])
    guidance = tuple(context.rebuild("guidance", resolved(context, g)) for g in params["guidance"])
    networks = {params["network"]: calls.counted(context.network(params["network"], precision))}
    for g in guidance:
        if g.reference and g.reference not in networks:  # one that is the network itself must be the same object
            networks[g.reference] = calls.counted(_reference(context, g, precision))
    field = networks[params["network"]]
    sampler = context.rebuild("samplers", params["sampler"])
    guided_field = guided(field, guidance, networks, params.get("compose", "sum"), sampler)
    seed = seed_of(task)
    labels = noise.labels(seed, indices, field.num_classes, rule=params["labels"])

    device = context.options.device
    every = 1 if sampler.adaptive or device == "cpu" else EVERY
    finite = FiniteStates(sampler.steps, every, observe)
    parts: list[Any] = []
    at_once = _at_once(len(indices), context.options.micro_batch, precision.compile)
    at_once = len(indices) if sampler.adaptive else at_once  # an adaptive solver's steps depend on the whole batch
    for first in range(0, len(indices), at_once):
        part = slice(first, first + at_once)
        y = torch.from_numpy(labels[part]).to(device)
        draws = noise.Noise(seed, indices[part], field.shape, device)
        run = begun(guided_field, sampler, draws)
        watched = run if watch is None else watch(run, field, indices[part])
        try:
            x = sampler(watched, y, draws, observe=finite)
            finite.read()
        except FloatingPointError as error:
            raise NotFinite(str(error)) from error
        parts.append(x.cpu().numpy())
    return np.concatenate(parts), labels, calls


def _reference(context: Context, guidance: Any, precision: Precision) -> Any:
    """The network that a guidance names, loaded as what the guidance asks."""
    match guidance.asks:
        case "level":
            return context.estimator(guidance.reference)
        case "residual":
            return context.residual(guidance.reference)
        case _:
            return context.network(guidance.reference, precision)


def _at_once(count: int, micro_batch: int, compiled: bool) -> int:
    """Samples of a micro-batch. Compiled code is of one shape, so there all micro-batches are equal if they can be with
    at least half the size: a last one that is smaller would be compiled again.
    """
    if not compiled or count <= micro_batch:
        return micro_batch
    divisors = (size for size in range(micro_batch, micro_batch // 2, -1) if count % size == 0)
    return next(divisors, micro_batch)


def _cost_class(task: Task, costs: Costs) -> Any:
    network = costs.tasks[task.params["network"]].params
    while "init" in network:
        network = costs.tasks[network["init"]].params
    return [network.get("checkpoint") or network.get("model"), task.params["precision"], task.params["stores"]]


def _evaluations(task: Task, costs: Costs, record: Mapping[str, Any] | None = None) -> float:
    return float(task.params["block"] * (record["network_calls"] if record else planned_calls(task)))


def planned_calls(task: Task) -> float:
    """Network calls per sample: those of the sampler, times the terms that are evaluated."""
    from nag.registry import find

    sampler = task.params["sampler"]
    evaluations = 1.0 + sum(map(_evaluates, task.params["guidance"]))
    if "source" in sampler:
        return UNKNOWN_CALLS * evaluations
    try:
        calls = find("samplers", sampler["name"])(**sampler["fields"]).network_calls()
    except TypeError:  # a sampler of the user's
        calls = None
    return (calls or UNKNOWN_CALLS) * evaluations


def _evaluates(guidance: dict[str, Any]) -> bool:
    """Whether it evaluates more: not without a scale, as epsilon_scaling; and a small residual counts apart."""
    from nag.registry import find

    if "source" in guidance:
        return True
    cls: Any = find("guidance", guidance["name"])
    return "scale" in guidance["fields"] and cls.asks != "residual"


KIND = Kind(
    version=2,
    run=run,
    guess_s=lambda task, costs: _evaluations(task, costs) * costs.evaluation_s(task.params["network"]),
    makes_blocks=True,
    unit="samples",
    column="samples",
    cost_class=_cost_class,
    cost_units=_evaluations,
)
