"""Choose the learning rate of a data set and the one decisive constant of each baseline, on validation only.

usage: python scripts/choose_constants.py [OUT.csv] [--data fashion ...] [--network MLP] [--only cgsv ...] [--root DIR]

One cell per data set: Dirichlet(0.5), ten participants, 100 rounds of 15 steps, seed 100. A network has a file of its own. The
test split is never used: half of the validation split is what the methods may see, the other half takes the place of the test
split. The learning rate is the one at which FedAvg's model is best, of those at which models trained alone are in the mean at
most three points less accurate than at their best rate; then each constant is the one with the largest mean gain less the spread
of the gains, of those at which not everybody receives an equally accurate model. Some methods are also tried at rates of their
own, compared by their best reward. Rows are appended as they finish; rows that are there are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite.method import train
from aequa_lite.report import device_name, versions

LEARNING_RATES = (0.03, 0.06, 0.12, 0.24)
ALONE_LOSES = 0.03  # by how much a rate may lower the mean accuracy of the models trained alone
CONSTANTS = {  # method -> its decisive constant at the values that are tried
    "cgsv": [f"cgsv({length})" for length in (0.1, 0.25, 0.5, 0.75)],
    "cffl": ["cffl", "cffl(upload=0.1)", "cffl(clip=0.01)", "cffl(clip=0.1)", "cffl(released=True)"],
    "fedsac": [f"fedsac({beta})" for beta in (1.0, 3.0, 5.0, 20.0, 80.0)],
    "fedrac": [f"fedrac({beta})" for beta in (5.0, 10.0, 20.0, 80.0, 320.0)],
    "iafl": ["iafl", "iafl(recovery=0.2)"],
}
MOMENTUM = {  # the same with momentum of the server, which is no default
    name: [name, *(f"{name}(server='fedavgm({beta})')" for beta in (0.5, 0.7, 0.9))] for name in ("aequa", "fedavg")
}
TRIED = CONSTANTS | MOMENTUM
OWN_RATE = {  # method -> learning rates that are tried for it alone
    "fedavg_finetuned": (0.03, 0.12),
    "cffl": (0.03, 0.12),
}
OWN_RATES = [(method, lr) for method, rates in OWN_RATE.items() for lr in rates]
CELL = {"partition": "dirichlet(0.5)", "seed": 100, "participants": 10, "rounds": 100, "local_steps": 15}
KEY = ["data", "lr", "method"]
KNOWN = Path(__file__).resolve().parents[1] / "results" / "constants"


@lru_cache(maxsize=1)
def problem_of(data: str, lr: float, network: str, root: str | None) -> aq.Problem:
    """The cell of one data set and learning rate; the second half of the validation split takes the test split's place."""
    loaded = aq.load(data, root=root, device="cpu")
    seed, participants = CELL["seed"], CELL["participants"]
    config = aq.Config(participants, CELL["rounds"], CELL["local_steps"], lr=lr, seed=seed)
    order = aq.stream(seed, "choose constants", "validation halves").permutation(len(loaded.validation))
    seen, kept = (loaded.validation.take(torch.from_numpy(half)) for half in np.array_split(order, 2))
    loaded = replace(loaded, validation=seen, test=kept)
    shards = aq.registry.lookup("partition", CELL["partition"])(loaded.train, config)
    build = aq.for_dataset(aq.registry.network(network), loaded)
    return aq.method.assess(build, shards, config, loaded, progress=False)


