"""Guidance that asks a second network: dog, autoguidance, nag_classifier."""

from dataclasses import replace
from itertools import permutations

import pydantic
import pytest
import torch

from nag import sample
from nag.estimator import Estimator
from nag.field import Calls
from nag.guidance.autoguidance import Autoguidance
from nag.guidance.cfg import CFG
from nag.guidance.dog import DoG
from nag.guidance.nag import NAG
from nag.guidance.nag_classifier import NAGClassifier
from nag.guidance.terms import Interval, Term
from nag.interpolants import GVP, VP, convert
from nag.models.noise_level import NoiseLevel
from nag.registry import build
from nag.sampling import guided
from tests.nag.gaussian_mixture import GaussianMixture, mixture


def state(n=4):
    x = torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(0.2, 0.9, n, dtype=torch.float64), torch.arange(n) % 3


def other(classes=3, predicts="velocity"):
    """Another network on the same states: wider components, perhaps more classes."""
    means = torch.linspace(-1.5, 1.5, 2 * classes, dtype=torch.float64).reshape(classes, 2, 1, 1)
    ones = torch.ones(classes, dtype=torch.float64)
    return GaussianMixture(means, 0.8 * ones, ones / classes, predicts)


def null(field, y):
    return torch.full_like(y, field.num_classes)


class Levels(torch.nn.Module):
    """The logits of the exact posterior over equal parts of [0, 1], from the mixture in closed form."""

    def __init__(self, field, bins):
        super().__init__()
        self.field, self.bins = field, bins

    def forward(self, x):
        levels = ((torch.arange(self.bins, dtype=x.dtype) + 0.5) / self.bins).expand(len(x), -1)
        return self.field._joint(x, levels, torch.full((len(x),), 3))[0].logsumexp(-1)


def estimator(field, bins=400):
    return Estimator(Levels(field, bins), field.interpolant, field.shape)


def test_dog_and_autoguidance_are_their_equations():
    field, ref, (x, t, y) = mixture(), other(), state()
    d, d_ref, d_null = field(x, t, y), ref(x, t, y), ref(x, t, null(ref, y))
    for guidance, expected in (
        (DoG(1.5, "pre"), d_null + 1.5 * (d - d_null)),
        (DoG(0.0, "pre"), d_null),
        (Autoguidance(2.0, "pre"), d + (d - d_ref)),
        ((DoG(1.5, "pre"), Autoguidance(2.0, "pre")), d + 0.5 * (d - d_null) + (d - d_ref)),
    ):
        parts = guidance if isinstance(guidance, tuple) else (guidance,)
        field.batches.clear()
        ref.batches.clear()
        torch.testing.assert_close(guided(field, parts, {"pre": ref})(x, t, y), expected)
        assert len(ref.batches) == 1, "all branches of a network are one batch"
        assert len(field.batches) <= 1


def test_dog_with_the_networks_own_null_class_is_cfg():
    field, (x, t, y) = mixture(), state()
    for more in ((), (NAG(1.3),), (CFG(1.7),)):
        dog = guided(field, (DoG(1.5, "own"), *more), {"own": field})
        assert torch.equal(dog(x, t, y), guided(field, (CFG(1.5), *more))(x, t, y))
        assert dog.calls == guided(field, (CFG(1.5), *more)).calls


def test_autoguidance_with_itself_is_plain():
    field, (x, t, y) = mixture(), state()
    for scale in (0.3, 1.7, 2.0, 1000.0):
        assert guided(field, (Autoguidance(scale, "own"),), {"own": field}) is field
        assert guided(field, (Autoguidance(scale, field, Interval(0.2, 0.5)),)) is field
        with_cfg = guided(field, (CFG(1.3), Autoguidance(scale, field)))
        assert torch.equal(with_cfg(x, t, y), guided(field, (CFG(1.3),))(x, t, y))


def test_autoguidance_away_from_the_networks_own_noise_blind_branch_is_nag():
    field, ref, (x, t, y) = mixture(), other(), state()
    own = guided(field, (Autoguidance(2.5, "own", null_noise=True),), {"own": field})
    assert torch.equal(own(x, t, y), guided(field, (NAG(1.5),))(x, t, y))
    d, blind = field(x, t, y), ref(x, torch.full_like(t, -1), y)
    found = guided(field, (Autoguidance(2.5, ref, null_noise=True),))(x, t, y)
    torch.testing.assert_close(found, d + 1.5 * (d - blind))
    with pytest.raises(ValueError, match="Autoguidance needs a reference that was trained with a null noise condition"):
        guided(field, (Autoguidance(2.5, replace(ref, has_null_noise=False), null_noise=True),))


