"""A VAE of incomplete data: what is not observed plays no part, and what is has the density that it should."""

from functools import partial

import numpy as np
import pyro
import pytest
import torch
from data_files import in_parts, save
from scipy.stats import multivariate_normal

from pyrovae import (
    VAE,
    IncompleteVAE,
    blueprints,
    data,
    encoders,
    evaluation,
    fit,
    gradients,
    likelihoods,
    networks,
    objectives,
    priors,
    runs,
)
from pyrovae.exact import LinearGaussian
from pyrovae.missing import hot_deck
from pyrovae.scale import unconstrained


def parts(likelihood="Normal", d=2, n=5, **options):
    torch.manual_seed(0)
    return (
        priors.StandardNormal(d),
        getattr(likelihoods, likelihood)(lambda outputs: networks.MLP(d, outputs(n), hidden=(6,)), **options),
        encoders.DiagonalNormal(networks.MLP(n, 2 * d, hidden=(6,))),
    )


def incomplete(likelihood="Normal", **options):
    return IncompleteVAE(*parts(likelihood, **options)).double()


def data_and_mask(n=20):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    return x, torch.rand(n, 5, generator=generator) > 0.4


def bound(vae, *args, objective=None):
    pyro.set_rng_seed(3)
    return (objective or objectives.IWAE(num_particles=7)).bound(vae.model, vae.guide, *args)


def test_with_no_value_missing_its_bound_is_iwae():
    x, observed = data_and_mask()
    whole = bound(VAE(*parts()).double(), x)
    assert torch.equal(bound(incomplete(), x, torch.ones_like(observed)), whole)
    assert not torch.equal(bound(incomplete(), x, observed), whole)


def test_of_a_datum_of_which_nothing_is_known_it_is_zero():
    x, observed = data_and_mask()
    vae = incomplete()
    found = evaluation.log_likelihood(vae, (x, torch.zeros_like(observed)), 20_000)
    assert (found.value.abs() < 5 * found.std_error + 1e-3).all()


@pytest.mark.parametrize("objective", [objectives.ELBO(), objectives.IWAE(5), objectives.IWAE(5, gradients.DReG())])
def test_log_p_of_the_observed_columns_of_a_linear_gaussian(objective):
    model = LinearGaussian(latent_dim=1, data_dim=5)
    x, seen = model.sample(30), torch.tensor([True, False, True, True, False])
    observed = seen.expand(30, 5)
    w, b, s = (t.detach() for t in (model.weight, model.bias, model.scale))
    covariance = (w @ w.T + s**2 * torch.eye(5))[seen][:, seen]
    exact = torch.from_numpy(multivariate_normal(b[seen], covariance).logpdf(x[:, seen]))
    # p(z | x_obs) is N(v'(x_obs - b_obs), t^2), t^-2 = 1 + w_obs'w_obs / s^2, which the encoder can be as D = 1.
    t = (1 + w[seen].square().sum() / s**2) ** -0.5
    v = torch.where(seen, t**2 * w[:, 0] / s**2, 0.0)
    layer = model.vae.encoder.network.layers[-1]
    with torch.no_grad():
        layer.weight.copy_(torch.stack([v, torch.zeros(5)]))
        layer.bias.copy_(torch.stack([-v @ b, unconstrained(t)]))
    vae = IncompleteVAE(model.vae.prior, model.vae.likelihood, model.vae.encoder)
    torch.testing.assert_close(bound(vae, x, observed, objective=objective), exact)


@pytest.mark.parametrize("likelihood", ["Normal", "Beta", "Laplace", "ContinuousBernoulli"])
def test_what_is_not_observed_makes_no_difference(likelihood):
    x, observed = data_and_mask()
    found = []
    for hidden in (x, torch.full_like(x, 0.001)):
        vae = incomplete(likelihood)
        pyro.set_rng_seed(3)
        loss = objectives.IWAE(num_particles=4).differentiable_loss(
            vae.model, vae.guide, torch.where(observed, x, hidden), observed
        )
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in vae.parameters())])
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert all(g.isfinite().all() for g in found[0])
    assert torch.equal(vae.complete(x, observed)[observed], x[observed])


def test_half_the_values_teach_nearly_as_much_as_all():
    torch.manual_seed(0)
    truth = LinearGaussian(latent_dim=1, data_dim=6, seed=1)
    x, new = truth.sample(1000), truth.sample(1000, seed=5)
    observed = torch.rand(1000, 6) > 0.5
    model = LinearGaussian(latent_dim=1, data_dim=6, scale=1.0)
    vae = IncompleteVAE(model.vae.prior, model.vae.likelihood, model.vae.encoder)
    options = {"epochs": 30, "batch_size": 100, "optimizer": partial(torch.optim.Adam, lr=0.03), "progress": False}
    fit(vae, (torch.where(observed, x, 99.0), observed), objective=objectives.IWAE(num_particles=20), **options)
    found = model.log_likelihood(new).mean()
    of_all, of_zeros = (
        LinearGaussian.maximum_likelihood(data, latent_dim=1).log_likelihood(new).mean()
        for data in (x, torch.where(observed, x, 0.0))
    )
    assert of_all - found < 0.05
    assert found - of_zeros > 2  # what zeros in place of the missing values teach


