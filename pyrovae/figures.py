"""Figures of a fitted model: what is computed for them; `plotting` draws it."""

from collections.abc import Iterator
from functools import singledispatch

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from pyrovae import family_plots, plotting
from pyrovae.application_plots.imputation import hidden, tinted
from pyrovae.applications import latent_map
from pyrovae.columns import columns, moved
from pyrovae.conditions import OneHot, Quadrants
from pyrovae.data import Dataset
from pyrovae.evaluation import kl_per_layer, moments
from pyrovae.layers import Layers
from pyrovae.model import Model
from pyrovae.models import (
    M2,
    VAE,
    VQVAE,
    AdversarialAutoencoder,
    AdversarialVB,
    Autoencoder,
    ConditionalVAE,
    DeepMarkovModel,
    IncompleteVAE,
    MixtureVAE,
    TwoLevelVAE,
)
from pyrovae.networks.codebook import perplexity
from pyrovae.priors.codes import UniformCodes
from pyrovae.rng import isolated
from pyrovae.supports import describe
from pyrovae.training import History

__all__ = ["draw", "own"]


Named = Iterator[tuple[str, Figure]]


@torch.no_grad()
def draw(vae: Model, dataset: Dataset, history: History, tsne: bool = False, seed: int = 0) -> Named:
    """The figures of a fit by name: training curves, latent means, reconstructions, and those that are the model's own.

    Args:
        vae: the fitted model.
        dataset: the data it was fitted to, of which the test part is shown.
        history: of the fit.
        tsne: whether to draw the latent means by t-SNE too.
        seed: of what is drawn at random.
    """
    data = moved(columns(dataset.test), next(vae.parameters()))
    labels = dataset.labels.test if dataset.labels else None
    with isolated(seed):
        if history:
            yield "training_curves", plotting.training_curves(history)
        if hasattr(vae, "encode"):
            yield from _latent_means(vae, [t[:5000] for t in data], labels, tsne, seed)
        if len(shape := dataset.protocol.shape) != 3 or shape[0] not in (1, 3):
            return  # what follows shows images
        if hasattr(vae, "reconstruct") and tuple(data[0].shape[1:]) == tuple(shape):
            some = [t[:12] for t in data]
            pictures = (vae.reconstruct(*some, kind=kind) for kind in ("mean", "sample"))
            yield "reconstructions", plotting.reconstructions(some[0], *pictures)
        yield from own(vae, data, labels, seed)


def _latent_means(vae: Model, data: list[Tensor], labels: Tensor | None, tsne: bool, seed: int) -> Named:
    means, deviations = (t.cpu() for t in moments(vae.encode(*data)))
    labels = None if labels is None else labels[: len(means)]
    points, names = latent_map.plane(means, deviations)
    yield "latent_means", plotting.latent_means(points, labels, names)
    if tsne:
        yield "latent_means_tsne", plotting.latent_means(latent_map.tsne(means, seed), labels, ("t-SNE 1", "t-SNE 2"))


