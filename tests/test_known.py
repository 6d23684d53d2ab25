"""log p(x) where it is known, against other ways to it: scipy, exact models, sums over states, importance sampling."""

import copy

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from pyrovae import VAE, encoders, evaluation, exact, known, likelihoods, networks, priors


def build(prior, likelihood, event, encoder=encoders.DiagonalNormal, scales=2):
    return VAE(prior, likelihood, encoder(networks.MLP(event, scales * prior.latent_dim)))


def curved(latent_dim, event, hidden=(16,)):
    """A decoder that is far from linear."""
    return networks.MLP(latent_dim, event, hidden=hidden, activation=nn.Tanh, initializer=nn.init.normal_)


def sampled(vae, x, num_samples=200_000):
    """Importance sampling with draws from the prior, and its standard error."""
    torch.manual_seed(0)
    with torch.no_grad():
        z = vae.prior().sample((num_samples,))
        log_w = torch.stack([vae.likelihood(z).log_prob(v) for v in x], 1)
    w = (log_w - log_w.amax(0)).exp()
    return log_w.logsumexp(0) - np.log(num_samples), w.std(0) / w.mean(0) / num_samples**0.5


# Linear ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("learned", [False, True])
def test_images_under_a_linear_normal_decoder_have_scipys_density(latent_dim, learned):
    network = networks.MLP(latent_dim, (1, 2, 3), hidden=(), initializer=nn.init.normal_)
    vae = build(priors.StandardNormal(latent_dim), likelihoods.Normal(network, 0.3, learned), (1, 2, 3))
    nn.init.normal_(network.layers[-1].bias)
    x = torch.randn(7, 1, 2, 3)
    w, b = (t.detach().double().numpy() for t in (network.layers[-1].weight, network.layers[-1].bias))
    value = known.log_likelihood(vae, x)
    expected = multivariate_normal(b, w @ w.T + 0.3**2 * np.eye(6)).logpdf(x.flatten(1).double().numpy())
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value.dtype == torch.float64
    assert not value.requires_grad


def test_it_is_the_answer_of_the_exact_models():
    for model in (exact.LinearGaussian(3, 5), exact.BernoulliToy(4, 6)):
        x = model.sample(10)
        torch.testing.assert_close(known.log_likelihood(model.vae, x), model.log_likelihood(x).detach())


# Sums -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "likelihood",
    [lambda n: likelihoods.Bernoulli(n), lambda n: likelihoods.Normal(n, 0.5)],
    ids=["Bernoulli", "Normal"],
)
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_states_of_a_discrete_z_are_summed_whatever_the_likelihood(likelihood, latent_dim):
    vae = build(
        priors.Bernoulli(latent_dim), likelihood(curved(latent_dim, (1, 2, 2))), (1, 2, 2), encoders.Bernoulli, 1
    )
    nn.init.normal_(vae.prior.logits)
    x = vae.sample(4)
    probs = vae.prior.logits.detach().sigmoid().double().numpy()
    total = 0
    for state in np.ndindex(*[2] * latent_dim):
        p_z = np.prod(np.where(state, probs, 1 - probs))
        with torch.no_grad():
            total += p_z * vae.likelihood(torch.tensor(state).float()).log_prob(x).double().exp().numpy()
    np.testing.assert_allclose(known.log_likelihood(vae, x), np.log(total), rtol=1e-5)


def test_more_than_12_binary_dimensions_are_not_summed(monkeypatch):
    for latent_dim, is_known in ((12, True), (13, False)):
        model = exact.BernoulliToy(latent_dim, 3)
        assert (known.log_likelihood(model.vae, model.sample(2)) is not None) == is_known


def test_parts_of_the_data_change_nothing(monkeypatch):
    discrete, continuous = exact.BernoulliToy(3, 4).vae, build(priors.StandardNormal(1), normal(curved(1, 4)), 4)
    data = discrete.sample(9), continuous.sample(9)
    whole = [known.log_likelihood(vae, x) for vae, x in zip((discrete, continuous), data, strict=True)]
    monkeypatch.setattr(known, "_CELLS", 20)
    for vae, x, value in zip((discrete, continuous), data, whole, strict=True):
        torch.testing.assert_close(known.log_likelihood(vae, x), value)


# Integrals ------------------------------------------------------------------------------------------------------------


