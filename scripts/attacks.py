"""Measure what an attacker gains, what it costs the others, and what a defence saves and costs: tables of attacks.

usage: python scripts/attacks.py [SEEDS] [PROCESSES]

Five participants with 50 to 3,000 photographs of Fashion-MNIST mini, an MLP, 12 rounds of 10 steps; seeds 0, 1, ...
(default: three), two processes. Participant 2, with 750 photographs, attacks; where several act together they are the
lower three. Writes attacks.csv (a row for each seed, method, defence, attack and attacker) and about.json under
results/attacks/. What has been measured is not measured again; a killed script goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.federate import Policy, full_width
from aequa_lite.method import Train, train
from aequa_lite.report import device_name, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DONE = ROOT / "results" / "attacks", ROOT / "runs" / "attacks"
CONFIG = aq.Config(participants=5, rounds=12, local_steps=10, lr=0.1, contribution_power=2.0, grid=25, fractions=0)
SIZES, ATTACKER, LOWER = (50, 200, 750, 2000, 3000), 2, (0, 1, 2)
WHILE_TRAINING = "aequa(schedule='training_time')"
TOLERANT = "aequa(schedule='training_time(tolerance=0.3)')"
WORDS = ("aequa", WHILE_TRAINING, TOLERANT, "fedavg", "fedavg_finetuned", "lg_fedavg", "cffl", "cgsv", "iafl", "shapfed",
         "shapfed_wa", "fedsac", "fedrac")  # fmt: skip
TOLD = (
    "aequa",
    WHILE_TRAINING,
    TOLERANT,
    "iafl",
    "fedsac",
    "fedrac",
)  # told contributions: no claim reaches the others
DEFENCES = ("norm_clipping", "coordinate_median", "trimmed_mean(0.2)", "norm_screening")
NOISES = (0.01, 1.0)  # of the private aggregate, each change clipped to norm one
PRIVATE = [f"dp_gaussian(1.0, {noise}, seed=0)" for noise in NOISES]
HARMS = ("honest", "flips labels in rounds", "flips signs fourfold")

Attack = Callable[[aq.Strategy], aq.Strategy]
QUIET = partial(train, progress=False)


def nothing(strategy: aq.Strategy) -> aq.Strategy:
    """No attack."""
    return strategy


class World:
    """One seed: shards, networks trained alone and contributions, of honest and of attacking participants."""

    def __init__(self, seed: int) -> None:
        self.seed, self.config = seed, replace(CONFIG, seed=seed)
        self.data = aq.load("fashion-mini", device="cpu")
        self.build = aq.for_dataset(aq.MLP, self.data)
        self.shards = aq.data.by_size(self.data.train, self.config, sizes=SIZES)
        self.start = aq.init_params(self.build, seed)
        self.known: dict[tuple[int, int, int], nn.Module] = {}

    def alone(self, shards: Sequence[aq.Shard]) -> list[nn.Module]:
        """The networks trained alone; one that has been trained is not trained again."""
        for shard in shards:
            if key(shard) not in self.known:
                one = replace(self.config, participants=1)
                (self.known[key(shard)],) = aq.standalone(self.build, [shard], one, workers=1, progress=False)
        return [self.known[key(shard)] for shard in shards]

    def tested(self, nets: Sequence[nn.Module]) -> np.ndarray:
        """Test accuracies, (networks,)."""
        return aq.accuracy(nets, self.data.test)


def key(shard: aq.Shard) -> tuple[int, int, int]:
    """What tells shards apart: participant, size, and the first labels."""
    first = shard.samples.y[:20]
    return shard.participant, len(shard), int(first.dot(torch.arange(1, 1 + len(first))))


@cache
def world(seed: int) -> World:
    """The world of a seed, once in each process."""
    return World(seed)


def run(
    w: World, algorithm: aq.Algorithm, shards: Sequence[aq.Shard] | None = None, attack: Attack = nothing,
    told: Mapping[int, float] | None = None, alone: Sequence[nn.Module] | None = None, train: Train = QUIET,
) -> aq.Outcome:  # fmt: skip
    """The outcome of an attacked algorithm; `told`: contributions that are not as measured."""
    shards = w.shards if shards is None else shards
    alone = w.alone(shards) if alone is None else alone
    contribution = aq.accuracy(alone, w.data.validation)
    for i, claimed in (told or {}).items():
        contribution[i] = claimed
    config = replace(w.config, participants=len(shards))
    problem = aq.Problem(w.build, shards, config, w.data, alone, contribution)
    return aq.attacks.with_attack(algorithm, attack)(problem, train=train)


def trained_on(w: World, state: Mapping[str, Tensor], width: float, steps: int = 60) -> nn.Module:
    """A network after some small steps on the attacker's own shard."""
    short = replace(w.config, rounds=1, local_steps=steps, lr=0.02)
    rng = aq.stream(w.seed, "tuned", ATTACKER)
    after = aq.local_sgd(w.build, state, w.shards[ATTACKER], width, short, rng, width_sampler=aq.full_only)
    return aq.slim(w.build, after.state, width)


