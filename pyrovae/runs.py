"""Runs: a training described by options, and the folder that keeps all of it.

`config.yaml` repeats the run, `checkpoint.pt` is its end (or where to go on), with the one before it beside it,
`history.csv` has a row for each epoch, `metrics.json` the numbers with the protocol of the data, `figures/` what to
look at; `trouble.pt`, if it is there, what a training that had to stop could not go on from.
"""

import functools
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import ActionYesNo, Namespace
from pyro.distributions import constraints
from torch import nn

from pyrovae import blueprints, evaluation
from pyrovae.arguments import whole as whole_number
from pyrovae.bits import NO_PROBABILITY, bits_per_dimension, log_cell
from pyrovae.checkpoint import last_good
from pyrovae.checkpoint import read as read_checkpoint
from pyrovae.columns import columns, moved
from pyrovae.conditional_vae import ConditionalVAE
from pyrovae.data import NAMES, Binarize, Dataset, in_memory
from pyrovae.data import load as load_data
from pyrovae.distributed import Processes, own_gpu
from pyrovae.encoders import DiagonalNormal
from pyrovae.encoders.encoder import Encoder
from pyrovae.figures import draw
from pyrovae.files import held, whole, write_json
from pyrovae.incomplete_vae import IncompleteVAE
from pyrovae.likelihoods import Bernoulli
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.model import Model
from pyrovae.networks import MLP, Network
from pyrovae.networks.network import Shape
from pyrovae.options import Parser
from pyrovae.parts import Blueprint, Parts
from pyrovae.preparation import checked
from pyrovae.priors import StandardNormal
from pyrovae.priors.prior import Prior
from pyrovae.record import CHECKPOINT, HISTORY, TROUBLE
from pyrovae.rng import isolated
from pyrovae.training import History, fit

__all__ = ["Run", "build", "load", "parse", "parser", "report", "require_taken", "score", "summary", "train"]

# Numbers of few models, told with the others.
OWN = ("accuracy", "perplexity", "dead_codes", "estimated_kl", "discriminator_accuracy", "annealed_log_likelihood")
_SCORED = {ConditionalVAE: "p(x | y)", IncompleteVAE: "p(x_obs)"}  # by models for which it is not p(x)
CONFIG, METRICS = "config.yaml", "metrics.json"


class Run(NamedTuple):
    """A trained model, with all that it came from."""

    vae: Model
    dataset: Dataset
    history: History
    options: Namespace


def build(
    data: str = "digits",
    binarize: Binarize | None = None,
    binarize_seed: int = 0,
    valid_size: int | None = None,
    root: str = "data",
    latent_dim: int = 8,
    prior: Callable[[int], Prior] = StandardNormal,
    likelihood: Callable[[nn.Module], Likelihood] = Bernoulli,
    encoder: Callable[[nn.Module], Encoder] = DiagonalNormal,
    encoder_network: Callable[[Shape, Shape], Network] = MLP,
    decoder_network: Callable[[Shape, Shape], Network] = MLP,
    seed: int = 0,
    device: str = "auto",
    dequantize: bool = False,
    model: Blueprint | None = None,
    subset: Callable[[Dataset], Dataset] | None = None,
    memory_map: bool = False,
) -> tuple[Model, Dataset]:
    """A model and its data, as the scripts' options describe them.

    Args:
        data: a data set (digits, shapes, swiss_roll, mnist, fashion_mnist, kmnist, emnist, omniglot, cifar10), or the
            path of a .npz, .npy or .csv file or of a folder of images.
        binarize: none, threshold, static or dynamic; unless given, dynamic for a likelihood of binary data, else none.
        binarize_seed: of the binarization or dequantization of test and validation data, which is the same for every
            seed.
        valid_size: how many data to keep for validation; the others of them join the training data.
        root: folder that holds the named data sets, or to which they are downloaded.
        latent_dim: D, dimensions of z.
        prior: p(z), by class name or import path.
        likelihood: p(x | z), by class name or import path.
        encoder: q(z | x), by class name or import path.
        encoder_network: network from x to the parameters of q(z | x), by class name or import path.
        decoder_network: network from z to the parameters of p(x | z), by class name or import path.
        seed: of all else that is random: initialisation, order, sampling, evaluation. Each part starts from a stream
            of its own, so that models that differ in one start alike in the others.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.
        dequantize: whether grey level k of n becomes (k + u) / n, with u ~ U(0, 1), for a likelihood that is a density;
            test and validation data are drawn once, training data anew each epoch.
        model: what is made of these parts, by class name; by default a VAE.
        subset: which of the data, as a function of them all.
        memory_map: whether the training data of a .npy file stay on disk, for data larger than memory; valid and test
            have 10,000 data at most.

    Raises:
        ValueError: if the parts do not fit together, or not with the data.
        FileNotFoundError: if the data are not there and cannot be downloaded.
    """
    place = _device(device)
    binary = likelihood(nn.Identity()).support is constraints.boolean
    binarize = binarize or ("dynamic" if binary and not (dequantize or memory_map) else "none")
    blueprint = model or blueprints.VAE()
    dataset = load_data(data, binarize, root, binarize_seed, valid_size, dequantize, blueprint.missing, memory_map)
    dataset = blueprint.data(subset(dataset) if subset else dataset)
    parts = Parts(dataset, latent_dim, prior, likelihood, encoder, encoder_network, decoder_network, seed)
    vae = blueprint(parts)
    starting = [part for part in vae.modules() if hasattr(part, "start_from")]  # from what the training data are like
    checked(vae, dataset.train, None)  # or what does not suit the model would fail there
    for part in starting:
        with isolated(seed, "start"):
            part.start_from(blueprint.start(in_memory(dataset)))
    return vae.to(place), dataset


