"""`check --deep`: mistakes that show only when data and weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nag.guidance.fitting import misfit
from nag.guidance.terms import Setting
from nag.registry import name_of, source_of
from orchestrator.errors import BadInput
from orchestrator.identity import content
from orchestrator.spec.model import Cell, Network, ScoreSection, Sweep, networks_of
from orchestrator.spec.overrides import tree_of
from orchestrator.spec.reference_file import Published
from orchestrator.spec.score_section import image_shape_of, of_training, reads_pixels, too_few
from orchestrator.spec.user_code import user_line

STATES = 4  # per evaluation of a checkpoint


def check_inputs(sweep: Sweep) -> Iterator[str]:
    """Open everything that a sweep reads; a line for each valid input. Raises BadInput for the first invalid one."""
    try:
        yield from _checked(sweep)
    except BadInput as error:
        raise BadInput("\n".join(_with_line(sweep, line) for line in str(error).splitlines())) from error


def _with_line(sweep: Sweep, message: str) -> str:
    """Put file and line of its key before a message such as `networks.sit.data: ...`."""
    root = node = tree_of(sweep.text, sweep.path, sweep.overrides)
    for key in message.partition(": ")[0].split("."):
        child = node.get(key) if isinstance(node.value, dict) else None
        if child is None:
            break
        node = child
    return message if node is root else f"{node.place}: {message}"


def _checked(sweep: Sweep) -> Iterator[str]:
    seen: list[Any] = []
    shapes: dict[str, tuple[int, ...]] = {}  # of samples, by network
    for network in networks_of(sweep.cells, sweep.estimator):
        if network.data is not None and network.data not in seen:
            seen.append(network.data)
            yield _data(f"networks.{network.name}.data", network.data, _compared_with(sweep.score, training=True))
        if network.autoencoder is not None and (network.autoencoder, network.shape) not in seen:
            seen.append((network.autoencoder, network.shape))
            yield _autoencoder(network)
        if network.shape is not None:
            shapes[network.name] = network.shape
        if network.checkpoint:
            shapes[network.name], words = _checkpoint(sweep, network)
            yield words
    if sweep.score is not None:
        yield from _score(sweep, shapes)


def _refused(place: str, error: Exception, method: Any = None) -> Exception:
    """The message for an input that cannot be used: one line. A user's own code can raise anything, also before its
    first line; another unknown error is returned as it is.
    """
    own, known = user_line(error), isinstance(error, OSError | ValueError | ImportError)
    if own is None and not known and (method is None or source_of(method) is None):
        return error
    kind = "" if known else f"{type(error).__name__}: "
    return BadInput(f"{place}: {own + ': ' if own else ''}{kind}{' '.join(str(error).split())}")


def _check_rows(extractor: Any, given: Any, images: int) -> None:
    """Raise ValueError unless an extractor returned its outputs, each with a row for each image."""
    if isinstance(given, Mapping) and {*extractor.outputs} <= {*given}:
        shapes = {name: tuple(getattr(given[name], "shape", ())) for name in extractor.outputs}
        if all(len(shape) == 2 and shape[0] == images for shape in shapes.values()):
            return
        got = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    else:
        got = f"a mapping of {', '.join(map(str, given)) or 'nothing'}" if isinstance(given, Mapping) else repr(given)
    wanted = ", ".join(f"{name} [{images}, d]" for name in extractor.outputs)
    raise ValueError(f"of {images} images its function must return {{{wanted}}}, but it returned {got[:200]}")


def _compared_with(score: ScoreSection | None, *, training: bool) -> list[Any]:
    """The metrics whose reference is the training images, or what the sweep gives as the reference."""
    if score is None:
        return []
    return [metric for metric in score.metrics if (of_training(metric) or score.reference is None) is training]


def _data(key: str, data: Any, metrics: Iterable[Any]) -> str:
    from nag.datasets.dataset import originals

    try:
        problems = data.inspect()
        sizes = {} if problems else {split: originals(data.open(split)) for split in ("train", "held_out")}
    except Exception as error:
        raise _refused(key, error, data) from error
    if problems:
        raise BadInput("\n".join(f"{key}: {problem}" for problem in problems))
    for metric in metrics:
        if reason := too_few(metric, data, sizes["train"]):
            raise BadInput(f"{key}: {reason}")
    return f"{key}: {sizes['train']:,} training and {sizes['held_out']:,} held-out images, {data.num_classes:,} classes"


def _autoencoder(network: Network) -> str:
    """Check that the weights fit config.json, and that latents decode to images of the data's shape."""
    import torch

    key = f"networks.{network.name}.autoencoder"
    try:
        vae, latents = network.autoencoder.open("cpu"), network.shape
        images = tuple(vae.decode(torch.zeros(1, *latents)).shape[1:]) if latents else None
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"{key}: {error}") from error
    if network.data is not None and images != tuple(network.data.shape):
        raise BadInput(
            f"{key}: it makes images {list(images or ())}, but those of the data are {list(network.data.shape)}"
        )
    return f"{key}: images {list(images)} to latents {list(latents)} and back" if images and latents else f"{key}: good"


