"""A peer alone in a process: how long until it runs, and how much memory it takes.

As a program, `python -m peers.alone CASE PEER DEVICE`, with the case as JSON, it prints what `alone` returns.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from peers import load
from peers.case import Case

__all__ = ["alone"]

_WARM = 3  # steps after which ours is compiled: the first is checked, the second is traced
_MORE = 10  # steps in which the most memory is taken


def alone(case: Case, name: str, device: torch.device) -> dict[str, float]:
    """Seconds until the first and the third step, and the most memory, of a peer in a process of its own.

    Seconds count from before the peer is constructed, after imports, and include compilation, of which nothing is kept
    from before. On a GPU the memory is that of its tensors, otherwise the process's, of which its imports took
    `imports_mib`.

    Args:
        case: what it trains.
        name: of the peer.
        device: where.

    Raises:
        ValueError: if it fails.
    """
    command = [sys.executable, "-m", "peers.alone", json.dumps(case.to_dict()), name, str(device)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        folder = Path(__file__).parent.parent
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise ValueError(f"{name} failed alone in case {case.name}: {reason}")
    return json.loads(result.stdout.splitlines()[-1])


def _main(case: Case, name: str, device: torch.device) -> None:
    cls, batches = load(name), case.batches(device)
    imports = _process_peak()
    start = perf_counter()
    peer = cls(case, batches)
    seconds = []
    for n in (1, _WARM - 1):
        peer.take(n)
        peer.finish()
        seconds.append(perf_counter() - start)
    peer.take(_MORE)
    peer.finish()
    on_gpu = device.type == "cuda"
    memory = {"peak_mib": peer.peak()} if on_gpu else {"imports_mib": imports, "peak_mib": _process_peak()}
    numbers = dict(zip(("first_step_seconds", "third_step_seconds"), seconds, strict=True))
    print(json.dumps(numbers | {name: count / 2**20 for name, count in memory.items()}))


def _process_peak() -> int:
    """The most bytes that the process held so far."""
    status = Path("/proc/self/status")  # where there is none: getrusage, which in Linux counts what the parent had, too
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _main(Case(**json.loads(sys.argv[1])), sys.argv[2], torch.device(sys.argv[3]))
