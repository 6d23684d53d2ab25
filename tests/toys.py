"""A toy problem for any combination of components, which are made by their names alone."""

import functools
import warnings

import pyro
import torch

from pyrovae import SVI, VAE, baselines, encoders, gradients, likelihoods, networks, objectives, priors
from pyrovae.compatibility import refusal

D, K = 2, 3
IMAGE, SEQUENCE = (1, 4, 4), (2, 5)
# Arguments that keep a toy small, in place of defaults that are made for images and hundreds of steps.
SMALL = {
    "priors.VampPrior": {"components": 4},
    "likelihoods.Multinomial": {"total_count": 30},  # which `start_from` takes from the data
    "likelihoods.Categorical": {"categories": 5},
    "likelihoods.DiscretizedLogistic": {"levels": 5},
    "likelihoods.DiscretizedLogisticMixture": {"levels": 5, "components": 2},
    "gradients.ScoreFunction": {"baseline": baselines.LeaveOneOut()},  # without one it is too noisy to see it climb
    "networks.MLP": {"hidden": (8,)},
    "networks.GatedMLP": {"hidden": (8,)},
    "networks.Conv": {"channels": (8, 16), "hidden": 32},
    "networks.ConvTranspose": {"channels": (16, 8), "hidden": 32},
    "networks.ResidualConv": {"channels": (8, 16)},
    "networks.ResidualConvTranspose": {"channels": (16, 8)},
    "networks.Recurrent": {"hidden": 16},
    "networks.RecurrentTranspose": {"hidden": 16},
}


def component(kind, name, *args):
    options = SMALL.get(f"{kind.__name__.removeprefix('pyrovae.')}.{name}", {})
    return getattr(kind, name)(*args, **options)


@functools.cache
def data(likelihood, shape=IMAGE, n=32):
    """Draws of a model with this likelihood, whose latent variables matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = functools.partial(
            networks.MLP, D, hidden=(), initializer=functools.partial(torch.nn.init.normal_, std=0.5)
        )
        p = component(likelihoods, likelihood, lambda n: network((n(shape[0]), *shape[1:])))
        return p(torch.randn(n, D)).sample()


@functools.cache
def roles(network):
    """As what a network can serve: of which shape a datum may be, and whether it decodes or encodes."""
    found = []
    for shape in (IMAGE, SEQUENCE):
        for role, (takes, gives) in {"decoder": (D, shape), "encoder": (shape, 2 * D)}.items():
            try:
                built = component(networks, network, takes, gives)
            except ValueError:
                continue
            if role == "encoder" or not hasattr(built, "hold"):  # a table of data is none of latent variables
                found.append((role, shape))
    return found


def parts(prior="StandardNormal", likelihood="Normal", encoder="DiagonalNormal", network="MLP", seed=0):
    """Prior, likelihood and encoder, the network where it fits, beside MLPs; and data."""
    role, shape = roles(network)[0]
    decode, encode = (network if role == its else "MLP" for its in ("decoder", "encoder"))
    torch.manual_seed(seed)
    x = data(likelihood, shape)
    p = component(likelihoods, likelihood, lambda n: component(networks, decode, D, (n(shape[0]), *shape[1:])))
    q = component(encoders, encoder, lambda n: component(networks, encode, shape, n(D)))
    for module in q.modules():
        if isinstance(module, networks.PerDatum):
            module.hold(x)
    return component(priors, prior, D), p, q, x


def target_of(name="ELBO", gradient=None):
    """An objective with an estimator, or the reason why there is no such pair."""
    options = {}
    if (
        name == "FactorVAE"
    ):  # a discriminator that an optimiser can hold from the beginning, in a game with small stakes
        options = {"gamma": 0.1, "discriminator": networks.MLP(D, 1, hidden=(8,))}
    try:
        estimator = gradient and component(gradients, gradient)
        return getattr(objectives, name)(num_particles=K, gradient=estimator, **options), None
    except ValueError as error:
        return None, str(error)


def reason(objective="ELBO", gradient=None, **names):
    """Why a combination is refused, or None."""
    target, why = target_of(objective, gradient)
    if target is None:
        return why
    try:
        *programs, x = parts(**names)
    except ValueError as error:  # a component that refuses its arguments
        return str(error)
    return refusal(*programs, target, x)


def improves(objective="ELBO", gradient=None, steps=5, **names):
    """Train for some steps, all finite, and tell the bound before and after, by the same draws.

    The steps are small, so that what climbs is told by the slope: along the gradient the bound rises, against it falls.

    Of an objective that is no bound, as it has weights, what is maximised.
    """
    *programs, x = parts(**names)
    vae, (target, _) = VAE(*programs), target_of(objective, gradient)
    optim = torch.optim.Adam([*vae.parameters(), *target.parameters()], lr=0.001)
    svi = SVI(vae.model, vae.guide, optim, target)
    four_times = torch.cat([x] * 4)

    def value():
        pyro.set_rng_seed(1)
        vae.eval()
        try:
            bound = target.bound(vae.model, vae.guide, four_times).mean()
            # Of a point there is no bound, but what is maximised, too.
            told = bound.isfinite() and not target.weights
            return bound.item() if told else -target.loss(vae.model, vae.guide, four_times) / len(four_times)
        finally:
            vae.train()

    before = value()
    with warnings.catch_warnings():
        # A table's rows start at 0, and of points at 0 a matrix learns nothing in the first step.
        warnings.filterwarnings("ignore", "the gradient was 0 in the first step")
        losses = [svi.step(x) for _ in range(steps)]
    assert torch.tensor(losses).isfinite().all(), losses
    return before, value()