def test_parts_and_data_that_do_not_fit_are_refused():
    vae, (x, observed) = incomplete(), data_and_mask()
    for given in ((), (observed.double(),), (observed[:, :2],)):
        with pytest.raises(ValueError, match=r"told which of its elements are observed: give \(x, observed\)"):
            vae.check(x, *given)
    with pytest.raises(ValueError, match="NaN or infinity where it is not observed: put there any value"):
        vae.check(torch.where(observed, x, torch.nan), observed)
    prior, likelihood, encoder = parts()
    with pytest.raises(ValueError, match="SemiAmortized looks at p"):
        IncompleteVAE(prior, likelihood, encoders.SemiAmortized(encoder.network))
    with pytest.raises(ValueError, match="over z of shape"):
        IncompleteVAE(priors.StandardNormal(3), *parts()[1:])
    counts = incomplete("Multinomial")
    with pytest.raises(ValueError, match="those of Multinomial are not: take another likelihood"):
        fit(counts, (x.round(), observed), epochs=1, progress=False)


# Data with missing values ---------------------------------------------------------------------------------------------


def lacking(n=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32) + np.array([0, 100, -100], np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    return x


@pytest.mark.parametrize("kind", ["csv", "npy", "npz"])
def test_nan_is_what_is_missing_in_a_file(kind, tmp_path):
    x, path = lacking(), tmp_path / f"x.{kind}"
    if kind == "csv":
        path.write_text("a,b,c\n" + "\n".join(",".join("" if np.isnan(v) else repr(float(v)) for v in r) for r in x))
    else:
        save(path, x) if kind == "npy" else save(path, x=x)
    with pytest.raises(ValueError, match=r"let it count as missing, .* --model IncompleteVAE"):
        data.load(str(path))
    found = data.load(str(path), missing=True)
    whole = data.load(save(tmp_path / "whole.npy", np.nan_to_num(x, nan=7.5)))
    for filled, observed, truth in zip(in_parts(found), found.observed, in_parts(whole), strict=True):
        assert torch.equal(observed, truth != 7.5)
        assert torch.equal(filled[observed], truth[observed])
        assert (filled - torch.tensor([0.0, 100.0, -100.0])).abs().max() < 10  # values of their own column
    assert found.protocol.checksum != whole.protocol.checksum
    assert data.load(str(tmp_path / "whole.npy"), missing=True).observed is None


def test_what_is_no_missing_value_is_refused_all_the_same(tmp_path):
    (tmp_path / "x.csv").write_text("a,y\n" + "1.0,2\n" * 20 + "1.0,\n")
    with pytest.raises(ValueError, match=r"no value in column y of datum 20: remove or impute it$"):
        data.load(str(tmp_path / "x.csv"), missing=True)
    x = lacking()
    x[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"holds NaN or infinity, .*: remove or impute it$"):
        data.load(save(tmp_path / "x.npy", x), missing=True)
    x = lacking()
    x[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"element \(2,\) of the data is observed in no training datum"):
        data.load(save(tmp_path / "y.npy", x), missing=True)


def test_a_hot_deck_draws_what_others_have():
    x = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    known = torch.tensor([[True, False], [True, True], [False, True]])
    many = torch.full((3000, 2), torch.nan)
    found = hot_deck(many, ~many.isnan(), x, known)
    values, count = found[:, 0].unique(return_counts=True)
    assert values.tolist() == [1.0, 2.0]
    assert found[:, 1].unique().tolist() == [20.0, 30.0]
    assert abs(count[0] - 1500) < 4 * (3000 / 4) ** 0.5


def test_a_blueprint_hides_a_fraction_of_what_is_known(tmp_path):
    dataset = data.load("digits", binarize="dynamic")
    blueprint = blueprints.IncompleteVAE(fraction=0.5, mask_seed=4)
    found = blueprint.data(dataset)
    for whole, (x, observed) in zip(in_parts(dataset), in_parts(found), strict=True):
        assert x is whole
        assert observed.double().mean() == pytest.approx(0.5, abs=4 * (0.25 / x.numel()) ** 0.5)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(in_parts(found), in_parts(blueprint.data(dataset)), strict=True))
    assert found.protocol.checksum != blueprints.IncompleteVAE(0.5, 5).data(dataset).protocol.checksum
    x, observed = found.train
    start = blueprint.start(found).train
    assert torch.equal(start[observed], torch.where(observed, x, 0.0)[observed])
    assert not torch.equal(start, x + 0)  # hidden values are not looked at
    with pytest.raises(ValueError, match="fraction must be at least 0 and below 1"):
        blueprints.IncompleteVAE(fraction=1.0).data(dataset)
    own = data.load(save(tmp_path / "x.npy", lacking()), missing=True)
    train = blueprint.data(own).train[1]
    assert not (train & ~own.observed.train).any()
    assert train.double().mean() < 0.5


def test_bits_are_of_the_values_that_are_observed(tmp_path):
    arguments = ["--model", "IncompleteVAE", "--model.fraction", "0.5", "--epochs", "0", "--num_samples", "5"]
    options, _, _ = runs.parse([*arguments, "--out", str(tmp_path / "run")])
    runs.train(options, tmp_path / "run")
    metrics = runs.score(runs.load(tmp_path / "run"), 5, 0)
    assert metrics["observed"] == pytest.approx(0.5, abs=0.02)
    assert metrics["log_likelihood_of"] == "p(x_obs)"
    assert metrics["bits_per_dimension"] == pytest.approx(
        -metrics["log_likelihood"] / (64 * metrics["observed"] * np.log(2))
    )
