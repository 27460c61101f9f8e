"""Compare all methods on participants that exist: hospitals, regions, writers. Writes results/natural/runs.csv.

usage: python scripts/natural.py [DATA ...] [--seeds 3]

DATA (default: all): `hospitals` (embedded), `eicu` (folder AEQUA_DATA: eicu/eicu_demo_aps.csv), `femnist-10`,
`femnist-50` and `femnist-272` (femnist/femnist_leaf300.npz; so many writers of those with 100 images or more, 272 are
all). The learning rate of a data set is the one at which FedAvg is best on validation at seed 100; rows of that seed
are kept, and no other use is made of it. `femnist-272` takes the one of `femnist-50`. The splits of `hospitals` and
`eicu` are drawn by the seed, so patients who validate at seed 100 can be test patients of seeds 0 to 2. The validation
and test images of FEMNIST are of all 272 writers, also where 10 or 50 of them take part, and are the same at every
seed. All methods of a run share shards, models trained alone and contributions. Rows are written as they finish; what
has its row is kept.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import nn
from tqdm import tqdm

import aequa_lite as aq
from aequa_lite import networks
from aequa_lite._io import atomic_write
from aequa_lite.method import assess, slimmable_rewards, train
from aequa_lite.report import device_name, versions

ROOT = Path(__file__).resolve().parents[1]
TABLE, FILES = ROOT / "results" / "natural" / "runs.csv", ROOT / "runs" / "natural"
RATES, CHOOSING = (0.01, 0.03, 0.1, 0.2), 100  # learning rates, and the seed at which one is chosen
WHILE_TRAINING = "aequa(schedule='training_time')"
ALL = ("aequa", WHILE_TRAINING, "fedavg", "fedavg_finetuned", "lg_fedavg", "cffl", "cgsv", "iafl", "shapfed",
       "shapfed(relative=True)", "shapfed_wa", "fedsac", "fedrac")  # fmt: skip
FEW = ("aequa", WHILE_TRAINING, "fedavg", "cgsv", "iafl")
NO_FEATURES = (
    *("patientunitstayid", "uniquepid", "hospitalid", "unitvisitnumber", "hospitaldischargestatus", "admitdiagnosis"),
    *("numbedscategory", "teachingstatus", "unittype", "readmit"),
)


def hospitals(seed: int) -> aq.Dataset:
    """The 740 patients of four hospitals."""
    return aq.load("hospitals", device="cpu", seed=seed)


def eicu(seed: int) -> aq.Dataset:
    """The first stay of each patient of the eICU demo; a region of the United States is a participant."""
    file = FILES / "eicu.csv"
    if not file.exists():
        table = pd.read_csv(Path(os.environ["AEQUA_DATA"]) / "eicu" / "eicu_demo_aps.csv")
        table = (
            table.dropna(subset=["region"]).sort_values(["uniquepid", "unitvisitnumber"]).groupby("uniquepid").head(1)
        )
        table = table.drop(columns=list(NO_FEATURES))
        measured = [name for name in table.columns if name not in ("region", "diedinhospital")]
        table[measured] = table[measured].mask(table[measured] == -1)  # how the APACHE tables say "not measured"
        with atomic_write(file) as half:
            table.to_csv(half, index=False)
    return aq.load(file, device="cpu", seed=seed, label="diedinhospital", participant="region")


def femnist(seed: int) -> aq.Dataset:
    """272 writers with 100 images or more, with LEAF's split into training and test images; 5,000 of the former validate."""
    file = FILES / "femnist.npz"
    if not file.exists():
        raw = np.load(Path(os.environ["AEQUA_DATA"]) / "femnist" / "femnist_leaf300.npz")
        many = np.isin(raw["writer"], np.flatnonzero(np.bincount(raw["writer"]) >= 100))
        x, y, writer, split = (raw[name][many] for name in ("images", "labels", "writer", "split"))
        split = split.astype(
            int
        )  # 0: training, 1: test; 2: drawn for validation, with the classes as frequent as they are
        split[aq.stream(0, "femnist", "validation").choice(np.flatnonzero(split == 0), 5000, replace=False)] = 2
        arrays = {"participant": writer[split == 0].astype(np.int64)}
        for part, name in enumerate(("train", "test", "validation")):
            arrays |= {f"x_{name}": 255 - x[split == part], f"y_{name}": y[split == part]}
        with atomic_write(file) as half, half.open("wb") as out:
            np.savez_compressed(out, **arrays)
    return aq.load(file, device="cpu", seed=seed)


@dataclass(frozen=True)
class Setting:
    """How a data set is loaded and trained on."""

    load: Callable[[int], aq.Dataset]
    network: Callable[..., nn.Module]
    config: Mapping[str, int]
    methods: tuple[str, ...] = ALL
    rate_of: str = ""  # the data set whose learning rate is taken; empty: its own


