import math
from itertools import permutations

import pydantic
import pytest
import torch

from nag import sample
from nag.field import Calls, NetworkField
from nag.guidance.cfg import CFG
from nag.guidance.dog import DoG
from nag.guidance.guided_field import CPU_NUMBERS
from nag.guidance.nag import NAG
from nag.guidance.terms import Interval, Term
from nag.interpolants import Linear
from nag.registry import METHODS, build, find
from nag.sampling import guided
from orchestrator.identity import changed_fields
from tests.nag.gaussian_mixture import GaussianMixture, mixture

BOTH = (CFG(1.75), NAG(2.1))


SCALED = [name for name in METHODS["guidance"] if "scale" in find("guidance", name).__pydantic_fields__]


def made(name, **fields):
    """A guidance; one that needs a reference is given its name, one that perturbs layers the first."""
    needed = {"reference": "other", "layers": (0,)}
    known = find("guidance", name).__pydantic_fields__
    return build("guidance", name, **{key: value for key, value in needed.items() if key in known}, **fields)


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
    assert guided(field, (CFG(1), NAG(2))) == guided(field, (NAG(2),))
    assert guided(field, (DoG(1.0, "nowhere"),)) is field


def test_one_batch_and_merged_terms():
    x, t, y = state(4)
    for guidance, terms in (((CFG(2),), 2), ((NAG(2),), 2), (BOTH, 3), ((CFG(0),), 1), ((CFG(2), CFG(3)), 2)):
        field = mixture()
        mixed = guided(field, guidance)
        mixed(x, t, y)
        assert mixed.calls == terms
        assert field.batches == [4 * terms]
    torch.testing.assert_close(guided(field, (CFG(2), CFG(3)))(x, t, y), guided(field, (CFG(4),))(x, t, y))


def test_on_a_cpu_large_batches_are_evaluated_branch_by_branch():
    """With the same numbers; on other devices it stays one batch."""
    field = mixture()
    mixed = guided(field, (CFG(2), NAG(1)))
    most = CPU_NUMBERS // 2  # samples of two numbers
    for n, batches in (
        (most // 3, [3 * (most // 3)]),
        (most // 2, [most // 2 * 2, most // 2]),
        (most + 1, 3 * [most + 1]),
    ):
        field.batches.clear()
        x, t, y = state(n)
        several = mixed(x, t, y)
        assert field.batches == batches
    torch.testing.assert_close(several[:7], mixed(x[:7], t[:7], y[:7]))
    large = GaussianMixture(torch.zeros(3, 1, 80, 80, dtype=torch.float64), field.stds, field.weights)
    assert large.means[0].numel() > CPU_NUMBERS
    one = torch.ones(1, dtype=torch.float64)
    guided(large, (CFG(2), NAG(1)), compose="nested")(torch.zeros_like(large.means[:1]), one / 2, torch.tensor([0]))
    assert large.batches == [4], "branches of a single sample share a batch, whatever its size"


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.1, 7.7, 1000.0])
def test_weights_sum_to_one(name, scale):
    if name == "cfgpp" and scale > 1:
        return
    guidance = made(name, scale=scale)
    assert math.fsum(term.weight for term in guidance.terms() if not term.gradient) == 0


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


SAMPLERS = [
    build("samplers", name, **({"steps": 4} if "steps" in find("samplers", name).__pydantic_fields__ else {}))
    for name in METHODS["samplers"]
]


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s.refuses(Linear(), "velocity") is None], ids=repr)
def test_sampling_with_guidance(sampler):
    """One guidance or a tuple, in any order; off is plain; samplers see only a field."""
    if sampler == build("samplers", "dopri5"):
        pytest.importorskip("torchdiffeq")
    field = mixture()
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


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scale": -0.1},
        {"scale": 1001},
        {"scale": "2"},
        {"scale": True},
        {"scale": float("nan")},
        {"scale": 2, "w": 1},
        {"scale": 2, "interval": {"low": 0.8, "high": 0.1}},
        {"scale": 2, "interval": {"low": -0.1}},
        {"scale": 2, "interval": {"high": 1.5}},
        {"scale": 2, "interval": {"low": "0.1"}},
        {"scale": 2, "interval": {"hgih": 0.9}},
        {"scale": 2, "interval": (0.1, 0.9)},
        {"scale": 2, "interval": None},
    ],
)
def test_bad_fields_are_refused(name, fields):
    with pytest.raises(pydantic.ValidationError):
        made(name, **fields)


