"""What is learned beside the bound: losses of value 0 in it, by whose gradients parts of a model are trained."""

import pyro
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["held", "side_loss"]


def side_loss(name: str, loss: Tensor) -> None:
    """A factor of the model of value 0 for each datum, whose gradient is that of -loss: `fit` descends the loss, too.

    Called in a program within the plate of the data. Of the ELBO, and of any other objective's value, it is no part.

    Args:
        name: of the site.
        loss: for each datum, `(B,)` or `(K, B)`.

    Example:
        >>> import torch
        >>> from pyro import poutine
        >>> w = torch.ones(3, requires_grad=True)
        >>> def model():
        ...     with pyro.plate("data", 3):
        ...         side_loss("squares", w**2)
        >>> log_p = poutine.trace(model).get_trace().log_prob_sum()
        >>> log_p.backward()
        >>> log_p.item(), w.grad
        (0.0, tensor([-2., -2., -2.]))
    """
    pyro.factor(name, loss.detach() - loss)


def held(network: nn.Module, *inputs: Tensor) -> Tensor:
    """What a network gives, with a gradient by its inputs alone, none by its parameters.

    Args:
        network: called on the inputs.
        inputs: its arguments.

    Example:
        >>> import torch
        >>> network, x = nn.Linear(2, 1), torch.ones(2, requires_grad=True)
        >>> held(network, x).backward()
        >>> network.weight.grad is None, x.grad is None
        (True, False)
    """
    return functional_call(network, {name: p.detach() for name, p in network.named_parameters()}, inputs)
