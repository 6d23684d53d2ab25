"""What a comparison says: tables and figures, made of what its cells keep, and which differences are real."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyrovae import diagnostic_plots, plotting, runs
from pyrovae.bits import NO_PROBABILITY, bits_per_dimension
from pyrovae.claims import claimed
from pyrovae.comparison import NUMBERS, SCORES, Cell, Comparison, signal_to_noise
from pyrovae.files import whole, with_nan
from pyrovae.paired import difference, differences

__all__ = ["Report", "report", "write_table"]

_QUANTITIES = {"elbo": "ELBO", "log_likelihood": "log p(x)"}
_MEANS = ("kl", "active_units", "snr_generative", "snr_inference", "epochs", "decoder_evaluations", "seconds")


class Report(NamedTuple):
    """The tables of a comparison: a row for each entry, and one for each pair of entries and quantity.

    Where an entry tells probabilities of data, all numbers are of these, in nats; entries that tell none have no bits
    per dimension, and no differences.
    """

    table: pd.DataFrame
    differences: pd.DataFrame
    num_samples: int  # K, draws for each datum by which log p(x) is estimated

    def __str__(self) -> str:
        """Both tables as text, the differences each with what it amounts to."""
        lines = [_readable(self.table).to_markdown(index=False)]
        if len(left_out := self.table["entry"][_left_out(self.table)]):
            lines += ["", f"Not comparable: {', '.join(left_out)}: {NO_PROBABILITY}."]
        for quantity, rows in self.differences.groupby("quantity", sort=False):
            name = f"log p(x) by {self.num_samples} draws" if quantity == "log_likelihood" else _QUANTITIES[quantity]
            lines += ["", f"Differences of {name}, nats, with 95 % intervals over seeds and images:"]
            names = [f"{row.entry} - {row.minus}" for row in rows.itertuples()]
            width = max(map(len, names))
            for name, row in zip(names, rows.itertuples(), strict=True):
                interval = f"[{row.low:+.3g}, {row.high:+.3g}]"
                lines.append(f"  {name:{width}} {row.difference:+8.3g} {interval:>20}  {_verdict(row)}")
        if (self.table["seeds"] == 2).all() and len(self.differences):
            lines += ["", "With two seeds such an interval holds in 87 to 97 % of cases: for what matters, take five."]
        return "\n".join(lines)


def report(comparison: Comparison) -> Report:
    """Write the tables and figures of a comparison into its folder, which of several processes one does at a time.

    Args:
        comparison: one whose cells are all finished, as `comparison.run` gives it back.
    """
    with claimed(comparison.folder / "report.worker", wait=True):
        return _report(comparison)


def _report(comparison: Comparison) -> Report:
    cells: dict[str, list[Cell]] = {name: [] for name in comparison.entries}
    for cell in comparison.cells():
        cells[cell.entry].append(cell)
    metrics = {name: [with_nan(json.loads((c.folder / NUMBERS).read_text())) for c in of] for name, of in cells.items()}
    scores = {name: [_scores(cell) for cell in of] for name, of in cells.items()}
    shift = {name: comparison.log_cell[name] or 0.0 for name in cells}  # to log-probabilities of data
    values = {
        quantity: {name: torch.stack([s[quantity] for s in of]).double() + shift[name] for name, of in scores.items()}
        for quantity in _QUANTITIES
    }  # each (S, N)
    told = [name for name in cells if comparison.log_cell[name] is not None]
    shapes = {name: metrics[name][0]["shape"] for name in told}
    table = pd.DataFrame(
        [_row(name, metrics[name], {q: v[name] for q, v in values.items()}, shapes.get(name)) for name in cells]
    )
    compared = told or list(cells)  # densities of the same data are comparable among themselves
    pairs = [{"quantity": q, **row} for q, v in values.items() for row in differences({n: v[n] for n in compared})]
    num_samples = next(iter(metrics.values()))[0]["num_samples"]
    result = Report(table, pd.DataFrame(pairs, columns=None if pairs else ["quantity"]), num_samples)
    noise = signal_to_noise(comparison)
    write_table(result.table, comparison.folder / "table", _readable(result.table))
    write_table(result.differences, comparison.folder / "differences")
    cells = {name: cells[name] for name in compared}
    _draw(comparison.folder / "figures", cells, scores, shift, result, noise)
    return result


def write_table(table: pd.DataFrame, path: Path, readable: pd.DataFrame | None = None) -> None:
    """Write a table as CSV and JSON, and for readers, to four digits unless given as text, as Markdown and LaTeX.

    Args:
        table: the numbers.
        path: of the files, without their endings.
        readable: the table as readers shall see it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_table(pd.DataFrame({"entry": ["ELBO", "IWAE"], "elbo": [-23.27, -24.38]}), folder / "table")
        >>> sorted(path.name for path in folder.iterdir())
        ['table.csv', 'table.json', 'table.md', 'table.tex']
    """
    readable = _rounded(table) if readable is None else readable
    texts = {
        ".csv": table.to_csv(index=False),
        ".json": table.to_json(orient="records", indent=2, double_precision=15) + "\n",
        ".md": readable.to_markdown(index=False) + "\n",
        ".tex": readable.to_latex(index=False, escape=True).replace("±", r"$\pm$"),
    }
    for ending, text in texts.items():
        with whole(path.with_suffix(ending)) as beside:
            beside.write_text(text)


def _row(
    name: str, metrics: list[dict[str, Any]], values: dict[str, Tensor], shape: Sequence[int] | None
) -> dict[str, Any]:
    """An entry's numbers, means over seeds; standard errors are over seeds and images, Monte Carlo's apart.

    The shape is that of a datum whose probability the values tell.
    """
    row: dict[str, Any] = {"entry": name, "seeds": len(metrics)}
    for quantity, value in values.items():  # (S, N)
        mean = difference(value, torch.zeros_like(value))
        row |= {quantity: mean.value, f"{quantity}_std_error": mean.std_error}
        row[f"{quantity}_seed_std_error"] = mean.seed_std_error
        errors = np.array([m[f"{quantity}_std_error"] for m in metrics])
        row[f"{quantity}_monte_carlo_error"] = float(np.sqrt((errors**2).sum()) / len(errors))
    if shape is not None:
        row["bits_per_dimension"] = bits_per_dimension(row["log_likelihood"], shape)
    return row | {key: float(np.mean([m[key] for m in metrics])) for key in _MEANS if key in metrics[0]}


def _verdict(row: Any) -> str:
    """What an interval says: whether the difference is more than the images and seeds that happened to be drawn."""
    if row.real:
        return "real"
    return "real for these seeds, not told for others" if row.real_for_these_seeds else "not told apart"


def _scores(cell: Cell) -> dict[str, Tensor]:
    with np.load(cell.folder / SCORES) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _draw(
    folder: Path,
    cells: dict[str, list[Cell]],
    scores: dict[str, list[dict[str, Tensor]]],
    shift: dict[str, float],
    result: Report,
    noise: list[dict[str, Any]],
) -> None:
    """The figures: learning curves, tightness, rate and distortion, paired differences, signal-to-noise ratios."""
    histories = {name: [_history(cell, shift[name]) for cell in of] for name, of in cells.items()}
    num_particles = next(iter(scores.values()))[0]["num_particles"].tolist()
    bounds = {name: (_mean(s["bounds"] for s in scores[name]) + shift[name]).tolist() for name in cells}
    exact = {name: _mean(s["exact"] for s in scores[name]).item() + shift[name] for name in cells}
    terms = result.table.set_index("entry").loc[list(cells), ["elbo", "kl"]]
    plane = {name: (-(elbo + kl), kl) for name, elbo, kl in terms.itertuples()}  # distortion and rate
    figures = {
        "learning_curves": plotting.learning_curves(histories),
        "tightness": plotting.tightness(num_particles, bounds, {k: v for k, v in exact.items() if not np.isnan(v)}),
        "rate_distortion": diagnostic_plots.rate_distortion(plane),
    }
    for quantity, label in _QUANTITIES.items():
        if rows := result.differences[result.differences["quantity"] == quantity].to_dict("records"):
            figures[f"differences_{quantity}"] = plotting.paired_differences(rows, label)
    if noise:
        figures["signal_to_noise"] = plotting.signal_to_noise(noise)
    folder.mkdir(exist_ok=True)
    for old in (path for path in folder.glob("*.png") if path.stem not in figures):  # of entries that are left out now
        old.unlink()
    for name, figure in figures.items():
        with whole(folder / f"{name}.png") as path:
            figure.savefig(path)


def _history(cell: Cell, shift: float) -> list[dict[str, float]]:
    """A cell's history, its validation in log-probabilities of data."""
    history = pd.read_csv(cell.folder / runs.HISTORY)
    of_data = history.columns.intersection(["valid_elbo", "valid_log_likelihood"])
    history[of_data] += shift
    return history.to_dict("records")


def _mean(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).mean(0)


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns to look at first, with errors beside their values."""
    shown, left_out = {"entry": table["entry"]}, _left_out(table)
    for quantity, name in _QUANTITIES.items():
        rows = zip(table[quantity], table[f"{quantity}_std_error"], left_out, strict=True)
        shown[name] = ["not comparable" if out else f"{value:.2f} ± {error:.2f}" for value, error, out in rows]
    if "bits_per_dimension" in table:
        bits = zip(table["bits_per_dimension"], left_out, strict=True)
        shown["bits/dim"] = ["not comparable: density" if out else f"{value:.3f}" for value, out in bits]
    names = {name: name.replace("_", " ").replace("snr", "SNR").replace("kl", "KL") for name in _MEANS if name in table}
    return pd.DataFrame(shown | {new: table[old] for old, new in names.items()}).pipe(_rounded)


def _left_out(table: pd.DataFrame) -> pd.Series:
    """Which entries tell no probabilities of data, where others do."""
    return table.get("bits_per_dimension", pd.Series(0.0, table.index)).isna()


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text of four digits."""

    def text(value: Any) -> Any:
        return f"{value:.4g}" if isinstance(value, float) else value

    return table.map(text)
