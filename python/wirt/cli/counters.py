"""The accelerator's counters as `wirt run --accel-stats` shows them."""

from __future__ import annotations

from collections.abc import Mapping


def text(cpu: int, statistics: Mapping[str, int]) -> str:
    """Return lines `vcpuN: …` with the counters of one vCPU: first the plain ones, then those of each kind.

    A counter called `kind.name` stands in its kind's line, in the order given. Where blocks were translated,
    a line says what one took and how much longer host code is than guest code.
    """
    lines: dict[str, list[str]] = {"": []}
    for name, count in statistics.items():
        kind, dot, rest = name.partition(".")
        lines.setdefault(kind if dot else "", []).append(f"{rest if dot else name} {count}")
    texts = [f"{kind}: {', '.join(line)}" if kind else ", ".join(line) for kind, line in lines.items()]
    if blocks := statistics.get("translated", 0):
        microseconds = statistics["translation-ns"] / blocks / 1000
        growth = statistics["host-bytes"] / statistics["guest-bytes"]
        texts.insert(1, f"translation: {microseconds:.1f} us a block, code growth {growth:.1f}x")
    return "\n".join(f"vcpu{cpu}: {line}" for line in texts)
