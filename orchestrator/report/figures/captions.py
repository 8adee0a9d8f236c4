"""What a caption owes its reader: how many samples, how many seeds, what a band is."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.estimates import Estimate
from orchestrator.report.formatting import count_text, plural, value_text
from orchestrator.report.results import Results


def counts(results: Results, metric: str) -> set[int]:
    return {cell.scores[metric]["stamp"]["count"] for cell in results.cells if metric in cell.scores}


def sample_words(results: Results, metric: str) -> str:
    return f"N = {count_text(counts(results, metric))} samples a cell"


def band_words(known: Sequence[Estimate], what: str) -> str:
    """What the intervals of these estimates are, and how many seeds are behind them."""
    kinds = {one.interval for one in known}
    seeds = {len(one.seeds) for one in known}
    words = []
    if "t" in kinds:
        over = plural(max(seeds), "training seed") if len(seeds) == 1 else f"{count_text(seeds)} training seeds"
        words.append(
            f"{what}: 95 % interval (Student's t) over {over} of each arm by itself; small circles: the seeds. "
            "Differences, paired by seed, are more certain than overlapping intervals suggest."
        )
    if "influence" in kinds:
        words.append(
            f"{what}{' with one seed' if 't' in kinds else ''}: 95 % sampling noise of one training only; "
            "another training may differ by more."
        )
    if not kinds & {"t", "influence"}:
        words.append(f"No interval: {plural(max(seeds, default=0), 'training seed')}.")
    return " ".join(words)


def floor_words(results: Results, metric: str) -> str:
    floor = results.floor_of(metric)
    if not floor:
        return ""
    words = f"Dotted: held-out images, {value_text(floor.value)}, {floor.words}"
    unlike = counts(results, metric) - {floor.at or floor.count}
    return f"{words} (a distance grows as N falls: not to be compared with the cells)." if unlike else f"{words}."
