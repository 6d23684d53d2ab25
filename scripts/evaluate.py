"""Score a run on its test data and draw its figures anew: `python scripts/evaluate.py runs/digits`.

With `--report` it is diagnosed, too: how tight the bounds are, what is to blame, what the latent variables do, and
whether the model is any good, in one page, `report.html` in the run's folder, and in words at the end of the output.
With `--export` the latent variables of the first thousand test data are written for ArviZ, to `inference_data.nc`, and
for TensorBoard, to the folder `projector`, and the weights, to hand on, to `weights.safetensors`.
In several processes, each scores a share of the data: `torchrun --nproc-per-node 2 scripts/evaluate.py ...`
"""

import json
from pathlib import Path

from pyrovae import diagnosis, distributed, export, options, page, runs, section
from pyrovae.files import whole, write_json
from pyrovae.one_vector import require_one_vector


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = options.Parser(description=__doc__)
    parser.add_argument("run", type=str, help="folder of the run")
    parser.add_argument(
        "--num_samples",
        type=int | None,
        default=None,
        help="draws for each datum for log p(x); unless given, the run's",
    )
    parser.add_argument("--tsne", action="store_true", help="draw the latent means by t-SNE too")
    parser.add_argument("--report", action="store_true", help="diagnose the run and write report.html to its folder")
    parser.add_argument("--json", action="store_true", help="diagnose the run and write report.json to its folder")
    parser.add_argument(
        "--export", action="store_true", help="write latent variables for ArviZ and TensorBoard, and weights"
    )
    choices = parser.parse_args(arguments)
    if choices.export:
        export.require("arviz_base", "h5netcdf", "tensorboard", "safetensors")  # before hours of work
    folder = Path(choices.run)
    with distributed.started():
        with distributed.Processes.here().in_turn():
            run = runs.load(folder)
        for what in ("report", "json", "export"):
            if choices[what]:
                require_one_vector(run.vae, run.dataset.test, f"--{what}")
        num_samples = run.options.num_samples if choices.num_samples is None else choices.num_samples
        metrics = runs.report(run, folder, num_samples, choices.tsne)
    if metrics is None:  # the first process goes on alone
        return
    print(json.dumps(metrics, indent=2))
    if choices.report or choices.json:
        sections = list(diagnosis.diagnose(run, num_samples))
        if choices.report:
            with whole(folder / "report.html") as path:
                path.write_text(page.page(f"Diagnosis of {folder.resolve().name}", sections), encoding="utf-8")
        if choices.json:
            write_json(folder / "report.json", section.to_dict(sections))
        print(*sections[-1].sentences, sep="\n")
    if choices.export:
        x, labels = run.dataset.test[:1000], run.dataset.labels and run.dataset.labels.test[:1000]
        with whole(folder / "inference_data.nc") as path:
            export.inference_data(run.vae, x, labels=labels, seed=run.options.seed).to_netcdf(path)
        export.projector(run.vae, x, folder / "projector", labels)
        export.weights(run.vae, folder / "weights.safetensors")


if __name__ == "__main__":
    options.command(main)
