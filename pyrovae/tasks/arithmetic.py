"""Arithmetic: data of one class with what makes another added to their codes."""

from functools import partial

import numpy as np
import torch

from pyrovae import family_plots
from pyrovae.applications.arithmetic import attribute_vector, share
from pyrovae.applications.decoding import decoded
from pyrovae.diagnostics import latent_means
from pyrovae.one_vector import require_real_vector
from pyrovae.runs import Run
from pyrovae.tasks.some import are_images, some
from pyrovae.tasks.task import Result

__all__ = ["arithmetic"]

_MOST = 5000  # training data, for the vector and the classifier


def arithmetic(run: Run, minus: int | None = None, plus: int | None = None, seed: int = 0) -> Result:
    """Add the vector from the mean code of one class to that of another, to codes of test data of the first.

    A classifier, a logistic regression on training data, says how often the decoded means are of the class they should
    be.

    Args:
        run: the run.
        minus: class of the data that are moved; unless given, 3, or the first where there are no 3 and 0.
        plus: class that they are moved towards; unless given, 0, or the second.
        seed: of the choice of training data.
    """
    from sklearn.linear_model import LogisticRegression  # which takes a second

    vae, x = run.vae, run.dataset.test
    require_real_vector(vae, x, "arithmetic")
    if run.dataset.labels is None:
        raise ValueError("arithmetic is between classes, and the data have no labels: save them with an array y")
    train, y = some(_MOST, seed, run.dataset.train, run.dataset.labels.train)
    kinds = run.dataset.labels.test.unique().tolist()
    first, second = (3, 0) if {3, 0} <= {*kinds} else (kinds * 2)[:2]
    minus, plus = (first if minus is None else minus), (second if plus is None else plus)
    vector = attribute_vector(latent_means(vae, train), y, minus, plus)
    moved = run.dataset.labels.test == minus
    if minus == plus or not moved.any():
        raise ValueError(f"test data of one class are moved to another, not {int(moved.sum())} from {minus} to {plus}")
    z = latent_means(vae, x[moved])
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    means = decoded(vae, z + t[:, None, None] * vector)  # (T, N, *event)

    classifier = LogisticRegression(max_iter=1000).fit(train.flatten(1).numpy(), y.numpy())
    said = torch.from_numpy(classifier.predict(means.flatten(0, 1).flatten(1).numpy())).unflatten(0, means.shape[:2])
    shares = [share(row == plus) for row in said]
    numbers = {"minus": minus, "plus": plus, "moved": len(z), "vector": vector.tolist(), "t": t.tolist()}
    numbers["accuracy"] = float(classifier.score(x.flatten(1).numpy(), run.dataset.labels.test.numpy()))
    for name, row in (("unmoved", 0), ("moved", 4)):
        names = (f"share_{name}", f"share_{name}_low", f"share_{name}_high")
        numbers |= dict(zip(names, shares[row], strict=True))
    numbers["shares"] = [found.value for found in shares]
    summary = (
        f"{len(z)} test data of class {minus}, moved by the vector from {minus} to {plus}: the classifier (right of "
        f"{numbers['accuracy']:.1%} of test data) calls {shares[4].value:.1%} of the means {plus} (95 % interval "
        f"{shares[4].low:.1%} to {shares[4].high:.1%}), and unmoved {shares[0].value:.1%} ({shares[0].low:.1%} to "
        f"{shares[0].high:.1%})"
    )
    files = {"arithmetic.npz": partial(np.savez, z=z.numpy(), vector=vector.numpy(), t=t.numpy(), means=means.numpy())}
    if are_images(x):
        rows = {"data x": x[moved][:12]}
        for amount, row, found in zip(t.tolist(), means, shares, strict=True):
            rows[f"t = {amount:g}: {found.value:.0%}"] = row[:12]
        title = f"Means of p(x | z + t v), v the vector from {minus} to {plus}"
        below = f"%: how many of {len(z)} a classifier calls {plus}"
        files["arithmetic.png"] = family_plots.montage(rows, title, below=below).savefig
    return Result(numbers, summary, files)
