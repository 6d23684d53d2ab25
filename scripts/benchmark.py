"""Time training steps side by side with what a user would pick instead: `python scripts/benchmark.py --help`.

All train the same VAE (784-400-50 units, softplus, Bernoulli likelihood, Adam) from the same weights on the same
binary data, which lie on the device, and are refused unless they compute the same bound and learn alike. They take
turns in rounds, in an order of each round's own, and ratios are of times in one round. What is not installed (NumPyro,
pythae) is left out. On the CPU, OMP_NUM_THREADS sets the threads of all but NumPyro, whose XLA takes one for each core;
`taskset` limits them all. In full it takes about half an hour on two cores.
"""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from peers import NAMES, load, missing, tables
from peers.agreement import GAIN_TOLERANCE, STANDARD_ERRORS, STEPS
from peers.alone import alone
from peers.case import Case
from peers.epoch import epochs_and_bare_steps
from peers.measure import measure
from torch import device as Device

from pyrovae import benchmark_plots, options
from pyrovae.files import whole, write_json

MAIN = [Case(f"elbo-{b}", b) for b in (20, 100, 256)] + [Case(f"iwae50-{b}", b, 50) for b in (20, 100)]
VARIANTS = [Case("vamp-100", 100, prior="VampPrior"), Case("iaf-100", 100, encoder="IAF")]
GROWTH = {  # by what grows
    "K": [Case(f"K={k}", 20, k) for k in (1, 5, 10, 25, 50, 100)],
    "batch": [Case(f"batch={b}", b) for b in (16, 64, 256, 1024)],
    "width": [Case(f"width={h}", 100, hidden=h) for h in (100, 200, 400, 800, 1600)],
}
GROWING = ("pyrovae compiled", "pyrovae", "PyTorch")  # contenders
EPOCH, EPOCH_SIZE = Case("epoch", 100), 20_000  # data
CASES = (*(case.name for case in MAIN + VARIANTS), *GROWTH, EPOCH.name)


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """The options of a command line, by default the process's own.

    Raises:
        ValueError: if there is no such device, nothing to time, or the folder keeps a benchmark.
    """
    parser = options.Parser(description=__doc__)
    parser.add_argument("--only", nargs="+", type=Literal[CASES], default=list(CASES), help="cases")
    parser.add_argument("--contenders", nargs="+", type=Literal[NAMES], default=list(NAMES), help="who takes part")
    parser.add_argument("--rounds", type=int, default=9, help="in each of which everybody has a turn")
    parser.add_argument("--round_seconds", type=float, default=0.1, help="of a turn, about")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if any")
    parser.add_argument("--out", type=str, default="runs/benchmark", help="folder of the benchmark")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1 or not chosen.round_seconds > 0:
        raise ValueError(
            f"rounds must be at least 1, and round_seconds positive, not {chosen.rounds} and {chosen.round_seconds}"
        )
    if chosen.device == "auto":
        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch sees no GPU here: use --device auto or cpu")
    if (Path(chosen.out) / "benchmark.json").exists():
        raise ValueError(f"'{chosen.out}' keeps a benchmark already: give another folder by --out")
    return chosen


def run(chosen: Namespace) -> dict[str, Any]:
    """All that was measured; the folder keeps it as far as it goes, case by case.

    Raises:
        ValueError: if no contender takes part, or contenders do not compute the same thing.
    """
    device, folder, only = Device(chosen.device), Path(chosen.out), chosen.only
    left_out = {name: reason for name in chosen.contenders if (reason := missing(name, device))}
    names = [name for name in NAMES if name in chosen.contenders and name not in left_out]
    cases = [("cases", {}, case) for case in MAIN + VARIANTS if case.name in only]
    cases += [("growth", {"along": along}, case) for along, of in GROWTH.items() if along in only for case in of]
    plan = [
        (kind, which, case, [n for n in names if load(n).takes(case) and (kind != "growth" or n in GROWING)])
        for kind, which, case in cases
    ]
    plan = [entry for entry in plan if entry[-1]]
    fitting = [name for name in names if EPOCH.name in only and issubclass(load(name), load("pyrovae"))]
    if not plan and not fitting:
        reasons = "".join(f"; {name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"no contender takes part in a case that was chosen{reasons}")
    results = {
        "machine": machine(device),
        "settings": {
            **{name: chosen[name] for name in ("only", "contenders", "rounds", "round_seconds")},
            "standard_errors": STANDARD_ERRORS,
            "steps_before_gains": STEPS,
            "gain_tolerance": GAIN_TOLERANCE,
        },
        "left_out": left_out,
        "cases": [],
        "growth": [],
        "epochs": [],
    }

    def keep(kind: str, result: dict[str, Any], said: str) -> None:
        results[kind].append(result)
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        write_json(folder / "benchmark.json", results)
        with whole(folder / "table.md") as path:
            path.write_text(tables.text(results))
        print(said, flush=True)

    try:
        for kind, which, case, taking_part in plan:
            result = which | measure(case, taking_part, device, chosen.rounds, chosen.round_seconds)
            for name in taking_part if kind == "cases" else []:
                result["contenders"][name] |= alone(case, name, device)
            keep(kind, result, tables.line(result))
        for name in fitting:
            result = epochs_and_bare_steps(EPOCH, name, device, EPOCH_SIZE, chosen.rounds)
            keep("epochs", result, tables.epoch_line(result))
    finally:  # of what there is
        draw(results, folder / "figures")
    return results


def draw(results: dict[str, Any], folder: Path) -> None:
    """Keep the figures of what was measured."""
    figures = {"relative_times": (benchmark_plots.relative_times, tables.ratios(results))}
    figures["growth"] = (benchmark_plots.growth, tables.growth(results))
    for name, (plot, rows) in figures.items():
        if rows:
            with whole(folder / f"{name}.png") as path:
                plot(rows).savefig(path)


def machine(device: Device) -> dict[str, Any]:
    """What it was measured on, and with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    versions = {}
    for package in ("torch", "pyro-ppl", "numpyro", "jax", "pythae"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or JAX takes most of a GPU's memory
    chosen = parse(arguments)
    results = run(chosen)
    print(f"\n{tables.text(results)}\nkept in {chosen.out}")


if __name__ == "__main__":
    options.command(main, "the folder keeps the cases that were finished")
