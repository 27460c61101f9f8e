"""Hold predicted coalitions against trained ones and write results/coalitions/predicted.csv.

usage: python scripts/coalitions.py [SEEDS]

Six participants of fashion-mini, an MLP, 20 rounds of 15 steps, five partitions, seeds 0, 1, ... (default: three). All 63
coalitions are trained. `predicted_game` knows those of one participant, that of all, and five others that are drawn, and
predicts the other 51; `error` is the root mean square error on these, `error_of_mean` that of the mean of what is known,
and `stated` what the game says of itself without them. Both games then say which coalitions block the plan of `allocate`
by more than a point, and the epsilon of the least core. Accuracies are of the validation split. A cell that has its row is
not repeated.
"""

from __future__ import annotations

import sys
from datetime import date
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite._io import atomic_write
from aequa_lite.report import device_name, versions

TABLE = Path(__file__).resolve().parents[1] / "results" / "coalitions" / "predicted.csv"
PARTITIONS = ("power_law", "imbalanced(0.4, 2)", "dirichlet(0.5)", "label_skew(3)", "class_imbalance")
PARTICIPANTS, DRAWN, MARGIN = 6, 5, 0.01


def known_coalitions(seed: int) -> set[tuple[int, ...]]:
    """Those of one participant, that of all, and a few others."""
    everyone = range(PARTICIPANTS)
    others = [each for size in range(2, PARTICIPANTS) for each in combinations(everyone, size)]
    drawn = aq.stream(seed, "coalitions").choice(len(others), DRAWN, replace=False)
    return {*((i,) for i in everyone), tuple(everyone), *(others[k] for k in drawn)}


def rms(values: list[float]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def measured(partition: str, seed: int) -> dict[str, object]:
    """The row of one federation."""
    data, config = aq.load("fashion-mini", device="cpu", seed=seed), aq.Config(PARTICIPANTS, rounds=20, seed=seed)
    shards = aq.registry.lookup("partition", partition)(data.train, config)
    build = aq.for_dataset(aq.MLP, data)
    game = aq.contribution.retraining_game(build, shards, config, data.validation, progress=False)
    sizes = range(1, PARTICIPANTS + 1)
    trained = {each: game(each) for size in sizes for each in combinations(range(PARTICIPANTS), size)}
    known = {each: trained[each] for each in known_coalitions(seed)}
    predicted = aq.allocation.predicted_game(known, aq.data.class_counts(shards))
    rest = [each for each in trained if each not in known]
    off = [predicted(each)[0] - trained[each] for each in rest]

    for last in aq.federate(build, shards, config, progress=False):
        pass
    own, curve = (
        [trained[(i,)] for i in range(PARTICIPANTS)],
        aq.reward_curve(build, last.theta, data.validation, config),
    )
    plan = aq.allocate(own, curve)
    games = {"trained": aq.allocation.trained_game(game), "predicted": predicted}
    blocking = {
        name: {who for who, margin in aq.allocation.blocking_coalitions(plan, each) if margin > MARGIN}
        for name, each in games.items()
    }
    epsilon = {name: aq.allocation.stable(own, curve, game=each).stability.epsilon for name, each in games.items()}
    return {
        "partition": partition, "seed": seed, "known": len(known), "predicted": len(rest),
        "error": rms(off), "bias": float(np.mean(off)), "largest": float(np.abs(off).max()),
        "error_of_mean": rms([np.mean(list(known.values())) - trained[each] for each in rest]),
        "stated": predicted.error,
        "blocking_trained": len(blocking["trained"]), "blocking_predicted": len(blocking["predicted"]),
        "blocking_both": len(blocking["trained"] & blocking["predicted"]),
        "epsilon_trained": epsilon["trained"], "epsilon_predicted": epsilon["predicted"],
        **{f"version_{name}": each for name, each in versions().items()},
        "device": device_name(data.validation.y.device), "date": date.today().isoformat(),
    }  # fmt: skip


def main() -> None:
    """Measure the federations that are missing."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    done = {(row["partition"], row["seed"]) for row in rows}
    cells = [(partition, seed) for seed in range(seeds) for partition in PARTITIONS]
    for cell in tqdm([each for each in cells if each not in done], desc="federations"):
        rows.append(measured(*cell))
        with atomic_write(TABLE) as half:
            pd.DataFrame(rows).to_csv(half, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
