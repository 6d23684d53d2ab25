"""Repeat published experiments and print our numbers beside theirs: `python scripts/reproduce.py gaussian_toy`.

Protocols lie in `scripts/reproductions/`. In full they take long, as each says; `--fraction` shortens them.
"""

from pathlib import Path

from pyrovae import options, reproduction

PROTOCOLS = Path(__file__).parent / "reproductions"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("name", type=str, help=", ".join(sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))))
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="of the passes over the data, or the gradients drawn"
    )
    parser.add_argument("--root", type=str, default="data", help="folder of the data sets")
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder to keep it in; unless given, runs/NAME-FRACTION"
    )
    choices = parser.parse_args(arguments)
    protocol = reproduction.read(PROTOCOLS / f"{choices.name}.yaml")
    for name in ("title", "protocol", "deviations", "cost"):
        if name in protocol:
            print(f"{name}: {protocol[name]}", flush=True)
    shortened = "" if choices.fraction == 1 else f"-{choices.fraction:g}"
    folder = choices.out or f"runs/{choices.name}{shortened}"
    table = reproduction.reproduce(protocol, folder, choices.fraction, choices.root)
    print(table.round(3).to_markdown(index=False))
    print(
        f"shortened to a fraction of {choices.fraction:g}" if choices.fraction < 1 else "in full", f"kept in {folder}"
    )


if __name__ == "__main__":
    options.command(main, "the same command goes on where it stopped")
