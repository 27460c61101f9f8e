"""Send hostile updates: the honest participants' result stays usable, and the round names who was left out.

usage: python scripts/campaigns/updates.py [--seed N] [--share S] [--no-table]
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import FAILED, Row, few, main
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

import aequa_lite as aq
from aequa_lite.flower.server import RemoteTraining
from aequa_lite.flower.wire import Settings, packed, packed_bytes

Change = Callable[[aq.Update, np.random.Generator], Any]


def each(change: Callable[[Tensor], Any]) -> Change:
    """Change every tensor."""
    return lambda u, rng: replace(u, state={k: change(t) for k, t in u.state.items()})


def one(change: Callable[[Tensor], Any]) -> Change:
    """Change one tensor, drawn at random."""

    def hostile(u: aq.Update, rng: np.random.Generator) -> aq.Update:
        name = str(rng.choice(list(u.state)))
        return replace(u, state={k: change(t) if k == name else t for k, t in u.state.items()})

    return hostile


def entry(value: float) -> Change:
    """Set one entry of one tensor, both drawn at random."""

    def hostile(u: aq.Update, rng: np.random.Generator) -> aq.Update:
        state = {k: t.clone() for k, t in u.state.items()}
        flat = state[str(rng.choice(list(state)))].view(-1)
        flat[int(rng.integers(len(flat)))] = value
        return replace(u, state=state)

    return hostile


def renamed(u: aq.Update, rng: np.random.Generator) -> aq.Update:
    """One tensor has another name."""
    name = str(rng.choice(list(u.state)))
    return replace(u, state={k + "_" * (k == name): t for k, t in u.state.items()})


def shorter(u: aq.Update, rng: np.random.Generator) -> aq.Update:
    """One tensor is missing."""
    name = str(rng.choice(list(u.state)))
    return replace(u, state={k: t for k, t in u.state.items() if k != name})


CHANGES: dict[str, Change] = {  # of tensors: in process and over Flower
    "NaN everywhere": each(lambda t: t * math.nan), "NaN in one entry": entry(math.nan),
    "inf everywhere": each(lambda t: t + math.inf),
    "inf in one entry": entry(math.inf), "-inf in one entry": entry(-math.inf), "+1e6": each(lambda t: t + 1e6),
    "-1e6": each(lambda t: t - 1e6), "times 1e6": each(lambda t: t * 1e6), "+1e30": each(lambda t: t + 1e30),
    "times -1e30": each(lambda t: t * -1e30), "largest float": each(lambda t: torch.full_like(t, 3e38)),
    "1e30 in one entry": entry(1e30), "1e6 in one entry": entry(1e6), "+1000 in one tensor": one(lambda t: t + 1000),
    "one tensor missing": shorter, "empty": lambda u, rng: replace(u, state={}),
    "one tensor renamed": renamed, "an extra tensor": lambda u, rng: replace(u, state={**u.state, "extra": torch.ones(1)}),
    "an extra empty name": lambda u, rng: replace(u, state={**u.state, "": torch.ones(1)}),
    "a longer tensor": one(lambda t: torch.cat([t, t])), "a shorter tensor": one(lambda t: t[:-1]),
    "a flat tensor": each(lambda t: t.reshape(-1)), "an added dimension": one(lambda t: t[None]),
    "an empty tensor": one(lambda t: t[:0]), "transposed": each(lambda t: t.T.contiguous() if t.ndim == 2 else t),
    "a scalar": one(lambda t: t.sum()), "narrower": lambda u, rng: replace(u, state=aq.slice_of(BUILD, u.state, 0.5)),
    "double": each(lambda t: t.double()), "half": each(lambda t: t.half()), "bfloat16": one(lambda t: t.bfloat16()),
    "int64": each(lambda t: t.long()), "uint8": one(lambda t: t.to(torch.uint8)), "bool": one(lambda t: t > 0),
}  # fmt: skip
LOCAL: dict[str, Change] = {  # of what only one process can hand over
    "complex": each(lambda t: t + 0j), "sparse": each(lambda t: t.to_sparse()), "meta": each(lambda t: t.to("meta")),
    "arrays": each(lambda t: t.numpy()), "None for a tensor": one(lambda t: None), "text for a tensor": one(lambda t: "weights"),
    "lists": each(lambda t: t.tolist()), "state is None": lambda u, rng: replace(u, state=None),
    "state is a list": lambda u, rng: replace(u, state=[1.0]), "no update": lambda u, rng: None,
    "another's number": lambda u, rng: replace(u, participant=2), "no participant": lambda u, rng: replace(u, participant=99),
    "another width": lambda u, rng: replace(u, width=0.5), "negative weight": lambda u, rng: replace(u, weight=-1.0),
    "zero weight": lambda u, rng: replace(u, weight=0.0), "infinite weight": lambda u, rng: replace(u, weight=math.inf),
    "NaN weight": lambda u, rng: replace(u, weight=math.nan), "NaN loss": lambda u, rng: replace(u, loss=math.nan),
    "infinite loss": lambda u, rng: replace(u, loss=math.inf), "text as loss": lambda u, rng: replace(u, loss="low"),
    "text as weight": lambda u, rng: replace(u, weight="much"),
}  # fmt: skip
STATED = {"loss missing": {}, "loss NaN": {"loss": math.nan}, "loss negative": {"loss": -1.0}, "loss huge": {"loss": 1e9},
          "loss as text": {"loss": "low"}, "more numbers": {"loss": 1.0, "more": 1.0},
          "loss as list": {"loss": [1.0]}}  # fmt: skip
CONFIG = aq.Config(participants=3, rounds=2, local_steps=2, batch=8)
BUILD = aq.registry.network("MLP(hidden=8)")


def content(state: Any, stated: dict[str, Any] | None = None) -> RecordDict:
    """A reply as a participant sends it over Flower."""
    return RecordDict({"slice": packed(state), "stated": ConfigRecord({"loss": 1.0} if stated is None else stated)})


REPLIES: dict[str, Callable[[bytes, np.random.Generator], Any]] = {  # of the bytes of a good reply
    "random bytes": lambda good, rng: packed_bytes(rng.bytes(len(good))), "no bytes": lambda good, rng: packed_bytes(b""),
    "cut bytes": lambda good, rng: packed_bytes(good[: int(rng.integers(len(good)))]),
    "a megabyte more": lambda good, rng: packed_bytes(good + bytes(1 << 20)),
    "a pickle": lambda good, rng: packed_bytes(pickle.dumps({"weights": [1.0]})),
    "a header of its own": lambda good, rng: packed_bytes((1 << 62).to_bytes(8, "little") + good[8:]),
    "two arrays": lambda good, rng: ArrayRecord({"state": packed_bytes(good)["state"], "more": packed_bytes(good)["state"]}),
    "another name": lambda good, rng: ArrayRecord({"weights": packed_bytes(good)["state"]}),
    "another format": lambda good, rng: ArrayRecord({"state": Array("uint8", (len(good),), "numpy.ndarray", good)}),
    "numbers in place of tensors": lambda good, rng: ConfigRecord({"state": 1}), "nothing": lambda good, rng: None,
}  # fmt: skip


def left_out(shards: Any, strategy: aq.Strategy, at_once: bool = False) -> str:
    """Run two rounds in which participant 1 is hostile; the others' aggregate must be the one without it, to the bit."""
    try:
        options = {"strategy": strategy, "vectorized": at_once, "progress": False}
        rounds = list(aq.federate(BUILD, shards, CONFIG, **options))
    except Exception as error:
        return f"{FAILED}{type(error).__name__}: {str(error)[:60]}"
    first, last = rounds[0], rounds[-1]
    without = aq.aggregate(first.before.theta, [(u.state, u.weight) for u in (first.updates[0], first.updates[2])])
    if last.total_left_out != (1, 1):
        return f"{FAILED}left out were {last.total_left_out}"
    same = all(torch.equal(t, first.theta[k]) for k, t in without.items())
    return "left out and named" if same else FAILED + "the honest aggregate is another one"


