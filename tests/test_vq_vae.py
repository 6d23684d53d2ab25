"""The vector-quantised VAE against sums over all codes, gradients by hand, k-means, and codes that are known."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy.cluster.vq import kmeans2
from scipy.stats import chisquare
from torch import nn

from pyrovae import VQVAE, evaluation, fit, fit_prior, gradients, likelihoods, networks, objectives, priors
from pyrovae.distributions.codewords import Codewords, Nearest
from pyrovae.networks.codebook import Codebook, perplexity


def tiny(decay=None, prior=True, seed=0):
    """K = 3 codes of D = 2 numbers at L = 2 positions, for five binary numbers, and some data; float64."""
    torch.manual_seed(seed)
    vqvae = VQVAE(
        networks.MLP(5, 4, hidden=(8,), initializer=nn.init.xavier_normal_),
        Codebook(3, (2, 2), decay, restart=0.0),
        likelihoods.Bernoulli(networks.MLP(4, 5, hidden=(8,), initializer=nn.init.xavier_normal_)),
        priors.AutoregressiveCodes(2, 3, hidden=4) if prior else None,
    ).double()
    torch.manual_seed(seed)
    nn.init.normal_(vqvae.encoder.layers[-1].weight)
    if prior:
        nn.init.normal_(vqvae.prior.layers[-1].weight)
    return vqvae, torch.bernoulli(torch.full((7, 5), 0.5)).double()


def joint(vqvae, x):
    """Log p(x, c) of all nine c, by hand: `(9, B)`, and the codes, `(9, 2)`."""
    codes = np.array([*itertools.product(range(3), repeat=2)])
    vectors = vqvae.codebook.vectors.detach().numpy()
    z = vectors[codes].transpose(0, 2, 1).reshape(9, 4)  # the first number of both positions, then the second
    with torch.no_grad():
        logits = vqvae.likelihood.network(torch.from_numpy(z)).numpy()[:, None]  # (9, 1, 5)
        log_p = log_prior(vqvae.prior, torch.from_numpy(codes))
    x = x.numpy()
    return (x * logits - np.logaddexp(0, logits)).sum(-1) + log_p.numpy()[:, None], codes


def log_prior(prior, codes):
    """Log p(c), of a prior with logits of its own or a uniform one."""
    if isinstance(prior, priors.UniformCodes):
        return torch.full((len(codes),), -codes.shape[1] * np.log(prior.codes), dtype=torch.float64)
    logits = prior.logits(codes)
    logits = logits - logits.exp().sum(-1, keepdim=True).log()
    return sum(logits[range(len(codes)), i, codes[:, i]] for i in range(codes.shape[1]))


def chosen(vqvae, x, codes):
    """Which of the codes is that of the vectors nearest to z(x), by comparing all: `(B,)`."""
    with torch.no_grad():
        z = vqvae.encoder(x).numpy().reshape(-1, 2, 2)  # (B, D, L)
    vectors = vqvae.codebook.vectors.detach().numpy()
    nearest = ((z[:, :, :, None] - vectors.T[None, :, None]) ** 2).sum(1).argmin(-1)  # (B, L)
    return [codes.tolist().index(c) for c in nearest.tolist()]


# The bound -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [False, True])
def test_the_elbo_is_that_of_the_nearest_codes_and_below_the_sum_over_all(prior):
    vqvae, x = tiny(prior=prior)
    table, codes = joint(vqvae, x)
    best = chosen(vqvae, x, codes)
    assert len(set(best)) > 1
    by_hand, evidence = table[best, range(len(x))], np.logaddexp.reduce(table)
    for objective in (objectives.ELBO(), objectives.ELBO(3), objectives.IWAE(3)):
        np.testing.assert_allclose(objective.bound(vqvae.model, vqvae.guide, x), by_hand, rtol=1e-12)
    bound, estimate = evaluation.scores(vqvae, x, 5)
    np.testing.assert_allclose(bound.value, by_hand, rtol=1e-12)
    np.testing.assert_allclose(estimate.value, by_hand, rtol=1e-12)
    assert (by_hand < evidence).all()
    if not prior:
        np.testing.assert_allclose(bound.kl, 2 * np.log(3), rtol=1e-12)
    assert -Trace_ELBO().loss(vqvae.model, vqvae.guide, x) == pytest.approx(by_hand.sum())


@pytest.mark.parametrize("temperature", [4.0, 20.0])
def test_spread_over_codes_the_guide_finds_the_evidence(temperature):
    vqvae, x = tiny()
    table, codes = joint(vqvae, x)
    vqvae.temperature = temperature
    bound, estimate = evaluation.scores(vqvae, x, 20_000)
    assert ((estimate.value - torch.from_numpy(table).logsumexp(0)) / estimate.std_error).abs().max() < 4
    with torch.no_grad():
        z = vqvae.encoder(x).numpy().reshape(-1, 2, 2)  # (B, D, L)
    vectors = vqvae.codebook.vectors.detach().numpy()
    distance = ((z[:, None] - vectors[codes].transpose(0, 2, 1)) ** 2).sum((2, 3)).T  # (9, B)
    log_q = -distance / temperature - np.logaddexp.reduce(-distance / temperature)  # (9, B)
    exact = torch.from_numpy((np.exp(log_q) * (table - log_q)).sum(0))
    assert ((bound.value - exact) / bound.std_error).abs().max() < 4


def test_numbers_tell_of_codes_and_of_the_evidence():
    vqvae, x = tiny()
    vqvae.encoder.layers[-1].weight.data *= 0.3
    table, codes = joint(vqvae, x)
    best, evidence = chosen(vqvae, x, codes), np.logaddexp.reduce(table)
    found = vqvae.eval().own_numbers(x)
    used = np.bincount(codes[best].ravel(), minlength=3) / (2 * len(x))
    assert found["perplexity"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in used if p)))
    assert found["dead_codes"] == (used == 0).sum()
    log_p = log_prior(vqvae.prior, torch.from_numpy(codes)).detach().numpy()
    assert found["code_bits"] == pytest.approx(-log_p[best].mean() / np.log(2))
    assert found["code_bits_uniform"] == pytest.approx(2 * np.log2(3))
    error = found["log_likelihood"] - evidence.mean()
    assert abs(error) < 4 * found["log_likelihood_std_error"] < 1.0
    assert table[best, range(len(x))].mean() < found["log_likelihood"] - 0.1
    assert vqvae.temperature == 0.0


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("objective", [objectives.ELBO(), objectives.IWAE(3), Trace_ELBO()])
def test_gradients_are_those_by_hand(decay, objective):
    """A linear encoder z = W x and decoder x ~ N(A e, I): all derivatives are known."""
    encoder, decoder = networks.MLP(5, 6, hidden=()).double(), networks.MLP(6, 5, hidden=()).double()
    vqvae = VQVAE(encoder, Codebook(4, (2, 3), decay, restart=0.0), likelihoods.Normal(decoder, scale=1.0)).double()
    nn.init.normal_(encoder.layers[-1].weight)
    nn.init.normal_(decoder.layers[-1].weight)
    x = torch.randn(8, 5).double()
    objective.differentiable_loss(vqvae.model, vqvae.guide, x).backward()
    w, a = (network.layers[-1].weight.detach().numpy() for network in (encoder, decoder))
    vectors = vqvae.codebook.vectors.detach().numpy()  # by averages they have moved by then
    z = (x.numpy() @ w.T).reshape(8, 2, 3)
    c = ((z[:, :, :, None] - vectors.T[None, :, None]) ** 2).sum(1).argmin(-1)  # (B, L)
    e = vectors[c].transpose(0, 2, 1)  # (B, D, L)
    variance = vqvae.likelihood(torch.zeros(6).double()).variance[0].item()
    through = (x.numpy() - e.reshape(8, 6) @ a.T) @ a / variance  # d log p(x | e) / de, taken for that by z
    by_z = through - 2 * 0.25 * (z - e).reshape(8, 6)
    np.testing.assert_allclose(encoder.layers[-1].weight.grad, -by_z.T @ x.numpy(), rtol=1e-10)
    if decay is None:
        assigned = [z.transpose(0, 2, 1)[c == k] for k in range(4)]
        by_hand = [
            2 * len(z_k) * (v - z_k.mean(0)) if len(z_k) else 0 * v for z_k, v in zip(assigned, vectors, strict=True)
        ]
        np.testing.assert_allclose(vqvae.codebook.vectors.grad, by_hand, rtol=1e-10)
    else:
        assert [name for name, _ in vqvae.codebook.named_parameters()] == []


def test_the_prior_has_its_own_gradient_and_gives_none():
    learned, x = tiny()
    uniform, _ = tiny(prior=False)
    uniform.load_state_dict({k: v for k, v in learned.state_dict().items() if not k.startswith("prior")})
    for vqvae in (learned, uniform):
        objectives.ELBO().differentiable_loss(vqvae.model, vqvae.guide, x).backward()
    for name, p in uniform.named_parameters():
        assert torch.equal(p.grad, learned.get_parameter(name).grad)
    loss = -log_prior(learned.prior, learned.codes(x)).sum()
    gradient = torch.autograd.grad(loss, [*learned.prior.parameters()])
    for p, by_hand in zip(learned.prior.parameters(), gradient, strict=True):
        torch.testing.assert_close(p.grad, by_hand)


@pytest.mark.parametrize("gradient", [gradients.STL(), gradients.ScoreFunction(), gradients.VIMCO(), gradients.DReG()])
def test_estimators_that_need_a_score_are_refused(gradient):
    vqvae, x = tiny()
    objective = objectives.ELBO(3, gradient)
    with pytest.raises(ValueError, match=r"has a support that moves.*use gradients.Pathwise"):
        fit(vqvae, x, objective=objective, epochs=1, progress=False)


def test_a_guide_that_is_spread_has_no_path():
    vqvae, x = tiny()
    vqvae.temperature = 0.5
    with pytest.raises(ValueError, match="is not reparameterised"):
        fit(vqvae, x, epochs=1, progress=False)
    vqvae.codebook.decay = None
    fit(vqvae, x, objective=objectives.ELBO(3, gradients.VIMCO()), epochs=1, progress=False)


# The codebook --------------------------------------------------------------------------------------------------------


def test_averages_move_as_the_paper_says():
    codebook, g = Codebook(4, 3, decay=0.8, restart=0.0).double(), 0.8
    count, total = np.zeros(4), np.zeros((4, 3))
    for _ in range(3):
        z, vectors = np.random.default_rng(0).normal(size=(20, 3)), codebook.vectors.numpy().copy()
        c = ((z[:, None] - vectors) ** 2).sum(-1).argmin(-1)
        codebook.update(torch.from_numpy(z))
        count = g * count + (1 - g) * np.bincount(c, minlength=4)
        total = g * total + (1 - g) * np.array([z[c == k].sum(0) for k in range(4)])
        expected = np.where(count[:, None] > 0, total / np.maximum(count, 1e-300)[:, None], vectors)
        np.testing.assert_allclose(codebook.vectors, expected, rtol=1e-12)


def test_without_a_memory_a_batch_is_a_step_of_k_means():
    z = np.random.default_rng(1).normal(size=(100, 2)) + np.random.default_rng(2).integers(0, 3, size=(100, 1)) * 3.0
    codebook = Codebook(3, 2, decay=0.0).double()
    codebook.vectors.copy_(torch.from_numpy(z[:3]))
    codebook.count.fill_(1.0)
    for steps in range(1, 8):
        codebook.update(torch.from_numpy(z))
        vectors, _ = kmeans2(z, z[:3], iter=steps, minit="matrix", missing="raise")
        np.testing.assert_allclose(codebook.vectors, vectors, rtol=1e-10)
    assert not np.allclose(vectors, kmeans2(z, z[:3], iter=1, minit="matrix")[0])
    assert codebook.nearest(torch.from_numpy(z)).tolist() == kmeans2(z, vectors, iter=1, minit="matrix")[1].tolist()


@pytest.mark.parametrize("decay", [None, 0.9])
def test_vectors_that_stand_for_nothing_start_anew(decay):
    codebook, z = Codebook(3, 2, decay), torch.rand(50, 2) + torch.tensor([5.0, 0.0])
    codebook.update(z)  # the first batch
    assert (codebook.vectors - torch.tensor([5.5, 0.5])).abs().max() < 0.5
    assert (decay is not None) or all(any(torch.equal(v, one) for one in z) for v in codebook.vectors)
    with torch.no_grad():
        codebook.vectors[0] = 100.0
        if decay is not None:
            codebook.total[0] = 100.0
    for _ in range(300):
        codebook.update(z)
    assert (codebook.vectors - torch.tensor([5.5, 0.5])).abs().max() < 0.5
    assert codebook.nearest(z).unique().tolist() == [0, 1, 2]
    never = Codebook(3, 2, decay, restart=0.0)
    with torch.no_grad():
        never.vectors[0] = 100.0
    for _ in range(300):
        never.update(z)
    assert never.vectors[0].tolist() == [100.0, 100.0]


@pytest.mark.parametrize("shape", [3, (3, 2), (3, 2, 4)])
def test_a_codebook_takes_any_leading_dimensions(shape):
    codebook = Codebook(5, shape)
    z = torch.randn(6, 7, np.prod(shape))
    vectors = z.reshape(6, 7, 3, -1).transpose(-1, -2)  # (6, 7, L, D)
    c = torch.cdist(vectors, codebook.vectors).argmin(-1)
    assert torch.equal(codebook.nearest(z), c.reshape(6, 7, *codebook.positions))
    assert torch.equal(codebook(z).reshape(6, 7, 3, -1), codebook.vectors[c].transpose(-1, -2))
    assert torch.allclose(
        codebook.distances(z).reshape(6, 7, -1, 5), torch.cdist(vectors, codebook.vectors) ** 2, atol=1e-4
    )
    assert torch.equal(codebook.look_up(codebook.nearest(z)), codebook(codebook(z)))


def test_perplexity_counts_codes():
    assert perplexity(torch.full((7,), 3)) == pytest.approx(7.0)
    assert perplexity(torch.tensor([0, 9, 0])) == pytest.approx(1.0)
    assert perplexity(torch.tensor([1, 3])) == pytest.approx(4 / 3**0.75)


def test_the_codebook_moves_in_training_alone():
    vqvae, x = tiny(decay=0.9)
    before = vqvae.codebook.vectors.clone()
    vqvae.eval()
    objectives.ELBO().differentiable_loss(vqvae.model, vqvae.guide, x).backward()
    vqvae.train()
    objectives.ELBO().bound(vqvae.model, vqvae.guide, x)
    assert torch.equal(vqvae.codebook.vectors, before)
    objectives.ELBO().differentiable_loss(vqvae.model, vqvae.guide, x).backward()
    assert not torch.equal(vqvae.codebook.vectors, before)


# Distributions over codes --------------------------------------------------------------------------------------------


def test_masses_of_codes_sum_to_one_and_draws_follow_them():
    torch.manual_seed(0)
    prior = priors.AutoregressiveCodes((2, 2), 3, hidden=5).double()
    nn.init.normal_(prior.layers[-1].weight)
    codes = torch.cartesian_prod(*[torch.arange(3)] * 4)
    mass = prior().log_prob(codes.reshape(-1, 2, 2)).exp().detach()
    assert mass.sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(mass.log(), log_prior(prior, codes))
    draws = prior().sample((4000,)).reshape(-1, 4)
    counts = (draws @ torch.tensor([27, 9, 3, 1])).bincount(minlength=81).double()
    assert mass.min() * 4000 > 5
    assert chisquare(counts, mass * 4000).pvalue > 1e-3
    assert chisquare(counts, torch.full_like(counts, 4000 / 81)).pvalue < 1e-6  # it is not uniform


def test_a_code_depends_on_those_before_it_alone():
    prior = priors.AutoregressiveCodes(5, 3, layers=3)
    c = torch.zeros(5, dtype=torch.long)
    for i in range(5):
        other = c.clone()
        other[i] = 2
        moved = (prior.logits(other) != prior.logits(c)).any(-1)
        assert moved.tolist() == [j > i for j in range(5)]


def test_a_single_code_has_a_prior():
    prior = priors.AutoregressiveCodes((), 4)
    assert prior().log_prob(torch.arange(4)).exp().sum().item() == pytest.approx(1.0)
    assert prior().sample((6,)).shape == priors.UniformCodes((), 4)().sample((6,)).shape == (6,)


def test_distributions_are_expanded():
    codebook = Codebook(3, (2, 2))
    p, q = Codewords(priors.AutoregressiveCodes(2, 3)(), codebook), Nearest(torch.randn(5, 4), codebook)
    unchecked = Nearest(q.vector, codebook, validate_args=False)
    assert p.expand((5,)).sample((3,)).shape == q.expand((3, 5)).sample().shape == (3, 5, 4)
    z = q.sample()
    assert torch.equal(p.expand((5,)).log_prob(z), p.log_prob(z))
    assert q.expand((3, 5)).log_prob(z).tolist() == [[0.0] * 5] * 3
    for same in (q, unchecked):
        assert same.log_prob(codebook(z.flip(0))).tolist() == [
            0.0 if torch.equal(a, b) else -np.inf for a, b in zip(z, z.flip(0), strict=True)
        ]
    assert torch.equal(q.mean, z)


# Learning ------------------------------------------------------------------------------------------------------------


fast = partial(torch.optim.Adam, lr=1e-2)


@pytest.fixture(scope="module")
def prototypes():
    """Noisy copies of three patterns, and log p of each under what they are drawn from."""
    torch.manual_seed(0)
    centres = torch.bernoulli(torch.full((3, 20), 0.5))
    labels = torch.multinomial(torch.tensor([0.2, 0.3, 0.5]), 900, replacement=True)
    x = torch.where(torch.rand(900, 20) < 0.05, 1 - centres[labels], centres[labels])
    flips = (x[:, None] != centres).double().sum(-1)
    log_p = (flips * np.log(0.05) + (20 - flips) * np.log(0.95) + torch.tensor([0.2, 0.3, 0.5]).log()).logsumexp(-1)
    return x, labels, log_p.mean().item()


@pytest.mark.parametrize("decay", [None, 0.95])
def test_codes_tell_the_patterns_and_their_prior_is_learned_afterwards(prototypes, decay):
    x, labels, evidence = prototypes
    torch.manual_seed(0)
    likelihood = likelihoods.Bernoulli(networks.MLP(2, 20, hidden=(16,)))
    vqvae = VQVAE(networks.MLP(20, 2, hidden=(16,)), Codebook(6, 2, decay), likelihood)

    def purity():
        """Share of data whose code's most frequent label is theirs."""
        c = vqvae.codes(x)
        return sum(labels[c == k].bincount().max().item() for k in c.unique()) / len(x)

    before = purity()
    history = fit(vqvae, x, epochs=25, batch_size=100, optimizer=fast, progress=False)
    assert purity() > 0.97 > before + 0.1
    assert history["kl"][-1] == pytest.approx(np.log(6), rel=1e-5)
    everything = {name: value.clone() for name, value in vqvae.state_dict().items()}
    uniform = evaluation.elbo(vqvae, x, 1)
    fit_prior(vqvae, x, prior=priors.AutoregressiveCodes((), 6), epochs=12, optimizer=fast, progress=False)
    learned = evaluation.elbo(vqvae, x, 1)
    assert all(torch.equal(vqvae.state_dict()[name], value) for name, value in everything.items())
    torch.testing.assert_close(learned.reconstruction, uniform.reconstruction)
    entropy = np.log(perplexity(vqvae.usage(x)))  # of the codes: the least that they cost
    assert learned.kl.mean().item() == pytest.approx(entropy, abs=2e-3)
    assert entropy < np.log(6) - 0.02
    assert learned.value.mean().item() < evidence + 0.1  # to these data more is fitted than to all
    assert vqvae.sample(2000).mean(0).sub(x.mean(0)).abs().max() < 0.08


