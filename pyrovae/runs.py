"""Runs: a training described by options, and the folder that keeps all of it.

`config.yaml` repeats the run, `checkpoint.pt` is its end (or where to go on), `history.csv` has a row for each epoch,
`metrics.json` the numbers with the protocol of the data, `figures/` what to look at.
"""

import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace
from matplotlib.figure import Figure
from pyro.distributions import constraints
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from pyrovae import evaluation, plotting
from pyrovae.checkpoint import read as read_checkpoint
from pyrovae.data import Binarize, Dataset
from pyrovae.data import load as load_data
from pyrovae.encoders import DiagonalNormal, Encoder
from pyrovae.files import whole
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.networks import MLP, Network, Shape
from pyrovae.priors import Prior, StandardNormal
from pyrovae.rng import isolated
from pyrovae.training import History, fit
from pyrovae.vae import VAE

__all__ = ["Run", "build", "draw", "load", "parse", "parser", "report", "score", "train"]

CONFIG, CHECKPOINT, METRICS = "config.yaml", "checkpoint.pt", "metrics.json"


class Run(NamedTuple):
    """A trained model, with all that it came from."""

    vae: VAE
    dataset: Dataset
    history: History
    options: Namespace


def build(
    data: str = "digits",
    binarize: Binarize | None = None,
    root: str = "data",
    latent_dim: int = 8,
    prior: Callable[[int], Prior] = StandardNormal,
    likelihood: Callable[[nn.Module], Likelihood] = Bernoulli,
    encoder: Callable[[nn.Module], Encoder] = DiagonalNormal,
    encoder_network: Callable[[Shape, Shape], Network] = MLP,
    decoder_network: Callable[[Shape, Shape], Network] = MLP,
    seed: int = 0,
    device: str = "auto",
) -> tuple[VAE, Dataset]:
    """A VAE and its data, as the scripts' options describe them.

    Args:
        data: a data set (digits, mnist, fashion_mnist, kmnist, emnist, omniglot, cifar10), or the path of a .npz or
            .npy file or of a folder of images.
        binarize: none, threshold, static or dynamic; unless given, dynamic for a likelihood of binary data, else none.
        root: folder that holds the named data sets, or to which they are downloaded.
        latent_dim: D, dimensions of z.
        prior: p(z), by class name or import path.
        likelihood: p(x | z), by class name or import path.
        encoder: q(z | x), by class name or import path.
        encoder_network: network from x to the parameters of q(z | x), by class name or import path.
        decoder_network: network from z to the parameters of p(x | z), by class name or import path.
        seed: of all that is random: initialisation, binarization, order, sampling, evaluation.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.

    Raises:
        ValueError: if the parts do not fit together, or not with the data.
        FileNotFoundError: if the data are not there and cannot be downloaded.
    """
    place = _device(device)
    binary = likelihood(nn.Identity()).support is constraints.boolean
    dataset = load_data(data, binarize or ("dynamic" if binary else "none"), root, seed)
    shape = dataset.protocol.shape
    with isolated(seed):
        vae = VAE(
            prior=prior(latent_dim),
            likelihood=likelihood(lambda p: decoder_network(latent_dim, (p * shape[0], *shape[1:]))),
            encoder=encoder(lambda p: encoder_network(shape, p * latent_dim)),
        )
    vae.likelihood.start_at_mean(dataset.train)
    return vae.to(place), dataset


def train(options: Namespace, folder: str | Path, resume: bool = False) -> Run:
    """Build, fit and keep a run in a folder, from which `load` gives it back.

    Raises:
        ValueError: for options that do not fit together.
        FileNotFoundError: if data, or the checkpoint to resume, are missing.
    """
    folder = Path(folder)
    arguments = vars(parser().instantiate(options))
    vae, dataset = build(**_for(build, arguments))
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / CONFIG) as path:
        path.write_text(parser().dump(options, skip_unset=False))
    try:
        history = fit(vae, dataset.train, dataset.valid, folder=folder, resume=resume, **_for(fit, arguments))
    except ValueError:
        if not (folder / CHECKPOINT).exists():  # refused before it began: no trace of it remains
            (folder / CONFIG).unlink()
            folder.rmdir()
        raise
    return Run(vae, dataset, history, options)


def report(run: Run, folder: str | Path, num_samples: int, tsne: bool = False) -> dict:
    """Score a run, draw its figures, and keep both in its folder.

    Args:
        run: the run.
        folder: where `metrics.json` and `figures/` go.
        num_samples: K, draws for each datum for log p(x).
        tsne: whether to draw the latent means by t-SNE too.
    """
    folder = Path(folder)
    metrics = score(run, num_samples, run.options.seed)
    with whole(folder / METRICS) as path:
        path.write_text(json.dumps(metrics, indent=2) + "\n")
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in draw(run, tsne, run.options.seed):
        with whole(folder / "figures" / f"{name}.png") as path:
            figure.savefig(path)
    return metrics


