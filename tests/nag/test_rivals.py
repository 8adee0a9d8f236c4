"""Guidance beyond sums of null conditions: closed forms on a Gaussian mixture, and what is left when it is off."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nag import sample
from nag.field import Calls, Change, Perturbation, everywhere
from nag.guidance.cfg import CFG
from nag.guidance.dog import DoG
from nag.guidance.epsilon_scaling import EpsilonScaling
from nag.guidance.icg import ICG
from nag.guidance.nag import NAG
from nag.guidance.price import price
from nag.guidance.rescale import Rescale
from nag.guidance.schedule import Schedule
from nag.guidance.self_guidance import SelfGuidance
from nag.guidance.terms import Interval
from nag.guidance.time_shift import TimeShift
from nag.guidance.tsg import TSG
from nag.interpolants import GVP, VP, Linear, convert
from nag.noise import OTHER_CLASS, Noise, uniform
from nag.registry import METHODS, build, find
from nag.sampling import guided
from tests.nag.gaussian_mixture import mixture
from tests.nag.networks import CLASSES, SHAPE, network

EULER = build("samplers", "euler", steps=6)


def state(level=0.6, n=4):
    x = torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.full((n,), level, dtype=torch.float64), torch.arange(n) % 3


def images(n=5):
    x = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return x, torch.full((n,), 0.6), torch.arange(n) % CLASSES


def drawn(field, guidance, indices=range(6), sampler=EULER, compose="sum"):
    """Samples of the small transformer, one class each."""
    y = torch.tensor([i % CLASSES for i in indices])
    noise = Noise(3, list(indices), SHAPE)
    return sample(field, sampler, noise=noise, labels=y, guidance=guidance, compose=compose)


@pytest.mark.parametrize("predicts", ["velocity", "eps", "x0", "score"])
@pytest.mark.parametrize("level", [0.3, 0.97])
def test_self_guidance(predicts, level):
    """D(t) + w (D(t) - D(t + d)), t + d at most 1, in one batch."""
    field, (x, t, y) = mixture(predicts), state(level)
    d, weak = field(x, t, y), field(x, torch.full_like(t, min(1.0, level + 0.05)), y)
    field.batches.clear()
    found = guided(field, (SelfGuidance(1.7, 0.05),))(x, t, y)
    assert field.batches == [8]
    torch.testing.assert_close(found, d + 1.7 * (d - weak))


def test_self_guidance_by_the_previous_step():
    """D + w (D - D of the step before), nothing in the first one, with as many evaluations as without."""
    field, (x, _, y) = mixture(), state()
    calls = Calls()
    found = sample(calls.counted(field), EULER, noise=lambda k: x, labels=y, guidance=SelfGuidance(1.5, previous=True))
    assert calls.made == 6 * len(x)
    before = None
    for k in range(6):
        d = field(x, torch.full((4,), 1 - k / 6, dtype=torch.float64), y)
        x = x - (d + 1.5 * (d - (d if before is None else before))) / 6
        before = d
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def test_independent_condition_guidance():
    """D' + w (D - D'), D' under a class that belongs to sample and call, never its own, all others equally."""
    field, y = mixture(), torch.tensor([0, 2, 1, 3])
    x, t, _ = state()
    noise = Noise(5, [7, 8, 9, 10], (2, 1, 1))
    run = guided(field, (ICG(1.4),)).begin(noise, [0.6, 0.5])
    for call in range(2):
        u = torch.from_numpy(uniform(5, [7, 8, 9, 10], call, (), OTHER_CLASS))
        other = torch.where(y < 3, (y + 1 + (2 * u).long()) % 3, (4 + (3 * u).long()) % 3)
        weak = field(x, t, other)
        torch.testing.assert_close(run(x, t, y), weak + 1.4 * (field(x, t, y) - weak))
    many = torch.zeros(3000, dtype=torch.int64)
    state_of = guided(field, (ICG(2.0),)).begin(Noise(0, range(3000), (2, 1, 1)), None).state
    counts = torch.bincount(state_of.other_class(many, 3), minlength=3).tolist()
    assert counts[0] == 0
    assert abs(counts[1] - 1500) < 4 * math.sqrt(750)


