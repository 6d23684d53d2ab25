"""What no step can do without: its matrix products and its traffic of bytes; and what the machine can do at best."""

import torch

from peers.case import Case
from peers.peer import Steps

__all__ = ["MatrixProducts", "SquareProduct", "Traffic"]


class MatrixProducts(Steps):
    """A step's matrix products, forward and backward, on tensors that are there already.

    Args:
        case: a normal case.
        device: where they are.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self.device = device
        self.products = []
        for index, (n, (i, o)) in enumerate(zip(case.rows, case.layers.values(), strict=True)):
            h, w, g = (torch.rand(shape, device=device) for shape in ((n, i), (o, i), (n, o)))
            y, h_grad, w_grad = (torch.empty_like(t) for t in (g, h, w))
            self.products += [(h, w.T, y), (g.T, h, w_grad)]
            if index > 0:  # the first layer's input is x, which needs no gradient
                self.products.append((g, w, h_grad))

    def take(self, n: int) -> None:
        """Take n steps."""
        for _ in range(n):
            for a, b, out in self.products:
                torch.mm(a, b, out=out)


class Traffic(Steps):
    """As many bytes copied as a step moves, within as much memory as it works on: `Case.bytes`, `Case.resident`.

    Args:
        case: a normal case.
        device: where the memory is.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self.device = device
        self.source = torch.rand(case.resident // 8, device=device)  # the other half is what it is copied to
        self.target = torch.empty_like(self.source)
        self.whole, rest = divmod(case.bytes, 2 * self.source.nbytes)  # a copy reads and writes
        self.rest = rest // 8

    def take(self, n: int) -> None:
        """Take n steps."""
        for _ in range(n):
            for _ in range(self.whole):
                self.target.copy_(self.source)
            self.target[: self.rest].copy_(self.source[: self.rest])


class SquareProduct(Steps):
    """A product of two square matrices of float32, of 2 size^3 operations.

    Args:
        size: rows.
        device: where they are.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.device, self.operations = device, 2 * size**3
        self.a, self.b, self.out = (torch.rand(size, size, device=device) for _ in range(3))

    def take(self, n: int) -> None:
        """Take n steps."""
        for _ in range(n):
            torch.mm(self.a, self.b, out=self.out)
