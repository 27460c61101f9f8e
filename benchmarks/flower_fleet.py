"""A fleet of real processes on this machine: what a round costs, what each participant is sent, what the server holds.

usage: python benchmarks/flower_fleet.py [--folder results/flower] [--participants 3 10]      (needs `aequa-lite[flower]`)

One run for each number of participants, widths spread over [0.1, 1]. Every participant reaches the server through a door
that counts bytes, so what is counted is all that crosses the socket: slices, rewards, polls and Flower's own words. The same
rounds are then run in one process; the networks must agree to the bit.
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

import numpy as np
import torch
from measure import ROOT, store, where
from safetensors.torch import load_file

import aequa_lite as aq
from aequa_lite.flower.fleet import Fleet
from aequa_lite.flower.settings import WELL

PARTITION = "homogeneous"


class Door:
    """Pass bytes between one participant and the server, and count them."""

    def __init__(self, port: int) -> None:
        self.port, self.down, self.up = port, 0, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._welcome, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listening.getsockname()[1]}"

    def _welcome(self) -> None:
        while True:
            here, _ = self.listening.accept()
            try:
                there = socket.create_connection(("127.0.0.1", self.port))
            except OSError:  # the server has gone
                here.close()
                continue
            for pair, way in (((here, there), "up"), ((there, here), "down")):
                threading.Thread(target=self._carry, args=(*pair, way), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, way: str) -> None:
        try:
            while content := source.recv(1 << 16):
                target.sendall(content)
                setattr(self, way, getattr(self, way) + len(content))
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Counted(Fleet):
    """A fleet whose participants come through counting doors."""

    doors: dict[int, Door]

    def door(self, number: int) -> str:
        self.doors = getattr(self, "doors", {})
        self.doors[number] = Door(self.port)
        return self.doors[number].address


def most_memory(pid: int) -> float:
    """The most memory that a process has held, in MB."""
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024, 1)


def measured(participants: int, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one run: of the rounds, and of the participants."""
    config = aq.Config(participants=participants, rounds=rounds)
    widths = [round(float(w), 3) for w in np.linspace(0.1, 1.0, participants)]
    policy = f"fixed_widths({tuple(widths)})"
    with tempfile.TemporaryDirectory() as folder, Counted(folder, participants, partition=PARTITION) as fleet:
        asked, started = fleet.settings(policy=policy), time.perf_counter()
        fleet.submit(asked, config)
        assert fleet.wait(asked) == WELL, fleet.tail("server")
        whole, held = time.perf_counter() - started, most_memory(fleet.processes["server"].pid)
        ledger = json.loads((Path(asked.folder) / "ledger.json").read_text())["rounds"]
        theta = load_file(Path(asked.folder) / "theta.safetensors")
        crossed = {i: (door.down, door.up) for i, door in fleet.doors.items()}
    shards = aq.registry.partition(PARTITION)(aq.load("fashion-mini", device="cpu").train, config)
    started = time.perf_counter()
    *_, last = aq.federate(aq.MLP, shards, config, policy=policy(policy), progress=False)
    alone = (time.perf_counter() - started) / rounds
    assert all(torch.equal(theta[k], last.theta[k]) for k in theta), "the networks differ"
    about = {"participants": participants, "net": "MLP", "local_steps": config.local_steps, "flwr": version("flwr")}
    times = [
        {**about, "round": row["round"], "seconds": row["seconds"], "seconds_in_process": round(alone, 3),
         "overhead": round(row["seconds"] - alone, 3), "app_memory_mb": row["memory_mb"], "link_memory_mb": held,
         "run_seconds": round(whole, 1)}
        for row in ledger
    ]  # fmt: skip
    sizes = []
    for i, width in enumerate(widths):
        slice_ = 4 * aq.n_parameters(aq.MLP(width))
        sent = [row["participants"][str(i)]["down"] for row in ledger]
        sizes.append({**about, "participant": i, "width": width, "slice_bytes": slice_, "sent_per_round": sent[0],
                      "rounds": rounds, "socket_down": crossed[i][0], "socket_up": crossed[i][1],
                      "beyond_slices": crossed[i][0] - (rounds + 1) * slice_})  # fmt: skip
    return times, sizes


def main() -> None:
    """Measure and write ``rounds.csv`` and ``bytes.csv``."""
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
