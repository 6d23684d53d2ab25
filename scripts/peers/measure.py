"""The measurement of a case: agreement first, then rounds of all contenders and of the machine itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peers import OURS, load
from peers.agreement import require_agreement
from peers.case import Case
from peers.floor import MatrixProducts, SquareProduct, Traffic
from peers.timing import interleaved

__all__ = ["measure", "quartiles"]

_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of square matrices


def measure(
    case: Case, names: Sequence[str], device: torch.device, rounds: int, round_seconds: float
) -> dict[str, Any]:
    """Times of a step of each contender, its ratios to ours compiled (or the first, without it) and to the floors.

    Args:
        case: what is trained.
        names: of the contenders.
        device: where.
        rounds: how many.
        round_seconds: of a turn, about.

    Raises:
        ValueError: if contenders do not compute the same thing.
    """
    torch.compiler.reset()  # or what was compiled for another case would count for this one, as of sizes that vary
    batches = case.batches(device)
    peers = {name: load(name)(case, batches) for name in names}
    told = require_agreement(case, peers, batches)
    floors = {}
    if case.normal:
        floors = {"matrix_products": MatrixProducts(case, device), "traffic": Traffic(case, device)}
    squares = {f"square_product_{size}": SquareProduct(size, device) for size in _SIZES[device.type]}
    seconds = interleaved({**peers, **floors, **squares}, rounds, round_seconds)
    rate = max(s.operations / min(seconds[name]) for name, s in squares.items())
    reference = OURS if OURS in names else names[0]

    def ratios(name: str, to: str) -> dict[str, float]:
        return quartiles(np.array(seconds[name]) / seconds[to])

    contenders = {
        name: {**told[name], "seconds": quartiles(seconds[name]), "ratio": ratios(name, reference)} for name in names
    }
    result = {"case": case.to_dict(), "reference": reference, "contenders": contenders}
    result |= {"operations_per_second": rate, "round_seconds": seconds}
    if case.normal:
        result["work"] = {key: getattr(case, key) for key in ("parameters", "operations", "bytes", "resident")}
        result["work"] |= {floor: quartiles(seconds[floor]) for floor in floors}
        for name, of in contenders.items():
            of |= {f"over_{floor}": ratios(name, floor) for floor in floors}
            of["share_of_rate"] = case.operations / of["seconds"]["median"] / rate
    return result


def quartiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Their median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"low": low, "median": median, "high": high}