def prepare(
    options: Namespace, subset: Callable[[Dataset], Dataset] | None = None
) -> tuple[Model, Dataset, dict[str, Any]]:
    """A model, its data or a subset of them, and all that options describe, by the option's name."""
    with isolated(options.seed, "objective"):  # for a baseline with parameters of its own
        arguments = vars(_reader().instantiate(options))
    return *build(**taken(build, arguments), subset=subset), arguments


def train(options: Namespace, folder: str | Path, resume: bool = False) -> Run:
    """Build, fit and keep a run in a folder, from which `load` gives it back.

    Raises:
        ValueError: for options that do not fit together.
        FileNotFoundError: if data, or the checkpoint to resume, are missing.
        BlockingIOError: if another process trains in the folder.
    """
    folder, processes = Path(folder), Processes.here()
    with processes.in_turn():
        vae, dataset, arguments = prepare(options)
    with _kept(folder, options) if processes.is_first else nullcontext():
        history = fit(vae, dataset.train, dataset.valid, folder=folder, resume=resume, **taken(fit, arguments))
    return Run(vae, dataset, history, options)


@contextmanager
def _kept(folder: Path, options: Namespace) -> Iterator[None]:
    """Hold a folder and keep a run's options there; what is refused, or fails at once, leaves all as it was before."""
    folder.mkdir(parents=True, exist_ok=True)
    config, checkpoint = folder / CONFIG, folder / CHECKPOINT
    with held(folder):
        known, begun, before = config.read_bytes() if config.exists() else None, checkpoint.exists(), _written(folder)
        with whole(config) as path:
            path.write_text(_reader().dump(options, skip_unset=False))
        try:
            yield
        except Exception:
            if folder.exists() and _written(folder) == before:
                if not begun:
                    checkpoint.unlink(missing_ok=True)
                if known is None:
                    config.unlink(missing_ok=True)
                else:
                    with whole(config) as path:
                        path.write_bytes(known)
                if not any(folder.iterdir()):
                    folder.rmdir()
            raise


def _written(folder: Path) -> list[int | None]:
    """When what a training tells of its steps was written, if it is there."""
    return [path.stat().st_mtime_ns if path.exists() else None for path in (folder / HISTORY, folder / TROUBLE)]


def report(run: Run, folder: str | Path, num_samples: int, tsne: bool = False) -> dict | None:
    """Score a run, draw its figures, and keep both in its folder; of several processes the first one, with a result.

    Args:
        run: the run.
        folder: where `metrics.json` and `figures/` go.
        num_samples: K, draws for each datum for log p(x).
        tsne: whether to draw the latent means by t-SNE too.
    """
    whole_number("num_samples", num_samples, least=2)  # for a standard error
    folder, processes, options = Path(folder), Processes.here(), run.options
    scores = processes.scores(run.vae, run.dataset.test, num_samples, options.seed, options.compile)
    if not processes.is_first:
        return None
    metrics = score(run, num_samples, options.seed, scores)
    write_json(folder / METRICS, metrics)
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in draw(run.vae, run.dataset, run.history, tsne, run.options.seed):
        with whole(folder / "figures" / f"{name}.png") as path:
            figure.savefig(path)
    return metrics


