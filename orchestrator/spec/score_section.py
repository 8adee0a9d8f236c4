"""The `score` section of a sweep: extractors, metrics, the reference, and the decoder of latents."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nag.datasets.dataset import originals
from nag.features.extractor import columns
from nag.metrics.metric import by_rows, shown
from nag.registry import METHODS, find, name_of
from orchestrator.errors import BadInput
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.evaluators import check_counts, check_methods, filled
from orchestrator.spec.model import REFERENCE_ROWS, Cell, Network, ScoreSection
from orchestrator.spec.reference_file import Published
from orchestrator.spec.smoke import smoked
from orchestrator.spec.user_code import StandIn
from orchestrator.spec.yaml_nodes import Node, show

KEYS = ("protocol", "features", "metrics", "reference", "reference_rows", "decode")
LEAST_HELD_OUT = 2
NEAR = 100  # times as many images as a metric needs: a data set of more is not opened to count them
REFERENCES = "the path or URL of an .npz file, {path: ..., mode: ...} or a data set {name: image_folder, path: ...}"


def read_score(node: Node, builder: MethodBuilder, smoke: bool) -> ScoreSection:
    node.mapping("{features: [...], metrics: [...]}")
    node.only(KEYS)
    evaluator, node = filled(node)
    scorers: dict[str, list[Any]] = {}
    for family in ("features", "metrics"):
        listed = node.get(family)
        if listed is None:
            raise node.error(f"{family!r} is missing. Known: {', '.join(sorted(METHODS[family]))}.")
        scorers[family] = []
        for item in listed.entries(f"[{', '.join([*METHODS[family]][:2])}]"):
            scorer = builder.method(family, item)
            if name_of(scorer) in map(name_of, scorers[family]):
                raise item.error(f"{name_of(scorer)!r} is in the list already.")
            if family == "metrics":
                _check_fed(scorer, scorers["features"], item)
                _check_names(scorer, scorers["metrics"], item)
            scorers[family].append(scorer)
    reference, decode = node.get("reference"), node.get("decode")
    score = ScoreSection(
        tuple(scorers["features"]),
        tuple(scorers["metrics"]),
        read_reference(reference, builder) if reference else None,
        builder.autoencoder(decode) if decode else None,
        _rows(node.get("reference_rows")),
        evaluator,
    )
    if evaluator is not None:
        check_methods(evaluator, score, node, builder)
        score = dataclasses.replace(score, reference=evaluator.reads(score.reference))
    if isinstance(score.reference, Published) and reference:
        _check_published(score, score.reference, node, reference)
    return _smoked(score) if smoke else score


def _smoked(score: ScoreSection) -> ScoreSection:
    """The section with stand-ins for methods that read files, which no evaluator measures with. (Published
    statistics: see `smoke_reference`.)
    """
    decode = score.decode.smoke() if score.decode is not None else None
    [reference] = smoked([score.reference])
    return dataclasses.replace(
        score, features=tuple(smoked([*score.features])), reference=reference, decode=decode, protocol=None
    )


def smoke_reference(score: ScoreSection, cells: Sequence[Cell]) -> ScoreSection:
    """Under --smoke, replace published statistics by the images of the first network, for all cells."""
    return (
        dataclasses.replace(score, reference=cells[0].network.data) if isinstance(score.reference, Published) else score
    )


def read_reference(node: Node, builder: MethodBuilder) -> Any:
    if isinstance(node.value, str):
        return builder.fields(Published, dataclasses.replace(node, value={"path": node}))
    if not isinstance(node.value, dict):
        raise node.error(f"expected {REFERENCES}, got {show(node)}.")
    if node.value.keys() & {"name", "use"}:
        data = builder.method("datasets", node)
        if not isinstance(data, StandIn) and data.stores != "pixels":
            raise node.error("these are latents; a reference must be images.")
        return data
    return builder.fields(Published, node)


def _rows(node: Node | None) -> int:
    if node is None:
        return REFERENCE_ROWS
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 2 or value != int(value):
        raise node.error(f"expected a whole number of at least 2, got {show(node)}.")
    return int(value)


def _check_names(metric: Any, others: list[Any], node: Node) -> None:
    for other in others:
        for name in sorted({*metric.names} & {*other.names}):
            raise node.error(f"{name_of(metric)!r} reports {name!r}, and {name_of(other)!r} reports it already.")


def _check_fed(metric: Any, features: list[Any], node: Node) -> None:
    """Raise unless an extractor has all outputs that a metric needs. Labels are always available."""
    if any(metric.needs <= {"labels", *extractor.outputs} for extractor in features):
        return
    extractors: dict[str, Any] = {name: find("features", name) for name in METHODS["features"]}
    able = [name for name, cls in extractors.items() if metric.needs <= {"labels", *_outputs(cls)}]
    needs = " and ".join(sorted(metric.needs - {"labels"}))
    fix = f"Add one of: {', '.join(able)}." if able else "None does."
    raise node.error(f"{name_of(metric)!r} needs {needs}, which none of these features provides. {fix}")


def _outputs(cls: Any) -> Iterable[str]:
    """The outputs of an extractor class; () if they depend on its fields."""
    return cls.outputs if isinstance(cls.outputs, tuple) else ()


def fed(metric: Any, extractor: Any) -> bool:
    """Whether an extractor has the outputs that a metric needs."""
    return metric.needs <= {"labels", *extractor.outputs}


def metric_names(score: ScoreSection) -> dict[str, Any]:
    """The metrics by the names of the values that are reported and that can decide. For extractors after the first, the
    names end with the extractor's.
    """
    return {reported: metric for reported, metric, name in _values(score) if metric.lower_is_better[name] is not None}


def _values(score: ScoreSection) -> Iterator[tuple[str, Any, str]]:
    """Every value as it is reported, its metric, and its name there."""
    for place, extractor in enumerate(score.features):
        suffix = f"_{name_of(extractor)}" if place else ""
        for metric in score.metrics:
            if fed(metric, extractor):
                yield from ((name + suffix, metric, name) for name in metric.names)


def deciding_name(score: ScoreSection) -> str | None:
    """The value that decides verdicts, which a report finds from the values that there are (`headline_metric`): the
    first that leads, or its mean over extractors, else the first distance, else the first value. None if only a user's
    own file knows.
    """
    if any(isinstance(metric, StandIn) for metric in score.metrics):
        return None
    means = {name: mean for mean, (_, name) in mean_names(score).items()}
    values = [(*value, shown(*value[1:])) for value in _values(score)]
    leading = [means.get(name, reported) for reported, _, name, how in values if how.leads]
    distances = [reported for reported, metric, _, how in values if metric.extrapolates and not how.beside]
    others = [reported for reported, _, _, how in values if not how.cost]
    return next(iter([*leading, *distances, *others]), None)


def mean_names(score: ScoreSection) -> dict[str, tuple[Any, str]]:
    """The means over extractors that the report adds, such as fd_ratio_mean: by name, the metric and the name of its
    value. No score task computes them.
    """
    return {
        f"{name}_mean": (metric, name)
        for metric in score.metrics
        for name in metric.names
        if shown(metric, name).mean_label and sum(fed(metric, extractor) for extractor in score.features) > 1
    }


def deciders(score: ScoreSection | None) -> tuple[dict[str, Any], str | None]:
    """The metrics that can decide by reported name, means over extractors too; and the name that verdicts are by."""
    if score is None:
        return {}, None
    means = {mean: metric for mean, (metric, _) in mean_names(score).items()}
    return metric_names(score) | means, deciding_name(score)


def reads_pixels(extractor: Any) -> bool:
    """Whether an extractor reads pixels. All of nagbench's do; a user's own may set `reads = "latents"`."""
    return extractor.reads == "pixels"


def _check_published(score: ScoreSection, reference: Published, node: Node, place: Node) -> None:
    """Raise unless the file has what every metric needs, for every extractor that it is computed on."""
    for extractor in score.features:
        for metric in score.metrics:
            if not fed(metric, extractor):
                continue
            try:
                reason = refusal(reference, extractor, metric)
            except BadInput as error:  # an invalid file
                raise place.error(str(error)) from error
            if reason and not of_training(metric):  # `_problem` checks those
                raise place.error(f"{name_of(metric)!r} on {name_of(extractor)!r}: {reason}.")


def refusal(reference: Published, extractor: Any, metric: Any) -> str | None:
    """Why a file cannot be the reference of a metric, or None. Moments suffice if the metric extrapolates (FID)."""
    return reference.refuses(extractor, compared(metric), rows=by_rows(metric))


def compared(metric: Any) -> frozenset[str]:
    """The outputs of the reference that a metric uses."""
    return frozenset() if metric.alone else frozenset(metric.needs - {"labels", "logits"})


def held_out_problem(metric: Any, data: Any) -> str | None:
    """Why a metric that needs held-out images cannot use those of a reference, or None. Reads the folder's listing."""
    if metric.against != "held_out" or isinstance(data, StandIn):
        return None
    what, fix = f"{name_of(metric)!r} needs held-out images", "give it a split, such as held_out: 0.1"
    if isinstance(data, Published):
        return f"{what}, and a published file has none; compare with a data set, {{name: image_folder, path: ...}}"
    with contextlib.suppress(OSError, ValueError):  # missing and invalid files are reported elsewhere
        if len(data.open("held_out")) < LEAST_HELD_OUT:
            return f"{what}, and {name_of(data)!r} has fewer than {LEAST_HELD_OUT}; {fix}"
    return None


