"""Two layers of latent variables, against closed forms and enumeration."""

import copy
import itertools

import pyro
import pytest
import torch
from scipy.stats import chi2, norm
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from pyrovae import data, encoders, evaluation, fit, gradients, likelihoods, networks, objectives, priors
from pyrovae.models import HierarchicalVAE, LadderVAE
from pyrovae.scale import unconstrained

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
A, S1, W, B, SX = 0.8, 0.6, torch.tensor([1.0, -0.5, 0.7]).double(), torch.tensor([0.2, 0.0, -0.3]).double(), 0.9


def linear(sizes, weight, bias, scale):
    """N(W a + b, diag(s^2)), with all of these as given."""
    conditional = encoders.DiagonalNormal(networks.MLP(sizes[0], 2 * sizes[1], hidden=()).double())
    layer = conditional.network.layers[-1]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[: sizes[1]] = weight
        layer.bias[: sizes[1]] = bias
        layer.bias[sizes[1] :] = unconstrained(torch.as_tensor(scale, dtype=torch.float64))
    return conditional


def chain(kind):
    """z2 ~ N(0, 1), z1 ~ N(A z2, S1^2), x ~ N(W z1 + B, SX^2 I), with the guide that is its posterior."""
    decode = networks.MLP(1, 3, hidden=()).double()
    with torch.no_grad():
        decode.layers[-1].weight.copy_(W[:, None])
        decode.layers[-1].bias.copy_(B)
    parts = {
        "prior": priors.StandardNormal(1).double(),
        "decoders": [linear((1, 1), A, 0.0, S1)],
        "likelihood": likelihoods.Normal(decode, SX).double(),
    }
    with torch.no_grad():
        parts["likelihood"].unconstrained_scale.copy_(unconstrained(torch.tensor(SX, dtype=torch.float64)))
    square = W @ W / SX**2
    if kind is HierarchicalVAE:
        precision = 1 / (A**2 + S1**2) + square
        gain = W / SX**2 / precision
        above = 1 + A**2 / S1**2
        up = [
            linear((3, 1), gain, -gain @ B, precision**-0.5),
            linear((1, 1), A / S1**2 / above, 0.0, above**-0.5),
        ]
        return HierarchicalVAE(**parts, encoders=up)
    covariance = S1**2 * W[:, None] * W + SX**2 * torch.eye(3).double()
    weights = A * torch.linalg.solve(covariance, W)
    precision = 1 + A * weights @ W
    told = W / SX**2 / square
    up = [
        linear((3, 1), told, -told @ B, square**-0.5),
        linear((3, 1), weights / precision, -weights @ B / precision, precision**-0.5),
    ]
    return LadderVAE(**parts, networks=[nn.Identity(), nn.Identity()], encoders=up)


def evidence(x, a=A, s1=S1, w=W, b=B, sx=SX):
    return MultivariateNormal(b, (a**2 + s1**2) * w[:, None] * w + sx**2 * torch.eye(3).double()).log_prob(x)


def perturbed(vae):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in vae.encoders.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


@pytest.fixture(params=[HierarchicalVAE, LadderVAE], ids=["upwards", "ladder"])
def vae(request):
    return chain(request.param)


def test_with_the_exact_posterior_each_draw_gives_the_evidence(vae):
    x = vae.sample(8)
    bound = objectives.ELBO(num_particles=3).bound(vae.model, vae.guide, x)
    torch.testing.assert_close(bound, evidence(x))
    # and the guide's gradient, which is 0, has no noise
    loss = objectives.ELBO(gradient=gradients.STL()).differentiable_loss(vae.model, vae.guide, x)
    assert all(g.abs().max() < 1e-9 for g in torch.autograd.grad(loss, list(vae.encoders.parameters())))


def test_the_models_gradient_is_that_of_the_evidence(vae):
    x, numbers = vae.sample(5), [torch.tensor(v).double().requires_grad_() for v in (A, SX)]
    exact = torch.autograd.grad(evidence(x, a=numbers[0], sx=numbers[1]).sum(), numbers)
    weight = vae.decoders[0].network.layers[-1].weight
    with torch.no_grad():
        scale_by = torch.autograd.functional.jacobian(lambda v: unconstrained(v), torch.tensor(SX).double())
    parameters = [weight, vae.likelihood.unconstrained_scale]
    found = []
    for _ in range(60):
        loss = objectives.ELBO(num_particles=200).differentiable_loss(vae.model, vae.guide, x)
        by_weight, by_scale = torch.autograd.grad(-loss, parameters)
        found.append(torch.stack([by_weight[0, 0], by_scale * scale_by]))
    found = torch.stack(found)
    z = (found.mean(0) - torch.stack(exact)) / (found.std(0) / 60**0.5)
    assert chi2.sf(float(z.square().sum()), 2) > LEVEL


