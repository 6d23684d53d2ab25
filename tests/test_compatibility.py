"""Whether a prior, a likelihood, an encoder, an objective, its gradient and data go together, and why not."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyrovae import SVI, VAE, encoders, evaluation, fit, gradients, likelihoods, networks, objectives, priors, runs
from pyrovae.compatibility import refusal
from pyrovae.densities import log_densities
from pyrovae.drawn import Intensities, Levels
from pyrovae.draws import Detached, scores_any
from pyrovae.supports import within

D, SHAPE = 2, (1, 4, 4)


def parts(prior="StandardNormal", likelihood="Bernoulli", encoder="DiagonalNormal"):
    return (
        getattr(priors, prior)(D),
        getattr(likelihoods, likelihood)(lambda n: networks.MLP(D, (n(1), *SHAPE[1:]), hidden=(8,))),
        getattr(encoders, encoder)(lambda n: networks.MLP(SHAPE, n(D), hidden=(8,))),
    )


def binary(n=20):
    return torch.bernoulli(torch.full((n, *SHAPE), 0.5))


@pytest.mark.parametrize(
    ("chosen", "objective", "x", "words"),
    [
        (
            {"encoder": "Bernoulli"},
            None,
            None,
            r"prior StandardNormal is over R\^D, but the encoder Bernoulli over \{0, 1\}\^D: use .*Diag",
        ),
        (
            {"prior": "Bernoulli"},
            None,
            None,
            r"Bernoulli is over \{0, 1\}\^D, but the encoder DiagonalNormal over R\^D: use .*OneHot",
        ),
        (
            {"prior": "OneHotCategorical", "encoder": "Bernoulli"},
            None,
            None,
            "one-hot vectors, but the encoder Bernoulli",
        ),
        ({"prior": "HypersphericalUniform"}, None, None, "over the unit sphere.*use encoders.PowerSpherical"),
        ({"encoder": "PowerSpherical"}, None, None, r"over R\^D, but the encoder PowerSpherical over the unit sphere"),
        ({"prior": "Bernoulli", "encoder": "Delta"}, None, None, r"over \{0, 1\}\^D, but the encoder Delta over R\^D"),
        ({"prior": "Bernoulli", "encoder": "Bernoulli"}, objectives.ELBO(), None, "not reparameterised.*ScoreFunction"),
        (
            {"encoder": "Planar"},
            objectives.ELBO(gradient=gradients.STL()),
            None,
            "no analytic inverse.*gradients.Pathwise",
        ),
        ({"encoder": "Planar"}, objectives.RWS(5), None, "no analytic inverse.*objectives.ELBO"),
        ({"encoder": "Planar"}, objectives.TMC(5), None, "no analytic inverse.*use objectives.IWAE"),
        ({"encoder": "Planar", "prior": "VampPrior"}, None, None, "VampPrior.*Planar.*did not draw itself"),
        ({"encoder": "SemiAmortized", "prior": "VampPrior"}, None, None, "SemiAmortized needs the model"),
        ({"encoder": "Delta"}, objectives.IWAE(5), None, "no density.*use objectives.ELBO"),
        (
            {"encoder": "Delta"},
            objectives.ELBO(gradient=gradients.DReG()),
            None,
            "has no density.*use gradients.Pathwise",
        ),
        ({}, objectives.ELBO(gradient=gradients.REBAR()), None, "REBAR has no gradient"),
        ({}, None, torch.rand(20, *SHAPE), "Bernoulli needs data in the support.*binarize"),
        ({}, None, torch.zeros(20, 5), r"data of shape \(5,\)"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason_and_what_would(chosen, objective, x, words):
    reason = refusal(*parts(**chosen), objective, x)
    assert reason is not None
    assert re.search(words, reason), reason


def test_asking_changes_nothing():
    prior, likelihood, encoder = parts()
    encoder.network = nn.Sequential(nn.Flatten(-3), nn.BatchNorm1d(16), nn.Linear(16, 4))
    objective = objectives.ELBO(gradient=gradients.ScoreFunction(), beta=0.5)
    state = {k: v.clone() for k, v in {**likelihood.state_dict(), **encoder.state_dict()}.items()}
    x, store = binary(), dict(pyro.get_param_store().items())
    random = torch.get_rng_state()
    assert refusal(prior, likelihood, encoder, objective, x) is None
    assert all(torch.equal(v, state[k]) for k, v in {**likelihood.state_dict(), **encoder.state_dict()}.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert dict(pyro.get_param_store().items()) == store
    assert objective.step == 0
    assert encoder.network.training


@pytest.mark.parametrize("name", ["SemiAmortized", "VampPrior"])
def test_asking_binds_no_part_to_another(name):
    """Parts that are made of others belong to the model that they are in, whoever asks what."""
    chosen = {"prior": name} if name == "VampPrior" else {"encoder": name}
    prior, likelihood, encoder = parts(**chosen)
    assert refusal(prior, likelihood, encoder, x=binary()) is None
    bad = likelihoods.Bernoulli(networks.MLP(D + 1, SHAPE))
    with pytest.raises(ValueError, match="z has the shape"):
        VAE(prior, bad, encoder)
    other = parts()
    vae = VAE(prior, likelihood, encoder)
    state = (vae.prior if name == "VampPrior" else vae.encoder).joined
    assert refusal(*(other[0], other[1], encoder) if name == "SemiAmortized" else (prior, *other[1:])) is not None
    assert (vae.prior if name == "VampPrior" else vae.encoder).joined == state


def test_data_that_are_drawn_anew_are_asked_about_by_a_draw():
    grey = torch.rand(20, *SHAPE)
    assert refusal(*parts(), x=Intensities(grey)) is None
    assert "binarize" in refusal(*parts(), x=Levels((grey * 255).round() / 255))
    assert refusal(*parts(likelihood="Beta"), x=Levels((grey * 255).round() / 255)) is None


def test_data_of_another_precision_are_refused():
    assert "are torch.float64, but the parameters are torch.float32" in refusal(*parts(), x=binary().double())


def test_pseudo_inputs_are_tried_as_they_are():
    x = binary(8)
    encoder = encoders.DiagonalNormal(networks.PerDatum(SHAPE, 2 * D, data=x))
    assert refusal(priors.VampPrior(D, pseudo_inputs=x[:3], learned=False), parts()[1], encoder, x=x) is None


def test_pyros_objectives_are_asked_too():
    assert refusal(*parts(), Trace_ELBO(), binary()) is None
    assert "over R^D" in refusal(*parts(encoder="Bernoulli"), Trace_ELBO(), binary())
    reason = refusal(*parts(prior="Bernoulli", encoder="Bernoulli"), TraceMeanField_ELBO(), binary())
    assert re.search("TraceMeanField_ELBO does not take Bernoulli.*use one of pyrovae.objectives", reason)


@pytest.mark.parametrize("name", networks.__all__)
def test_scripts_build_with_every_network_or_say_why_not(name, tmp_path):
    """Of images, or of sequences; what starts from the data is shown them."""
    np.savez(
        tmp_path / "waves.npz", x=np.random.RandomState(0).randn(24, 2, 5).astype(np.float32), index=np.arange(5.0)
    )
    built, reasons = 0, []
    for data, likelihood in (("digits", likelihoods.Bernoulli), (str(tmp_path / "waves.npz"), likelihoods.Normal)):
        for role in ("encoder_network", "decoder_network"):
            try:
                vae, dataset = runs.build(data, likelihood=likelihood, device="cpu", **{role: getattr(networks, name)})
            except ValueError as error:
                reasons.append(str(error))
                continue
            assert refusal(vae.prior, vae.likelihood, vae.encoder, x=dataset.train) is None
            built += 1
    assert all(re.search("use (MLP|it in Python)", reason) for reason in reasons), reasons
    assert built or name == "PerDatum"


def test_evaluation_is_fixed_by_its_seed_for_encoders_that_draw():
    vae, state = VAE(*parts(encoder="SemiAmortized")), torch.get_rng_state()
    x = binary(50)
    state = torch.get_rng_state()
    first, second = (evaluation.metrics(vae, x, num_samples=5) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_refuses_before_it_trains(tmp_path):
    vae = VAE(*parts(encoder="Planar"))
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    with pytest.raises(ValueError, match="no analytic inverse"):
        fit(vae, binary(), objective=objectives.IWAE(3, gradients.DReG()), folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())


def test_svi_compares_the_supports_of_any_programs():
    a = nn.Parameter(torch.zeros(()))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.param("a", a)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x + a, 1.0))

    svi = SVI(model, guide, torch.optim.Adam([a]), objectives.ELBO())
    with pytest.raises(ValueError, match=r"site 'z' lies in GreaterThan.* in the model but in R.D in the guide"):
        svi.step(torch.ones(3))


def test_which_supports_lie_within_which():
    c = dist.constraints
    real, binary, one_hot = c.real_vector, c.independent(c.boolean, 1), c.one_hot
    cube, simplex, sphere, positive = c.independent(c.unit_interval, 1), c.simplex, c.sphere, c.positive
    assert [within(q, real) for q in (real, c.real, binary, one_hot, cube, simplex, sphere, positive)] == [
        *(True, True, False, False, True, False, False, True)
    ]
    assert [within(q, binary) for q in (binary, one_hot, real, c.nonnegative_integer)] == [True, True, False, False]
    assert [within(q, one_hot) for q in (one_hot, binary)] == [True, False]
    assert [within(q, sphere) for q in (sphere, real, simplex)] == [True, False, False]
    assert [within(q, positive) for q in (positive, real, cube)] == [True, False, True]


# Points ---------------------------------------------------------------------------------------------------------------


def test_a_point_is_fitted_to_the_maximum_a_posteriori_and_claims_no_bound(tmp_path):
    """p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I): the mode is (W'W + s^2 I)^-1 W'(x - b)."""
    torch.manual_seed(0)
    decode = networks.MLP(2, 5, hidden=(), initializer=nn.init.normal_)
    likelihood = likelihoods.Normal(decode, scale=0.5, learned=False).requires_grad_(False)
    vae = VAE(priors.StandardNormal(2), likelihood, encoders.Delta(networks.MLP(5, 2, hidden=()))).double()
    x = vae.sample(200)
    history = fit(
        vae, x, x[:50], epochs=300, batch_size=200, optimizer=lambda p: torch.optim.Adam(p, 0.02), progress=False
    )
    weight, bias = decode.layers[-1].weight, decode.layers[-1].bias
    mode = torch.linalg.solve(weight.T @ weight + 0.25 * torch.eye(2).double(), weight.T @ (x - bias).T).T
    torch.testing.assert_close(vae.encode(x).mean, mode, atol=0.01, rtol=0)
    log_joint = vae.prior().log_prob(mode) + vae.likelihood(mode).log_prob(x)
    assert history[-1]["objective"] == pytest.approx(log_joint.mean().item(), abs=0.01)
    assert all(math.isnan(history[-1][name]) for name in ("elbo", "kl", "valid_elbo", "valid_kl"))
    assert math.isfinite(history[-1]["valid_reconstruction"])
    scores = evaluation.metrics(vae, x, num_samples=10)
    assert all(math.isnan(scores[name]) for name in ("elbo", "kl", "log_likelihood"))
    assert scores["kl_per_dimension"] is None
    assert scores["active_units"] == 2


def test_what_watches_the_elbo_is_refused_for_a_point():
    vae = VAE(*parts(encoder="Delta"))
    with pytest.raises(ValueError, match="watch the ELBO, and there is none, as q"):
        fit(vae, binary(), binary(), epochs=2, patience=1, progress=False)


# Flows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", encoders.__all__)
def test_log_q_at_a_given_draw_is_differentiated_through_the_flow_that_made_it(name):
    """A flow remembers its last draw; the score is d/dphi log q(z) at fixed z all the same."""
    vae = VAE(*parts()).double()
    encoder = parts(encoder=name)[2].double()
    if hasattr(encoder, "join"):
        encoder.join(vae)
    x = binary(3).double()
    q = encoder(x)
    if not scores_any(q) or name == "Delta":
        pytest.skip("not scored at given draws")
    draws = Detached()

    def program(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", encoder(x))

    torch.manual_seed(1)  # for encoders that draw
    with draws:
        trace = pyro.poutine.trace(program).get_trace(x)
    site = trace.nodes["z"]
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    score = torch.autograd.grad(site["fn"].log_prob(site["value"]).sum(), parameters, allow_unused=True)
    z = site["value"].clone()
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(score, direction, strict=True) if g is not None)

    def moved(step):
        torch.manual_seed(1)
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step * d)
            value = encoder(x).log_prob(z).sum().item()
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(step * d)
        return value

    assert slope.item() == pytest.approx((moved(1e-5) - moved(-1e-5)) / 2e-5, rel=1e-5, abs=1e-6)


def test_moments_of_a_flow_are_those_of_its_draws():
    """Where the flow is an affine map, they are known."""
    affine = dist.transforms.AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 2.0]), event_dim=1)
    q = dist.TransformedDistribution(dist.Normal(torch.zeros(4000, 2), 1.0).to_event(1), [affine])
    mean, deviation = evaluation.moments(q)
    assert torch.allclose(mean.mean(0), torch.tensor([1.0, 2.0]), atol=0.02)
    assert torch.allclose(deviation.square().mean(0), torch.tensor([0.25, 4.0]), rtol=0.02)


def test_a_flow_whose_mean_stands_still_has_no_active_units():
    vae = VAE(*parts(encoder="IAF"))
    for parameter in vae.encoder.network.parameters():
        parameter.data.zero_()
    assert evaluation.active_units(vae, binary(500)).value == 0
    vae.encoder.network.layers[-1].bias.data[:] = 0.0
    vae.encoder.network.layers[-1].weight.data[0] = (
        1.0  # the location of the first dimension moves with the hidden units
    )
    vae.encoder.network.layers[1].weight.data.normal_()
    assert evaluation.active_units(vae, binary(500)).value == 1


def test_log_densities_say_whether_they_are_at_a_point():
    vae = VAE(*parts(encoder="Delta"))
    densities = log_densities(vae.model, vae.guide, binary(), num_samples=2)
    assert densities.at_a_point
    assert densities.rate.isnan().all()
    assert torch.equal(densities.kl, -sum(densities.log_prior.values()))