def _score(sweep: Sweep, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Open extractors, autoencoder and reference, and compare their shapes with those of the networks."""
    import torch

    score = sweep.score
    assert score is not None
    pixels = {name: shape for name, shape in shapes.items() if _stores(sweep, name) == "pixels"}
    if score.decode is not None:
        decoded = _decoded(sweep, shapes)
        yield "score.decode: " + ", ".join(
            f"{list(shapes[name])} of {name} to images {list(s)}" for name, s in decoded.items()
        )
        pixels |= decoded
    if isinstance(score.reference, Published):
        score.reference.fetched()
    elif score.reference is not None:
        yield _data("score.reference", score.reference, _compared_with(score, training=False))
    of_reference = image_shape_of(score.reference)
    dims: dict[str, dict[str, int]] = {}
    for extractor in score.features:
        if extractor.trained or not reads_pixels(extractor):
            continue
        name = name_of(extractor)
        try:
            _check_hash(extractor)
            extract = extractor.open(None, "cpu")
            given = extract(torch.zeros(2, *next(iter(pixels.values()), (3, 64, 64)), dtype=torch.uint8))
            held = extract(torch.zeros(2, *of_reference, dtype=torch.uint8)) if of_reference and pixels else given
            _check_rows(extractor, given, 2)
        except Exception as error:
            raise _refused(f"score.features: {name}", error, extractor) from error
        dims[name] = {output: rows.shape[1] for output, rows in given.items()}
        for output, rows in held.items():
            if rows.shape[1] != dims[name][output]:
                ours = f"of those of network {next(iter(pixels))} {dims[name][output]:,}"
                theirs = f"{name} gives {rows.shape[1]:,} {output} of its images {list(of_reference or ())}"
                raise BadInput(f"score.reference: {theirs}, {ours}")
        yield f"score.features: {name} gives " + ", ".join(f"{output} ({d:,})" for output, d in dims[name].items())
    if isinstance(score.reference, Published):
        yield _published(sweep, score.reference, dims)


def _stores(sweep: Sweep, name: str) -> str:
    return next(n.stores for n in networks_of(sweep.cells, sweep.estimator) if n.name == name)


def _check_hash(extractor: Any) -> None:
    """Check the hash of weights that are known by name, unless the sweep gives a path."""
    from nag.pretrained import check_cached, find

    for field, name in extractor.FILES.items():
        cached = find(name) if name and getattr(extractor, field) is None else None
        if cached is not None:
            check_cached(cached)


def _decoded(sweep: Sweep, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """By network, (C, H, W) of its decoded latents."""
    import torch

    assert sweep.score is not None
    decode = sweep.score.decode
    latents = {name: shape for name, shape in shapes.items() if _stores(sweep, name) == "latents"}
    try:
        vae = decode.open("cpu")
        return {name: tuple(vae.decode(torch.zeros(1, *shape)).shape[1:]) for name, shape in latents.items()}
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"score.decode: {error}") from error


def _published(sweep: Sweep, reference: Published, dims: Mapping[str, Mapping[str, int]]) -> str:
    from nag.reference_statistics import read_statistics

    assert sweep.score is not None
    path = reference.fetched()
    held = reference.contents(path)
    try:
        for extractor in sweep.score.features:
            if reference.moments_for(extractor, held):
                read_statistics(path, dict(dims[name_of(extractor)]))
    except (OSError, ValueError) as error:
        raise BadInput(f"score.reference: {error}") from error
    moments = [f"moments of {output} ({d:,})" for output, d in held.dims.items()]
    moments += [f"of {held.size:,} images"] if held.size else []
    images = [f"{held.images[0]:,} images {held.images[1]} x {held.images[2]}"] if held.images else []
    return f"score.reference: {', '.join(moments + images)}, {content(path)}"


def _checkpoint(sweep: Sweep, network: Network) -> tuple[tuple[int, ...], str]:
    """Load a checkpoint and compare it with every cell that uses it. Returns the shape of its states, and a line."""
    place = f"networks.{network.name}.checkpoint"
    try:
        field = _loaded(network)
    except Exception as error:
        raise _refused(place, error, network.model) from error
    for other in networks_of(sweep.cells, sweep.estimator):
        if (
            any(n is network for n in other.lineage)
            and other.shape is not None
            and tuple(other.shape) != tuple(field.shape)
        ):
            whose = "its data" if other is network else f"the data of {other.name}"
            what = "images" if other.autoencoder is None else "latents"
            raise BadInput(f"{place}: its states are {list(field.shape)}, the {what} of {whose} {list(other.shape)}")
    for cell in sweep.cells:
        if cell.network is network:
            _fits(place, cell, field)
    _evaluates(place, field)
    null = [words for words, has in (("noise", field.has_null_noise), ("class", field.has_null_class)) if has]
    conditions = f"null {' and '.join(null)} condition" if null else "no null condition"
    words = f"{place}: {list(field.shape)}, {field.num_classes} classes, predicts {field.predicts}, {conditions}"
    return tuple(field.shape), words


def _loaded(network: Network) -> Any:
    """The field of a checkpoint."""
    from nag.checkpoint import load_network

    assert network.checkpoint is not None
    if network.convention is None:
        return load_network(network.checkpoint, family=network.family, **network.given)
    return load_network(
        network.checkpoint,
        model=network.model,
        shape=network.shape,
        num_classes=network.num_classes,
        predicts=network.predicts,
        interpolant=network.interpolant,
        time=network.convention.time,
        precondition=network.convention.precondition,
        **network.given,
    )


def _evaluates(place: str, field: Any) -> None:
    """Evaluate a few states: finite weights can be so large that predictions are not finite."""
    import torch

    from nag import noise

    for t in (1.0, 0.5):
        x = torch.from_numpy(noise.normal(0, range(STATES), 0, field.shape))
        y = torch.arange(STATES) % field.num_classes
        try:
            out = field(x, torch.full((STATES,), t), y)
        except Exception as error:
            if user_line(error) is None:
                raise
            raise _refused(place, error) from error
        if not bool(torch.isfinite(out).all()):
            raise BadInput(
                f"{place}: its prediction at t = {t:g} is not finite, so its weights are damaged or too large"
            )


def _fits(place: str, cell: Cell, field: Any) -> None:
    for guidance in cell.guidance:
        for need in sorted(guidance.needs):
            if not getattr(field, f"has_{need}"):
                condition = need.replace("_", " ")
                fix = "fine-tune it with noise_dropout first, as sweeps/nag_ready.yaml does"
                raise BadInput(f"{place}: arm {cell.arm!r} needs the {condition} condition, which it lacks; {fix}")
    layers = getattr(field, "layers", 0)
    setting = Setting(field.interpolant, field.predicts, field.num_classes, layers, cell.sampler)
    misfitting = misfit(cell.guidance, cell.compose, setting)
    if misfitting is not None:
        raise BadInput(f"{place}: arm {cell.arm!r}: {misfitting}")
    reason = cell.sampler.refuses(field.interpolant, field.predicts)
    if reason is not None:
        raise BadInput(f"{place}: the sampler of arm {cell.arm!r} cannot sample it: {reason}")
