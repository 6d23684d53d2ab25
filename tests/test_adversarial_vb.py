"""Adversarial variational Bayes: what the discriminator learns, against densities that are known."""

import math

import pyro
import pytest
import torch
from torch import nn

from pyrovae import (
    AdversarialVB,
    encoders,
    evaluation,
    exact,
    fit,
    gradients,
    likelihoods,
    objectives,
    priors,
)
from pyrovae.density_ratio import annealed
from pyrovae.distributions.implicit import Implicit
from pyrovae.networks import MLP, Joined

BETAS = (0.5, 0.999)


class Known(nn.Module):
    """z = m x + s eps, so that q(z | x) = N(m x, s^2 I)."""

    def __init__(self, m, s):
        super().__init__()
        self.m, self.s = m, s

    def forward(self, eps, x):
        return self.m * x + self.s * eps

    def kl(self, x):
        """KL(q(z | x) || N(0, I))."""
        return 0.5 * ((self.m * x) ** 2 + self.s**2 - 1).sum(1) - x.shape[1] * math.log(self.s)


def known(m, s, d=2, adaptive=False):
    torch.manual_seed(0)
    return AdversarialVB(
        priors.StandardNormal(d),
        likelihoods.Normal(MLP(d, d, hidden=())),
        Known(m, s),
        Joined(MLP(d, 8, hidden=()), MLP(d + 8, 1, hidden=(32, 32))),
        d,
        encoders.DiagonalNormal(MLP(d, 2 * d, hidden=(32,))) if adaptive else None,
    )


def adam(lr):
    return lambda groups: torch.optim.Adam(groups, lr, BETAS)


def decayed(steps):
    """A learning rate that falls to nothing, so that what is learned settles."""
    return lambda optim: torch.optim.lr_scheduler.LinearLR(optim, 1.0, 0.02, steps)


X = torch.tensor([[1.0, -1.0], [0.5, 1.0], [-1.0, 0.0], [0.0, 0.0]])


def learned(vae, x, steps, rows=128, lr=5e-3):
    repeated = x.repeat(rows // len(x), 1)
    fit(vae, repeated, epochs=steps, batch_size=rows, optimizer=adam(lr), scheduler=decayed(steps), progress=False)
    return vae


def estimated(vae, x):
    pyro.set_rng_seed(1)
    return evaluation.kl_per_layer(vae, x, 5000)["z"]


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_estimated_kl_is_the_exact_one(adaptive):
    vae = known(0.7, 0.6, adaptive=adaptive)
    expected = vae.encoder.kl(X)
    assert (estimated(vae, X) - expected).abs().max() > 0.5
    assert (estimated(learned(vae, X, 350), X) - expected).abs().max() < 0.15


def test_of_a_large_kl_adaptive_contrast_finds_much_more():
    """A logit of 11 nats needs e^11 draws of p(z) to be told; of q(z | x) against its own moments T has nothing."""
    errors = {}
    for adaptive in (False, True):
        vae = known(2.0, 0.05, adaptive=adaptive)
        expected = vae.encoder.kl(X[:3])
        assert expected.min() > 6
        errors[adaptive] = (estimated(learned(vae, X, 450), X[:3]) - expected).abs().mean()
    assert errors[True] < 0.3
    assert errors[False] > 5 * errors[True]


def test_the_discriminator_is_the_log_ratio_wherever_there_are_draws():
    vae = known(1.0, 0.5, d=1)
    x = torch.tensor([[1.0]])
    z = torch.linspace(-0.5, 2.0, 26).reshape(-1, 1, 1)
    ratio = (torch.distributions.Normal(1.0, 0.5).log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z))[
        ..., 0
    ]
    with torch.no_grad():
        before = (vae.discriminator(z, x)[..., 0] - ratio).abs().max()
    learned(vae, x, 300, rows=512, lr=1e-2)
    with torch.no_grad():
        after = (vae.discriminator(z, x)[..., 0] - ratio).abs().max()
    assert before > 2
    assert after < 0.3


def test_pyros_elbo_teaches_the_same():
    vae = known(0.7, 0.6)
    optim = pyro.optim.Adam({"lr": 5e-3, "betas": BETAS})
    svi = pyro.infer.SVI(
        vae.model,
        vae.guide,
        optim,
        pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1),
    )
    for _ in range(300):
        svi.step(X.repeat(32, 1))
    assert (estimated(vae, X) - vae.encoder.kl(X)).abs().max() < 0.25