def test_a_network_can_be_given_in_place_of_its_name():
    field, ref, (x, t, y) = mixture(), other(), state()
    named = guided(field, (build("guidance", "dog", scale=1.5, reference="pre"),), {"pre": ref})
    given = guided(field, (build("guidance", "dog", scale=1.5, reference=ref),))
    assert torch.equal(named(x, t, y), given(x, t, y))
    for wrong in (None, 3, "", True, ["pre"]):
        with pytest.raises(pydantic.ValidationError):
            DoG(1.5, wrong)


def test_the_order_of_guidance_does_not_matter_to_the_last_bit():
    field, a, b, (x, t, y) = mixture(), other(), other(5), state()
    g, h = estimator(field, 50), estimator(other(), 60)
    guidance = (CFG(1.1), Autoguidance(1.3, "a"), DoG(0.7, "b"), NAGClassifier(0.1, "g"), NAGClassifier(0.3, "h"))
    references = {"a": a, "b": b, "g": g, "h": h}
    results = [guided(field, order, references)(x, t, y) for order in list(permutations(guidance))[::7]]
    assert all(torch.equal(results[0], r) for r in results)
    backwards = dict(reversed(references.items()))
    assert torch.equal(results[0], guided(field, guidance, backwards)(x, t, y))


def test_a_reference_may_have_other_classes_where_only_its_null_class_is_asked():
    field, ref, (x, t, y) = mixture(), other(classes=7), state()
    d, d_null = field(x, t, y), ref(x, t, torch.full_like(y, 7))
    torch.testing.assert_close(guided(field, (DoG(2.0, ref),))(x, t, y), 2 * d - d_null)
    with pytest.raises(
        ValueError, match="Autoguidance: it asks the reference for the same class, and it has 7, the net"
    ):
        guided(field, (Autoguidance(2.0, ref),))


@pytest.mark.parametrize(
    ("path", "kind", "ref_kind"), [(None, "velocity", "velocity"), (VP(), "eps", "x0"), (VP(), "velocity", "score")]
)
def test_a_reference_that_predicts_something_else_is_converted(path, kind, ref_kind):
    field, same, ref = mixture(kind), other(predicts=kind), other(predicts=ref_kind)
    for each in (field, same, ref):
        each.interpolant = path or each.interpolant
    x, t, y = state()
    torch.testing.assert_close(guided(field, (DoG(1.5, ref),))(x, t, y), guided(field, (DoG(1.5, same),))(x, t, y))


def test_references_that_do_not_fit_are_refused():
    field, small = mixture(), other()
    small.means = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    curved, untaught = other(), other()
    curved.interpolant, untaught.has_null_class = GVP(), False
    blind = other()
    blind.has_null_noise = False
    for guidance, references, message in (
        (DoG(1.5, "pre"), None, "reference network 'pre'; no references were given"),
        (DoG(1.5, "pre"), {"a": small, "b": small}, "reference network 'pre'; known: a, b"),
        (DoG(1.5, "pre"), {"pre": small}, r"states of shape \(1, 2, 2\), the network \(2, 1, 1\)"),
        (DoG(1.5, "pre"), {"pre": curved}, "interpolant is GVP, the network Linear"),
        (DoG(1.5, "pre"), {"pre": untaught}, "needs a reference that was trained with a null class condition"),
        (DoG(1.5, "pre"), {"pre": other(predicts="eps")}, "reference predicts eps, the network velocity, and at t = 1"),
        (DoG(1.5, "pre"), {"pre": other(predicts="x0")}, "reference predicts x0, the network velocity, and at t = 0"),
        (DoG(1.5, "pre"), {"pre": estimator(field)}, "needs a network as its reference, got Estimator"),
        (NAGClassifier(1.0, "g"), {"g": field}, "needs a noise-level estimator as its reference, got GaussianMix"),
        (NAGClassifier(1.0, "g"), {"g": other()}, "needs a noise-level estimator as its reference, got GaussianMix"),
        (NAGClassifier(1.0, "g"), {"g": estimator(curved)}, "interpolant is GVP, the network Linear"),
    ):
        with pytest.raises(ValueError, match=message):
            guided(field, (guidance,), references)
    with pytest.raises(ValueError, match=r"nested .* needs a reference that was trained with a null noise condition"):
        guided(field, (DoG(1.5, blind), NAG(1.0)), compose="nested")
    guided(field, (DoG(1.5, blind), NAG(1.0)))


