"""All models of the family on the same data, in one table and side by side: `python scripts/family.py --help`.

Options that are not listed go to each training, as those of `scripts/train.py`:
`python scripts/family.py --members VAE autoencoder "VQ-VAE" --epochs 50 --data digits`
The same command goes on where it was stopped, and does nothing again that is finished.
"""

from pathlib import Path

from pyrovae import family, options
from pyrovae.files import whole


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.PlainParser(__doc__)
    parser.add_argument("--members", nargs="+", default=list(family.MEMBERS), help="all of them, unless given")
    parser.add_argument("--out", type=Path, default=Path("runs/family"), help="folder of the table, figures and runs")
    parser.add_argument("--epochs", default="100", help="of each training")
    chosen, shared = parser.parse_known_args(arguments)
    members, metrics = {}, {}
    for name, run, found in family.trained([*shared, "--epochs", chosen.epochs], chosen.members, chosen.out):
        print(f"{name}: trained in {found['seconds']:.0f} s", flush=True)
        members[name], metrics[name] = run, found
    table, notes = family.table(metrics)
    text = f"{table.to_markdown(index=False, disable_numparse=True)}\n\n{notes}\n"
    with whole(chosen.out / "table.md") as path:
        path.write_text(text)
    (chosen.out / "figures").mkdir(exist_ok=True)
    for name, figure in family.figures(members, seed=0):
        with whole(chosen.out / "figures" / f"{name}.png") as path:
            figure.savefig(path)
    print(text + f"kept in {chosen.out}")


if __name__ == "__main__":
    options.command(main, "the same command goes on where it stopped")
