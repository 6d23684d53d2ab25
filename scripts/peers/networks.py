"""The case's networks in plain PyTorch."""

import torch
from torch import Tensor, nn

from peers.case import Case

__all__ = ["Networks"]


class Networks(nn.Module):
    """Encoder x -> (mu, a) and decoder z -> logits, with the case's weights.

    Args:
        case: a normal case.
        device: where they are.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        super().__init__()
        first, second, third, fourth = (nn.Linear(i, o) for i, o in case.layers.values())
        self.encoder = nn.Sequential(first, nn.Softplus(), second)
        self.decoder = nn.Sequential(third, nn.Softplus(), fourth)
        self.names = dict(zip(case.weights(), self.state_dict(), strict=True))  # theirs by ours
        self.load_state_dict({self.names[name]: value for name, value in case.weights().items()})
        self.to(device)

    def weights(self) -> dict[str, Tensor]:
        """By the names in our VAE."""
        state = self.state_dict()
        return {ours: state[name] for ours, name in self.names.items()}
