"""Conditional models against closed forms and sums over all z; images of which a part is given."""

import itertools

import pytest
import torch
from scipy.stats import chi2
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal

from pyrovae import VAE, data, encoders, evaluation, fit, gradients, likelihoods, networks, objectives, priors
from pyrovae.conditional_vae import ConditionalVAE
from pyrovae.conditions import Features, OneHot, Quadrants
from pyrovae.scale import unconstrained

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
W, V, S = torch.tensor([1.0, -0.5, 0.7]).double(), torch.tensor([[0.3, 1.0], [0.5, -1.0], [-2.0, 0.2]]).double(), 0.8
A, T = torch.tensor([0.7, -1.2]).double(), 0.5  # of p(z | y)


def linear(of, weight, bias, scale=None):
    """A conditional normal of mean W b + c and a fixed scale, in float64."""
    weight, bias = torch.as_tensor(weight).double().reshape(-1, of), torch.as_tensor(bias).double().reshape(-1)
    out = len(bias)
    layer = networks.MLP(of, out if scale is None else 2 * out, hidden=()).double()
    with torch.no_grad():
        last = layer.layers[-1]
        last.weight.zero_()[:out].copy_(weight)
        last.bias.zero_()[:out].copy_(bias)
        if scale is not None:
            last.bias[out:].copy_(unconstrained(scale))
    return layer


def gaussian(learned_prior):
    """z ~ N(A y, T^2) or N(0, 1), x ~ N(W z + V y, S^2); and q(z | x, y), the exact posterior."""
    mean, variance = (A, T**2) if learned_prior else (torch.zeros(2).double(), 1.0)
    precision = 1 / variance + W @ W / S**2
    by_x, by_y = W / S**2 / precision, (mean / variance - W @ V / S**2) / precision
    return ConditionalVAE(
        encoders.DiagonalNormal(linear(2, mean, [0.0], torch.tensor(T)))
        if learned_prior
        else priors.StandardNormal(1).double(),
        likelihoods.Normal(linear(3, torch.cat([W[:, None], V], 1), [0.0] * 3), S).double(),
        encoders.DiagonalNormal(linear(5, torch.cat([by_x, by_y]), [0.0], torch.as_tensor(precision**-0.5))),
        Features(2),
    )


def evidence(x, y, learned_prior):
    mean, variance = (y @ A, T**2) if learned_prior else (torch.zeros(len(y)).double(), 1.0)
    covariance = variance * torch.outer(W, W) + S**2 * torch.eye(3).double()
    return MultivariateNormal(mean[:, None] * W + y @ V.T, covariance).log_prob(x)


@pytest.mark.parametrize("learned_prior", [False, True])
def test_with_the_exact_posterior_every_draw_weighs_the_evidence(learned_prior):
    vae = gaussian(learned_prior)
    torch.manual_seed(0)
    y = torch.randn(7, 2).double()
    x = vae.sample(7, y=y)
    exact = evidence(x, y, learned_prior)
    for bound in (objectives.ELBO(num_particles=3), objectives.IWAE(num_particles=4)):
        torch.testing.assert_close(bound.bound(vae.model, vae.guide, x, y), exact)
    found = evaluation.scores(vae, (x, y), 5)
    torch.testing.assert_close(found.elbo.value, exact)
    assert found.log_likelihood.std_error.max() < 1e-6


@pytest.mark.parametrize("learned_prior", [False, True])
def test_draws_have_the_conditional_mean_and_covariance(learned_prior):
    vae, n = gaussian(learned_prior), 100_000
    torch.manual_seed(0)
    y = torch.tensor([[1.0, -0.5]]).double()
    x = vae.sample(n, y=y.expand(n, 2))
    variance = T**2 if learned_prior else 1.0
    mean = (y @ A if learned_prior else torch.zeros(1).double()) * W + V @ y[0]
    covariance = variance * torch.outer(W, W) + S**2 * torch.eye(3).double()
    off = x.mean(0) - mean
    assert chi2.sf(float(n * off @ torch.linalg.solve(covariance, off)), 3) > LEVEL
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0.03, atol=0.03)


