"""Train a variational autoencoder, score it on test data and draw its figures: `python scripts/train.py --help`.

Components are chosen by class name or import path, and their constructor arguments are options:
`python scripts/train.py --prior MixtureOfNormals --prior.components 20 --latent_dim 2 --epochs 50`
In several processes, each with a share of every batch: `torchrun --nproc-per-node 2 scripts/train.py ...`
"""

from pyrovae import distributed, options, runs


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    with distributed.started():
        choices, folder, resume = runs.parse(arguments)
        if not resume:
            runs.require_taken(choices)
        run = runs.train(choices, folder, resume)
        metrics = runs.report(run, folder, choices.num_samples)
    if metrics is not None:
        print(runs.summary(metrics))
        print(f"kept in {folder}")


if __name__ == "__main__":
    options.command(main)
