"""Compare a GPU with the CPU and measure it: one command, under nine minutes, tables in results/gpu.

usage: python benchmarks/gpu.py [--folder results/gpu] [--minutes 8.5] [--began SECONDS] [--tiny] [--pretend] [PART ...]

It ends with an error if the GPU disagrees or a part fails. Tables are written row by row, correctness first; where the
minutes are over, or the memory of the GPU, the rest is not measured. Minutes count from `--began`, seconds since 1970
(default: now).

equality.csv: weights trained on the GPU against those of the CPU, one by one and vectorised, without and with TF32.
determinism.csv: the same run twice, without and with `deterministic=True`.
launches.csv: kernel launches of a step, against a limit where it is vectorised, and how often it makes the host wait.
seeds.csv: seeds of the quickstart's training a minute, side by side; with the time of its first ten rounds.
precision.csv: float32, TF32, bfloat16 and float16: time, loss and accuracy after the same steps; losses are compared.
speed.csv: a step of 5 to 200 participants one by one, vectorised, compiled and with CUDA graphs; peak memory, and the
networks of all ways after the first round, compared. A row of CUDA graphs is an error if PyTorch has skipped them. No GPU
was at hand to verify that it records a step; tests on a CPU show only that it is told what it needs for that.
--pretend uses the pretend GPU of the tests (times mean nothing there, and nothing is compiled), --tiny makes everything
small, names of parts measure only these.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from measure import ROOT, apart, where

import aequa_lite as aq
from aequa_lite import networks, vectorized
from aequa_lite.types import Build

Row = dict[str, Any]
WORDS, LENGTH = 2000, 56  # of the random sentences
NETS: dict[str, tuple[Any, dict[str, int]]] = {
    "MLP": (aq.MLP, {}),
    "LeNet": (aq.LeNet, {}),
    "ConvNet": (networks.ConvNet, {}),
    "ResNet18": (networks.ResNet18, {"channels": 64}),
    "TextCNN": (networks.TextCNN, {}),
}
SMALL = {"ResNet18": {"channels": 16}, "TextCNN": {"embedding": 16, "maps": 16}}
WAYS = {"one by one": False, "vectorised": True}
MODES = {"compiled": None, "CUDA graphs": "reduce-overhead"}
# of weights around 0.1 after ten steps in float32: sums in another order, and max pooling that flips at a tie
TOLERANCE = {"MLP": 2e-4, "LeNet": 2e-4, "ConvNet": 2e-3, "ResNet18": 2e-3, "TextCNN": 1e-3}
# of a training loss, in fewer bits than float32; on a CPU a TextCNN's moved by 0.001
HALF = 0.02
# of a vectorised step: twice its operations on the pretend GPU, since a library may launch two kernels for one
LAUNCHES = {"MLP": 130, "LeNet": 200, "ConvNet": 290, "ResNet18": 1000, "TextCNN": 235}
COMPILING = {"ResNet18": 180.0}  # seconds that must be left before a network is compiled
SOON = 75.0  # the same for the others


def names(small: bool) -> list[str]:
    """The networks that are measured."""
    return ["MLP", "TextCNN"] if small else list(NETS)


def built(name: str, small: bool) -> Build:
    """The network of this name for what it is measured on."""
    build, options = NETS[name]
    if small:
        options = SMALL.get(name, options)
    text = {"shape": (LENGTH,), "classes": 2, "words": WORDS}
    return partial(build, **options, **(text if name == "TextCNN" else {"shape": (1, 28, 28), "classes": 10}))


def samples(name: str, device: str) -> tuple[aq.Samples, aq.Samples]:
    """Training and test samples: images, or sentences whose class is whether most of their tokens are small numbers."""
    if name != "TextCNN":
        data = aq.load("fashion-mini", device=device)
        return data.train, data.test
    x = aq.stream(0, "sentences").integers(2, WORDS, (4000, LENGTH))
    y = ((x < WORDS // 2).mean(1) > 0.5).astype(np.int64)
    both = aq.Samples(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device), 2)
    return both.take(slice(0, 3000)), both.take(slice(3000, None))


def setting(name: str, device: str, participants: int, **changes: Any) -> tuple[list[aq.Shard], aq.Config]:
    """Everybody with 128 samples drawn anew, so that each one's work is the same however many they are."""
    fields = {"participants": participants, "rounds": 2, "local_steps": 5, "batch": 64, "lr": 0.01, **changes}
    train, _ = samples(name, device)
    drawn = [aq.stream(0, "shard", i).permutation(len(train))[:128] for i in range(participants)]
    shards = [aq.Shard(i, train.take(torch.from_numpy(each).to(device)), each) for i, each in enumerate(drawn)]
    return shards, aq.Config(**fields)


