"""What each prior is: its density against a formula, where it starts, what it takes from the VAE and the data."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax, logsumexp
from test_priors import EVENT, in_vae, make, points
from torch.distributions import RelaxedBernoulli, RelaxedOneHotCategorical

from pyrovae import VAE, encoders, likelihoods, networks, priors, runs
from pyrovae.distributions import relaxed
from pyrovae.encoders.encoder import Encoder


def scale(a):
    return np.logaddexp(0, a) + 1e-4


def normal_mixture(z, logits, loc, scales):
    log_prob = stats.norm(loc, scales).logpdf(z[:, None]).sum(-1)
    return logsumexp(log_softmax(logits) + log_prob, axis=-1)


def process(p, z):
    difference = np.subtract.outer(np.arange(3), np.arange(3))
    k = np.exp(-2 * np.sin(np.pi * difference / 5.0) ** 2 / scale(p["unconstrained_length_scale"]) ** 2)
    k = (1 - 1e-4) * k + 1e-4 * np.eye(3)
    return sum(stats.multivariate_normal(np.zeros(3), k).logpdf(f) for f in (z[:, :3], z[:, 3:]))


def torchs(kind, logits, z):
    """PyTorch's density, which is right where nothing saturates."""
    return kind(torch.tensor(0.4, dtype=torch.float64), logits=torch.tensor(logits)).log_prob(torch.tensor(z)).numpy()


# log p(z) given the parameters and z, by formulas that are not the library's.
EXPECTED = [
    ("StandardNormal", {}, lambda p, z: stats.norm.logpdf(z).sum(-1)),
    ("Normal", {}, lambda p, z: stats.norm(p["loc"], scale(p["unconstrained_scale"])).logpdf(z).sum(-1)),
    ("Laplace", {}, lambda p, z: stats.laplace.logpdf(z).sum(-1)),
    ("StudentT", {"df": 3.0}, lambda p, z: stats.t(3.0).logpdf(z).sum(-1)),
    (
        "MixtureOfNormals",
        {"components": 3},
        lambda p, z: normal_mixture(z, p["logits"], p["loc"], scale(p["unconstrained_scale"])),
    ),
    ("GaussianProcess", {"index": [0, 1, 2], "period": 5.0}, process),
    ("HypersphericalUniform", {}, lambda p, z: np.full(len(z), -np.log(np.pi**3))),  # 2 pi^3 / Gamma(3)
    ("Bernoulli", {}, lambda p, z: stats.bernoulli(1 / (1 + np.exp(-p["logits"]))).logpmf(z).sum(-1)),
    ("OneHotCategorical", {}, lambda p, z: z @ log_softmax(p["logits"])),
    ("RelaxedBernoulli", {"temperature": 0.4}, lambda p, z: torchs(RelaxedBernoulli, p["logits"], z).sum(-1)),
    ("RelaxedOneHotCategorical", {"temperature": 0.4}, lambda p, z: torchs(RelaxedOneHotCategorical, p["logits"], z)),
]


@pytest.mark.parametrize(("name", "variant", "expected"), EXPECTED, ids=[e[0] for e in EXPECTED])
def test_log_prob_is_that_of_the_formula(name, variant, expected):
    prior = make(name, variant, 6)
    z = points(prior, 10)
    parameters = {key: parameter.detach().numpy() for key, parameter in prior.named_parameters()}
    value = prior().log_prob(z).detach().numpy()
    assert value == pytest.approx(expected(parameters, z.numpy()), rel=1e-10)


def test_bernoulli_starts_with_equal_probabilities():
    assert priors.Bernoulli(3)().mean.tolist() == [0.5, 0.5, 0.5]


def test_mixture_of_normals_starts_with_equal_weights_and_unit_scales():
    mixture = priors.MixtureOfNormals(3, components=4)()
    torch.testing.assert_close(mixture.mixture_distribution.probs, torch.full((4,), 0.25))
    torch.testing.assert_close(mixture.component_distribution.stddev, torch.ones(4, 3))