def bits(learned_prior=False):
    """z of two bits, x of three, y of two classes."""
    torch.manual_seed(0)
    make = lambda *sizes: networks.MLP(*sizes, hidden=(), initializer=nn.init.normal_).double()  # noqa: E731
    prior = encoders.Bernoulli(make(2, 2)) if learned_prior else priors.Bernoulli(2).double()
    return ConditionalVAE(prior, likelihoods.Bernoulli(make(4, 3)), encoders.Bernoulli(make(5, 2)), OneHot(2))


@pytest.mark.parametrize("learned_prior", [False, True])
def test_bound_and_gradient_of_bits_are_sums_over_all_z(learned_prior):
    vae, y = bits(learned_prior), torch.tensor([0, 1, 1, 0])
    x, given = vae.sample(4, y=y), torch.eye(2).double()[y]
    log_p, log_q = [], []
    for z in itertools.product([0.0, 1.0], repeat=2):
        z = torch.tensor(z).double().expand(4, 2)
        prior = vae.prior.network(given) if learned_prior else vae.prior.logits
        p = Bernoulli(logits=prior).log_prob(z).sum(-1)
        log_p.append(p + Bernoulli(logits=vae.likelihood.network(torch.cat([z, given], 1))).log_prob(x).sum(-1))
        log_q.append(Bernoulli(logits=vae.encoder.network(torch.cat([x, given], 1))).log_prob(z).sum(-1))
    log_p, log_q = torch.stack(log_p), torch.stack(log_q)
    elbo = (log_q.exp() * (log_p - log_q)).sum(0)
    objective = objectives.ELBO(gradient=gradients.Enumerate())
    torch.testing.assert_close(objective.bound(vae.model, vae.guide, x, y), elbo)
    parameters = list(vae.parameters())
    loss = objective.differentiable_loss(vae.model, vae.guide, x, y)
    exact = torch.autograd.grad(elbo.sum(), parameters)
    for g, expected in zip(torch.autograd.grad(-loss, parameters), exact, strict=True):
        torch.testing.assert_close(g, expected)
    found = evaluation.log_likelihood(vae, (x, y), 20_000)
    z = (found.value - log_p.logsumexp(0)).detach() / found.std_error
    assert LEVEL < chi2.sf(float(z.square().sum()), 4) < 1 - LEVEL


def test_classes_help_and_are_learned_through_fit():
    torch.manual_seed(0)
    centres = torch.bernoulli(torch.full((4, 20), 0.5))
    y = torch.arange(800) % 4
    x = torch.where(torch.rand(800, 20) < 0.1, 1 - centres[y], centres[y])
    small = {"hidden": (16,)}
    vae = ConditionalVAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1 + 4, 20, **small)),
        encoders.DiagonalNormal(networks.MLP(20 + 4, 2, **small)),
        OneHot(4),
    )
    history = fit(
        vae,
        (x[:600], y[:600]),
        (x[600:], y[600:]),
        epochs=30,
        optimizer=lambda g: torch.optim.Adam(g, 1e-2),
        progress=False,
    )
    noise = 20 * (0.1 * torch.tensor(0.1).log() + 0.9 * torch.tensor(0.9).log())  # log p(x | y) where all is known
    assert abs(history["valid_elbo"][-1] - noise) < 0.5 < noise - history["valid_elbo"][0]
    assert (vae.sample(4, "mean", torch.arange(4)).round() == centres).all()
    swapped = evaluation.elbo(vae, (x[600:], (y[600:] + 1) % 4), 10).value.mean()
    assert swapped < history["valid_elbo"][-1] - 5


@pytest.mark.parametrize("visible", [1, 2, 3])
def test_quadrants_are_split_and_merged(visible):
    quadrants, x = Quadrants((3, 5, 6), visible), torch.rand(4, 3, 5, 6)
    hidden, shown = quadrants.split(x)
    assert torch.equal(quadrants.merge(hidden, shown), x)
    assert (shown.shape[1:], hidden.shape[-1]) == (quadrants.out_shape, 30 - shown.shape[-1])
    seen = quadrants.merge(torch.zeros_like(hidden), torch.ones_like(shown))[0, 0]
    assert seen[4, 0] == 1
    assert seen[0, 5] == 0
    assert (seen[0, 0] == 1) == (visible > 1)
    assert (seen[4, 5] == 1) == (visible > 2)
    assert seen.sum() == {1: 9, 2: 15, 3: 24}[visible]


