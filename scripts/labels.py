"""Accuracy of the semi-supervised M2 against how many labels there are: `python scripts/labels.py --help`.

Classes that are not known are summed over (enumerated), or sampled; beside them, what labelled data tell alone. With
`--features` M2 is of the codes of a VAE, M1, in place of images: M1 + M2. Kept as `labels.csv` and a figure.
"""

from pathlib import Path

import pandas as pd

from pyrovae import data, family_plots, options, semi_supervised
from pyrovae.files import whole


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("--data", type=str, default="digits", help="a data set with labels, as of scripts/train.py")
    parser.add_argument("--root", type=str, default="data", help="folder that holds the named data sets")
    parser.add_argument(
        "--labelled", type=list[int], default=[10, 20, 50, 100, 200], help="how many labels, as [10,100]"
    )
    parser.add_argument("--features", action="store_true", help="whether M2 is of the codes of a VAE")
    parser.add_argument("--epochs", type=int, default=40, help="of each M2")
    parser.add_argument("--m1_epochs", type=int, default=10, help="of the VAE")
    parser.add_argument("--seeds", type=list[int], default=[0], help="of the choice of labels and all else, as [0,1]")
    parser.add_argument("--device", type=str, default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="whether to compile steps")
    parser.add_argument("--out", type=str, default="runs/labels", help="folder of the numbers and the figure")
    chosen = parser.parse_args(arguments)
    folder = Path(chosen.out)
    if (folder / "labels.csv").exists():
        raise ValueError(f"'{folder}' keeps such numbers already: give another folder by --out")
    dataset = data.load(chosen.data, "dynamic", chosen.root)
    if dataset.labels is None:
        raise ValueError(f"{chosen.data} has no labels: give data that have")
    of = None
    if chosen.features:
        options_of_m1 = {"epochs": chosen.m1_epochs, "device": chosen.device, "compile": chosen.compile}
        of = semi_supervised.codes(dataset, **options_of_m1)
    classes = int(dataset.labels.train.max()) + 1
    shape = dataset.train.shape[1:] if of is None else of.m1.prior().event_shape
    rows = []
    for row in semi_supervised.accuracies(
        dataset,
        chosen.labelled,
        lambda: semi_supervised.model(shape, classes, binary=of is None),
        of,
        chosen.epochs,
        chosen.seeds,
        chosen.device,
        chosen.compile,
    ):
        print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        rows.append(row)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    with whole(folder / "labels.csv") as path:
        pd.DataFrame(rows).to_csv(path, index=False)
    with whole(folder / "figures" / "labels.png") as path:
        family_plots.accuracies(rows, len(dataset.train)).savefig(path)
    print(f"kept in {folder}")


if __name__ == "__main__":
    options.command(main, "the same command begins anew")
