"""`nagbench score`: score images of any origin with the same tasks that score a sweep's cells.

For each extractor, two reference tasks give its outputs on both sides, and a score task computes each metric.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nag import locations
from nag.datasets.image_folder import ImageFolder
from nag.datasets.npz import Npz
from nag.registry import METHODS, find, name_of
from orchestrator.errors import BadInput
from orchestrator.identity import MissingWeights, digest, outside
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.model import Plan, Scored
from orchestrator.plan.reported import reported
from orchestrator.spec.classes import goes_by_class, labels_problem
from orchestrator.spec.construct import MethodBuilder as Methods
from orchestrator.spec.data_notes import class_names
from orchestrator.spec.evaluators import Evaluator, alike
from orchestrator.spec.model import ScoreSection, Sweep
from orchestrator.spec.reference_file import Published
from orchestrator.spec.score_section import fed, held_out_problem, of_training, read_reference, read_score, refusal
from orchestrator.spec.yaml_nodes import parse
from orchestrator.store.store import Store

SOURCE = "nagbench score"
LISTED = 3


@dataclass(frozen=True)
class Found:
    """One value of a metric, and how it was measured."""

    metric: str  # as a sweep would call it: fid, fid_pixels
    extractor: str
    score: Mapping[str, Any]  # value, low, high, extrapolated, reason
    stamp: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {**self.score, "stamp": dict(self.stamp)}


def planned(
    samples: str, reference: str, features: Sequence[str], metrics: Sequence[str], count: int | None = None
) -> Plan:
    """samples: a folder of images of one size, or an .npz file in ADM's form. reference: a folder, whose images are cut
    to the size of the samples; an .npz file of images or statistics, also at a URL; or, in braces, anything that a
    sweep may have there. features, metrics: as in a sweep, each a name or {name: ..., ...}; by default Inception in the
    reference's mode, and all metrics that it allows.

    Raises BadInput for what cannot be scored in this way.
    """
    methods = Methods()
    images, taken, held_against = _sides(samples, reference, count, methods)
    score = dataclasses.replace(_score(features, metrics, held_against, methods), reference=held_against)
    return _plan(f"{samples} --reference {reference}", images, taken, score, methods)


def planned_by(
    evaluator: Evaluator, samples: str, reference: str, features: Sequence[str] = (), count: int | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """The plan that scores as an evaluator does, and what to know about its values. features: where the weights of
    extractors are, each {name: ..., weights: PATH}.

    Raises BadInput for what it cannot score, and if its weights are not on this machine.
    """
    methods = Methods()
    images, taken, held_against = _sides(samples, reference, count, methods)
    held_against = evaluator.reads(held_against)
    extractor = _with_weights(evaluator.extractor(methods), features, methods)
    for each in outside(extractor, compute=False).values():
        if isinstance(each, MissingWeights):
            raise BadInput(f"the weights {each.name} are not on this machine: nagbench fetch {each.name}.")
    notes, metrics = [], []
    if evaluator.samples is not None:
        rule, most = evaluator.samples
        if rule == "exactly" and taken < most:
            notes.append(f"it takes {most:,} images, here are {taken:,}")
        taken = min(taken, most)
    for metric in evaluator.listed(methods):
        reason = refusal(held_against, extractor, metric) if isinstance(held_against, Published) else None
        if taken < metric.least:
            reason = f"it needs at least {metric.least} images, here are {taken}"
        if reason:
            notes.append(f"no {name_of(metric)}: {reason}")
        else:
            metrics.append(metric)
    if not metrics:
        raise BadInput(f"{'; '.join(notes)}.")
    score = ScoreSection((extractor,), tuple(metrics), held_against, protocol=evaluator)
    words = f"{samples} --reference {reference} --protocol {evaluator.name}"
    return _plan(words, images, taken, score, methods), tuple(notes)


def _with_weights(extractor: Any, features: Sequence[str], methods: Methods) -> Any:
    """The extractor with the weights that the user gives for it."""
    for text in features:
        given = methods.method("features", parse(text, "--features"))
        if getattr(given, "weights", None) is None or not alike(given, type(given)()):
            raise BadInput("--features: with --protocol it only says where weights are, {name: ..., weights: PATH}.")
        if type(given) is type(extractor):
            extractor = dataclasses.replace(extractor, weights=given.weights)
    return extractor


def _sides(samples: str, reference: str, count: int | None, methods: Methods) -> tuple[Any, int, Any]:
    """The samples, how many of them count, and the reference."""
    images = _samples(samples)
    size = _count(images)
    if count is not None and count > size:
        raise BadInput(f"--count: {samples} has {size:,} images, not {count:,}.")
    held_against = _reference(reference, images.shape, methods)
    if not isinstance(held_against, Published):
        _count(held_against)
    return images, count or size, held_against


def _plan(what: str, images: Any, taken: int, score: ScoreSection, methods: Methods) -> Plan:
    builder, limit = TaskBuilder(), score.reference_images
    for metric in score.metrics:
        if reason := labels_problem(metric, images) or _other_classes(metric, images, score.reference):
            raise BadInput(f"--metrics: {reason}.")
    all_scored: list[Scored] = []
    for place, extractor in enumerate(score.features):
        if extractor.trained:
            raise BadInput(f"--features: {name_of(extractor)!r} is trained by a sweep, so it cannot stand here.")
        opened = builder.extractor(extractor, None)
        mine = {**opened, "data": builder.identity(images), "only": "rows", "rows": taken}
        ours = builder.add("reference", mine)
        held = _identity(builder, score.reference, extractor)
        theirs = builder.add("reference", {**opened, **held, **({"images": limit} if limit is not None else {})})
        for metric in score.metrics:
            if not fed(metric, extractor):
                continue
            if taken < metric.least:
                raise BadInput(f"{name_of(metric)!r} needs at least {metric.least} images, the samples are {taken}.")
            params = {"features": None, "samples": ours, "count": taken, "reference": theirs}
            task = builder.add("score", {**params, "metric": builder.identity(metric)}, (ours, theirs))
            all_scored.append(Scored(reported(metric, extractor, f"_{name_of(extractor)}" if place else ""), task))
    name = f"score-{digest(sorted(scored.task for scored in all_scored))[:12]}"
    sweep = Sweep(
        name=name,
        path=SOURCE,
        text=f"# {SOURCE} {what}\n",
        arms=(),
        cells=(),
        score=score,
        shared_axes=frozenset(),
        guidance=frozenset(),
        code=methods.code,
    )
    return Plan(
        sweep=sweep,
        tasks=builder.tasks,
        blocks={},
        goals=frozenset(scored.task for scored in all_scored),
        cells=(),
        floors=((builder.tasks[all_scored[0].task].params["reference"], tuple(all_scored)),) if all_scored else (),
        whole=True,
        varying={},
        instances={},
        places={each.content: each.place for each in builder.outside.values() if not each.copied},
        code={},
        outside=builder.outside,
    )


def results(plan: Plan, store: Store) -> Iterator[Found]:
    """The values of a finished plan that `planned` made."""
    for _, scores in plan.floors:
        for scored in scores:
            task = plan.tasks[scored.task]
            record = store.read_record(task.record_name)
            reference = plan.tasks[task.params["reference"]]
            content = reference.params.get("statistics") or digest(reference.params["data"])
            used = record["reference_size"] is not None or scored.metric.extrapolates
            stamp = {
                "metric": task.params["metric"],
                "count": record["count"],
                "extractor": reference.params["extractor"],
                "mode": scored.metric.mode or None,
                "prepares": scored.metric.prepares or None,
                "reference_content": content if used else None,
                "reference_size": record["reference_size"],
            }
            for name, score in record["values"].items():
                yield Found(name + scored.suffix, scored.extractor, score, stamp)


def stamp_words(result: Found) -> str:
    """How a value was measured, in a line."""
    stamp = result.stamp
    fields = {key: str(value)[:12] for key, value in stamp["extractor"]["fields"].items() if key != "mode"}
    parts = [stamp["extractor"]["name"], *(f"{key} {value}" for key, value in fields.items())]
    parts += [f"mode {stamp['mode']}"] if stamp["mode"] else []
    parts = [" ".join(parts), *([stamp["prepares"]] if stamp["prepares"] else [])]
    words = f"{result.metric}: N {stamp['count']:,}; {', '.join(parts)}"
    if stamp["reference_content"] is None:
        return words
    size = f"{stamp['reference_size']:,} images" if stamp["reference_size"] else "published moments"
    return f"{words}; against {size}, {stamp['reference_content'][:12]}"


def _other_classes(metric: Any, images: Any, reference: Any) -> str | None:
    """Why the classes of both sides cannot be compared by their numbers, or None."""
    if not goes_by_class(metric) or (ours := class_names(images)) == (theirs := class_names(reference)):
        return None
    shown = ["; ".join(filter(None, (", ".join(names[:LISTED]), f"{len(names)} in all"))) for names in (ours, theirs)]
    return f"{name_of(metric)!r} goes by class, and the classes differ: {shown[0]} against {shown[1]}"


def _samples(path: str) -> Any:
    if os.path.isdir(path):
        return ImageFolder(path=os.path.abspath(path), resolution=_side(path))
    if not os.path.isfile(path):
        raise BadInput(f"{path}: there is no such folder of images or .npz file.")
    try:
        data = Npz(path=os.path.abspath(path))
        stores = data.stores
    except (OSError, ValueError) as error:
        raise BadInput(f"{error}.") from error
    if stores != "pixels":
        raise BadInput(f"{path}: these are latents; samples are images, uint8 (N, H, W, 3).")
    _, height, width = data.shape
    _check_square(path, width, height)
    return data


def _count(data: Any) -> int:
    """The number of images of a data set. Raises BadInput if it is not a valid one."""
    try:
        return len(data.open("train"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{error}.") from error


def _side(path: str) -> int:
    """The one size of all images of a folder. Raises BadInput, naming images, if there are several."""
    from nag.datasets.folder_layout import files_in
    from nag.datasets.listing import read_listing

    names = [name for name, _ in files_in(read_listing(path, fresh=True))]
    if not names:
        raise BadInput(f"{path}: there are no images in it.")
    sizes: dict[tuple[int, int], str] = {}
    for name in names:
        sizes.setdefault(_size(os.path.join(path, name)), name)
    if len(sizes) > 1:
        shown = ", ".join(f"{name} is {width} x {height}" for (width, height), name in [*sizes.items()][:LISTED])
        raise BadInput(f"{path}: samples must be of one size; {shown}.")
    width, height = next(iter(sizes))
    _check_square(path, width, height)
    return width


def _check_square(path: str, width: int, height: int) -> None:
    """Raise BadInput if images are not square: references are, so extractors would stretch the two differently."""
    if width != height:
        raise BadInput(f"{path}: the images are {width} x {height}; only square ones can be scored.")


def _size(path: str) -> tuple[int, int]:
    from nag.datasets.images import BadImage, opened

    try:
        with opened(path, path) as image:
            return image.size
    except BadImage as error:
        raise BadInput(f"{error}.") from error


def _reference(path: str, shape: tuple[int, int, int], methods: Methods) -> Any:
    if path.startswith("{"):
        return read_reference(parse(path, "--reference"), methods)
    reason = locations.refusal(path)
    if reason is not None:
        raise BadInput(f"--reference: {reason}.")
    if not locations.is_url(path) and not os.path.exists(locations.path_of(path)):
        raise BadInput(f"--reference: there is no file or folder {path!r}.")
    path = path if locations.is_url(path) else os.path.abspath(locations.path_of(path))
    if os.path.isdir(path):
        return ImageFolder(path=path, resolution=shape[1])
    published = Published(path=path)
    published.contents(published.fetched())
    return published


def _score(features: Sequence[str], metrics: Sequence[str], reference: Any, methods: Methods) -> ScoreSection:
    """The choice as a score section, with the errors of one."""
    mode = reference.mode_of(reference.contents(reference.fetched())) if isinstance(reference, Published) else None
    given, chosen = list(features) or [f"{{name: inception, mode: {mode or 'clean'}}}"], list(metrics)
    if not metrics:
        listed = parse(f"[{', '.join(given)}]", "--features").entries("[inception]")
        extractors = [methods.method("features", item) for item in listed]
        known: dict[str, Any] = {name: find("metrics", name) for name in METHODS["metrics"]}
        able = {name: cls() for name, cls in known.items() if not _asks(cls)}
        chosen = [name for name, metric in able.items() if _allowed(extractors, metric, reference)]
    text = f"{{features: [{', '.join(given)}], metrics: [{', '.join(chosen)}]}}"
    score = read_score(parse(text, SOURCE), methods, smoke=False)
    for metric in score.metrics:
        if reason := held_out_problem(metric, reference) or labels_problem(metric, reference):
            raise BadInput(f"--metrics: {reason}.")
    for extractor in score.features if isinstance(reference, Published) else ():
        for metric in score.metrics:
            if fed(metric, extractor) and (reason := refusal(reference, extractor, metric)):
                raise BadInput(f"{name_of(metric)!r} on {name_of(extractor)!r}: {reason}.")
    return score


def _asks(cls: Any) -> bool:
    """Whether a metric has a field that only the user can give."""
    return any(field.is_required() for field in cls.__pydantic_fields__.values())


def _allowed(features: Sequence[Any], metric: Any, reference: Any) -> bool:
    """Whether a metric can be computed from images alone, without training images and the right labels."""
    if of_training(metric) or "labels" in metric.needs or held_out_problem(metric, reference):
        return False
    able = [extractor for extractor in features if fed(metric, extractor)]
    return bool(able) and not (isinstance(reference, Published) and any(refusal(reference, e, metric) for e in able))


def _identity(builder: TaskBuilder, reference: Any, extractor: Any) -> dict[str, Any]:
    if isinstance(reference, Published):
        return {"statistics": builder.published(reference), "moments": sorted(reference.usable(extractor))}
    return {"data": builder.identity(reference)}
