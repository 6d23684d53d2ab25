"""Put a run to use: `python scripts/apply.py RUN TASK`, as `python scripts/apply.py runs/digits denoise --seed 1`.

Numbers, figures and files are kept in the folder RUN/TASK. `python scripts/apply.py RUN TASK --help` lists the task's
options.
"""

from pathlib import Path

from pyrovae import options, runs, tasks


def parser() -> options.Parser:
    """The options: a run, and a task with its own."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("run", type=str, help="folder of the run")
    commands = parser.add_subcommands(dest="task")
    for name, task in tasks.TASKS.items():
        what = task.__doc__.partition("\n")[0]
        command = options.Parser(description=what)
        command.add_function_arguments(task, as_group=False, skip={"run"})
        commands.add_subcommand(name, command, help=what)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    reader = parser()
    chosen = reader.parse_args(arguments)
    choices = reader.instantiate(chosen)[chosen.task]
    if not 0 <= choices.seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2^32 - 1, not {choices.seed}")
    run, folder = runs.load(chosen.run), Path(chosen.run) / chosen.task
    result = tasks.TASKS[chosen.task](run, **vars(choices))
    tasks.write(result, folder)
    print(f"{result.summary}\nkept in {folder}")


if __name__ == "__main__":
    options.command(main, "the same command starts again")