def after_the_reward(w: World, found: aq.Outcome, kept: list[aq.Update]) -> Iterator[tuple[str, int, float]]:
    """What an honest run leaves to be made of it: attack, participant, the test accuracy that it then has."""
    for who in LOWER:
        _, last = max((u.width, at) for at, u in enumerate(kept) if u.participant == who)  # the latest of its widest
        yield "keeps", who, w.tested([aq.slim(w.build, kept[last].state, kept[last].width)])[0]
    for attack, reward in of_the_reward(w, found, [u for u in kept if u.participant == ATTACKER]):
        yield attack, ATTACKER, reward


def of_the_reward(w: World, found: aq.Outcome, kept: list[aq.Update]) -> Iterator[tuple[str, float]]:
    """What the attacker makes of its last slices and of its reward, and the lower three of theirs."""
    five = kept[-5:]
    narrow = min(u.width for u in five)
    slices = [aq.slice_of(w.build, u.state, narrow) for u in five]
    mean = {k: torch.stack([s[k] for s in slices]).mean(0) for k in slices[0]}
    yield "averages", w.tested([aq.slim(w.build, mean, narrow)])[0]
    mine = found.models[ATTACKER].state_dict()
    if found.plan is not None:
        yield "tunes", w.tested([trained_on(w, mine, float(found.plan.widths[ATTACKER]))])[0]
        yield "grows", w.tested([trained_on(w, aq.attacks.refilled(w.build, mine, w.start), 1.0)])[0]
    elif all(t.shape == w.start[k].shape for k, t in mine.items()):
        yield "tunes", w.tested([trained_on(w, mine, 1.0)])[0]
    lower = [found.models[i] for i in LOWER]
    yield "votes", w.tested([aq.attacks.ensemble(lower)])[0]
    yield "pools", pooled(w, found, lower)


def pooled(w: World, found: aq.Outcome, lower: Sequence[nn.Module]) -> float:
    """The test accuracy of what the lower three hold together."""
    widths = [float(found.plan.widths[i]) if found.plan is not None else 1.0 for i in LOWER]
    full = aq.n_parameters(w.build(1.0))
    if found.plan is None and any(aq.n_parameters(net) != full for net in lower):
        return max(w.tested(lower))  # compact networks, nested by importance: the largest has what the others have
    models = [
        aq.baselines.by_width(w.build, aq.attacks.refilled(w.build, net.state_dict(), w.start))(width, 0)
        for net, width in zip(lower, widths)
    ]
    return w.tested([aq.baselines.pooled(w.build, models)])[0]


def departed(
    problem: aq.Problem, strategy: aq.Strategy, *, rounds: Sequence[int], policy: Policy = full_width, **options: object
) -> aq.Round:
    """Train while the attacker is absent in these rounds; the argument `train` of an algorithm."""
    return train(problem, strategy, policy=aq.attacks.dropout(policy, {ATTACKER}, rounds), progress=False, **options)