def test_time_step_guidance():
    """D' + w (D - D'), with s t^a n added to the embedded level of D' alone."""
    field, (x, t, y) = network(), images()
    noise = Noise(5, range(5), SHAPE)
    run = guided(field, (TSG(2.5, noise=2.0, power=1.5),)).begin(noise, None)
    added = 2.0 * 0.6**1.5 * run.state.embedding(32, t)
    weak = field.changed(x, t, y, [Change(slice(0, 5), embedding=added)])
    torch.testing.assert_close(run(x, t, y), weak + 2.5 * (field(x, t, y) - weak), rtol=1e-5, atol=1e-5)
    embedder = field.module.t_embedder
    embedder.forward = lambda time, plain=embedder.forward: plain(time) + added  # type: ignore[method-assign]
    torch.testing.assert_close(field(x, t, y), weak, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("predicts", ["velocity", "eps", "x0", "score"])
@pytest.mark.parametrize("path", [Linear(), VP()])
def test_epsilon_scaling(predicts, path):
    """eps / (k t + b) whatever is predicted; left out where alpha is 0, where eps is the state."""
    field, (x, t, y) = mixture(predicts, path), state()
    found = guided(field, (EpsilonScaling(1.01, 0.05),))(x, t, y)
    eps = convert(field(x, t, y), predicts, "eps", x, t, path)
    torch.testing.assert_close(convert(found, predicts, "eps", x, t, path), eps / (0.05 * 0.6 + 1.01))
    if path == Linear() and predicts in ("velocity", "x0"):
        assert torch.equal(guided(field, (EpsilonScaling(1.01),))(x, 0 * t + 1, y), field(x, 0 * t + 1, y))


def test_epsilon_scaling_is_after_guidance():
    field, (x, t, y) = mixture("eps"), state()
    mixed = guided(field, (CFG(2.0), EpsilonScaling(1.02)))(x, t, y)
    torch.testing.assert_close(mixed, guided(field, (CFG(2.0),))(x, t, y) / 1.02)


def test_time_shift_tells_the_level_whose_variance_the_state_has():
    """On states of pure noise of standard deviation s the linear path's level is s, within the window."""
    field = network()
    noise = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    noise = noise / noise.flatten(1).std(dim=1).view(-1, 1, 1, 1)
    stds = torch.tensor([0.55, 0.62, 0.9, 0.2])
    x, t, y = noise * stds.view(-1, 1, 1, 1), torch.full((4,), 0.6), torch.arange(4)
    expected = torch.tensor([0.55, 0.62, 0.7, 0.5])  # the window ends at 0.5 and 0.7
    shifted = guided(field, (TimeShift(0.2, 0.3),))
    torch.testing.assert_close(shifted(x, t, y), field(x, expected, y), rtol=1e-4, atol=1e-4)
    for level in (1.0, 0.3, 0.1):  # at the first state, and not above the cutoff
        assert torch.equal(shifted(x, 0 * t + level, y), field(x, 0 * t + level, y))


@pytest.mark.parametrize("path", [Linear(), VP()])
@pytest.mark.parametrize("predicts", ["velocity", "x0"])
def test_time_shift_on_the_mixture(path, predicts):
    """The exact field at the level, by thousandths within half a window, whose sigma^2 is closest to Var(x)."""
    field, (x, t, y) = mixture(predicts, path), state()
    told = [
        min((k / 1000 for k in range(550, 651)), key=lambda level, own=own: abs(path.sigma(level) ** 2 - own))
        for own in x.flatten(1).var(dim=1).tolist()
    ]
    found = guided(field, (TimeShift(0.1, 0.3),))(x, t, y)
    torch.testing.assert_close(found, field(x, torch.tensor(told, dtype=torch.float64), y))
    assert len(set(told)) > 1


@pytest.mark.parametrize("path", [Linear(), VP()])
def test_a_state_of_an_exact_level_is_told_it(path):
    """Data of variance 0: then Var(x_t) is sigma_t^2 and nothing is shifted by more than the estimate's error."""
    shift = TimeShift(0.4, 0.0)
    x = path.sigma(0.5) * torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    told = shift.told(guided(network(), (CFG(2),))._call(shift, x, torch.full((2,), 0.5))._replace(interpolant=path))
    assert float((told - 0.5).abs().max()) < 0.02


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()])
@pytest.mark.parametrize("guidance", [TimeShift(0.1, 0.3), EpsilonScaling(1.01, 0.05)])
def test_a_known_level_costs_less_and_changes_no_bit(path, guidance):
    """A sampler's calls, which are at one level, against levels that could differ."""
    field, (x, _, y) = dataclasses.replace(network(), interpolant=path), images()
    run = guided(field, (guidance,))
    for level in (1.0, 0.999, 0.6, 1 / 3, 0.3, 0.001):
        one, any_levels = everywhere(level, x), torch.full((len(x),), level)
        assert torch.equal(run(x, one, y), run(x, any_levels, y))
        assert _operations(run, x, one, y) < _operations(run, x, any_levels, y)
        for source, target in itertools.permutations(("velocity", "eps", "x0"), 2):
            converted = [convert(x, source, target, 2 * x, t, path) for t in (one, any_levels)]
            torch.testing.assert_close(*converted, rtol=0, atol=0, equal_nan=True)


