"""Over Flower: the report of one process to the bit, only its own to each participant, and faults in one sentence."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from formats import write_sst2
from safetensors.torch import load_file

import aequa_lite as aq

pytest.importorskip("flwr", reason='Flower is not installed here: pip install "aequa-lite[flower]"')

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from aequa_lite import cli
from aequa_lite._validation import tensors_at
from aequa_lite.flower import participant, participants, server, wire
from aequa_lite.flower.fleet import Fleet, Server
from aequa_lite.flower.machine import (
    Processes,
    fingerprint,
    free_port,
    program_folder,
    roster,
    search_path,
    valid_certificate,
    write_certificate,
    write_key,
)
from aequa_lite.flower.participants import ParticipantRegistry, RunState, TooFewError
from aequa_lite.flower.server import sampler_name
from aequa_lite.flower.wire import COMPLETED, Settings, read_config, write_app

ROOT = Path(__file__).resolve().parents[1]
PARTITION = "imbalanced(0.5, holders=1)"
DEADLINE = 60.0  # seconds of a round with somebody missing; a busy machine starts a process in ten


class Inline(Grid):
    """A grid without processes: every message is answered at once by the participant's own app."""

    def __init__(self, settings: Settings, config: aq.Config, folder: Path) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # what Flower's processes are told
        self.values = {**vars(settings), **{f"config.{k}": v for k, v in config.to_dict().items()}}
        self.folder = folder
        self.nodes: dict[int, Context] = {}
        for i in range(config.participants):
            self.connect(100 + i, i)
        self.silent: Callable[[Message], bool] = lambda message: False
        self.changed: Callable[[Message], Message] = lambda reply: reply
        self.box: dict[str, Message] = {}
        self.activated: dict[int, str] = {}  # when a node connected, if that has changed
        self.sent: list[tuple[int, Message]] = []

    def connect(self, node: int, i: int) -> None:
        """Add a node that states that it is participant i."""
        own = {"participant": i, "partition": PARTITION, "rewards": str(self.folder / f"{node - 100}")}
        self.nodes[node] = Context(1, node, own, RecordDict(), self.values)

    def get_nodes(self) -> Iterable[Any]:
        return [
            SimpleNamespace(node_id=n, public_key=str(n).encode(), last_activated_at=self.activated.get(n, ""))
            for n in self.nodes
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = name = f"message {len(self.sent)}"
            node = message.metadata.dst_node_id
            self.sent.append((node, message))
            if not self.silent(message):
                self.box[name] = self.changed(participant.app(message, self.nodes[node]))
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.box.pop(name) for name in message_ids if name in self.box]

    get_node_ids = run = set_run = create_message = send_and_receive = None  # not used


@pytest.fixture
def three() -> aq.Config:
    return aq.Config(participants=3, rounds=2, local_steps=3, batch=16)


@pytest.fixture
def asked(tmp_path: Path) -> Settings:
    return Settings(folder=str(tmp_path / "server"), partition=PARTITION, deadline=1.0, patience=1.0)


def in_process(
    data: aq.Dataset, config: aq.Config, away: dict[int, set[int]] | None = None, **options: Any
) -> aq.Outcome:
    """The same run without Flower; `away`: who is away from which rounds, by round."""
    shards = aq.registry.lookup("partition", PARTITION)(data.train, config)
    build = aq.for_dataset(aq.MLP, data)
    if away is None:
        return aq.aequa(build, shards, config, data, partition=PARTITION, progress=False, **options)
    problem = aq.method.assess(build, shards, config, data, progress=False)
    outcome = aq.method.slimmable_rewards(problem, train=partial(train_without, away), **options)
    return replace(outcome, partition=PARTITION)


