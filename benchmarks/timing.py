"""What the speed benchmarks share: rounds in which callables take turns, ratios, rows of a table, and the machine.

A ratio is taken within a round, of two measurements that are neighbours in time, so that whatever slows the machine
down for a while slows both. What is told of the rounds is the median of their ratios, and the quartiles. Each round
turns the order of the last around, so that none always comes first. The first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

SHORT = 0.02
"""Seconds that a measurement takes at least: what is shorter is called several times in a row."""

ROUNDS = (3, 60)
"""The fewest and the most rounds of a comparison."""


class Quartiles(NamedTuple):
    """The median of measurements, and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        if len(values) == 1:
            return cls(*values * 3)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        what: was measured.
        ours, theirs: the medians, in this unit.
        peer: what leapstep is compared with.
        ratio: how many times as fast as the peer ("speed"), or how much of its time or memory leapstep takes.
        of: what the ratio is of.
        goal: the least speed, or the most time or memory; None: there is none.
        detail: whether it stands behind the table, in that of the details.
    """

    what: str
    ours: float
    theirs: float
    unit: str
    peer: str
    ratio: Quartiles
    of: Literal["speed", "time", "memory"] = "speed"
    goal: float | None = None
    detail: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio.median >= self.goal if self.of == "speed" else self.ratio.median <= self.goal

    def cells(self) -> list[str]:
        median, low, high = self.ratio
        ratio = f"{median:.3g}" if low == high else f"{median:.3g} ({low:.3g} to {high:.3g})"
        bound = {"speed": "at least", "time": "at most", "memory": "at most"}[self.of]
        return [
            self.what,
            f"{_short(self.ours)} {self.unit}",
            f"{self.peer}: {_short(self.theirs)} {self.unit}",
            f"{ratio} × the {self.of}",
            "" if self.goal is None else f"{bound} {self.goal:.3g}",
            {None: "", True: "yes", False: "no"}[self.met],
        ]


def _short(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class Seconds(dict[str, list[float]]):
    """Seconds of a call, by name, one in each round."""

    def median(self, name: str) -> float:
        return statistics.median(self[name])

    def ratio(self, over: str, under: str) -> Quartiles:
        """Of the time of one to that of another, round by round."""
        return Quartiles.of([a / b for a, b in zip(self[over], self[under], strict=True)])

    def speed(self, what: str, ours: str, peer: str, amount: float, unit: str, goal: float | None = None) -> Row:
        """How many times as fast as a peer; what each does in a call is this amount of a unit: pictures, GFLOP."""
        return Row(
            what,
            amount / self.median(ours),
            amount / self.median(peer),
            f"{unit}/s",
            peer,
            self.ratio(peer, ours),
            "speed",
            goal,
        )

    def cost(self, what: str, ours: str, peer: str, calls: int = 1, goal: float | None = None) -> Row:
        """How much of the time of a peer; a call makes so many steps, of which milliseconds are told."""
        ours_, theirs = (1000 * self.median(name) / calls for name in (ours, peer))
        return Row(what, ours_, theirs, "ms", peer, self.ratio(ours, peer), "time", goal)


def rounds(
    runs: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    limits: tuple[int, int] = ROUNDS,
    short: float | None = SHORT,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], object] = bool,
) -> Seconds:
    """Let callables take turns.

    Arguments:
        runs: the callables by name.
        seconds: after which no further round begins.
        limits: the fewest and the most rounds that are counted.
        short: seconds that a measurement takes at least; None: it is one call, and the first counts.
        clock: the seconds now.
        settle: called before the clock is read, to wait for a device.
    Returns:
        seconds of a call.
    """

    def measured(run: Callable[[], object], times: int) -> float:
        settle()
        began = clock()
        for _ in range(times):
            run()
        settle()
        return (clock() - began) / times

    threads, began, fewest, most = torch.get_num_threads(), clock(), *limits
    repeats = dict.fromkeys(runs, 1)
    for name, run in runs.items() if short is not None else ():
        first = measured(run, 1)
        again = measured(run, 1) if first < 50 * short else first  # the first call may have built something
        repeats[name] = max(1, math.ceil(short / max(again, 1e-7)))
    taken, order = Seconds({name: [] for name in runs}), list(runs)
    for number in range(most):
        if number >= fewest and clock() - began > seconds:
            break
        order.reverse()
        for name in order:
            torch.set_num_threads(threads)  # whatever the last one left
            taken[name].append(measured(runs[name], repeats[name]))
    return taken


@dataclasses.dataclass(frozen=True)
class Bench:
    """How a benchmark runs.

    Attributes:
        device: where networks and samples are.
        smoke: whether everything is tried in its smallest setting, and figures mean nothing.
    """

    device: torch.device
    smoke: bool = False

    def rounds(self, runs: Mapping[str, Callable[[], object]], seconds: float, fewest: int = ROUNDS[0]) -> Seconds:
        settle = torch.cuda.synchronize if self.device.type == "cuda" else bool
        if self.smoke:
            return rounds(runs, 0.0, limits=(1, 1), short=None, settle=settle)
        return rounds(runs, seconds, limits=(fewest, ROUNDS[1]), settle=settle)

    def least(self, usual: Any, smallest: Any) -> Any:
        """A setting, or the smallest there is of it where all is only tried."""
        return smallest if self.smoke else usual


Case = Callable[[Bench], Iterator[Row]]

PRODUCTS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
"""Types of matrix products, by name."""


def product(bench: Bench, kind: str) -> tuple[Callable[[], object], float]:
    """A matrix product of this type, the fastest thing that the machine can do, and its operations in units of 1e9."""
    n, dtype = bench.least(2048 if bench.device.type == "cpu" else 8192, 64), PRODUCTS[kind]
    a, b = (torch.randint(-9, 9, (n, n)).to(bench.device, dtype) for _ in range(2))
    return lambda: torch._int_mm(a, b) if kind == "int8" else a @ b, 2e-9 * n**3


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were measured on, and with."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": " ".join([facts.get("model name", name), *units[-2:]]),
        **({"card": card} if card else {}),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(
            f"{package} {version}"
            for package in ("leapstep", "torch", "diffusers", "accelerate", "denoising-diffusion-pytorch")
            if (version := _version(package))
        ),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def goal(device: torch.device, with_bf16: float, without: float | None = None) -> float | None:
    """A goal that depends on whether the device computes in bf16 natively."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return with_bf16 if native else without


