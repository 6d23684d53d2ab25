import copy
import gc
import pickle
from functools import partial

import fresh
import numpy as np
import pyro
import pytest
import torch
from programs import SHAPE, make_data, make_vae, parameters, same, train_by_pyro, train_by_svi, train_by_torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy.stats import binomtest
from torch import nn

from pyrovae import SVI, VAE, encoders, evaluation, fit, likelihoods, networks, objectives, priors


def train_by_fit(vae, x, steps=20, seed=1):
    optimizer = partial(torch.optim.Adam, lr=1e-2)
    fit(vae, x, epochs=steps, batch_size=len(x), shuffle=False, seed=seed, optimizer=optimizer, progress=False)


WAYS = {
    "pyro": train_by_pyro,
    "torch": train_by_torch,
    "svi": train_by_svi,
    "svi with our ELBO": partial(train_by_svi, loss=objectives.ELBO()),
    "svi with a Pyro optimiser": lambda vae, x: train_by_svi(
        vae, x, optim=pyro.optim.Adam({"lr": 1e-2, "fused": True})
    ),
    "fit": train_by_fit,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prior", [priors.StandardNormal, priors.MixtureOfNormals])
def test_every_way_to_train_gives_the_same_parameters(way, prior):
    x, reference, vae = make_data(), make_vae(prior=prior), make_vae(prior=prior)
    start = parameters(vae)
    train_by_pyro(reference, x)
    WAYS[way](vae, x)
    # Our log-densities of a mixture are summed in another order than Pyro's.
    for name, value in parameters(reference).items():
        assert torch.allclose(vae.get_parameter(name), value, rtol=1e-5, atol=1e-6), name
        assert not torch.equal(start[name], value), name
    if prior is priors.StandardNormal:
        assert same(parameters(vae), parameters(reference))


def _train_alone(latent_dim, file):
    vae = make_vae(seed=latent_dim, latent_dim=latent_dim)
    train_by_pyro(vae, make_data())
    torch.save(parameters(vae), file)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Parameters of VAEs of 3 and of 2 latent dimensions, each trained in a fresh process."""
    files = {latent_dim: tmp_path_factory.mktemp("alone") / "end.pt" for latent_dim in (3, 2)}
    assert [fresh.finish(fresh.start(_train_alone, *of)) for of in files.items()] == [0, 0]
    return {latent_dim: torch.load(file, weights_only=True) for latent_dim, file in files.items()}


@pytest.mark.parametrize("train", [train_by_pyro, train_by_torch, train_by_svi])
def test_vaes_trained_in_turn_end_as_if_alone(alone, train):
    first, second, again = (make_vae(seed=d, latent_dim=d) for d in (3, 2, 3))
    for vae in (first, second, again):
        train(vae, make_data())
    assert same(parameters(first), alone[3])
    assert same(parameters(second), alone[2])
    assert same(parameters(again), alone[3])


@pytest.mark.parametrize("ours", [False, True])
def test_vaes_trained_interleaved_end_as_if_alone(alone, ours):
    x, vaes, states = make_data(), [make_vae(seed=d, latent_dim=d) for d in (3, 2, 3)], {}
    make = SVI if ours else pyro.infer.SVI
    svis = [make(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2, "fused": True}), Trace_ELBO()) for vae in vaes]
    pyro.set_rng_seed(1)
    states = dict.fromkeys(range(3), torch.get_rng_state())
    for _ in range(20):
        for i, svi in enumerate(svis):  # each with random numbers of its own
            torch.set_rng_state(states[i])
            svi.step(x)
            states[i] = torch.get_rng_state()
    assert [same(parameters(vae), alone[d]) for vae, d in zip(vaes, (3, 2, 3), strict=True)] == [True] * 3


def test_a_vae_made_after_another_was_deleted_trains():
    for _ in range(5):
        vae = make_vae()
        start = parameters(vae)
        train_by_pyro(vae, make_data(), steps=1)
        assert not any(torch.equal(start[name], value) for name, value in parameters(vae).items())
        del vae
        gc.collect()


def test_a_copy_has_parameters_and_a_name_of_its_own():
    x, vae = make_data(), make_vae()
    train_by_pyro(vae, x, steps=2)
    clone = copy.deepcopy(vae)
    before = parameters(vae)
    assert clone.name != vae.name
    train_by_pyro(clone, x, steps=2)
    assert same(parameters(vae), before)
    assert not same(parameters(clone), before)


def test_what_we_train_leaves_the_store_as_it_was():
    pyro.param("mine", torch.ones(2))
    before = {name: value.clone() for name, value in pyro.get_param_store().items()}
    train_by_svi(make_vae(), make_data(), steps=2)
    train_by_svi(make_vae(), make_data(), steps=2, optim=pyro.optim.Adam({"lr": 1e-2}))
    train_by_fit(make_vae(), make_data(), steps=2)
    vae = make_vae()
    fit(vae, make_data(), make_data(), epochs=1, progress=False)
    evaluation.metrics(vae, make_data(), num_samples=20)
    objectives.ELBO().bound(vae.model, vae.guide, make_data())
    assert pickle.loads(pickle.dumps(vae)).name != vae.name
    after = dict(pyro.get_param_store().items())
    assert after.keys() == before.keys() == {"mine"}
    assert torch.equal(after["mine"], before["mine"])


def test_programs_can_be_rendered_and_their_shapes_shown():
    vae, x = make_vae(), make_data()
    graph = pyro.render_model(vae.model, model_args=(x,)).source
    assert "z -> x" in graph
    assert "label=data" in graph
    assert "z [" in pyro.render_model(vae.guide, model_args=(x,)).source
    for program, site, event in ((vae.model, "x", "1 4 4"), (vae.model, "z", "3"), (vae.guide, "z", "3")):
        table = " ".join(poutine.trace(program).get_trace(x).format_shapes().split())
        assert f"{site} dist 24 | {event}" in table


def test_programs_have_the_densities_they_declare():
    vae, x = make_vae().double(), make_data().double()
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
    guide.compute_log_prob()
    model.compute_log_prob()
    z = guide.nodes["z"]["value"]
    q = vae.encode(x)
    logits = vae.likelihood.network(z)
    expected_q = torch.distributions.Normal(q.base_dist.loc, q.base_dist.scale).log_prob(z).sum(1)
    expected_p = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    expected_x = -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    assert torch.allclose(guide.nodes["z"]["log_prob"], expected_q)
    assert torch.allclose(model.nodes["z"]["log_prob"], expected_p)
    assert torch.allclose(model.nodes["x"]["log_prob"], expected_x)


def test_samples_and_reconstructions_say_mean_or_sample():
    vae, x = make_vae(), make_data()
    for give in (partial(vae.sample, len(x)), partial(vae.reconstruct, x)):
        mean, sample = give(kind="mean"), give(kind="sample")
        assert mean.shape == sample.shape == x.shape
        assert not mean.requires_grad
        assert set(sample.unique().tolist()) == {0.0, 1.0}
        assert 0 < mean.min() <= mean.max() < 1
        assert len(mean.unique()) > 100
        with pytest.raises(ValueError, match="'mean' or 'sample'"):
            give(kind="mode")
    assert set(vae.sample(2).unique().tolist()) == {0.0, 1.0}
    assert len(vae.reconstruct(x).unique()) > 100


def test_samples_follow_the_model():
    vae = make_vae()
    with torch.no_grad():  # a pixel that is on with probability E[sigmoid(2 z_1)] = 1/2, and one with sigmoid(1)
        decoder = networks.MLP(3, SHAPE, hidden=())
        decoder.layers[-1].weight.zero_()
        decoder.layers[-1].weight[0, 0] = 2.0
        decoder.layers[-1].bias[1] = 1.0
    vae = VAE(vae.prior, likelihoods.Bernoulli(decoder), vae.encoder)
    x = vae.sample(20_000).flatten(1)
    for pixel, probability in ((0, 0.5), (1, 1 / (1 + np.exp(-1)))):
        assert binomtest(int(x[:, pixel].sum()), len(x), probability).pvalue > 1e-3
    assert binomtest(int(x[:, 0].sum()), len(x), 0.52).pvalue < 1e-3  # it could have failed


def test_reconstructions_follow_the_posterior():
    encoder, decoder = networks.MLP(1, 2, hidden=()), networks.MLP(1, 1, hidden=())
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Normal(decoder, scale=0.5, learned=False),
        encoders.DiagonalNormal(encoder),
    )
    with torch.no_grad():  # q(z | x) = N(x, 2^2), p(x | z) = N(3 z, 0.5^2)
        encoder.layers[-1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        encoder.layers[-1].bias.copy_(torch.tensor([0.0, np.log(np.expm1(2.0))]))
        decoder.layers[-1].weight.fill_(3.0)
    x = torch.full((40_000, 1), 5.0)
    for kind, variance in (("mean", 36.0), ("sample", 36.25)):
        drawn = vae.reconstruct(x, kind)
        assert drawn.mean().item() == pytest.approx(15.0, abs=5 * 6 / 200)
        assert drawn.var().item() == pytest.approx(variance, rel=5 * (2 / 40_000) ** 0.5)


@pytest.mark.parametrize("shape", [(5,), (3, 7, 5), (2, 3), (1, 28, 28)])
def test_any_datum_shape(shape):
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, shape)),
        encoders.DiagonalNormal(networks.MLP(shape, 4)),
    )
    x = torch.zeros(6, *shape)
    assert vae.sample(4).shape == (4, *shape)
    assert vae.reconstruct(x).shape == x.shape
    assert objectives.ELBO(3).bound(vae.model, vae.guide, x).shape == (6,)


@pytest.mark.parametrize(
    ("prior", "decoder", "encoder", "message"),
    [
        (3, (2, 5), (5, 4), r"prior is over z of shape \(3,\), but DiagonalNormal gives \(2,\).*output shape \(6,\)"),
        (2, (3, 5), (5, 4), r"likelihood's network takes z of shape \(3,\), but z has the shape \(2,\)"),
        (2, (2, 5), (6, 4), r"encoder's network takes x of shape \(6,\), but x has the shape \(5,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(prior, decoder, encoder, message):
    with pytest.raises(ValueError, match=message):
        VAE(
            priors.StandardNormal(prior),
            likelihoods.Bernoulli(networks.MLP(*decoder)),
            encoders.DiagonalNormal(networks.MLP(*encoder)),
        )


def test_networks_of_ones_own_need_no_declared_shapes():
    decode = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(-1, SHAPE))
    encode = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decode), encoders.DiagonalNormal(encode))
    losses = train_by_svi(vae, make_data(), steps=60)
    assert losses[-1] < losses[0] - 50


def test_a_likelihood_of_ones_own_need_not_check_data():
    class Own(nn.Module):
        def forward(self, z):
            return pyro.distributions.Normal(self.network(z), 1.0).to_event(1)

    own, encoder = Own(), encoders.DiagonalNormal(networks.MLP(3, 4))
    own.network = networks.MLP(2, 3)
    ours = likelihoods.Normal(own.network, scale=1.0, learned=False)
    one, other = (evaluation.elbo(VAE(priors.StandardNormal(2), p, encoder), torch.ones(5, 3), 20) for p in (own, ours))
    torch.testing.assert_close(one, other)


def test_state_dict_round_trip_and_dtype():
    vae, other, x = make_vae(0), make_vae(1), make_data()
    other.load_state_dict(vae.state_dict())
    bounds = []
    for v in (vae, other):
        pyro.set_rng_seed(3)
        bounds.append(objectives.ELBO().bound(v.model, v.guide, x))
    assert torch.equal(*bounds)
    assert objectives.ELBO().bound(vae.double().model, vae.guide, x.double()).dtype == torch.float64