@pytest.mark.parametrize("channels", [0, -1, 2.5, "3", "none", True, None])
def test_bad_channels_are_refused(channels):
    with pytest.raises(pydantic.ValidationError):
        CFG(2, channels=channels)
    with pytest.raises(ValueError, match="CFG guides 3 channels, and states have 2"):
        guided(mixture(), (CFG(2, channels=3),))


@pytest.mark.parametrize("name", SCALED)
def test_an_interval_is_a_mapping_and_the_whole_one_is_none(name):
    part = made(name, scale=1, interval={"low": 0.1, "high": 8e-1})
    assert part.interval == Interval(0.1, 0.8)
    assert made(name, scale=1, interval={"high": 0.8}).interval == Interval(0.0, 0.8)
    whole, plain = made(name, scale=1, interval={"low": 0, "high": 1}), made(name, scale=1)
    assert whole == plain
    assert "interval" not in changed_fields(whole)
    assert changed_fields(part)["interval"] == {"low": 0.1, "high": 0.8}
    assert changed_fields(made(name, scale=1, interval={"high": 0.8}))["interval"] == {"high": 0.8}
    assert made(name, **{k: v for k, v in changed_fields(part).items() if k not in ("reference", "layers")}) == part


@pytest.mark.parametrize("guidance", [CFG(2.5, interval=Interval(0.3, 0.6)), NAG(1.5, Interval(0.3, 0.6))], ids=repr)
def test_guidance_acts_within_its_interval_ends_included(guidance):
    field, (x, _, y) = mixture(), state(5)
    always = guided(field, (build("guidance", guided_name(guidance), scale=guidance.scale),))
    mixed = guided(field, (guidance,))
    for t, on in ((0.0, False), (0.29, False), (0.3, True), (0.45, True), (0.6, True), (0.61, False), (1.0, False)):
        for dtype in (torch.float64, torch.float32):
            level = torch.full((5,), t, dtype=dtype)
            field.batches.clear()
            assert torch.equal(mixed(x, level, y), (always if on else field)(x, level, y))
            assert field.batches[0] == (10 if on else 5), "what does not act is not evaluated"


def guided_name(guidance):
    return {CFG: "cfg", NAG: "nag"}[type(guidance)]