def train_without(away: dict[int, set[int]], problem: aq.Problem, strategy: aq.Strategy, **options: Any) -> aq.Round:
    """Train in one process with an invalid update of everybody who is away."""

    def local(state: Any, shard: aq.Shard, *rest: Any, first: int, **more: Any) -> aq.Update:
        update = strategy.local(state, shard, *rest, first=first, **more)
        gone = shard.participant in away.get(first // problem.config.local_steps, ())
        return replace(update, loss=float("nan")) if gone else update

    return aq.method.train(problem, replace(strategy, local=local), progress=False, **options)


def result(report: aq.Report) -> aq.Report:
    """A report without its time, and without how and on which bytes the local steps were computed."""
    identity = {k: v for k, v in report.identity.items() if k not in ("vectorized", "shards")}
    return replace(report, seconds=0.0, identity=identity)


def state_of(settings: Settings) -> Path:
    return Path(settings.folder) / "state.safetensors"


def saved_round(settings: Settings) -> int:
    """The index of the last round that was saved."""
    return int(json.loads(tensors_at(state_of(settings))[1]["round"])["index"])


def same(found: Path, theta: Any) -> bool:
    """Whether a reward or a checkpoint holds exactly these tensors."""
    tensors = {k.removeprefix("theta/"): t for k, t in load_file(found).items()}
    return tensors.keys() == dict(theta).keys() and all(torch.equal(tensors[k], theta[k]) for k in tensors)


def rows_of(folder: Path | str) -> list[dict[str, Any]]:
    """The rounds that the server has noted."""
    return list(json.loads((Path(folder) / "run.json").read_text())["rounds"])


ALGORITHMS = {
    "aequa": {},
    "aequa(schedule='training_time(0.02)', server='fedavgm(0.5)')": {
        "schedule": aq.training_time(0.02), "server": aq.aggregation.fedavgm(0.5)
    },
    "aequa(width_sampler='sandwich', aggregate='coordinate_median')": {
        "width_sampler": aq.sandwich, "aggregate": aq.aggregation.coordinate_median
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_report_and_the_rewards_are_those_of_one_process(
    name: str, data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    config, asked = replace(three, rounds=4, logit_adjustment=0.5), replace(asked, algorithm=name)
    report = server.run_over(Inline(asked, config, tmp_path), asked, config)
    outcome = in_process(data, config, **ALGORITHMS[name])
    assert result(report) == result(outcome.report)
    outcome.report.save(tmp_path)
    assert result(aq.Report.load(asked.folder)) == result(aq.Report.load(tmp_path))
    for i, model in enumerate(outcome.models):
        (mine,) = (tmp_path / f"{i}").glob("*.safetensors")  # its own, and no other
        assert mine.name == f"participant-{i:02d}.safetensors"
        assert same(mine, model.state_dict())
        assert aq.load_reward(mine) is not None


def test_every_way_to_start_a_run_gives_the_same_report_to_the_bit(asked: Settings, tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    numbers = {"participants": 5, "rounds": 2, "local_steps": 2, "grid": 20, "seed": 0}
    quick = text.replace("seed=0)", "seed=0, rounds=2, local_steps=2, grid=20)").replace(
        "runs/first", str(tmp_path / "readme")
    )
    values: dict[str, Any] = {}
    exec(quick, values)  # our own README
    partition = f"by_size({values['sizes']})"
    words = [part for name, value in numbers.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    for command, out in (("run", "run"), ("reproduce", "all")):
        assert cli.main([command, *words, "--partition", partition, "--out", str(tmp_path / out)]) == 0
    paths = [tmp_path / name / "report.json" for name in ("readme", "run", "all/aequa")]
    readme, *others = [replace(aq.Report.load(path.parent), seconds=0.0) for path in paths]
    assert [repr(each) for each in others] == [repr(readme)] * 2
    config, asked = aq.Config(**numbers), replace(asked, partition=partition)
    assert values["config"] == config
    grid = Inline(asked, config, tmp_path / "nodes")
    for context in grid.nodes.values():
        context.node_config |= {"partition": partition}
    server.run_over(grid, asked, config)
    assert repr(result(aq.Report.load(asked.folder))) == repr(result(readme))


def test_over_flower_the_loss_is_adjusted_to_stated_and_to_the_servers_labels(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = data.validation.y < 4
    unequal = data.validation.take(torch.cat([torch.nonzero(many)[:, 0], torch.nonzero(~many)[::5, 0]]))
    data = replace(data, validation=unequal)
    monkeypatch.setattr(server, "load", lambda *_, **__: data)
    schedule = aq.training_time(0.02)
    asked = replace(asked, algorithm="aequa(schedule='training_time(0.02)')")
    grid = Inline(asked, three, tmp_path)
    report = server.run_over(grid, asked, three)
    assert result(report) == result(in_process(data, three, schedule=schedule).report)
    shards = aq.registry.lookup("partition", PARTITION)(data.train, three)
    counts = [torch.bincount(shard.samples.y, minlength=10).tolist() for shard in shards]
    known = json.loads((Path(asked.folder) / "run.json").read_text())["participants"]
    assert [known[str(i)]["labels"] for i in range(3)] == counts
    sent = [m.content["asked"] for _, m in grid.sent if "offsets" in m.content["asked"]]
    assert len(sent) == 6
    for each in sent:  # nothing of widths that are not its own
        assert list(each["offset_widths"]) == sorted(each["offset_widths"])
        assert each["offset_widths"][-1] == each["width"]
        assert len(each["offsets"]) == 10 * len(each["offset_widths"])


def test_labels_are_stated_only_where_logits_are_adjusted(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    replies: list[Message] = []
    grid = Inline(asked, three, tmp_path)
    grid.changed = lambda reply: replies.append(reply) or reply
    server.run_over(grid, asked, three)
    assert not any("labels" in reply.content["stated"] for reply in replies)
    assert all("labels" not in each for each in RunState(asked.folder, three).participants.values())


@pytest.mark.parametrize("labels", [[1] * 10, [2000], [], [-1, *[300] * 9], [2000.0] * 10])
def test_labels_that_do_not_fit_the_samples_are_refused(
    labels: list, three: aq.Config, asked: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(three, logit_adjustment=1.0)
    grid = Inline(asked, config, tmp_path)

    def changed(reply: Message) -> Message:
        if "labels" in reply.content["stated"] and reply.content["stated"]["participant"] == 1:
            reply.content["stated"]["labels"] = labels
        return reply

    grid.changed = changed
    with pytest.raises(TooFewError, match="participants 1 did not introduce themselves"):
        server.run_over(grid, asked, config)
    assert "it must state how many of its" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fedavg", "cgsv(0.5)", "lg_fedavg", "fedsac"])
def test_baselines_give_the_report_of_one_process(
    name: str, data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    asked = replace(asked, algorithm=name)
    report = server.run_over(Inline(asked, three, tmp_path), asked, three)
    shards = aq.registry.lookup("partition", PARTITION)(data.train, three)
    problem = aq.method.assess(aq.for_dataset(aq.MLP, data), shards, three, data, progress=False)
    outcome = aq.registry.algorithm(name)(problem, train=partial(aq.method.train, progress=False))
    assert result(report) == result(replace(outcome, partition=PARTITION).report)
    for i, model in enumerate(outcome.models):
        files = list((tmp_path / f"{i}").glob("*.safetensors"))
        if name == "fedsac":  # its networks have other layers than the constructor's
            assert not files
        else:
            assert same(files[0], model.state_dict())


def test_a_text_travels_with_its_vocabulary(asked: Settings, tmp_path: Path) -> None:
    folder = write_sst2(tmp_path / "sst2")
    config = aq.Config(participants=2, rounds=1, local_steps=1, batch=8)
    asked = replace(asked, network="TextCNN", data=str(folder))
    grid = Inline(asked, config, tmp_path)
    for context in grid.nodes.values():
        context.node_config |= {"data": str(folder), "partition": "homogeneous"}
    report = server.run_over(grid, asked, config)
    dataset = aq.load(folder, device="cpu")
    shards = aq.data.homogeneous(dataset.train, config)
    build = aq.for_dataset(aq.networks.TextCNN, dataset)
    outcome = aq.aequa(build, shards, config, dataset, partition=PARTITION, progress=False)
    assert result(report) == result(outcome.report)
    for i in range(2):
        (mine,) = (tmp_path / f"{i}").glob("*.safetensors")
        assert aq.rewards.load_vocabulary(mine) == dataset.words


def test_every_algorithm_but_fine_tuning_at_the_end_runs_over_flower(three: aq.Config, asked: Settings) -> None:
    for name in aq.registry.TABLES["algorithm"]:
        chosen = replace(asked, algorithm=name)
        if name == "fedavg_finetuned":
            with pytest.raises(ValueError, match="`shards` must be in this process, for fine-tuning"):
                server.prepare(chosen, three)
        else:
            server.prepare(chosen, three)


def test_a_finished_run_hands_out_its_rewards_again(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    grid = Inline(asked, three, tmp_path)
    grid.silent = lambda m: m.metadata.message_type == "query.reward" and m.metadata.dst_node_id == 101
    report = server.run_over(grid, asked, three)
    assert not (tmp_path / "1").exists()
    again = Inline(asked, three, tmp_path)
    assert result(server.run_over(again, asked, three)) == result(report)
    assert list((tmp_path / "1").glob("*.safetensors"))
    assert not any(m.metadata.message_type == "train.round" for _, m in again.sent)


def test_a_folder_of_another_run_is_refused(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    server.run_over(Inline(asked, three, tmp_path), asked, three)
    for changed, config, match in (
        (asked, replace(three, lr=0.5), "a run with lr = 0.06, this run has 0.5"),
        (replace(asked, network="LeNet"), three, "a run with network = 'MLP', this run has 'LeNet'"),
        (replace(asked, algorithm="aequa(server='fedavgm(0.5)')"), three, "with algorithm = 'aequa', .*fedavgm"),
        (replace(asked, algorithm="aequa(width_sampler='sandwich')"), three, "with algorithm = 'aequa', .*sandwich"),
    ):
        with pytest.raises(ValueError, match=match):
            server.run_over(Inline(changed, config, tmp_path), changed, config)


def test_each_participant_is_sent_its_slice_and_no_more(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    config = replace(three, rounds=4, local_steps=10)
    asked = replace(asked, algorithm="aequa(schedule='training_time(0.0)')")
    grid = Inline(asked, config, tmp_path)
    report = server.run_over(grid, asked, config)
    widths = [[row["participants"][str(i)]["width"] for row in rows_of(asked.folder)] for i in range(3)]
    assert min(map(min, widths)) < 1
    for i in range(3):
        numbers = [4 * n for n in (*(aq.n_parameters(aq.MLP(w)) for w in widths[i]), report.parameters[i])]
        messages = [message for node, message in grid.sent if node == 100 + i]
        sizes = [
            len(array.data)
            for m in messages
            for record in m.content.array_records.values()
            for array in record.values()
        ]
        assert len(sizes) == config.rounds + 1  # its slice in every round, and its reward
        assert all(least <= size <= least + 2048 for least, size in zip(numbers, sizes, strict=True))


def test_nobody_is_sent_anothers_samples_or_number(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)
    server.run_over(grid, asked, three)
    keys = {key for _, m in grid.sent for record in m.content.config_records.values() for key in record}
    assert keys == {"alone", "classes", "words", "features", "round", "width", "width_sampler", "labels", "manifest"}


def test_who_does_not_reply_is_left_out_and_the_round_goes_on(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    grid = Inline(asked, three, tmp_path)
    grid.silent = lambda m: m.metadata.message_type == "train.round" and m.metadata.dst_node_id == 101
    asked = replace(asked, quorum=2)
    report = server.run_over(grid, asked, three)
    assert [row["replied"] for row in rows_of(asked.folder)] == [[0, 2], [0, 2]]
    assert "participant 1: its update was refused in 2 rounds" in report.warnings
    outcome = in_process(data, three, away={0: {1}, 1: {1}})
    assert same(state_of(asked), outcome.last.theta)
    slice_ = sum(t.numel() for t in outcome.last.theta.values())
    assert report.parameters_sent == outcome.report.parameters_sent - 2 * slice_  # what never came back is not counted


def test_below_the_quorum_the_run_stops_and_goes_on_later_to_the_same_report(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    asked = replace(asked, quorum=3)
    grid = Inline(asked, three, tmp_path)
    grid.silent = lambda m: m.metadata.group_id == "1" and m.metadata.dst_node_id == 101
    with pytest.raises(TooFewError, match="round 1: 2 of 3 participants replied within 1 seconds, the quorum is 3"):
        server.run_over(grid, asked, three)
    assert saved_round(asked) == 0
    again = Inline(asked, three, tmp_path)
    report = server.run_over(again, asked, three)
    assert result(report) == result(in_process(data, three).report)
    assert not any(m.content["asked"].get("alone") for _, m in again.sent)  # nobody trained alone a second time


def test_who_never_came_is_named(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)
    del grid.nodes[102]
    with pytest.raises(TooFewError, match="participants 2 did not introduce themselves within 1 seconds"):
        server.run_over(grid, asked, three)


def test_an_update_that_is_no_slice_of_its_width_is_left_out(
    three: aq.Config, asked: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(three, rounds=6)
    grid = Inline(asked, config, tmp_path)

    def spoilt(reply: Message) -> Message:
        if reply.metadata.message_type != "train.round" or grid.sent[-1][0] != 102:
            return reply
        state = wire.unpacked(reply.content["slice"], aq.MLP, 1.0)
        index = int(grid.sent[-1][1].metadata.group_id)
        if index == 4:
            del reply.content["slice"]
        elif index == 5:
            reply.content["stated"]["loss"] = float("inf")
        else:
            reply.content["slice"] = [
                lambda: wire.packed({k: t * float("nan") for k, t in state.items()}),
                lambda: wire.packed(aq.slice_of(aq.MLP, state, 0.5)),
                lambda: wire.packed_bytes(b"\x80\x04" + bytes(800)),
                lambda: wire.packed_bytes(bytes(10**6)),
            ][index]()
        return reply

    grid.changed = spoilt
    report = server.run_over(grid, asked, config)
    assert "participant 2: its update was refused in 6 rounds" in report.warnings
    assert all(torch.isfinite(t).all() for t in load_file(state_of(asked)).values())
    printed = capsys.readouterr().out
    for reason in (
        "a number that is not finite",
        "of shape (100, 784)",
        "not an intact safetensors",
        "got 1000000",
        "'slice'",
    ):
        assert reason in printed
    assert printed.count("participant 2: its update is refused") == 6


def test_a_huge_first_update_is_left_out(data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)

    def huge(reply: Message) -> Message:
        if grid.sent[-1][0] == 102 and grid.sent[-1][1].metadata.group_id == "0":
            state = wire.unpacked(reply.content["slice"], aq.MLP, 1.0)
            reply.content["slice"] = wire.packed({k: torch.full_like(t, 1e6) for k, t in state.items()})
        return reply

    grid.changed = huge
    report = server.run_over(grid, asked, three)
    assert result(report) == result(replace(
        in_process(data, three, away={0: {2}}).report, identity=report.identity
    ))  # fmt: skip
    assert "participant 2: its update was refused in 1 rounds" in report.warnings


def test_what_is_not_bytes_of_tensors_is_refused() -> None:
    theta = aq.init_params(aq.MLP, 0)
    extra = {**theta, "more": torch.zeros(1)}
    few = {k: t for k, t in theta.items() if k != "2.bias"}
    whole = {k: t.to(torch.int64) for k, t in theta.items()}
    for state, match in ((extra, "'more'"), (few, "'2.bias'"), (whole, "torch.int64|bytes")):
        with pytest.raises(ValueError, match=match):
            wire.unpacked(wire.packed(state), aq.MLP, 1.0)


def test_a_damaged_reward_is_not_stored(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)
    (path,) = aq.save_rewards(tmp_path / "made", aq.MLP, [aq.MLP(0.1)], [0.1], three)
    content = RecordDict({
        "reward": wire.packed_bytes(path.read_bytes()[:-4]),
        "asked": participant.ConfigRecord({"manifest": path.with_suffix(".json").read_text()}),
    })  # fmt: skip
    reply = participant.app(Message(content, 100, "query.reward"), grid.nodes[100])
    assert "SHA-256" in reply.error.reason
    assert not (tmp_path / "0").exists()


def test_a_key_of_another_or_of_nobody_is_refused(
    three: aq.Config, asked: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Inline(asked, three, tmp_path)
    keys = {fingerprint(b"100"): 0, fingerprint(b"101"): 2}  # 101 states that it is 1; 102 is on no roster
    registry = registry_of(grid, three, tmp_path, keys=keys)
    with pytest.raises(TooFewError, match="participants 1, 2 did not"):
        registry.gather(1.0)
    printed = capsys.readouterr().out
    assert "it states that it is participant 1, but its key is that of 2" in printed
    assert "node 102: refused, its key is not on the roster" in printed


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for nodes and replies, and ask who was refused, without a pause."""
    for name in ("NODES", "REPLIES", "AGAIN"):
        monkeypatch.setattr(participants, name, 0.0)


def registry_of(grid: Inline, config: aq.Config, folder: Path, **options: Any) -> ParticipantRegistry:
    """A registry for the embedded data."""
    asked = {"classes": 10, "words": 0, "features": 784, "labels": 0}
    return ParticipantRegistry(grid, RunState(folder, config), aq.MLP, asked, **options)


def look(registry: ParticipantRegistry) -> None:
    """Look once for nodes, and for what they reply."""
    registry._look()
    list(registry._arrived({}))


def questions(grid: Inline, node: int) -> list[Message]:
    """The introductions that a node was asked for."""
    return [m for to, m in grid.sent if to == node and m.metadata.message_type == "query.introduce"]


def noted(folder: Path | str) -> list[str]:
    """What the server has noted of participants, without the times."""
    lines = (Path(folder) / "participants.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 ", line) for line in lines)
    return [line.partition(" ")[2] for line in lines]


def test_who_was_refused_once_is_asked_again_and_takes_part(
    eager: None, three: aq.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)

    def changed(reply: Message) -> Message:
        if grid.sent[-1][0] == 101 and len(questions(grid, 101)) == 1:
            reply.content["stated"]["samples"] = 0
        return reply

    grid.changed = changed
    registry = registry_of(grid, three, tmp_path)
    registry.gather(600)
    assert registry.nodes == {0: 100, 1: 101, 2: 102}
    assert [len(questions(grid, node)) for node in (100, 102)] == [1, 1]
    # it trains alone again only once all else that it states is right
    assert [m.content["asked"]["alone"] for m in questions(grid, 101)] == [1, 0, 1]
    first, *rest = noted(tmp_path)
    assert first == "waiting for at most 600 seconds; missing: 0, 1, 2"
    reason = "`samples` must be a whole number in [1, 1000000000], got 0"
    assert f"node 101: refused, {reason}" in rest
    assert sum("participant 1 (node 101): admitted, with " in line for line in rest) == 1
    assert rest[-1].endswith("; missing: nobody")
    assert capsys.readouterr().out.count(f"aequa: refused by the server: {reason}") == 1  # its operator sees it too


def test_who_is_refused_in_every_reply_is_noted_once(eager: None, three: aq.Config, tmp_path: Path) -> None:
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)
    del grid.nodes[101], grid.nodes[102]
    error = "participant 0 has 8 features, the run has 784"
    grid.changed = lambda reply: Message(Error(code=2, reason=error), reply_to=grid.sent[-1][1])
    registry = registry_of(grid, three, tmp_path, keys={fingerprint(b"100"): 0})
    for _ in range(3):
        look(registry)
    assert len(questions(grid, 100)) == len(grid.sent) == 3  # its own app has told its operator why
    assert noted(tmp_path) == ["participant 0 (node 100): refused, participant 0 has 8 features, the run has 784"]


def test_who_is_refused_for_what_it_states_trains_alone_once(eager: None, three: aq.Config, tmp_path: Path) -> None:
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)
    del grid.nodes[101], grid.nodes[102]
    registry = registry_of(grid, three, tmp_path, keys={fingerprint(b"100"): 2})  # it states that it is participant 0
    for _ in range(4):
        look(registry)
    assert [m.content["asked"]["alone"] for m in questions(grid, 100)] == [1, 0, 0, 0]
    assert len(noted(tmp_path)) == 1


def test_who_was_refused_is_asked_again_after_a_pause_only(
    eager: None, three: aq.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participants, "AGAIN", 1e6)
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)
    grid.changed = lambda reply: Message(Error(code=2, reason="no data"), reply_to=grid.sent[-1][1])
    registry = registry_of(grid, three, tmp_path)
    for _ in range(3):
        look(registry)
    assert len(questions(grid, 101)) == 1
    registry._known[101].due = 0.0  # the pause is over
    look(registry)
    assert len(questions(grid, 101)) == 2


@pytest.mark.parametrize("seen", [False, True])
def test_a_silent_node_is_asked_again_when_it_returns_and_admitted_once(
    seen: bool, eager: None, three: aq.Config, tmp_path: Path
) -> None:
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)
    registry = registry_of(grid, three, tmp_path)
    late: list[Message] = []

    def silent(message: Message) -> bool:
        if message.metadata.dst_node_id == 101:
            late.append(participant.app(message, grid.nodes[101]))
        return message.metadata.dst_node_id == 101

    grid.silent = silent
    for _ in range(3):
        look(registry)
    assert len(questions(grid, 101)) == 1
    away = grid.nodes.pop(101)
    if seen:  # it is away for longer than between two looks
        look(registry)
    else:
        grid.activated[101] = "later"
    grid.nodes[101] = away
    look(registry)
    assert len(questions(grid, 101)) == 2
    for reply in late:  # both arrive, the first one late
        grid.box[reply.metadata.reply_to_message_id] = reply
        list(registry._arrived({}))
        registry._look()
    assert registry.nodes == {0: 100, 1: 101, 2: 102}
    assert len(questions(grid, 101)) == 2
    assert sum("participant 1 (node 101): admitted" in line for line in noted(tmp_path)) == 1
    assert len(grid.box) == 1  # nobody asks for the second reply


def test_what_flower_answers_for_a_node_that_has_left_does_not_delay_its_return(
    eager: None, three: aq.Config, tmp_path: Path
) -> None:
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)
    grid.silent = lambda message: True
    registry = registry_of(grid, three, tmp_path)
    look(registry)
    away = grid.nodes.pop(101)
    look(registry)
    first = questions(grid, 101)[0]
    grid.box[first.metadata.message_id] = Message(Error(code=5, reason="the node is unavailable"), reply_to=first)
    grid.nodes[101], grid.silent = away, lambda message: False
    look(registry)
    assert registry.nodes[1] == 101
    assert not any("unavailable" in line for line in noted(tmp_path))


def test_asking_again_never_gives_a_number_to_another_key(eager: None, three: aq.Config, tmp_path: Path) -> None:
    grid = Inline(Settings(partition=PARTITION), three, tmp_path)
    grid.connect(103, 1)
    registry = registry_of(grid, three, tmp_path)
    for _ in range(4):
        look(registry)
    assert registry.nodes == {0: 100, 1: 101, 2: 102}
    assert len(questions(grid, 103)) == 4
    assert registry.state.participants[1]["key"] == fingerprint(b"101")
    del grid.nodes[101]  # nor while its owner is away
    look(registry)
    assert registry.nodes[1] == 101


def test_other_features_are_refused_in_words_before_anybody_trains(
    eager: None, three: aq.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((6, 8), np.float32), y=np.arange(6) % 2)
    settings, config = Settings(), replace(three, participants=1)
    context = Inline(settings, config, tmp_path).nodes[100]
    context.node_config |= {"data": str(path)}
    del context.node_config["partition"]
    asked = participant.ConfigRecord({"alone": 1, "labels": 0, "classes": 2, "words": 0, "features": 4})
    reply = participant.app(Message(RecordDict({"asked": asked}), 100, "query.introduce"), context)
    assert reply.error.reason == "participant 0 has 8 features, the run has 4"
    assert "aequa: refused: participant 0 has 8 features, the run has 4" in capsys.readouterr().out


def test_what_is_noted_is_printed_where_the_server_waits(
    three: aq.Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(Inline(Settings(), three, tmp_path), three, tmp_path)
    registry.note("participant 0 (node 5): admitted, with 9 samples; missing: 1, 2")
    app_said, (kept,) = capsys.readouterr().out, noted(tmp_path)
    run = [sys.executable, "-c", f"print('of no interest'); print({app_said!r}, end='')"]
    with Processes(tmp_path) as own:
        own.start("run", [sys.executable, "-c", "print('aequa: of an earlier start')"], tmp_path).wait()
    with Server(tmp_path) as host:
        asked = host.settings()
        for name in ("server", "apps"):
            host.start(name, [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
        monkeypatch.setattr(host, "_flwr", lambda name, *words: host.start(name, run, tmp_path))
        host.submit(asked, aq.Config())
        (tmp_path / "server").mkdir()
        (tmp_path / "server" / "outcome.json").write_text(json.dumps({"outcome": COMPLETED}))
        assert host.wait(asked) == COMPLETED
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.partition(" ")[2] == kept == "participant 0 (node 5): admitted, with 9 samples; missing: 1, 2"


def test_a_run_that_ends_without_a_result_is_one_sentence(tmp_path: Path) -> None:
    with Server(tmp_path) as host:
        for name, seconds in (("server", 60), ("apps", 60), ("run", 0)):
            host.start(name, [sys.executable, "-c", f"import time; print('{name}'); time.sleep({seconds})"], tmp_path)
        with pytest.raises(RuntimeError, match="the run ended without a result; the end of the run's log:\nrun"):
            host.wait(host.settings())


def test_a_participant_of_this_machine_that_ends_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs = {"participant-03": "print('no port')", "participant-04": "time.sleep(60)", "run": "time.sleep(3)"}
    with Server(tmp_path) as host:
        for name, program in {"server": "time.sleep(60)", "apps": "time.sleep(60)", **programs}.items():
            host.start(name, [sys.executable, "-c", f"import time; {program}"], tmp_path)
        with pytest.raises(RuntimeError, match="the run ended without a result"):
            host.wait(host.settings())
    assert capsys.readouterr().err == "participant-03 has ended; the end of its log:\nno port\n"


def test_free_ports_differ_and_are_none_of_outgoing_connections() -> None:
    found = [free_port() for _ in range(50)]
    assert len(set(found)) == 50
    assert all(20000 <= port < 32768 for port in found)  # Linux gives 32768 and above to outgoing connections


def test_lines_are_told_once_and_whole(tmp_path: Path) -> None:
    parts = [b"aequa: one\nae", b"qua: t", b"wo \xff\nthree\n", b"aequa: cut"]
    write = "import sys, time\nfor part in {}:\n    sys.stdout.buffer.write(part)\n    time.sleep(0.7)\n"
    with Processes(tmp_path) as own:
        own.start("log", [sys.executable, "-c", write.format(parts)], tmp_path)
        assert list(own.told("log")) == ["one", "two \ufffd"]


@pytest.mark.parametrize("allowed", [False, True])
def test_without_keys_a_second_node_takes_a_place_only_where_that_is_asked_for(
    allowed: bool, three: aq.Config, asked: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Inline(asked, three, tmp_path)
    grid.connect(103, 1)
    server.run_over(grid, replace(asked, allow_replacement=allowed), three)
    printed = capsys.readouterr().out
    refused = "node 103: refused, participant 1 has introduced itself with another key; give every participant a key"
    assert ("participant 1: node 103 takes its place" if allowed else refused) in printed
    assert [(tmp_path / name).exists() for name in ("1", "3")] == [not allowed, allowed]  # who received the reward


def test_an_algorithm_that_participants_cannot_train_is_refused_before_any_work(
    three: aq.Config, asked: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = aq.slimmable(aq.MLP)
    own = replace(strategy, local=lambda *given, **options: strategy.local(*given, **options))
    monkeypatch.setattr(server, "algorithm", lambda text: partial(_with, own))
    grid = Inline(asked, three, tmp_path)
    with pytest.raises(ValueError, match="`algorithm` must be one whose participants train by `local_sgd`"):
        server.run_over(grid, asked, three)
    assert not grid.sent
    with pytest.raises(ValueError, match="`width_sampler` must be one that has a word"):
        sampler_name(aq.MLP, aq.slimmable(aq.MLP, lambda rng, widest, config: (widest,)))


def _with(strategy: aq.Strategy, problem: aq.Problem, *, train: Any) -> None:
    """An algorithm of this strategy."""
    train(problem, strategy)


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path: Path, three: aq.Config) -> None:
    (tmp_path / "file").write_text("")
    asked = Settings(folder=str(tmp_path / "file" / "server"))
    grid = Inline(asked, three, tmp_path)
    with pytest.raises(ValueError, match="`folder` must be a folder that can be written to"):
        server.run_over(grid, asked, three)
    assert not grid.sent


def test_a_state_of_another_config_or_damaged_is_refused(tmp_path: Path, three: aq.Config) -> None:
    RunState(tmp_path, three).admit(0, "aa", 5)
    assert RunState(tmp_path, three).participants == {0: {"samples": 5, "key": "aa"}}
    with pytest.raises(ValueError, match="belongs to a run with lr = 0.06, this run has 0.5"):
        RunState(tmp_path, replace(three, lr=0.5))
    whole = (tmp_path / "run.json").read_text()
    for text in ("{", whole.replace('"samples": 5', '"samples": 6'), whole.replace("sha256", "sha255")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            RunState(tmp_path, three)


def test_size_and_model_of_a_participant_stay_those_of_the_first_time(tmp_path: Path, three: aq.Config) -> None:
    state = RunState(tmp_path, three)
    state.admit(1, "aa", 40, aq.init_params(aq.MLP, 0))
    state.admit(1, "bb", 10**6, aq.init_params(aq.MLP, 1))
    assert state.participants[1] == {"samples": 40, "key": "bb"}
    assert torch.equal(state.alone(1, aq.MLP)["2.bias"], aq.init_params(aq.MLP, 0)["2.bias"])


def test_a_participants_own_file_is_its_shard(tmp_path: Path, three: aq.Config, data: aq.Dataset) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, x=data.train.x[:7].numpy(), y=data.train.y[:7].numpy())
    shard = participant.own_shard({"participant": 2, "data": str(path)}, three, "fashion-mini", 10)
    assert shard.participant == 2
    assert torch.equal(shard.samples.x, data.train.x[:7])
    np.savez(path, x=data.train.x[:7].numpy(), y=data.train.y[:7].numpy() + 10)
    with pytest.raises(ValueError, match="labels 0 to 9"):
        participant.own_shard({"participant": 2, "data": str(path)}, three, "fashion-mini", 10)
    with pytest.raises(ValueError, match=re.escape("`participant` must be a whole number in [0, 2], got 3")):
        participant.own_shard({"participant": 3, "partition": "homogeneous"}, three, "fashion-mini", 10)
    with pytest.raises(ValueError, match="`data` must be a known data set"):
        participant.own_shard({"participant": 2}, three, str(path), 10)


def test_the_processes_see_the_packages_and_programs_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "flower" / "lib" / "python" / "site-packages"  # where a notebook of Colab puts Flower
    (beside / "flwr-1.42.0.dist-info").mkdir(parents=True)
    (beside / "flwr-1.42.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: flwr\nVersion: 1.42.0\n")
    (beside / "flwr-1.42.0.dist-info" / "RECORD").write_text("../../../bin/flower-superlink,,\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("flower/lib/python/site-packages")
    assert program_folder() == str(tmp_path / "flower" / "bin")
    own, seen = str(Path(aq.__file__).parents[1]), search_path()
    assert own in seen
    assert str(beside) in seen
    assert [each for each in seen if each != own] == [
        each for each in map(os.path.abspath, filter(None, sys.path)) if each != own
    ]


def test_settings_are_read_as_they_were_written(tmp_path: Path, three: aq.Config) -> None:
    import tomllib

    asked = Settings(quorum=2, deadline=7.5, folder='a "quoted" folder', allow_replacement=True)
    config = tomllib.loads(write_app(tmp_path, asked, three).read_text())["tool"]["flwr"]["app"]["config"]
    flat = {f"config.{k}": v for k, v in config.pop("config").items()}
    assert read_config({**config, **flat}) == (asked, three)
    for text in ("über", "\U0001f600", "a\x7fb", "back\\slash", 'tab\t"quote"'):
        written = tomllib.loads(write_app(tmp_path, Settings(folder=text), three).read_text())
        assert written["tool"]["flwr"]["app"]["config"]["folder"] == text


def test_certificates_are_made_anew_for_another_address_and_before_they_expire(tmp_path: Path) -> None:
    assert not valid_certificate(tmp_path, "127.0.0.1")  # there are none
    write_certificate(tmp_path, "fleet.example", days=40)
    assert valid_certificate(tmp_path, "fleet.example")
    assert valid_certificate(tmp_path, "127.0.0.1")
    assert not valid_certificate(tmp_path, "other.example")
    assert not valid_certificate(tmp_path, "fleet.example", days=41)
    (tmp_path / "ca.crt").write_text("damaged")
    assert not valid_certificate(tmp_path, "fleet.example")


def test_participants_of_a_fleet_without_keys_may_return_whatever_the_command_line_passes(tmp_path: Path) -> None:
    asked = cli._parser("fleet").parse_args(["fleet", "--participants", "2"])
    passed = {"allow_replacement": asked.allow_replacement}
    assert Fleet(tmp_path, 2).settings(**passed).allow_replacement  # each start of a node makes a key of its own
    assert not Fleet(tmp_path, 2, secure=True).settings(**passed).allow_replacement


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"quorum": 0}, "`quorum` must be a whole number from 1, got 0"),
        ({"deadline": float("nan")}, "`deadline` must be a number in"),
        ({"allow_replacement": 1}, "`allow_replacement` must be True or False"),
        ({"config.logit_adjustment": 1.5}, "`logit_adjustment` must be a number in .0, 1., got 1.5"),
        ({"deadlin": 3.0}, "nearest is 'deadline'"),
        ({"config.round": 3}, "nearest is 'rounds'"),
        ({"algorithm": "aequ"}, "nearest is 'aequa'"),
        ({"algorithm": "aequa(schedule='training_times()')"}, "nearest is 'training_time'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_config(values)


def test_a_configuration_that_cannot_be_read_leaves_its_sentence(
    tmp_path: Path, three: aq.Config, asked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Inline(asked, three, tmp_path)
    context = Context(1, 1, {}, RecordDict(), {**grid.values, "quorum": 9})
    with pytest.raises(ValueError, match="quorum"):
        server.main(grid, context)
    outcome = json.loads((Path(asked.folder) / "outcome.json").read_text())["outcome"]
    assert outcome == "`quorum` must be a whole number in [1, 3], got 9"
    monkeypatch.setattr(server, "run_over", lambda *given: {}["a fault of the package"])
    with pytest.raises(KeyError):
        server.main(grid, Context(1, 1, {}, RecordDict(), grid.values))
    outcome = json.loads((Path(asked.folder) / "outcome.json").read_text())["outcome"]
    assert outcome == "KeyError: 'a fault of the package'"


def command(name: str, *arguments: str) -> None:
    """Run `aequa NAME ARGUMENTS`."""
    asked = vars(cli._parser(name).parse_args([name, *arguments]))
    asked.pop("command")(**asked)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--quorum", "9"], re.escape("`quorum` must be a whole number in [1, 2], got 9")),
        (["--partition", "homogenous"], "the nearest is 'homogeneous'"),
        (["--partition", "by_size((10,))"], "sizes"),
        (["--network", "TextCNN"], "`build` must be a network for the data set"),
        (["--rounds", "0"], "`rounds` must be a whole number in"),
    ],
)
def test_arguments_that_do_not_fit_together_start_nothing(
    options: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fleet, "start_all", lambda self: pytest.fail("a fleet was started"))
    with pytest.raises(ValueError, match=match):
        command("fleet", "--folder", str(tmp_path), "--participants", "2", *options)


def test_a_participant_without_data_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participant, "Processes", lambda folder: pytest.fail("a process was started"))
    for options, match in (
        (["--data", str(tmp_path / "nowhere.npz")], "`data` must be an .npz file"),
        (["--partition", "homogenous"], "the nearest is 'homogeneous'"),
        (["--partition", "homogeneous", "--key", __file__], "`authority` must be a file .*together., got ''"),
        (["--partition", "homogeneous", "--authority", __file__], "`key` must be a file .*together., got ''"),
        (["--partition", "homogeneous", "--key", "mine", "--authority", "ca"], "`key` must be a file that exists"),
        (
            ["--partition", "homogeneous", "--key", __file__, "--authority", "ca"],
            "`authority` must be a file that exists .*, got 'ca'",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            command("join", "127.0.0.1:8000", "0", "--folder", str(tmp_path), *options)


@pytest.mark.parametrize(
    "address", ["example.org", "example.org:", ":8000", "http://example.org:8000", "a:99999", "::1"]
)
def test_an_address_without_a_port_is_refused(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["join", address, "0", "--folder", str(tmp_path), "--partition", "homogeneous"]) == 2
    said = f"aequa join: `address` must be HOST:PORT, such as federation.example.org:8000, got {address!r}\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x_train": np.zeros((4, 3), np.float32)}, "must hold x and y, got .'x_train'."),
        ({"x": np.zeros((4, 3)), "y": np.arange(4)}, "`x_train` must be uint8 or float32, got float64"),
        ({"x": np.zeros((4, 3), np.float32), "y": np.arange(3)}, "whole numbers of shape"),
        ({"x": np.full((4, 3), np.nan, np.float32), "y": np.arange(4)}, "finite"),
    ],
)
def test_a_file_is_checked_before_a_node_connects(
    arrays: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant, "Processes", lambda folder: pytest.fail("a process was started"))
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        participant.join("127.0.0.1:8000", 0, folder=tmp_path, data=str(tmp_path / "mine.npz"))


def test_join_says_that_it_waits_what_its_node_tells_and_why_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 3), np.float32), y=np.ones(4, np.int64))
    said = "INFO: aequa: round 3\nExit Code: 305\n[code: 2004] Failed to activate SuperNode."
    monkeypatch.setattr(participant, "node_command", lambda *words: [sys.executable, "-c", f"print({said!r})"])
    with pytest.raises(
        RuntimeError, match="^127.0.0.1:8000 does not admit this key, or a node with this key is connected"
    ):
        participant.join("127.0.0.1:8000", 2, folder=tmp_path / "own", data=str(tmp_path / "mine.npz"))
    assert capsys.readouterr().err.splitlines() == [
        "waiting for 127.0.0.1:8000, as participant 2, with 4 samples that all have label 1",
        "round 3",
    ]


def until(condition: Callable[[], Any], seconds: float = 600, what: str = "") -> Any:
    """Wait for something to be true."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def training(fleet: Fleet, number: int, index: int) -> Callable[[], Any]:
    """Whether from now on a participant receives its slice of a round."""
    log = fleet.folder / "logs" / f"participant-{number:02d}.log"
    seen = len(log.read_text())
    return lambda: re.search(rf"ROUND {index}\](?s:.*?)Receiving: train\.round", log.read_text()[seen:])


def kill(fleet: Fleet, *names: str) -> None:
    """Kill programs of a fleet with all that they started, as a loss of power would."""
    for name in names:
        os.killpg(fleet.processes[name].pid, signal.SIGKILL)
    fleet.stop(*names)


def replied(fleet: Fleet) -> list[list[int]]:
    """Who replied in each round."""
    return [row["replied"] for row in rows_of(fleet.folder / "server")]


def processes(folder: Path, program: str = "") -> list[int]:
    """The ids of the processes of a fleet, or of those of them that run one program."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = str(folder).encode() in (each / "environ").read_bytes() and int(each.name) != os.getpid()
            if mine and program.encode() in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Fleets that are stopped at the end of the test, whatever happened; afterwards no process of theirs lives."""
    fleets: list[Fleet] = []

    def start(participants: int, **options: Any) -> Fleet:
        fleets.append(Fleet(tmp_path / "fleet", participants, partition=PARTITION, **options))
        fleets[-1].__enter__()
        fleets[-1].start_all()
        return fleets[-1]

    try:
        yield start
    finally:
        for each in fleets:
            each.__exit__(None, None, None)
    until(lambda: not processes(tmp_path), 10, "a process outlived its fleet")


linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


FOLDER = Path(participant.__file__).parent
BANNED = r"\b(clients?|users?|part(?:y|ies)|utils?|helpers?|managers?|callbacks?|multiplier)\b"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_its_files_keep_the_house_rules(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 330
    assert not re.findall(
        BANNED, text.replace("importlib.util", ""), flags=re.I
    )  # Flower's own ClientApp is another word
    assert not re.search(r"import pickle|torch\.load\(|allow_pickle=True|random\.seed", text)
    for each in ast.walk(ast.parse(text)):
        if isinstance(each, ast.FunctionDef):
            body = each.body[1:] if ast.get_docstring(each) else each.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 40, each.name


def test_nothing_else_in_the_package_imports_it() -> None:
    for path in {*FOLDER.parent.glob("*.py")} - {FOLDER.parent / "cli.py"}:  # the command line, when it is asked for
        assert not re.search(r"^\s*(from|import) .*(flower|flwr)", path.read_text(), re.M), path


@linux
@pytest.mark.fleet
def test_a_dead_a_slow_and_a_restarted_one_leave_the_report_of_those_who_were_there(
    started: Callable[..., Fleet], data: aq.Dataset
) -> None:
    config = aq.Config(participants=3, rounds=3, local_steps=3, batch=16)
    fleet = started(3)
    asked = fleet.settings(deadline=DEADLINE, quorum=2)
    first = training(fleet, 2, 0)
    fleet.submit(asked, config)
    until(first)
    second = training(fleet, 1, 1)
    kill(fleet, "participant-02")  # dead in the middle of round 0 ...
    fleet.start_participant(2)  # ... and back, under a new key
    until(second)
    slow = fleet.processes["participant-01"].pid
    os.killpg(slow, signal.SIGSTOP)  # not dead, but later than the deadline of round 1
    third = training(fleet, 0, 2)
    until(lambda: len(replied(fleet)) == 2)
    os.killpg(slow, signal.SIGCONT)
    until(third)
    kill(fleet, "server", "apps")  # the server dies in the middle of round 2
    fleet.start_server()
    fleet.submit(asked, config)
    assert fleet.wait(asked) == COMPLETED, fleet.tail("server", 40)
    assert replied(fleet) == [[0, 1], [0, 2], [0, 1, 2]]
    outcome = in_process(data, config, away={0: {2}, 1: {1}})
    assert same(state_of(asked), outcome.last.theta)
    report = aq.Report.load(asked.folder)
    outcome.save(fleet.folder / "in process")
    expected = aq.Report.load(fleet.folder / "in process")
    unlike = {name: getattr(report, name) for name in ("identity", "device", "parameters_sent")}
    assert result(replace(expected, **unlike)) == result(report)
    for i, model in enumerate(outcome.models):
        (mine,) = fleet.rewards(i).glob("*.safetensors")
        assert same(mine, model.state_dict())


@linux
@pytest.mark.fleet
def test_keys_certificates_a_full_disk_and_the_quorum(started: Callable[..., Fleet], data: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=2, local_steps=3, batch=16)
    fleet = started(2, secure=True)
    asked = fleet.settings(deadline=DEADLINE, quorum=2)
    fleet.submit(asked, config)
    elsewhere = write_certificate(fleet.folder / "elsewhere")
    fleet.start_participant(8, key=write_key(fleet.folder / "elsewhere", "stranger"))
    fleet.start_participant(9, key=fleet.folder / "keys" / "participant-01", authority=elsewhere / "ca.crt")
    until(state_of(asked).exists)
    for each in processes(fleet.folder, "flwr-serverapp"):  # from now on no file may grow beyond 100 kB
        resource.prlimit(each, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert re.search("cannot write .*: File too large", fleet.wait(asked))
    assert saved_round(asked) == 0
    shards = aq.registry.lookup("partition", PARTITION)(data.train, config)
    build = aq.for_dataset(aq.MLP, data)
    contribution = aq.method.assess(build, shards, config, data, progress=False).contribution
    weights = aq.aggregation_weights(shards, config, contribution)
    assert same(state_of(asked), next(aq.federate(build, shards, config, weights=weights, progress=False)).theta)
    until(lambda: fleet.processes["participant-08"].poll() is not None)
    assert "CERTIFICATE_VERIFY_FAILED" in fleet.tail("participant-09", 200)
    fleet.stop("participant-08", "participant-09")
    second = training(fleet, 1, 1)
    fleet.submit(asked, config)
    until(second)
    kill(fleet, "participant-01")
    assert re.search("round 1: 1 of 2 participants replied .* the quorum is 2", fleet.wait(asked))
    assert saved_round(asked) == 0
    run = json.loads((fleet.folder / "server" / "run.json").read_text())
    keys = {each["key"] for each in run["participants"].values()}
    assert keys == set(roster(fleet.folder / "keys", 2))  # only those who were registered ever took part


@linux
@pytest.mark.fleet
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_no_process_outlives_a_fleet_that_is_stopped(number: int, status: int, tmp_path: Path) -> None:
    own = [sys.executable, "-m", "aequa_lite", "fleet", "--participants", "2", "--folder", str(tmp_path / "fleet")]
    with (tmp_path / "printed").open("wb") as out:
        # a shell starts what runs in its background with Ctrl-C ignored, and children inherit that
        listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(own, stdout=out, stderr=out, preexec_fn=listening)
    try:
        until(lambda: len(processes(tmp_path, "flower-superexec")) == 3)
        process.send_signal(number)
        assert process.wait(60) == status
    finally:
        process.kill()
        process.wait()
    until(lambda: not processes(tmp_path), 10, "a process outlived its fleet")
    assert "Traceback" not in (tmp_path / "printed").read_text()


def test_a_server_that_starts_again_knows_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_key(tmp_path / "roster", "participant-00")
    server, said = Server(tmp_path / "server", tmp_path / "roster"), "Public key already in use"
    monkeypatch.setattr(server, "_flwr", lambda *words: SimpleNamespace(wait=lambda seconds: 1))
    monkeypatch.setattr(server, "tail", lambda name, lines=15: said)
    server.register()
    said = "the server does not answer"
    with pytest.raises(RuntimeError, match="does not admit the key .*participant-00.pub:\nthe server does not answer"):
        server.register()


def test_a_certificate_counts_with_its_key_only(tmp_path: Path) -> None:
    for lost in ("server.key", "ca.crt"):
        write_certificate(tmp_path, "fleet.example")
        assert valid_certificate(tmp_path, "fleet.example")
        (tmp_path / lost).unlink()
        assert not valid_certificate(tmp_path, "fleet.example")
    write_certificate(tmp_path / "other", "fleet.example")
    write_certificate(tmp_path, "fleet.example")
    (tmp_path / "server.key").write_bytes((tmp_path / "other" / "server.key").read_bytes())
    assert not valid_certificate(tmp_path, "fleet.example")


@pytest.mark.parametrize("address", ["", "example.org:8000", "a" * 65, "münchen.example"])
def test_an_address_that_no_certificate_can_name_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`address` must be a name of at most 64 letters or an IP address"):
        write_certificate(tmp_path, address)
    assert not list(tmp_path.iterdir())


def test_processes_are_stopped_where_no_other_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Processes(tmp_path) as own:
        child = own.start("sleeps", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    assert child.poll() is not None