class Linear(nn.Linear):
    """z = A eps + V x + c: normals of any covariance."""

    def forward(self, eps, x):
        x = x.expand(*eps.shape[:-1], x.shape[-1])
        return super().forward(torch.cat([eps, x], -1))


def test_trained_end_to_end_it_is_the_exact_posterior_of_the_likeliest_model():
    x = exact.LinearGaussian(1, 3, scale=0.8, seed=1).sample(400)
    best = exact.LinearGaussian.maximum_likelihood(x, 1).log_likelihood(x).mean()
    start = exact.LinearGaussian(1, 3, scale=1.0)
    torch.manual_seed(0)
    vae = AdversarialVB(
        start.vae.prior,
        start.vae.likelihood,
        Linear(1 + 3, 1),
        Joined(MLP(3, 8, hidden=()), MLP(1 + 8, 1, hidden=(32, 32))),
        1,
        encoders.DiagonalNormal(MLP(3, 2, hidden=())),
    ).double()

    def off():
        """How much means, and deviations, are off those of p(z | x), in deviations, on average."""
        p, z = start.posterior(x), vae.encode(x).sample((4000,))
        return [((a - b).abs() / p.stddev).mean().item() for a, b in ((z.mean(0), p.mean), (z.std(0), p.stddev))]

    before, behind = off(), best - start.log_likelihood(x).mean()
    fit(
        vae,
        x,
        epochs=150,
        batch_size=100,
        optimizer=adam(1e-2),
        encoder_lr=3e-3,
        scheduler=decayed(150),
        progress=False,
    )
    assert behind > 2
    assert best - start.log_likelihood(x).mean() < 0.06
    assert min(before) > 0.5
    assert max(off()) < 0.2


class Noisy(nn.Module):
    """z = eps + f(eps, x), which starts near p(z), and with both modes."""

    def __init__(self):
        super().__init__()
        self.f = Joined(MLP(1, 8, hidden=()), MLP(1 + 8, 1, hidden=(32, 32)))

    def forward(self, eps, x):
        return eps + self.f(eps, x)


class Squared(nn.Module):
    """z -> z^2, from which x does not tell the sign of z."""

    out_shape = (1,)

    def forward(self, z):
        return z.square()


def test_a_posterior_of_two_modes_is_found():
    torch.manual_seed(0)
    x = torch.tensor([[0.5], [1.5], [2.5]])
    vae = AdversarialVB(
        priors.StandardNormal(1),
        likelihoods.Normal(Squared(), scale=0.8, learned=False),
        Noisy(),
        Joined(MLP(1, 8, hidden=()), MLP(1 + 8, 1, hidden=(32, 32))),
        1,
    )
    grid = torch.linspace(-4, 4, 801)[:, None, None]  # (G, 1, 1)
    p = (vae.prior().log_prob(grid) + vae.likelihood(grid).log_prob(x)).softmax(0).cumsum(0)  # P(z < grid | x), (G, 3)

    def distance():
        """The Kolmogorov-Smirnov distance of q(z | x) to p(z | x)."""
        z = vae.encode(x).sample((4000,))[..., 0].sort(0).values  # (S, 3)
        q = torch.searchsorted(z.T.contiguous(), grid.flatten().expand(3, -1).contiguous()).T / len(z)
        return (q - p).abs().amax(0)

    deviation = (grid[:, 0].square() * p.diff(dim=0, prepend=p[:1])).sum(0).sqrt()  # the mean is 0
    normal = (torch.distributions.Normal(0.0, deviation).cdf(grid[:, 0]) - p).abs().amax(0)
    before = distance()
    fit(
        vae,
        x.repeat(64, 1),
        epochs=700,
        batch_size=192,
        optimizer=adam(4e-3),
        encoder_lr=1e-3,
        scheduler=decayed(700),
        progress=False,
    )
    after = distance()
    assert after.max() < 0.11
    assert after[-1] < 0.6 * normal[-1]  # the best normal has its mode where p(z | x) has none
    assert after[-1] < 0.5 * before[-1]


