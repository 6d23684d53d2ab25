"""Adversarial autoencoders: codes of all data together against draws of p(z)."""

import math

import pytest
import torch

from pyrovae import (
    AdversarialAutoencoder,
    encoders,
    evaluation,
    fit,
    likelihoods,
    networks,
    objectives,
    priors,
)
from pyrovae.diagnostics import two_sample
from pyrovae.networks import MLP


def square(n=512):
    """Data of a square in five dimensions, with noise."""
    return 2 * (2 * torch.rand(n, 2) - 1) @ torch.tensor([[1.0, 2, 0, 1, 0], [0, 1, 1, 0, 2]]) + 0.1 * torch.randn(n, 5)


def build(encoder="DiagonalNormal", prior=None, d=2):
    torch.manual_seed(0)
    return AdversarialAutoencoder(
        prior or priors.StandardNormal(d),
        likelihoods.Normal(MLP(d, 5, hidden=(32,))),
        getattr(encoders, encoder)(lambda outputs: MLP(5, outputs(d), hidden=(32,))),
        MLP(d, 1, hidden=(32, 32)),
    )


def trained(model, x, epochs=120, **options):
    fit(
        model,
        x,
        epochs=epochs,
        batch_size=128,
        optimizer=lambda groups: torch.optim.Adam(groups, 3e-3, (0.5, 0.999)),
        encoder_lr=1e-3,
        progress=False,
        **options,
    )
    return model


def discrepancy(model, x):
    """MMD^2 of the codes of data and draws of p(z)."""
    torch.manual_seed(1)
    with torch.no_grad():
        return two_sample(model.encode(x).sample(), model.prior().sample((len(x),)), num_permutations=2).value


@pytest.mark.parametrize("encoder", ["Delta", "DiagonalNormal"])
def test_codes_come_to_look_like_draws_of_p(encoder):
    x = square()
    model = build(encoder)
    before, recon = discrepancy(model, x), evaluation.elbo(model, x, 10).reconstruction.mean()
    trained(model, x)
    assert before > 0.01
    assert discrepancy(model, x) < 0.005
    assert evaluation.elbo(model, x, 10).reconstruction.mean() > recon + 2


def test_the_discriminator_is_the_log_ratio_of_all_codes_together():
    """Codes of two data, a half each at z ~ N(+-1, 0.5^2): log q(z) is that of their mixture."""
    model = build(d=1)
    x = torch.cat([torch.ones(256, 5), -torch.ones(256, 5)])

    class Encoder(torch.nn.Module):
        def forward(self, x):
            return torch.distributions.Independent(torch.distributions.Normal(x[:, :1], 0.5), 1)

    model.encoder = Encoder()
    trained(model, x, 150)
    z = torch.linspace(-1.8, 1.8, 37)[:, None]
    q = torch.stack([torch.distributions.Normal(m, 0.5).log_prob(z) for m in (-1.0, 1.0)]).logsumexp(0) - math.log(2)
    ratio = (q - torch.distributions.Normal(0.0, 1.0).log_prob(z))[:, 0]
    with torch.no_grad():
        assert ratio.abs().max() > 0.8
        assert (model.discriminator(z)[:, 0] - ratio).abs().max() < 0.3


def test_what_is_told_is_no_bound():
    x = square(64)
    model = build()
    history = fit(model, x, x, epochs=2, progress=False)
    assert all(math.isnan(row[name]) for row in history for name in ("elbo", "kl", "valid_elbo"))
    assert evaluation.log_likelihood(model, x, 5).value.isnan().all()
    numbers = model.own_numbers(x)
    assert set(numbers) == {
        "estimated_kl",
        "discriminator_accuracy",
        "annealed_log_likelihood",
        "annealed_log_likelihood_std_error",
        "annealed_data",
    }
    assert model.sample(3).shape == model.reconstruct(x[:3]).shape == (3, 5)


def test_a_prior_that_is_learned_is_drawn_to_the_codes():
    """By E_q[log p(z)] alone: the estimate of log q(z) is held."""
    x = square(64)
    model = build(prior=priors.MixtureOfNormals(2, 3)).eval()
    densities = objectives.ELBO().densities(model.model, model.guide, x)
    (by_bound,) = torch.autograd.grad(densities.log_weight.sum(), model.prior.logits, retain_graph=True)
    (by_prior,) = torch.autograd.grad(densities.log_prior["z"].sum(), model.prior.logits)
    assert by_bound.abs().max() > 0
    torch.testing.assert_close(by_bound, by_prior)


def test_parts_that_do_not_fit_are_refused():
    prior, likelihood = priors.StandardNormal(2), likelihoods.Normal(MLP(2, 5))
    encoder = encoders.Delta(MLP(5, 2))
    with pytest.raises(ValueError, match=r"the discriminator takes \(3,\), but should \(2,\)"):
        AdversarialAutoencoder(prior, likelihood, encoder, MLP(3, 1))
    with pytest.raises(ValueError, match=r"the discriminator gives \(2,\), but should \(1,\)"):
        AdversarialAutoencoder(prior, likelihood, encoder, MLP(2, 2))
    with pytest.raises(ValueError, match=r"the encoder gives \(3,\), but should \(2,\)"):
        AdversarialAutoencoder(prior, likelihood, encoders.Delta(networks.MLP(5, 3)), MLP(2, 1))


def test_numbers_of_its_own_are_told_of_some_data_at_a_time(monkeypatch):
    seen = []
    vae = build()
    hook = vae.discriminator.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0].shape[1]))
    monkeypatch.setattr("pyrovae.adversarial_autoencoder.annealed", lambda *of: {})
    found = vae.own_numbers(square(250))
    hook.remove()
    assert max(seen) <= 100
    assert 0 <= found["discriminator_accuracy"] <= 1
