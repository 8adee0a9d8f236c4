import math
from itertools import permutations

import pydantic
import pytest
import torch

from nag import sample
from nag.field import NetworkField
from nag.guidance import Term
from nag.guidance.cfg import CFG
from nag.guidance.nag import NAG
from nag.interpolants import Linear
from nag.registry import METHODS, build
from nag.sampling import guided
from tests.nag.gaussian_mixture import mixture

BOTH = (CFG(1.75), NAG(2.1))


def state(n=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=generator)
    return x, torch.linspace(0.2, 0.9, n, dtype=torch.float64), torch.arange(n) % 3


def branches(field, x, t, y):
    null_t, null_y = torch.full_like(t, -1), torch.full_like(y, field.num_classes)
    return field(x, t, y), field(x, t, null_y), field(x, null_t, y)


@pytest.mark.parametrize("predicts", ["velocity", "eps", "x0", "score"])
def test_guided_fields_are_their_papers_equations(predicts):
    field, (x, t, y) = mixture(predicts), state()
    d, null_class, null_noise = branches(field, x, t, y)
    for guidance, expected in (
        ((CFG(2.5),), null_class + 2.5 * (d - null_class)),
        ((NAG(1.3),), (1.3 + 1) * d - 1.3 * null_noise),
        ((CFG(2.5), NAG(1.3)), d + 1.5 * (d - null_class) + 1.3 * (d - null_noise)),
        ((CFG(0.0),), null_class),
    ):
        torch.testing.assert_close(guided(field, guidance)(x, t, y), expected)


def test_off_is_the_field_itself():
    field = mixture()
    for nothing in ((), (CFG(1),), (NAG(0),), (NAG(0.0), CFG(1.0))):
        assert guided(field, nothing) is field
    assert guided(field, (CFG(1), NAG(2))).terms == guided(field, (NAG(2),)).terms


def test_one_batch_and_merged_terms():
    x, t, y = state(4)
    for guidance, terms in (((CFG(2),), 2), ((NAG(2),), 2), (BOTH, 3), ((CFG(0),), 1), ((CFG(2), CFG(3)), 2)):
        field = mixture()
        mixed = guided(field, guidance)
        mixed(x, t, y)
        assert mixed.calls == terms
        assert field.batches == [4 * terms]
    assert guided(field, (CFG(2), CFG(3))).terms == (Term(False, False, 4), Term(False, True, -3))


@pytest.mark.parametrize("name", METHODS["guidance"])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.1, 7.7, 1000.0])
def test_weights_sum_to_one(name, scale):
    guidance = build("guidance", name, scale=scale)
    assert math.fsum(term.weight for term in guidance.terms()) == 0
    terms = getattr(guided(mixture(), (guidance, CFG(1.3))), "terms", ())
    assert math.fsum(term.weight for term in terms) == pytest.approx(1, abs=1e-12)


def test_order_does_not_matter_to_the_last_bit():
    field, (x, t, y) = mixture(), state()
    results = [guided(field, order)(x, t, y) for order in permutations((CFG(1.1), NAG(0.7), CFG(2.3), NAG(1 / 3)))]
    assert all(torch.equal(results[0], r) for r in results)


def test_a_guided_field_is_a_field_and_can_be_guided():
    field, (x, t, y) = mixture(), state()
    outer = guided(guided(field, (NAG(1.5),)), (CFG(2.0),))
    null_y = torch.full_like(y, field.num_classes)
    inner = guided(field, (NAG(1.5),))
    torch.testing.assert_close(outer(x, t, y), 2 * inner(x, t, y) - inner(x, t, null_y))
    assert outer.calls == 4
    assert (outer.shape, outer.num_classes, outer.predicts) == (field.shape, field.num_classes, field.predicts)


def test_a_field_of_ones_own_needs_only_what_the_contract_names():
    class Own:
        interpolant, predicts, shape, num_classes, has_null_noise = Linear(), "velocity", (2, 1, 1), 3, True

        def __call__(self, x, t, y):
            return x * (1 + t + y)[:, None, None, None]

    x, t, y = state()
    d, null_class, null_noise = branches(Own(), x, t, y)
    mixed = guided(Own(), (CFG(2.0), NAG(0.5)))
    torch.testing.assert_close(mixed(x, t, y), d + (d - null_class) + 0.5 * (d - null_noise))
    assert mixed.calls == 3


@pytest.mark.parametrize("sampler", METHODS["samplers"])
def test_sampling_with_guidance(sampler):
    """One guidance or a tuple, in any order; off is plain; samplers see only a field."""
    field, sampler = mixture(), build("samplers", sampler, steps=4)
    x, _, y = state(3)

    def draw(guidance):
        return sample(field, sampler, noise=lambda k: x * (1 + k), labels=y, guidance=guidance)

    plain = draw(None)
    assert torch.equal(plain, draw(()))
    assert torch.equal(plain, draw((CFG(1), NAG(0))))
    assert torch.equal(draw(NAG(1.5)), draw((NAG(1.5),)))
    assert torch.equal(draw(BOTH), draw(BOTH[::-1]))
    assert not torch.allclose(plain, draw(NAG(1.5)))


def test_a_missing_null_condition_is_told():
    field = mixture()
    field.has_null_noise = field.has_null_class = False
    for guidance, lacks in ((NAG(1), "NAG needs .* null noise"), (CFG(2), "CFG needs .* null class")):
        with pytest.raises(ValueError, match=lacks):
            guided(field, (guidance,))
    assert guided(field, (NAG(0), CFG(1))) is field


def test_a_missing_reference_is_told():
    class Other:
        needs, off = frozenset(), False

        def terms(self):
            return Term(False, False, 1.0), Term(False, False, -1.0, "pre")

    with pytest.raises(ValueError, match="reference network 'pre'"):
        guided(mixture(), (Other(),))


@pytest.mark.parametrize("name", METHODS["guidance"])
@pytest.mark.parametrize("fields", [{}, {"scale": -0.1}, {"scale": 1001}, {"scale": "2"}, {"scale": True}, {"w": 1}])
def test_bad_fields_are_refused(name, fields):
    with pytest.raises(pydantic.ValidationError):
        build("guidance", name, **fields)
    with pytest.raises(pydantic.ValidationError):
        build("guidance", name, scale=float("nan"))


class Doubling(torch.nn.Module):
    """A network of 2C channels: the mean depends on its condition, the variance is told apart by sign."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t, y):
        mean = self.weight * x * (1 + t + y)[:, None, None, None]
        return torch.cat([mean, -mean], dim=1)


def test_guidance_mixes_the_first_channels_and_keeps_the_variance():
    field = NetworkField(Doubling(), Linear(), "eps", (2, 1, 1), 3, True, True)
    x, t, y = (v.float() if v.is_floating_point() else v for v in state())
    d, null_class, _ = branches(field, x, t, y)
    out = guided(field, (CFG(3.0),))(x, t, y)
    torch.testing.assert_close(out[:, :2], (null_class + 3 * (d - null_class))[:, :2])
    torch.testing.assert_close(out[:, 2:], d[:, 2:])
    assert not out.requires_grad


def test_a_field_expands_nothing():
    field = NetworkField(Doubling(), Linear(), "eps", (2, 1, 1), 3, True, True)
    x, t, y = state(4)
    for bad in ((x, t[:1], y), (x, t, y[:1]), (x[:, :1], t, y), (x, t[0], y)):
        with pytest.raises(ValueError, match=r"must be \(N, 2, 1, 1\), \(N,\), \(N,\); got"):
            field(*bad)
