"""A fleet of real processes on this machine: what a round costs, what each participant is sent, what the server holds.

usage: python benchmarks/flower_fleet.py [--folder results/flower] [--participants 3 10]      (needs `aequa-lite[flower]`)

One run for each number of participants, rewarded while training. Every participant reaches the server through a proxy
that counts bytes: slices, rewards, polls and Flower's own messages. The same run follows in one process; the networks must
agree to the bit.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import ROOT, store, where
from safetensors.torch import load_file

import aequa_lite as aq
from aequa_lite.flower.fleet import Fleet

PARTITION, ALGORITHM = "homogeneous", "aequa(schedule='training_time(0.0)')"


class CountingProxy:
    """Pass bytes between one participant and the server, and count them."""

    def __init__(self, port: int) -> None:
        self.port, self.down, self.up = port, 0, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listening.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            here, _ = self.listening.accept()
            try:
                there = socket.create_connection(("127.0.0.1", self.port))
            except OSError:  # the server has gone
                here.close()
                continue
            for pair, direction in (((here, there), "up"), ((there, here), "down")):
                threading.Thread(target=self._forward, args=(*pair, direction), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        try:
            while content := source.recv(1 << 16):
                target.sendall(content)
                setattr(self, direction, getattr(self, direction) + len(content))
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class CountedFleet(Fleet):
    """A fleet whose participants connect through counting proxies."""

    proxies: dict[int, CountingProxy]

    def address_for(self, participant: int) -> str:
        self.proxies = getattr(self, "proxies", {})
        self.proxies[participant] = CountingProxy(self.port)
        return self.proxies[participant].address


def most_memory(pid: int) -> float:
    """The most memory that a process has held, in MB."""
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024, 1)


def measured(participants: int, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one run: of the rounds, and of the participants."""
    config = aq.Config(participants=participants, rounds=rounds)
    with tempfile.TemporaryDirectory() as folder, CountedFleet(folder, participants, partition=PARTITION) as fleet:
        fleet.start_all()
        settings, started = fleet.settings(algorithm=ALGORITHM), time.perf_counter()
        report = fleet.run(settings, config)
        whole, link = time.perf_counter() - started, most_memory(fleet.processes["server"].pid)
        rows = json.loads((Path(settings.folder) / "run.json").read_text())["rounds"]
        theta = load_file(Path(settings.folder) / "state.safetensors")
        crossed = {i: (proxy.down, proxy.up) for i, proxy in fleet.proxies.items()}
    dataset = aq.load("fashion-mini", device="cpu")
    shards = aq.registry.lookup("partition", PARTITION)(dataset.train, config)
    build = aq.for_dataset(aq.MLP, dataset)
    problem = aq.method.assess(build, shards, config, dataset, progress=False)
    seconds = []

    def timed(*what: Any, **options: Any) -> aq.Round:
        began = time.perf_counter()
        last = aq.method.train(*what, progress=False, **options)
        seconds.append((time.perf_counter() - began) / rounds)
        return last

    last, alone = aq.registry.algorithm(ALGORITHM)(problem, train=timed).last, seconds[0]
    assert all(torch.equal(theta[f"theta/{k}"], t) for k, t in last.theta.items()), "the networks differ"
    about = {"participants": participants, "net": "MLP", "local_steps": config.local_steps, "flwr": version("flwr")}
    times = [
        {**about, "round": row["round"], "seconds": row["seconds"], "seconds_in_process": round(alone, 3),
         "overhead": round(row["seconds"] - alone, 3), "app_memory_mb": row["memory_mb"], "link_memory_mb": link,
         "run_seconds": round(whole, 1)}
        for row in rows
    ]  # fmt: skip
    sizes = []
    for i in range(participants):
        own = [row["participants"][str(i)] for row in rows]
        slices = 4 * sum(aq.n_parameters(build(each["width"])) for each in own) + 4 * report.parameters[i]
        sizes.append({**about, "participant": i, "width": own[-1]["width"], "slice_bytes": slices,
                      "sent_per_round": own[-1]["down"], "rounds": rounds, "socket_down": crossed[i][0],
                      "socket_up": crossed[i][1], "beyond_slices": crossed[i][0] - slices})  # fmt: skip
    return times, sizes


def main() -> None:
    """Measure and write `rounds.csv` and `bytes.csv`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "flower")
    parser.add_argument("--participants", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    rounds, sizes = [], []
    for participants in asked.participants:
        more = measured(participants, asked.rounds)
        rounds += more[0]
        sizes += more[1]
    for name, rows in (("rounds", rounds), ("bytes", sizes)):
        print(store(name, rows, where("cpu"), asked.folder).iloc[:, :9].to_string(index=False))


if __name__ == "__main__":
    main()
