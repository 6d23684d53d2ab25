"""Ratios of densities, learned by telling draws of the one from those of the other; and what is told of such models."""

from torch import Tensor
from torch.nn.functional import softplus

from pyrovae.diagnostics.annealing import ais
from pyrovae.model import Model

__all__ = ["accuracy", "annealed", "logistic_loss"]


def logistic_loss(of_q: Tensor, of_p: Tensor) -> Tensor:
    """-log s(T(z)) - log(1 - s(T(z'))), s the logistic function, z ~ q, z' ~ p: least on average for T = log q / p.

    Args:
        of_q: T of draws of q, `(...)`.
        of_p: T of as many draws of p.

    References:
        Sugiyama et al. (2012), Density ratio estimation in machine learning, https://doi.org/10.1017/CBO9781139035613
        Goodfellow et al. (2014), Generative adversarial networks, https://arxiv.org/abs/1406.2661

    Example:
        >>> import torch
        >>> logistic_loss(torch.zeros(1), torch.zeros(1))  # of one who cannot tell them, log 4
        tensor([1.3863])
    """
    return softplus(-of_q) + softplus(of_p)


def accuracy(of_q: Tensor, of_p: Tensor) -> Tensor:
    """The share of draws of which the sign of T tells whence they are, `()`: 1/2 where q = p.

    Args:
        of_q: T of draws of q, `(...)`.
        of_p: T of as many draws of p.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 3.0]))
        tensor(0.7500)
    """
    return ((of_q.sign() - of_p.sign()).mean() + 2) / 4


def annealed(vae: Model, x: Tensor, num_data: int = 300, num_temperatures: int = 100) -> dict[str, float]:
    """log p(x) of the first data by annealed importance sampling from p(z), which needs no q(z | x).

    On average it is a lower bound on log p(x), `diagnostics.ais`, of 8 chains a datum.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        num_data: data of which it is told, at most.
        num_temperatures: of the chains.

    Returns:
        The mean, in nats, its Monte Carlo error, and the number of data, by flat names.

    Example:
        >>> from pyrovae.exact import LinearGaussian
        >>> model = LinearGaussian(latent_dim=2, data_dim=5)
        >>> x = model.sample(50)
        >>> found = annealed(model.vae, x)
        >>> error = found["annealed_log_likelihood"] - model.log_likelihood(x).mean().item()
        >>> abs(error) < 4 * found["annealed_log_likelihood_std_error"]
        True
    """
    found = ais(vae, x[:num_data], num_chains=8, num_temperatures=num_temperatures)
    return {
        "annealed_log_likelihood": found.value.mean().item(),
        "annealed_log_likelihood_std_error": found.std_error.square().sum().sqrt().item() / len(found.value),
        "annealed_data": len(found.value),
    }