def load(folder: str | Path) -> Run:
    """The run that a folder keeps, as it was when it was kept last.

    Raises:
        FileNotFoundError: if the folder keeps no run.
        ValueError: if its files cannot be read.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"no run in '{folder}': it has no {CONFIG}")
    try:
        state = read_checkpoint(folder / CHECKPOINT)
    except ValueError as error:
        good = last_good(folder / CHECKPOINT)
        offer = f"; '{good}' is whole, and --resume goes on from it" if good else ""
        raise ValueError(f"{error}{offer}") from error
    options = _reader().parse_path(folder / CONFIG)
    vae, dataset, _ = prepare(options)
    try:
        vae.load_state_dict(state["values"]["best"] or state["parts"]["vae"])
        history = History(state["values"]["history"])
    except Exception as error:  # whatever stands there in place of states
        raise ValueError(f"'{folder / CHECKPOINT}' is not of the model that '{folder / CONFIG}' describes") from error
    return Run(vae.eval(), dataset, history, options)


def score(run: Run, num_samples: int, seed: int, scores: evaluation.Scores | None = None) -> dict:
    """What `metrics.json` holds: `evaluation.metrics` of the test data, numbers of the model's own, and the protocol.

    Bits per dimension are those of log p(x), where it tells probabilities of data; else a note says why not.

    Args:
        run: the run.
        num_samples: K, draws for each datum for log p(x).
        seed: of the draws.
        scores: those of the test data, if they are there already.
    """
    metrics = evaluation.metrics(run.vae, run.dataset.test, num_samples, seed, scores, run.options.compile)
    labels = None if run.dataset.labels is None else run.dataset.labels.test
    with evaluation.evaluating(run.vae), isolated(seed, "numbers"):
        metrics |= run.vae.own_numbers(*moved(columns(run.dataset.test), next(run.vae.parameters())), labels=labels)
    protocol, shape = run.dataset.protocol, columns(run.dataset.test)[0].shape[1:]
    if isinstance(run.vae, IncompleteVAE):  # as many dimensions as are observed, on average
        shape = (run.dataset.test[1].double().flatten(1).sum(1).mean().item(),)
    log_volume = log_cell(run.vae.likelihood, protocol, shape)
    if log_volume is None:
        metrics |= {"bits_per_dimension": None, "bits_per_dimension_note": NO_PROBABILITY}
    else:
        metrics["bits_per_dimension"] = bits_per_dimension(metrics["log_likelihood"] + log_volume, shape)
    return {
        **metrics,
        "log_likelihood_of": _SCORED.get(type(run.vae), "p(x)"),
        "evaluated_on": "test",
        "seed": seed,
        "epochs": len(run.history),
        "seconds": sum(run.history["seconds"]),
        "parameters": sum(p.numel() for p in run.vae.parameters()),
        **protocol.to_dict(),
    }


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = own_gpu(name)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device '{name}' here ({str(error).splitlines()[0]}): use auto or cpu") from error


def parser() -> Parser:
    """The options of a run: those of `build` and of `fit`, each component's constructor arguments included."""
    parser = Parser(description="Train a variational autoencoder.")
    parser.add_argument("--config", action="config", help="file with options, such as a run's config.yaml")
    parser.add_function_arguments(build, as_group=False, skip={"subset", "memory_map"})
    elsewhere = {"vae", "train", "valid", "seed", "folder", "resume", "shuffle", "progress", "compile", "deterministic"}
    parser.add_function_arguments(fit, as_group=False, skip=elsewhere)
    flag = {"action": ActionYesNo, "nargs": "?", "default": False}
    parser.add_argument("--compile", **flag, help="trace the steps, and the scoring of test data, and compile them")
    parser.add_argument("--deterministic", **flag, help="take deterministic algorithms alone, on a GPU too")
    parser.add_argument("--memory_map", **flag, help="leave the training data of a .npy file on disk, if it is large")
    parser.add_argument("--num_samples", type=int, default=1000, help="draws for each datum for log p(x)")
    parser.set_defaults(
        {
            "model": {"class_path": "pyrovae.blueprints.VAE"},
            "objective": {"class_path": "pyrovae.objectives.ELBO"},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
            "epochs": 200,
        }
    )
    parser.unstuck = ("model", "objective", "prior", "likelihood", "encoder", "encoder_network", "decoder_network")
    components = ("models", "priors", "likelihoods", "encoders", "networks", "corruptions")
    parser.kinds = (*components, "objectives", "gradients", "baselines", "schedules")
    return parser


