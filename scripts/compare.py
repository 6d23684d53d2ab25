"""Compare objectives, gradient estimators, priors, likelihoods or encoders: `python scripts/compare.py --help`.

Each entry is 'NAME: OPTIONS', with the options of `scripts/train.py` in which it differs from what all share:
`python scripts/compare.py --epochs 50 --entries "normal:" "mixture: --prior MixtureOfNormals"`
The same command goes on where it was stopped, and does nothing again that is finished. Started several times, on one
machine or on many that share the folder, or with `--jobs N`, it shares the work.
"""

from pyrovae import comparison, options
from pyrovae.report import report


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    chosen = comparison.parse(arguments)
    print(report(comparison.run(chosen)))
    print(f"kept in {chosen.folder}")


if __name__ == "__main__":
    options.command(main, "the same command goes on where it stopped")
