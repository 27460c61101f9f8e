"""Compare two checkouts of the package: the work of the speed page's rows, turn by turn (A B A B ...) within one run.

usage: python benchmarks/before_after.py BEFORE AFTER [--repeats 5] [--only NAME ...] [--store NAME]

BEFORE and AFTER are folders that hold `aequa_lite`, for instance one of `git worktree add ../before COMMIT` and `.`;
of version 0.1 the last commit is 102c327. Each has a process of its own, which waits while the other one computes. A ratio
is time before / time after: above 1 the second is faster. The results' sum is compared before any clock: what does other
work is marked. `--store` writes the rows to results/speed/NAME.csv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


def named_as_today(aq: Any) -> Any:
    """The package; version 0.1 with the names that the cases use."""
    if hasattr(aq, "Config"):
        return aq

    def federate(*args: Any, strategy: Any, policy: Any, workers: int | None, progress: bool) -> Any:
        return aq.federate(*args, scheme=strategy, policy=policy, count=workers, progress=progress)

    used = [
        "load",
        "stream",
        "Shard",
        "slimmable",
        "accuracy_curve",
        "slim",
        "full_and_random",
        "full_only",
        "MLP",
        "LeNet",
    ]
    data = SimpleNamespace(homogeneous=aq.homogeneous)
    return SimpleNamespace(
        **{name: getattr(aq, name) for name in used},
        Config=aq.Recipe, init_params=aq.initial, data=data, federate=federate,
    )  # fmt: skip


def cases() -> dict[str, Callable[[], Any]]:
    """What is timed, by the name of its row; each returns a number or tensors."""
    import torch

    import aequa_lite

    aq = named_as_today(aequa_lite)
    data = aq.load("fashion-mini", device="cpu")

    def train(
        build: Any, sampler: Any = aq.full_and_random, width: float = 1.0, workers: int | None = None, **fields: Any
    ) -> Any:
        config = aq.Config(**{"participants": 10, "rounds": 2, "local_steps": 15, "batch": 64, "lr": 0.002, **fields})
        everyone = (width,) * config.participants
        if config.participants > 10:
            drawn = [aq.stream(0, "shard", i).permutation(len(data.train))[:64] for i in range(config.participants)]
            shards = [aq.Shard(i, data.train.take(mine), mine) for i, mine in enumerate(drawn)]
        else:
            shards = aq.data.homogeneous(data.train, config)
        options = {
            "strategy": aq.slimmable(build, sampler),
            "policy": lambda config, last: everyone,
            "workers": workers,
        }
        for last in aq.federate(build, shards, config, progress=False, **options):
            pass
        return list(last.theta.values())

    def curve(build: Any) -> Any:
        return aq.accuracy_curve(build, aq.init_params(build, 0), data.validation).accuracy

    def use(build: Any, width: float, size: int) -> Any:
        net, x = aq.slim(build, aq.init_params(build, 0), width).eval(), data.test.x[:size]
        with torch.inference_mode():
            return [net(x) for _ in range(max(3, 2000 // size))][-1:]

    found: dict[str, Callable[[], Any]] = {}
    for name, build in {"MLP": aq.MLP, "LeNet": aq.LeNet}.items():
        found |= {
            f"{name}, 10 participants": lambda b=build: train(b),
            f"{name}, 10 participants, 1 worker": lambda b=build: train(b, workers=1, rounds=1),
            f"{name}, 1 participant, full width only": lambda b=build: train(
                b, aq.full_only, workers=1, participants=1, local_steps=60
            ),
            f"{name}, curve of all widths": lambda b=build: curve(b),
            f"{name}, reward of width 0.2, one image": lambda b=build: use(b, 0.2, 1),
            f"{name}, reward of width 1, 256 images": lambda b=build: use(b, 1.0, 256),
        }
    few = {"participants": 4, "rounds": 1}
    found |= {
        "LeNet, 100 participants": lambda: train(aq.LeNet, participants=100, rounds=1, local_steps=2, batch=32),
        "LeNet, width 0.2": lambda: train(aq.LeNet, width=0.2, widths_per_step=0, **few),
        "LeNet, 5 widths in a step": lambda: train(aq.LeNet, widths_per_step=4, **few),
    }
    return found


def serve() -> None:
    """Run the cases that are asked for, one a line; answer with the seconds and the sum of what came out."""
    known = cases()
    for line in sys.stdin:
        run = known[line.strip()]
        started = time.perf_counter()
        found = run()
        seconds = time.perf_counter() - started
        print(seconds, float(np.sum([np.abs(np.asarray(each, dtype=float)).sum() for each in found])), flush=True)


def started(folder: Path) -> subprocess.Popen[str]:
    """A process that imports the package from this folder."""
    env = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    command = [sys.executable, __file__, "--serve"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=folder)


def asked(process: subprocess.Popen[str], name: str) -> tuple[float, float]:
    """Seconds and sum of one case."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(name + "\n")
    process.stdin.flush()
    seconds, total = map(float, process.stdout.readline().split())
    return seconds, total


def main() -> None:
    if "--serve" in sys.argv:
        return serve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--store", metavar="NAME", default="")
    given = parser.parse_args()
    both = [started(given.before), started(given.after)]
    rows = []
    print(f"{'':42} before, s   after, s   by minima   turn by turn")
    for name in given.only or cases():
        (_, a), (_, b) = (asked(each, name) for each in both)
        same = "" if a == b else f"   other results: {a:.9g}, {b:.9g}"
        turns = np.array([[asked(each, name)[0] for each in both] for _ in range(given.repeats)])
        least, ratio = turns.min(0), np.median(turns[:, 0] / turns[:, 1])
        print(f"{name:42} {least[0]:9.4f} {least[1]:10.4f} {least[0] / least[1]:11.3f} {ratio:14.3f}{same}", flush=True)
        apart = abs(a - b) / max(abs(a), 1e-12)
        rows.append({
            "case": name, "before_min": round(least[0], 4), "after_min": round(least[1], 4),
            "ratio_min": round(least[0] / least[1], 3), "ratio_median": round(ratio, 3),
            "repeats": given.repeats, "difference": apart,
        })  # fmt: skip
    for each in both:
        each.communicate()
    if given.store:
        from measure import store, where  # here, since a process that serves imports another checkout

        store(given.store, rows, where("cpu"))
    return None


if __name__ == "__main__":
    main()
