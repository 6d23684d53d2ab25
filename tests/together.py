"""Several processes that call one function together, as `torchrun` would start them."""

import os
import re
from datetime import timedelta

import fresh
import torch.distributed as dist


def together(folder, size, function, *args):
    """Call a function of a module with the rank and these arguments in each process; their exit codes."""
    store = folder / f"store-{len(list(folder.glob('store-*')))}"
    processes = [fresh.start(_join, rank, size, str(store), function, args) for rank in range(size)]
    return [fresh.finish(process) for process in processes]


def _join(rank, size, store, function, args):
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=60), size, rank)
    function(rank, *args)
    dist.destroy_process_group()


def scripts_together(folder, size, script, *arguments):
    """Run a script in each process, as the command line would; exit codes, and what each wrote, errors last."""
    port = _free_port()
    processes = [fresh.start(_script, rank, size, port, folder, script, arguments) for rank in range(size)]
    codes = [fresh.finish(process) for process in processes]
    written = ((folder / f"{rank}.out").read_text() + (folder / f"{rank}.err").read_text() for rank in range(size))
    return codes, [re.sub(r"\[Gloo\] Rank .*\n", "", text) for text in written]  # as PyTorch 2.8 tells of connections


def _free_port():
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return store.port


def _script(rank, size, port, folder, script, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    out, err = folder / f"{rank}.out", folder / f"{rank}.err"
    fresh._script(folder, str(fresh.SCRIPTS / script), [str(a) for a in arguments], out, err)
