"""Staging: a function of tensors runs once under a tracer, and from then on as the tensor operations that it did.

What surrounds these operations (effect handlers, distributions, checks, Python) takes its time in the traced run alone.
That is an ordinary run: nothing runs twice, and nothing that it changes has to be put back.
"""

import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = ["Staged", "number", "tracing"]

Outputs = list[Tensor | None]

# Operations that the compiler would make of others, with other random numbers.
_RANDOM = {"bernoulli", "cauchy", "exponential", "geometric", "log_normal"}


class Staged:
    """f as the graph of its tensor operations, traced and compiled when arguments of a new kind are first seen.

    Arguments are of the same kind if their tensors have the same shapes, types and devices, and all else is equal.
    Tensors that f uses without being given them (parameters, buffers) are inputs of the graph, so they may change, and
    so is a `number`; anything else that f reads stays what it was in the traced run. Modules that were switched between
    training and evaluation, and parameters that were frozen, are traced anew.

    Where f cannot be staged, as what it does depends on the values of tensors, or as a module has a hook, it runs as it
    is, after one warning that tells why. Where the graph cannot be compiled, for want of a C++ compiler, it runs
    operation by operation, after a warning, too.

    Args:
        function: f, of any arguments; gives a list of tensors and None.
        name: what warnings call it.

    Example:
        >>> layer = nn.Linear(3, 3)
        >>> loss = Staged(lambda x: [layer(x).square().sum()])
        >>> traced, compiled = (loss(torch.ones(2, 3))[0] for _ in range(2))
        >>> bool(torch.isclose(traced, compiled))
        True
    """

    def __init__(self, function: Callable[..., Outputs], name: str = "the function") -> None:
        self.function, self.name = function, name
        self.trouble: str | None = None
        self._graphs: dict[tuple, list[_Graph]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        """What f gives, and does."""
        if self.trouble is not None or am_i_wrapped():  # a handler around f takes part in what it does
            return self.function(*args, **kwargs)
        graph, given = self.graph(*args, **kwargs)
        if graph is not None:
            graph.refresh()
            return graph(given)
        try:
            outputs, graph = _trace(self.function, given, args, kwargs)
        except Exception as error:  # whatever it is: if it is not the tracer's, the function raises it again
            outputs = self.function(*args, **kwargs)
            self.trouble = str(error).splitlines()[0]
            warnings.warn(f"{self.name} cannot be compiled and runs as it is: {self.trouble}", stacklevel=4)
            return outputs
        graph.compile(given, self.name)
        self._graphs.setdefault(_key(given, args, kwargs), []).append(graph)
        return outputs

    def graph(self, *args: Any, **kwargs: Any) -> tuple["_Graph | None", list[Tensor]]:
        """The graph for such arguments, if there is one that holds, and the tensors to give to it."""
        given = [*_tensors((args, kwargs))]
        graphs = self._graphs.get(_key(given, args, kwargs), ())
        return next((graph for graph in graphs if graph.holds()), None), given


def number(value: Callable[[], float]) -> float | Tensor:
    """A number that may change from step to step: itself or, under the tracer, an input of the graph.

    Args:
        value: gives the number, in every run anew.

    Example:
        >>> number(lambda: 0.5)
        0.5
    """
    active = _active.get()
    return value() if active is None else active.number(value)


def tracing() -> bool:
    """Whether a function is being traced, so that values of tensors are not to be looked at."""
    return _active.get() is not None


class _Tracing(TorchDispatchMode):
    """Around a traced run: keeps what it meets, and refuses what its graph could not tell."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.numbers: list[tuple[Tensor, Callable[[], float]]] = []
        self.modules: dict[nn.Module, bool] = {}  # and whether they were training
        self.buffers: list[tuple[Tensor, Tensor]] = []  # and what they were

    def number(self, value: Callable[[], float]) -> Tensor:
        """A number's place among the inputs."""
        with _disable_current_modes():
            held = torch.tensor(value(), dtype=torch.float64, device=self.device)
        self.numbers.append((held, value))
        return held

    def meet(self, module: nn.Module, inputs: Any) -> None:
        """Before a module is called."""
        if module not in self.modules:
            if _hooked(module):
                raise RuntimeError(f"the module {type(module).__name__} has a hook")
            self.modules[module] = module.training
            with _disable_current_modes():
                self.buffers += [(b, b.clone()) for b in module.buffers(recurse=False)]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Refuse to read values of tensors, on which a graph of operations cannot depend."""
        reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags}
        if func is torch.ops.aten.index.Tensor:
            reads = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if reads:
            raise RuntimeError(f"what it does depends on the values of a tensor, which it reads by {func}")
        return func(*args, **(kwargs or {}))


class _OneHot(TorchFunctionMode):
    """`one_hot` without its look at whether the indices are in range."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """One-hot vectors of indices."""
        if func is nn.functional.one_hot and (num_classes := [*args[1:], *(kwargs or {}).values()]):
            return (args[0][..., None] == torch.arange(*num_classes, device=args[0].device)).long()
        return func(*args, **(kwargs or {}))


_active: ContextVar[_Tracing | None] = ContextVar("active", default=None)


class _Held(NamedTuple):
    """A tensor that the function uses without being given it, and where it is kept."""

    keeper: dict[str, Tensor]
    name: str
    tensor: Tensor
    what: tuple  # it must be for the graph to be right

    def is_there(self) -> bool:
        """Whether it is still what it was, its values apart."""
        return self.keeper[self.name] is self.tensor and _what(self.tensor) == self.what


class _Graph:
    """The tensor operations of a traced run, as a function of the given tensors."""

    def __init__(self, graph: fx.GraphModule, tracing: _Tracing, outputs: Outputs) -> None:
        self.numbers, self.modes = tracing.numbers, [*tracing.modules.items()]
        places = {
            id(t): (keeper, name)
            for module in tracing.modules
            for keeper in (module._parameters, module._buffers)
            for name, t in keeper.items()
        }
        tensors = _lift(graph)
        self.held = [_Held(*places.get(id(t), ({"": t}, "")), t, _what(t)) for t in tensors]
        self.run: Callable[..., list[Tensor]] = graph
        self.there = [o is not None for o in outputs]

    def compile(self, given: list[Tensor], name: str) -> None:
        """Compile the operations, or leave them as they are."""
        examples = [t.detach() for t in (*given, *(h.tensor for h in self.held))]
        try:
            with torch.no_grad():
                self.run = _inductor(self.run, examples)
        except Exception as error:  # no compiler, or one that fails
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"{name} is traced, but its graph is not compiled: {reason}", stacklevel=5)

    def holds(self) -> bool:
        """Whether a run now would do the same operations, as far as modules and parameters tell."""
        return all(m.training is was and not _hooked(m) for m, was in self.modes) and all(
            h.is_there() for h in self.held
        )

    def refresh(self) -> None:
        """Set the numbers as they are now."""
        for held, value in self.numbers:
            held.fill_(value())

    def __call__(self, given: list[Tensor]) -> Outputs:
        """Run it."""
        with torch.no_grad():
            found = iter(self.run(*given, *(h.tensor for h in self.held)))
        return [next(found) if there else None for there in self.there]


def _trace(function: Callable[..., Outputs], given: list[Tensor], args: tuple, kwargs: dict) -> tuple[Outputs, _Graph]:
    """What the function gives, and its graph; if it cannot be traced, all is as before."""
    tracing = _Tracing(given[0].device if given else torch.device("cpu"))
    outputs: Outputs = []
    generators = [g for g in _leaves((args, kwargs)) if isinstance(g, torch.Generator)]
    before = torch.get_rng_state(), [g.get_state() for g in generators]

    def run(*_: Tensor) -> list[Tensor]:  # the tracer knows the given tensors by their identity
        with tracing, _OneHot():
            outputs.extend(function(*args, **kwargs))
        return [o for o in outputs if o is not None]

    token, hook = _active.set(tracing), register_module_forward_pre_hook(tracing.meet)
    try:
        graph = make_fx(run)(*given)
    except Exception:
        torch.set_rng_state(before[0])
        for generator, state in zip(generators, before[1], strict=True):
            generator.set_state(state)
        with torch.no_grad():
            for buffer, value in tracing.buffers:
                buffer.copy_(value)
        raise
    finally:
        hook.remove()
        _active.reset(token)
    return outputs, _Graph(graph, tracing, outputs)


def _lift(module: fx.GraphModule) -> list[Tensor]:
    """Make the tensors that a graph holds its last inputs, and give them; those made by `torch.tensor` stay."""
    graph, found = module.graph, {}
    last = [node for node in graph.nodes if node.op == "placeholder"][-1:]
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        tensor = getattr(module, node.target)
        if not isinstance(tensor, Tensor) or all(
            u.target is torch.ops.aten.lift_fresh_copy.default for u in node.users
        ):
            continue
        if id(tensor) not in found:
            with graph.inserting_after(*last) if last else graph.inserting_before():
                last = [graph.placeholder(f"held_{len(found)}")]
            found[id(tensor)] = last[0], tensor
        node.replace_all_uses_with(found[id(tensor)][0])
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    return [tensor for _, tensor in found.values()]


def _inductor(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., list[Tensor]]:
    """The graph, compiled; its random numbers are those that PyTorch draws without compiler."""
    from torch._inductor.compile_fx import compile_fx  # which takes a second
    from torch._inductor.decomposition import select_decomp_table

    def name(op: Any) -> str:
        return getattr(getattr(op, "overloadpacket", None), "__name__", "").rstrip("_")

    table = {op: decomposed for op, decomposed in select_decomp_table().items() if name(op) not in _RANDOM}
    return compile_fx(graph, examples, config_patches={"fallback_random": True}, decompositions=table)


def _key(given: list[Tensor], args: tuple, kwargs: dict[str, Any]) -> tuple:
    """What must be the same for a graph to be tried."""
    first = [next(i for i, other in enumerate(given) if other is t) for t in given]  # where a tensor is given twice
    return _kind(args), _kind(kwargs), tuple(first), torch.is_grad_enabled()


def _what(t: Tensor) -> tuple:
    return t.requires_grad, t.dtype, t.device


def _hooked(m: nn.Module) -> bool:
    return bool(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)


def _kind(a: Any) -> Any:
    """What a graph depends on of an argument."""
    if isinstance(a, Tensor):
        return type(a), a.shape, *_what(a)
    if isinstance(a, tuple | list):
        return type(a), *map(_kind, a)
    if isinstance(a, dict):
        return dict, *((name, _kind(value)) for name, value in a.items())
    return a


def _leaves(a: Any) -> Iterator[Any]:
    """What stands in nested tuples, lists and dictionaries."""
    if isinstance(a, tuple | list | dict):
        for part in a.values() if isinstance(a, dict) else a:
            yield from _leaves(part)
    else:
        yield a


def _tensors(a: Any) -> Iterator[Tensor]:
    return (leaf for leaf in _leaves(a) if isinstance(leaf, Tensor))
