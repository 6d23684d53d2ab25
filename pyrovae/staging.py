"""Staging: a function of tensors runs once under a tracer, and from then on as the tensor operations that it did.

What surrounds these operations (effect handlers, distributions, checks, Python) takes its time in the traced run alone.
That is an ordinary run: nothing runs twice, and nothing that it changes has to be put back.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, fx, nn
from torch import _guards as guards
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = ["Staged", "number", "tracing"]

Outputs = list[Tensor | None]

_MOST = 32  # graphs of a function, each of which takes seconds to compile
_SIMPLE = (bool, int, float, str)  # compared by value

# Operations that the compiler would make of others, with other random numbers.
_RANDOM = {"bernoulli", "cauchy", "exponential", "geometric", "log_normal"}


class Staged:
    """f as the graph of its tensor operations, traced and compiled when arguments of a kind come for the second time.

    Arguments are of a kind if their tensors have the same shapes, strides, types and devices, and all else is equal.
    Tensors that f uses without being given them (parameters, buffers) are inputs of the graph, so their values may
    change, and so is a `number`. Where an attribute of a module that f calls changes (its mode, a setting, a parameter
    that is frozen or replaced), f is traced anew. Anything else stays what it was in the traced run: numbers that f
    reads elsewhere, variables bound to other tensors; and what f does beside operations on tensors it does then alone.

    Where f cannot be staged, as what it does depends on the values of tensors, as a module has a hook, or as it would
    be traced time and again, it runs as it is, after one warning that tells why. Where the graph cannot be compiled,
    for want of a C++ compiler, it runs operation by operation, after a warning, too.

    Args:
        function: f, of any arguments; gives a list of tensors and None.
        name: what warnings call it.
        watched: objects whose attributes count as those of modules that f calls do.
        depends: gives what else a graph depends on.
        at_once: whether f is traced in the first call with arguments of a kind, of which nothing remains, and each call
            gives what the graph gives: then results do not depend on how many calls there were before, in this process.

    Example:
        >>> layer = nn.Linear(3, 3)
        >>> loss = Staged(lambda x: [layer(x).square().sum()])
        >>> loss(torch.ones(2, 3))[0] >= 0  # as it is; the second call traces and compiles it, the third runs that
        tensor(True)
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        name: str = "the function",
        watched: Sequence[Any] = (),
        depends: Callable[[], Any] = lambda: None,
        at_once: bool = False,
    ) -> None:
        self.function, self.name, self.watched, self.depends, self.at_once = function, name, watched, depends, at_once
        self.trouble: str | None = None
        self._graphs: dict[tuple, list[_Graph]] = {}
        self._traced, self._compiles = 0, True

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        """What f gives, and does."""
        # What is around f takes part in what it does.
        if self.trouble is not None or am_i_wrapped() or _autocast():
            return self.function(*args, **kwargs)
        try:
            graph, given, key = self.graph(*args, **kwargs)
            if graph is not None:
                graph.refresh()
                return graph(given)
            plain = key not in self._graphs and not self.at_once
            graphs = self._graphs.setdefault(key, [])
            if self._traced == _MOST and not plain:
                raise RuntimeError(
                    f"it was traced {_MOST} times, as its arguments, or attributes of modules, change from step to "
                    f"step; pass what changes as a tensor"
                )
            if not plain:
                outputs, graph, undo = _trace(self.function, given, args, kwargs, self.watched)
        except Exception as error:  # whatever it is: if it is not the tracer's, the function raises it again
            outputs = self.function(*args, **kwargs)
            self.trouble = str(error).splitlines()[0]
            self._graphs.clear()
            warnings.warn(f"{self.name} cannot be compiled and runs as it is: {self.trouble}", stacklevel=4)
            return outputs
        if plain:
            return self.function(*args, **kwargs)
        self._traced += 1
        self._compiles = self._compiles and graph.compile(given, self.name)
        graphs.append(graph)
        if not self.at_once:
            return outputs
        undo()
        graph.refresh()
        return graph(given)

    def graph(self, *args: Any, **kwargs: Any) -> tuple["_Graph | None", list[Tensor], tuple]:
        """The graph for such arguments, if there is one that holds; the tensors to give to it; and their kind."""
        given = [*_tensors((args, kwargs))]
        first = [next(i for i, other in enumerate(given) if other is t) for t in given]  # where one is given twice
        modes = torch.is_grad_enabled(), torch.get_default_dtype()
        key = _kind(args), _kind(kwargs), tuple(first), modes, self.depends()
        return next((graph for graph in self._graphs.get(key, ()) if graph.holds()), None), given, key


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

    def __init__(self, device: torch.device, watched: Sequence[Any]) -> None:
        super().__init__()
        self.device, self.random = device, _random_state(device)
        self.numbers: list[tuple[Tensor, Callable[[], float]]] = []
        self.watched: dict[Any, list[_Attribute]] = {}  # as they were before
        self.changed: list[tuple[Tensor, Tensor]] = []  # buffers, and what is changed in place, and what they were
        for owner in watched:
            for part in owner.modules() if isinstance(owner, nn.Module) else [owner]:
                self.watched[part] = _attributes(part)

    def number(self, value: Callable[[], float]) -> Tensor:
        """A number's place among the inputs."""
        with _disable_current_modes():
            held = torch.tensor(value(), dtype=torch.float64, device=self.device)
        self.numbers.append((held, value))
        return held

    def meet(self, module: nn.Module, inputs: Any) -> None:
        """Before a module is called."""
        if _active.get() is not self:  # but another thread's
            return
        if _hooked(module):
            raise RuntimeError(f"the module {type(module).__name__} has a hook")
        self.watched.setdefault(module, _attributes(module))
        with _disable_current_modes():
            self.changed += [(b, b.clone()) for b in module.buffers(recurse=False)]  # not all changes are told

    def end(self) -> None:
        """Refuse what the run changed beside tensors."""
        self._check_random_state()
        for owner, attributes in self.watched.items():
            for a in attributes:
                if not a.is_there():
                    raise RuntimeError(f"{type(owner).__name__} sets its '{a.name}' anew when it runs")

    def _check_random_state(self) -> None:
        if not all(map(torch.equal, _random_state(self.device), self.random)):
            raise RuntimeError("it sets the state of the random numbers")

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Refuse to read values of tensors, on which a graph of operations cannot depend."""
        reads = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags}
        if func is torch.ops.aten.index.Tensor:
            reads = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if reads:
            raise RuntimeError(f"what it does depends on the values of a tensor, which it reads by {func}")
        if func._schema.is_mutable:
            written = [a for given, a in zip(func._schema.arguments, args, strict=False) if _is_written(given)]
            with _disable_current_modes():
                self.changed += [(t, t.clone()) for t in _tensors(written)]
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            self._check_random_state()
        result = func(*args, **(kwargs or {}))
        with _disable_current_modes():
            self.random = _random_state(self.device)
        return result


class _Reads(TorchFunctionMode):
    """Refuses what reads values past all dispatch; `one_hot` does not look at whether the indices are in range."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Refuse it, or do it."""
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise RuntimeError(f"what it does depends on the values of a tensor, which it reads by {func.__name__}")
        if func is nn.functional.one_hot and (num_classes := [*args[1:], *(kwargs or {}).values()]):
            return (args[0][..., None] == torch.arange(*num_classes, device=args[0].device)).long()
        return func(*args, **(kwargs or {}))


