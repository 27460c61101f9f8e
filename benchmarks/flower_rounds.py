"""Round for round against Flower's simulation engine: the same local steps to the bit, another way to carry them.

usage: python benchmarks/flower_rounds.py [--folder results/speed]      (needs `pip install "flwr[simulation]>=1.42,<1.43"`)

Ten participants. A Flower round and one of ours in turn, in the same process; both run the package's own local steps on the
same slices and aggregate in the same order, so the networks must agree to the bit. What differs is the engine: Ray's processes
and Flower's messages there, worker threads here. The fewer the local steps, the more of a round is the engine's own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from measure import CORES, TABLES, apart, compared, store, where

import aequa_lite as aq
from aequa_lite.networks.base import init_params

STEPS = (1, 5, 15)
ROUNDS = 9  # the first is not counted


@cache
def shards_of(config: aq.Config) -> list[aq.Shard]:
    """Everyone's data; each of Ray's processes makes it once."""
    torch.set_num_threads(1)
    return aq.data.homogeneous(aq.load("fashion-mini", device="cpu").train, config)


def reply(message: Any, context: Any) -> Any:
    """A node's reply to a message: the package's local steps."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

    asked = message.content["asked"]
    config, i = (
        aq.Config(lr=0.002, local_steps=asked["steps"], rounds=ROUNDS, participants=10),
        context.node_config["partition-id"],
    )
    rng = aq.stream(config.seed, "local", asked["round"], i)
    state = message.content["state"].to_torch_state_dict()
    first = asked["round"] * config.local_steps
    update = aq.local_sgd(aq.MLP, state, shards_of(config)[i], 1.0, config, rng, first=first)
    content = {"state": ArrayRecord(update.state), "by": ConfigRecord({"participant": int(i)})}
    return Message(content=RecordDict(content), reply_to=message)


def flower_round(grid: Any, state: dict, config: aq.Config, index: int) -> dict:
    """Send the state to every node, wait for all, aggregate in the order of the participants."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

    asked = ConfigRecord({"steps": config.local_steps, "round": index})
    content = RecordDict({"state": ArrayRecord(state), "asked": asked})
    messages = [Message(content=content, message_type="train", dst_node_id=node) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    for reply in replies:
        assert not reply.has_error(), reply.error
    replies.sort(key=lambda reply: reply.content["by"]["participant"])
    weights = [len(shard) for shard in shards_of(config)]
    return aq.aggregate(
        state,
        [
            (reply.content["state"].to_torch_state_dict(), w / sum(weights))
            for reply, w in zip(replies, weights, strict=True)
        ],
    )


def compare(grid: Any, steps: int) -> list[dict[str, Any]]:
    """Rounds of both engines in turn; the rows of one number of local steps."""
    config = aq.Config(lr=0.002, participants=10, rounds=ROUNDS, local_steps=steps)
    theirs = init_params(aq.MLP, config.seed)
    ours = aq.federate(aq.MLP, shards_of(config), config, progress=False)
    seconds: dict[str, list[float]] = {"aequa_lite": [], "Flower": []}
    difference = 0.0
    for index in range(ROUNDS):
        started = time.perf_counter()
        theirs = flower_round(grid, theirs, config, index)
        between = time.perf_counter()
        theta = next(ours).theta
        seconds["Flower"].append(between - started)
        seconds["aequa_lite"].append(time.perf_counter() - between)
        difference = max(difference, apart(theirs.values(), theta.values()))
    assert difference < 1e-6, f"the engines' networks differ by {difference:g}"
    rows = compared({name: taken[1:] for name, taken in seconds.items()}, "aequa_lite")
    about = {"net": "MLP", "local_steps": steps, "engine_version": version("flwr"), "difference": difference}
    return [{**about, **row} for row in rows]


def main() -> None:
    """Simulate with Flower (its `run_simulation` is deprecated in 1.42, hence the upper bound), and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=TABLES)
    asked = parser.parse_args()
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    paths = [str(Path(__file__).parent), str(Path(aq.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for Ray's processes
    try:
        version("ray")
        from flwr.clientapp import ClientApp
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation
    except (ImportError, PackageNotFoundError):
        sys.exit('Flower\'s simulation is not installed here: pip install "flwr[simulation]>=1.42,<1.43"')
    nodes, server, rows = ClientApp(), ServerApp(), []
    nodes.train()(reply)

    @server.main()
    def _(grid: Any, context: Any) -> None:
        while len(list(grid.get_node_ids())) < 10:
            time.sleep(0.1)
        for steps in STEPS:
            rows.extend(compare(grid, steps))

    resources = {"init_args": {"num_cpus": CORES}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, nodes, num_supernodes=10, backend_config=resources)
    table = store("flower", rows, where("cpu"), asked.folder)
    print(table.iloc[:, :9].to_string(index=False))


if __name__ == "__main__":
    import flower_rounds  # by its name, so that Ray's processes find the functions

    flower_rounds.main()
