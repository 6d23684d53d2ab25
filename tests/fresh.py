"""Processes of their own that start at once: forks of one that has imported the library, and has run nothing of it."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pyrovae", "torch._dynamo"])  # the second as the first optimiser would import it


def start(function, *args):
    """Call a function of a module in a fresh process with one thread."""
    process = CONTEXT.Process(target=_call, args=(function, *args), daemon=True)
    process.start()
    return process


def _call(function, *args):
    torch.set_num_threads(1)
    function(*args)


def finish(process):
    """Its exit code."""
    process.join(timeout=300)
    return process.exitcode


def start_script(folder, script, *arguments, out=os.devnull, err=os.devnull):
    """Run a script as the command line would."""
    return start(_script, folder, str(SCRIPTS / script), [str(a) for a in arguments], out, err)


def run_script(folder, script, *arguments):
    """Its exit code, and what it wrote to standard output and to standard error."""
    with tempfile.TemporaryDirectory() as kept:
        out, err = Path(kept) / "out", Path(kept) / "err"
        code = finish(start_script(folder, script, *arguments, out=out, err=err))
        return code, out.read_text(), err.read_text()


def _script(folder, path, arguments, out, err):
    for file, stream in ((out, sys.stdout), (err, sys.stderr)):
        with open(file, "wb") as written:
            os.dup2(written.fileno(), stream.fileno())
    os.chdir(folder)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
