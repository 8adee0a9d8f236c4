"""States that stop being finite: the step is named, however rarely the answers are read."""

from __future__ import annotations

import math

import pytest
import torch

from nag.finite import FiniteStates

BAD = torch.tensor([0.0, math.nan])


@pytest.mark.parametrize("every", [1, 4, 16])
@pytest.mark.parametrize("bad", range(1, 11))
def test_the_first_bad_step_is_named(every: int, bad: int) -> None:
    finite = FiniteStates(9, every)

    def steps() -> None:
        for k in range(1, 11):
            finite(k, k / 100, BAD if k >= bad else torch.zeros(2))
        finite.read()

    with pytest.raises(FloatingPointError, match=rf"at step {bad - 1} of 9 \(t = {bad / 100:g}\)"):
        steps()


def test_infinity_is_not_finite_and_unknown_steps_are_left_out() -> None:
    finite = FiniteStates()
    with pytest.raises(FloatingPointError, match=r"at step 2 \(t"):
        finite(3, 0.5, torch.tensor([math.inf]))


def test_who_observes_sees_no_bad_state() -> None:
    seen: list[int] = []
    finite = FiniteStates(9, 16, lambda k, t, x: seen.append(k))
    finite(1, 1.0, torch.zeros(2))
    with pytest.raises(FloatingPointError):
        finite(2, 0.9, BAD)
    assert seen == [1]


def test_the_next_batch_starts_anew() -> None:
    finite = FiniteStates(2, 16)
    finite(1, 1.0, BAD)
    with pytest.raises(FloatingPointError):
        finite.read()
    finite(1, 1.0, torch.zeros(2))
    finite.read()
    finite.read()


def test_a_sampler_waits_for_the_device_only_where_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance with intervals included: 20 steps, two looks of sixteen, and the labels, which are checked once."""
    from nag.guidance.cfg import CFG
    from nag.guidance.nag import NAG
    from nag.guidance.terms import Interval
    from nag.noise import Noise
    from nag.registry import build
    from nag.sampling import guided
    from tests.nag.test_precision import field

    asked: list[str] = []
    for name in ("tolist", "item", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        method = getattr(torch.Tensor, name)

        def counted(x: torch.Tensor, *given: object, name: str = name, method: object = method) -> object:
            asked.append(name)
            return method(x, *given)  # type: ignore[operator]

        monkeypatch.setattr(torch.Tensor, name, counted)
    mixed = guided(field(), (CFG(1.5, interval=Interval(0.2, 0.8)), NAG(1.0, Interval(0.0, 0.5))))
    finite, y = FiniteStates(20, 16), torch.zeros(3, dtype=torch.int64)
    noise = Noise(0, range(3), (1, 8, 8))
    asked.clear()
    build("samplers", "euler_maruyama", steps=20)(mixed, y, noise, observe=finite)
    finite.read()
    assert [name for name in asked if name != "__float__"] == ["tolist", "tolist"]
    assert len(asked) <= 2 + 20, "a level becomes a number on the CPU"
