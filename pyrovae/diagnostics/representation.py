"""Representations: what can be read off the latent means, with labels or with known factors of variation."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.evaluation import encoded, evaluating, moments
from pyrovae.rng import isolated
from pyrovae.vae import VAE

__all__ = ["Accuracy", "Disentanglement", "classification", "disentanglement", "latent_means"]


class Accuracy(NamedTuple):
    """Share of test data whose label is told right."""

    linear_probe: float  # by logistic regression on the latent means
    nearest_neighbours: float  # by the majority of the nearest latent means
    most_frequent: float  # by always telling the training data's most frequent label: what chance gives
    std_error: float  # of the largest of these, as a share of so many test data


class Disentanglement(NamedTuple):
    """Whether each factor of variation is told by one latent dimension, and by no other, from 0 to 1."""

    mig: float  # mutual information gap, the mean over factors
    sap: float  # separated attribute predictability, the mean over factors
    information: Tensor  # I(z_d; v_k) / H(v_k), `(D, F)`
    accuracy: Tensor  # with which thresholds on z_d alone tell v_k, the mean over its values, `(D, F)`


def latent_means(vae: VAE, x: Tensor, batch_size: int = 1000) -> Tensor:
    """E_q[z | x], `(N, D)`, on the CPU.

    Args:
        vae: the model.
        x: data, `(N, *event)`.
        batch_size: data at a time.
    """
    vae.check(x)
    with evaluating(vae), isolated(0):  # an encoder may draw
        return torch.cat([moments(q)[0].cpu() for q in encoded(vae, x, batch_size)])


def classification(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], neighbours: int = 5, seed: int = 0
) -> Accuracy:
    """Accuracy on test data of a linear probe and of the k nearest neighbours, fitted to latent means of training data.

    Means are standardized first. The probe is a logistic regression with the penalty that scikit-learn has by default.

    Args:
        train: latent means `(N, D)` and labels `(N,)`.
        test: the same of other data.
        neighbours: k.
        seed: of the solver.

    Raises:
        ValueError: if the training data have one label only.

    References:
        Alain and Bengio (2017), Understanding intermediate layers using linear classifier probes,
        https://arxiv.org/abs/1610.01644

    Example:
        >>> means = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
        >>> classification((means, means[:, 0] > 0), (means, means[:, 0] > 0)).linear_probe
        1.0
    """
    from sklearn.linear_model import LogisticRegression  # which takes a second
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (x_test, y_test) = ([t.cpu().numpy() for t in pair] for pair in (train, test))
    values, counts = np.unique(y, return_counts=True)
    if len(values) < 2:
        raise ValueError(f"all {len(y)} training data have the label {values[0]}: there is nothing to tell apart")
    probes = LogisticRegression(max_iter=1000, random_state=seed), KNeighborsClassifier(min(neighbours, len(x)))
    found = [make_pipeline(StandardScaler(), probe).fit(x, y).score(x_test, y_test) for probe in probes]
    found.append(float((y_test == values[counts.argmax()]).mean()))
    return Accuracy(*found, std_error=math.sqrt(max(found) * (1 - max(found)) / len(y_test)))


def disentanglement(means: Tensor, factors: Tensor, bins: int = 20) -> Disentanglement:
    """MIG = 1/F sum_k (I(z_a; v_k) - I(z_b; v_k)) / H(v_k), a and b the two z_d that tell most of v_k; and SAP alike.

    Means, and factors in floating point, are divided into bins of equal width for the information, as usual; a
    dimension that never moves has none.
    SAP has in place of information the accuracy of thresholds on z_d, one fewer than v_k has values.

    Args:
        means: latent means, `(N, D)`, D at least 2.
        factors: values v of the F factors, `(N, F)`, each from a finite set unless they are in floating point.
        bins: of each dimension.

    Raises:
        ValueError: if there are fewer than two dimensions, or a factor never varies.

    References:
        Chen et al. (2018), Isolating sources of disentanglement in variational autoencoders,
        https://arxiv.org/abs/1802.04942
        Kumar et al. (2018), Variational inference of disentangled latent concepts, https://arxiv.org/abs/1711.00848
        Locatello et al. (2019), Challenging common assumptions in the unsupervised learning of disentangled
        representations, https://arxiv.org/abs/1811.12359

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(5))
        >>> disentanglement(factors.float(), factors).mig
        1.0
    """
    from sklearn.metrics import balanced_accuracy_score, mutual_info_score  # which takes a second
    from sklearn.tree import DecisionTreeClassifier

    z, v = means.detach().double().cpu().numpy(), factors.cpu().numpy()
    if z.shape[1] < 2:
        raise ValueError("a gap between dimensions needs at least two of them: the latent variable has one")
    for k, column in enumerate(v.T):
        if (column == column[0]).all():
            raise ValueError(f"factor {k} never varies in these data: leave it out")
    binned, of_factors = (
        np.stack([np.digitize(d, np.histogram_bin_edges(d, bins)[1:-1]) for d in t.T]) for t in (z, v)
    )
    v = of_factors.T if factors.is_floating_point() else v
    information, accuracy = np.zeros((2, z.shape[1], v.shape[1]))
    for k, column in enumerate(v.T):
        entropy, values = mutual_info_score(column, column), len(np.unique(column))
        for d in range(z.shape[1]):
            information[d, k] = mutual_info_score(column, binned[d]) / entropy
            thresholds = DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0)
            accuracy[d, k] = balanced_accuracy_score(column, thresholds.fit(z[:, [d]], column).predict(z[:, [d]]))
    gaps = [float(-np.diff(np.sort(table, axis=0)[::-1][:2], axis=0).mean()) for table in (information, accuracy)]
    return Disentanglement(*gaps, torch.from_numpy(information), torch.from_numpy(accuracy))
