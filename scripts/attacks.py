"""Measure what a cheat gains, what it costs the others, and what a defence saves and costs; tables under results/attacks/.

usage: python scripts/attacks.py [SEEDS] [PROCESSES]

Five participants with 50 to 3,000 photographs of Fashion-MNIST mini, an MLP, 12 rounds of 10 steps; seeds 0, 1, ...
(default: three), two processes. Participant 2, with 750 photographs, cheats; where several act together they are the
lower three. Writes attacks.csv (a row for each seed, method, defence, attack and cheat) and about.json. What has been
measured is not measured again; a killed script goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.report import device_in_words, versions_of_run

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DONE = ROOT / "results" / "attacks", ROOT / "runs" / "attacks"
RECIPE = aq.Config(participants=5, rounds=12, local_steps=10, lr=0.1, contribution_power=2.0, grid=25, fractions=0)
SIZES, CHEAT, LOWER = (50, 200, 750, 2000, 3000), 2, (0, 1, 2)
WORDS = (
    "aequa",
    "earned",
    "fedavg",
    "finetuned",
    "lg_fedavg",
    "cffl",
    "cgsv",
    "iafl",
    "shapfed",
    "shapfed_wa",
    "submodels",
)
TOLD = ("aequa", "earned", "iafl", "submodels")  # methods that are told contributions: no claim reaches the others
DEFENCES = ("clipped", "median", "trimmed(0.2)", "screened")
NOISES = (0.01, 1.0)  # of the private merge, each change cut to length one
HARMS = ("honest", "flips labels in rounds", "flips signs fourfold")

Scheme = Callable[[aq.Strategy], aq.Strategy]


@dataclass(frozen=True)
class World:
    """One seed: shards, networks trained alone and contributions, of the honest and of those who pretend."""

    seed: int

    def __post_init__(self) -> None:
        data, config = aq.load("fashion-mini", device="cpu"), replace(RECIPE, seed=self.seed)
        build = aq.for_dataset(aq.MLP, data)
        shards = aq.data.by_size(data.train, config, sizes=SIZES)
        start = aq.slim(build, aq.init_params(build, self.seed), 1.0)
        found = {"data": data, "recipe": config, "build": build, "shards": shards, "start": start, "known": {}}
        self.__dict__.update(found)

    def alone(self, shards: Sequence[aq.Shard]) -> list[torch.nn.Module]:
        """The networks trained alone; one that has been trained is not trained again."""

        def key(shard: aq.Shard) -> tuple[int, int, int]:
            return (
                shard.participant,
                len(shard),
                int(shard.samples.y[:20].dot(torch.arange(1, 1 + len(shard.samples.y[:20])))),
            )

        for shard in shards:
            if key(shard) not in self.known:
                one = replace(self.config, participants=1)
                (self.known[key(shard)],) = aq.standalone(self.build, [shard], one, count=1, progress=False)
        return [self.known[key(shard)] for shard in shards]

    def tested(self, nets: Sequence[torch.nn.Module]) -> np.ndarray:
        """Test accuracies, (networks,)."""
        return aq.accuracy(nets, self.data.test)


@cache
def world(seed: int) -> World:
    """The world of a seed, once in each process."""
    return World(seed)


def run(
    w: World,
    method: aq.Algorithm,
    shards: Sequence[aq.Shard] | None = None,
    cheat: Scheme = lambda strategy: strategy,
    told: dict[int, float] | None = None,
    alone: Sequence[torch.nn.Module] | None = None,
) -> aq.Outcome:
    """What a method pays where some pretend; ``told``: contributions that are not as measured."""
    shards = w.shards if shards is None else shards
    alone = w.alone(shards) if alone is None else alone
    brought = aq.accuracy(alone, w.data.validation)
    for i, claimed in (told or {}).items():
        brought[i] = claimed
    config = replace(w.config, participants=len(shards))
    return aq.attacks.with_attack(method, cheat).run(w.build, shards, config, w.data, alone, brought, progress=False)


def hands_in(strategy: aq.Strategy, own: Callable[[aq.Update], object]) -> aq.Strategy:
    """The cheat hands in something else as the network of its own, where the method asks for one as it goes."""

    def local(sent, shard, width, config, draws, **rest):
        update = strategy.local(sent, shard, width, config, draws, **rest)
        if update.own is None or shard.participant != CHEAT:
            return update
        return replace(update, own=own(replace(update, state=dict(sent))))

    return replace(strategy, local=local, together=None)


def trained_on(w: World, state: dict, width: float, steps: int = 60) -> torch.nn.Module:
    """A network after some small steps on the cheat's own shard."""
    short = replace(w.config, rounds=1, local_steps=steps, lr=0.02)
    draws = aq.stream(w.seed, "tuned", CHEAT)
    after = aq.local_sgd(w.build, state, w.shards[CHEAT], width, short, draws, width_sampler=aq.full_only)
    return aq.slim(w.build, after.state, width)


