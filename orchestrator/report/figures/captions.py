"""Text of captions: how many samples and seeds there are, and what a band shows."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.estimates import Estimate
from orchestrator.report.formatting import SAMPLING_NOISE, count_text, over_seeds_text, plural, value_text
from orchestrator.report.results import Results


def sample_counts(results: Results, metric: str) -> set[int]:
    return {cell.scores[metric]["stamp"]["count"] for cell in results.cells if metric in cell.scores}


def sample_words(results: Results, metric: str) -> str:
    return f"N = {count_text(sample_counts(results, metric))} samples a cell"


def band_words(known: Sequence[Estimate], what: str) -> str:
    """What the intervals of these estimates show, and over how many seeds."""
    kinds = {one.interval for one in known}
    seeds = {len(one.seeds) for one in known}
    words = []
    if "t" in kinds:
        words.append(
            f"{what}: {over_seeds_text(seeds)} of each arm by itself; small circles: the seeds. "
            "Differences, paired by seed, are more certain than overlapping intervals suggest."
        )
    if "influence" in kinds:
        words.append(f"{what}{' with one seed' if 't' in kinds else ''}: {SAMPLING_NOISE}.")
    if not kinds & {"t", "influence"}:
        words.append(f"No interval: {plural(max(seeds, default=0), 'training seed')}.")
    return " ".join(words)


def floor_words(results: Results, metric: str) -> str:
    floor = results.floor_of(metric)
    if not floor:
        return ""
    words = f"Dotted: held-out images, {value_text(floor.value)}, {floor.words}"
    other_counts = sample_counts(results, metric) - {floor.at or floor.count}
    return f"{words} (distances grow as N falls: do not compare it with the cells)." if other_counts else f"{words}."
