"""The levels at which samplers ask, and the price of a guided field there, against what is really called."""

from dataclasses import replace

import pytest
import torch

from nag.field import Calls
from nag.guidance.cfg import CFG
from nag.guidance.dog import DoG
from nag.guidance.nag import NAG
from nag.guidance.price import price
from nag.guidance.terms import Interval, Term
from nag.interpolants import GVP, VP, Linear
from nag.registry import METHODS, build, find
from nag.samplers.euler_maruyama import EulerMaruyama
from nag.samplers.fixed_step import FixedStep
from nag.sampling import guided
from tests.nag.gaussian_mixture import mixture

STEPPED = [name for name in METHODS["samplers"] if not find("samplers", name).adaptive]
SAMPLERS = [
    *(build("samplers", name, steps=steps) for name in STEPPED for steps in (2, 7)),
    EulerMaruyama(7, last_step="none"),
    EulerMaruyama(7, last_step="euler", last_step_size=0.1),
]


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_sampler_says_at_which_levels_it_asks(sampler, path):
    field, asked = replace(mixture(), interpolant=path), []
    if sampler.refuses(path, field.predicts):
        return

    def recorded(x, t, y):
        asked.extend(t[:1].tolist())
        return field(x, t, y)

    recorded.interpolant, recorded.predicts, recorded.shape = path, field.predicts, field.shape
    sampler(recorded, torch.tensor([0, 3]), lambda k: torch.ones(2, 2, 1, 1, dtype=torch.float64))
    assert sorted(asked) == sorted(sampler.called_at(path))
    assert len(asked) in (sampler.network_calls(), sampler.network_calls() - 1)  # Heun's last step on VP


def test_levels_are_not_known_where_steps_depend_on_the_states():
    assert find("samplers", "dopri5")().called_at(Linear()) is None


def test_a_subclass_with_more_calls_a_step_must_say_where():
    class Twice(FixedStep):
        def network_calls(self):
            return 2 * self.steps

    assert Twice(4).called_at(Linear()) is None


class Odd:
    """A user's guidance of three terms, one of them of a reference, on some channels and levels."""

    off, nests, reference = False, False, "other"
    needs = frozenset()

    def __init__(self, weight):
        self.weight = weight

    def terms(self):
        return (
            Term(False, False, self.weight, channels=1),
            Term(False, True, -self.weight, channels=1),
            Term(False, True, 0.5, "other", interval=Interval(low=0.3)),
            Term(True, False, -0.5, interval=Interval(low=0.3)),
        )


MIXES = [
    (),
    (CFG(1.5),),
    (CFG(0.0),),
    (CFG(0.0, channels=1),),
    (CFG(1.5, channels=1), NAG(2.0, interval=Interval(0.2, 0.6))),
    (CFG(1.5, interval=Interval(high=0.5)), NAG(2.0, interval=Interval(low=0.5))),
    (CFG(3.0), CFG(-1.0 + 2.0)),
    (CFG(2.0), CFG(0.0)),  # they cancel
    (DoG(1.5, "other"), CFG(1.25)),
    (DoG(0.0, "other"),),
    (DoG(1.5, "itself"), CFG(1.25)),
    (Odd(-1.0), NAG(0.5)),
    (Odd(0.5), CFG(2.0, interval=Interval(0.1, 0.3))),
]


@pytest.mark.parametrize("compose", ["sum", "nested"])
@pytest.mark.parametrize("mix", MIXES, ids=range(len(MIXES)))
def test_the_price_at_a_level_is_what_a_guided_field_evaluates(mix, compose):
    calls, own = Calls(), mixture()
    networks = {"itself": calls.counted(own), "other": calls.counted(mixture())}
    known = price(own, mix, {"itself": own, "other": "another"}, Linear(), compose=compose, channels=own.shape[0])
    field = guided(networks["itself"], mix, networks, compose)
    found = []
    x = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    for t in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.8, 1.0):
        before = calls.made
        field(x, torch.tensor([t], dtype=torch.float32), torch.tensor([1]))
        found.append(calls.made - before)
        assert known.at(t) == found[-1], t
    assert known.most == max(found)
    assert known.total([0.1, 0.1, 1.0]) == 2 * found[1] + found[-1]