def in_process(change: Change, shards: Any, rng: np.random.Generator) -> str:
    """Participant 1 sends hostile updates."""
    honest = aq.slimmable(BUILD)

    def local(*args: Any, **options: Any) -> Any:
        update = honest.local(*args, **options)
        return change(update, rng) if update.participant == 1 else update

    return left_out(shards, replace(honest, local=local))


def over_flower(reply: Callable[[aq.Update], RecordDict], shards: Any) -> str:
    """Participant 1 replies with hostile content, which the server unpacks and checks; only the network is left out."""
    honest = aq.slimmable(BUILD)
    server = RemoteTraining(SimpleNamespace(build=BUILD), Settings(), honest, "full_and_random")

    def exchange(sent: Any, shards: Any, widths: Any, config: Any, rngs: Any, *, first: int, weights: Any) -> Any:
        found = []
        for i, (state, shard, width, rng, weight) in enumerate(zip(sent, shards, widths, rngs, weights)):
            update = honest.local(state, shard, width, config, rng, first=first, weight=weight)
            answer = reply(update) if i == 1 else content(update.state)
            with contextlib.redirect_stdout(io.StringIO()):
                found.append(server._update(i, weight, answer, {i: {"width": width}}))
        return found

    return left_out(shards, replace(honest, vectorized=exchange), at_once=True)


