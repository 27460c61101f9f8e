"""Compare our rewards with every other method run by run: the Pareto front, the spread of gains, and FedAvg's best reward."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

RUN = ["data", "partition", "network", "seed"]  # what identifies a run, as far as a table has it
OURS, TARGET = "aequa", -0.3  # the method compared with the others; its best reward less FedAvg's, points
AXES = (("reward_best", "cgs"), ("reward_mean", "min_gain"))  # ours, and FedAvg's
SAMPLES = {"sst2": 1_821}  # test samples of the data sets; the others have 10,000


def of_runs(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each run with ours and FedAvg: is ours on the front, and of lowest CGS among methods that reach as much?"""
    table = table.assign(samples=table["data"].map(SAMPLES).fillna(10_000))
    if "test_samples" in table:
        table["samples"] = table["test_samples"]
    keys = [name for name in RUN if name in table]
    by_run = {key: runs.set_index("method") for key, runs in table.groupby(keys, sort=False)}
    complete = {key: runs for key, runs in by_run.items() if {OURS, "fedavg"} <= set(runs.index)}
    return pd.DataFrame([{**dict(zip(keys, key)), **of_run(runs)} for key, runs in complete.items()])


def of_run(runs: pd.DataFrame) -> dict[str, object]:
    """One run; rows by method. Other settings of ours are not compared."""
    ours, others = runs.loc[OURS], runs[~runs.index.str.startswith(OURS)]
    mean, best = ours["reward_mean"] - noise(ours, "reward_mean"), ours["reward_best"] - noise(ours, "reward_best")
    return {
        "informative": str(ours["informative"]) == "True",
        "front": undominated(ours, others, *AXES[0]),
        "lowest_at_gain": lowest(ours, others[others["reward_mean"] >= mean]),  # accuracies alone are the same for all
        "lowest_at_best": lowest(ours, others[others["reward_best"] >= best]),
        "ideal": near_ideal(ours),
        "difference": 100 * (ours["reward_best"] - runs["reward_best"]["fedavg"]),
    }


def on_front(table: pd.DataFrame, method: str, up: str, other: str) -> pd.Series:
    """In which informative runs a method is undominated in two measures."""
    found = {}
    for key, runs in table.groupby([name for name in RUN if name in table], sort=False):
        by = runs.set_index("method")
        by = by[(by.index == OURS) | ~by.index.str.startswith(OURS)]  # one setting of ours
        if {OURS, "fedavg", method} <= set(by.index) and str(by["informative"][OURS]) == "True":
            found[key] = undominated(by.loc[method], by.drop(index=method), up, other)
    return pd.Series(found, dtype=bool)


def undominated(own: pd.Series, rest: pd.DataFrame, up: str, other: str) -> bool:
    """Whether no other method is as good in both measures and better in one; `cgs` is better if smaller."""
    sign = -1 if other == "cgs" else 1
    first, second = rest[up] - own[up], sign * (rest[other] - own[other])
    return not ((first >= 0) & (second >= 0) & ((first > 0) | (second > 0))).any()


def near_ideal(ours: pd.Series) -> bool | None:
    """Whether Pearson is within 0.01 of the ceiling of a perfect curve; None where that was not measured."""
    ceiling = ours.get("ideal_pearson_ceiling")
    return None if ceiling is None or np.isnan(ceiling) else bool(ours["pearson"] >= ceiling - 0.01)


def noise(run: pd.Series, measure: str) -> float:
    """Two standard errors of an accuracy on the test samples."""
    return float(2 * np.sqrt(run[measure] * (1 - run[measure]) / run["samples"]))


def lowest(ours: pd.Series, others: pd.DataFrame) -> bool:
    """Whether no other method has more equal gains."""
    return bool((others["cgs"] >= ours["cgs"]).all())


def interval(differences: pd.Series) -> tuple[float, float, float]:
    """Mean of paired differences and its 95% interval, by Student's t over the runs; no interval for one run."""
    mean, count = float(differences.mean()), len(differences)
    half = float(differences.sem() * stats.t.ppf(0.975, count - 1)) if count > 1 else float("nan")
    return mean, mean - half, mean + half