def load(folder: str | Path) -> Run:
    """The run that a folder keeps, as it was when its last epoch ended.

    Raises:
        FileNotFoundError: if the folder keeps no run.
        ValueError: if its files cannot be read.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"no run in '{folder}': it has no {CONFIG}")
    state = read_checkpoint(folder / CHECKPOINT)
    options = parser().parse_path(folder / CONFIG)
    vae, dataset = build(**_for(build, vars(parser().instantiate(options))))
    vae.load_state_dict(state["values"]["best"] or state["parts"]["vae"])
    return Run(vae.eval(), dataset, History(state["values"]["history"]), options)


def score(run: Run, num_samples: int, seed: int) -> dict:
    """What `metrics.json` holds: `evaluation.metrics` of the test data, training time, and the protocol of the data."""
    device = next(run.vae.parameters()).device
    return {
        **evaluation.metrics(run.vae, run.dataset.test.to(device), num_samples, seed),
        "evaluated_on": "test",
        "seed": seed,
        "epochs": len(run.history),
        "seconds": sum(run.history["seconds"]),
        "parameters": sum(p.numel() for p in run.vae.parameters()),
        **run.dataset.protocol.to_dict(),
    }


@torch.no_grad()
def draw(run: Run, tsne: bool = False, seed: int = 0) -> Iterator[tuple[str, Figure]]:
    """The figures of a run by name: reconstructions, samples, latent means, the decoded grid for D = 2, curves."""
    vae, dataset = run.vae, run.dataset
    x = dataset.test.to(next(vae.parameters()).device)
    labels = dataset.labels.test if dataset.labels else None
    with isolated(seed):
        if run.history:
            yield "training_curves", plotting.training_curves(run.history)
        means = vae.encode(x[:5000]).mean.cpu()
        labels = None if labels is None else labels[:5000]
        points, names = _plane(means, vae, x)
        yield "latent_means", plotting.latent_means(points, labels, names)
        if tsne:
            points = torch.from_numpy(TSNE(random_state=seed).fit_transform(means.numpy()))
            yield "latent_means_tsne", plotting.latent_means(points, labels, ("t-SNE 1", "t-SNE 2"))
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            return  # what follows shows images
        some = x[:12]
        yield "reconstructions", plotting.reconstructions(some, *(vae.reconstruct(some, k) for k in ("mean", "sample")))
        p = vae.likelihood(vae.prior().sample((6, 6)))
        yield "samples", plotting.samples(p.mean, p.sample())
        if means.shape[1] == 2:
            grid, quantiles = _quantile_grid(vae, torch.linspace(0.02, 0.98, 15))
            images = vae.likelihood(grid).mean
            yield "decoded_grid", plotting.decoded_grid(images, quantiles)
            path = _path(means, labels, quantiles)
            yield "decoded_path", plotting.decoded_grid(images, quantiles, path, vae.likelihood(path.to(x)).mean)


def _plane(means: Tensor, vae: VAE, x: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """Two numbers for each latent mean, and what they are."""
    if means.shape[1] == 2:
        return means, ("$z_1$", "$z_2$")
    if means.shape[1] == 1:
        return torch.cat([means, vae.encode(x[:5000]).stddev.cpu()], 1), ("mean of q(z | x)", "its standard deviation")
    pca = PCA(2, random_state=0)
    points = torch.from_numpy(pca.fit_transform(means.numpy()))
    first, second = pca.explained_variance_ratio_
    return points, (f"first principal component ({first:.0%})", f"second ({second:.0%})")


def _quantile_grid(vae: VAE, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Z of two dimensions at the prior's quantiles, `(n, n, 2)`, z_2 falling along the first; and those, `(2, n)`."""
    z = vae.prior().sample((100_000,))
    quantiles = z.quantile(levels.to(z), dim=0).T
    second, first = torch.meshgrid(quantiles[1].flip(0), quantiles[0], indexing="ij")
    return torch.stack([first, second], -1), quantiles.cpu()


def _path(means: Tensor, labels: Tensor | None, quantiles: Tensor) -> Tensor:
    """A straight path between two latent means within the quantiles, of two classes if there are classes, `(10, 2)`."""
    inside = ((means > quantiles[:, 0]) & (means < quantiles[:, -1])).all(1).nonzero().flatten()
    start = inside[0] if len(inside) else 0
    ends = inside if labels is None else inside[labels[inside] != labels[start]]
    end = ends[-1] if len(ends) else -1
    return torch.lerp(means[start], means[end], torch.linspace(0, 1, 10).unsqueeze(1))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device '{name}' here ({str(error).splitlines()[0]}): use auto or cpu") from error


# Options --------------------------------------------------------------------------------------------------------------


class Parser(ArgumentParser):
    """Ends a wrong command line with one line and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the line and exit."""
        sys.stderr.write(f"error: {_one_line(message)}\n")
        self.exit(2)


