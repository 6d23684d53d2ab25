import json
import math

import pytest
import torch

from pyrovae import VAE, encoders, likelihoods, networks, priors
from pyrovae.applications import denoise
from pyrovae.corruptions import GaussianNoise, Masking, SaltAndPepper
from pyrovae.exact import LinearGaussian
from pyrovae.models import IncompleteVAE
from pyrovae.tasks.denoise import denoise as denoise_task
from pyrovae.tasks.task import write


def test_of_a_linear_gaussian_with_gaussian_noise_it_is_the_conditional_mean():
    model, noise = LinearGaussian(latent_dim=2, data_dim=5, scale=0.3), GaussianNoise(0.7)  # q(z | x) as it starts
    torch.manual_seed(0)
    seen = noise(model.sample(20))
    weight, bias = model.weight.detach(), model.bias.detach()
    p_x = weight @ weight.T + 0.3**2 * torch.eye(5).double()
    gain = p_x @ torch.linalg.inv(p_x + 0.7**2 * torch.eye(5).double())
    mean, covariance = bias + (seen - bias) @ gain.T, p_x - gain @ p_x
    found = denoise(model.vae, seen, noise, num_samples=20_000)
    assert (found.ess > 100).all()
    assert (found.mean - mean).abs().max() < 0.03  # 3 standard errors of 1000 effective draws would be 0.05
    off = found.sample - mean  # (20, 5), of a normal: the sum of squares is chi-square of 100
    squares = torch.einsum("ni,ij,nj->", off, torch.linalg.inv(covariance), off).item()
    assert 59.9 < squares < 153.2  # of level 0.001


@pytest.mark.parametrize("corruption", [SaltAndPepper(0.4), Masking(0.4)])
def test_of_binary_data_it_is_bayes_rule_over_all_of_them(corruption):
    torch.manual_seed(0)
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, 3, hidden=())),
        encoders.DiagonalNormal(networks.MLP(3, 2)),
    ).double()
    with torch.no_grad():
        vae.likelihood.network.layers[-1].weight.mul_(3)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)  # (8, 3)
    z = torch.linspace(-8, 8, 4001).double()
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    ones = vae.likelihood.network(z[:, None]).sigmoid().detach()  # (4001, 3)
    p_x = (density[:, None] * torch.where(every[:, None] == 1, ones, 1 - ones).prod(-1).T).sum(0)  # (8,)
    lost = 0.4
    flips = {  # P(x~_i | x_i), [x_i][x~_i]
        SaltAndPepper: torch.tensor([[1 - lost / 2, lost / 2], [lost / 2, 1 - lost / 2]]),
        Masking: torch.tensor([[1.0, 0.0], [lost, 1 - lost]]),
    }[type(corruption)].double()
    channel = flips[every.long()[:, None], every.long()[None]].prod(-1)  # P(x~ | x), (8 of x, 8 of x~)
    posterior = p_x[:, None] * channel
    expected = (posterior / posterior.sum(0)).T @ every  # (8, 3)
    found = denoise(vae, every, corruption, num_samples=40_000)
    assert torch.allclose(found.mean, expected, atol=0.01)
    assert (found.mean - vae.reconstruct(every)).abs().max() > 0.1
    many = denoise(vae, every.repeat_interleave(500, 0), corruption, num_samples=300).sample.unflatten(0, (8, 500))
    assert ((many.mean(1) - expected).abs() < 4 * 0.5 / math.sqrt(500)).all()


def test_a_flow_that_scores_its_own_draws_alone_is_weighted_by_itself():
    torch.manual_seed(0)
    model, noise = LinearGaussian(latent_dim=2, data_dim=3, scale=0.5), GaussianNoise(0.5)
    model.solve_encoder()
    planar = encoders.Planar(lambda outputs: networks.MLP(3, outputs(2), hidden=())).double()
    vae = VAE(model.vae.prior, model.vae.likelihood, planar).double()
    seen = noise(model.sample(10))
    expected = denoise(model.vae, seen, noise, 4000).mean
    found = denoise(vae, seen, noise, 20_000)
    assert (found.ess > 50).all()
    assert (found.mean - expected).abs().max() < 0.2


def test_what_it_cannot_do_is_refused():
    model = LinearGaussian()
    x = model.sample(3)
    with pytest.raises(ValueError, match=r"SaltAndPepper on a Normal p\(x \| z\) is not known: take"):
        denoise(model.vae, x, SaltAndPepper())
    with pytest.raises(ValueError, match="num_samples must be at least 1, not 0"):
        denoise(model.vae, x, GaussianNoise(), 0)
    point = VAE(model.vae.prior, model.vae.likelihood, encoders.Delta(networks.MLP(5, 2)).double())
    with pytest.raises(ValueError, match="is a point, by which no draw can be weighted: take"):
        denoise(point, x, GaussianNoise())


def test_the_task_tells_by_how_much(tmp_path, digits_run):
    write(denoise_task(digits_run, num_samples=300), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"numbers.json", "denoised.png"}
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["num_data"] == 30
    for other in ("corrupted", "median_filter", "reconstruction"):
        assert numbers[f"more_by_{other}_interval"][0] > 0
        more = numbers[f"squared_error_{other}"] - numbers["squared_error_denoised"]
        assert math.isclose(numbers[f"more_by_{other}"], more, rel_tol=1e-4)
    assert abs(numbers["squared_error_corrupted"] - 64 * 0.1) < 0.8  # a tenth of all pixels is turned over


def test_the_task_needs_a_reconstruction(digits_run):
    encoder = encoders.DiagonalNormal(networks.MLP(5, 4))
    vae = IncompleteVAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, 5)), encoder)
    with pytest.raises(ValueError, match=r"IncompleteVAE has no reconstruct\(x\), by which"):
        denoise_task(digits_run._replace(vae=vae))


def test_the_task_leaves_out_what_it_cannot_do(digits_run):
    result = denoise_task(digits_run, GaussianNoise(0.5), num_samples=10)
    assert "GaussianNoise on a Bernoulli p(x | z) is not known" in result.summary
    assert "squared_error_denoised" not in result.numbers