_active: ContextVar[_Tracing | None] = ContextVar("active", default=None)


class _Attribute(NamedTuple):
    """An attribute of an object, and what it was."""

    keeper: dict[str, Any]
    name: str
    value: Any

    def is_there(self) -> bool:
        """Whether it is still that."""
        now = self.keeper.get(self.name)
        return now is self.value or _equal(now, self.value)


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and type(a) in _SIMPLE and a == b


def _attributes(owner: Any) -> list[_Attribute]:
    """All public attributes that `number` does not make inputs; of a module, its parts, parameters and buffers too."""
    free = getattr(owner, "numbers", ())
    keepers = [{name: value for name, value in vars(owner).items() if name[0] != "_" and name not in free}]
    if isinstance(owner, nn.Module):
        keepers += [owner._modules, owner._parameters, owner._buffers]
    places = [vars(owner), *keepers[1:]]
    return [_Attribute(k, name, v) for k, found in zip(places, keepers, strict=True) for name, v in found.items()]


class _Graph:
    """The tensor operations of a traced run, as a function of the given tensors."""

    def __init__(self, graph: fx.GraphModule, tracing: _Tracing, outputs: Outputs) -> None:
        self.numbers, self.modules = tracing.numbers, [m for m in tracing.watched if isinstance(m, nn.Module)]
        self.attributes = [a for attributes in tracing.watched.values() for a in attributes]
        self.held = _lift(graph)
        store = pyro.get_param_store()._params  # whose tensors may be replaced, too
        self.attributes += [_Attribute(store, name, t) for name, t in store.items() if any(t is h for h in self.held)]
        self.what = [_what(t) for t in self.held]
        if hooked := [t for t, what in zip(self.held, self.what, strict=True) if what[0]]:
            raise RuntimeError(f"a parameter of shape {tuple(hooked[0].shape)} has a hook")
        self.run: Callable[..., list[Tensor]] = graph
        self.there = [o is not None for o in outputs]

    def compile(self, given: list[Tensor], name: str) -> bool:
        """Compile the operations, or leave them as they are; whether they were compiled."""
        examples = [t.detach() for t in (*given, *self.held)]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the compiler does, which a user cannot mend
                self.run = _inductor(self.run, examples)
        except Exception as error:  # no compiler, or one that fails
            reason = " ".join(str(error).split("\n\n")[0].split())
            warnings.warn(
                f"{name} is traced, but its graph is not compiled, which takes a C++ compiler such as g++: {reason}",
                stacklevel=5,
            )
            return False
        return True

    def holds(self) -> bool:
        """Whether a run now would do the same operations, as far as modules and parameters tell."""
        for keeper, name, value in self.attributes:  # a loop, as it runs in each step
            now = keeper.get(name)
            if now is not value and not _equal(now, value):
                return False
        for t, what in zip(self.held, self.what, strict=True):
            if _what(t) != what:
                return False
        return not any(map(_hooked, self.modules))

    def refresh(self) -> None:
        """Set the numbers as they are now."""
        for held, value in self.numbers:
            held.fill_(value())

    def __call__(self, given: list[Tensor]) -> Outputs:
        """Run it."""
        with torch.no_grad():
            found = iter(self.run(*given, *self.held))
        return [next(found) if there else None for there in self.there]


