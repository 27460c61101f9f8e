"""Over Flower: the same bits as in one process, only its own to each, and faults that end in one sentence."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import aequa_lite as aq

pytest.importorskip("flwr", reason='Flower is not installed here: pip install "aequa-lite[flower]"')

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from aequa_lite.flower import participant, server, wire
from aequa_lite.flower.fleet import Fleet, programs, visible
from aequa_lite.flower.keys import write_certificates, write_key
from aequa_lite.flower.participants import ParticipantRegistry, TooFewError, fingerprint, roster
from aequa_lite.flower.settings import WELL, Settings, fixed_widths, policy, read_config, write_app
from aequa_lite.flower.state import RunState

PARTITION = "imbalanced(0.5, holders=1)"
WIDTHS = (0.25, 0.5, 1.0)
DEADLINE = 60.0  # seconds of a round with somebody missing; a busy machine starts a process in ten


class Inline(Grid):
    """A grid without processes: every message is answered at once by the participant's own app."""

    def __init__(self, settings: Settings, config: aq.Config, folder: Path) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # what Flower's processes are told
        config = {**vars(settings), **{f"recipe.{k}": v for k, v in config.to_dict().items()}}
        self.nodes = {
            100 + i: Context(1, 100 + i, {"participant": i, "partition": PARTITION, "rewards": str(folder / f"{i}")},
                             RecordDict(), config)
            for i in range(config.participants)
        }  # fmt: skip
        self.silent: Callable[[Message], bool] = lambda message: False
        self.changed: Callable[[Message], Message] = lambda reply: reply
        self.box: dict[str, Message] = {}
        self.sent: list[tuple[int, Message]] = []

    def get_nodes(self) -> Iterable[Any]:
        return [SimpleNamespace(node_id=node, public_key=str(node).encode()) for node in self.nodes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = name = f"letter {len(self.sent)}"
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
    return Settings(folder=str(tmp_path / "server"), deadline=1.0, patience=1.0)


def in_process(
    data: aq.Dataset, config: aq.Config, policy: Any = aq.full_width, logit_adjustment: float = 0.0
) -> tuple[aq.Round, Any, Any]:
    """The same run without Flower: its last round, what everybody brought, and the plan."""
    shards = aq.registry.partition(PARTITION)(data.train, config)
    brought = aq.accuracy(aq.standalone(aq.MLP, shards, config, progress=False), data.validation)
    weights = aq.aggregation_weights(shards, config, brought)
    strategy = aq.slimmable(aq.MLP, logit_adjustment=logit_adjustment)
    *_, last = aq.federate(aq.MLP, shards, config, policy=policy, strategy=strategy, weights=weights, progress=False)
    curve = aq.reward_curve(aq.MLP, last.theta, data.validation, config)
    return last, brought, aq.allocate(brought, curve)


def same(found: Path, theta: Any) -> bool:
    """Whether a file holds exactly these tensors."""
    tensors = load_file(found)
    return tensors.keys() == dict(theta).keys() and all(torch.equal(tensors[k], theta[k]) for k in tensors)


def state_of(settings: Settings) -> Path:
    return Path(settings.folder) / "theta.safetensors"


def test_rewards_after_training_are_those_of_the_loop_in_one_process(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    report = server.run_over(Inline(asked, three, tmp_path), asked, three)
    last, brought, plan = in_process(data, three)
    assert same(state_of(asked), last.theta)
    assert report.contribution == pytest.approx(brought, abs=1e-6)
    assert report.widths == pytest.approx(plan.widths, abs=1e-6)
    for i, width in enumerate(plan.widths):
        (mine,) = (tmp_path / f"{i}").glob("*.safetensors")  # its own, and no other
        assert mine.name == f"participant-{i:02d}.safetensors"
        assert same(mine, aq.fractional_slim(aq.MLP, last.theta, width, grid=three.grid).state_dict())
        assert aq.load_reward(mine) is not None


def test_rewards_during_training_are_those_of_the_loop_in_one_process(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    asked = replace(asked, policy=f"fixed_widths({WIDTHS})", logit_adjustment=0.5)
    report = server.run_over(Inline(asked, three, tmp_path), asked, three)
    last, _, _ = in_process(data, three, policy(asked.policy), logit_adjustment=0.5)
    other, _, _ = in_process(data, three, policy(asked.policy))
    assert not same(state_of(asked), other.theta)
    assert same(state_of(asked), last.theta)
    assert report.widths == WIDTHS
    for i, width in enumerate(WIDTHS):
        (mine,) = (tmp_path / f"{i}").glob("*.safetensors")
        assert same(mine, aq.slim(aq.MLP, last.theta, width).state_dict())


def test_a_switch_of_mode_is_one_name(data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    config, asked = replace(three, rounds=4), replace(asked, policy="earned_widths")
    server.run_over(Inline(asked, config, tmp_path), asked, config)
    last, _, _ = in_process(data, config, policy(asked.policy, aq.MLP, data.validation))
    assert same(state_of(asked), last.theta)


def test_each_participant_is_sent_its_slice_and_no_more(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    asked = replace(asked, policy=f"fixed_widths({WIDTHS})")
    grid = Inline(asked, three, tmp_path)
    server.run_over(grid, asked, three)
    for i, width in enumerate(WIDTHS):
        numbers = 4 * aq.n_parameters(aq.MLP(width))
        letters = [message for node, message in grid.sent if node == 100 + i]
        tensors = [
            len(array.data) for m in letters for record in m.content.array_records.values() for array in record.values()
        ]
        assert len(tensors) == three.rounds + 1  # its slice in every round, and its reward
        assert all(numbers <= size <= numbers + 1024 for size in tensors)


def test_nobody_sees_anothers_samples_or_number(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)
    server.run_over(grid, asked, three)
    said = {key for _, m in grid.sent for record in m.content.config_records.values() for key in record}
    assert said == {"alone", "classes", "round", "width", "manifest"}


def test_who_does_not_answer_is_left_out_and_the_round_goes_on(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    grid = Inline(asked, three, tmp_path)
    grid.silent = lambda m: m.metadata.message_type == "train.round" and m.metadata.dst_node_id == 101
    report = server.run_over(grid, replace(asked, quorum=2), three)
    rows = json.loads((Path(asked.folder) / "ledger.json").read_text())["rounds"]
    assert [row["answered"] for row in rows] == [[0, 2], [0, 2]]
    assert "participant 1: not finite and left out in 2 rounds" in report.warnings


def test_below_the_quorum_the_run_stops_and_goes_on_later_to_the_same_bits(
    data: aq.Dataset, three: aq.Config, asked: Settings, tmp_path: Path
) -> None:
    asked = replace(asked, quorum=3)
    grid = Inline(asked, three, tmp_path)
    grid.silent = lambda m: m.metadata.group_id == "1" and m.metadata.dst_node_id == 101
    with pytest.raises(TooFewError, match="round 1: 2 of 3 participants answered within 1 seconds, the quorum is 3"):
        server.run_over(grid, asked, three)
    assert aq.checkpoint.load_checkpoint(state_of(asked), three)[1] == 0
    again = Inline(asked, three, tmp_path)
    server.run_over(again, asked, three)
    assert same(state_of(asked), in_process(data, three)[0].theta)
    assert not any(m.content["asked"].get("alone") for _, m in again.sent)  # nobody trained alone a second time


def test_who_never_came_is_named(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)
    del grid.nodes[102]
    with pytest.raises(TooFewError, match="participants 2 did not introduce themselves within 1 seconds"):
        server.run_over(grid, asked, three)


def test_an_answer_that_is_no_slice_of_its_width_is_left_out(
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
            reply.content["said"]["loss"] = float("inf")
        else:
            reply.content["slice"] = [
                lambda: wire.packed({k: t * float("nan") for k, t in state.items()}),
                lambda: wire.packed(aq.slice_of(aq.MLP, state, 0.5)),
                lambda: wire.sealed(b"\x80\x04" + bytes(800)),
                lambda: wire.sealed(bytes(10**6)),
            ][index]()
        return reply

    grid.changed = spoilt
    report = server.run_over(grid, asked, config)
    assert "participant 2: not finite and left out in 6 rounds" in report.warnings
    assert all(torch.isfinite(t).all() for t in load_file(state_of(asked)).values())
    said = capsys.readouterr().out
    for reason in (
        "a number that is not finite",
        "of shape (100, 784)",
        "no intact safetensors",
        "has 1000000 bytes",
        "'slice'",
    ):
        assert reason in said
    assert said.count("participant 2: its answer is refused") == 6


def test_what_is_not_bytes_of_tensors_is_refused() -> None:
    theta = aq.init_params(aq.MLP, 0)
    extra = {**theta, "more": torch.zeros(1)}
    few = {k: t for k, t in theta.items() if k != "2.bias"}
    whole = {k: t.to(torch.int64) for k, t in theta.items()}
    for state, match in ((extra, "'more' is none"), (few, "'2.bias' is missing"), (whole, "is torch.int64|bytes")):
        with pytest.raises(ValueError, match=match):
            wire.unpacked(wire.packed(state), aq.MLP, 1.0)


def test_a_damaged_reward_is_not_kept(three: aq.Config, asked: Settings, tmp_path: Path) -> None:
    grid = Inline(asked, three, tmp_path)
    (path,) = aq.save_rewards(tmp_path / "made", aq.MLP, [aq.MLP(0.1)], [0.1], three)
    content = RecordDict({
        "reward": wire.sealed(path.read_bytes()[:-4]),
        "asked": participant.ConfigRecord({"manifest": path.with_suffix(".json").read_text()}),
    })  # fmt: skip
    with pytest.raises(ValueError, match="SHA-256"):
        participant.app(Message(content, 100, "query.reward"), grid.nodes[100])
    assert not (tmp_path / "0").exists()


def test_a_key_that_is_anothers_or_nobodys_is_refused(
    three: aq.Config, asked: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = Inline(asked, three, tmp_path)
    keys = {fingerprint(b"100"): 0, fingerprint(b"101"): 2}  # 101 says it is 1; 102 is on no roster
    post = ParticipantRegistry(grid, RunState(tmp_path, three), aq.MLP, 10, keys)
    with pytest.raises(TooFewError, match="participants 1, 2 did not"):
        post.gather(1.0)
    said = capsys.readouterr().out
    assert "it says it is participant 1, but its key is that of 2" in said
    assert "node 102: refused, its key is not on the roster" in said


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path: Path, three: aq.Config) -> None:
    (tmp_path / "file").write_text("")
    asked = Settings(folder=str(tmp_path / "file" / "server"))
    grid = Inline(asked, three, tmp_path)
    with pytest.raises(OSError, match="folder .* cannot be written to"):
        server.run_over(grid, asked, three)
    assert not grid.sent


def test_a_ledger_of_another_recipe_or_of_no_sense_is_refused(tmp_path: Path, three: aq.Config) -> None:
    RunState(tmp_path, three).admit(0, "aa", 5)
    assert RunState(tmp_path, three).known("aa") == 0
    with pytest.raises(ValueError, match="another recipe"):
        RunState(tmp_path, replace(three, lr=0.5))
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        RunState(tmp_path, three)


def test_a_number_and_a_size_stay_as_they_were_said_the_first_time(tmp_path: Path, three: aq.Config) -> None:
    ledger = RunState(tmp_path, three)
    ledger.admit(1, "aa", 40, aq.init_params(aq.MLP, 0))
    ledger.admit(1, "bb", 10**6, aq.init_params(aq.MLP, 1))
    assert ledger.participants[1] == {"samples": 40, "key": "bb"}
    assert torch.equal(ledger.alone(1, aq.MLP)["2.bias"], aq.init_params(aq.MLP, 0)["2.bias"])


def test_a_participants_own_file_is_its_shard(tmp_path: Path, three: aq.Config, data: aq.Dataset) -> None:
    import numpy as np

    path = tmp_path / "mine.npz"
    np.savez(path, x=data.train.x[:7].numpy(), y=data.train.y[:7].numpy())
    shard = participant.own_shard({"participant": 2, "data": str(path)}, three, "fashion-mini", 10)
    assert shard.participant == 2
    assert torch.equal(shard.samples.x, data.train.x[:7])
    np.savez(path, x=data.train.x[:7].numpy(), y=data.train.y[:7].numpy() + 10)
    with pytest.raises(ValueError, match="labels 0 to 9"):
        participant.own_shard({"participant": 2, "data": str(path)}, three, "fashion-mini", 10)
    with pytest.raises(ValueError, match="participant is 3; allowed is a whole number from 0 to 2"):
        participant.own_shard({"participant": 3, "partition": "homogeneous"}, three, "fashion-mini", 10)


def test_the_processes_see_the_packages_and_programs_that_this_one_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "flower" / "lib" / "python" / "site-packages"  # where a notebook of Colab puts Flower
    (beside / "flwr-1.42.0.dist-info").mkdir(parents=True)
    (beside / "flwr-1.42.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: flwr\nVersion: 1.42.0\n")
    (beside / "flwr-1.42.0.dist-info" / "RECORD").write_text("../../../bin/flower-superlink,,\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("flower/lib/python/site-packages")
    assert programs() == str(tmp_path / "flower" / "bin")
    own, seen = str(Path(aq.__file__).parents[1]), visible()
    assert own in seen
    assert str(beside) in seen
    assert [each for each in seen if each != own] == [
        each for each in map(os.path.abspath, filter(None, sys.path)) if each != own
    ]


def test_settings_are_read_as_they_were_written(tmp_path: Path, three: aq.Config) -> None:
    import tomllib

    asked = Settings(quorum=2, deadline=7.5, folder='a "quoted" folder')
    config = tomllib.loads(write_app(tmp_path, asked, three).read_text())["tool"]["flwr"]["app"]["config"]
    flat = {f"recipe.{k}": v for k, v in config.pop("recipe").items()}
    assert read_config({**config, **flat}) == (asked, three)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"quorum": 0}, "quorum is 0"),
        ({"quorum": 4, "recipe.participants": 3}, "from 1 to 3"),
        ({"deadline": float("nan")}, "deadline"),
        ({"balance": 1.5}, "balance is 1.5; allowed is a number from 0 to 1"),
        ({"deadlin": 3.0}, "nearest one is 'deadline'"),
        ({"recipe.round": 3}, "nearest one is 'rounds'"),
        ({"policy": "everyone"}, "nearest is 'everyone_full'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(config: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_config(config)


def test_fixed_widths_are_one_for_each(three: aq.Config) -> None:
    with pytest.raises(ValueError, match="allowed are 3 numbers"):
        fixed_widths(three, None, widths=(0.5, 1.0))


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


def rounds_of(fleet: Fleet) -> list[list[int]]:
    """Who answered in each round."""
    return [row["answered"] for row in json.loads((fleet.folder / "server" / "ledger.json").read_text())["rounds"]]


def processes(folder: Path, program: str = "") -> list[int]:
    """The ids of the processes of a fleet, or of those of them that run one program."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = str(folder).encode() in (each / "environ").read_bytes() and int(each.name) != os.getpid()
            if mine and program.encode() in (each / "cmdline").read_bytes():
                found.append(int(each.name))
    return found


def in_process_without(data: aq.Dataset, config: aq.Config, away: dict[int, set[int]]) -> aq.Round:
    """The last round of the loop in one process, in which these participants were away from these rounds."""
    shards = aq.registry.partition(PARTITION)(data.train, config)
    present = aq.slimmable(aq.MLP)

    def local(state: Any, shard: aq.Shard, *rest: Any, first: int, **options: Any) -> aq.Update:
        update = present.local(state, shard, *rest, first=first, **options)
        gone = shard.participant in away.get(first // config.local_steps, ())
        return replace(update, loss=float("nan")) if gone else update

    *_, last = aq.federate(aq.MLP, shards, config, strategy=replace(present, local=local), progress=False)
    return last


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Fleets that are stopped at the end of the test, whatever happened; afterwards no process of theirs lives."""
    fleets: list[Fleet] = []

    def start(participants: int, **options: Any) -> Fleet:
        fleets.append(Fleet(tmp_path / "fleet", participants, partition=PARTITION, **options))
        return fleets[-1].__enter__()

    try:
        yield start
    finally:
        for each in fleets:
            each.stop()
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
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or (body[-1].end_lineno or 0) - body[0].lineno < 40, node.name


def test_nothing_else_in_the_package_imports_it() -> None:
    for path in FOLDER.parent.glob("*.py"):
        assert not re.search(r"^\s*(from|import) .*(flower|flwr)", path.read_text(), re.M), path


@linux
@pytest.mark.fleet
def test_a_dead_a_slow_and_a_restarted_one_leave_the_network_of_those_who_were_there(
    started: Callable[..., Fleet], data: aq.Dataset
) -> None:
    config = aq.Config(participants=3, rounds=3, local_steps=3, batch=16)
    fleet = started(3)
    asked = fleet.settings(deadline=DEADLINE, quorum=2)
    first = training(fleet, 2, 0)
    fleet.submit(asked, config)
    until(first)
    second = training(fleet, 1, 1)
    fleet.stop("participant-02", kill=True)  # dead in the middle of round 0 ...
    fleet.start_participant(2)  # ... and back, under a new key
    until(second)
    slow = fleet.processes["participant-01"].pid
    os.killpg(slow, signal.SIGSTOP)  # not dead, but later than the deadline of round 1
    third = training(fleet, 0, 2)
    until(lambda: len(rounds_of(fleet)) == 2)
    os.killpg(slow, signal.SIGCONT)
    until(third)
    fleet.stop("server", kill=True)  # the server dies in the middle of round 2
    fleet.start_server()
    fleet.submit(asked, config)
    assert fleet.wait(asked, 600) == WELL, fleet.tail("server", 40)
    assert rounds_of(fleet) == [[0, 1], [0, 2], [0, 1, 2]]
    assert same(state_of(asked), in_process_without(data, config, {0: {2}, 1: {1}}).theta)
    report = aq.Report.load(asked.folder)
    for i, width in enumerate(report.widths):
        (mine,) = fleet.rewards(i).glob("*.safetensors")
        assert aq.n_parameters(aq.load_reward(mine)) == aq.n_parameters(aq.MLP(width))


@linux
@pytest.mark.fleet
def test_keys_certificates_a_full_disk_and_the_quorum(started: Callable[..., Fleet], data: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=2, local_steps=3, batch=16)
    fleet = started(2, secure=True)
    asked = fleet.settings(deadline=DEADLINE, quorum=2)
    fleet.submit(asked, config)
    elsewhere = write_certificates(fleet.folder / "elsewhere")
    fleet.start_participant(8, key=write_key(fleet.folder / "elsewhere", "stranger"))
    fleet.start_participant(9, key=fleet.folder / "keys" / "participant-01", authority=elsewhere / "ca.crt")
    until(state_of(asked).exists)
    for each in processes(fleet.folder, "flwr-serverapp"):  # from now on no file may grow beyond 100 kB
        resource.prlimit(each, resource.RLIMIT_FSIZE, (100_000, 100_000))
    assert re.search("cannot be written to .*; the last checkpoint is whole", fleet.wait(asked, 600))
    theta, index = aq.checkpoint.load_checkpoint(state_of(asked), config)  # type: ignore[misc]
    shards = aq.registry.partition(PARTITION)(data.train, config)
    first = next(aq.federate(aq.MLP, shards, config, progress=False))
    assert index == 0
    assert all(torch.equal(theta[k], first.theta[k]) for k in theta)
    until(lambda: fleet.processes["participant-08"].poll() is not None)
    assert "CERTIFICATE_VERIFY_FAILED" in fleet.tail("participant-09", 200)
    fleet.stop("participant-08", "participant-09")
    second = training(fleet, 1, 1)
    fleet.submit(asked, config)
    until(second)
    fleet.stop("participant-01", kill=True)
    assert re.search("round 1: 1 of 2 participants answered .* the quorum is 2", fleet.wait(asked, 600))
    assert aq.checkpoint.load_checkpoint(state_of(asked), config)[1] == 0  # type: ignore[index]
    keys = {
        each["key"]
        for each in json.loads((fleet.folder / "server" / "ledger.json").read_text())["participants"].values()
    }
    assert keys == set(roster(fleet.folder / "keys", 2))  # only those who were registered ever took part
