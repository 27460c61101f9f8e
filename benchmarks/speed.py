"""Measure the training engine: every comparison within one run, correctness before any clock.

usage: python benchmarks/speed.py [NAME ...] [--again] [--device cpu|cuda] [--folder results/speed]

NAME: plain, overhead, workers, passes, growth, reward (default: all; about five minutes on two quiet cores). What this machine
has already measured with these versions is kept unless --again; a run that was broken off goes on. Leave OMP_NUM_THREADS
unset: the plain loop gets torch's default threads. `python benchmarks/page.py` then writes the tables into the book.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import (
    CORES,
    TABLES,
    agree,
    alone,
    apart,
    compared,
    held_mb,
    in_turn,
    measured,
    peak_mb,
    slope,
    store,
    wait,
    where,
)
from plain import bare, rounds

import aequa_lite as aq
from aequa_lite import networks
from aequa_lite.local import WidthSampler
from aequa_lite.slimmable import Build

NETS: dict[str, Build] = {"MLP": aq.MLP, "LeNet": aq.LeNet}
PASSES: dict[str, tuple[str, Build, dict[str, int]]] = {  # from few numbers to many
    "TabularMLP, 16 units": ("hospitals", networks.TabularMLP, {"hidden": 16}),
    "TabularMLP": ("hospitals", networks.TabularMLP, {}),
    "MLP, 40 units": ("fashion-mini", aq.MLP, {"hidden": 40}),
    "MLP": ("fashion-mini", aq.MLP, {}),
    "LeNet": ("fashion-mini", aq.LeNet, {}),
    "ResNet18, 8 channels": ("fashion-mini", networks.ResNet18, {"channels": 8}),
}


@dataclass(frozen=True)
class Scale:
    """How much of everything: the real size by default; tests make it tiny."""

    participants: int = 10
    rounds: int = 6
    local_steps: int = 15
    batch: int = 64
    repeats: int = 3
    threads: int = CORES
    bare_steps: int = 400
    in_a_pass: tuple[int, ...] = (5, 50)
    crowds: tuple[int, ...] = (5, 20, 100, 1000)
    widths: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
    widths_per_step: tuple[int, ...] = (0, 1, 2, 4, 8)
    batches: tuple[int, ...] = (1, 256)


def config_of(scale: Scale, **changes: Any) -> aq.Config:
    """The recipe that all ways of a comparison share.

    Its rate is small: over a hundred steps a large one turns the last digit of a sum into another network.
    """
    fields = {name: getattr(scale, name) for name in ("participants", "rounds", "local_steps", "batch")}
    return aq.Config(**{**fields, "lr": 0.002, **changes})


def final(
    build: Build,
    shards: Sequence[aq.Shard],
    config: aq.Config,
    width_sampler: WidthSampler = aq.full_and_random,
    **options: Any,
) -> list[torch.Tensor]:
    """Train together with the package; the final state as a list of tensors."""
    strategy = aq.slimmable(build, width_sampler=width_sampler)
    for last in aq.federate(build, shards, config, strategy=strategy, progress=False, **options):
        pass
    return list(last.theta.values())


def with_threads(threads: int, rival: Callable[[], Any]) -> Callable[[], Any]:
    """The rival with that many intra-op threads, which are put back afterwards."""

    def run() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return rival()
        finally:
            torch.set_num_threads(before)

    return run


def plain(net: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """Against the plainest sequential loop that does the same work, written in two ways, with two settings of threads."""
    build, rows = NETS[net], []
    config = config_of(scale)
    shards = aq.data.homogeneous(aq.load("fashion-mini", device=device).train, config)
    rivals = {"aequa_lite": with_threads(scale.threads, lambda: final(build, shards, config))}
    if device == "cuda":  # where the default is to train all participants in one pass
        rivals["aequa_lite, one by one"] = lambda: final(build, shards, config, vectorized=False)
    for sliced, words in ((False, "narrow copies"), (True, "sliced weights")):
        for threads in sorted({scale.threads, 1}, reverse=True):
            way = with_threads(threads, lambda s=sliced: rounds(build, shards, config, sliced=s))
            rivals[f"plain loop, {words}, {threads} thread{'s' * (threads > 1)}"] = way
    seconds, found = in_turn(rivals, scale.repeats, device)
    for row in compared(seconds, "aequa_lite"):
        rows.append({"net": net, **row, "difference": agree(found[row["way"]], found["aequa_lite"])})
    return rows


def overhead(net: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """What the loop costs beyond forward, backward and step: one participant, one worker, full width only."""
    build, rows = NETS[net], []
    config = config_of(scale, participants=1, rounds=2, local_steps=scale.bare_steps // 2)
    shards = aq.data.homogeneous(aq.load("fashion-mini", device=device).train, config)
    rivals = {
        "aequa_lite": with_threads(1, lambda: final(build, shards, config, aq.full_only, workers=1, vectorized=False)),
        "bare steps": with_threads(1, lambda: bare(build, shards[0], config)),
    }
    seconds, found = in_turn(rivals, 2 * scale.repeats, device)
    difference = agree(found["bare steps"], found["aequa_lite"])
    for row in compared(seconds, "bare steps"):
        row["times_bare_min"], row["times_bare_median"] = row.pop("times_ours_min"), row.pop("times_ours_median")
        rows.append({"net": net, **row, "difference": difference})
    return rows


def workers(net: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """One, two and four workers: the same bits, less time."""
    build, rows = NETS[net], []
    config = config_of(scale)
    shards = aq.data.homogeneous(aq.load("fashion-mini", device=device).train, config)
    rivals = {
        str(count): (lambda count=count: final(build, shards, config, workers=count, vectorized=False))
        for count in (1, 2, 4)
    }
    seconds, found = in_turn(rivals, scale.repeats, device)
    assert apart(found["1"], found["2"]) == apart(found["1"], found["4"]) == 0
    for row in compared(seconds, "1"):
        faster = {"speedup_min": 1 / row.pop("times_ours_min"), "speedup_median": 1 / row.pop("times_ours_median")}
        rows.append({"net": net, "workers": int(row.pop("way")), **row, **_rounded(faster), "same_bits": True})
    return rows


def passes(net: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """Participants one by one against all in one pass; few and many, each with two small batches' worth of samples."""
    data, build, options = PASSES[net]
    loaded, rows = aq.load(data, device=device), []
    build = aq.for_dataset(build, loaded, **options)
    for n in scale.in_a_pass if net != "ResNet18, 8 channels" else scale.in_a_pass[:1]:
        config = config_of(
            scale, participants=n, rounds=2, local_steps=max(2, min(scale.local_steps, 40 // n)), batch=16
        )
        drawn = [aq.stream(0, "shard", i).permutation(len(loaded.train))[:32] for i in range(n)]
        shards = [aq.Shard(i, loaded.train.take(mine), mine) for i, mine in enumerate(drawn)]
        ways = {"one by one": False, "one pass": True}
        rivals = {way: partial(final, build, shards, config, vectorized=at_once) for way, at_once in ways.items()}
        seconds, found = in_turn(rivals, 2 * scale.repeats, device)
        difference = agree(found["one by one"], found["one pass"])
        for row in compared(seconds, "one by one"):
            faster = {"speedup_min": 1 / row.pop("times_ours_min"), "speedup_median": 1 / row.pop("times_ours_median")}
            size = aq.n_parameters(build(1.0))
            rows.append(
                {"net": net, "numbers": size, "participants": n, **row, **_rounded(faster), "difference": difference}
            )
    return rows


def _rounded(values: dict[str, float]) -> dict[str, float]:
    """Three digits are more than a noisy machine gives."""
    return {name: round(value, 3) for name, value in values.items()}


def growth(net: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """Time and memory of a round against participants, width, and widths in a step: each case in a fresh process."""
    cases = [("participants", n, {"participants": n, "local_steps": 2, "batch": 32}) for n in scale.crowds]
    cases += [("width", w, {"width": w, "widths_per_step": 0}) for w in scale.widths]
    cases += [("widths in a step", 1 + k, {"widths_per_step": k}) for k in scale.widths_per_step]
    rows = []
    for axis, value, changes in cases:
        case = {"participants": 4, "local_steps": scale.local_steps, "batch": scale.batch, "width": 1.0, **changes}
        case |= {"net": net, "device": device, "repeats": scale.repeats}
        rows.append({"net": net, "axis": axis, "value": value, **alone("speed.py", "--case", json.dumps(case))})
    for axis in dict.fromkeys(row["axis"] for row in rows):
        mine = [row for row in rows if row["axis"] == axis]
        for each in ("seconds", "own_mb"):
            exponent = slope([row["value"] for row in mine], [max(row[each], 1e-6) for row in mine])
            for row in mine:
                row[f"{each}_slope"] = round(exponent, 2)
    return rows


def one_case(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of the quickest round, and the process's peak memory; printed for the process that asked."""
    net, device, width, repeats = (case.pop(each) for each in ("net", "device", "width", "repeats"))
    config = aq.Config(rounds=1 + max(1, min(repeats, 2000 // (case["participants"] * case["local_steps"]))), **case)
    train = aq.load("fashion-mini", device=device).train
    shards = []  # 64 samples each, drawn anew for each: everyone's work is the same, however many they are
    for i in range(config.participants):
        mine = aq.stream(0, "shard", i).permutation(len(train))[:64]
        shards.append(aq.Shard(i, train.take(mine), mine))
    before, seconds, loss = held_mb(), [], np.inf
    everyone = (width,) * config.participants
    running = aq.federate(NETS[net], shards, config, policy=lambda config, last: everyone, progress=False)
    for _ in range(config.rounds):
        started = time.perf_counter()
        loss = next(running).loss
        wait(device)
        seconds.append(time.perf_counter() - started)
    assert np.isfinite(loss)
    memory = {"peak_mb": round(peak_mb()), "own_mb": round(max(1.0, peak_mb() - before))}
    if device == "cuda":
        memory["gpu_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    return {"seconds": round(min(seconds[1:]), 4), **memory}  # the first round warms up


@torch.inference_mode()
def reward(net: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """What a reward costs to use at every width: seconds of a batch, its numbers, the memory of its activations."""
    theta = {k: t.to(device) for k, t in aq.init_params(NETS[net], 0).items()}
    images = aq.load("fashion-mini", device=device).test.x
    return [row for size in scale.batches for row in _inference(net, theta, images[:size], scale, device)]


def _inference(net: str, theta: Any, x: torch.Tensor, scale: Scale, device: str) -> Iterator[dict[str, Any]]:
    """A row for each width, for batches of one size."""
    rewards = {width: aq.slim(NETS[net], theta, width).eval() for width in scale.widths}
    turns = max(3, 300 // len(x))
    rivals = {
        str(width): with_threads(1, lambda each=each: [each(x) for _ in range(turns)])
        for width, each in rewards.items()
    }
    seconds, found = in_turn(rivals, 2 * scale.repeats, device)
    for width, each in rewards.items():
        assert torch.allclose(
            found[str(width)][0], aq.view(NETS[net], theta, width)(x), atol=1e-5
        )  # the wide net's view
        taken = seconds[str(width)]
        yield {
            "net": net,
            "batch": len(x),
            "width": width,
            "microseconds_min": round(1e6 * min(taken) / turns, 1),
            "microseconds_median": round(1e6 * float(np.median(taken)) / turns, 1),
            "parameters": aq.n_parameters(each),
            "parameters_kb": round(4 * aq.n_parameters(each) / 1e3, 1),
            "activations_kb": round(activations(each, x) / 1e3, 1),
        }


def activations(net: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes of the largest input and output that one layer holds together while it runs."""
    sizes: list[int] = []

    def note(layer: torch.nn.Module, given: tuple[torch.Tensor, ...], said: torch.Tensor) -> None:
        sizes.append(sum(t.numel() * t.element_size() for t in (*given, said)))

    hooks = [layer.register_forward_hook(note) for layer in net.children()]
    net(x)
    for hook in hooks:
        hook.remove()
    return max(sizes)


BENCHMARKS = {each.__name__: each for each in (plain, overhead, workers, passes, growth, reward)}


def rows_of(name: str, scale: Scale, device: str) -> list[dict[str, Any]]:
    """All rows of one benchmark; growth is about LeNet alone."""
    nets = {"growth": ["LeNet"], "passes": PASSES}.get(name, NETS)
    return [row for net in nets for row in BENCHMARKS[name](net, scale, device)]


def main() -> None:
    """Run what is asked for and not yet measured here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--again", action="store_true", help="measure anew what this machine has already measured")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--folder", type=Path, default=TABLES)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(one_case(asked.case)))
        return
    if unknown := sorted(set(asked.names) - set(BENCHMARKS)):
        sys.exit(f"there is no benchmark {unknown[0]!r}; allowed are {', '.join(BENCHMARKS)}")
    here = where(asked.device)
    for name in asked.names or BENCHMARKS:
        if measured(name, here, asked.folder) and not asked.again:
            print(f"{name}: measured here already (--again measures anew)")
            continue
        started = time.perf_counter()
        table = store(name, rows_of(name, Scale(), asked.device), here, asked.folder)
        print(
            f"{name}, {time.perf_counter() - started:.0f} s\n{table.iloc[:, :9].to_string(index=False)}\n", flush=True
        )


if __name__ == "__main__":
    main()