def reference_problem(metric: Any, data: Any) -> str | None:
    """Why a data set has too few images to be the reference of a metric, or None. Only tiny ones are opened."""
    if isinstance(data, StandIn | Published):
        return None
    with contextlib.suppress(OSError, ValueError):  # missing and invalid files are reported elsewhere
        most = data.at_most
        if most is not None and most <= NEAR * metric.least_reference:
            return too_few(metric, data, originals(data.open("train")))
    return None


def too_few(metric: Any, data: Any, images: int) -> str | None:
    """Why so many images of a data set are too few for a metric, or None."""
    if metric.alone or images >= metric.least_reference:
        return None
    needed = f"{name_of(metric)!r} needs {metric.least_reference:,} reference images"
    return f"{needed}, and {name_of(data)!r} has {images:,}"


def of_training(metric: Any) -> bool:
    """Whether a metric compares samples with the images that the network was trained on."""
    return metric.of_training


def trained_on(score: ScoreSection, data: Any) -> Any:
    """The images for training an extractor and for finding copies: the network's own data, or else the reference; None
    if that is a published file.
    """
    own = data if data is not None and data.stores == "pixels" else None
    return own or (None if isinstance(score.reference, Published) else score.reference)


def check_cells(score: ScoreSection, cells: Sequence[Cell], node: Node) -> None:
    """Raise if the section does not fit a network that is sampled."""
    makes = set()
    for network in {id(cell.network): cell.network for cell in cells}.values():
        makes.add(network.stores)
        problem = _problem(score, network)
        if problem:
            raise node.error(f"{problem}.")
    if score.protocol is not None:
        check_counts(score.protocol, cells, node.value["protocol"])
    if score.decode is not None and "latents" not in makes:
        raise node.value["decode"].error("no network of this sweep makes latents; remove this key.")


