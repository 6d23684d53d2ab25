"""A run without a class: the same options, trained again on data that have none of it."""

from dataclasses import replace

from pyrovae import runs
from pyrovae.data import Dataset
from pyrovae.runs import Run
from pyrovae.training import fit

__all__ = ["without"]


def without(run: Run, label: int, epochs: int) -> Run:
    """A run of the same options whose training and validation data lack a class; its test data are all.

    Args:
        run: the run.
        label: of the class.
        epochs: passes over the data.
    """

    def subset(dataset: Dataset) -> Dataset:
        keep = {part: getattr(dataset.labels, part) != label for part in ("train", "valid")}
        kept = {part: getattr(dataset, part)[mask] for part, mask in keep.items()}
        labels = dataset.labels._replace(**{part: getattr(dataset.labels, part)[mask] for part, mask in keep.items()})
        return replace(dataset, **kept, labels=labels)

    vae, dataset, arguments = runs.prepare(run.options, subset)
    options = runs.taken(fit, arguments) | {"epochs": epochs, "progress": False}
    return Run(vae, dataset, fit(vae, dataset.train, dataset.valid, **options), run.options)