def final(build: Build, shards: list[aq.Shard], config: aq.Config, **options: Any) -> aq.Round:
    """The last round of a federation."""
    for last in aq.federate(build, shards, config, progress=False, **options):
        pass
    return last


def difference(a: aq.Round, b: aq.Round) -> float:
    """The largest difference between two rounds' networks."""
    return apart(on_cpu(a), on_cpu(b))


def on_cpu(last: aq.Round) -> list[torch.Tensor]:
    """A round's network, away from the GPU's memory."""
    return [t.cpu() for t in last.theta.values()]


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products with ten bits of mantissa: PyTorch's default for convolutions, not for matrices."""
    flags = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [each.allow_tf32 for each in flags]
    for each in flags:
        each.allow_tf32 = on
    try:
        yield
    finally:
        for each, value in zip(flags, before, strict=True):
            each.allow_tf32 = value


def equality(small: bool) -> Iterator[Row]:
    """The GPU's weights against the CPU's."""
    for name in names(small):
        build = built(name, small=True)
        steps = {"batch": 16, "local_steps": 2 if small else 5}
        (mine, config), (shards, _) = (setting(name, device, 3, **steps) for device in ("cpu", "cuda"))
        plain = final(build, mine, config)
        for fast in (False,) if small else (False, True):
            for way, at_once in WAYS.items():
                with tf32(fast):
                    found = difference(final(build, shards, config, vectorized=at_once), plain)
                most = np.inf if fast else TOLERANCE[name]
                yield {"net": name, "way": way, "tf32": fast, "difference": found, "allowed": most, "ok": found <= most}


def determinism(small: bool) -> Iterator[Row]:
    """The same run twice."""
    for name in names(small):
        build, (shards, config) = built(name, small), setting(name, "cuda", 3, local_steps=2 if small else 5)
        for strict in (True,) if small else (False, True):
            for way, at_once in WAYS.items():
                options = {"vectorized": at_once, "deterministic": strict}
                found = difference(*(final(build, shards, config, **options) for _ in range(2)))
                yield {"net": name, "way": way, "strict": strict, "difference": found, "ok": found == 0 or not strict}