def parser() -> Parser:
    """The options of a run: those of `build` and of `fit`, each component's constructor arguments included."""
    parser = Parser(description="Train a variational autoencoder.")
    parser.add_argument("--config", action="config", help="file with options, such as a run's config.yaml")
    parser.add_function_arguments(build, as_group=False)
    elsewhere = {"vae", "train", "valid", "seed", "folder", "resume", "shuffle", "progress"}
    parser.add_function_arguments(fit, as_group=False, skip=elsewhere)
    parser.add_argument("--num_samples", type=int, default=1000, help="draws for each datum for log p(x)")
    parser.set_defaults(
        {
            "objective": {"class_path": "pyrovae.objectives.ELBO"},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
            "epochs": 200,
        }
    )
    return parser


def parse(arguments: Sequence[str] | None) -> tuple[Namespace, Path, bool]:
    """The options of `scripts/train.py`: those of a run, its folder, and whether to resume it.

    Without `--out` a new run goes to `runs/DATA`, or, where that is taken, to `runs/DATA-2` and so on; `--resume` goes
    on with the last of them. To resume, options are read from the run's folder; of those given again only epochs,
    device, root and num_samples may differ.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    full = parser()
    full.add_argument("--out", type=str | None, default=None, help="folder of the run; unless given, runs/DATA")
    full.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    options = full.parse_args(arguments)
    folder, resume = _folder(options), options.resume
    if resume:
        if not (folder / CHECKPOINT).exists():
            raise FileNotFoundError(f"nothing to resume in '{folder}': it has no {CHECKPOINT}; run without --resume")
        saved = full.parse_args(["--config", str(folder / CONFIG)])
        options = full.parse_args(["--config", str(folder / CONFIG), *arguments])
        for name in vars(saved).keys() - {"epochs", "device", "root", "num_samples", "config", "out", "resume"}:
            if saved[name] != options[name]:
                raise ValueError(f"--{name} differs from that of the run in '{folder}': a run goes on as it began")
    elif (folder / CHECKPOINT).exists():
        raise ValueError(f"'{folder}' keeps a run already: give --resume to go on with it, or another --out")
    for name in ("config", "out", "resume"):
        options.pop(name)
    return options, folder, resume


def _folder(options: Namespace) -> Path:
    if options.out is not None:
        return Path(options.out)
    name = Path(options.data).stem
    taken, new = None, Path("runs") / name
    for number in itertools.count(2):
        if not (new / CHECKPOINT).exists():
            return taken if options.resume and taken else new
        taken, new = new, Path("runs") / f"{name}-{number}"
    raise AssertionError


def _for(function: Callable, arguments: dict) -> dict:
    """Of the arguments those that a function takes."""
    return {name: value for name, value in arguments.items() if name in inspect.signature(function).parameters}


_KINDS = {"int": "whole number", "float": "number", "Sequence": "list such as [128, 128]"}


def _one_line(message: str) -> str:
    """What jsonargparse says over many lines, as one sentence."""
    keys = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    option = f"--{keys}: " if keys else ""
    if name := re.findall(r"(?:^|: |\n  )Expected a dot import path string: (\S+)", message):
        return f"{option}no class is called '{name[-1].rstrip('.')}': give a name that --help lists, or an import path"
    if found := re.findall(r"Expected '(\S+)' to be a subclass of <class '(\w+)'>", message):
        return f"{option}{found[-1][0]} is no {found[-1][1]}"
    if found := re.findall(r"No module named '\S+'", message):
        return f"{option}{found[-1]}"
    causes = [cause for cause in re.findall(r"^ *- (.*)", message, re.MULTILINE) if "NoneType" not in cause]
    cause = causes[0] if causes else message
    value = re.findall(r"(?:Got|Given) value: (.*)", message)
    if value and (kind := re.search(r"Expected a (?:<class '(?:[\w.]+\.)?(\w+)'>|typing\.Literal\[(.*)\])", cause)):
        kind = f"one of {kind[2]}" if kind[2] else f"a {_KINDS.get(kind[1], kind[1])}"
        return f"{option}'{value[-1].strip()}' is not {kind}"
    return option + " ".join(re.sub(r'Parser key "[^"]+":?', "", cause).split())


def command(main: Callable[[], None]) -> None:
    """Run a script's main function; end a user's mistake with one line and exit code 2."""
    try:
        main()
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        sys.stderr.write(f"error: {_one_line(str(error))}\n")
        sys.exit(2)


def summary(metrics: dict) -> str:
    """The main numbers in a line each."""
    return "\n".join(
        [
            f"test ELBO     {metrics['elbo']:9.3f} nats (Monte Carlo error {metrics['elbo_std_error']:.3f})",
            f"  reconstruction {metrics['reconstruction']:6.3f}, KL {metrics['kl']:.3f}",
            f"test log p(x) {metrics['log_likelihood']:9.3f} nats (Monte Carlo error "
            f"{metrics['log_likelihood_std_error']:.3f}, K = {metrics['num_samples']})",
            f"active units  {metrics['active_units']:5d}",
            f"trained {metrics['epochs']} epochs in {metrics['seconds']:.1f} s",
        ]
    )