def test_nested_puts_nag_inside_the_branch_of_the_reference_too():
    field, ref, (x, t, y) = mixture(), other(5), state()
    n, n_null = guided(field, (NAG(1.3),))(x, t, y), guided(ref, (NAG(1.3),))(x, t, null(ref, y))
    nested = guided(field, (NAG(1.3), DoG(1.5, ref)), compose="nested")
    torch.testing.assert_close(nested(x, t, y), n_null + 1.5 * (n - n_null))


def test_references_are_counted_and_cost_nothing_outside_their_interval():
    field, ref, g, (x, _, y) = mixture(), other(), estimator(mixture(), 50), state(3)
    for guidance, calls in (
        (DoG(1.5, "ref"), 20),
        (DoG(1.5, "ref", Interval(0.0, 0.5)), 15),
        (DoG(1.5, "own"), 20),
        (Autoguidance(1.5, "own"), 10),
        (NAGClassifier(0.1, "g"), 19),  # left out at t = 1
        (NAGClassifier(0.1, "g", Interval(0.15, 0.35)), 12),
    ):
        counter = Calls()
        references = {name: counter.counted(network) for name, network in (("ref", ref), ("g", g), ("own", field))}
        euler = build("samplers", "euler", steps=10)
        arguments = {"noise": lambda k: x, "labels": y, "guidance": guidance}
        out = sample(counter.counted(field), euler, references=references, **arguments)
        assert counter.made == 3 * calls
        plain_references = {"ref": ref, "g": g, "own": field}
        assert torch.equal(out, sample(field, euler, references=plain_references, **arguments))


@pytest.mark.parametrize(("path", "predicts"), [(None, "velocity"), (VP(), "eps"), (VP(), "x0"), (GVP(), "velocity")])
def test_nag_classifier_adds_the_gradient_of_the_log_density_to_the_score(path, predicts):
    """Against autograd on the closed form, at the centres of bins and between them."""
    field = mixture(predicts)
    field.interpolant = path or field.interpolant
    x, t, y = state(6)
    t = torch.tensor([0.10125, 0.3, 0.50125, 0.7, 0.77, 0.9], dtype=torch.float64)
    wanted = x.clone().requires_grad_()
    fine = ((torch.arange(4000, dtype=x.dtype) + 0.5) / 4000).expand(6, -1)
    nominal = field._joint(wanted, t[:, None], null(field, y))[0].logsumexp(-1)[:, 0]
    whole = field._joint(wanted, fine, null(field, y))[0].logsumexp(-1).logsumexp(1)
    (gradient,) = torch.autograd.grad((nominal - whole).sum(), wanted)
    w = 0.7
    mixed = guided(field, (NAGClassifier(w, estimator(field)),))(x, t, y)
    score = convert(field(x, t, y), predicts, "score", x, t, field.interpolant) + w * gradient
    torch.testing.assert_close(mixed, convert(score, "score", predicts, x, t, field.interpolant), atol=2e-3, rtol=2e-3)
    if path is None:
        level = t[:, None, None, None]
        form = field(x, t, y) - w * level / (1 - level) * gradient
        torch.testing.assert_close(mixed, form, atol=2e-3, rtol=2e-3)
    assert torch.isfinite(mixed).all()
    assert not mixed.requires_grad