def spent(run: Callable[[], Any]) -> tuple[int, int]:
    """Kernel launches and waits of a run, counted by PyTorch's profiler and its warnings of synchronisation."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        run()
        torch.cuda.set_sync_debug_mode("default")
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    launches = sum(each.count for each in profile.key_averages() if "LaunchKernel" in each.key)
    return launches, sum("called a synchronizing" in str(each.message) for each in caught)  # not that it may miss some


def launches(small: bool, count: Callable[[Callable[[], Any]], tuple[int, int]] = spent) -> Iterator[Row]:
    """What one more step asks of the GPU; the first run of each is not counted."""
    for name in names(small):
        build = built(name, small)
        for way, at_once in WAYS.items():
            found = []
            for steps in (1, 2):
                shards, config = setting(name, "cuda", 3 if small else 10, rounds=1, local_steps=steps)
                run = partial(final, build, shards, config, vectorized=at_once)
                run()
                found.append(count(run))
            step, waits = (two - one for one, two in zip(*found, strict=True))
            most = LAUNCHES[name] if at_once else np.inf
            row = {"net": name, "way": way, "launches_a_step": step, "allowed": most, "waits_a_step": waits}
            yield {**row, "ok": waits == 0 and 0 < step <= most}


def timed(
    build: Build, shards: list[aq.Shard], config: aq.Config, seconds: float, **options: Any
) -> tuple[Row, list[torch.Tensor]]:
    """Milliseconds of a step, the GPU's peak memory, and the network after the first round.

    A step is what the quickest round of four times as many steps takes longer; what a round does besides is left out.
    """
    quickest, network, peak = [], None, 0.0
    for times in (1, 4):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held, ends = torch.cuda.memory_allocated(), []
        longer = replace(config, local_steps=times * config.local_steps)
        for rnd in (run := aq.federate(build, shards, longer, progress=False, **options)):
            network = on_cpu(rnd) if network is None else network
            del rnd  # its updates stay on the GPU until then
            torch.cuda.synchronize()
            ends.append(time.perf_counter())
            if len(ends) > 1 and ends[-1] - ends[0] > seconds:
                run.close()
                break
        quickest.append(float(np.diff(ends).min()))
        peak = max(peak, (torch.cuda.max_memory_allocated() - held) / 1e9)
    step = (quickest[1] - quickest[0]) / (3 * config.local_steps)
    return {"ms_a_step": 1e3 * step, "peak_gb": peak}, network


def precision(small: bool) -> Iterator[Row]:
    """The same steps in fewer bits."""
    kinds = {"float32": (None, False), "tf32": (None, True), "bfloat16": (torch.bfloat16, True),
             "float16": (torch.float16, True)}  # fmt: skip
    if torch.cuda.get_device_capability() < (8, 0):
        del kinds["bfloat16"]  # older cards only emulate it
    for name in names(small):
        build = built(name, small)
        _, test = samples(name, "cuda")
        rounds = {"rounds": 2, "local_steps": 2} if small else {"rounds": 6, "local_steps": 10, "lr": 0.05}
        shards, config = setting(name, "cuda", 3 if small else 10, **rounds)
        plain = None  # loss in float32
        for kind, (dtype, fast) in kinds.items():
            with tf32(fast):
                options = {"strategy": aq.slimmable(build, precision=dtype), "vectorized": True}
                took, _ = timed(build, shards, config, 1.0, **options)
                last = final(build, shards, config, **options)
            (right,) = aq.accuracy([aq.slim(build, last.theta, 1.0)], test)
            plain = last.loss if plain is None else plain
            ok = not last.total_left_out and abs(last.loss - plain) <= HALF  # not if it is no number
            row = {"net": name, "precision": kind, **took, "loss": last.loss, "accuracy": right, "allowed": HALF}
            yield {**row, "ok": ok}


@contextmanager
def compiled(mode: str | None = None) -> Iterator[None]:
    """Inside, a step is compiled whole: forward pass, gradient and update.

    Raises:
        RuntimeError: CUDA graphs were asked for, and PyTorch has skipped or not recorded them.
    """
    torch.compiler.reset()  # of one function PyTorch keeps eight compiled forms at most, and the memory of their graphs
    faster = torch.compile(vectorized._Stack.step, fullgraph=True, dynamic=False, mode=mode)
    done = torch._dynamo.utils.counters["inductor"]
    done.clear()
    with (
        mock.patch.object(vectorized._Stack, "step", in_place(faster) if mode else faster),
        torch._dynamo.config.patch(trace_autograd_ops=True),
    ):
        try:
            yield
        finally:
            torch.compiler.reset()  # what was compiled keeps memory
    if mode and (done["cudagraph_skips"] or not done["cudagraph_recorded_non_static_inputs"]):
        raise RuntimeError(f"CUDA graphs were skipped or not recorded: {dict(done)}")


def in_place(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A compiled step with what CUDA graphs need: they read and write the memory that they were recorded on.

    Without marks PyTorch skips graphs that change their arguments; in other memory it would record them anew every round.
    """
    first: dict[Any, list[torch.Tensor]] = {}  # by shape: what the first pass trained

    def replayed(stack: Any, *own: Any) -> torch.Tensor:
        now = [*stack.theta, *stack.velocity, stack.x, stack.y]
        held = first.setdefault(tuple(t.shape for t in now), now)
        if held[0] is not now[0]:
            torch._foreach_copy_(held, now)
            many = len(stack.theta)
            stack.theta, stack.velocity, (stack.x, stack.y) = held[:many], held[many:-2], held[-2:]
        for t in held:
            torch._dynamo.mark_static_address(t)
        return step(stack, *own).clone()  # the next replay writes where this one returned its losses

    return replayed


def seeds(small: bool) -> Iterator[Row]:
    """How many seeds of the quickstart's training one GPU takes in a minute, side by side."""
    train = aq.load("fashion-mini", device="cuda").train
    sizes, steps = (50, 200, 750, 2000, 3000), {"rounds": 1, "local_steps": 2} if small else {"rounds": 10}
    for many in (1, 2) if small else (1, 10, 50):
        configs = [aq.Config(participants=5, seed=seed, **steps) for seed in range(many)]
        runs = [(aq.data.by_size(train, config, sizes=sizes), config) for config in configs]
        began = time.perf_counter()
        aq.federate_many(aq.MLP, runs, vectorized=True)
        torch.cuda.synchronize()
        minutes = (time.perf_counter() - began) / 60 * aq.Config().rounds / configs[0].rounds
        short = [(shards, replace(config, rounds=min(2, config.rounds))) for shards, config in runs]
        last = aq.federate_many(aq.MLP, short, vectorized=True)  # rounding grows with the rounds
        worst = max(difference(each, final(aq.MLP, *short[i])) for i, each in enumerate(last[:2]))
        yield {
            "seeds": many,
            "seeds_a_minute": many / minutes,
            "difference": worst,  # of a federation with others beside it and by itself
            "ok": worst <= 10 * TOLERANCE["MLP"],
        }