class Rows:
    """The rows of a CSV file, each computed once."""

    def __init__(self, path: Path, network: str, root: str | None) -> None:
        self.path, self.network, self.root, self.known = path, network, root, {}
        if path.exists():
            self.known = {tuple(row[k] for k in KEY): row for row in pd.read_csv(path).to_dict("records")}

    def get(self, data: str, lr: float, method: str) -> dict:
        """The row of this method; computed and appended where it is missing."""
        if (data, lr, method) not in self.known:
            problem, started = problem_of(data, lr, self.network, self.root), time.perf_counter()
            outcome = aq.registry.algorithm(method)(problem, train=partial(train, progress=False))
            found, rewards = outcome.report.fairness, outcome.report.test_accuracy
            row = {"data": data, "lr": lr, "method": method, "best_reward": max(rewards)}
            row |= {name: found[name] for name in ("pearson", "mcg", "cgs", "min_gain")}
            row |= {"worse_off": len(found["worse_off"]), "seconds": round(time.perf_counter() - started, 1)}
            row |= {f"version_{name}": each for name, each in versions().items()}
            row |= {"device": device_name(torch.device("cpu")), "date": date.today().isoformat()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if new:
                    writer.writeheader()
                writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
            self.known[data, lr, method] = row
        return self.known[data, lr, method]


def runs(rows: Rows, data: str, only: Collection[str]) -> Iterator[str]:
    """Compute the rows of one data set, of these methods beside the rates of FedAvg."""
    for lr in LEARNING_RATES:
        rows.get(data, lr, "fedavg")
        yield f"{data} fedavg at {lr}"
    best = rate(pd.DataFrame([rows.get(data, lr, "fedavg") for lr in LEARNING_RATES]))
    for method in ("aequa", *(word for name in only for word in TRIED.get(name, ()))):
        rows.get(data, best, method)
        yield f"{data} {method}"
    for method, lr in OWN_RATES:
        if method in only:
            rows.get(data, lr, method)
            yield f"{data} {method} at {lr}"


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """For each data set the learning rate and, for each baseline, the word that is chosen."""
    found = []
    for data, rows in table.groupby("data", sort=False):
        lr = rate(rows[rows.method == "fedavg"])
        here = rows[rows.lr == lr].set_index("method")
        alike = here.pearson.isna() & ~here.index.str.startswith("fedavg")  # FedAvg always gives everybody the same
        score = (here.mcg - here.cgs)[~alike]
        words = {name: score.reindex(words).idxmax() for name, words in TRIED.items() if set(words) & set(score.index)}
        words |= {f"lr of {name}": own_rate(rows, name) for name in OWN_RATE if name in set(rows.method)}
        found.append({"data": data, "lr": lr, **words})
    return pd.DataFrame(found)


def rate(fedavg: pd.DataFrame) -> float:
    """The learning rate of FedAvg's rows at which it is best, of those that models trained alone can bear."""
    alone = fedavg.best_reward - fedavg.mcg  # their mean, since FedAvg gives everybody one model
    tried = fedavg[alone >= alone.max() - ALONE_LOSES]
    return float(tried.lr[tried.best_reward.idxmax()])


def own_rate(rows: pd.DataFrame, method: str) -> float:
    """The learning rate at which a method's best reward is largest: gains at two rates are over two sets of models alone."""
    tried = rows[rows.method == method]
    return float(tried.lr[tried.best_reward.idxmax()])


def main() -> None:
    """Compute the missing rows and print what is chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = "CSV file of rows; continued where it exists (default: results/constants/runs.csv, or NETWORK.csv there)"
    parser.add_argument("out", type=Path, nargs="?", help=known)
    parser.add_argument("--data", nargs="+", default=["fashion", "cifar10"])
    parser.add_argument("--network", default="MLP")
    methods = [*dict.fromkeys([*TRIED, *OWN_RATE])]
    parser.add_argument(
        "--only", nargs="+", choices=methods, default=methods, help="methods that are tried (default: all)"
    )
    parser.add_argument("--root", help="folder of the data sets (default: AEQUA_DATA)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out or KNOWN / ("runs.csv" if options.network == "MLP" else f"{options.network}.csv")
    rows = Rows(out, options.network, options.root)
    own = sum(method in options.only for method, _ in OWN_RATES)
    many = 1 + len(LEARNING_RATES) + sum(len(TRIED.get(name, ())) for name in options.only) + own
    with tqdm(total=many * len(options.data), mininterval=10) as bar:
        for data in options.data:
            for about in runs(rows, data, options.only):
                bar.set_postfix_str(about)
                bar.update()
    table = pd.read_csv(out)
    print(table[[*KEY, "best_reward", "pearson", "mcg", "cgs", "min_gain", "worse_off"]].to_string(index=False))
    print(chosen(table).to_string(index=False))


if __name__ == "__main__":
    main()