def test_normal_starts_as_the_standard_normal():
    torch.testing.assert_close(priors.Normal(3)().mean, torch.zeros(3))
    torch.testing.assert_close(priors.Normal(3)().variance, torch.ones(3))


# Relaxations, whose draws saturate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("kind", [relaxed.RelaxedBernoulli, relaxed.RelaxedOneHotCategorical])
def test_relaxed_densities_of_saturated_draws_are_those_of_one_measure(kind, temperature, dtype):
    """E_q[p(z) / q(z)] = 1: z-test at level 1e-4, at temperatures where up to most draws lie on a bound."""
    a, b = torch.tensor([1.0, 0.3, -0.6], dtype=dtype), torch.tensor([0.2, 0.0, -0.3], dtype=dtype)
    q, p = kind(temperature, a), kind(temperature, b)
    z = q.sample((100_000,))
    assert q.support.check(z).all()
    ratio = (p.log_prob(z) - q.log_prob(z)).double().exp()
    assert ((ratio.mean(0) - 1).abs() < 3.9 * ratio.std(0) / 100_000**0.5).all()


@pytest.mark.parametrize("sign", [-1, 1])
def test_relaxed_bernoulli_that_is_all_but_a_bit_has_the_kl_of_the_bit(sign):
    """In float32, where all draws lie on one bound: minus the logarithm of the prior's probability there."""
    logits = torch.full((1000,), sign * 1e3)
    q, p = relaxed.RelaxedBernoulli(0.5, logits), relaxed.RelaxedBernoulli(0.5, torch.zeros(1000))
    z = q.sample()
    kl = q.log_prob(z) - p.log_prob(z)
    assert kl.numpy() == pytest.approx(np.full(1000, 0.5 * np.log(1 / (10 * 2.0**-23))), rel=1e-3)


@pytest.mark.parametrize("kind", [relaxed.RelaxedBernoulli, relaxed.RelaxedOneHotCategorical])
@pytest.mark.parametrize("size", [0.0, 1e2, 1e4])
def test_relaxed_kl_is_positive_and_its_gradient_finite_whatever_the_logits(kind, size):
    """In float32: the ELBO is a bound only if the KL cannot be made negative."""
    logits = torch.tensor([size, 0.0, 1.0, -size], requires_grad=True)
    q, p = kind(0.5, logits), kind(0.5, torch.zeros(4))
    z = q.rsample((5000,))
    kl = q.log_prob(z) - p.log_prob(z)
    kl.mean(0).sum().backward()
    assert logits.grad.isfinite().all()
    assert kl.isfinite().all()
    assert (kl.mean(0) > -4 * kl.std(0) / 5000**0.5 - 1e-5).all()


@pytest.mark.parametrize("kind", [relaxed.RelaxedBernoulli, relaxed.RelaxedOneHotCategorical])
def test_relaxed_draws_have_the_gradient_of_their_mean(kind):
    """Against central differences from the same noise."""
    logits = torch.tensor([0.7, -0.4, 0.1], dtype=torch.float64, requires_grad=True)

    def draws(logits):
        torch.manual_seed(0)
        return kind(0.5, logits).rsample((50,)).square().sum()

    assert torch.autograd.gradcheck(draws, logits)


# Gaussian process


def test_gaussian_process_takes_its_points_from_the_data_unless_it_has_some():
    points_, dataset = torch.tensor([0.0, 0.5, 2.0]), SimpleNamespace(index=torch.tensor([0.0, 0.5, 2.0]))
    prior, given = priors.GaussianProcess(6).double(), priors.GaussianProcess(6, index=[1, 2])
    for p in (prior, given):
        p.start_from(dataset)
        p.start_from(SimpleNamespace())  # data without an index change nothing
    expected = (1 - 1e-4) * torch.exp(-0.5 * torch.cdist(points_[:, None], points_[:, None]) ** 2) + 1e-4 * torch.eye(3)
    covariance = prior().covariance_matrix
    torch.testing.assert_close(covariance, torch.block_diag(expected, expected).double(), rtol=1e-6, atol=1e-6)
    assert given.index.tolist() == [[1.0], [2.0]]