def test_what_is_hidden_is_drawn_anew_each_epoch_beside_what_is_shown():
    digits = data.load("digits", binarize="dynamic")
    quadrants = Quadrants((1, 8, 8))
    hidden, shown = quadrants.split(digits.train)
    vae = ConditionalVAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2 + 16, (1, 48), hidden=(16,))),
        encoders.DiagonalNormal(networks.MLP(64, 4, hidden=(16,))),
        quadrants,
    )
    history = fit(vae, (hidden, shown), quadrants.split(digits.valid), epochs=5, progress=False)
    assert type(hidden) is type(shown) is data.Intensities
    assert history["valid_elbo"][-1] > history["valid_elbo"][0] + 5
    assert vae.sample(3, "mean", shown[:3].as_subclass(torch.Tensor)).shape == (3, 1, 48)


def test_what_does_not_fit_is_refused():
    vae, x = bits(), torch.zeros(3, 3).double()
    for y, message in (
        (torch.tensor([0, 1, 2]), "classes are from 0 to 1, but these go from 0 to 2"),
        (torch.zeros(3), "classes are whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(vae, (x, y), epochs=1)
    with pytest.raises(ValueError, match="needs a condition for each datum"):
        fit(vae, x, epochs=1)
    with pytest.raises(ValueError, match="has 3, 2 rows"):
        evaluation.elbo(vae, (x, torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"there is no p\(y\)"):
        vae.sample(2)
    make = lambda *sizes: networks.MLP(*sizes, hidden=())  # noqa: E731
    with pytest.raises(ValueError, match=r"the network of p\(x \| z, y\) takes \(2,\), but .* has the shape \(4,\)"):
        ConditionalVAE(vae.prior, likelihoods.Bernoulli(make(2, 3)), vae.encoder, OneHot(2))
    with pytest.raises(ValueError, match=r"the prior is over z of shape \(3,\), but q\(z \| x, y\) over \(2,\)"):
        ConditionalVAE(priors.StandardNormal(3), vae.likelihood, vae.encoder, OneHot(2))
    with pytest.raises(ValueError, match="1 to 3 quadrants"):
        Quadrants((1, 8, 8), 4)
    with pytest.raises(ValueError, match="holds NaN"):
        Features(2).check(torch.full((3, 2), torch.nan))
    for y in (torch.zeros(3, 3), torch.zeros(3, 2).long()):
        with pytest.raises(ValueError, match=r"a condition is \(N, \*\(2,\)\), floating point, not torch"):
            Features(2).check(y)


def test_a_plain_vae_does_not_mind_labels_beside_its_data():
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(1), likelihoods.Normal(networks.MLP(1, 3)), encoders.DiagonalNormal(networks.MLP(3, 2))
    )
    x, y = torch.randn(20, 3), torch.arange(20)
    one = fit(vae, (x, y), epochs=1, progress=False)
    assert len(one) == 1


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_classes_may_be_whole_numbers_of_any_kind(dtype):
    y = torch.tensor([0, 1, 1])
    assert torch.equal(OneHot(2)(y.to(dtype)), OneHot(2)(y))


def test_no_draws_given_what_is_no_class():
    vae = ConditionalVAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2 + 3, 4)),
        encoders.DiagonalNormal(networks.MLP(4 + 3, 4)),
        OneHot(3),
    )
    for y in (torch.tensor([0, 3]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="classes are"):
            vae.sample(2, y=y)


def test_nor_where_they_stand_beside_data_to_validate_on_or_to_score():
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(1), likelihoods.Normal(networks.MLP(1, 3)), encoders.DiagonalNormal(networks.MLP(3, 2))
    )
    x, y = torch.randn(20, 3), torch.arange(20)
    [valid_elbo] = fit(vae, (x, y), (x, y), epochs=1, progress=False)["valid_elbo"]
    assert valid_elbo == evaluation.elbo(vae, x).value.double().mean().item()
    assert torch.equal(evaluation.elbo(vae, (x, y)).value, evaluation.elbo(vae, x).value)
    assert evaluation.active_units(vae, (x, y)).value == evaluation.active_units(vae, x).value


@pytest.mark.parametrize("bad", [(), (torch.zeros(3, 3), torch.tensor(1)), torch.utils.data.TensorDataset()])
def test_data_without_a_row_for_each_datum_are_refused(bad):
    with pytest.raises(ValueError, match="data are a tensor"):
        evaluation.elbo(bits(), bad)
