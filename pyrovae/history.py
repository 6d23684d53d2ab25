"""What a training tells: a row for each epoch."""

import csv
import math
from pathlib import Path
from typing import Any

from pyrovae.files import whole

__all__ = ["History"]


class History(list):
    """One dictionary for each epoch, each term on its own, in nats per datum (means over the epoch's steps).

    `objective` is what was maximised; `elbo`, `reconstruction` and `kl` are the ELBO and its terms on the training data
    as the steps met them; `valid_elbo` and so on are the same on the validation data after the epoch, with the same
    noise in all epochs, beside `valid_log_likelihood`, log p(x), if there is more than one draw for each datum;
    `learning_rate` is the first group's; `seconds` is the epoch's time, with that for telling the ELBO where an
    estimator does not draw from q(z | x), but without validation. An objective with weights of its own has a column for
    each of them, as of the epoch's last step. Where batches may be skipped, `skipped` counts them.
    """

    def __getitem__(self, key: int | slice | str) -> Any:
        """An epoch's row by its index, or a column by its name."""
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def to_csv(self, path: str | Path) -> None:
        """Write one row an epoch, whole or not at all."""
        with whole(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self[0]) if self else ["epoch"])
            writer.writeheader()
            writer.writerows(self)

    def best(self, warm_up: int) -> int:
        """The epoch with the best validation ELBO of those after the warm-up, from 1, or the last before them."""
        return max(self[warm_up:], key=lambda row: row["valid_elbo"], default={"epoch": len(self)})["epoch"]

    def is_over(self, epochs: int, patience: int | None, warm_up: int, max_seconds: float | None) -> bool:
        """Whether no further epoch shall begin."""
        late = self and sum(self["seconds"]) + self[-1]["seconds"] > (max_seconds or math.inf)
        waited = patience and len(self) - self.best(warm_up) >= patience
        return bool(len(self) >= epochs or late or waited)
