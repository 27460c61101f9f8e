"""The participant: its data stay here, it trains the slice that it is sent, and it stores its reward."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from .._check import number, refusal
from .._io import check_folder, error_text, explaining, printable, short_repr, write_whole
from .._parallel import workers
from .._validation import checked_metadata
from ..config import Config, stream
from ..data.load import checked_arrays, load
from ..data.readers import NAMES, Arrays, Pair, open_npz, reading
from ..federate import standalone
from ..local import local_sgd
from ..networks.base import for_dataset
from ..registry import lookup, network
from ..rewards import VOCABULARY, load_reward, load_vocabulary
from ..types import Build, Dataset, Samples, Shard, Update
from .machine import Processes, free_port, tell
from .wire import packed, read_config, unpacked, unpacked_bytes, unpacked_offsets

RAISED = 2  # Flower's code of an app that raised an error
# what a message states of the data, and whether labels are to be counted
DATA = {"classes": (2, 65536), "words": (0, 1_000_000), "features": (1, 1 << 28), "labels": (0, 1)}


def refuse(message: Message, context: Context, handle: Callable[[Message, Context], Message]) -> Message:
    """Reply why a message is refused, in one sentence, which is also told to the operator of this node."""
    try:
        return handle(message, context)
    except (OSError, ValueError) as error:
        sentence = error_text(error, 400)
        tell(f"refused: {sentence}")
        return Message(Error(RAISED, sentence), reply_to=message)


app = ClientApp(mods=[refuse])


def own_shard(node: Mapping[str, Any], config: Config, data: str, classes: int) -> Shard:
    """Return the data of this node, which its own configuration names; the server cannot set it.

    Args:
        node: `participant` (its number from 0), and either `data` (an .npz file with its own `x` and `y`) or a
            `partition` such as `homogeneous` of the data set `data` (default: the run's, if that is a known set).
        config: Of the run.
        data: The run's data set.
        classes: Number of classes.

    Raises:
        ValueError: The number is outside the run, the file does not hold samples, or the run names a path of this
            machine.

    Example:
        >>> node = {"participant": 1, "partition": "homogeneous"}
        >>> len(own_shard(node, Config(participants=3), "fashion-mini", 10))
        2000
    """
    mine = number("participant", node.get("participant"), 0, config.participants - 1, whole=True)
    own, partition, device = str(node.get("data", "")), str(node.get("partition", "")), str(node.get("device", "cpu"))
    if not own and data not in ("fashion-mini", *NAMES):
        raise refusal("data", "a known data set; a node's own configuration names its files", data)
    if partition:
        train = load(own or data, device=device, seed=config.seed).train
        return lookup("partition", partition)(train, config)[mine]
    x, y = _own_arrays(own or data, classes)
    samples = Samples(*(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (x, y)), classes)
    return Shard(mine, samples, range(len(y)))


def _own_arrays(name: str, classes: int) -> Pair:
    """x and y of an .npz file, checked."""
    with reading(name), open_npz(name) as file, np.load(file, allow_pickle=False) as content:
        found = {each: content[each] for each in content.files if each in ("x", "y")}
    if len(found) < 2:
        raise ValueError(f"{name} must hold x and y, got {short_repr(content.files)}")
    pair = found["x"], found["y"]
    words = ("ids",) if pair[0].dtype == np.int64 and pair[0].ndim == 2 else ()  # a text
    with explaining(f"{name} must hold x and y with labels 0 to {classes - 1}"):
        return checked_arrays(Arrays(pair, pair, classes=classes, words=words)).train


def _asked(
    message: Message, context: Context, **allowed: tuple[float, float]
) -> tuple[dict[str, int | float], Config, Shard, Build]:
    """The numbers of a message, checked, and what this node needs for its work."""
    settings, config = read_config(context.run_config)
    others = "width_sampler", "offset_widths", "offsets"  # no numbers: checked where they are used
    asked = {k: v for k, v in message.content["asked"].items() if k not in others}
    asked = checked_metadata(asked, {**allowed, **DATA})
    shard = own_shard(context.node_config, config, settings.data, int(asked["classes"]))
    if (mine := shard.samples.x[0].numel()) != asked["features"]:  # before anybody trains, and before shapes of tensors
        raise ValueError(f"participant {shard.participant} has {mine} features, the run has {asked['features']}")
    samples, words = shard.samples, ("",) * int(asked["words"])
    data = Dataset(settings.data, samples, samples, samples, "", words=words)  # shaped like the server's
    return asked, config, shard, for_dataset(network(settings.network), data)


def _reply(message: Message, content: Mapping[str, Any], **stated: Any) -> Message:
    """A reply: records, and plain values under `stated`."""
    return Message(RecordDict({**content, "stated": ConfigRecord(stated)}), reply_to=message)


@app.query("introduce")
def introduce(message: Message, context: Context) -> Message:
    """State who this is and how many samples it holds; of each class, and the model trained alone, only if asked."""
    asked, config, shard, build = _asked(message, context, alone=(0, 1))
    content, y = {}, shard.samples.y
    tell(f"participant {shard.participant} introduces itself" + ", and trains alone first" * int(asked["alone"]))
    stated: dict[str, Any] = {"participant": shard.participant, "samples": len(shard)}
    if asked["labels"]:
        stated["labels"] = torch.bincount(y, minlength=shard.samples.classes).tolist()
    if asked["alone"]:
        (net,) = standalone(build, [shard], replace(config, participants=1), workers=1, progress=False)
        content["alone"] = packed(net.state_dict())
    return _reply(message, content, **stated)


@app.train("round")
def train(message: Message, context: Context) -> Message:
    """Train the slice that arrived on the own shard, as the in-process loop does, and send it back."""
    rounds = read_config(context.run_config)[1].rounds
    asked, config, shard, build = _asked(message, context, round=(0, rounds - 1), width=(1e-6, 1.0))
    sampler = lookup("width_sampler", str(message.content["asked"]["width_sampler"]))
    index, width = int(asked["round"]), float(asked["width"])
    tell(f"round {index}")
    offsets = unpacked_offsets(message.content["asked"], shard.samples.classes)
    sent = unpacked(message.content["slice"], build, width, shard.samples.y.device)

    def local(mine: Shard) -> Update:
        rng = stream(config.seed, "local", index, mine.participant)
        first = index * config.local_steps
        return local_sgd(build, sent, mine, width, config, rng, width_sampler=sampler, offsets=offsets, first=first)

    with workers(1) as spread:  # as the in-process loop does: on a thread with one arithmetic thread
        (update,) = spread(local, [shard])
    return _reply(message, {"slice": packed(update.state)}, loss=update.loss)


@app.query("reward")
def reward(message: Message, context: Context) -> Message:
    """Store the reward that arrived in the own folder, once it has been rebuilt as a network of the package."""
    mine = number("participant", context.node_config["participant"], 0, whole=True)
    path = Path(str(context.node_config.get("rewards", "rewards"))) / f"participant-{mine:02d}.safetensors"
    manifest = str(message.content["asked"]["manifest"]).encode()
    files = {path: unpacked_bytes(message.content["reward"]), path.with_suffix(".json"): manifest}
    if "vocabulary" in message.content:
        files[path.with_name(VOCABULARY)] = unpacked_bytes(message.content["vocabulary"])
    with tempfile.TemporaryDirectory() as aside:
        for each, content in files.items():
            (Path(aside) / each.name).write_bytes(content)
        load_reward(Path(aside) / path.name)  # refuses what is damaged, too large, or no network of the package
        if "vocabulary" in message.content:
            load_vocabulary(Path(aside) / path.name)
    for each, content in files.items():
        write_whole(each, content)
    tell(f"the reward is stored as {path}")
    return _reply(message, {}, stored=len(files))


@app.query("notice")
def notice(message: Message, context: Context) -> Message:
    """Print why the server refuses this node; nothing else happens with the sentence."""
    tell(f"refused by the server: {printable(str(message.content['asked']['sentence']))[:400]}")
    return _reply(message, {})


def join(
    address: str, participant: int, *, folder: Path | str = "runs/join", data: str = "", partition: str = "",
    key: str = "", authority: str = "", device: str = "cpu",
) -> None:  # fmt: skip
    """Take part from this machine, until the process is interrupted.

    Args:
        address: The server's, as HOST:PORT.
        participant: Number of this participant, from 0.
        folder: Everything is written below it; the reward to its subfolder rewards.
        data: An .npz file with x and y of this participant; with a partition, a known data set.
        partition: For a trial, how a known data set becomes shards.
        key: This participant's private key.
        authority: The server's ca.crt.
        device: On which to train.

    Raises:
        RuntimeError: The connection ended; the sentence holds the end of the log.
        ValueError: Arguments do not fit together; nothing was started.
    """
    number("participant", participant, 0, whole=True)
    held = _check_join(address, data, partition, key, authority)
    check_folder("folder", folder)
    node = {"participant": participant, "device": device, "partition": partition}
    node["data"] = str(Path(data).resolve()) if Path(data).is_file() else data
    node["rewards"] = str((Path(folder) / "rewards").resolve())
    with Processes(folder) as own:
        own.start("participant", node_command(own.folder, address, node, key, authority), own.folder / "flwr")
        print(f"waiting for {address}, as participant {participant}{held}", file=sys.stderr, flush=True)
        for sentence in own.told("participant"):
            print(sentence, file=sys.stderr, flush=True)
        raise RuntimeError(_why_ended(address, own.tail("participant")))


def _check_join(address: str, data: str, partition: str, key: str, authority: str) -> str:
    """Refuse arguments that no server would make right; return what is held, as the end of a sentence."""
    found = re.fullmatch(r"(?:\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    if not found or not 1 <= int(found[1]) <= 65535:
        raise refusal("address", "HOST:PORT, such as federation.example.org:8000", address)
    if partition:
        lookup("partition", partition)
    elif not Path(data).is_file():
        raise refusal("data", "an .npz file, or a known data set with a partition", data)
    for name, path in (("key", key), ("authority", authority)):
        if (key or authority) and not Path(path).is_file():
            raise refusal(name, "a file that exists (key and authority go together)", path)
    if partition:
        return ""
    _, y = _own_arrays(data, DATA["classes"][1])  # how many classes there are only the server knows
    least, most = int(y.min()), int(y.max())
    labels = f"that all have label {least}" if least == most else f"of labels {least} to {most}"
    return f", with {len(y)} samples {labels}"


def _why_ended(address: str, tail: str) -> str:
    """Why the connection ended, from the end of Flower's log."""
    if "[code: 2004]" in tail:
        return (
            f"{address} does not admit this key, or a node with this key is connected already (one that was killed counts "
            "for another minute)"
        )
    return f"the connection to {address} ended; the end of its log:\n{tail}"


def node_command(
    home: Path, address: str, node: Mapping[str, object], key: Path | str | None, authority: Path | str | None
) -> list[str]:
    """The command of a SuperNode, whose configuration is written to `home/node.toml`."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "node.toml").write_text(tomli_w.dumps(node))
    safe = ["--root-certificates", str(authority), "--auth-supernode-private-key", str(key)]
    command = ["flower-supernode", *(safe if key and authority else ["--insecure"]), "--superlink", address]
    return [*command, "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", str(home / "node.toml")]
