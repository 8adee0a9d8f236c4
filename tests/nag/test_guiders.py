"""Against diffusers.guiders, an independent implementation, on the same predictions."""

import itertools

import pytest
import torch

from nag import sample
from nag.field import Change
from nag.guidance.apg import APG
from nag.guidance.autoguidance import Autoguidance
from nag.guidance.cfg import CFG
from nag.guidance.cfg_zero import CFGZero
from nag.guidance.pag import PAG
from nag.guidance.rescale import Rescale
from nag.guidance.seg import SEG
from nag.guidance.skip_layer import SkipLayer
from nag.models.perturbation import blurred
from nag.registry import build
from nag.sampling import guided
from tests.nag.gaussian_mixture import mixture
from tests.nag.networks import network

guiders = pytest.importorskip("diffusers.guiders")


def at_step(guider, step, steps=10):
    guider.set_state(step, steps, torch.tensor([1]))
    return guider


def state(n=4):
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(n, 2, 1, 1, dtype=torch.float64, generator=generator),
        torch.full((n,), 0.6, dtype=torch.float64),
        torch.arange(n) % 3,
    )


def conditional_and_null(field):
    x, t, y = state()
    return field(x, t, y), field(x, t, torch.full_like(y, 3))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_cfg_and_rescaled_cfg():
    field = mixture()
    c, u = conditional_and_null(field)
    close(guided(field, (CFG(2.5),))(*state()), at_step(guiders.ClassifierFreeGuidance(2.5), 3)(pred_pair(c, u)).pred)
    theirs = guiders.ClassifierFreeGuidance(2.5, guidance_rescale=0.7)
    close(guided(field, (CFG(2.5), Rescale(0.7)))(*state()), at_step(theirs, 3).forward(c, u).pred)


def pred_pair(c, u):
    from diffusers.modular_pipelines.modular_pipeline import BlockState

    key = guiders.ClassifierFreeGuidance._identifier_key
    return [BlockState(noise_pred=p, **{key: name}) for p, name in ((c, "pred_cond"), (u, "pred_uncond"))]


def test_cfg_zero():
    """Their `zero_init_steps` counts steps, ours is a share of the levels: in 50 equal steps 0.04 are two."""
    field = mixture()
    c, u = conditional_and_null(field)
    theirs = guiders.ClassifierFreeZeroStarGuidance(2.5, zero_init_steps=2)
    close(guided(field, (CFGZero(2.5),))(*state()), at_step(theirs, 3).forward(c, u).pred)
    x, _, y = state()
    for step in range(4):
        level = torch.full((4,), 1 - step / 50, dtype=torch.float64)
        ours = guided(field, (CFGZero(2.5),))(x, level, y)
        assert bool((at_step(theirs, step, 50).forward(c, u).pred == 0).all()) == bool((ours == 0).all()) == (step < 2)


@pytest.mark.parametrize(("eta", "norm", "momentum"), [(0.0, 0.0, 0.0), (0.4, 0.3, 0.0), (0.0, 0.5, -0.5), (1, 0, 0.3)])
def test_apg_over_steps(eta, norm, momentum):
    """Predictions of x_0, over the steps of a sampler. diffusers adds its update to the null prediction, with w in
    place of w - 1; the paper (2410.02416) to the conditional one. Its `use_original_formulation` with w - 1 is that.
    """
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

    w, field, called = 4.0, mixture("x0"), []

    class Recorded:
        def __getattr__(self, name):
            return getattr(field, name)

        def __call__(self, x, t, y):
            out = field(x, t, y)
            called.append(out)
            return out

    apg = APG(w, eta=float(eta), norm=float(norm), momentum=momentum)
    run = guided(Recorded(), (apg,)).begin(None, [0.9, 0.6, 0.3])
    theirs = guiders.AdaptiveProjectedGuidance(w - 1, momentum or None, norm, eta=eta, use_original_formulation=True)
    if momentum:  # which `prepare_inputs` of a pipeline makes at step 0
        theirs.momentum_buffer = MomentumBuffer(momentum)
    x, _, y = state()
    for step, level in enumerate((0.9, 0.6, 0.3)):
        called.clear()
        ours = run(x, torch.full((4,), level, dtype=torch.float64), y)
        c, u = called[0].chunk(2)
        close(ours, at_step(theirs, step, 3).forward(c, u).pred)
        x = x + 0.1 * ours