def written_into(shards: Any) -> str:
    """A local step that writes into what it was sent must not change the server's model unnoticed."""
    honest = aq.slimmable(BUILD)

    def local(sent: Any, *rest: Any, **options: Any) -> aq.Update:
        for t in sent.values():
            t.fill_(7.0)
        return honest.local(sent, *rest, **options)

    try:
        list(aq.federate(BUILD, shards, CONFIG, strategy=replace(honest, local=local), progress=False))
    except ValueError as error:
        return "stopped with the reason" if "must not write" in str(error) else f"{FAILED}{error}"
    return FAILED + "not noticed"


def without_stated(stated: dict[str, Any]) -> Callable[[aq.Update], RecordDict]:
    """A good slice with other numbers beside it."""
    return lambda u: content(u.state, stated)


def with_reply(change: Callable[..., Any], rng: np.random.Generator) -> Callable[[aq.Update], RecordDict]:
    """A reply whose slice is replaced."""

    def reply(u: aq.Update) -> RecordDict:
        made, good = content(u.state), packed(u.state)["state"].data
        del made["slice"]
        if (hostile := change(good, rng)) is not None:
            made["slice"] = hostile
        return made

    return reply


def campaign(rng: np.random.Generator, share: float = 1.0) -> Iterator[Row]:
    """Every kind of hostile update, with entries drawn anew in each try."""
    shards = aq.data.homogeneous(few().train, CONFIG)
    flower = {what: lambda u, c=change: content(c(u, rng).state) for what, change in CHANGES.items()}
    flower |= {what: with_reply(change, rng) for what, change in REPLIES.items()}
    flower |= {what: without_stated(stated) for what, stated in STATED.items()}
    for _ in range(max(1, round(5 * share))):
        for what, change in (CHANGES | LOCAL).items():
            yield {"what": what, "path": "in process", "outcome": in_process(change, shards, rng)}
        for what, reply in flower.items():
            yield {"what": what, "path": "over Flower", "outcome": over_flower(reply, shards)}
        yield {"what": "writes into what it was sent", "path": "in process", "outcome": written_into(shards)}


if __name__ == "__main__":
    main({"updates": campaign}, seed=20264)
