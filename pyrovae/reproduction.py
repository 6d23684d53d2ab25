"""Reproductions: published protocols, run in full or shortened, and our numbers beside those printed.

A protocol is a YAML file. With `options` it is a comparison, and `published` has the printed numbers; with `study` it
is a gradient study on the Gaussian toy: `published` has the printed slopes of log SNR against log K.
"""

import copy
import json
import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pyrovae import comparison, exact, gradients, objectives, plotting
from pyrovae.files import whole, with_nan, write_json
from pyrovae.gradient_study import gradient_study
from pyrovae.report import report, write_table

__all__ = ["read", "reproduce", "shortened", "slope"]


def read(path: str | Path) -> dict[str, Any]:
    """The protocol that a file describes.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not Path(path).exists():
        names = ", ".join(sorted(other.stem for other in Path(path).parent.glob("*.yaml")))
        raise FileNotFoundError(f"no protocol '{Path(path).stem}': give one of {names}")
    protocol = yaml.safe_load(Path(path).read_text())
    if "like" in protocol:  # the options of another protocol, but for its own
        base = read(Path(path).with_stem(protocol["like"]))
        protocol = base | protocol | {"options": base["options"] | protocol["options"]}
    return protocol


def reproduce(protocol: dict[str, Any], folder: str | Path, fraction: float = 1.0, root: str = "data") -> pd.DataFrame:
    """Run a protocol, keep all of it in a folder, and return our numbers beside the published ones.

    Args:
        protocol: as `read` gives it.
        folder: where everything is kept; a run that was stopped goes on there.
        fraction: of the passes over the data, or of the gradients drawn.
        root: folder of the data sets.

    Returns:
        For a comparison a row for each entry, for a gradient study one for each slope, with the columns `ours`,
        `published` and `difference`, and the errors of ours.

    Raises:
        ValueError: if the fraction is not within (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, not {fraction}")
    folder = Path(folder)
    run = _study if "study" in protocol else _comparison
    table = run(protocol, folder, fraction, root)
    write_table(table, folder / "reproduction")
    return table


def shortened(options: dict[str, Any], fraction: float) -> dict[str, Any]:
    """Options of a comparison with a fraction of the passes, each stage of the schedule of one at least, and L_1000.

    A warm-up of beta is a stage as well.

    Args:
        options: `epochs`, `num_samples`, and perhaps a `scheduler` with milestones and an `objective` with a schedule
            of its beta, as protocols have them.
        fraction: of the passes.

    Example:
        >>> shortened({"epochs": 3280, "num_samples": 5000}, 0.005)
        {'epochs': 16, 'num_samples': 1000}
    """
    stages = options["scheduler"]["init_args"]["milestones"] if options.get("scheduler") else []
    lengths = [max(1, round(fraction * (end - start))) for start, end in pairwise([0, *stages, options["epochs"]])]
    *milestones, epochs = np.cumsum(lengths).tolist()
    options = {**options, "epochs": epochs, "num_samples": min(options["num_samples"], 1000)}
    objective = options.get("objective", {})
    if "beta" in objective.get("init_args", {}):  # the steps of its warm-up are a stage, too
        options["objective"] = copy.deepcopy(objective)
        warm_up = options["objective"]["init_args"]["beta"]["init_args"]
        warm_up["steps"] = max(1, round(fraction * warm_up["steps"]))
    if stages:
        scheduler = options["scheduler"]
        options["scheduler"] = {**scheduler, "init_args": {**scheduler["init_args"], "milestones": milestones}}
    return options


def slope(x: np.ndarray, y: np.ndarray, std_error: np.ndarray) -> tuple[float, float]:
    """sum_i c_i y_i with c_i = (x_i - mean x) / sum_j (x_j - mean x)^2, the least-squares slope, and its error.

    Args:
        x: `(n,)`.
        y: `(n,)`.
        std_error: of each y, `(n,)`.

    Example:
        >>> slope(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]), np.array([0.1, 0.1, 0.1]))
        (2.0, 0.0707)
    """
    c = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return float(c @ y), float(np.sqrt(c**2 @ std_error**2))


def _comparison(protocol: dict[str, Any], folder: Path, fraction: float, root: str) -> pd.DataFrame:
    options = protocol["options"] if fraction == 1 else shortened(protocol["options"], fraction)
    chosen = comparison.parse(["--config", yaml.safe_dump(options), "--out", str(folder), "--root", root])
    result = report(comparison.run(chosen))
    print(result, end="\n\n")
    table = result.table.set_index("entry")
    rows = []
    for entry, published in protocol["published"].items():
        if entry not in table.index:  # its training failed
            continue
        row = table.loc[entry]
        rows.append(
            {
                "entry": entry,
                "ours": row["log_likelihood"],
                "published": (printed := published.get("log_likelihood", math.nan)),
                "difference": row["log_likelihood"] - printed,
                "monte_carlo_error": row["log_likelihood_monte_carlo_error"],
                "seed_error": row["log_likelihood_seed_std_error"],
                "active_units": row["active_units"],
                "published_active_units": published.get("active_units", math.nan),
                "passes": row["epochs"],
                "of_passes": protocol["options"]["epochs"],
                "draws": options["num_samples"],
            }
        )
    return pd.DataFrame(rows)


def _study(protocol: dict[str, Any], folder: Path, fraction: float, root: str) -> pd.DataFrame:
    study = protocol["study"]
    num_draws = max(16, round(fraction * study["num_draws"]))  # as the standard errors need
    toy = exact.GaussianToy(study["latent_dim"], study["variance"])
    x = toy.sample(study["data"])
    toy.solve(x)
    toy.perturb(study["perturbation"])
    toy.vae.float()  # twice as fast
    settings = {name: study[name] for name in ("latent_dim", "variance", "data", "perturbation", "pairs")}
    rows = []
    for name, k in product(study["pairs"], study["num_particles"]):
        path = folder / f"{num_draws} draws" / f"{comparison.slug(name)}-{k}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("settings") != settings:
            bound, estimator = study["pairs"][name]
            pair = {name: (getattr(objectives, bound), getattr(gradients, estimator))}
            found = gradient_study(toy.vae, x.float(), pair, [k], num_draws, reference_draws=0)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"settings": settings, "rows": found})
        rows += map(with_nan, json.loads(path.read_text())["rows"])
    rows = pd.DataFrame(rows)
    write_table(rows, folder / "signal_to_noise")
    with whole(folder / "signal_to_noise.png") as beside:
        plotting.signal_to_noise(rows.to_dict("records")).savefig(beside)
    table = []
    for (curve, published), (low, high) in product(protocol["published"].items(), study["ranges"]):
        pair, block = curve.split(", ")
        chosen = rows[(rows["pair"] == pair) & (rows["block"] == block) & rows["num_particles"].between(low, high)]
        k, snr, error = (chosen[name].to_numpy() for name in ("num_particles", "snr", "snr_std_error"))
        snr = np.where(snr > 0, snr, np.nan)  # of too few draws to tell it from 0
        ours, std_error = slope(np.log(k), np.log(snr), error / snr)
        row = {"pair": pair, "block": block, "from K": low, "to K": high, "ours": ours, "published": published}
        table.append(row | {"difference": ours - published, "monte_carlo_error": std_error, "draws": num_draws})
    return pd.DataFrame(table)
