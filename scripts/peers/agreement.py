"""Before anything is timed: that all peers compute the same bound, and learn alike from the same weights."""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from peers.case import Case
from peers.ours import build
from peers.peer import Peer
from pyrovae import VAE

__all__ = ["GAIN_TOLERANCE", "STANDARD_ERRORS", "STEPS", "require_agreement"]

STANDARD_ERRORS = 5  # by which two estimates of one bound may differ: by chance in one of a million comparisons
STEPS = 20  # of training
GAIN_TOLERANCE = 0.05  # share by which what they gain may differ
_ROUNDING = 1e-5  # share of a bound that float32 may lose in sums of different orders
_ESTIMATES = 32


@torch.no_grad()
def require_agreement(case: Case, peers: Mapping[str, Peer], batches: Tensor) -> dict[str, dict[str, float]]:
    """Let all peers tell their bound, then take some steps; what they told and gained, in nats per datum.

    Bounds are compared with E[F(log w)] by the definition log w = log p(x, z) - log q(z | x), F being what the peer's
    loss says it is; gains with that of the first peer.

    Args:
        case: what they train.
        peers: by their names, each at the case's weights.
        batches: the data, `(batches, B, X)`.

    Raises:
        ValueError: if a peer computes or learns something else.
    """
    vae, x, k = build(case, batches.device), batches[0], case.num_particles
    told = {}
    for name, peer in peers.items():
        theirs = peer.losses(x, _ESTIMATES).double().cpu()
        ours = torch.stack([peer.loss_of(log_weight(vae, x, k)).mean() for _ in range(_ESTIMATES)]).double().cpu()
        error, own_error = (t.std().item() / sqrt(_ESTIMATES) for t in (ours, theirs))
        allowed = STANDARD_ERRORS * sqrt(error**2 + own_error**2) + _ROUNDING * ours.mean().abs().item()
        if not abs(theirs.mean() - ours.mean()) <= allowed:
            raise ValueError(
                f"{name} computes another bound in case {case.name}: its loss is {theirs.mean():.3f} ± {own_error:.3f} "
                f"nats per datum, by the definition it is {ours.mean():.3f} ± {error:.3f}: correct the peer, or leave "
                f"it out by --contenders"
            )
        told[name] = {"loss": theirs.mean().item(), "loss_std_error": own_error}
    before, first = _bound(vae, x, k), next(iter(peers))
    for name, peer in peers.items():
        with torch.enable_grad():
            peer.take(STEPS)
        peer.finish()
        vae.load_state_dict(peer.weights())
        told[name]["gain"] = _bound(vae, x, k) - before
        gain, expected = told[name]["gain"], told[first]["gain"]
        if not abs(gain - expected) <= GAIN_TOLERANCE * abs(expected):
            raise ValueError(
                f"{name} learns differently in case {case.name}: {STEPS} steps from the same weights raise its bound "
                f"by {gain:.3f} nats per datum, that of {first} by {expected:.3f}: correct the peer, or leave it out "
                f"by --contenders"
            )
    return told


def log_weight(vae: VAE, x: Tensor, k: int) -> Tensor:
    """log w_k = log p(z_k) + log p(x | z_k) - log q(z_k | x), `(K, B)`, of K draws z_k ~ q(z | x)."""
    q = vae.encode(x)
    z = q.rsample((k,))
    return vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - q.log_prob(z)


def _bound(vae: VAE, x: Tensor, k: int) -> float:
    return sum(-Peer.loss_of(log_weight(vae, x, k)).mean().item() for _ in range(_ESTIMATES)) / _ESTIMATES
