"""Round for round against pfl-research, Apple's simulator: the same batches, steps and average, in one process.

usage: python benchmarks/pfl_rounds.py [--folder results/speed]      (needs `pip install pfl==0.6.0`; Python 3.10 to 3.12)

Ten participants, full width only (pfl copies one global model to everybody), a constant learning rate. A round of pfl and
one of ours in turn; the networks must agree within the tolerance after the last one. pfl trains one after another with
torch's default threads, as it comes; its several processes (Horovod) are not used here.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from measure import CORES, TABLES, agree, compared, store, where
from torch import nn
from torch.nn.functional import cross_entropy

import aequa_lite as aq
from aequa_lite.local import batches
from aequa_lite.networks.base import init_params

STEPS = (1, 5, 15)
ROUNDS = 11  # the first is not counted: pfl judges the network in it
NETS = {"MLP": aq.MLP, "LeNet": aq.LeNet}


def evaluation_mode(net: nn.Module) -> nn.Module:
    """The network with the two functions that pfl asks of it."""
    net.loss = lambda x, y, eval=False: cross_entropy(net(x), y)
    net.metrics = lambda x, y, eval=False: {"loss": 0.0}
    return net


def compare(name: str, steps: int) -> list[dict[str, Any]]:
    """Rounds of both in turn; the rows of one network and one number of local steps."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByUser
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    build = NETS[name]
    config = aq.Config(participants=10, rounds=ROUNDS, local_steps=steps, widths_per_step=0, lr=0.002, lr_final=1.0)
    shards = aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)
    ours = aq.federate(build, shards, config, progress=False)
    seconds: dict[str, list[float]] = {"aequa_lite": [], "pfl": []}
    last: list[aq.Round] = []

    class Batches(Dataset):
        """One participant's samples in the package's order of this round."""

        def iter(self, batch_size: int | None) -> Iterator[list[torch.Tensor]]:
            x, y = self.raw_data
            rng = aq.stream(config.seed, "local", len(last), self.user_id)
            for chosen in torch.as_tensor(batches(rng, len(y), config, config.local_steps)):
                yield [x[chosen], y[chosen]]

    class Turn(TrainingProcessCallback):
        """After a round of pfl's, one of ours; the clock of pfl's next round starts when it is over."""

        def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Metrics]:
            between = time.perf_counter()
            seconds["pfl"].append(between - self.started)
            last[:] = [*last, next(ours)]
            self.started = time.perf_counter()
            seconds["aequa_lite"].append(self.started - between)
            return False, Metrics()

    net = evaluation_mode(aq.slim(build, init_params(build, config.seed), 1.0))
    model = PyTorchModel(
        net,
        local_optimizer_create=lambda weights, lr: torch.optim.SGD(weights, lr, config.momentum),
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )
    people = {i: Batches([shard.samples.x, shard.samples.y], user_id=i) for i, shard in enumerate(shards)}
    in_order = iter(i for _ in range(10 * ROUNDS) for i in range(10))
    population = FederatedDataset(people.__getitem__, lambda: next(in_order))
    turn = Turn()
    turn.started = time.perf_counter()
    with redirect_stdout(StringIO()):  # it prints every round's metrics
        FederatedAveraging().run(
            NNAlgorithmParams(
                central_num_iterations=ROUNDS, evaluation_frequency=10**9, train_cohort_size=10, val_cohort_size=None
            ),
            SimulatedBackend(population, population, postprocessors=[WeightByUser()]),
            model,
            NNTrainHyperParams(
                local_num_epochs=None,
                local_num_steps=steps,
                local_learning_rate=config.lr,
                local_batch_size=config.batch,
            ),
            callbacks=[turn],
        )
    difference = agree(net.state_dict().values(), last[-1].theta.values())
    about = {"net": name, "local_steps": steps, "engine_version": version("pfl"), "difference": difference}
    rows = compared({way: taken[1:] for way, taken in seconds.items()}, "aequa_lite")
    return [{**about, **row} for row in rows]


def main() -> None:
    """Compare for every network and number of local steps, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=TABLES)
    asked = parser.parse_args()
    try:
        from pfl.internal.ops import pytorch_ops
        from pfl.internal.ops.selector import set_framework_module
    except ImportError:
        sys.exit("pfl is not installed here: pip install pfl==0.6.0 (Python 3.10 to 3.12)")
    set_framework_module(pytorch_ops)
    torch.set_num_threads(CORES)
    rows = [row for name in NETS for steps in STEPS for row in compare(name, steps)]
    table = store("pfl", rows, where("cpu"), asked.folder)
    print(table.iloc[:, :9].to_string(index=False))


if __name__ == "__main__":
    main()
