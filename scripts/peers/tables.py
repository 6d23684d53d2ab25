"""What was measured, as text and as rows of figures."""

from typing import Any

import pandas as pd

__all__ = ["epoch_line", "growth", "line", "ratios", "text"]

_NOTES = """\
- over ...: median (quartiles) over rounds of the time of a step, over that of something else in the same round.
- products: a step's matrix products alone, forward and backward, on tensors that are there already.
- traffic: a copy of as many bytes as a step moves, 4 (10 P + 6 A + 2 B X), for P parameters, A outputs of linear layers
  and B data of X pixels, within as much memory as parameters, gradients, moments and outputs take.
- of rate: operations a second of these products, of those of the best large square product of float32.
- first, third step: seconds from construction until it is done, in a process of its own, with nothing compiled before.
- memory: the most that such a process held, and when its imports were done; on a GPU, the most that tensors took."""


def line(result: dict[str, Any]) -> str:
    """A case in a line."""
    times = [f"{name} {1e3 * of['seconds']['median']:.3g}" for name, of in result["contenders"].items()]
    return f"{result['case']['name']}: {', '.join(times)} (ms a step)"


def epoch_line(result: dict[str, Any]) -> str:
    """An epoch against bare steps in a line."""
    return (
        f"{result['contender']}: an epoch of fit of {result['steps']} steps takes {_spread(result['ratio'])} times as "
        f"long as bare steps, {result['epoch_seconds']['median']:.3g} s"
    )


def text(results: dict[str, Any]) -> str:
    """All of it in Markdown."""
    machine = results["machine"]
    place = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} threads"
    parts = [f"{place}, torch {machine['torch']}, {results['settings']['rounds']} rounds"]
    if rows := [_row(case, name) for case in results["cases"] for name in case["contenders"]]:
        parts += [pd.DataFrame(rows).fillna("").to_markdown(index=False), _NOTES]
    if rows := [_short(case, name) for case in results["growth"] for name in case["contenders"]]:
        parts += [pd.DataFrame(rows).to_markdown(index=False)]
    parts += ["\n".join(f"- {epoch_line(epoch)}" for epoch in results["epochs"])] if results["epochs"] else []
    parts += [f"Left out: {name}: {reason}" for name, reason in results["left_out"].items()]
    return "\n\n".join(parts) + "\n"


def ratios(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Ratios of times to the reference's, a row for each case and contender."""
    return [
        {"case": case["case"]["name"], "contender": name, "reference": case["reference"], **of["ratio"]}
        for case in results["cases"]
        for name, of in case["contenders"].items()
    ]


def growth(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds a step along what grows, a row for each case and contender, the matrix products being one."""
    rows = []
    for case in results["growth"]:
        value = case["case"][{"K": "num_particles", "batch": "batch_size", "width": "hidden"}[case["along"]]]
        seconds = {name: of["seconds"] for name, of in case["contenders"].items()}
        seconds["matrix products"] = case["work"]["matrix_products"]
        rows += [{"along": case["along"], "value": value, "contender": name, **s} for name, s in seconds.items()]
    return rows


def _short(case: dict[str, Any], name: str) -> dict[str, str]:
    of = case["contenders"][name]
    return {
        "case": case["case"]["name"],
        "contender": name,
        "ms a step": f"{1e3 * of['seconds']['median']:.3g}",
        f"over {case['reference']}": _spread(of["ratio"]),
    }


def _row(case: dict[str, Any], name: str) -> dict[str, str]:
    of = case["contenders"][name]
    floors = {}
    if "work" in case:
        floors = {
            "over products": _spread(of["over_matrix_products"]),
            "over traffic": _spread(of["over_traffic"]),
            "of rate": f"{100 * of['share_of_rate']:.0f} %",
        }
    return {
        **_short(case, name),
        **floors,
        "first step": f"{of['first_step_seconds']:.3g} s",
        "third step": f"{of['third_step_seconds']:.3g} s",
        "memory, MiB": f"{of['peak_mib']:.0f}" + (f" ({of['imports_mib']:.0f})" if "imports_mib" in of else ""),
    }


def _spread(of: dict[str, float]) -> str:
    return f"{of['median']:.2f} ({of['low']:.2f} to {of['high']:.2f})"
