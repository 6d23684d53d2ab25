"""Score a run on its test data and draw its figures anew: `python scripts/evaluate.py runs/digits`."""

import json

from pyrovae import options, runs


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("run", type=str, help="folder of the run")
    parser.add_argument(
        "--num_samples",
        type=int | None,
        default=None,
        help="draws for each datum for log p(x); unless given, the run's",
    )
    parser.add_argument("--tsne", action="store_true", help="draw the latent means by t-SNE too")
    choices = parser.parse_args(arguments)
    run = runs.load(choices.run)
    metrics = runs.report(
        run, choices.run, run.options.num_samples if choices.num_samples is None else choices.num_samples, choices.tsne
    )
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    options.command(main)