def _operations(field, *inputs):
    """How many operations of torch a call makes."""

    class Counted(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.made += 1
            return func(*args, **(kwargs or {}))

    with Counted() as counted:
        field(*inputs)
    return counted.made


@pytest.mark.parametrize("kind", ["skip", "identity", "blur"])
def test_perturbed_blocks(kind):
    """Against the network whose block is changed by hand; rows beside it are those of the untouched network."""
    field, (x, t, y) = network(), images()
    perturbed = Perturbation(kind, (1,), math.inf if kind == "blur" else 0.0)
    both = field.changed(*(torch.cat([each, each]) for each in (x, t, y)), [Change(slice(5, 10), perturbed)])
    plain = field(x, t, y)
    torch.testing.assert_close(both[:5], plain)
    block = field.module.blocks[1]
    if kind == "skip":
        del field.module.blocks[1]
    else:
        width = field.hidden
        with torch.no_grad():
            if kind == "identity":  # attention returns its values
                block.attn.forward = lambda tokens, *_: block.attn.proj(block.attn.qkv(tokens)[..., 2 * width :])
            else:
                qkv = block.attn.qkv.forward
                block.attn.qkv.forward = lambda tokens: _mean_queries(qkv(tokens), width)
    torch.testing.assert_close(both[5:], field(x, t, y), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(both[5:], plain, atol=1e-3)


def _mean_queries(qkv, width):
    q = qkv[..., :width].mean(dim=1, keepdim=True).expand_as(qkv[..., :width])
    return torch.cat([q, qkv[..., width:]], dim=-1)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        (Schedule("linear"), lambda t: 2 * (1 - t)),
        (Schedule("cosine"), lambda t: 1 + math.cos(math.pi * t)),
        (Schedule("beta"), lambda t: 6 * t * (1 - t)),
        (Schedule("beta", 3.0, 1.0), lambda t: 3 * t**2),
    ],
)
def test_a_schedule_is_a_factor_of_the_weight(schedule, factor):
    field = mixture()
    for level in (0.1, 0.5, 0.9):
        x, t, y = state(level)
        found = guided(field, (NAG(2.0, schedule=schedule),))(x, t, y)
        torch.testing.assert_close(found, guided(field, (NAG(2.0 * factor(level)),))(x, t, y))
    middles = [(i + 0.5) / 4000 for i in range(4000)]
    assert sum(schedule(t, None, Linear()) for t in middles) / 4000 == pytest.approx(1, abs=1e-6)
    x, _, y = state()
    mixed_levels = torch.tensor([0.2, 0.2, 0.7, 1.0], dtype=torch.float64)
    alone = [
        guided(field, (NAG(2.0, schedule=schedule),))(x[i : i + 1], mixed_levels[i : i + 1], y[i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(guided(field, (NAG(2.0, schedule=schedule),))(x, mixed_levels, y), torch.cat(alone))


NOTHING = [
    SelfGuidance(2.0, shift=0.0),
    SelfGuidance(0.0),
    TSG(2.5, noise=0.0),
    TSG(1.0),
    ICG(1.0),
    EpsilonScaling(1.0),
    TimeShift(0.0, 0.2),
    *(build("guidance", name, scale=0.0, layers=(0,)) for name in ("skip_layer", "pag", "seg")),
    build("guidance", "apg", scale=1.0),
    build("guidance", "cfg_zero", scale=1.0, zero=0.0),
    Rescale(0.0),
]


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_off_is_the_field_itself(nothing):
    field = network()
    assert nothing.off
    assert guided(field, (nothing,)) is field
    assert guided(field, (nothing, NAG(1.5))) == guided(field, (NAG(1.5),))


def test_a_constant_schedule_and_no_rescaling_change_no_bit():
    field, x = network(), images()
    for one, other in (
        ((NAG(1.5, schedule=Schedule("constant")),), (NAG(1.5),)),
        ((CFG(2.0), Rescale(0.0)), (CFG(2.0),)),
        ((DoG(1.5, network(seed=1), channels=1),), (DoG(1.5, network(seed=1)),)),
    ):
        assert torch.equal(guided(field, one)(*x), guided(field, other)(*x))


EVERY = [
    (SelfGuidance(1.0),),
    (SelfGuidance(1.0, previous=True), NAG(0.5)),
    (TSG(2.5), ICG(1.4)),
    (build("guidance", "apg", scale=3.0, norm=2.0), NAG(1.0, schedule=Schedule("beta"))),
    (build("guidance", "cfg_zero", scale=2.0, zero=0.3), SelfGuidance(1.0)),
    (build("guidance", "cfgpp", scale=0.6), NAG(1.0)),
    (build("guidance", "cfgpp", scale=1.0),),
    (build("guidance", "skip_layer", scale=2.0, layers=(1,)), build("guidance", "pag", scale=1.0, layers=(0, 2))),
    (build("guidance", "seg", scale=2.0, layers=(1,), sigma=1.0), CFG(0.0), Rescale(0.7)),
    (CFG(2.0, schedule=Schedule("linear")), EpsilonScaling(1.01), TimeShift(0.1, 0.2)),
    (NAG(1.0, Interval(0.2, 0.7), Schedule("cosine")), TSG(2.0, interval=Interval(high=0.5))),
]


@pytest.mark.parametrize("guidance", EVERY, ids=range(len(EVERY)))
def test_a_sample_depends_on_its_index_alone(guidance):
    """Not on its batch, on the order of guidance, or on what was sampled before; and its price is what it evaluates."""
    calls = Calls()
    field = calls.counted(network())
    together = drawn(field, guidance)
    made = calls.made
    assert torch.equal(together, drawn(field, guidance[::-1]))
    apart = torch.cat([drawn(field, guidance, part) for part in ([0], [1, 2, 3], [4, 5])])
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)
    one_call = price(field, guidance, {}, Linear(), channels=1)
    assert made == 6 * one_call.total(EULER.called_at(Linear()))
    assert one_call.most * 6 >= one_call.total(EULER.called_at(Linear()))
    assert not torch.equal(together, drawn(field, None))


def test_a_run_needs_to_be_begun():
    field, x = network(), images()
    for guidance in (TSG(2.5), ICG(1.4), SelfGuidance(1, previous=True), build("guidance", "apg", scale=2.0)):
        with pytest.raises(ValueError, match=r"use nag\.sample"):
            guided(field, (guidance,))(*x)
    with pytest.raises(ValueError, match=r"give it nag\.noise\.Noise"):
        sample(field, EULER, noise=lambda k: x[0], labels=x[2], guidance=ICG(1.4))
    run = guided(field, (SelfGuidance(1, previous=True, interval=Interval(high=0.5)),)).begin(None, None)
    with pytest.raises(ValueError, match="at one level"):
        run(x[0], torch.linspace(0.1, 0.9, 5), x[2])


HEUN, DOPRI5 = build("samplers", "heun", steps=3), build("samplers", "dopri5")


@pytest.mark.parametrize(
    ("guidance", "more", "message"),
    [
        (
            (SelfGuidance(1, previous=True),),
            {"sampler": HEUN},
            r"self_guidance: it remembers the step before, .* heun is",
        ),
        ((build("guidance", "apg", scale=2.0),), {"sampler": DOPRI5}, "apg: it remembers the step before"),
        ((TSG(2.0),), {"sampler": DOPRI5}, "tsg: it draws anew in every call, and dopri5"),
        ((build("guidance", "cfgpp", scale=0.5),), {"sampler": HEUN}, "cfgpp: the steps of heun on this path are not"),
        (
            (build("guidance", "pag", scale=1, layers=(3,)),),
            {},
            r"pag: there is no layer 3; the network has 3, .*0 to 2",
        ),
        ((Rescale(),), {}, "rescale changes what other guidance does, and there is none"),
        ((Rescale(), EpsilonScaling()), {}, "rescale changes what other guidance does"),
        ((build("guidance", "apg", scale=2.0), CFG(2)), {}, "apg and cfg both guide away from the same prediction"),
        ((build("guidance", "cfgpp", scale=0.5), CFG(2)), {}, "cfgpp and cfg both guide away"),
        ((build("guidance", "apg", scale=2.0), NAG(2)), {"compose": "nested"}, "apg: it is no sum of predictions"),
        ((SelfGuidance(1, previous=True), NAG(2)), {"compose": "nested"}, "self_guidance: the prediction of the step"),
    ],
)
def test_what_does_not_fit_is_refused(guidance, more, message):
    with pytest.raises(ValueError, match=message):
        guided(network(), guidance, **more)


def test_a_network_without_blocks_or_with_another_prediction_is_refused():
    for guidance in (TSG(2.0), build("guidance", "seg", scale=1, layers=(0,))):
        with pytest.raises(ValueError, match="it needs a transformer of nagbench"):
            guided(mixture(), (guidance,))
    with pytest.raises(ValueError, match="cfg_zero: it is defined for velocities, and the network predicts eps"):
        guided(mixture("eps"), (build("guidance", "cfg_zero", scale=2.0),))
    one_class = dataclasses.replace(network(), num_classes=1)
    with pytest.raises(ValueError, match="icg: it needs another class than a sample's own"):
        guided(one_class, (ICG(2.0),))


def test_nag_nests_in_self_guidance():
    """N + w (N - N') with N = D + v (D - D0) at t and N' = D(t + d) + v (D(t + d) - D0): D0 has no level."""
    field, (x, t, y) = mixture(), state()
    d, weak, null = field(x, t, y), field(x, t + 0.1, y), field(x, 0 * t - 1, y)
    field.batches.clear()
    found = guided(field, (SelfGuidance(1.5, 0.1), NAG(0.8)), compose="nested")(x, t, y)
    n, n_weak = (each + 0.8 * (each - null) for each in (d, weak))
    torch.testing.assert_close(found, n + 1.5 * (n - n_weak))
    assert sum(field.batches) == 3 * 4


@pytest.mark.parametrize("name", METHODS["guidance"])
def test_every_guidance_names_its_paper(name):
    import sys

    module = sys.modules[find("guidance", name).__module__]
    assert "arXiv" in (module.__doc__ or "") + (find("guidance", name).__doc__ or "")