def test_diffusers_own_apg_is_the_papers_without_damping_only():
    """Where nothing is damped (eta 1) both forms are CFG; with eta 0 theirs also loses a part along the condition."""
    field = mixture("x0")
    c, u = conditional_and_null(field)
    cfg = guided(field, (CFG(3.0),))(*state())
    for eta in (1.0, 0.0):
        ours = guided(field, (APG(3.0, eta=eta, momentum=0.0),))(*state())
        theirs = at_step(guiders.AdaptiveProjectedGuidance(3.0, None, 0.0, eta=eta), 1, 3).forward(c, u).pred
        if eta == 1.0:
            close(ours, cfg)
            close(theirs, cfg)
        else:
            direction = c / c.flatten(1).norm(dim=1)[:, None, None, None]
            along = ((c - u) * direction).sum((1, 2, 3), keepdim=True) * direction
            close(ours - theirs, along)  # D_c + 2 o against D_null + 3 o, o the part of D_c - D_null beside D_c


def test_autoguidance():
    field, other = mixture(), mixture()
    other.stds = other.stds * 1.5
    d, d_0 = field(*state()), other(*state())
    theirs = at_step(guiders.AutoGuidance(2.2, auto_guidance_layers=[0], dropout=0.1), 1, 3)
    close(guided(field, (Autoguidance(2.2, other),))(*state()), theirs.forward(d, d_0).pred)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SkipLayer(2.8, (1,)), ("SkipLayerGuidance", "skip_layer_guidance")),
        (PAG(2.8, (1,)), ("PerturbedAttentionGuidance", "perturbed_guidance")),
        (SEG(2.8, (1,)), ("SmoothedEnergyGuidance", "seg_guidance")),
    ],
    ids=["skip_layer", "pag", "seg"],
)
def test_perturbed_guidance(ours, theirs):
    """D + s (D - D') as in the papers; diffusers' default has D' + s (D - D'), so its `use_original_formulation`."""
    field = network()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t, y = torch.full((3,), 0.4), torch.tensor([0, 1, 9])
    perturbed = ours.perturbation()
    weak = field.changed(x, t, y, [Change(slice(0, 3), perturbed)])
    cls, prefix = theirs
    config = {f"{prefix}_layers": [1], f"{prefix}_scale": 2.8}
    guider = getattr(guiders, cls)(1.0, use_original_formulation=True, **config)
    guider.guidance_scale = 0.0  # no CFG beside it
    close(guided(field, (ours,))(x, t, y), at_step(guider, 1, 10).forward(field(x, t, y), None, weak).pred)


def test_blurred_queries_where_diffusers_blurs():
    """diffusers swaps its two cases: it blurs where sigma is infinite and takes the mean where it is not. The paper
    (2408.00760, section 4) has the Gaussian for every sigma and the mean as its limit, which is what we have.
    """
    from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

    q = torch.randn(2, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    flat = q.permute(0, 2, 1, 3).reshape(2, 16, 32)

    def theirs(sigma, infinite):
        size = int(6 * sigma) + 1 - int(6 * sigma) % 2 if sigma < 100 else 99
        blurred = _gaussian_blur_2d(flat.clone(), size, sigma, -1.0 if infinite else 1e9)
        return blurred.reshape(2, 16, 4, 8).permute(0, 2, 1, 3)

    for sigma in (0.5, 1.0, 3.0):
        close(blurred(q, (4, 4), sigma), theirs(sigma, infinite=True))
    close(blurred(q, (4, 4), float("inf")), theirs(1.0, infinite=False))


def test_cfgpp_is_its_algorithm():
    """diffusers.guiders has no CFG++, so algorithm 2 of the paper (2406.08070) is written out, on DDIM's steps."""
    field, y = mixture("eps", build("interpolants", "vp")), torch.tensor([0, 2])
    path, null = field.interpolant, torch.full_like(y, 3)
    start = torch.randn(2, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampler = build("samplers", "ddim", steps=7)
    levels, x = sampler.grid(path), start
    for t, to in itertools.pairwise(levels):
        level = torch.full((2,), t, dtype=torch.float64)
        u, c = field(x, level, null), field(x, level, y)
        x0 = (x - path.sigma(t) * (u + 0.6 * (c - u))) / path.alpha(t)
        x = path.alpha(to) * x0 + path.sigma(to) * u
    found = sample(field, sampler, noise=lambda k: start, labels=y, guidance=build("guidance", "cfgpp", scale=0.6))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_cfgpp_on_the_linear_path_by_euler():
    field, y = mixture(), torch.tensor([0, 2])
    start = torch.randn(2, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = [
        sample(field, build("samplers", name, steps=5), noise=lambda k: start, labels=y, guidance=guidance)
        for name in ("ddim", "euler")
        for guidance in (build("guidance", "cfgpp", scale=0.6), CFG(1.5))
    ]
    torch.testing.assert_close(made[0], made[2])
    assert not torch.allclose(made[0], made[1], atol=1e-3)
