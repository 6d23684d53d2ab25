"""A mixture whose component is a latent variable, against the same mixture summed out."""

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate

from pyrovae import VAE, encoders, evaluation, fit, gradients, likelihoods, networks, objectives, priors
from pyrovae.mixture_vae import MixtureVAE


def twins(components=3):
    torch.manual_seed(0)
    parts = (
        priors.MixtureOfNormals(2, components).double(),
        likelihoods.Bernoulli(networks.MLP(2, 6, hidden=(8,))).double(),
        encoders.DiagonalNormal(networks.MLP(6, 4, hidden=(8,))).double(),
    )
    with torch.no_grad():
        parts[0].logits.copy_(torch.linspace(-1, 1, components))
    return MixtureVAE(*parts), VAE(*parts)


ENUMERATED = objectives.ELBO(num_particles=3, gradient=gradients.Enumerate())


def test_with_the_component_enumerated_bound_and_gradient_are_those_of_the_mixture_summed_out():
    explicit, summed = twins()
    x = summed.sample(7)
    found = []
    for vae in (explicit, summed):
        pyro.set_rng_seed(0)
        bound = ENUMERATED.bound(vae.model, vae.guide, x)
        pyro.set_rng_seed(0)
        loss = ENUMERATED.differentiable_loss(vae.model, vae.guide, x)
        found.append((bound, *torch.autograd.grad(loss, list(summed.parameters()))))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_it_is_the_bound_of_pyros_enumeration():
    explicit, _ = twins()
    x = explicit.sample(7)
    pyro.set_rng_seed(0)
    ours = objectives.ELBO(gradient=gradients.Enumerate()).differentiable_loss(explicit.model, explicit.guide, x)
    pyro.set_rng_seed(0)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    guide = config_enumerate(explicit.guide, "parallel")
    assert ours.item() == pytest.approx(elbo.differentiable_loss(explicit.model, guide, x).item())


def test_drawn_components_give_the_same_weights_so_evidence_is_the_same():
    """log p(x, z, c) - log q(z, c | x) does not depend on c, as q(c | z) is p(c | z)."""
    explicit, summed = twins()
    x = summed.sample(5)
    ours, expected = (evaluation.log_likelihood(vae, x, 20_000) for vae in (explicit, summed))
    difference = (ours.value - expected.value) / torch.hypot(ours.std_error, expected.std_error)
    assert difference.abs().max() < 4
    draw = objectives.ELBO()
    pyro.set_rng_seed(0)
    one = draw.bound(explicit.model, explicit.guide, x)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(one, draw.bound(summed.model, summed.guide, x))


def test_clusters_are_found_without_labels():
    torch.manual_seed(0)
    centres = torch.bernoulli(torch.full((3, 20), 0.5))
    labels = torch.arange(600) % 3
    x = torch.where(torch.rand(600, 20) < 0.05, 1 - centres[labels], centres[labels])
    vae = MixtureVAE(
        priors.MixtureOfNormals(2, 8),
        likelihoods.Bernoulli(networks.MLP(2, 20, hidden=(32,))),
        encoders.DiagonalNormal(networks.MLP(20, 4, hidden=(32,))),
    )

    def purity():
        """Share of data whose cluster's most frequent label is theirs."""
        found = vae.cluster(x).argmax(1)
        return sum(labels[found == c].bincount().max().item() for c in found.unique()) / len(x)

    before = purity()
    fit(vae, x, objective=ENUMERATED, epochs=60, optimizer=lambda g: torch.optim.Adam(g, 5e-3), progress=False)
    assert purity() > 0.97 > before + 0.1


def test_other_priors_are_refused():
    with pytest.raises(ValueError, match="must be normals"):
        MixtureVAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, 3)), networks.MLP(3, 4))
