"""Kill small trainings time and again, resume them until they are done, and compare: `python scripts/soak.py --help`.

Each is started in a process of its own, forked from one that has imported all, and is ended by SIGKILL, in part as it
writes a checkpoint, or by SIGTERM or SIGINT, at a random moment. After each of these its folder must be readable, and
when a run is done, all that its checkpoint holds must be what the run holds that was left alone, bit for bit.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tabulate import tabulate
from tqdm import tqdm

from pyrovae import checkpoint, files, options, record, runs

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pyrovae", "torch._dynamo", "torch._inductor.compile_fx"])
SIGNALS = {"SIGKILL": 0.6, "SIGTERM": 0.2, "SIGINT": 0.2}  # and their shares
RUN = [
    *("--epochs", "30", "--batch_size", "16", "--latent_dim", "2", "--patience", "25", "--clip_norm", "50"),
    *("--encoder_network.hidden", "[16]", "--decoder_network.hidden", "[16]", "--objective.beta", "Linear"),
    *("--objective.beta.steps", "100", "--scheduler", "CosineAnnealingLR", "--scheduler.T_max", "30"),
]


def train(arguments: list[str]) -> None:
    """What `scripts/train.py` does before it scores the run, in silence."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what runs in the background ignores
    tqdm.set_lock(threading.RLock())  # or each that is killed leaves a semaphore of the system
    torch.set_num_threads(1)
    options.command(lambda: runs.train(*runs.parse(arguments)))


def start(folder: Path, arguments: list[str]) -> BaseProcess:
    """Begin, or go on with, a run."""
    arguments = [*arguments, "--out", str(folder)]
    if (folder / record.CHECKPOINT).exists():
        arguments = ["--out", str(folder), "--resume"]
    process = CONTEXT.Process(target=train, args=(arguments,))
    process.start()
    return process


def stop(process: BaseProcess, folder: Path, chance: random.Random, longest: float) -> tuple[str, bool] | None:
    """Send it a signal at some moment; which, and whether it was writing a checkpoint, or None if it was done before.

    Args:
        process: to stop.
        folder: of its run.
        chance: of the moment.
        longest: time to the signal, counted from its first checkpoint or, for some, from its start, s.
    """
    name = chance.choices([*SIGNALS], [*SIGNALS.values()])[0]
    waits, before = chance.random() < 0.9, written(folder)
    while waits and process.exitcode is None and written(folder) == before:
        time.sleep(0.001)
    process.join(chance.uniform(0, longest))
    if chance.random() < 0.4:
        while process.exitcode is None and not writing(folder):
            pass
    if process.exitcode is not None:
        return None
    is_writing = writing(folder)
    os.kill(process.pid, getattr(signal, name))
    process.join()
    return (name, is_writing) if process.exitcode else None


def written(folder: Path) -> int | None:
    """When the last checkpoint was written."""
    path = folder / record.CHECKPOINT
    return path.stat().st_mtime_ns if path.exists() else None


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(folder.glob(f".*-{record.CHECKPOINT}"))


def trouble(folder: Path) -> str | None:
    """Why a folder cannot be read, if it cannot."""
    try:
        if (folder / runs.CONFIG).exists():
            yaml.safe_load((folder / runs.CONFIG).read_text())
        for path in folder.glob("checkpoint*.pt"):
            checkpoint.read(path)
        if (folder / record.HISTORY).exists():
            rows = (folder / record.HISTORY).read_text().splitlines()
            if len({row.count(",") for row in rows}) != 1:
                return "its history is no table"
    except (ValueError, yaml.YAMLError) as error:
        return str(error)
    return None


def content(folder: Path) -> Any:
    """All that the last checkpoint of a run holds, but for times, to be compared."""
    state = checkpoint.read(folder / record.CHECKPOINT)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["values"]["history"]]
    state["parts"]["epoch"].pop("seconds")
    return plain({"parts": state["parts"], "random": state["random"], "best": state["values"]["best"], "rows": rows})


def plain(value: Any) -> Any:
    """Nested values with the bytes of tensors."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def soak(folder: Path, arguments: list[str], kills: int, seed: int, longest: float) -> dict[str, Any]:
    """Kill runs until there were so many kills and the last run is done; what came of it."""
    chance, begin = random.Random(seed), time.monotonic()
    process = start(folder / "whole", arguments)
    process.join()
    expected = content(folder / "whole")
    found = dict.fromkeys([*SIGNALS, "while writing", "resumes", "runs", "unreadable", "different"], 0)
    while sum(found[name] for name in SIGNALS) < kills:
        run, process = folder / f"run-{found['runs']}", None
        while process is None or process.exitcode != 0:
            found["resumes"] += (run / record.CHECKPOINT).exists()
            process = start(run, arguments)
            if sum(found[name] for name in SIGNALS) == kills:
                process.join()
            elif told := stop(process, run, chance, longest):
                found[told[0]] += 1
                found["while writing"] += told[1]
                if why := trouble(run):
                    found["unreadable"] += 1
                    print(f"'{run}': {why}")
            if process.exitcode == 2:
                raise ValueError(f"'{run}' cannot be gone on with: see for yourself by --resume")
        found["runs"] += 1
        if content(run) == expected:
            shutil.rmtree(run)
        else:
            found["different"] += 1
        print(f"{folder.name}: {json.dumps(found)}", flush=True)
    return {**found, "seconds": round(time.monotonic() - begin, 1)}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many, of plain and compiled runs together")
    parser.add_argument("--compiled", type=float, default=0.2, help="share of them that is of compiled runs")
    parser.add_argument(
        "--longest", type=float, default=0.5, help="time from a process's first checkpoint to its end, at most, s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=str, default="runs/soak", help="folder, for soak.json and for what went wrong")
    choices = parser.parse_args(arguments)
    folder, compiled = Path(choices.out), round(choices.kills * choices.compiled)
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).random((160, 1, 4, 4), dtype=np.float32)
    np.savez(folder / "images.npz", x=images)
    given, found = [*RUN, "--data", str(folder / "images.npz")], {}
    for name, kills, more in (("plain", choices.kills - compiled, []), ("compiled", compiled, ["--compile"])):
        if kills:
            (folder / name).mkdir()
            found[name] = soak(folder / name, given + more, kills, choices.seed, choices.longest)
    files.write_json(folder / "soak.json", found)
    print(json.dumps(found, indent=2))
    print(tabulate([[name, *row.values()] for name, row in found.items()], ["", *next(iter(found.values()))]))
    if any(row["unreadable"] or row["different"] for row in found.values()):
        raise ValueError(f"not all is as it should be: see '{folder}'")


if __name__ == "__main__":
    options.command(main, "the same command begins anew, in another --out")