def test_bounds_of_a_guide_that_is_off_rise_to_the_evidence(vae):
    perturbed(vae)
    x = vae.sample(10)
    found = evaluation.log_likelihood(vae, x, num_samples=20_000)
    z = (found.value - evidence(x)) / found.std_error
    assert LEVEL < chi2.sf(float(z.square().sum()), 10) < 1 - LEVEL
    by_k = evaluation.bounds(vae, x, [1, 5, 50], num_samples=5000).mean(1)
    assert (by_k.diff() > 0).all()
    assert evidence(x).mean() - by_k[0] > 0.1


def test_kl_of_each_layer(vae):
    x = vae.sample(6)
    layers = evaluation.kl_per_layer(vae, x, num_samples=4000)
    torch.testing.assert_close(sum(layers.values()), evaluation.elbo(vae, x, num_samples=4000).kl)
    if isinstance(vae, LadderVAE):  # of the top layer a KL that is known
        q = vae.encoders[1](x)
        exact = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).sum(-1)
        assert (layers["z2"] - exact).abs().max() < 0.1
    assert set(layers) == {"z1", "z2"}


OF_ONE_SITE = ("BetaTCVAE", "FactorVAE")


@pytest.mark.parametrize("name", OF_ONE_SITE)
def test_independence_of_elements_is_for_one_site(name, vae):
    with pytest.raises(ValueError, match=r"one latent site .*'z1', 'z2': use objectives\.InfoVAE"):
        fit(vae, vae.sample(4), objective=getattr(objectives, name)(), progress=False)


def test_what_is_rebuilt_from_a_layer_has_the_posteriors_mean(vae):
    """E[W z1 + B | x], z1 of the guide, or of the model below a z2 of the guide."""
    x = torch.tensor([[1.5, -1.0, 0.8]]).double()
    covariance = (A**2 + S1**2) * W[:, None] * W + SX**2 * torch.eye(3).double()
    told = torch.linalg.solve(covariance, x[0] - B) @ W
    torch.manual_seed(0)
    for layer, z1 in ((1, (A**2 + S1**2) * told), (2, A * A * told)):  # E[z1 | x], A E[z2 | x]
        found = vae.reconstruct(x.expand(20_000, 3), layer=layer)
        z = (found.mean(0) - (W * z1 + B)) / (found.std(0) / 20_000**0.5)
        assert 2 * norm.sf(z.abs().max().item()) > LEVEL
    with pytest.raises(ValueError, match="layers are from 1 to 2, and there is no layer 3"):
        vae.reconstruct(x, layer=3)


@pytest.mark.parametrize("name", [name for name in objectives.__all__ if name not in OF_ONE_SITE])
def test_every_objective_trains_it(name, vae):
    perturbed(vae)
    x = vae.sample(64)
    objective = getattr(objectives, name)(num_particles=4)
    before = evaluation.elbo(vae, x, 200).value.mean()
    history = fit(vae, x, objective=objective, epochs=30, optimizer=lambda g: torch.optim.Adam(g, 0.01), progress=False)
    assert evaluation.elbo(vae, x, 200).value.mean() > before + 0.05
    assert len(history) == 30


def bits():
    """z2 and z1 of two bits each, x of three, and a guide that goes upwards."""
    torch.manual_seed(0)
    make = lambda sizes: encoders.Bernoulli(networks.MLP(*sizes, hidden=(), initializer=nn.init.normal_).double())  # noqa: E731
    likelihood = likelihoods.Bernoulli(networks.MLP(2, 3, hidden=(), initializer=nn.init.normal_).double())
    return HierarchicalVAE(priors.Bernoulli(2).double(), [make((2, 2))], likelihood, [make((3, 2)), make((2, 2))])


def enumerated(vae, x):
    """log p(x) and the ELBO as sums over all z, `(N,)` each."""
    states = [torch.tensor(s).double() for s in itertools.product([0.0, 1.0], repeat=2)]
    log_p, log_q = [], []
    for z1, z2 in itertools.product(states, states):
        p = Bernoulli(logits=vae.prior.logits).log_prob(z2).sum()
        p = p + Bernoulli(logits=vae.decoders[0].network(z2)).log_prob(z1).sum()
        log_p.append(p + Bernoulli(logits=vae.likelihood.network(z1)).log_prob(x).sum(-1))
        q = Bernoulli(logits=vae.encoders[0].network(x)).log_prob(z1).sum(-1)
        log_q.append(q + Bernoulli(logits=vae.encoders[1].network(z1)).log_prob(z2).sum())
    log_p, log_q = torch.stack(log_p), torch.stack(log_q)
    return log_p.logsumexp(0), (log_q.exp() * (log_p - log_q)).sum(0)


