"""Mixtures of normals with a pathwise gradient."""

import math

import pyro.distributions as dist
import torch
from torch import Size, Tensor

__all__ = ["ReparameterizedMixture"]


class ReparameterizedMixture(dist.MixtureSameFamily):
    """p(z) = sum_c pi_c N(z; mu_c, diag(sigma_c^2)), with draws that have a gradient to pi, mu and sigma.

    A draw picks a component, which no path leads through; its gradient is that of implicit reparameterisation: with
    F_d the cumulative distribution function of z_d given those before it, all F_d(z_d | z_<d) stay the same as the
    parameters move, so that dz_d = -dF_d / p(z_d | z_<d).

    Args:
        mixture_distribution: pi, a `Categorical` of batch `(...)`.
        component_distribution: N(mu_c, diag(sigma_c^2)), `Normal(...).to_event(1)` of batch `(..., C)`, event `(D,)`.

    References:
        Figurnov et al. (2018), Implicit reparameterization gradients, https://arxiv.org/abs/1805.08498

    Example:
        >>> loc = torch.tensor([[-1.0], [1.0]], requires_grad=True)
        >>> p = ReparameterizedMixture(dist.Categorical(torch.ones(2)), dist.Normal(loc, 1.0).to_event(1))
        >>> p.rsample((5,)).sum().backward()
        >>> loc.grad.sum()  # a shift of all components shifts all draws
        tensor(5.)
    """

    has_rsample = True
    twice_differentiable = False  # the path is right to first order

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        """Draw z, `(*sample_shape, ..., D)`, with a pathwise gradient of first order."""
        z = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return z
        components = self.component_distribution.base_dist
        loc, scale = components.loc.unbind(-1), components.scale.unbind(-1)  # D of (..., C) each
        log_weight = self.mixture_distribution.logits  # log p(c, z_<d), but for a constant
        path = []
        for constant, loc_d, scale_d in zip(z.unbind(-1), loc, scale, strict=True):
            weight = log_weight.softmax(-1)  # p(c | z_<d)
            standard = (constant.unsqueeze(-1) - loc_d) / scale_d
            cdf = (weight * (1 + torch.erf(standard / math.sqrt(2))) / 2).sum(-1)
            density = (weight * _density(standard) / scale_d).sum(-1).detach()
            path.append(constant - (cdf - cdf.detach()) / density.clamp(min=torch.finfo(z.dtype).tiny))
            log_weight = log_weight - ((path[-1].unsqueeze(-1) - loc_d) / scale_d).square() / 2 - scale_d.log()
        return torch.stack(path, -1)


def _density(standard: Tensor) -> Tensor:
    return torch.exp(-standard.square() / 2) / math.sqrt(2 * math.pi)