def test_a_learned_prior_is_no_worse_when_learned_at_once(prototypes):
    x, _, evidence = prototypes
    torch.manual_seed(0)
    likelihood = likelihoods.Bernoulli(networks.MLP(4, 20, hidden=(16,)))
    network = networks.MLP(20, 4, hidden=(16,))
    vqvae = VQVAE(network, Codebook(3, (2, 2)), likelihood, priors.AutoregressiveCodes(2, 3))
    history = fit(vqvae, x, epochs=25, batch_size=100, optimizer=fast, progress=False)
    assert history["elbo"][0] < evidence - 1.0
    assert evidence - 0.3 < history["elbo"][-1] < evidence + 0.1


def test_what_is_frozen_is_not_normalised_by_batches(prototypes):
    x = prototypes[0][:64]
    torch.manual_seed(0)
    network = networks.MLP(20, 4, hidden=(16,), normalization="batch")
    vqvae = VQVAE(network, Codebook(3, (2, 2)), likelihoods.Bernoulli(networks.MLP(4, 20)))
    fit(vqvae, x, epochs=2, progress=False)
    before = {k: v.clone() for k, v in vqvae.state_dict().items() if "prior" not in k}
    fit_prior(vqvae, x, prior=priors.AutoregressiveCodes(2, 3), epochs=2, progress=False)
    assert all(torch.equal(vqvae.state_dict()[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in vqvae.parameters())


# Refusals ------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    decoder = likelihoods.Bernoulli(networks.MLP(4, 5))
    with pytest.raises(ValueError, match=r"reads z of shape \(6,\) as \(2, 3\), but the network gives \(6,\)"):
        VQVAE(networks.MLP(5, 6), Codebook(3, (2, 3)), decoder)
    with pytest.raises(ValueError, match=r"over 4 codes at positions \(2,\), but the codebook has 3 at \(2,\)"):
        VQVAE(networks.MLP(5, 4), Codebook(3, (2, 2)), decoder, priors.UniformCodes(2, 4))
    with pytest.raises(ValueError, match="commitment must be a finite number at least 0"):
        VQVAE(networks.MLP(5, 4), Codebook(3, (2, 2)), decoder, commitment=-1.0)
    with pytest.raises(ValueError, match="UniformCodes has no parameters to learn"):
        fit_prior(VQVAE(networks.MLP(5, 4), Codebook(3, (2, 2)), decoder), torch.zeros(8, 5))
    with pytest.raises(ValueError, match="decay must be a finite number at least 0 and below 1"):
        Codebook(3, 2, decay=1.0)
    with pytest.raises(ValueError, match="hidden must be a whole number of at least 1"):
        priors.AutoregressiveCodes(2, 3, hidden=0)
    with pytest.raises(ValueError, match="codes must be a whole number of at least 1"):
        priors.UniformCodes(2, 0)
