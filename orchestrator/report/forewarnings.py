"""What is known of a comparison before anything runs: who has no partner, and what will hardly be decided."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from nag.intervals import samples_for_difference
from nag.registry import name_of
from orchestrator.report.comparisons import agree, held_equal, training_seeds
from orchestrator.report.formatting import listed, plural, short
from orchestrator.spec.model import Arm, StoredSweep, Sweep
from orchestrator.spec.parameters import is_seed
from orchestrator.spec.score_section import fed

Params = Mapping[str, Any]
T_OF_TWO, T_OF_THREE, T_OF_FIVE = 12.7, 4.3, 2.8  # Student's t, 97.5 %, of so many training seeds
SHAPES = (3, 64, 64), (3, 32, 32)  # an extractor with equal dimensions for both has them for every image


def forewarnings(sweep: Sweep) -> list[str]:
    """A line for each thing that will keep the sweep from deciding, with its numbers."""
    if sweep.score is None and not sweep.measures:
        return []
    cells: dict[str, list[Params]] = {arm.name: [] for arm in sweep.arms}
    tuned: dict[str, set[str]] = {arm.name: set() for arm in sweep.arms}
    for cell in sweep.cells:
        cells[cell.arm].append(cell.params)
        tuned[cell.arm] |= {*cell.tuned}
    at = {arm.name: f"{sweep.path}:{arm.line}: arms.{arm.name}" for arm in sweep.arms}
    lines = [f"{at[arm]}: {words}" for arm, words in without_partner(sweep, cells, tuned).items()]
    lines += [f"{at[arm]}: {words}" for arm, words in _unmatched(sweep, cells, tuned)]
    return [*lines, *_few_seeds(sweep, cells), *_few_samples(sweep)]


def without_partner(
    sweep: StoredSweep, cells: Mapping[str, Sequence[Params]], tuned: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """By arm, why settings of it cannot be compared with its baseline, and what that has. cells: the parameters of each
    arm's cells; tuned: those that are chosen for it.
    """
    words = {}
    for arm, baseline in _compared(sweep):
        overridden = arm.overrides | baseline.overrides
        free = frozenset(tuned.get(arm.name, ())) | frozenset(tuned.get(baseline.name, ()))
        ours, theirs = _settings(cells.get(arm.name, ())), _settings(cells.get(baseline.name, ()))
        alone = [one for one in ours if not any(agree(sweep, one, other, overridden, free) for other in theirs)]
        if not ours or not theirs:
            continue
        if alone:
            keys = [key for key in _keys(ours) if held_equal(sweep, key, overridden) and key not in free]
            why = _differing(alone, theirs, keys, baseline.name)
            part = "" if len(alone) == len(ours) else f"{len(alone)} of {plural(len(ours), 'setting')} of "
            words[arm.name] = (
                f"{part}this arm cannot be compared with {baseline.name}: {why}. Give both the same values, or name "
                f"another arm in against. Known: {', '.join(other.name for other in sweep.arms if other is not arm)}."
            )
        elif not _seeds(cells[arm.name]) & _seeds(cells[baseline.name]):
            mine, other = (_seed_words(_seeds(cells[name])) for name in (arm.name, baseline.name))
            words[arm.name] = (
                f"it is paired with {baseline.name} by training seed and they share none: this arm has {mine}, "
                f"{baseline.name} has {other}. Give both networks the same seeds."
            )
    return words


def _compared(sweep: StoredSweep) -> Iterator[tuple[Arm, Arm]]:
    """Each arm with its baseline."""
    arms = {arm.name: arm for arm in sweep.arms}
    yield from ((arm, arms[arm.against]) for arm in sweep.arms if arm.against is not None)


def _settings(cells: Iterable[Params]) -> list[Params]:
    """Distinct parameters without seeds."""
    bare = ({key: value for key, value in params.items() if not is_seed(key)} for params in cells)
    return list({repr(params): params for params in bare}.values())


def _keys(settings: Iterable[Params]) -> list[str]:
    return list(dict.fromkeys(key for params in settings for key in params))


def _differing(alone: list[Params], theirs: list[Params], keys: Iterable[str], baseline: str) -> str:
    """`sampler.steps is 20, and plain has 10 and 50`: the first parameter of which the baseline has no such value."""
    shared = [key for key in keys if any(key in other for other in theirs)]
    for key in shared:
        mine, known = _values(alone, key), _values(theirs, key)
        if mine and not {*mine} & {*known}:
            return f"{key} is {listed(mine)}, and {baseline} has {listed(known)}"
    return f"no setting of {baseline} has the same {listed(shared)} together"


def _values(settings: Iterable[Params], key: str) -> list[str]:
    return list(dict.fromkeys(short(params[key]) for params in settings if key in params))


def _seeds(cells: Iterable[Params]) -> set[tuple[Any, ...]]:
    return {tuple(value for _, value in training_seeds(params)) for params in cells}


def _seed_words(seeds: set[tuple[Any, ...]]) -> str:
    every = sorted({str(value) for seed in seeds for value in seed})
    return listed(every) or "none"


def _scales(sweep: StoredSweep, cells: Sequence[Params]) -> dict[str, list[str]]:
    """The values of each scale of guidance in an arm."""
    keys = [key for key in _keys(cells) if sweep.is_guidance(key) and key.endswith(".scale")]
    return {key: _values(cells, key) for key in keys}


def _unmatched(
    sweep: Sweep, cells: Mapping[str, Sequence[Params]], tuned: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str]]:
    """Arms of unlike guidance that are compared at scales as they are written."""
    matches = {cell.arm: cell.matches for cell in sweep.cells if cell.matches}
    for arm, baseline in _compared(sweep):
        ours, theirs = _scales(sweep, cells[arm.name]), _scales(sweep, cells[baseline.name])
        if not ours or not theirs or arm.name in matches or baseline.name in matches:
            continue
        written = [
            {key: values for key, values in scales.items() if key not in tuned[name] and len(values) == 1}
            for scales, name in ((ours, arm.name), (theirs, baseline.name))
        ]
        unlike = not theirs.keys() <= ours.keys()  # else the arm adds to its baseline, at the same scale
        chosen_alone = bool(tuned[arm.name]) and not tuned[baseline.name]
        if (not written[1] and not (unlike and written[0])) or not (unlike or chosen_alone):
            continue
        shown = "; ".join(f"{key} {values[0]}" for scales in written for key, values in scales.items())
        yield (
            arm.name,
            f"it is compared with {baseline.name} at scales that are neither tuned nor matched ({shown}), so a "
            "difference may be one of strength alone. {tune: {low: 1, high: 4}} chooses each scale on samples of its "
            "own; cfg: {scale: {match: ARM}} moves the samples as far as another arm.",
        )


def _few_seeds(sweep: Sweep, cells: Mapping[str, Sequence[Params]]) -> Iterator[str]:
    two = [arm.name for arm, _ in _compared(sweep) if len(_seeds(cells[arm.name])) == 2]
    if two:
        yield (
            f"2 training seeds ({listed(two)}): a 95 % interval of a difference is t = {T_OF_TWO} standard errors to "
            f"each side, with 3 seeds {T_OF_THREE}, with 5 seeds {T_OF_FIVE}. With so few, hardly anything is decided."
        )


def _few_samples(sweep: Sweep) -> Iterator[str]:
    """Extractors with more dimensions than the samples of a cell can tell about."""
    if sweep.score is None or not any(_compared(sweep)):
        return
    count = min(cell.sample.count for cell in sweep.cells)
    for extractor in sweep.score.features:
        names = [
            name
            for metric in sweep.score.metrics
            if getattr(metric, "extrapolates", False) is True and fed(metric, extractor)
            for name in metric.names
        ]
        d = _dimension(sweep, extractor)
        if not names or not d or count >= (enough := samples_for_difference(d)):
            continue
        singular = "; there are fewer samples than dimensions, so covariances are singular" if count <= d else ""
        yield (
            f"score.features: {name_of(extractor)}: {count:,} samples of each cell and {d:,} dimensions: below "
            f"{enough:,} samples the intervals of differences in {listed(names)} cover less than 95 %{singular}. "
            "Raise sample.count."
        )


def _dimension(sweep: Sweep, extractor: Any) -> int:
    """Columns of an extractor's features; 0 if they are not known in advance."""
    dims, network = getattr(extractor, "dims", None), sweep.cells[0].network
    if not callable(dims):
        return 0
    shape = network.shape if network.stores == "pixels" else None
    every = [dims(each).get("features", 0) for each in ([shape] if shape else SHAPES)]
    return every[0] if len({*every}) == 1 else 0
