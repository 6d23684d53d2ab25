"""Semi-amortised inference: steps on the ELBO of each datum, against exact answers of the linear-Gaussian model."""

import copy

import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrovae import VAE, encoders, exact, fit, likelihoods, networks, priors


def improved(family=encoders.DiagonalNormal, steps=100, lr=0.02, latent_dim=2):
    """A linear-Gaussian model, data drawn from it, and its VAE with an encoder that starts bad, semi-amortised."""
    model = exact.LinearGaussian(latent_dim=latent_dim, data_dim=5)
    torch.manual_seed(0)
    network = lambda n: networks.MLP(5, n(latent_dim), hidden=())  # noqa: E731
    encoder = encoders.SemiAmortized(network, family=family, steps=steps, lr=lr).double()
    return model, model.sample(40), VAE(model.vae.prior, model.vae.likelihood, encoder)


def elbo(model, q, x):
    """log p(x) - KL(q || p(z | x)), in closed form, `(N,)`, of a normal q."""
    posterior = model.posterior(x)
    exact_q = torch.distributions.MultivariateNormal(posterior.loc, covariance_matrix=posterior.covariance_matrix)
    loc, covariance = q.mean, torch.diag_embed(q.stddev.square())
    normal = torch.distributions.MultivariateNormal(loc, covariance)
    return model.log_likelihood(x) - torch.distributions.kl_divergence(normal, exact_q)


def test_steps_raise_the_elbo_towards_that_of_the_best_of_the_family():
    """All of the gap but the family's own: `solve_encoder` gives the best diagonal Gaussian of each datum."""
    model, x, vae = improved()
    with torch.no_grad():
        start = elbo(model, vae.encoder.family(x), x)
        few = copy.deepcopy(vae)
        few.encoder.steps = 10
        halfway, end = elbo(model, few.encode(x), x), elbo(model, vae.encode(x), x)
        model.solve_encoder()
        best = elbo(model, model.vae.encode(x), x)
    assert (best - start).mean() > 3
    assert (halfway - start).mean() > 0.5 * (best - start).mean()
    assert (halfway > start).double().mean() > 0.9
    assert (best - end).mean() < 0.05 * (best - start).mean()
    assert (end <= model.log_likelihood(x)).all()


def test_steps_that_are_too_long_do_not_diverge():
    _, x, vae = improved(lr=1.0, steps=200)
    q = vae.encode(1e4 * x)
    assert q.mean.isfinite().all()
    assert q.stddev.isfinite().all()