HEAD = ("measured", "leapstep", "peer", "ratio", "goal", "met")


def markdown(rows: Iterable[Row]) -> str:
    """The table of rows."""
    lines = [list(HEAD), ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def text(rows: Iterable[Row]) -> str:
    """The table of rows, in columns."""
    lines = [list(HEAD), *(row.cells() for row in rows)]
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in lines
    )


def main(
    cases: Mapping[str, Case],
    doc: str | None,
    options: Mapping[str, str] | None = None,
    named: Callable[[argparse.Namespace], Mapping[str, Case]] | None = None,
) -> None:
    """The command line of a benchmark: run its cases, show their rows, and write them as JSON where that is asked for.

    Arguments:
        cases: by name.
        doc: the module's docstring.
        options: names and helps of options of this benchmark alone.
        named: the cases that these options ask for, in place of the usual ones; none where they ask for nothing.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--only", default="", help=f"cases with this in their names: {', '.join(cases)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of a CPU; as PyTorch chooses by default")
    parser.add_argument("--smoke", action="store_true", help="try everything in its smallest setting; figures are void")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    for option, meaning in (options or {}).items():
        parser.add_argument(option, help=meaning)
    arguments = parser.parse_args()
    cases = (named and named(arguments)) or cases
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    bench, rows = Bench(torch.device(arguments.device), arguments.smoke), []
    for name, case in cases.items():
        if arguments.only in name:
            for row in case(bench):
                rows.append(row)
                print("  ".join(row.cells()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(bench.device), "rows": [r._asdict() for r in rows]}))
