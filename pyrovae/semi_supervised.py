"""Semi-supervised learning: the accuracy of M2 against how many labels there are, its classes enumerated or sampled."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae import blueprints, encoders, gradients, likelihoods, networks, objectives, priors
from pyrovae.columns import split
from pyrovae.data import Dataset
from pyrovae.m2 import M2
from pyrovae.rng import isolated
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = ["METHODS", "accuracies", "features", "model"]

_ADAM = partial(torch.optim.Adam, lr=2e-3)

METHODS = {  # how classes that are not known are dealt with
    "enumerated": lambda: objectives.ELBO(gradient=gradients.Enumerate()),
    "sampled, 5 draws": lambda: objectives.ELBO(num_particles=5, gradient=gradients.ScoreFunction()),
    "labelled data alone": lambda: objectives.ELBO(gradient=gradients.Enumerate()),
}


def features(
    dataset: Dataset,
    latent_dim: int = 50,
    beta: float = 0.2,
    epochs: int = 10,
    seed: int = 0,
    device: str = "cpu",
    compile: bool = False,
) -> Dataset:
    """Data in place of which stand z of a VAE, M1, fitted to them: draws of q(z | x) to train on, its means to test.

    With the KL's weight beta below 1 codes keep the clusters that p(z) = N(0, I) would press together.

    Args:
        dataset: of binary images.
        latent_dim: D, of M1.
        beta: weight of the KL in fitting it.
        epochs: of fitting it.
        seed: of all that is random.
        device: where.
        compile: whether to compile steps.

    References:
        Kingma et al. (2014), Semi-supervised learning with deep generative models, https://arxiv.org/abs/1406.5298

    Example:
        >>> from pyrovae import data
        >>> features(data.load("digits", binarize="dynamic"), latent_dim=8, epochs=2).train.shape
        torch.Size([1347, 8])
    """
    shape = dataset.protocol.shape
    with isolated(seed, "M1"):
        decoder, encoder = networks.MLP(latent_dim, shape, (300, 300)), networks.MLP(shape, 2 * latent_dim, (300, 300))
        m1 = VAE(priors.StandardNormal(latent_dim), likelihoods.Bernoulli(decoder), encoders.DiagonalNormal(encoder))
        m1.to(device)
    options = {
        "objective": objectives.ELBO(beta=beta),
        "optimizer": _ADAM,
        "compile": compile,
    }
    fit(m1, dataset.train, epochs=epochs, batch_size=200, seed=seed, progress=False, **options)

    @torch.no_grad()
    def coded(x: Tensor, of: Callable) -> Tensor:
        x = x.as_subclass(Tensor)  # grey values, where these stand for their draws
        return torch.cat([of(m1.encode(part.to(device))).cpu() for (part,) in split(x, 1000)])

    with isolated(seed, "features"):
        train = coded(dataset.train, lambda q: q.sample())
    valid, test = (coded(x, lambda q: q.mean) for x in (dataset.valid, dataset.test))
    return replace(dataset, train=train, valid=valid, test=test)


def model(shape: Sequence[int], classes: int, binary: bool) -> M2:
    """M2 of data of a shape, `(D,)` or that of images, with a classifier that leaves out half of its units."""
    join = networks.Join(tuple(shape), classes)
    decoder = networks.MLP(10 + classes, tuple(shape), (200,))
    return M2(
        priors.StandardNormal(10),
        likelihoods.Bernoulli(decoder) if binary else likelihoods.Normal(decoder, 1.0),
        encoders.DiagonalNormal(networks.MLP(join.out_shape, 20, (200,))),
        networks.MLP(tuple(shape), classes, (200,), dropout=0.5),
        alpha=0.5,
    )


def accuracies(
    dataset: Dataset,
    labelled: Sequence[int],
    make: Callable[[], nn.Module],
    epochs: int = 40,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    compile: bool = False,
) -> Iterator[dict[str, Any]]:
    """Shares of test data whose class is told rightly, by how many training data it is known of.

    Args:
        dataset: with labels.
        labelled: how many labels there are, each a multiple of the number of classes.
        make: makes an M2 that is not trained.
        epochs: of each training, as many steps for labelled data alone.
        seeds: of the choice of labels and all else that is random.
        device: where it is trained.
        compile: whether to compile steps.

    Returns:
        Rows with `labelled`, `method`, `seed`, `accuracy` and `seconds`, one after the other.

    Example:
        >>> from pyrovae import data
        >>> digits = data.load("digits", binarize="dynamic")
        >>> rows = accuracies(digits, [50], lambda: model((1, 8, 8), 10, binary=True), epochs=2)
        >>> [row["method"] for row in rows]
        ['enumerated', 'sampled, 5 draws', 'labelled data alone']
    """
    for seed in seeds:
        for count in labelled:
            x, y = blueprints.M2(labelled=count, share=0.3, label_seed=seed).data(dataset).train
            for method, objective in METHODS.items():
                with isolated(seed, "M2"):
                    m2 = make().to(device)
                kept = y >= 0 if method == "labelled data alone" else slice(None)
                passes = epochs * len(y) // len(y[kept])
                options = {
                    "objective": objective(),
                    "optimizer": _ADAM,
                    "compile": compile,
                }
                history = fit(
                    m2, (x[kept], y[kept]), epochs=passes, batch_size=200, seed=seed, progress=False, **options
                )
                found = m2.own_numbers(dataset.test.to(device), labels=dataset.labels.test)
                yield {
                    "labelled": count,
                    "method": method,
                    "seed": seed,
                    **found,
                    "seconds": sum(history["seconds"]),
                }
