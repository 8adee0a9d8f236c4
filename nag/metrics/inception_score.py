"""Inception Score (Salimans et al., NeurIPS 2016, eq. 1): how sure, and how varied, a classifier finds the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nag.metrics import Score, Scores, rows
from nag.registry import Int, method

if TYPE_CHECKING:
    import numpy as np


@method
class InceptionScore:
    """exp of the mean of KL(p_i || mean p), p_i = softmax of sample i's logits: of all samples, or, with `splits`, the
    mean over as many runs of samples in their order, as the field's 10.

    It is biased downward, by about (classes - 1) / 2N of itself at the most, and more in splits: compare at equal N and
    splits. The interval is of its expectation at that N, from each sample's influence, IS (KL_i - mean KL).
    """

    splits: Annotated[Int, Field(ge=1, le=1000)] = 1

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    names: ClassVar[tuple[str, ...]] = ("inception_score",)
    lower_is_better: ClassVar[dict[str, bool]] = {"inception_score": False}
    extrapolates: ClassVar[bool] = False

    @property
    def least(self) -> int:
        return 2 * self.splits

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """logits (N, classes) of the samples; the reference is not used. arrays: influence (N,) float32.

        Raises ValueError below two samples a split and for values that are not finite.
        """
        import numpy as np

        from nag.intervals import influence_interval

        logits = rows(samples, "logits", "sample logits", self.least)
        n = len(logits)
        runs = [slice(i * n // self.splits, (i + 1) * n // self.splits) for i in range(self.splits)]
        found = [_score(logits[run]) for run in runs]
        value = sum(score for score, _ in found) / self.splits
        # A sample moves its run's score by IF over the run's length, and the mean by that over `splits`.
        IF = np.concatenate([influence * (n / (self.splits * len(influence))) for _, influence in found])
        low, high = influence_interval(value, IF)
        score = Score(value=value, low=low, high=high, extrapolated=None, reason=None)
        return Scores(values={"inception_score": score}, arrays={"influence": IF.astype("float32")})


def _score(logits: np.ndarray) -> tuple[float, np.ndarray]:
    """The score of one run, and the (N,) influence of its samples on it."""
    import numpy as np

    from nag.metrics.moments import ROWS
    from nag.metrics.neighbours import parts

    entropy, mean = np.empty(len(logits)), np.zeros(logits.shape[1])  # entropy: sum of p log p
    for part in parts(0, len(logits), ROWS):
        log_p = _log_softmax(logits[part])
        p = np.exp(log_p)
        entropy[part] = (p * log_p).sum(axis=1)
        mean += p.sum(axis=0) / len(logits)
    log_mean = np.log(mean, out=np.zeros_like(mean), where=mean > 0)  # a class that nobody has adds nothing
    KL = entropy - np.concatenate(
        [np.exp(_log_softmax(logits[part])) @ log_mean for part in parts(0, len(logits), ROWS)]
    )
    score = float(np.exp(KL.mean()))
    return score, score * (KL - KL.mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    x = np.asarray(logits, dtype=np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