def test_gaussian_process_with_a_period_ends_as_it_began():
    prior = priors.GaussianProcess(5, index=[0, 90, 180, 270, 360], period=360)
    correlation = prior().covariance_matrix[0].detach()
    assert correlation[4] == pytest.approx(1, abs=2e-4)
    assert correlation[1] == pytest.approx(correlation[3].item(), rel=1e-4)
    assert correlation[2] == correlation.min()


def test_gaussian_process_over_points_in_the_plane():
    prior = priors.GaussianProcess(3, index=torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0]]), length_scale=5.0)
    assert prior.kernel()[0, 1:].tolist() == pytest.approx([np.exp(-0.5)] * 2, rel=1e-3)


@pytest.mark.parametrize("length_scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_process_of_many_points_has_a_density(length_scale, dtype):
    prior = priors.GaussianProcess(200, length_scale=length_scale).to(dtype)
    assert prior().log_prob(prior().sample()).isfinite()
    torch.testing.assert_close(prior().variance, torch.ones(200, dtype=dtype), rtol=1e-4, atol=0)


# VampPrior


def vamp(**options):
    return make("VampPrior", {"components": 5, **options}, 2).vae[0]


def test_vamp_is_the_mixture_of_posteriors_given_pseudo_inputs():
    vae = vamp()
    z = torch.randn(7, 2, dtype=torch.float64)
    q = vae.encode(vae.prior.pseudo_inputs).base_dist
    expected = normal_mixture(z.numpy(), np.zeros(5), q.loc.detach().numpy(), q.scale.detach().numpy())
    assert vae.prior().log_prob(z).detach().numpy() == pytest.approx(expected, rel=1e-12)


def test_vamp_asks_the_encoder_once_and_gives_it_a_gradient():
    vae, calls = vamp(), []
    vae.encoder.network.register_forward_hook(lambda *args: calls.append(1))
    vae.prior().expand((3, 4)).log_prob(torch.randn(3, 4, 2, dtype=torch.float64)).sum().backward()
    assert len(calls) == 1
    assert all(p.grad.any() for p in (*vae.encoder.parameters(), vae.prior.pseudo_inputs))


def test_vamp_does_not_hold_the_encoder_twice_and_a_copy_has_its_own():
    vae = vamp()
    assert [key for key, _ in vae.prior.named_parameters()] == list(vae.prior.state_dict()) == ["pseudo_inputs"]
    other, z = copy.deepcopy(vae), torch.randn(7, 2, dtype=torch.float64)
    before = vae.prior().log_prob(z)
    assert torch.equal(other.prior().log_prob(z), before)
    with torch.no_grad():
        for parameter in other.encoder.parameters():
            parameter.add_(1.0)
    assert not torch.equal(other.prior().log_prob(z), before)
    assert torch.equal(vae.prior().log_prob(z), before)


def test_vamp_starts_at_data_or_as_they_are_distributed():
    train = torch.rand(300, *EVENT) * torch.arange(1.0, 7.0).reshape(EVENT)
    dataset = SimpleNamespace(train=train)
    of_data, like_data = (in_vae(priors.VampPrior(2, components=200, of_data=b)).prior for b in (True, False))
    of_data.start_from(dataset)
    found = (of_data.pseudo_inputs[:, None] == train).flatten(2).all(-1)  # (200, 300)
    assert (found.sum(1) == 1).all()
    assert found.any(0).sum() == 200
    like_data.start_from(dataset)
    u = like_data.pseudo_inputs
    assert ((u.mean(0) - train.mean(0)).abs() < 4 * train.std(0) / 200**0.5).all()  # level 1e-4
    assert u.std(0).detach().numpy() == pytest.approx(train.std(0).numpy(), rel=0.25)
    given = in_vae(priors.VampPrior(2, pseudo_inputs=train[:3])).prior
    given.start_from(dataset)
    assert torch.equal(given.pseudo_inputs, train[:3])
    with pytest.raises(ValueError, match="components=300 or fewer"):
        in_vae(priors.VampPrior(2, components=301, of_data=True)).prior.start_from(dataset)


def test_vamp_that_is_not_learned_keeps_and_saves_its_pseudo_inputs():
    vae = vamp(learned=False)
    assert not list(vae.prior.parameters())
    assert list(vae.prior.state_dict()) == ["pseudo_inputs"]


def encoder_of(name, latent_dim=2):
    return getattr(encoders, name)(lambda outputs: networks.MLP(EVENT, outputs(latent_dim), hidden=(5,)))


def join(encoder, prior=None):
    return VAE(prior or priors.VampPrior(2, components=3), likelihoods.Bernoulli(networks.MLP(2, EVENT)), encoder)


class Silent(torch.nn.Module):
    """A network that does not tell its shapes."""

    def __init__(self):
        super().__init__()
        self.network = networks.MLP(EVENT, 4, hidden=(5,))

    def forward(self, x):
        return self.network(x)


@pytest.mark.parametrize("name", encoders.__all__)
def test_vamp_of_any_encoder_is_the_mixture_or_is_refused(name):
    encoder = encoder_of(name).double()
    try:
        vae = join(encoder).double()
    except ValueError as error:
        assert "use another" in str(error)  # noqa: PT017
        return
    z = vae.prior().sample((4, 5))
    assert vae.prior.support.check(z).all()
    one_by_one = torch.stack([encoder(u).log_prob(z.clone()) for u in vae.prior.pseudo_inputs])
    torch.testing.assert_close(vae.prior().log_prob(z), one_by_one.logsumexp(0) - np.log(3), rtol=1e-9, atol=1e-9)
    assert vae.sample(3).shape == (3, *EVENT)


@pytest.mark.parametrize("name", ["Delta", "Planar", "SemiAmortized"])
def test_vamp_refuses_what_has_no_density_for_other_draws(name):
    with pytest.raises(ValueError, match=f"{name}.*use another"):
        join(encoder_of(name))


def test_vamp_outside_of_a_vae_or_in_one_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="put it in one"):
        priors.VampPrior(2)()
    with pytest.raises(ValueError, match="give each VAE"):
        join(encoder_of("DiagonalNormal"), vamp().prior)
    with pytest.raises(ValueError, match="give pseudo_inputs"):
        join(encoders.DiagonalNormal(Silent()))
    assert (
        join(encoders.DiagonalNormal(Silent()), priors.VampPrior(2, pseudo_inputs=torch.rand(4, *EVENT)))
        .sample(2)
        .any()
    )
    with pytest.raises(ValueError, match=r"takes data \(1, 2, 3\).*\(4, 2\)"):
        join(encoder_of("DiagonalNormal"), priors.VampPrior(2, pseudo_inputs=torch.rand(4, 2)))
    with pytest.raises(ValueError, match=r"z of shape \(3,\)"):
        join(encoder_of("DiagonalNormal"), priors.VampPrior(3))


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        "FlowPrior --prior.flow AffineCoupling --prior.flow.hidden [8] --prior.layers 2",
        "GaussianProcess --prior.index [0,1] --prior.period 4",
        "VampPrior --prior.components 20 --prior.of_data true",
        "StudentT --prior.df 3",
    ],
)
def test_priors_and_their_options_are_chosen_on_the_command_line(arguments):
    name, *options = arguments.split()
    chosen = runs.parser().parse_args(["--data", "digits", "--latent_dim", "4", "--prior", name, *options])
    vae, _, _ = runs.prepare(chosen)
    assert type(vae.prior).__name__ == name
    assert vae.prior().event_shape == (4,)
    if name == "FlowPrior":
        assert [type(layer).__name__ for layer in vae.prior.layers] == ["AffineCoupling"] * 2
    assert isinstance(vae.encoder, Encoder)