def departures(
    w: World, algorithm: aq.Algorithm, kept: list[aq.Update], base: np.ndarray
) -> Iterator[tuple[str, int, float, np.ndarray, np.ndarray]]:
    """Attacks that leave the others: name, participant, what it has then; what the others have, and had before."""
    slices = [aq.slim(w.build, u.state, u.width) for u in kept if u.participant == ATTACKER]
    best = int(w.tested(slices).argmax())
    gone = partial(departed, rounds=range(best + 1, w.config.rounds + 1))
    _, others, before = effect("leaves", outcome(w, partial(run, w, algorithm, train=gone)), base)
    yield "leaves at its best", ATTACKER, w.tested(slices)[best], others, before

    rest = [i for i in range(len(SIZES)) if i not in LOWER]
    own, others = (outcome(w, partial(apart, w, algorithm, who)) for who in (LOWER, rest))
    others = np.full(len(rest), np.nan) if others is None else others
    for k, i in enumerate(LOWER):
        yield "three secede", i, np.nan if own is None else own[k], others, base[rest]


def apart(w: World, algorithm: aq.Algorithm, who: Sequence[int]) -> aq.Outcome:
    """The outcome where only these participants train together."""
    shards = [replace(w.shards[i], participant=k) for k, i in enumerate(who)]
    return run(w, algorithm, shards, alone=[w.alone(w.shards)[i] for i in who])