def normal(network, scale=0.5):
    return likelihoods.Normal(network, scale)


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("likelihood", [likelihoods.Bernoulli, normal])
@pytest.mark.parametrize("prior", [priors.StandardNormal, lambda d: priors.MixtureOfNormals(d, components=3)])
def test_integrals_over_one_or_two_dimensions_are_those_of_draws(latent_dim, likelihood, prior):
    vae = build(prior(latent_dim), likelihood(curved(latent_dim, (1, 2, 2))), (1, 2, 2))
    x = vae.sample(4)
    value = known.log_likelihood(vae, x)
    expected, error = sampled(vae, x)
    assert (error < 0.02).all()
    assert ((value - expected).abs() < 4 * error + 1e-4).all()


def test_a_scale_for_each_element_is_integrated_not_taken_for_linear():
    vae = build(priors.StandardNormal(1), likelihoods.Normal(networks.MLP(1, 6, hidden=()), scale=None), 3)
    x = vae.sample(4)
    value = known.log_likelihood(vae, x)
    expected, error = sampled(vae, x)
    assert ((value - expected).abs() < 4 * error + 1e-4).all()


def test_components_far_from_0_are_within_the_grid():
    prior = priors.MixtureOfNormals(1, components=2)
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[-30.0], [20.0]]))
        prior.logits.copy_(torch.tensor([5.0, -5.0]))
    network = networks.MLP(1, 1, hidden=(), initializer=nn.init.ones_)
    vae = build(prior, normal(network), 1)
    x = torch.tensor([[-30.0], [20.0]])
    p = prior()
    mean, scale = p.component_distribution.mean[:, 0], (p.component_distribution.stddev[:, 0] ** 2 + 0.25).sqrt()
    expected = dist.MixtureSameFamily(p.mixture_distribution, dist.Normal(mean, scale)).log_prob(x[:, 0])
    torch.testing.assert_close(known.log_likelihood(vae, x), expected.detach().double(), rtol=1e-5, atol=1e-5)


def test_sharp_posteriors_get_more_points():
    vae = build(priors.StandardNormal(1), normal(curved(1, 3), scale=0.02), 3)
    x = vae.sample(3)
    with pytest.raises(ValueError, match="take more than 201 points"):
        exact.grid_posterior(vae, x, 201, (-8, 8))
    expected = exact.grid_posterior(vae.double(), x.double(), 20_001, (-8, 8)).log_likelihood
    torch.testing.assert_close(known.log_likelihood(vae, x), expected, rtol=0, atol=1e-3)


# None -----------------------------------------------------------------------------------------------------------------


def test_none_where_the_work_would_be_too_much(monkeypatch):
    monkeypatch.setattr(known, "_WORK", 401**2)
    vae = build(priors.StandardNormal(2), normal(curved(2, 4), scale=0.005), 4)
    assert known.log_likelihood(vae, vae.sample(2)) is None  # sharper than any grid within the limit
    vae = build(priors.StandardNormal(2), likelihoods.Bernoulli(curved(2, 4)), 4)
    x = vae.sample(10)
    monkeypatch.setattr(known, "_WORK", 10 * 201**2)
    assert known.log_likelihood(vae, x) is not None
    monkeypatch.setattr(known, "_WORK", 10 * 201**2 - 1)
    assert known.log_likelihood(vae, x) is None


@pytest.mark.parametrize(
    ("prior", "likelihood"),
    [
        (priors.StandardNormal(3), normal(curved(3, 4))),
        (priors.StandardNormal(3), likelihoods.Bernoulli(networks.MLP(3, 4, hidden=()))),
        (priors.StandardNormal(3), likelihoods.Normal(networks.MLP(3, 8, hidden=()), scale=None)),
        (priors.MixtureOfNormals(3), normal(networks.MLP(3, 4, hidden=()))),
    ],
    ids=["curved", "Bernoulli", "a scale of z", "mixture"],
)
def test_none_where_nothing_is_known(prior, likelihood):
    vae = build(prior, likelihood, 4)
    assert known.log_likelihood(vae, torch.zeros(2, 4)) is None


FLOW = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0.0, 2.0)])


@pytest.mark.parametrize("p", [dist.Cauchy(0.0, 1.0), dist.Categorical(logits=torch.zeros(3)), FLOW], ids=str)
def test_priors_without_moments_or_density_are_no_error(p):
    class Own(priors.Prior):
        def forward(self):
            return p.expand((1,)).to_event(1)

    vae = build(priors.StandardNormal(1), likelihoods.Bernoulli(curved(1, 4)), 4)
    vae.prior = Own(1)
    assert known.log_likelihood(vae, torch.zeros(2, 4)) is None


# Any ------------------------------------------------------------------------------------------------------------------


