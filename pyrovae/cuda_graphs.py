"""CUDA graphs: the kernels of a step are recorded once and launched together from then on."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Captured"]

Outputs = list[Tensor | None]
_WARM_UP = 3  # runs in which libraries choose their kernels and workspaces


class Captured:
    """f, recorded in its fourth run, and replayed from then on.

    What f reads and changes, the given tensors apart, must stay where it is in memory, and f must not read values back.
    Each run is one of f: those before the recording run it as it is. If it cannot be recorded, it runs on so, after a
    warning.

    Args:
        function: f, of a list of tensors whose shapes stay the same; gives a list of tensors and None.

    References:
        PyTorch, CUDA graphs, https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, function: Callable[[list[Tensor]], Outputs]) -> None:
        self.function = function
        self.runs, self.trouble = 0, False
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, given: list[Tensor]) -> Outputs:
        """What f gives, in memory of its own."""
        self.runs += 1
        if self.graph is None and self.runs > _WARM_UP and not self.trouble:
            self._capture(given)
        if self.trouble:
            return self.function(given)
        if self.graph is None:
            return self._aside(given)
        with torch.no_grad():
            for held, value in zip(self.inputs, given, strict=True):
                held.copy_(value)
        self.graph.replay()
        return [None if o is None else o.clone() for o in self.outputs]

    def _aside(self, given: list[Tensor]) -> Outputs:
        """Run f on a stream of its own, as what is to be recorded must have run before."""
        stream = self.stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(given)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _capture(self, given: list[Tensor]) -> None:
        """Record f, which computes nothing yet."""
        inputs, graph = [t.detach().clone() for t in given], torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self.function(inputs)
        except RuntimeError as error:
            self.trouble = True
            with torch.cuda.graph(torch.cuda.CUDAGraph()):  # else the device's generator takes itself to be recorded
                torch.zeros((), device="cuda")
            warnings.warn(f"the step is not recorded as a CUDA graph: {str(error).splitlines()[0]}", stacklevel=4)
        else:
            self.graph, self.inputs, self.outputs = graph, inputs, outputs