def test_nag_classifier_is_left_out_at_pure_noise_and_where_no_level_is_told():
    field, (x, _, y) = mixture(), state()
    mixed = guided(field, (NAGClassifier(5.0, estimator(field)),))
    for t in (torch.ones(4, dtype=torch.float64), -torch.ones(4, dtype=torch.float64)):
        assert torch.equal(mixed(x, t, y), field(x, t, y))
    t = torch.tensor([1.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    assert (mixed(x, t, y) != field(x, t, y)).flatten(1).any(1).tolist() == [False, True, False, True]
    for sampler in ("euler", "heun", "euler_maruyama", "dpmpp_2m"):
        guidance = (NAGClassifier(0.2, estimator(field)), CFG(1.5))
        out = sample(field, build("samplers", sampler, steps=5), noise=lambda k: x, labels=y, guidance=guidance)
        assert torch.isfinite(out).all()


def test_a_trained_estimator_guides_under_any_mode_of_torch():
    module = NoiseLevel(hidden=16, depth=1, heads=2, patch=2, bins=20).module((1, 8, 8), 0, null_noise=False)
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            weight.copy_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)))
    g = Estimator(module, build("interpolants", "linear"), (1, 8, 8))
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.02, 0.5, 0.99, 1.0])
    gradient = g.gradient(x, t)
    assert gradient.shape == x.shape
    assert (gradient.flatten(1).abs().sum(1) > 0).all()
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            again = g.gradient(x.clone(), t.clone())
            assert torch.equal(again, gradient)
            assert not again.requires_grad
    step = 1e-2 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():  # t = 0.5 is between the centres of bins 9 and 10
        log_g = [float(torch.log_softmax(module(x + sign * step), 1)[2, 9:11].mean()) for sign in (1, -1)]
    slope = (log_g[0] - log_g[1]) / 2e-2
    assert slope == pytest.approx(float(gradient[2].norm()), rel=1e-2)
    assert all(weight.grad is None for weight in module.parameters())


def test_a_guidance_of_ones_own_may_have_a_reference():
    class Away:
        needs, off = frozenset(), False

        def terms(self):
            return Term(False, False, 0.5), Term(False, False, -0.5, "pre", channels=1)

    field, ref, (x, t, y) = mixture(), other(), state()
    d, d_ref = field(x, t, y), ref(x, t, y)
    expected = torch.cat([(1.5 * d - 0.5 * d_ref)[:, :1], 1.5 * d[:, 1:]], 1)
    torch.testing.assert_close(guided(field, (Away(),), {"pre": ref})(x, t, y), expected)
    with pytest.raises(ValueError, match="reference network 'pre'"):
        guided(field, (Away(),))


def test_a_guidance_of_ones_own_nests_along_noise_or_where_it_says_so():
    class AlongNoise:
        needs, off = frozenset({"null_noise"}), False

        def terms(self):
            return Term(False, False, 1.3), Term(True, False, -1.3)

    class AlongClass:
        needs, off, nests = frozenset({"null_class"}), False, True

        def terms(self):
            return Term(False, False, 0.5), Term(False, True, -0.5)

    class AlongReference(AlongClass):
        def terms(self):
            return Term(False, False, 0.5), Term(False, False, -0.5, "pre")

    field, ref, (x, t, y) = mixture(), other(), state()
    as_nag, expected = (guided(field, (DoG(1.5, ref), g), compose="nested") for g in (AlongNoise(), NAG(1.3)))
    assert torch.equal(as_nag(x, t, y), expected(x, t, y))

    n, n_ref = (guided(each, (AlongClass(),))(x, t, y) for each in (field, ref))
    nested = guided(field, (Autoguidance(2.0, ref), AlongClass()), compose="nested")
    torch.testing.assert_close(nested(x, t, y), n + (n - n_ref))
    with pytest.raises(ValueError, match=r"class condition needs a reference that was trained with a null class"):
        guided(field, (Autoguidance(2.0, replace(ref, has_null_class=False)), AlongClass()), compose="nested")
    with pytest.raises(ValueError, match="AlongReference: it nests, so its terms must be predictions of the guided"):
        guided(field, (CFG(1.5), AlongReference()), {"pre": ref}, compose="nested")


def test_the_variance_is_that_of_the_guided_network_under_its_condition():
    class Two:
        def __init__(self, field, sign):
            self.field, self.sign = field, sign

        def __getattr__(self, name):
            return getattr(self.field, name)

        def __call__(self, x, t, y):
            out = self.field(x, t, y)
            return torch.cat([out, self.sign * out], 1)

    field, ref, (x, t, y) = Two(mixture(), 5.0), Two(other(), 7.0), state()
    mixed = guided(field, (DoG(1.5, ref), CFG(2.0)))(x, t, y)
    plain = guided(replace(field.field), (DoG(1.5, ref.field), CFG(2.0)))(x, t, y)
    torch.testing.assert_close(mixed[:, :2], plain)
    assert torch.equal(mixed[:, 2:], field(x, t, y)[:, 2:])