SETTINGS = {
    "hospitals": Setting(hospitals, networks.TabularMLP, {"participants": 4, "rounds": 40, "local_steps": 10}),
    "eicu": Setting(eicu, networks.TabularMLP, {"participants": 4, "rounds": 40, "local_steps": 10}),
    "femnist-10": Setting(femnist, aq.MLP, {"participants": 10, "rounds": 60, "local_steps": 10}),
    "femnist-50": Setting(femnist, aq.MLP, {"participants": 50, "rounds": 60, "local_steps": 10}, FEW),
    "femnist-272": Setting(
        femnist, aq.MLP, {"participants": 272, "rounds": 60, "local_steps": 10}, FEW, rate_of="femnist-50"
    ),
}


def problem(name: str, lr: float, seed: int) -> aq.Problem:
    """What all methods of a run share."""
    setting = SETTINGS[name]
    data = setting.load(seed)
    config = aq.Config(**setting.config, lr=lr, seed=seed)
    build = aq.for_dataset(setting.network, data)
    return assess(build, aq.data.natural(data.train, config), config, data, progress=False)


def auc(net: nn.Module, samples: aq.Samples) -> float:
    """The probability that a sample of class 1 is scored above one of class 0."""
    with torch.inference_mode():
        logits = net.eval()(samples.x)
    ranks, ill = rankdata((logits[:, 1] - logits[:, 0]).numpy()), samples.y.numpy() == 1
    return float((ranks[ill].sum() - ill.sum() * (ill.sum() + 1) / 2) / (ill.sum() * (~ill).sum()))


def noise(shared: aq.Problem) -> float:
    """Standard error of a contribution on the validation samples."""
    b = shared.contribution
    return float(np.sqrt((b * (1 - b)).mean() / len(shared.validation)))


def row(name: str, shared: aq.Problem, method: str) -> dict[str, object]:
    """Train one method and measure its rewards on test."""
    started, quiet = time.process_time(), partial(train, progress=False)
    if method == WHILE_TRAINING:
        allowance = min(0.02, float(shared.contribution.std()) / 4)
        outcome = slimmable_rewards(shared, schedule=aq.training_time(allowance), train=quiet)
    else:
        outcome = aq.registry.algorithm(method)(shared, train=quiet)
    found, rewards = outcome.report.fairness, np.array(outcome.report.test_accuracy)
    alone = aq.accuracy(shared.alone, shared.data.test)
    row = {"data": name, "seed": shared.config.seed, "method": method, "lr": shared.config.lr}
    row |= {"participants": len(alone), "alone_best": alone.max(), "alone_worst": alone.min(), "alone_sd": alone.std()}
    row |= {"reward_best": rewards.max(), "reward_mean": rewards.mean(), "test_samples": len(shared.data.test)}
    row |= {k: found[k] for k in ("pearson", "mcg", "cgs", "min_gain")}
    row |= {"informative": bool(shared.contribution.std() >= 3 * noise(shared))}
    row |= {"worse_off": len(found["worse_off"])}
    if shared.data.test.classes == 2:
        for what, nets in (("alone", shared.alone), ("reward", outcome.models)):
            scores = [auc(net, shared.data.test) for net in nets]
            row |= {
                f"auc_{what}_best": max(scores),
                f"auc_{what}_mean": np.mean(scores),
                f"auc_{what}_worst": min(scores),
            }
    row |= {"seconds": time.process_time() - started, **{f"version_{k}": v for k, v in versions().items()}}
    return row | {"device": device_name(torch.device("cpu")), "date": date.today().isoformat()}


def rows() -> list[dict[str, object]]:
    """The rows written so far."""
    return pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []


def add(each: dict[str, object]) -> None:
    """Write a row at the end of the table."""
    with atomic_write(TABLE) as half:
        pd.DataFrame([*rows(), each]).to_csv(half, index=False, float_format="%.6g")


def rate(name: str) -> float:
    """The learning rate at which FedAvg is best on validation; the validation samples take the test samples' place."""
    for lr in RATES:
        if not any((r["data"], r["seed"], r["lr"]) == (name, CHOOSING, lr) for r in rows()):
            shared = problem(name, lr, CHOOSING)
            add(row(name, replace(shared, data=replace(shared.data, test=shared.data.validation)), "fedavg"))
    tried = [r for r in rows() if (r["data"], r["seed"]) == (name, CHOOSING)]
    return float(max(tried, key=lambda r: r["reward_best"])["lr"])


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", choices=[*SETTINGS, []], default=[])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.data or list(SETTINGS)
    for name, seed in tqdm([(name, seed) for name in names for seed in range(given.seeds)], desc="runs"):
        done = {r["method"] for r in rows() if (r["data"], r["seed"]) == (name, seed)}
        missing = [method for method in SETTINGS[name].methods if method not in done]
        if missing:
            shared = problem(name, rate(SETTINGS[name].rate_of or name), seed)
            for method in missing:
                add(row(name, shared, method))


if __name__ == "__main__":
    main()