def test_the_vae_is_left_as_it_was_and_its_evaluation_mode_is_used():
    network = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5))
    network.out_shape = (3,)
    vae = build(priors.StandardNormal(1), normal(network), 3)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    x, state = torch.zeros(2, 3), torch.get_rng_state()
    assert torch.equal(known.log_likelihood(vae, x), known.log_likelihood(vae, x))
    assert all(module.training for module in vae.modules())
    assert all(
        torch.equal(value, before[key]) and value.dtype == torch.float32 for key, value in vae.state_dict().items()
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_data_without_a_density_are_refused():
    model = exact.BernoulliToy(2, 3)
    with pytest.raises(ValueError, match="support"):
        known.log_likelihood(model.vae, torch.full((2, 3), 0.5))


def test_bounds_stay_below():
    vae = build(priors.StandardNormal(2), likelihoods.Bernoulli(curved(2, 6)), 6)
    x = vae.sample(50)
    values = evaluation.bounds(vae, x, [1, 10, 100], num_samples=1000).mean(1)
    value = known.log_likelihood(vae, x).mean()
    assert values[0] < values[1] < values[2] < value + 0.02


def test_bernoulli_tables_are_those_of_the_distributions():
    """The matrix product against `log_prob`, for images and in float32."""
    vae = build(priors.StandardNormal(2), likelihoods.Bernoulli(curved(2, (1, 3, 3))), (1, 3, 3))
    x, z = vae.sample(5), torch.randn(7, 2)
    with torch.no_grad():
        expected = vae.likelihood(z).log_prob(x[:, None]) + vae.prior().log_prob(z)
        table = known.joint_table(vae, x, z)
    torch.testing.assert_close(table, expected.double(), rtol=1e-5, atol=1e-5)


def test_binary_data_are_scored_by_matrix_products(monkeypatch):
    """A hundred times as fast as their log-probabilities one by one."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, 5)),
        encoders.DiagonalNormal(networks.MLP(5, 4)),
    )
    x = vae.sample(4)
    expected = evaluation.log_likelihood(vae, x, 20_000)

    def one_by_one(self, value):
        raise AssertionError

    monkeypatch.setattr(type(vae.likelihood(torch.zeros(1, 2)).base_dist), "log_prob", one_by_one)
    z = (known.log_likelihood(vae, x) - expected.value) / expected.std_error
    assert z.abs().max() < 5


def test_only_data_that_need_it_have_finer_grids(monkeypatch):
    """Of a narrow posterior and a wide one, each by its own grid, as on the finest for both."""
    sizes = []
    original = known.grid_posterior

    def seen(vae, x, num_points, *args, **kwargs):
        sizes.append((len(x), num_points))
        return original(vae, x, num_points, *args, **kwargs)

    decode = torch.nn.Sequential(networks.MLP(1, 3, hidden=(8,), activation=torch.nn.Tanh))
    vae = VAE(priors.StandardNormal(1), likelihoods.Normal(decode, 0.05), encoders.DiagonalNormal(networks.MLP(3, 2)))
    with torch.no_grad():
        for parameter in decode.parameters():
            parameter.mul_(4)
    x = torch.cat([vae.sample(6), 3 * torch.ones(1, 3)])
    monkeypatch.setattr(known, "grid_posterior", seen)
    found = known.log_likelihood(vae, x)
    assert sizes[0] == (7, 201)
    assert 0 < sizes[-1][0] < 7
    finest = original(copy.deepcopy(vae).double(), x.double(), 6401, (-8.0, 8.0)).log_likelihood
    assert (found - finest).abs().max() < 1e-3


def test_the_work_is_bounded_however_few_and_small_the_data(monkeypatch):
    decode = networks.MLP(2, 5)
    vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode, 0.001), encoders.DiagonalNormal(networks.MLP(5, 4)))
    seen = []

    def never(vae, x, num_points, *args, **kwargs):
        seen.append(num_points)
        raise ValueError

    monkeypatch.setattr(known, "grid_posterior", never)
    assert known.log_likelihood(vae, torch.zeros(1, 5)) is None
    assert max(seen) < 3000


def test_a_distribution_derived_from_bernoullis_is_scored_by_its_own_probability():
    class Half(dist.Bernoulli):
        def log_prob(self, value):
            return 0.5 * super().log_prob(value)

    class Tempered(likelihoods.Bernoulli):
        def forward(self, z):
            return Half(logits=super().forward(z).base_dist.logits).to_event(1)

    decode, encode = networks.MLP(1, 3), encoders.DiagonalNormal(networks.MLP(3, 2))
    x = torch.tensor([[1.0, 0.0, 1.0]])
    tempered, plain = (
        known.log_likelihood(VAE(priors.StandardNormal(1), kind(decode), encode), x)
        for kind in (Tempered, likelihoods.Bernoulli)
    )
    assert tempered > plain + 0.5