@pytest.mark.parametrize("family", [encoders.DiagonalNormal, encoders.FullRankNormal, encoders.Planar, encoders.IAF])
def test_gradient_through_the_steps_is_that_of_finite_differences(family):
    """By each parameter of encoder and model, along a random direction, at fixed noise."""
    _, x, vae = improved(family, steps=3, lr=0.1)
    parameters = [p for p in vae.parameters() if p.requires_grad]

    def value():
        torch.manual_seed(2)
        q = vae.encode(x)
        z = q.rsample()
        return (vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)).sum()

    gradients = torch.autograd.grad(value(), parameters)
    for p, g in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(p)
        values = []
        for side in (1, -2, 1):
            with torch.no_grad():
                p.add_(direction, alpha=side * 1e-6)
            values.append(value().item())
        expected = (values[0] - values[1]) / 2e-6
        assert (g * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_gradient_differs_from_that_of_the_last_step_alone():
    """Else nothing of the steps was differentiated."""
    _, x, vae = improved(steps=3, lr=0.1)
    torch.manual_seed(2)
    through = torch.autograd.grad(vae.encode(x).mean.sum(), vae.encoder.parameters())
    plain = torch.autograd.grad(vae.encoder.family(x).mean.sum(), vae.encoder.parameters())
    assert not torch.allclose(through[0], plain[0], rtol=1e-2)


def test_value_is_the_same_with_and_without_gradients_and_leaves_none_behind():
    _, x, vae = improved(steps=3)
    torch.manual_seed(2)
    with_gradient = vae.encode(x).mean
    torch.manual_seed(2)
    with torch.no_grad():
        without = vae.encode(x).mean
    assert torch.equal(with_gradient, without)
    assert not without.requires_grad
    assert all(p.grad is None for p in vae.parameters())


def test_no_steps_are_the_family():
    _, x, vae = improved(steps=0)
    assert torch.equal(vae.encode(x).mean, vae.encoder.family(x).mean)


def test_each_datum_is_improved_on_its_own_elbo():
    """A datum far away changes nothing for the others."""
    _, x, vae = improved(steps=5)
    torch.manual_seed(2)
    together = vae.encode(x).mean
    other = torch.cat([x[:-1], 1e3 * x[-1:]])
    torch.manual_seed(2)
    torch.testing.assert_close(vae.encode(other).mean[:-1], together[:-1], rtol=1e-12, atol=1e-12)


def test_model_is_no_part_of_the_encoder_and_a_copy_has_its_own():
    _, x, vae = improved(steps=2)
    assert set(vae.encoder.state_dict()) == {"family." + key for key in vae.encoder.family.state_dict()}
    assert len(list(vae.parameters())) == len(list(vae.likelihood.parameters())) + len(list(vae.encoder.parameters()))
    twin = copy.deepcopy(vae)
    assert twin.encoder.joined[1] is twin.likelihood
    assert vae.encoder.joined[1] is vae.likelihood
    with torch.no_grad():
        for p in twin.likelihood.parameters():
            p.zero_()
    assert not torch.allclose(vae.encode(x).mean, twin.encode(x).mean)


def test_it_trains_by_pyros_elbo():
    """The encoder alone, with two steps for each datum, to within 0.3 nats of the best of the family."""
    model, x, vae = improved(steps=2)
    with torch.no_grad():
        start = model.log_likelihood(x) - elbo(model, vae.encode(x), x)
    optimizer = torch.optim.Adam(vae.encoder.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
        optimizer.step()
    with torch.no_grad():
        gap = model.log_likelihood(x) - elbo(model, vae.encode(x), x)
        model.solve_encoder()
        best = model.log_likelihood(x) - elbo(model, model.vae.encode(x), x)
    assert gap.mean() < best.mean() + 0.3 < start.mean() - 1


def test_without_a_model_it_says_where_to_put_it():
    encoder = encoders.SemiAmortized(networks.MLP(5, 4))
    with pytest.raises(ValueError, match="put it in a VAE"):
        encoder(torch.zeros(6, 5))


def test_family_without_a_pathwise_gradient_is_refused():
    vae = VAE(
        priors.Bernoulli(2),
        likelihoods.Bernoulli(networks.MLP(2, 5)),
        encoders.SemiAmortized(networks.MLP(5, 2), family=encoders.Bernoulli),
    )
    with pytest.raises(ValueError, match=r"twice differentiable.*those of Bernoulli are not"):
        vae.encode(torch.zeros(6, 5))


def test_float32():
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, 5)),
        encoders.SemiAmortized(networks.MLP(5, 4)),
    )
    assert vae.encode(torch.zeros(6, 5)).mean.dtype == torch.float32


@pytest.mark.parametrize("family", [encoders.MixtureOfNormals, encoders.PowerSpherical])
def test_family_whose_draws_can_be_differentiated_but_once_is_refused(family):
    """Or the gradient through the steps would be wrong, or end in an error of PyTorch's."""
    prior = priors.HypersphericalUniform(3) if family is encoders.PowerSpherical else priors.StandardNormal(3)
    encoder = encoders.SemiAmortized(lambda outputs: networks.MLP(5, outputs(3)), family=family)
    with pytest.raises(ValueError, match=f"twice differentiable.*those of {family.__name__} are not"):
        fit(VAE(prior, likelihoods.Bernoulli(networks.MLP(3, 5)), encoder), torch.zeros(8, 5), progress=False)


def test_it_serves_one_model():
    def model():
        return priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, 5))

    (prior, likelihood), encoder = model(), encoders.SemiAmortized(networks.MLP(5, 4))
    vae = VAE(prior, likelihood, encoder)
    with pytest.raises(ValueError, match="another VAE's model"):
        VAE(*model(), encoder)
    assert vae.encoder.joined == (prior, likelihood)
    VAE(prior, likelihood, encoder)  # the same one