@singledispatch
def own(vae: Model, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    """What a model shows beside: draws of it, and what there is of its kind alone.

    Args:
        vae: the fitted model, of images.
        data: the test data, as the programs take them.
        labels: their classes, where there are any.
        seed: of what is drawn at random.
    """
    yield "samples", _samples(vae, seed)


def _samples(vae: Model, seed: int) -> Figure:
    """36 draws, the same z for mean and sample."""
    pictures = []
    for kind in ("mean", "sample"):
        with isolated(seed, "samples"):
            pictures.append(vae.sample(36, kind).unflatten(0, (6, 6)))
    return plotting.samples(*pictures)


@own.register
def _(vae: VAE, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    prior = vae.prior()
    if tuple(prior.event_shape) == (2,) and describe(prior.support) == "R^D":
        means = moments(vae.encode(data[0][:5000]))[0].cpu()
        grid, quantiles = latent_map.quantile_grid(vae, torch.linspace(0.02, 0.98, 15))
        images = vae.likelihood(grid).mean
        yield "decoded_grid", plotting.decoded_grid(images, quantiles)
        path = latent_map.path(means, None if labels is None else labels[: len(means)], quantiles)
        decoded = vae.likelihood(path.to(data[0])).mean
        yield "decoded_path", plotting.decoded_grid(images, quantiles, path, decoded)


@own.register
def _(vae: Autoencoder, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    x = data[0]
    codes = vae.encode(x[:5000]).mean
    corrupted = vae.corruption.train()(x[:12])
    vae.corruption.eval()
    rows = {"data x": x[:12], "what f sees in training": corrupted, "mean of p(x | f(x))": vae.reconstruct(x[:12])}
    rows["of what is corrupted"] = vae.reconstruct(corrupted)
    if isinstance(vae.corruption, nn.Identity):
        rows = {name: row for name, row in rows.items() if "data" in name or "f(x)" in name}
    pairs = min(3, len(codes) // 2)
    for number, (start, end) in enumerate(zip(codes[:pairs], codes[pairs : 2 * pairs], strict=True), 1):
        path = torch.lerp(start, end, torch.linspace(0, 1, 12).to(x).unsqueeze(1))
        rows[f"from datum {number} to {number + pairs}"] = vae.likelihood(path).mean
    # There is no p(z); the normal that is nearest to the codes shows what lies between them.
    scale = torch.linalg.cholesky(codes.T.cov() + 1e-6 * torch.eye(codes.shape[1]).to(codes))
    z = codes.mean(0) + torch.randn(24, codes.shape[1]).to(codes) @ scale.T
    rows["of a normal"], rows["fitted to codes"] = vae.likelihood(z).mean.split(12)
    yield "codes", family_plots.montage(rows, "An autoencoder: data, paths between codes, draws near them")


@own.register
def _(vae: AdversarialVB, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    x = data[0]
    shown = x[_one_of_each(labels, len(x))]
    z, behind = vae.encode(shown).sample((500,)), vae.prior().sample((2000,))
    names, behind, z = _projected(vae.encode(x[:1000]).sample((10,)), behind, z)
    yield "posteriors", family_plots.posteriors(shown, z, behind, names)


@own.register
def _(vae: AdversarialAutoencoder, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    z = vae.encode(data[0][:5000]).sample()
    names, behind, codes = _projected(z, vae.prior().sample((5000,)), z)
    kinds = [] if labels is None else labels[: len(z)].unique().tolist()
    groups = {f"{c}": codes[labels[: len(z)] == c] for c in kinds[:20]} or {"codes": codes}
    yield "codes", family_plots.clouds(groups, behind, names, "Codes z ~ q(z | x) of the test data, on draws of p(z)")


@own.register
def _(vae: Layers, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    yield "kl_per_layer", _kl_per_layer(vae, data, seed)
    x = data[0][:12]
    rows = {"data x": x} | {f"from {name} down": vae.reconstruct(x, layer=n) for n, name in enumerate(vae.latents, 1)}
    yield "layers", family_plots.montage(rows, "A layer as q(z | x) has it, those below as the model draws them")


@own.register
def _(vae: DeepMarkovModel, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    kl = kl_per_layer(vae, data[0][:1000], seed=seed)
    of_steps = {name[1:]: step.mean().item() for name, step in kl.items()}
    yield "kl_per_step", family_plots.bars(of_steps, "KL (nats)", "What each step's z tells of x, by t")
    x, total = data[0][:12], data[0].shape[-2]
    rows, lines = {"data x": x, "mean of p(x | z)": vae.reconstruct(x)}, {}
    for known in sorted({max(total * share // 4, 1) for share in (1, 2, 3)} - {total}):
        for number in (1, 2):
            name, seen = f"first {known} rows, {number}", x[..., :known, :]
            rows[name] = torch.cat([seen, vae.forecast(seen, total - known, "mean")], -2)
            lines[name] = known
    title = "Given are the rows above the line; those below are forecast, two draws of z each"
    yield "forecasts", family_plots.montage(rows, title, lines)


@own.register
def _(vae: MixtureVAE, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    x = data[0][:5000]
    clusters = vae.cluster(x)  # (N, C)
    shown = clusters.mean(0).topk(min(12, clusters.shape[1])).indices
    rows = {}
    for c in shown.tolist():
        mean = vae.likelihood(vae.component(torch.tensor(c, device=x.device)).mean).mean
        rows[f"{clusters[:, c].mean():.0%}"] = torch.cat([mean[None], x[clusters[:, c].topk(min(11, len(x))).indices]])
    title = "Components by weight: the decoded mean, and the test data most surely of it"
    yield "clusters", family_plots.montage(rows, title)


@own.register
def _(vae: VQVAE, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    x, book = data[0][:12], vae.codebook
    rows = {"data x": x, "codes c of x": _code_maps(vae, x), "mean of p(x | e_c)": vae.reconstruct(x)}
    priors = {"uniform p(c)": UniformCodes(book.positions, book.codes).to(x), "learned p(c)": vae.prior}
    for name, prior in priors.items():
        if name == "uniform p(c)" or not isinstance(vae.prior, UniformCodes):
            c = prior().sample((12,))
            rows[f"c by {name}"] = vae.likelihood(book.look_up(c)).mean
    rows = {name: row if row.shape[1] == 3 else (1 - row).expand(-1, 3, -1, -1) for name, row in rows.items()}
    title = "Codes, of like colours where their vectors are alike, and what is decoded from codes"
    yield "codes", family_plots.montage(rows, title)
    counts = sum(vae.usage(part) for part in data[0].split(1000))
    title = f"Use of {book.codes} codes for the test data: perplexity {perplexity(counts):.1f}"
    yield "code_usage", family_plots.usage(counts, title)


def _code_maps(vae: VQVAE, x: Tensor) -> Tensor:
    """The code at each position as a colour, the nearer the vectors on their first principal component the nearer."""
    vectors = vae.codebook.vectors.detach()
    first = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False).Vh[0]
    place = (vectors @ first).argsort().argsort()  # of each code in that order
    colours = torch.tensor(colormaps["turbo"](torch.linspace(0, 1, vae.codebook.codes).numpy())[:, :3]).to(x)
    c = place[vae.codes(x)].reshape(len(x), *vae.codebook.positions)
    c = c.flatten(1)[:, None] if c.dim() != 3 else c  # a row, where codes have no grid
    return nn.functional.interpolate(colours[c].movedim(-1, 1), x.shape[2:], mode="nearest")


@own.register
def _(vae: TwoLevelVAE, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    yield "kl_per_layer", _kl_per_layer(vae, data, seed)
    x = data[0][:12]
    rows = {"data x": x, "z2 and z1 of q(z | x)": vae.reconstruct(x), "z2 alone": vae.reconstruct(x, layer=2)}
    yield "layers", family_plots.montage(rows, "What each level keeps of x")


@own.register
def _(vae: ConditionalVAE, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    if isinstance(vae.condition, Quadrants):
        x, y = (t[:12] for t in data)
        merge = vae.condition.merge
        rows = {"data": merge(x, y), "given": merge(torch.full_like(x, 0.5), y)}
        rows |= {f"filled in {n}": merge(vae.sample(len(x), "mean", y), y) for n in range(1, 6)}
        rows["a sample"] = merge(vae.sample(len(x), "sample", y), y)
        yield "completions", family_plots.montage(rows, "What may be hidden: p(x | z, y), z ~ p(z | y)")
    elif isinstance(vae.condition, OneHot):
        classes = vae.condition.out_shape[0]
        yield "classes", _classes(vae, classes, data[0])


@own.register
def _(vae: IncompleteVAE, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "samples", _samples(vae, seed)
    x, observed = (t[:12] for t in data)
    rows = {"observed": hidden(x, observed)}
    for kind in ("mean", "sample"):
        rows[f"{kind} of p(x | z)"] = tinted(vae.complete(x, observed, kind), observed)
    title = "What is missing (orange) is filled in (blue), z ~ q(z | x_obs)"
    yield "completions", family_plots.montage(rows, title)


@own.register
def _(vae: M2, data: tuple[Tensor, ...], labels: Tensor | None, seed: int) -> Named:
    yield "classes", _classes(vae, vae.classes, data[0])


def _classes(vae: ConditionalVAE | M2, classes: int, x: Tensor) -> Figure:
    """A class a row; a seed, and with it z where p(z) is the same for all classes, a column."""
    rows = {}
    for y in range(min(classes, 12)):
        with isolated(0):
            rows[f"y = {y}"] = vae.sample(12, "mean", y=torch.full((12,), y, device=x.device))
    return family_plots.montage(rows, "Means of p(x | z, y), a z a column")


def _kl_per_layer(vae: Model, data: tuple[Tensor, ...], seed: int) -> Figure:
    layers = kl_per_layer(vae, tuple(t[:1000] for t in data), seed=seed)
    kl = {name: layer.mean().item() for name, layer in sorted(layers.items())}
    return family_plots.bars(kl, "KL (nats)", "What each layer tells of x")


def _one_of_each(labels: Tensor | None, n: int) -> Tensor:
    """Indices of six data of n, of as many classes as there are."""
    if labels is None:
        return torch.arange(min(6, n))
    return torch.stack([(labels == c).nonzero()[0, 0] for c in labels.unique()[:6]])


def _projected(z: Tensor, *others: Tensor) -> tuple[tuple[str, str], *tuple[Tensor, ...]]:
    """Names of two axes, the first principal components of z `(..., D)`, and other z along them, `(..., 2)`."""
    if z.shape[-1] == 1:
        return ("$z_1$", ""), *(torch.cat([t, torch.zeros_like(t)], -1) for t in others)
    if z.shape[-1] == 2:
        return ("$z_1$", "$z_2$"), *others
    z = z.flatten(0, -2)
    _, _, axes = torch.linalg.svd(z - z.mean(0), full_matrices=False)
    return ("first component of z", "second"), *(t @ axes[:2].T for t in others)
