"""Stochastic variational inference: one optimiser step on a bound for a model and a guide."""

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pyro
import pyro.infer
import torch
from pyro.infer.util import torch_item
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.optim.optim import _load_state_dict
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from pyrovae.check import buffers_restored, check, unvalidated
from pyrovae.compatibility import require
from pyrovae.cuda_graphs import Captured
from pyrovae.densities import Program
from pyrovae.drawn import Drawn
from pyrovae.model import Model
from pyrovae.objective import Objective
from pyrovae.parameters import ModuleParameters
from pyrovae.precision import Precision, precision
from pyrovae.pyro_elbo import UNREAD, Traced, loss_and_grads, totals
from pyrovae.rng import isolated
from pyrovae.staging import Staged, tracing
from pyrovae.trouble import require_finite

__all__ = ["SVI"]


class SVI(pyro.infer.SVI):
    """theta, phi <- step: `pyro.infer.SVI` with one optimiser over all parameters, guarded against silent failure.

    Before the first step the programs are checked against each other (see `check`); after it, every parameter must have
    received a gradient and moved. Pyro's validation, which reads back from the device many times, is left on in the
    first step alone: later batches are not looked at. A step with one of our objectives, or with Pyro's `Trace_ELBO` or
    `TraceMeanField_ELBO`, reads nothing back but the loss that `step` returns; others of Pyro's read back more. An
    optimiser that has not begun updates all parameters in one fused operation where it can, unless it says otherwise.

    Parameters of modules stay with their modules: `pyro.module` leaves nothing in Pyro's store. A `pyro.param`, an
    autoguide's too, lives in the store as everywhere in Pyro.

    Args:
        model: Pyro program p(x, z).
        guide: Pyro program q(z | x), of the same arguments.
        optim: a `torch.optim` optimiser, or a `pyro.optim` one, of which one is built over all parameters.
        loss: any `pyro.infer.ELBO`, ours included, or a function as `pyro.infer.SVI` takes it.
        loss_and_grads: as in `pyro.infer.SVI`.
        clip_norm: largest norm of the gradient of all parameters together, or None.
        compile: whether to stage the steps: with the first arguments of a kind (shapes, types) a step is traced, effect
            handlers and all, and its tensor operations are compiled; steps are these operations alone, see
            `pyrovae.staging`. Attributes of modules are watched; what else programs read that is no argument and no
            tensor stays what it was then. Steps that cannot be staged run as they are, after a warning.
        generator: of the draws of arguments that stand for their draws, such as `data.Intensities`, which each step
            draws anew; by default torch's own.
        precision: number format of the networks' matrix products, see `pyrovae.precision`.
        kwargs: as in `pyro.infer.SVI`.

    Raises:
        ValueError: if optim is neither; in the first step, if the programs do not fit or a parameter is not trained.

    References:
        Hoffman et al. (2013), Stochastic variational inference, https://arxiv.org/abs/1206.7051
        Bingham et al. (2019), Pyro: deep universal probabilistic programming, https://arxiv.org/abs/1810.09538

    Example:
        >>> from pyrovae import VAE, encoders, likelihoods, networks, objectives, priors
        >>> decode, encode = networks.MLP(2, 5), networks.MLP(5, 2 * 2)
        >>> vae = VAE(priors.StandardNormal(2), likelihoods.Normal(decode), encoders.DiagonalNormal(encode))
        >>> optim = torch.optim.Adam(vae.parameters(), lr=1e-3)
        >>> svi = SVI(vae.model, vae.guide, optim, loss=objectives.ELBO())
        >>> losses = [svi.step(torch.ones(20, 5)) for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: torch.optim.Optimizer | PyroOptim,
        loss: pyro.infer.ELBO | Callable,
        loss_and_grads: Callable | None = None,
        clip_norm: float | None = None,
        compile: bool = False,
        generator: torch.Generator | None = None,
        precision: Precision = "float32",
        **kwargs: Any,
    ) -> None:
        if not isinstance(optim, torch.optim.Optimizer | PyroOptim):
            raise ValueError(f"optim must be a torch.optim or pyro.optim optimiser, not {type(optim).__name__}")
        if isinstance(optim, torch.optim.LBFGS | torch.optim.SparseAdam):
            raise ValueError(
                f"{type(optim).__name__} does not take steps on dense stochastic gradients: use Adam or SGD"
            )
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, not {clip_norm}")
        # Pyro's constructor takes none but its own optimisers.
        super().__init__(model, guide, PyroOptim(type(optim), {}), loss, loss_and_grads, **kwargs)
        self.optim = optim
        self.objective = loss
        self.clip_norm, self.generator, self.precision = clip_norm, generator, precision
        self.optimizer = optim if isinstance(optim, torch.optim.Optimizer) else None
        if self.optimizer is not None:
            fuse(self.optimizer, capturable=compile)
        owners = {getattr(program, "__self__", None): None for program in (model, guide)}
        watched = [self, loss, *(owner for owner in owners if isinstance(owner, nn.Module))]
        depends = lambda: len(self._parameters())  # noqa: E731
        staged = Staged(self._plain_gradients, "the step", watched, depends, at_once=True)
        self._gradients = staged if compile else self._plain_gradients
        self.tells = False  # whether `update` gives the terms of the ELBO
        self.asks = True  # before the first step, whether model, objective and data go together
        self.careful = False  # whether it refuses to step along what is not finite, which reads back from the device
        self.validates = False  # whether Pyro's validation stays on after the first step
        self.exchange: Callable[[Callable[[], list[Any]]], list[Any]] | None = None  # with other processes
        self._recorded: dict[Any, tuple[Any, Captured]] = {}
        self._checked = False

    def step(self, *args: Any, **kwargs: Any) -> float | tuple[float, ...]:
        """Take a gradient step and return the loss, minus the objective summed over data; arguments as programs'."""
        loss, _ = self.update(*args, **kwargs)
        if isinstance(loss, tuple):  # ReweightedWakeSleep has two
            return type(loss)(map(torch_item, loss))
        if math.isnan(value := torch_item(loss)):
            warnings.warn("the loss is NaN: the parameters are too, or will be; lower the learning rate", stacklevel=2)
        return value

    def update(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor | None]:
        """Take a gradient step, and read nothing back from the device.

        Returns:
            The loss, as `step` gives it, but on the device; and E_q[log p(x | z)] and the KL, summed over data, `(2,)`,
            if `tells` is set and they can be told from what was run.
        """
        if not self._checked:
            self._check(*map(_some, args), **{name: _some(a) for name, a in kwargs.items()})
            if isinstance(self._gradients, Staged):
                self._try(*args, **kwargs)
        args, kwargs = [*map(self._drawn, args)], {name: self._drawn(a) for name, a in kwargs.items()}
        with precision(self.precision) if self.precision != "float32" else nullcontext():
            if self._checked and not self.careful and self._on_cuda():
                loss, terms = self._captured(*args, **kwargs)
            else:
                gradients = partial(self._gradients, *args, **kwargs)
                loss, terms = self._descend(gradients() if self.exchange is None else self.exchange(gradients))
        if isinstance(self.objective, Objective):
            self.objective.step += 1
        self._checked = True
        return loss, terms

    def _descend(self, outputs: list[Any]) -> list[Any]:
        """Step along the gradients, which follow the loss and the terms of the ELBO."""
        loss, terms, *gradients = outputs
        if self.careful:
            require_finite(loss, self._parameters(), gradients)
        for p, gradient in zip(self._parameters(), gradients, strict=True):
            p.grad = gradient
        if self.clip_norm is not None and self.exchange is not None:
            clip_grad_norm_(self._parameters(), self.clip_norm)
        with nullcontext() if self._checked else _trains(self._seen, self.optimizer):
            self.optimizer.step()
        for p in self._parameters():
            p.grad = None
        return [loss, terms]

    def _captured(self, *args: Any, **kwargs: Any) -> list[Any]:
        """A compiled step as one CUDA graph, as long as nothing but tensors differs from the steps before."""
        graph = given = None
        if self._gradients.trouble is None and not am_i_wrapped():
            graph, given, _ = self._gradients.graph(*args, **kwargs)
        # A number on another device would be recorded as it is now.
        if graph is None or not all(held.is_cuda for held, _ in graph.numbers):
            return self._descend(self._gradients(*args, **kwargs))
        # A learning rate is part of the kernels, and so is where tensors lie.
        groups = [{name: v for name, v in g.items() if name != "params"} for g in self.optimizer.param_groups]
        state = [t for of in self.optimizer.state.values() for t in of.values() if isinstance(t, Tensor)]
        fixed = groups, [t.data_ptr() for t in (*graph.held, *state)]
        if self._recorded.get(graph, (None,))[0] != fixed:
            step = Captured(lambda given: self._descend(graph(given)))
            self._recorded = {g: r for g, r in self._recorded.items() if g.holds()} | {graph: (fixed, step)}
        graph.refresh()
        return self._recorded[graph][1](given)

    def _on_cuda(self) -> bool:
        """Whether steps can be recorded as CUDA graphs: optimisers may count them in Python."""
        groups = self.optimizer.param_groups
        counts = type(self.optimizer) is torch.optim.SGD or all(group.get("capturable") for group in groups)
        counts &= self.exchange is None
        return isinstance(self._gradients, Staged) and counts and all(p.is_cuda for p in self._parameters())

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float | tuple[float, ...]:
        """The loss, without a step, and with buffers left as they were; arguments as programs'."""
        args, kwargs = map(self._drawn, args), {name: self._drawn(a) for name, a in kwargs.items()}
        with ModuleParameters(at_once=False), buffers_restored(self.model, self.guide):
            return super().evaluate_loss(*args, **kwargs)

    def _check(self, *args: Any, **kwargs: Any) -> None:
        """Refuse programs that cannot be trained by the objective."""
        if self.asks and isinstance(owner := getattr(self.model, "__self__", None), Model):
            require(owner, self.objective, args)
        guide_sites = check(self.model, self.guide, *args, **kwargs)
        if isinstance(self.objective, Objective):
            self.objective.check_sites(guide_sites)

    def _try(self, *args: Any, **kwargs: Any) -> None:
        """Run the first step under Pyro's validation, which no graph can do, and leave no trace."""
        objective = [self.objective] if isinstance(self.objective, Objective) else []
        args, kwargs = map(_some, args), {name: _some(a) for name, a in kwargs.items()}
        with isolated(), buffers_restored(self.model, self.guide, *objective):
            self._plain_gradients(*args, **kwargs)

    def _plain_gradients(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The loss, the terms of the ELBO if known, and the gradient by each parameter of the optimiser."""
        for p in self._parameters():
            p.grad = None
        at_once, keep = isinstance(self.objective, Objective), not self._checked or isinstance(self.optim, PyroOptim)
        validates = self.validates or not (self._checked or tracing())
        with nullcontext() if validates else unvalidated(), ModuleParameters(at_once, keep) as seen:
            loss, terms = self._loss_and_terms(*args, **kwargs)
        self._seen = seen.parameters
        self._collect(seen.parameters)
        parameters = self._parameters()
        if self.clip_norm is not None and self.exchange is None:
            clip_grad_norm_(parameters, self.clip_norm)
        gradients = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        return [loss, terms, *gradients]

    def _loss_and_terms(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor | None]:
        """The loss, whose gradient is left with the parameters, and the terms of the ELBO if known."""
        if isinstance(self.objective, Objective):
            densities = self.objective.densities(self.model, self.guide, *args, **kwargs)
            loss = -self.objective.surrogate(densities)
            loss.backward()
            return loss.detach(), densities.totals if self.tells and self.objective.faithful else None
        if type(self.objective) in UNREAD:
            loss = loss_and_grads(self.objective, self.model, self.guide, *args, **kwargs)
        elif tracing() and isinstance(self.objective, pyro.infer.ELBO):
            raise RuntimeError(f"{type(self.objective).__name__} reads its loss in each step")
        else:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        return loss, totals(self.model, self.guide) if isinstance(self.model, Traced) else None

    def _drawn(self, a: Any) -> Any:
        return a.draw(self.generator) if isinstance(a, Drawn) else a

    def _parameters(self) -> list[Tensor]:
        return [] if self.optimizer is None else [p for group in self.optimizer.param_groups for p in group["params"]]

    def _collect(self, parameters: dict[str, Tensor]) -> None:
        """Put a Pyro optimiser's parameters into one torch optimiser as they first appear, and clip as Pyro does."""
        if not isinstance(self.optim, PyroOptim):
            return
        held = set(self._parameters())
        new = {name: p for name, p in parameters.items() if p not in held}
        options = self.optim.pt_optim_args
        groups = (
            [([p], _by_name(options, k)) for k, p in new.items()] if callable(options) else [([*new.values()], options)]
        )
        for params, group_options in groups:
            if self.optimizer is not None and params:
                self.optimizer.add_param_group({"params": params, **group_options})
            elif params:
                self.optimizer = self.optim.pt_optim_constructor(params, **group_options)
        if self.optimizer is None:
            raise ValueError("model and guide have no parameters: register networks by pyro.module(name, network)")
        if not self.optim.optim_objs:
            self._register()
        for name, p in parameters.items():
            if clip := _by_name(self.optim.pt_clip_args, name):
                self.optim._clip_grad(p, **clip)

    def _register(self) -> None:
        """Let the Pyro optimiser hold the torch optimiser, for its `save` and `load`, and a scheduler's `step`."""
        held, waiting = self.optimizer, self.optim._state_waiting_to_be_consumed
        if waiting.keys() - {None}:
            raise ValueError("the optimiser's state is of Pyro's SVI, one for each parameter: go on with that")
        if isinstance(self.optim, PyroLRScheduler):
            held = self.optim.pt_scheduler_constructor(held, **self.optim.kwargs)
        self.optim.optim_objs[None] = held  # not one parameter's
        if waiting:
            _load_state_dict(held, waiting.pop(None))


def _some(a: Any) -> Any:
    """Something to check, without a draw that training would miss."""
    return a.draw(torch.Generator(a.device).manual_seed(0)) if isinstance(a, Drawn) else a


def fuse(optimizer: torch.optim.Optimizer, capturable: bool) -> None:
    """Let an optimiser that has not begun update all parameters in one operation, if it can and is free to.

    Args:
        optimizer: changed in place.
        capturable: whether it shall work in a CUDA graph, too.
    """
    for group in optimizer.param_groups:
        # Fused kernels take memory as it comes, whatever the strides.
        plain = all(p.is_floating_point() and p.is_contiguous() for p in group["params"])
        plain &= all(p.device.type in ("cpu", "cuda") for p in group["params"])
        free = "fused" in group and not (group["fused"] or group["foreach"] or group["differentiable"])
        if plain and free and group["fused"] is None and not optimizer.state:
            group["fused"] = True
            if capturable and "capturable" in group and all(p.is_cuda for p in group["params"]):
                group["capturable"] = True


@contextmanager
def _trains(parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Around a step: every parameter of the programs must have a gradient, be held by the optimiser, and move."""
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    for name, p in parameters.items():
        if p.grad is None:
            cause = "it is not used by the model or the guide, or is cut off by detach() or no_grad()"
        elif p not in rate:
            cause = (
                "the optimiser does not hold it: build it after the last .to() or load_state_dict(), and of the "
                "objective's parameters too if its baseline is learned"
            )
        else:
            continue
        raise ValueError(
            f"parameter '{_module_name(name)}' is not trained: {cause}; to freeze it, requires_grad_(False)"
        )
    used = set(parameters.values())
    for p in rate:
        if p.requires_grad and p.grad is None and p not in used:
            raise ValueError(
                f"a parameter of shape {tuple(p.shape)} that the optimiser holds received no gradient: the programs do "
                f"not use it; is it another model's, or was it replaced by load_state_dict(assign=True)?"
            )
    yield
    still = [name for name, p in parameters.items() if not p.grad.any()]
    if still:
        warnings.warn(
            f"the gradient was 0 in the first step for {', '.join(map(_module_name, still))}: units may be dead, or "
            f"what follows them starts at 0",
            stacklevel=5,
        )
    for name, p in parameters.items():
        if name not in still and rate[p] != 0 and torch.equal(p.detach(), before[name]):
            raise ValueError(
                f"parameter '{_module_name(name)}' has a gradient but did not move: is its learning rate ({rate[p]}) "
                f"too small for its values?"
            )


def _module_name(name: str) -> str:
    """A parameter's name as `nn.Module.named_parameters` gives it, after that of its module."""
    return name.replace("$$$", ".")


def _by_name(options: dict | Callable, name: str) -> dict:
    """Options of a Pyro optimiser, which may be a function of the parameter's name, or of its two halves."""
    if not callable(options):
        return options
    halves = name.split("$$$")
    one = len(inspect.signature(options).parameters) == 1
    return options(_module_name(name)) if one else options(halves[0], halves[-1])
