"""A deep Markov model, against dense Gaussians, sums over states, Jacobians, and itself without the padding."""

import copy
import itertools

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy.stats import chi2, multivariate_normal
from torch import nn

from pyrovae import SVI, DeepMarkovModel, data, encoders, evaluation, fit, likelihoods, networks, objectives, priors
from pyrovae.densities import log_densities
from pyrovae.gradients import STL, Enumerate
from pyrovae.scale import positive, unconstrained

LEVEL = 1e-3  # of the statistical tests, each with a fixed seed
T, D, F = 4, 2, 3
LENGTHS = torch.tensor([4, 1, 3, 2, 4, 3])


def linear(sizes, weight, bias, scale=None):
    """A network W a + b, followed by the a of which a scale is made, if there is one."""
    network = networks.MLP(sizes[0], sizes[1] * (1 if scale is None else 2), hidden=()).double()
    layer = network.layers[-1]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[: sizes[1]] = weight
        layer.bias[: sizes[1]] = bias
        if scale is not None:
            layer.bias[sizes[1] :] = unconstrained(scale)
    return network


class Smoother(nn.Module):
    """What x_t, ..., x_L tell of z_t, p(x_t, ..., x_L | z_t) ~ exp(-z' J_t z / 2 + e_t' z), from the end; and t = 1."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts  # in a list, which keeps them the model's

    def numbers(self):
        transition, likelihood = self.parts
        layer, emission = transition.network.layers[-1], likelihood.network.layers[-1]
        q = positive(layer.bias[D:]).square()
        r = positive(likelihood.unconstrained_scale).expand(F).square()
        return layer.weight[:D], layer.bias[:D], q, emission.weight, emission.bias, r

    def forward(self, x, seen=None):
        a, b, q, w, c, r = self.numbers()
        told, e = (w.mT / r) @ w, (x - c) / r @ w  # (D, D), (B, T, D)
        j, k, found = x.new_zeros(len(x), D, D), x.new_zeros(len(x), D), []
        for t in reversed(range(x.shape[1])):
            # of z_(t+1), by integrating over it, what is told of z_t
            inner = torch.linalg.inv(torch.eye(D).double() / q + j)  # (B, D, D)
            later = k + b / q
            above, below = a.mT @ (torch.diag(1 / q) - inner / q / q[:, None]) @ a, None
            below = ((inner @ later[..., None])[..., 0] / q - b / q) @ a
            last = t == x.shape[1] - 1
            end = torch.full((len(x),), last) if seen is None else ~seen[:, min(t + 1, x.shape[1] - 1)] | last
            here = told + torch.where(end[:, None, None], 0.0, above)
            new = e[:, t] + torch.where(end[:, None], 0.0, below)
            j, k = here, new
            found.append(torch.cat([j.flatten(1), k, x.new_full((len(x), 1), float(t == 0))], 1))
        return torch.stack(found[::-1], 1)


class Posterior(nn.Module):
    """q(z_t | z_(t-1), x_t, ..., x_L) ~ p(z_t | z_(t-1)) p(x_t, ..., x_L | z_t), its mean off by `shift`."""

    def __init__(self, smoother, shift=0.0, wider=1.0):
        super().__init__()
        self.smoother, self.shift, self.wider = [smoother], shift, wider

    def forward(self, given):
        z, j, k, first = given.split([D, D * D, D, 1], -1)
        a, b, q, *_ = self.smoother[0].numbers()
        loc, variance = torch.where(first > 0, 0.0, z @ a.mT + b), torch.where(first > 0, 1.0, q)
        precision = (1 / variance).diag_embed() + j.unflatten(-1, (D, D))
        covariance = torch.linalg.inv(precision)
        mean = (covariance @ (loc / variance + k)[..., None])[..., 0] + self.shift
        return dist.MultivariateNormal(mean, self.wider * covariance)


class Message(nn.Module):
    """p(x_t, ..., x_L | z_t) as a normal density of z_t, where J_t is diagonal."""

    def forward(self, given):
        _, j, k, _ = given.split([D, D * D, D, 1], -1)
        precision = j.unflatten(-1, (D, D)).diagonal(dim1=-2, dim2=-1)
        return dist.Normal(k / precision, precision**-0.5).to_event(1)


def parameters(diagonal=False):
    rng = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    scales = torch.tensor([0.5, 0.8]).double(), torch.tensor(0.7).double()
    a, b, w, c = 0.7 * draw(D, D), 0.3 * draw(D), draw(F, D), draw(F)
    if diagonal:  # and so is all that the steps tell of a state
        a, w = a.diag().diag(), torch.linalg.qr(w)[0] * torch.tensor([1.5, 0.8]).double()
    return a, b, scales[0], w, c, scales[1]


def state_space(shift=0.0, wider=1.0, product=False):
    """z_1 ~ N(0, I), z_t ~ N(A z + b, Q), x_t ~ N(W z + c, r^2 I), and the guide that is their posterior, or off it."""
    a, b, q, w, c, r = parameters(diagonal=product)
    transition = encoders.DiagonalNormal(linear((D, D), a, b, q))
    likelihood = likelihoods.Normal(linear((D, F), w, c), float(r)).double()
    with torch.no_grad():
        likelihood.unconstrained_scale.copy_(unconstrained(r))
    smoother = Smoother([transition, likelihood])
    join = networks.Join(D, D * D + D + 1)
    prior = priors.StandardNormal(D).double()
    encoder = Message() if product else Posterior(smoother, shift, wider)
    return DeepMarkovModel(prior, transition, likelihood, smoother, join, encoder, T, product)


def joint(steps, numbers=None):
    """Mean and covariance of (z_1, ..., z_T), and of (x_1, ..., x_T), by numpy."""
    a, b, q, w, c, r = (t.numpy() for t in numbers or parameters())
    mean, cov = [np.zeros(D)], np.zeros((steps * D, steps * D))
    cov[:D, :D] = np.eye(D)
    for t in range(1, steps):
        mean.append(a @ mean[-1] + b)
        now, before = slice(t * D, (t + 1) * D), slice((t - 1) * D, t * D)
        cov[now, : t * D] = a @ cov[before, : t * D]
        cov[: t * D, now] = cov[now, : t * D].T
        cov[now, now] = a @ cov[before, before] @ a.T + np.diag(q**2)
    emit = np.kron(np.eye(steps), w)
    return (
        np.concatenate(mean),
        cov,
        emit,
        emit @ np.concatenate(mean) + np.tile(c, steps),
        emit @ cov @ emit.T + r**2 * np.eye(steps * F),
    )


def evidence(x, lengths=None, numbers=None):
    """log p(x_1, ..., x_L) of each datum, `(N,)`."""
    *_, mean, cov = joint(x.shape[1], numbers)
    lengths = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
    found = [
        multivariate_normal(mean[: n * F], cov[: n * F, : n * F]).logpdf(one.numpy().ravel()[: n * F])
        for one, n in zip(x, lengths, strict=True)
    ]
    return torch.tensor(found)


def weights(markov, *args, num_samples=3):
    return log_densities(markov.model, markov.guide, *args, num_samples=num_samples).log_weight


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("product", [False, True])
def test_with_the_exact_posterior_each_draw_gives_the_evidence(product, lengths):
    markov, numbers = state_space(product=product), parameters(diagonal=product)
    pyro.set_rng_seed(0)
    x = markov.sample(len(LENGTHS))
    expected = evidence(x, lengths, numbers).expand(3, -1)
    torch.testing.assert_close(weights(markov, x, lengths), expected)
    if lengths is not None:
        assert (expected - evidence(x, None, numbers)).abs()[:, lengths < T].min() > 0.5  # the lengths matter


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_the_gradient_is_that_of_the_evidence_by_finite_differences(lengths):
    markov, numbers = state_space(), parameters()
    pyro.set_rng_seed(0)
    x = markov.sample(len(LENGTHS))
    # log w is log p(x) whatever the parameters, which the posterior shares, so each draw has the same gradient
    loss = objectives.ELBO().differentiable_loss(markov.model, markov.guide, x, lengths)
    layer, emission = markov.transition.network.layers[-1], markov.likelihood.network.layers[-1]
    found = torch.autograd.grad(-loss, [layer.weight, layer.bias, emission.weight, emission.bias])
    found = [found[0][:D], found[1][:D], *found[2:]]
    for g, which in zip(found, (0, 1, 3, 4), strict=True):
        exact = torch.zeros_like(numbers[which]).flatten()
        for i in range(len(exact)):
            moved = []
            for by in (1e-5, -1e-5):
                other = [n.clone() for n in numbers]
                other[which].view(-1)[i] += by
                moved.append(evidence(x, lengths, other).sum())
            exact[i] = (moved[0] - moved[1]) / 2e-5
        torch.testing.assert_close(g.flatten(), exact, rtol=1e-5, atol=1e-5)


def test_importance_sampling_of_a_guide_that_is_off_comes_to_the_evidence():
    markov = state_space(shift=0.2, wider=1.5)
    pyro.set_rng_seed(0)
    x = markov.sample(8)
    found = evaluation.log_likelihood(markov, x, num_samples=20_000)
    z = (found.value - evidence(x)) / found.std_error
    assert LEVEL < chi2.sf(float(z.square().sum()), 8) < 1 - LEVEL
    bounds = evaluation.bounds(markov, x, [1, 5, 50], num_samples=5000).mean(1)
    assert (bounds.diff() > 0).all()
    assert evidence(x).mean() - bounds[0] > 0.2


def test_kl_of_each_step():
    markov = state_space()
    pyro.set_rng_seed(0)
    x = markov.sample(5)
    steps = evaluation.kl_per_layer(markov, x, num_samples=4000)
    assert [*steps] == ["z1", "z2", "z3", "z4"]
    torch.testing.assert_close(sum(steps.values()), evaluation.elbo(markov, x, num_samples=4000).kl)
    own = markov.own_numbers(x)
    assert [own[f"kl_{name}"] for name in steps] == pytest.approx([kl.mean().item() for kl in steps.values()], abs=0.2)
    # of z_1, KL(p(z_1 | x) || N(0, I)), from the dense Gaussian
    mean, cov, emit, x_mean, x_cov = joint(T)
    gain = cov @ emit.T @ np.linalg.inv(x_cov)
    at = mean + (x.numpy().reshape(5, -1) - x_mean) @ gain.T
    first = (cov - gain @ emit @ cov)[:D, :D]
    exact = 0.5 * (np.trace(first) + (at[:, :D] ** 2).sum(1) - D - np.linalg.slogdet(first)[1])
    assert (steps["z1"] - torch.from_numpy(exact)).abs().max() < 0.15
    assert all((kl > 0).all() for kl in steps.values())


@pytest.mark.parametrize(("off", "num_samples"), [((0.0, 1.0), 2), ((0.3, 1.5), 200)])
def test_a_forecast_is_the_conditional_gaussian(off, num_samples):
    markov, n, known, steps = state_space(*off), 2000, 2, 2
    pyro.set_rng_seed(0)
    one = markov.sample(1)[:, :known]
    draws = markov.forecast(one.expand(n, -1, -1), steps, num_samples=num_samples).flatten(1)
    *_, mean, cov = joint(known + steps)
    past, future = slice(0, known * F), slice(known * F, None)
    gain = cov[future, past] @ np.linalg.inv(cov[past, past])
    expected = torch.from_numpy(mean[future] + gain @ (one.numpy().ravel() - mean[past]))
    covariance = torch.from_numpy(cov[future, future] - gain @ cov[past, future])
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - expected).mT, upper=False)
    assert LEVEL < chi2.sf(float(n * white.mean(1).square().sum()), steps * F) < 1 - LEVEL
    assert LEVEL < chi2.sf(float(white.square().sum()), n * steps * F) < 1 - LEVEL


# Lengths -------------------------------------------------------------------------------------------------------------


def small(shape=(1, 6, 5), encoder=encoders.DiagonalNormal, latent_dim=2, hidden=7, likelihood=likelihoods.Bernoulli):
    """A model of images, row by row, with networks of its own kind."""
    torch.manual_seed(0)
    step = (*shape[:-2], shape[-1])
    return DeepMarkovModel(
        prior=priors.StandardNormal(latent_dim),
        transition=encoders.DiagonalNormal(networks.GatedTransition(latent_dim, 6)),
        likelihood=likelihood(lambda n: networks.MLP(latent_dim, (n(step[0]), *step[1:]), hidden=(8,))),
        reader=networks.BackwardRecurrent(step, hidden),
        combiner=networks.Combiner(latent_dim, hidden),
        encoder=encoder(lambda n: networks.MLP(hidden, n(latent_dim), hidden=(), initializer=nn.init.xavier_normal_)),
        steps=shape[-2],
    ).double()


@pytest.mark.parametrize("objective", [objectives.ELBO(), objectives.IWAE(3), objectives.ELBO(gradient=STL())])
@pytest.mark.parametrize("garbage", [1.0, 1e30, float("nan")])
def test_what_is_past_the_end_changes_nothing(objective, garbage):
    markov, found = small(), []
    x = markov.sample(6)
    past = torch.arange(6) >= LENGTHS[:, None]
    for filled in (x, torch.where(past[:, None, :, None], garbage, x)):
        pyro.set_rng_seed(1)
        loss = objective.differentiable_loss(markov.model, markov.guide, filled, LENGTHS)
        found.append((loss, *torch.autograd.grad(loss, list(markov.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(g.abs().sum() > 0 for g in found[0])


def test_a_datum_with_a_length_is_the_shorter_datum():
    markov = small()
    x = markov.sample(6)
    whole = log_densities(markov.model, markov.guide, x, LENGTHS, num_samples=4000)
    for i, n in enumerate(LENGTHS.tolist()):
        alone = log_densities(markov.model, markov.guide, x[i : i + 1, :, :n], num_samples=4000)
        for one, other in ((whole.reconstruction[:, i], alone.reconstruction[:, 0]), (whole.kl[:, i], alone.kl[:, 0])):
            error = torch.hypot(one.std(), other.std()) / 4000**0.5
            assert (one.mean() - other.mean()).abs() < 4 * error
        of_sites = [*whole.log_prior.items(), *whole.log_posterior.items()]
        assert all((t[:, i] == 0).all() for name, t in of_sites if int(name[1:]) > n)
        # the reader sees the same, to the last bit
        steps = x.movedim(-2, 1)
        seen = torch.arange(6) < LENGTHS[:, None]
        torch.testing.assert_close(markov.reader(steps, seen)[i, :n], markov.reader(steps[i : i + 1, :n])[0])


def test_the_whole_length_is_no_length():
    markov, losses = small(), []
    x = markov.sample(4)
    for args in ((x,), (x, torch.full((4,), 6))):
        pyro.set_rng_seed(0)
        losses.append(objectives.IWAE(3).differentiable_loss(markov.model, markov.guide, *args))
    torch.testing.assert_close(*losses)


def test_fit_and_evaluation_take_lengths():
    markov = small()
    x = markov.sample(40)
    lengths = 1 + torch.arange(40) % 6
    spoilt = torch.where((torch.arange(6) >= lengths[:, None])[:, None, :, None], float("nan"), x)
    adam = lambda g: torch.optim.Adam(g, 0.02)  # noqa: E731
    both = (spoilt, lengths)
    history = fit(markov, both, both, epochs=10, batch_size=20, optimizer=adam, progress=False)
    assert history["valid_elbo"][-1] > history["valid_elbo"][0] + 1
    found = evaluation.scores(markov, both, 1000).log_likelihood
    alone = evaluation.scores(markov, x[3:4, :, :4], 1000).log_likelihood
    assert (found.value[3] - alone.value[0]).abs() < 4 * torch.hypot(found.std_error[3], alone.std_error[0])


def test_lengths_are_trained_and_staged(monkeypatch):
    made = []
    monkeypatch.setattr("pyrovae.staging._Graph.compile", lambda graph, *_: made.append(graph) or True)
    x, losses = small((1, 4, 5)).sample(6), []
    for compile in (False, True):
        markov = small((1, 4, 5))
        adam = torch.optim.Adam(markov.parameters(), 0.01)
        svi = SVI(markov.model, markov.guide, adam, objectives.ELBO(), compile=compile)
        pyro.set_rng_seed(1)
        losses.append([svi.step(x, LENGTHS if i % 2 else LENGTHS.flip(0)) for i in range(8)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-8)
    assert len(made) == 1
    assert losses[0][0] != losses[0][2]  # parameters move


# The guide's flow, states that can be enumerated ---------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [encoders.IAF, encoders.DiagonalNormal])
def test_the_density_of_the_guide_is_the_change_of_variables(encoder):
    """z_1, ..., z_T are an invertible map of as much noise, whose Jacobian autograd knows."""
    markov = small((1, 3, 5), encoder)
    with torch.no_grad():
        for parameter in markov.encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = markov.sample(1)
    steps = x.movedim(-2, 1)
    h = markov.reader(steps)

    def states(noise):
        z, found = torch.zeros(2).double(), []
        for t, eps in enumerate(noise.split(2)):
            q = markov.encoder(markov.combiner(z, h[0, t]))
            if encoder is encoders.IAF:
                z = eps
                for transform in q.transforms:
                    z = transform(z)
            else:
                z = q.mean + q.stddev * eps
            found.append(z)
        return torch.cat(found)

    noise = torch.randn(6).double()
    jacobian = torch.autograd.functional.jacobian(states, noise)
    expected = multivariate_normal(np.zeros(6)).logpdf(noise.numpy()) - torch.linalg.slogdet(jacobian)[1]
    values = {f"z{t + 1}": z[None].detach() for t, z in enumerate(states(noise).split(2))}
    sites = pyro.poutine.trace(pyro.poutine.condition(markov.guide, data=values)).get_trace(x)
    found = sum(sites.nodes[name]["fn"].log_prob(z) for name, z in values.items())
    assert found.item() == pytest.approx(expected.item())
    assert jacobian[2:, :2].abs().max() > 1e-3  # z_2 depends on z_1


def test_bits_are_a_hidden_markov_model():
    """With states of two bits each, the bound enumerated is the sum over all paths, log p(x) the forward algorithm."""
    torch.manual_seed(0)
    make = lambda i, o: networks.MLP(i, o, hidden=(), initializer=nn.init.normal_).double()  # noqa: E731
    markov = DeepMarkovModel(
        prior=priors.Bernoulli(2).double(),
        transition=encoders.Bernoulli(make(2, 2)),
        likelihood=likelihoods.Bernoulli(make(2, 4)),
        reader=networks.BackwardRecurrent(4, 3).double(),
        combiner=networks.Join(2, 3),
        encoder=encoders.Bernoulli(make(5, 2)),
        steps=3,
    )
    x, states = markov.sample(5), torch.tensor([*itertools.product([0.0, 1.0], repeat=2)]).double()
    h = markov.reader(x)

    def log_bernoulli(logits, value):
        return torch.distributions.Bernoulli(logits=logits).log_prob(value).sum(-1)

    emission = log_bernoulli(markov.likelihood.network(states)[:, None, None], x)  # (S, B, T)
    step = log_bernoulli(markov.transition.network(states)[:, None], states[None])  # (S, S)
    forward = log_bernoulli(markov.prior.logits, states)[:, None] + emission[..., 0]
    for t in (1, 2):
        forward = torch.logsumexp(forward[:, None] + step[..., None], 0) + emission[..., t]
    terms = []
    for path in itertools.product(range(4), repeat=3):
        log_p = log_bernoulli(markov.prior.logits, states[path[0]]) + emission[path[0], :, 0]
        log_q, z = 0.0, torch.zeros(2).double()
        for t, s in enumerate(path):
            if t:
                log_p = log_p + step[path[t - 1], s] + emission[s, :, t]
            log_q = log_q + log_bernoulli(markov.encoder.network(networks.Join(2, 3)(z, h[:, t])), states[s])
            z = states[s]
        terms.append(log_q.exp() * (log_p - log_q))
    objective = objectives.ELBO(gradient=Enumerate())
    torch.testing.assert_close(objective.bound(markov.model, markov.guide, x), sum(terms))
    found = evaluation.log_likelihood(markov, x, 20_000)
    z = (found.value - forward.logsumexp(0)).detach() / found.std_error
    assert LEVEL < chi2.sf(float(z.square().sum()), 5) < 1 - LEVEL


# Images, objectives, parts -------------------------------------------------------------------------------------------


def test_a_gate_chooses_between_a_linear_step_and_a_proposal():
    transition, z = networks.GatedTransition(2, 4), torch.randn(5, 2)
    proposal = transition.proposal(transition.hidden(z)[:, 4:].relu())
    for gate, mean in ((-1e3, z), (1e3, proposal)):
        with torch.no_grad():
            transition.gate.bias.fill_(gate)
        torch.testing.assert_close(transition(z)[:, :2], mean)


@pytest.mark.parametrize("name", [name for name in objectives.__all__ if name not in ("BetaTCVAE", "FactorVAE")])
def test_every_objective_trains_it(name):
    """But those of one latent site."""
    markov = small((1, 3, 5))
    x = torch.cat([torch.ones(32, 1, 3, 5), torch.zeros(32, 1, 3, 5)]).double()
    term = "reconstruction" if name == "WAE" else "value"  # WAE does not pay for the KL
    before = getattr(evaluation.elbo(markov, x, 50), term).mean()
    objective, adam = getattr(objectives, name)(num_particles=3), lambda g: torch.optim.Adam(g, 0.03)
    fit(markov, x, objective=objective, epochs=2, batch_size=4, optimizer=adam, progress=False)
    assert getattr(evaluation.elbo(markov, x, 50), term).mean() > before + 1


def test_digits_are_fitted_row_by_row_by_a_transition_that_is_used():
    digits = data.load("digits", binarize="dynamic")
    markov = small((1, 8, 8)).float()
    adam = lambda g: torch.optim.Adam(g, 0.01)  # noqa: E731
    history = fit(markov, digits.train[:256], digits.valid, epochs=10, optimizer=adam, progress=False)
    assert history["valid_elbo"][-1] > history["valid_elbo"][0] + 3
    assert markov.sample(3, kind="mean").shape == markov.reconstruct(digits.valid[:3]).shape == (3, 1, 8, 8)
    assert markov.sample(3, steps=5).shape == (3, 1, 5, 8)
    assert markov.forecast(digits.valid[:3, :, :5], steps=3).shape == (3, 1, 3, 8)
    assert copy.deepcopy(markov).name != markov.name
    assert not [*pyro.get_param_store().keys()]


def test_rows_are_steps_and_come_back_as_rows():
    markov = small((2, 6, 5), likelihood=likelihoods.Normal)
    x = torch.randn(3, 2, 6, 5).double()
    site = pyro.poutine.trace(markov.model).get_trace(x).nodes["x"]
    assert site["fn"].event_shape == (6, 2, 5)
    assert torch.equal(site["value"][1, 4, 0], x[1, 0, 4])
    torch.manual_seed(0)
    z = torch.randn(3, 6, 2).double()
    torch.testing.assert_close(markov._data(list(z.unbind(1)), "mean")[:, :, 4], markov.likelihood(z[:, 4]).mean)


def test_what_does_not_fit_is_refused():
    parts = {
        "prior": priors.StandardNormal(2),
        "transition": encoders.DiagonalNormal(networks.GatedTransition(2)),
        "likelihood": likelihoods.Bernoulli(networks.MLP(2, 5)),
        "reader": networks.BackwardRecurrent(5, 7),
        "combiner": networks.Combiner(2, 7),
        "encoder": encoders.DiagonalNormal(networks.MLP(7, 4)),
        "steps": 3,
    }
    for part, other, message in (
        ("prior", priors.StandardNormal(3), r"transition's network is for the shape \(2,\), but is given \(3,\)"),
        (
            "likelihood",
            likelihoods.Bernoulli(networks.MLP(3, 5)),
            r"likelihood's network is for the shape \(3,\), but is given \(2,\)",
        ),
        ("reader", networks.BackwardRecurrent(6, 7), r"reader is for the shape \(6,\), but is given \(5,\)"),
        ("reader", networks.BackwardRecurrent(5, 8), r"combiner is for the shape \(7,\), but is given \(8,\)"),
        (
            "encoder",
            encoders.DiagonalNormal(networks.MLP(7, 6)),
            r"chain of z is for the shape \(2,\), but is given \(3,\)",
        ),
        ("steps", 0, "steps must be a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            DeepMarkovModel(**{**parts, part: other})
    markov, x = DeepMarkovModel(**parts), torch.zeros(4, 3, 5)
    x[1, 2, 0] = 0.5
    with pytest.raises(ValueError, match=r"step 3 of train\[1, 0\] is 0.5"):
        markov.check(x, name="train")
    markov.check(x, torch.tensor([3, 2, 3, 1]))  # as it is past the end
    for lengths in (torch.tensor([3, 2, 0, 1]), torch.tensor([3, 2, 4, 1]), torch.ones(4), torch.ones(3).long()):
        with pytest.raises(ValueError, match="lengths must be whole numbers from 1 to 3, one for each of the 4 data"):
            markov.check(x, lengths)
    with pytest.raises(ValueError, match=r"give sequences \(T, F\) or images"):
        markov.check(torch.zeros(4, 5))


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    markov = small((3, 5))
    for draw in (lambda: markov.sample(2, steps=steps), lambda: markov.forecast(torch.zeros(1, 3, 5), steps)):
        with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
            draw()