def _trace(
    function: Callable[..., Outputs], given: list[Tensor], args: tuple, kwargs: dict, watched: Sequence[Any]
) -> tuple[Outputs, _Graph, Callable[[], None]]:
    """What the function gives, its graph, and what undoes the run, as is done if it cannot be traced."""
    tracing = _Tracing(given[0].device if given else torch.device("cpu"), watched)
    outputs: Outputs = []
    before = tracing.random

    def undo() -> None:
        """Bring random numbers, tensors and attributes back to where they were."""
        for state, device in zip(before, ("cpu", tracing.device), strict=False):
            torch.cuda.set_rng_state(state, device) if device != "cpu" else torch.set_rng_state(state)
        with torch.no_grad():
            for tensor, value in reversed(tracing.changed):
                tensor.copy_(value)
        for attributes in tracing.watched.values():
            for a in attributes:
                if not a.is_there():
                    a.keeper[a.name] = a.value

    def run(*_: Tensor) -> list[Tensor]:  # the tracer knows the given tensors by their identity
        with tracing, _Reads():
            outputs.extend(function(*args, **kwargs))
        tracing.end()
        return [o for o in outputs if o is not None]

    token, hook = _active.set(tracing), register_module_forward_pre_hook(tracing.meet)
    # Told of one fake mode, the tracer does not make one for each operation, which takes as long as all else.
    fake = FakeTensorMode(allow_fallback_kernels=True)
    try:
        with guards.tracing(guards.TracingContext(fake)):
            graph = make_fx(run)(*given)
        return outputs, _Graph(graph, tracing, outputs), undo
    except Exception:
        undo()
        raise
    finally:
        hook.remove()
        _active.reset(token)


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the CPU, and of the device if that is another."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


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
    from torch._inductor.lowering import lowerings, make_fallback

    def is_random(op: Any) -> bool:
        return getattr(getattr(op, "overloadpacket", None), "__name__", "").rstrip("_") in _RANDOM

    # Said here, as the compiler refuses what it could decompose where the environment has a variable CI.
    for op in {node.target for node in graph.graph.nodes if is_random(node.target)} - lowerings.keys():
        make_fallback(op, override_decomp=True)
    table = {op: decomposed for op, decomposed in select_decomp_table().items() if not is_random(op)}
    # No draw may change its place among the others, as it would by what saves memory or time.
    patches = {"fallback_random": True, "reorder_for_locality": False, "reorder_for_peak_memory": False}
    return compile_fx(graph, examples, config_patches=patches, decompositions=table)


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def _what(t: Tensor) -> tuple:
    hooked = bool(t._backward_hooks or getattr(t, "_post_accumulate_grad_hooks", None))
    return hooked, t.requires_grad, t.dtype, t.device, t.shape, t.stride()


def _hooked(m: nn.Module) -> bool:
    return bool(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)


def _kind(a: Any) -> Any:
    """What a graph depends on of an argument."""
    if isinstance(a, Tensor):
        return type(a), *_what(a)
    if isinstance(a, tuple | list):
        return type(a), *map(_kind, a)
    if isinstance(a, dict):
        return dict, *((name, _kind(value)) for name, value in a.items())
    return type(a), a


def _tensors(a: Any) -> Iterator[Tensor]:
    """Those that stand in nested tuples, lists and dictionaries."""
    if isinstance(a, Tensor):
        yield a
    elif isinstance(a, tuple | list | dict):
        for part in a.values() if isinstance(a, dict) else a:
            yield from _tensors(part)
