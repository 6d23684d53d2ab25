"""Semi-supervised learning: the accuracy of M2 against how many labels there are, its classes enumerated or sampled."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyrovae import blueprints, encoders, gradients, likelihoods, networks, objectives, priors
from pyrovae.columns import split
from pyrovae.data import Dataset
from pyrovae.m2 import M2
from pyrovae.rng import isolated
from pyrovae.training import fit
from pyrovae.vae import VAE

__all__ = ["METHODS", "Codes", "accuracies", "codes", "model"]

_ADAM = partial(torch.optim.Adam, lr=2e-3)

METHODS = {  # how classes that are not known are dealt with
    "enumerated": lambda: objectives.ELBO(gradient=gradients.Enumerate()),
    "sampled, 5 draws": lambda: objectives.ELBO(num_particles=5, gradient=gradients.ScoreFunction()),
    "labelled data alone": lambda: objectives.ELBO(gradient=gradients.Enumerate()),
}


class Codes(NamedTuple):
    """z of a fitted VAE, M1, in place of data."""

    m1: VAE

    @torch.no_grad()
    def __call__(self, x: Tensor, drawn: bool) -> Tensor:
        """Draws or means of q(z | x), `(N, D)`, for data `(N, *event)`; of a datum that comes twice, two draws."""
        like = next(self.m1.parameters())
        x = x.as_subclass(Tensor)  # grey values, where these stand for their draws
        found = [self.m1.encode(part.to(like)) for (part,) in split(x, 1000)]
        return torch.cat([q.sample() if drawn else q.mean for q in found]).to(x.device)


def codes(
    dataset: Dataset,
    latent_dim: int = 50,
    beta: float = 0.2,
    epochs: int = 10,
    seed: int = 0,
    device: str = "cpu",
    compile: bool = False,
) -> Codes:
    """The codes of a VAE, M1, fitted to the data: M2 of them is M1 + M2.

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
        >>> digits = data.load("digits", binarize="dynamic")
        >>> codes(digits, latent_dim=8, epochs=2)(digits.test, drawn=True).shape
        torch.Size([300, 8])
    """
    shape = dataset.protocol.shape
    with isolated(seed, "M1"):
        decoder, encoder = networks.MLP(latent_dim, shape, (300, 300)), networks.MLP(shape, 2 * latent_dim, (300, 300))
        m1 = VAE(priors.StandardNormal(latent_dim), likelihoods.Bernoulli(decoder), encoders.DiagonalNormal(encoder))
        m1.to(device)
    options = {"objective": objectives.ELBO(beta=beta), "optimizer": _ADAM, "compile": compile}
    fit(m1, dataset.train, epochs=epochs, batch_size=200, seed=seed, progress=False, **options)
    return Codes(m1)


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
    of: Codes | None = None,
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
        of: codes in place of the data.
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
            test = dataset.test
            if of is not None:
                with isolated(seed, "codes"):
                    x, test = of(x, drawn=True), of(test, drawn=False)
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
                found = m2.own_numbers(test.to(device), labels=dataset.labels.test)
                yield {
                    "labelled": count,
                    "method": method,
                    "seed": seed,
                    **found,
                    "seconds": sum(history["seconds"]),
                }