def test_samples_of_one_batch_may_be_at_different_levels():
    field, (x, t, y) = mixture(), state(6)
    mixed = guided(field, (CFG(2.5, interval=Interval(0.3, 0.6)), NAG(1.5, Interval(0.5, 1.0))))
    alone = [mixed(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(6)]
    field.batches.clear()
    torch.testing.assert_close(mixed(x, t, y), torch.cat(alone))
    assert sum(field.batches) == sum(1 + (0.3 <= level <= 0.6) + (level >= 0.5) for level in t.tolist())
    assert mixed(x[:0], t[:0], y[:0]).shape == (0, 2, 1, 1)


@pytest.mark.parametrize("guidance", [BOTH, (NAG(1.2),), (CFG(3, channels=1),)], ids=repr)
def test_interval_of_everything_is_none(guidance):
    field, (x, t, y) = mixture(), state()
    whole = tuple(build("guidance", guided_name(g), **vars(g) | {"interval": {"low": 0, "high": 1}}) for g in guidance)
    assert torch.equal(guided(field, whole)(x, t, y), guided(field, guidance)(x, t, y))


def test_calls_are_counted_as_they_are_made():
    field, (x, _, y) = mixture(), state(3)
    for guidance, calls in (
        ((), 10),
        (BOTH, 30),
        ((CFG(2, interval=Interval(0.25, 0.65)),), 10 + 4),  # levels 1.0, 0.9, ..., 0.1
        ((CFG(2, interval=Interval(0.0, 0.3)), NAG(1, Interval(0.2, 1.0))), 10 + 3 + 9),
    ):
        counter = Calls()
        counted = counter.counted(field)
        assert counter.counted(field) is counted
        sample(counted, build("samplers", "euler", steps=10), noise=lambda k: x, labels=y, guidance=guidance)
        assert counter.made == 3 * calls


def test_each_range_of_channels_has_its_own_weights():
    """CFG on the first channel and NAG on all: the second channel sees NAG alone."""
    field, (x, t, y) = mixture(), state()
    d, null_class, null_noise = branches(field, x, t, y)
    field.batches.clear()
    mixed = guided(field, (CFG(2.5, channels=1), NAG(1.3)))(x, t, y)
    assert field.batches == [3 * 4]
    torch.testing.assert_close(mixed[:, :1], (d + 1.5 * (d - null_class) + 1.3 * (d - null_noise))[:, :1])
    torch.testing.assert_close(mixed[:, 1:], (d + 1.3 * (d - null_noise))[:, 1:])
    assert torch.equal(guided(field, (CFG(2.5, channels=2),))(x, t, y), guided(field, (CFG(2.5),))(x, t, y))
    both = guided(field, (CFG(2.5, channels=1), CFG(0.5)))(x, t, y)
    torch.testing.assert_close(both, torch.cat([d[:, :1] + (d - null_class)[:, :1], (d + null_class)[:, 1:] / 2], 1))


@pytest.mark.parametrize("predicts", ["velocity", "eps", "x0", "score"])
def test_nested_is_nag_inside_both_branches_of_cfg(predicts):
    field, (x, t, y) = mixture(predicts), state()
    s, w = 2.5, 1.3
    inner = guided(field, (NAG(w),))
    d, null = inner(x, t, y), inner(x, t, torch.full_like(y, 3))
    field.batches.clear()
    nested = guided(field, (CFG(s), NAG(w)), compose="nested")
    torch.testing.assert_close(nested(x, t, y), null + s * (d - null))
    assert field.batches == [4 * 4]
    assert nested.calls == 4
    assert torch.equal(nested(x, t, y), guided(field, (NAG(w), CFG(s)), compose="nested")(x, t, y))
    for alone in ((CFG(s),), (NAG(w),)):
        assert torch.equal(guided(field, alone, compose="nested")(x, t, y), guided(field, alone)(x, t, y))


def test_nested_on_one_channel_and_within_intervals():
    field, (x, _, y) = mixture(), state()
    nested = guided(field, (CFG(2.5, 1, Interval(0.2, 0.7)), NAG(1.3, Interval(0.5, 1.0))), compose="nested")
    for level in (0.1, 0.3, 0.6, 0.9):
        t = torch.full((4,), level, dtype=torch.float64)
        inner = guided(field, (NAG(1.3),)) if level >= 0.5 else field
        d, null = inner(x, t, y), inner(x, t, torch.full_like(y, 3))
        s = torch.tensor([2.5, 1.0])[:, None, None] if 0.2 <= level <= 0.7 else 1.0
        torch.testing.assert_close(nested(x, t, y), null + s * (d - null))


def test_an_unknown_compose_is_refused():
    with pytest.raises(ValueError, match="unknown compose 'product'; known: sum, nested"):
        guided(mixture(), BOTH, compose="product")


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
    unconditional = guided(field, (CFG(0.0),))(x, t, y)
    torch.testing.assert_close(unconditional[:, :2], null_class[:, :2])
    torch.testing.assert_close(unconditional[:, 2:], d[:, 2:])
    assert torch.equal(guided(field, (CFG(3.0, channels=1),))(x, t, y)[:, 2:], d[:, 2:])


def test_a_field_expands_nothing():
    field = NetworkField(Doubling(), Linear(), "eps", (2, 1, 1), 3, True, True)
    x, t, y = state(4)
    for bad in ((x, t[:1], y), (x, t, y[:1]), (x[:, :1], t, y), (x, t[0], y)):
        with pytest.raises(ValueError, match=r"must be \(N, 2, 1, 1\), \(N,\), \(N,\); got"):
            field(*bad)