def attempts(w: World, algorithm: aq.Algorithm, honest: aq.Outcome, told: bool) -> dict[str, Callable[[], aq.Outcome]]:
    """Each attack that needs a training of its own."""
    who, flipped, attacks = {ATTACKER}, aq.attacks.flip_labels(w.shards, {ATTACKER}), aq.attacks
    untrained = aq.slim(w.build, w.start, 1.0)
    chance, shared = aq.accuracy([untrained, aq.slim(w.build, honest.last.theta, 1.0)], w.data.validation)
    top = aq.accuracy(w.alone(w.shards), w.data.validation).max()
    go, rides = partial(run, w, algorithm), partial(attacks.free_rider, who=who)
    idle = [untrained if i == ATTACKER else net for i, net in enumerate(w.alone(w.shards))]
    spoils = partial(attacks.data_change, shards={ATTACKER: flipped[ATTACKER]}, rounds=range(w.config.rounds))
    later = partial(spoils, rounds=range(w.config.rounds // 2, w.config.rounds))
    return {
        "zero": partial(go, attack=rides),
        "noise": partial(go, attack=partial(attacks.noisy_rider, who=who)),
        "brings nothing": partial(go, attack=rides, told={ATTACKER: chance}, alone=idle),
        "flips labels": partial(go, flipped),
        "flips labels in rounds": partial(go, attack=spoils),
        "flips labels half-way": partial(go, attack=later),
        "flips signs fourfold": partial(go, attack=partial(attacks.sign_flipper, who=who, scale=4.0)),
        "splits in three": partial(go, attacks.sybils(w.shards, ATTACKER, 3, seed=w.seed)),
        "three as one": partial(go, attacks.merged_shards(w.shards, LOWER)),
        "claims accuracy": partial(go, told={ATTACKER: top}) if told else lambda: honest,
        "hands in the shared": partial(go, told={ATTACKER: shared}) if told else lambda: honest,
    }


def outcome(w: World, go: Callable[[], aq.Outcome]) -> np.ndarray | None:
    """Test accuracies of the rewards, or None where every update was refused: an empty cell of the table."""
    try:
        return w.tested(go().models)
    except FloatingPointError:
        return None


def effect(attack: str, tested: np.ndarray | None, base: np.ndarray) -> tuple[list, np.ndarray, np.ndarray]:
    """Who attacks and what it has then, what the others have, and what they had in the honest run."""
    rest = [i for i in range(len(SIZES)) if i != ATTACKER]
    if tested is None:
        return [(ATTACKER, np.nan)], np.full(len(rest), np.nan), base[rest]
    if attack == "three as one":
        return [(i, tested[0]) for i in LOWER], tested[1:], base[len(LOWER) :]
    identities = [ATTACKER, *range(len(SIZES), len(tested))]
    return [(ATTACKER, tested[identities].max())], tested[rest], base[rest]


def rows(w: World, word: str, defence: str) -> Iterator[dict[str, object]]:
    """A row for each attack on a method; of the defended ones, those that do harm."""
    kept: list[aq.Update] = []
    clock = time.process_time()
    algorithm = aq.registry.algorithm(f"{word}(aggregate={defence!r})" if defence else word)
    own, rest = w.tested(w.alone(w.shards)), [i for i in range(len(SIZES)) if i != ATTACKER]
    curious = partial(aq.attacks.honest_but_curious, who=set(LOWER), kept=kept, received=True)
    try:
        honest = run(w, algorithm, attack=curious)
        base = w.tested(honest.models)
    except FloatingPointError:
        honest, base = None, np.full(len(SIZES), np.nan)

    def row(attack: str, who: int, reward: float, others: np.ndarray, before: np.ndarray, alone: float) -> dict:
        nonlocal clock
        spent, clock = time.process_time() - clock, time.process_time()
        return {"seed": w.seed, "method": word, "defence": defence or "none", "attack": attack, "participant": who,
                "samples": SIZES[who], "alone": alone, "honest": float(base[who]), "reward": float(reward),
                "others_honest": float(before.mean()), "others": float(others.mean()),
                "worst_change": float((others - before).min()), "cpu_seconds": round(spent, 2)}  # fmt: skip

    yield row("honest", ATTACKER, base[ATTACKER], base[rest], base[rest], own[ATTACKER])
    if honest is None or defence in PRIVATE:
        return
    if not defence:
        for attack, who, reward in after_the_reward(w, honest, kept):
            best = base[list(LOWER)].max() if attack in ("votes", "pools") else base[who]
            yield {**row(attack, who, reward, base[rest], base[rest], own[who]), "honest": float(best)}
        for attack, who, reward, others, before in departures(w, algorithm, kept, base):
            yield row(attack, who, reward, others, before, own[who])
    for attack, go in attempts(w, algorithm, honest, word in TOLD).items():
        if defence and attack not in HARMS:
            continue
        found, others, before = effect(attack, outcome(w, go), base)
        for who, reward in found:
            alone = w.tested([aq.slim(w.build, w.start, 1.0)])[0] if attack == "brings nothing" else own[who]
            yield row(attack, who, reward, others, before, alone)


def cell(wanted: tuple[int, str, str]) -> pd.DataFrame:
    """The rows of one seed, method and defence; what has been measured is read."""
    seed, word, defence = wanted
    path = DONE / f"{seed}-{word}-{defence or 'none'}.csv"
    if not path.exists():
        torch.set_num_threads(1)
        found = pd.DataFrame(rows(world(seed), word, defence))
        stamp = {"versions": " ".join(f"{k} {v}" for k, v in versions().items()),
                 "device": device_name(torch.device("cpu")), "date": date.today().isoformat()}  # fmt: skip
        with atomic_write(path) as half:
            found.assign(**stamp).to_csv(half, index=False, float_format="%.6g")
    return pd.read_csv(path)


def cells(seeds: Sequence[int]) -> list[tuple[int, str, str]]:
    """Every seed, method and defence, seed after seed."""
    defended = [("aequa", defence) for defence in (*DEFENCES, *PRIVATE)]
    return [(seed, *each) for seed in seeds for each in (*((word, "") for word in WORDS), *defended)]


def main() -> None:
    """Measure what is missing and write the tables."""
    os.environ.setdefault("AEQUA_WORKERS", "1")
    arguments = [int(each) for each in sys.argv[1:]]
    seeds = range(arguments[0] if arguments else 3)
    processes = arguments[1] if len(arguments) > 1 else 2
    wanted = cells(seeds)
    with ProcessPoolExecutor(processes) as pool:
        found = pd.concat(tqdm(pool.map(cell, wanted), total=len(wanted), desc="cells"))
    with atomic_write(RESULTS / "attacks.csv") as half:
        found.to_csv(half, index=False, float_format="%.6g")
    epsilon = {str(noise): aq.aggregation.dp_epsilon(noise, CONFIG.rounds) for noise in NOISES}
    about = {"seeds": list(seeds), "config": CONFIG.to_dict(), "sizes": SIZES, "attacker": ATTACKER, "together": LOWER,
             "epsilon": epsilon, "delta": 1e-5, "cpu_minutes": round(float(found["cpu_seconds"].sum()) / 60, 1),
             "processes": processes, "versions": versions(), "device": device_name(torch.device("cpu")),
             "date": date.today().isoformat()}  # fmt: skip
    with atomic_write(RESULTS / "about.json") as half:
        half.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