def test_what_is_told_is_no_bound_but_its_estimate_and_log_p_by_annealing():
    model = exact.LinearGaussian(2, 5)
    x = model.sample(40)
    encoder, discriminator = (Joined(MLP(5, 8), MLP(2 + 8, out)).double() for out in (2, 1))
    vae = AdversarialVB(model.vae.prior, model.vae.likelihood, encoder, discriminator, 2)
    history = fit(vae, x, x, epochs=2, progress=False)
    assert all(math.isnan(row[name]) for row in history for name in ("elbo", "kl", "valid_elbo"))
    found = evaluation.elbo(vae, x, 20)
    assert found.value.isnan().all()
    assert found.reconstruction.isfinite().all()
    assert evaluation.log_likelihood(vae, x, 20).value.isnan().all()
    numbers = vae.own_numbers(x)
    assert numbers["annealed_data"] == 40
    log_p, error = numbers["annealed_log_likelihood"], numbers["annealed_log_likelihood_std_error"]
    assert abs(log_p - model.log_likelihood(x).mean().item()) < 5 * error + 0.05
    assert numbers["estimated_kl"] == pytest.approx(evaluation.kl_per_layer(vae, x, 2000)["z"].mean().item(), abs=0.1)
    assert 0 <= numbers["discriminator_accuracy"] <= 1
    assert annealed(vae, x, num_data=3)["annealed_data"] == 3


def test_every_draw_has_a_noise_of_its_own():
    vae = known(0.0, 1.0)
    z = objectives.ELBO(4).densities(vae.model, vae.guide, X).q["z"]["value"]
    assert z.shape == (4, 4, 2)
    assert z.unique().numel() == 32


def test_only_the_discriminator_learns_by_its_loss_and_only_in_training():
    vae = known(0.5, 0.5, adaptive=True).eval()
    objectives.ELBO().differentiable_loss(vae.model, vae.guide, X).backward()
    assert all(p.grad is None for part in (vae.discriminator, vae.reference) for p in part.parameters())
    loss = objectives.ELBO().differentiable_loss(vae.train().model, vae.guide, X)
    loss.backward()
    assert all(p.grad is not None for p in vae.parameters())


def test_parts_that_do_not_fit_and_bounds_that_need_a_density_are_refused():
    prior, likelihood = priors.StandardNormal(2), likelihoods.Normal(MLP(2, 5))
    g, t = Joined(MLP(5, 4), MLP(2 + 4, 2)), Joined(MLP(5, 4), MLP(2 + 4, 1))
    with pytest.raises(ValueError, match=r"the encoder gives the shape \(1,\), but should \(2,\)"):
        AdversarialVB(prior, likelihood, t, t, 2)
    with pytest.raises(ValueError, match=r"the discriminator gives the shape \(2,\), but should \(1,\)"):
        AdversarialVB(prior, likelihood, g, g, 2)
    with pytest.raises(ValueError, match="noise_dim must be a whole number of at least 1"):
        AdversarialVB(prior, likelihood, g, t, 0)
    with pytest.raises(ValueError, match=r"the reference is over z of shape \(3,\), but the prior over \(2,\)"):
        AdversarialVB(prior, likelihood, g, t, 2, encoders.DiagonalNormal(MLP(5, 6)))
    with pytest.raises(ValueError, match="no vector with room for features"):
        Joined(MLP(5, 4), MLP(4, 1))
    vae = AdversarialVB(prior, likelihood, g, t, 2)
    for objective in (objectives.IWAE(3), objectives.ELBO(gradient=gradients.STL())):
        with pytest.raises(ValueError, match="Implicit"):
            fit(vae, torch.zeros(4, 5), objective=objective, epochs=1, progress=False)
    assert objectives.ELBO(analytic_kl=True).kl_terms(vae.model, vae.guide, torch.zeros(4, 5)) == {
        "z": "sampled: Implicit has no density, so no divergence from one"
    }


def test_a_weight_of_the_estimated_kl_is_that_of_the_elbo():
    x = torch.zeros(6, 2)
    vae = known(0.5, 0.5).eval()
    pyro.set_rng_seed(0)
    half = -objectives.ELBO(beta=0.5).loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(0)
    densities = objectives.ELBO().densities(vae.model, vae.guide, x)
    assert half == pytest.approx((densities.reconstruction - 0.5 * densities.kl).sum().item(), rel=1e-5)


def test_an_implicit_distribution_draws_for_any_batch():
    q = Implicit(lambda batch: torch.randn(*batch, 3), lambda z: z.sum(-1), (5,), (3,))
    assert q.expand((2, 5)).rsample((7,)).shape == (7, 2, 5, 3)
    z = q.sample()
    assert torch.equal(q.log_prob(z), z.sum(-1))
    with pytest.raises(NotImplementedError):
        _ = q.mean