def after_the_pay(w: World, paid: aq.Outcome, kept: list[aq.Update]) -> Iterator[tuple[str, int, float]]:
    """What an honest run leaves to be made of it: attack, participant, the test accuracy that it then holds."""
    for who in LOWER:
        _, last = max((u.width, at) for at, u in enumerate(kept) if u.participant == who)  # the latest of its widest
        yield "keeps", who, w.tested([aq.slim(w.build, kept[last].state, kept[last].width)])[0]
    for attack, reward in of_the_pay(w, paid, [u for u in kept if u.participant == CHEAT]):
        yield attack, CHEAT, reward


def of_the_pay(w: World, paid: aq.Outcome, kept: list[aq.Update]) -> Iterator[tuple[str, float]]:
    """What the cheat makes of its last slices and of its pay, and the lower three of theirs."""
    five = kept[-5:]
    narrow = min(u.width for u in five)
    slices = [aq.slice_of(w.build, u.state, narrow) for u in five]
    mean = {name: torch.stack([s[name] for s in slices]).mean(0) for name in slices[0]}
    yield "averages", w.tested([aq.slim(w.build, mean, narrow)])[0]
    mine, start = paid.models[CHEAT].state_dict(), aq.init_params(w.build, w.seed)
    if paid.plan is not None:
        width = float(paid.plan.widths[CHEAT])
        yield "tunes", w.tested([trained_on(w, mine, width)])[0]
        yield "grows", w.tested([trained_on(w, aq.attacks.refilled(w.build, mine, start), 1.0)])[0]
    elif all(t.shape == start[name].shape for name, t in mine.items()):
        yield "tunes", w.tested([trained_on(w, mine, 1.0)])[0]
    lower = [paid.models[i] for i in LOWER]
    yield "votes", w.tested([aq.attacks.ensemble(lower)])[0]
    widths = [float(paid.plan.widths[i]) if paid.plan is not None else 1.0 for i in LOWER]
    full = aq.n_parameters(w.build(1.0))
    if paid.plan is not None or all(aq.n_parameters(net) == full for net in lower):
        doses = [
            aq.baselines.by_width(w.build, aq.attacks.refilled(w.build, n.state_dict(), start))(v, 0)
            for n, v in zip(lower, widths)
        ]
        yield "pools", w.tested([aq.baselines.pooled(w.build, doses)])[0]
    else:  # compact networks, nested by importance: the largest holds what the others do
        yield "pools", max(w.tested(lower))


def attempts(w: World, method: aq.Algorithm, honest: aq.Outcome, told: bool) -> dict[str, Callable[[], aq.Outcome]]:
    """Each attack that needs a training of its own."""
    who, flipped = {CHEAT}, aq.attacks.flip_labels(w.shards, {CHEAT})
    start = aq.init_params(w.build, w.seed)
    chance = aq.accuracy([w.start], w.data.validation)[0]
    top = aq.accuracy(w.alone(w.shards), w.data.validation).max()
    shared = aq.accuracy([aq.slim(w.build, honest.last.theta, 1.0)], w.data.validation)[0]

    def rides(how: str) -> Scheme:
        return partial(aq.attacks.free_rider, who=who, how=how)

    def empty(strategy: aq.Strategy) -> aq.Strategy:
        return aq.attacks.free_rider(hands_in(strategy, lambda u: start), who, "zero")

    def borrowed(strategy: aq.Strategy) -> aq.Strategy:
        return hands_in(strategy, lambda u: aq.attacks.refilled(w.build, u.state, start))

    go = partial(run, w, method)
    nothing = [w.start if i == CHEAT else net for i, net in enumerate(w.alone(w.shards))]
    found = {
        "zero": partial(go, cheat=rides("zero")),
        "noise": partial(go, cheat=rides("noise")),
        "brings nothing": partial(go, cheat=empty, told={CHEAT: chance}, alone=nothing),
        "flips labels": partial(go, flipped),
        "flips labels in rounds": partial(go, cheat=partial(aq.attacks.data_change, shards={CHEAT: flipped[CHEAT]}, rounds=range(99))),
        "flips signs fourfold": partial(go, cheat=partial(aq.attacks.sign_flipper, who=who, scale=4.0)),
        "splits in three": partial(go, aq.attacks.sybils(w.shards, CHEAT, 3, seed=w.seed)),
        "three as one": partial(go, aq.attacks.merged_shards(w.shards, LOWER)),
        "claims accuracy": partial(go, told={CHEAT: top}) if told else lambda: honest,
        "hands in the shared": partial(go, cheat=borrowed, told={CHEAT: shared}) if told else lambda: honest,
    }  # fmt: skip
    return found


def outcome(w: World, go: Callable[[], aq.Outcome]) -> np.ndarray | None:
    """Test accuracies of what is paid, or None where nobody's answer was finite any more: an empty cell of the table."""
    try:
        return w.tested(go().models)
    except FloatingPointError:
        return None