def _problem(score: ScoreSection, network: Network) -> str | None:
    """Why the samples of a network cannot be scored, or None."""
    if score.reference is None and network.data is None:
        return f"network {network.name!r} has no data to compare samples with; add reference: {REFERENCES}"
    if score.reference is None and network.data.stores == "latents":
        return f"the data of network {network.name!r} are latents; to compare images, add reference: {REFERENCES}"
    for metric in score.metrics:
        images = trained_on(score, network.data) if of_training(metric) else score.reference or network.data
        for problem in (held_out_problem, reference_problem):
            if reason := problem(metric, images or score.reference):
                return reason
    for extractor in score.features:
        name = name_of(extractor)
        if extractor.trained and trained_on(score, network.data) is None:
            return f"{name!r} is trained on the images of a network, and {network.name!r} has none"
        if isinstance(score.reference, Published) and trained_on(score, network.data) is None:
            for metric in score.metrics:
                refused = of_training(metric) and fed(metric, extractor)
                if refused and (reason := refusal(score.reference, extractor, metric)):
                    return f"{name_of(metric)!r} on {name!r}: network {network.name!r} has no images, and {reason}"
        if differing := _widths(score.reference, network, extractor):
            ours, theirs = differing
            wide = f"{name!r} gives {ours:,} columns for images of {network.name!r}"
            return f"{wide}, but {theirs:,} for those of the reference"
        unread = isinstance(extractor, StandIn)
        decoded = score.decode is not None or network.autoencoder is not None
        if network.stores == "latents" and reads_pixels(extractor) and not decoded and not unread:
            fix = "add decode: {path: FOLDER of the VAE}, such as a copy of stabilityai/sd-vae-ft-ema"
            return f"network {network.name!r} makes latents, and {name!r} reads images; {fix}"
    return None


def _widths(reference: Any, network: Network, extractor: Any) -> tuple[int, int] | None:
    """Numbers of columns that an extractor gives for the network's and the reference's images, if both are known and
    differ: such features cannot be compared.
    """
    data = network.data
    if reference is None or data is None or isinstance(data, StandIn):
        return None
    with contextlib.suppress(OSError, ValueError):  # missing and invalid files are reported elsewhere
        shape = image_shape_of(reference)
        if data.stores == "pixels" and shape is not None:
            ours, theirs = (columns(extractor, each) for each in (data.shape, shape))
            return (ours, theirs) if ours != theirs else None
    return None


def image_shape_of(reference: Any) -> tuple[int, int, int] | None:
    """(C, H, W) of a reference's images, if known. Raises OSError or ValueError."""
    if isinstance(reference, Published):
        path = reference.local()
        images = reference.contents(path).images if path is not None else None
        return (images[3], images[1], images[2]) if images else None
    return tuple(reference.shape) if reference is not None and not isinstance(reference, StandIn) else None
