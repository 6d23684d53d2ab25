"""EM beside fitting guide and model at once, where log p(x) is known: `python scripts/em.py --help`.

Probabilistic PCA and a Gaussian mixture are fitted to draws of such a model from one start by exact EM, by variational
EM with several numbers of steps in a round, and by `fit` on all data at a time. What each lacks of the maximum of
log p(x) is drawn over steps and seconds, kept as `em.csv`, and told in a table.
"""

from functools import partial
from pathlib import Path

import pandas as pd
from jsonargparse import Namespace

from pyrovae import em_plots, exact, gradients, objectives, options
from pyrovae.em_study import em_study, summary
from pyrovae.files import whole

PCA = partial(exact.LinearGaussian, latent_dim=1, data_dim=6)
MIXTURE = partial(exact.GaussianMixture, components=3, data_dim=2, spread=2.5)
STUDIES = {  # the model that the data are drawn from, where all start, and what is climbed
    "Probabilistic PCA": (partial(PCA, scale=0.7), partial(PCA, seed=3), objectives.ELBO),
    "Gaussian mixture": (
        partial(MIXTURE, seed=2),
        partial(MIXTURE, scale=2.0, seed=6),
        lambda: objectives.ELBO(num_particles=1, gradient=gradients.Enumerate()),
    ),
}


def parse(arguments: list[str] | None = None) -> Namespace:
    """The options of a command line, by default the process's own.

    Raises:
        ValueError: if the folder keeps a comparison already.
    """
    parser = options.Parser(description=__doc__)
    parser.add_argument("--num_data", type=int, default=300, help="drawn of each model")
    parser.add_argument("--steps", type=int, default=1000, help="of each method")
    parser.add_argument(
        "--rounds",
        type=list[tuple[int, int]],
        default=[(1, 1), (20, 20), (20, 5), (5, 20)],
        help="E- and M-steps in a round of variational EM, as [[1,1],[20,20]]",
    )
    parser.add_argument("--learning_rate", type=float, default=0.03, help="Adam's")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of z")
    parser.add_argument("--out", type=str, default="runs/em", help="folder of the comparison")
    chosen = parser.parse_args(arguments)
    if (Path(chosen.out) / "em.csv").exists():
        raise ValueError(f"'{chosen.out}' keeps a comparison already: give another folder by --out")
    return chosen


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    chosen = parse(arguments)
    rows, table = [], []
    for name, (truth, start, objective) in STUDIES.items():
        x = truth().sample(chosen.num_data, seed=1)
        found = em_study(start, x, objective, chosen.steps, chosen.rounds, chosen.learning_rate, chosen.seed)
        rows += [{"model": name, **row} for row in found]
        table += [{"model": name, **row} for row in summary(found)]
    figures = Path(chosen.out) / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    with whole(figures / "em.png") as path:
        em_plots.excess(rows).savefig(path)
    with whole(figures.parent / "em.csv") as path:
        pd.DataFrame(rows).to_csv(path, index=False)
    print(pd.DataFrame(table).to_markdown(index=False, floatfmt=".3g"))
    print(f"kept in {chosen.out}")


if __name__ == "__main__":
    options.command(main, "the same command begins anew")