def test_bits_agree_with_enumeration():
    vae = bits()
    x = vae.sample(6)
    log_likelihood, elbo = enumerated(vae, x)
    found = evaluation.log_likelihood(vae, x, 20_000)
    z = (found.value - log_likelihood).detach() / found.std_error
    assert LEVEL < chi2.sf(float(z.square().sum()), 6) < 1 - LEVEL
    objective = objectives.ELBO(gradient=gradients.Enumerate())
    torch.testing.assert_close(objective.bound(vae.model, vae.guide, x), elbo)
    parameters = list(vae.parameters())
    exact = torch.autograd.grad(elbo.sum(), parameters)
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    for g, expected in zip(torch.autograd.grad(-loss, parameters), exact, strict=True):
        torch.testing.assert_close(g, expected)


def test_three_layers_of_images_are_fitted():
    def build():
        torch.manual_seed(0)
        normal = lambda i, o: encoders.DiagonalNormal(networks.MLP(i, 2 * o, hidden=(16,)))  # noqa: E731
        return HierarchicalVAE(
            priors.StandardNormal(2),
            [normal(3, 5), normal(2, 3)],
            likelihoods.Bernoulli(networks.MLP(5, (1, 8, 8), hidden=(16,))),
            [normal((1, 8, 8), 5), normal(5, 3), normal(3, 2)],
        )

    digits = data.load("digits", binarize="dynamic")
    plain = build()
    history = fit(plain, digits.train, digits.valid, epochs=4, progress=False)
    assert history["valid_elbo"][-1] > history["valid_elbo"][0] + 5
    assert plain.sample(3, kind="mean").shape == plain.reconstruct(digits.valid[:3]).shape == (3, 1, 8, 8)
    assert not [*pyro.get_param_store().keys()]
    other = copy.deepcopy(plain)
    assert other.name != plain.name
    kept = copy.deepcopy(plain.encoders.state_dict())
    fit(plain, digits.train, epochs=1, encoder_lr=0.0, progress=False)
    assert all(torch.equal(t, kept[name]) for name, t in plain.encoders.state_dict().items())
    assert any((p != q).any() for p, q in zip(plain.decoders.parameters(), other.decoders.parameters(), strict=True))


def test_pyro_trains_it_as_ours_does(vae):
    x, other = vae.sample(20), copy.deepcopy(vae)
    for model, loss in ((vae, pyro.infer.Trace_ELBO()), (other, objectives.ELBO())):
        optim = torch.optim.SGD(model.parameters(), 1e-3)
        pyro.set_rng_seed(0)
        for _ in range(3):
            optim.zero_grad()
            loss.differentiable_loss(model.model, model.guide, x).backward()
            optim.step()
    for ours, theirs in zip(other.parameters(), vae.parameters(), strict=True):
        torch.testing.assert_close(ours * 1.0, theirs * 1.0, rtol=1e-3, atol=1e-3)


def test_parts_that_do_not_fit_are_refused():
    two, prior = linear((1, 2), torch.ones(2, 1), 0.0, 1.0), priors.StandardNormal(1)
    likelihood = likelihoods.Normal(networks.MLP(1, 3), 1.0)
    with pytest.raises(ValueError, match=r"the network of Normal takes z1 of shape \(1,\), but it has \(2,\)"):
        HierarchicalVAE(prior, [two], likelihood, [two, two])
    with pytest.raises(ValueError, match="2 layers of z need as many encoders, not 1"):
        HierarchicalVAE(prior, [linear((1, 1), 1.0, 0.0, 1.0)], likelihood, [two])
    with pytest.raises(ValueError, match="2 layers of z need as many networks and encoders, not 1 and 2"):
        LadderVAE(prior, [linear((1, 1), 1.0, 0.0, 1.0)], likelihood, [nn.Identity()], [two, two])
    ladder = chain(LadderVAE)
    ladder.decoders[0] = encoders.FullRankNormal(lambda n: networks.MLP(1, n(1)).double())
    with pytest.raises(ValueError, match="a product is of diagonal normals"):
        ladder.guide(torch.zeros(2, 3).double())