@functools.cache
def _reader() -> Parser:
    """The parser of what was parsed before, made once, as that takes a tenth of a second."""
    return parser()


def parse(arguments: Sequence[str] | None) -> tuple[Namespace, Path, bool]:
    """The options of `scripts/train.py`: those of a run, its folder, and whether to resume it.

    Without `--out` a new run goes to `runs/DATA`, or, where that is taken, to `runs/DATA-2` and so on; `--resume` goes
    on with the last of them. To resume, options are read from the run's folder; of those given again only epochs (more
    of them), max_seconds, device, compile, the places of the data and num_samples may differ.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    full = parser()
    full.add_argument("--out", type=str | None, default=None, help="folder of the run; unless given, runs/DATA")
    full.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    options = full.parse_args(arguments)
    whole_number("num_samples", options.num_samples, least=2)  # for a standard error
    folder, resume = _folder(options), options.resume
    if resume:
        if not (folder / CHECKPOINT).exists():
            raise FileNotFoundError(f"nothing to resume in '{folder}': it has no {CHECKPOINT}; run without --resume")
        saved = full.parse_args(["--config", str(folder / CONFIG)])
        options = full.parse_args(["--config", str(folder / CONFIG), *arguments])
        free = {"epochs", "max_seconds", "device", "data", "root", "num_samples", "compile", "config", "out", "resume"}
        free |= {"keep", "max_skips", "detect_anomaly"}
        for name in vars(saved).keys() - free:
            if saved[name] != options[name]:
                raise ValueError(f"--{name} differs from that of the run in '{folder}': a run goes on as it began")
        if options.epochs < saved.epochs:
            raise ValueError(
                f"the run in '{folder}' is of {saved.epochs} epochs, not {options.epochs}: it can only grow"
            )
    elif (folder / CHECKPOINT).exists():
        raise ValueError(f"'{folder}' keeps a run already: give --resume to go on with it, or another --out")
    for name in ("config", "out", "resume"):
        options.pop(name)
    anchor(options)
    return options, folder, resume


def require_taken(options: Namespace, unless_given: Namespace | None = None) -> None:
    """Refuse a part that is chosen for a model which has none such.

    Args:
        options: of a run.
        unless_given: options that other models share with it; by default none do.

    Raises:
        ValueError: by the option's name.
    """
    reader = _reader()
    model, shared = reader.instantiate(options).model, unless_given or reader.parse_args([])
    for name in model.without:
        if options[name] != shared[name]:
            raise ValueError(f"--{name} is not taken by {type(model).__name__}, as it has none: leave it out")


def anchor(options: Namespace) -> None:
    """Make paths absolute, so that the run can be read from any folder."""
    options.root = str(Path(options.root).resolve())
    options.data = options.data if options.data in NAMES else str(Path(options.data).resolve())


def _folder(options: Namespace) -> Path:
    if options.out is not None:
        return Path(options.out)
    name = Path(options.data).stem
    taken, new, numbers = None, Path("runs") / name, itertools.count(2)
    while (new / CHECKPOINT).exists():
        taken, new = new, Path("runs") / f"{name}-{next(numbers)}"
    return taken if options.resume and taken else new


def taken(function: Callable, arguments: dict) -> dict:
    """Of the arguments those that a function takes."""
    return {name: value for name, value in arguments.items() if name in inspect.signature(function).parameters}


def summary(metrics: dict) -> str:
    """The main numbers in a line each."""
    bits = metrics["bits_per_dimension"]
    told = f"bits per dimension {bits:.4f}" if bits else f"no bits per dimension: {metrics['bits_per_dimension_note']}"
    if math.isnan(metrics["elbo"]):
        lines = [f"no bound on log p(x): q(z | x) has no density; reconstruction {metrics['reconstruction']:.3f}"]
    else:
        lines = [
            f"test ELBO     {metrics['elbo']:9.3f} nats (Monte Carlo error {metrics['elbo_std_error']:.3f})",
            f"  reconstruction {metrics['reconstruction']:6.3f}, KL {metrics['kl']:.3f}",
            f"test log {metrics['log_likelihood_of']} {metrics['log_likelihood']:9.3f} nats (Monte Carlo error "
            f"{metrics['log_likelihood_std_error']:.3f}, K = {metrics['num_samples']})",
            told,
        ]
    if metrics["active_units"] is not None:
        lines.append(f"active units  {metrics['active_units']:5d}")
    lines += [f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in OWN if name in metrics]
    return "\n".join([*lines, f"trained {metrics['epochs']} epochs in {metrics['seconds']:.1f} s"])
