"""The participant's side: its data stays here, it trains the slice that it is sent, and it keeps the reward that it earned."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from .._io import atomic_write, short_repr
from .._parallel import workers
from .._validation import checked_metadata
from ..config import Config
from ..data.load import checked_arrays, load
from ..data.readers import NAMES, Arrays, open_npz, reading
from ..federate import slimmable, standalone
from ..registry import network, partition, width_sampler
from ..rewards.files import MOST_BYTES, MOST_MANIFEST_BYTES, load_reward
from ..rng import stream
from ..types import Samples, Shard, Update
from .settings import Settings, read_config
from .wire import opened, packed, unpacked

__all__ = ["app", "own_shard"]


app = ClientApp()


def own_shard(node: Mapping[str, Any], config: Config, data: str, classes: int) -> Shard:
    """Return the data of this node, as its own configuration names them; the server has no say in it.

    ``node``: ``participant`` (its number from 0), and either ``data`` = an .npz file with its own ``x`` and ``y``, or a
    ``partition`` such as ``homogeneous`` of the data set ``data`` (default: the run's, if that is a known set and no path).

    Raises:
        ValueError: the number is none of the recipe's, the file does not hold samples, or the run names a path of this machine.

    Example:
        >>> node = {"participant": 1, "partition": "homogeneous"}
        >>> len(own_shard(node, Config(participants=3), "fashion-mini", 10))
        2000
    """
    number, name = node.get("participant"), str(node.get("data", data))
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < config.participants:
        raise ValueError(
            f"participant is {short_repr(number)}; allowed is a whole number from 0 to {config.participants - 1}"
        )
    device = str(node.get("device", "cpu"))
    if "data" not in node and name not in ("fashion-mini", *NAMES):
        raise ValueError(
            f"the run names data {short_repr(name)}; which file of its own a node reads, its own data says"
        )
    if "partition" in node:
        return partition(str(node["partition"]))(load(name, device=device).train, config)[number]
    with reading(name), open_npz(name) as file, np.load(file, allow_pickle=False) as content:
        pair = content["x"], content["y"]
    words = ("ids",) if pair[0].dtype == np.int64 and pair[0].ndim == 2 else ()  # a text
    try:
        x, y = checked_arrays(Arrays(pair, pair, classes=classes, words=words)).train
    except ValueError as error:
        raise ValueError(
            f"{name} does not hold x and y of such a run, with labels 0 to {classes - 1}: {error}"
        ) from error
    samples = Samples(*(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (x, y)), classes)
    return Shard(number, samples, np.arange(len(y)))


def _asked(
    message: Message, context: Context, **allowed: tuple[float, float]
) -> tuple[dict[str, Any], Settings, Config, Shard]:
    """What a message asks for, if it is that and in these ranges, and what this node needs to do it."""
    settings, config = read_config(context.run_config)
    asked = checked_metadata(dict(message.content["asked"]), {**allowed, "classes": (2, 65536)})
    return asked, settings, config, own_shard(context.node_config, config, settings.data, int(asked["classes"]))


def _single(work: Callable[[Any], Any], item: Any) -> Any:
    """Work as the in-process loop works: on a thread that computes with one arithmetic thread."""
    with workers(1) as spread:
        return next(spread(work, [item]))


def _answer(message: Message, content: Mapping[str, Any], **said: Any) -> Message:
    """A reply: records, and plain values under "said"."""
    return Message(RecordDict({**content, "said": ConfigRecord(said)}), reply_to=message)


@app.query("introduce")
def introduce(message: Message, context: Context) -> Message:
    """Say who this is and how many samples it holds; with the network that it trained alone, where that is asked for."""
    asked, settings, config, shard = _asked(message, context, alone=(0, 1))
    content = {}
    if asked["alone"]:
        (net,) = standalone(
            network(settings.network), [shard], replace(config, participants=1), count=1, progress=False
        )
        content["alone"] = packed(net.state_dict())
    return _answer(message, content, participant=shard.participant, samples=len(shard))


@app.train("round")
def train(message: Message, context: Context) -> Message:
    """Train the slice that arrived on the own shard, exactly as the in-process loop does, and send it back."""
    rounds = read_config(context.run_config)[1].rounds
    asked, settings, config, shard = _asked(message, context, round=(0, rounds - 1), width=(1e-6, 1.0))
    build, index, width = network(settings.network), int(asked["round"]), float(asked["width"])
    sent = unpacked(message.content["slice"], build, width, shard.samples.y.device)

    def local(mine: Shard) -> Update:
        rng = stream(config.seed, "local", index, mine.participant)
        return slimmable(
            build, width_sampler(settings.width_sampler), logit_adjustment=settings.logit_adjustment
        ).local(sent, mine, width, config, rng, first=index * config.local_steps)

    update = _single(local, shard)
    return _answer(message, {"slice": packed(update.state)}, loss=update.loss)


@app.query("reward")
def reward(message: Message, context: Context) -> Message:
    """Keep the reward that arrived, once it is certain to be a network of this package: two files in the own folder."""
    name = f"participant-{int(context.node_config['participant']):02d}.safetensors"
    content = opened(message.content["reward"], MOST_BYTES)
    manifest = str(message.content["asked"]["manifest"]).encode()
    if len(manifest) > MOST_MANIFEST_BYTES:
        raise ValueError(f"the manifest has {len(manifest)} bytes; allowed are {MOST_MANIFEST_BYTES}")
    folder = Path(str(context.node_config.get("rewards", "rewards")))
    with tempfile.TemporaryDirectory() as aside:
        tried = Path(aside) / name
        tried.write_bytes(content)
        tried.with_suffix(".json").write_bytes(manifest)
        load_reward(tried)  # raises where it is damaged, too large, or no network of this package
    for path, part in ((folder / name, content), (folder / name.replace(".safetensors", ".json"), manifest)):
        with atomic_write(path) as half:
            half.write_bytes(part)
    return _answer(message, {}, kept=len(content))