def shared_out(attack: str, tested: np.ndarray | None, base: np.ndarray) -> tuple[list, np.ndarray, np.ndarray]:
    """Who cheats and what it holds then, what the others are paid, and what they were paid in the honest run."""
    rest = [i for i in range(len(SIZES)) if i != CHEAT]
    if tested is None:
        return [(CHEAT, np.nan)], np.full(len(rest), np.nan), base[rest]
    if attack == "three as one":
        return [(i, tested[0]) for i in LOWER], tested[1:], base[len(LOWER) :]
    names = [CHEAT, *range(len(SIZES), len(tested))]
    return [(CHEAT, tested[names].max())], tested[rest], base[rest]


def rows(w: World, word: str, defence: str) -> Iterator[dict[str, object]]:
    """A row for each attack on a method; of the defended ones, those that do harm."""
    told, kept, clock = word in TOLD, [], time.process_time()
    method = aq.registry.algorithm(f"{word}(merging={defence!r})" if defence else word)
    own, rest = w.tested(w.alone(w.shards)), [i for i in range(len(SIZES)) if i != CHEAT]
    try:
        honest = run(w, method, cheat=partial(aq.attacks.honest_but_curious, who=set(LOWER), kept=kept, received=True))
        base = w.tested(honest.models)
    except FloatingPointError:
        honest, base = None, np.full(len(SIZES), np.nan)

    def row(attack: str, who: int, reward: float, others: np.ndarray, before: np.ndarray, brings: float) -> dict:
        nonlocal clock
        spent, clock = time.process_time() - clock, time.process_time()
        return {"seed": w.seed, "method": word, "defence": defence or "none", "attack": attack, "participant": who,
                "samples": SIZES[who], "alone": brings, "honest": float(base[who]), "reward": float(reward),
                "others_honest": float(before.mean()), "others": float(others.mean()),
                "worst_change": float((others - before).min()), "cpu_seconds": round(spent, 2)}  # fmt: skip

    yield row("honest", CHEAT, base[CHEAT], base[rest], base[rest], own[CHEAT])
    if honest is None:
        return
    if not defence:
        for attack, who, reward in after_the_pay(w, honest, kept):
            best = base[list(LOWER)].max() if attack in ("votes", "pools") else base[who]
            yield {**row(attack, who, reward, base[rest], base[rest], own[who]), "honest": float(best)}
    for attack, go in attempts(w, method, honest, told).items():
        if defence and (attack not in HARMS or defence.startswith("private")):
            continue
        found, others, before = shared_out(attack, outcome(w, go), base)
        for who, reward in found:
            brings = w.tested([w.start])[0] if attack == "brings nothing" else own[who]
            yield row(attack, who, reward, others, before, brings)


def cell(asked: tuple[int, str, str]) -> pd.DataFrame:
    """The rows of one seed, method and defence; what has been measured is read."""
    seed, word, defence = asked
    path = DONE / f"{seed}-{word}-{defence or 'none'}.csv"
    if not path.exists():
        torch.set_num_threads(1)
        found = pd.DataFrame(rows(world(seed), word, defence))
        stamp = {"versions": " ".join(f"{k} {v}" for k, v in versions_of_run().items()),
                 "device": device_in_words(torch.device("cpu")), "date": date.today().isoformat()}  # fmt: skip
        with atomic_write(path) as half:
            found.assign(**stamp).to_csv(half, index=False, float_format="%.6g")
    return pd.read_csv(path)


def cells(seeds: Sequence[int]) -> list[tuple[int, str, str]]:
    """Every seed, method and defence, seed after seed."""
    private = [f"private(1.0, {noise}, seed=0)" for noise in NOISES]
    defended = [("aequa", defence) for defence in (*DEFENCES, *private)]
    return [(seed, *each) for seed in seeds for each in (*((word, "") for word in WORDS), *defended)]


def main() -> None:
    """Measure what is missing and write the tables."""
    os.environ.setdefault("AEQUA_WORKERS", "1")
    given = [int(each) for each in sys.argv[1:]]
    seeds, processes = range(given[0] if given else 3), given[1] if len(given) > 1 else 2
    asked = cells(seeds)
    with ProcessPoolExecutor(processes) as pool:
        found = pd.concat(tqdm(pool.map(cell, asked), total=len(asked), desc="cells"))
    with atomic_write(RESULTS / "attacks.csv") as half:
        found.to_csv(half, index=False, float_format="%.6g")
    about = {"seeds": list(seeds), "recipe": RECIPE.to_dict(), "sizes": SIZES, "cheat": CHEAT, "together": LOWER,
             "epsilon": {str(noise): aq.aggregation.dp_epsilon(noise, RECIPE.rounds) for noise in NOISES}, "delta": 1e-5,
             "cpu_minutes": round(float(found["cpu_seconds"].sum()) / 60, 1), "processes": processes,
             "versions": versions_of_run(), "device": device_in_words(torch.device("cpu")),
             "date": date.today().isoformat()}  # fmt: skip
    with atomic_write(RESULTS / "about.json") as half:
        half.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
