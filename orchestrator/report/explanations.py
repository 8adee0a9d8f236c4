"""What the words and numbers of a verdict mean, for a page that is read alone; docs/verdict.md has it at length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.report.estimates import headline_metric
from orchestrator.report.formatting import listed, metric_name
from orchestrator.report.results import Results
from orchestrator.report.verdict_table import margin_text
from orchestrator.report.verdicts import Verdict

TITLE = "What the words and numbers mean"


def explanations(results: Results, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """A line for each; none without verdicts."""
    metric = headline_metric(results)
    return (*_words(results, metric), *_numbers(verdicts)) if metric is not None and verdicts else ()


def _words(results: Results, metric: str) -> Iterator[str]:
    compare = results.plan.sweep.compare
    yield (
        "Better, worse: the difference from the baseline is not an accident of these trainings and samples, at 5 % for "
        "all comparisons together."
    )
    yield (
        "Alike: the difference is too small to matter: its adjusted interval lies within the margin, "
        f"{margin_text(compare)}. It may still differ from 0."
    )
    yield 'Undecided: neither a difference nor likeness could be shown. That is not "no difference".'
    if agree := [metric_name(results, name) for name in compare.agree if name in results.metrics]:
        yield f"Mixed: better in {metric_name(results, metric)}, but worse in one that must agree: {listed(agree)}."
    yield "Not tested: the best of several settings on the very samples that score it: a choice and not a test."


def _numbers(verdicts: Sequence[Verdict]) -> Iterator[str]:
    intervals = {one.interval for one in verdicts}
    yield "Difference: arm less baseline. In brackets its 95 % interval: about 95 of 100 such hold the true value."
    if "t" in intervals:
        yield (
            "Training seeds: differences are paired by seed and the interval is Student's t over them, so it speaks of "
            "networks that are trained like these."
        )
    if "influence" in intervals:
        yield (
            "One training seed: the interval is of the noise of sampling alone, so it speaks of these very networks; "
            "retraining is not in it."
        )
    yield (
        "Adjusted: corrected for the number of comparisons (Holm), so that of 100 sweeps whose arms are all equal, at "
        "most 5 call any arm better or worse. p: how often equal arms would differ as much by chance."
    )
    yield (
        "NFE: network function evaluations of one sample, which are its price. Most guidance takes two or three where "
        "plain sampling takes one."
    )