def speed(small: bool, left: Callable[[], float], modes: Sequence[str] = tuple(MODES)) -> Iterator[Row]:
    """Few and many participants, one by one and vectorised, then compiled; small networks first.

    Nothing is compiled where fewer than `COMPILING` of the seconds `left` remain.
    """
    counts = (2,) if small else (10, 50, 5, 200)
    plain: dict[tuple[str, int], list[torch.Tensor]] = {}  # the networks of who trained one by one
    ways = [(way, many, name) for many in counts for name in names(small) for way in WAYS]
    ways += [(way, many, name) for many in counts[:2] for name in names(small) for way in modes]
    for way, many, name in ways:
        if way in MODES and left() < COMPILING.get(name, SOON):
            continue
        build = built(name, small)
        shards, config = setting(name, "cuda", many, rounds=3, local_steps=2 if small else 5)
        row = {"net": name, "participants": many, "way": way, "allowed": TOLERANCE[name]}
        try:
            with compiled(MODES[way]) if way in MODES else nullcontext():
                took, network = timed(build, shards, config, 2.0, vectorized=way != "one by one")
        except Exception as error:  # out of memory is no disagreement; a compiler that fails is
            full = isinstance(error, torch.cuda.OutOfMemoryError)
            yield {**row, "ms_a_step": np.nan, "peak_gb": np.nan, "error": str(error)[:100], "ok": full}
            continue
        off = apart(network, plain.setdefault((name, many), network))
        yield {**row, **took, "difference": off, "ok": off <= TOLERANCE[name]}


def measured(parts: dict[str, Iterator[Row]], folder: Path, left: Callable[[], float]) -> int:
    """Write the tables row by row until no seconds are left; return how many rows disagree, or parts have failed."""
    folder.mkdir(parents=True, exist_ok=True)
    here, wrong = where("cuda"), 0
    for part, found in parts.items():
        rows: list[Row] = []
        for row in guarded(found):
            rows.append({**row, **here})
            pd.DataFrame(rows).to_csv(folder / f"{part}.csv", index=False)
            wrong += not row["ok"]
            print(part, {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if left() < 0:
                print(f"no time is left in {part}; what was measured is in {folder}")
                return wrong
    return wrong


def guarded(found: Iterator[Row]) -> Iterator[Row]:
    """The rows of a part; if it fails, a last row that says why."""
    try:
        yield from found
    except Exception as error:
        traceback.print_exc()
        yield {"error": f"{type(error).__name__}: {error}"[:200], "ok": False}


def pretend_spent(device: Any, run: Callable[[], Any]) -> tuple[int, int]:
    """Kernel launches and waits of a run, as the pretend GPU counts them."""
    before = device.launches, device.waits
    run()
    return device.launches - before[0], device.waits - before[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "gpu")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--began", type=float, default=time.time())
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--pretend", action="store_true")
    asked = parser.parse_args(arguments)
    if not (asked.pretend or torch.cuda.is_available()):
        sys.exit("gpu.py needs a GPU that torch.cuda can use, and this machine has none.")
    count, gpu, modes = spent, nullcontext(), tuple(MODES)
    if asked.pretend:
        sys.path.insert(0, str(ROOT / "tests" / "gpu"))
        from pretend_cuda import DEVICE, pretend_cuda

        count, gpu, modes = partial(pretend_spent, DEVICE), pretend_cuda(), ()
    left = lambda: asked.began + 60 * asked.minutes - time.time()
    with gpu:
        parts = {part.__name__: part(asked.tiny) for part in (equality, determinism)}
        parts["launches"] = launches(asked.tiny, count)
        parts |= {part.__name__: part(asked.tiny) for part in (seeds, precision)}
        parts["speed"] = speed(asked.tiny, left, modes)
        wrong = measured({k: parts[k] for k in asked.parts or parts}, asked.folder, left)
    sys.exit(f"{wrong} rows disagree; see the column `ok` in {asked.folder}" if wrong else 0)


if __name__ == "__main__":
    main()
