"""Anomalies: how unlike its training data a model finds data, each score in nats, larger for more anomalous ones."""

import torch
from torch import Tensor

from pyrovae.columns import Data
from pyrovae.diagnostics.gaps import Estimate, gaps
from pyrovae.evaluation import scores
from pyrovae.model import Model
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["anomaly_scores", "likelihood_regret", "typicality", "typicality_threshold"]


def anomaly_scores(
    vae: Model, x: Data, entropy: float, num_samples: int = 500, max_steps: int | None = 100, seed: int = 0
) -> dict[str, Tensor]:
    """Scores of each datum, by name, `(N,)` each, in nats: the larger, the more anomalous.

    `surprisal` is -log p(x), `distortion` is -E_q[log p(x | z)], `typicality` is |log p(x) + H|, and `regret` is
    L(x; q*) - L(x; q). Of a model without p(x) there is the distortion alone. log p(x) is estimated by draws from
    q(z | x), as `evaluation.log_likelihood` does: where these do not suit anomalous data it comes out too low.

    Args:
        vae: the model.
        x: data, `(N, *event)`, or all that the programs take.
        entropy: H, minus the mean of log p(x) over data that are not anomalous.
        num_samples: K, draws for each datum.
        max_steps: of the search for q*; None for no regret, which takes longest.
        seed: of all draws.

    Raises:
        ValueError: if the regret is asked for, and q cannot be optimised for each datum.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()
        >>> found = anomaly_scores(model.vae, model.sample(20), entropy=model.marginal().entropy().item())
        >>> {name: tuple(score.shape) for name, score in found.items()}
        {'surprisal': (20,), 'distortion': (20,), 'typicality': (20,), 'regret': (20,)}
    """
    bound, evidence = scores(vae, x, num_samples, seed)
    found = {
        "surprisal": -evidence.value,
        "distortion": -bound.reconstruction,
        "typicality": typicality(evidence.value, entropy),
    }
    if max_steps is not None:
        found["regret"] = likelihood_regret(vae, x, max_steps=max_steps, seed=seed).value
    return {name: score for name, score in found.items() if not score.isnan().all()}


def typicality(log_likelihood: Tensor, entropy: float, batch_size: int = 1) -> Tensor:
    """|mean log p(x) + H| over batches of M data in their order, `(N // M,)`: how far they are from the typical set.

    Data of the model have a log p(x) near -H, seldom one far above it: log p(x) is largest where there are few data.

    Args:
        log_likelihood: log p(x) of each datum, in nats, `(N,)`.
        entropy: H, minus the mean of log p(x) over data that are not anomalous.
        batch_size: M; what does not fill a batch is left out.

    References:
        Nalisnick et al. (2019), Detecting out-of-distribution inputs to deep generative models using typicality,
        https://arxiv.org/abs/1906.02994

    Example:
        >>> typicality(torch.tensor([-12.0, -7.0, -9.0, -10.0]), entropy=10.0, batch_size=2)
        tensor([0.5000, 0.5000])
    """
    whole = len(log_likelihood) // batch_size * batch_size
    return (log_likelihood[:whole].unflatten(0, (-1, batch_size)).mean(1) + entropy).abs()


def typicality_threshold(
    log_likelihood: Tensor,
    entropy: float,
    batch_size: int = 1,
    level: float = 0.01,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """The typicality beyond which M data are told to be anomalous: its quantile 1 - level over bootstrapped batches.

    Args:
        log_likelihood: log p(x) of data that are not anomalous, best such as the model has not seen, `(N,)`.
        entropy: H, as `typicality` takes it.
        batch_size: M.
        level: share of batches of such data that are told to be anomalous.
        num_resamples: batches of M data, drawn with replacement.
        seed: of the batches.

    References:
        Nalisnick et al. (2019), Detecting out-of-distribution inputs to deep generative models using typicality,
        algorithm 1, https://arxiv.org/abs/1906.02994

    Example:
        >>> log_p = -torch.rand(1000, generator=torch.Generator().manual_seed(0))  # |log p(x) + 1/2| is uniform, too
        >>> typicality_threshold(log_p, entropy=0.5, level=0.1)
        0.45
    """
    with isolated(seed, "typicality"):
        index = torch.randint(len(log_likelihood), (num_resamples * batch_size,))
    resampled = typicality(log_likelihood.cpu().double()[index], entropy, batch_size)
    return resampled.quantile(1 - level).item()


def likelihood_regret(
    vae: VAE, x: Tensor, num_samples: int = 200, tolerance: float = 0.01, max_steps: int = 100, seed: int = 0
) -> Estimate:
    """L(x; q*) - L(x; q), q* the best of the encoder's family for this datum: what the encoder did not learn of it.

    It is the amortisation gap of `diagnostics.gaps`, at least 0 but for the draws' error. In 100 steps the search comes
    within its tolerance for most data, anomalous ones included; more steps can only raise the regret.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        num_samples: K, draws for each datum and bound, the same ones for both.
        tolerance: in nats, what 50 steps of the search have to gain.
        max_steps: after which a search ends at the latest.
        seed: of all draws.

    Raises:
        ValueError: if it is no VAE, or q cannot be optimised for each datum.

    References:
        Xiao et al. (2020), Likelihood regret: an out-of-distribution detection score for variational auto-encoder,
        https://arxiv.org/abs/2003.02977

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> model.solve_encoder()  # q is the best for every datum
        >>> likelihood_regret(model.vae, model.sample(20)).value.abs().max() < 0.01
        tensor(True)
    """
    if not isinstance(vae, VAE):
        raise ValueError(f"the regret optimises a VAE's q(z | x) for each datum, and {type(vae).__name__} is none")
    return gaps(vae, x, None, num_samples=num_samples, tolerance=tolerance, max_steps=max_steps, seed=seed).amortisation
