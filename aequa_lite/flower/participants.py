"""What the server keeps of participants and rounds; which node is which participant, what each is sent, and who replies."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from .._io import error_text, explaining, opened, parse_json, read_limited, seal, short_repr, write_whole
from .._validation import checked_metadata, counts
from ..checkpoint import load_checkpoint, save_checkpoint
from ..config import Config
from ..slimmable import template
from ..types import Build, Round, ServerState, State
from .machine import fingerprint, tell
from .wire import unpacked

MOST_BYTES = 1 << 28  # of run.json; a round of a thousand participants takes a tenth of a megabyte
MOST_SAMPLES = 10**9


class RunState:
    """Keep `run.json`, and the models that participants trained alone, in the folder of a run.

    `participants` holds key and number of samples of each participant by number, `rounds` one row for each round: its
    widths, bytes sent and received, and who replied.

    Args:
        folder: Of the run.
        config: Of the run.
        about: What else must not change between restarts, by name.

    Raises:
        ValueError: `run.json` is damaged, or belongs to another run.

    Example:
        >>> import tempfile
        >>> state = RunState(tempfile.mkdtemp(), Config(participants=2))
        >>> state.admit(0, "aa", 40)
        >>> state.missing
        [1]
    """

    def __init__(self, folder: Path | str, config: Config, about: Mapping[str, str] | None = None) -> None:
        self.folder, self.config = Path(folder), config
        self.identity = {**config.to_dict(), **(about or {})}
        self.path = self.folder / "run.json"
        self.participants: dict[int, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        """Go on from what an earlier start has written."""
        damage = OSError, ValueError, KeyError, TypeError, AttributeError
        with explaining(f"{self.path} is damaged", *damage, remedy="delete the folder to start afresh"):
            found = parse_json(read_limited(self.path, MOST_BYTES))
            if "sha256" not in found:
                raise ValueError("it has no checksum")
            theirs = opened(found)["identity"]
            self.participants = {int(i): each for i, each in found["participants"].items()}
            self.rounds = found["rounds"]
        for name, value in self.identity.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self.path} belongs to a run with {name} = {short_repr(theirs.get(name))}, this run has "
                    f"{short_repr(value)}; use the same run or another folder"
                )

    def save(self) -> None:
        """Write `run.json`, whole or not at all."""
        found = {
            "identity": self.identity,
            "participants": {str(number): self.participants[number] for number in sorted(self.participants)},
            "rounds": self.rounds,
        }
        write_whole(self.path, json.dumps(seal(found), indent=1) + "\n")

    @property
    def missing(self) -> list[int]:
        """Participants that have never introduced themselves."""
        return [number for number in range(self.config.participants) if number not in self.participants]

    def admit(
        self, number: int, key: str, samples: int, alone: State | None = None, labels: Sequence[int] = ()
    ) -> None:
        """Store a participant's key; its number of samples, labels and model stay those of the first time."""
        if alone is not None and number not in self.participants:
            kept = Round(0, ServerState(alone), (1.0,), 0.0, 0, identity=self.identity)
            save_checkpoint(self._file(number), kept)  # which notices damage
        first = {"samples": samples, "labels": list(labels)} if labels else {"samples": samples}
        self.participants.setdefault(number, first)["key"] = key
        self.save()

    def _file(self, number: int) -> Path:
        """The file of the model that a participant trained alone."""
        return self.folder / "alone" / f"participant-{number:02d}.safetensors"

    def alone(self, number: int, build: Build) -> State:
        """Return the state of the model that a participant trained alone.

        Raises:
            ValueError: Its file is missing, damaged, or not of this network.
        """
        path = self._file(number)
        if (kept := load_checkpoint(path, self.identity, template(build, 1.0).state_dict())) is None:
            raise ValueError(f"{path} is missing; delete the folder to start afresh")
        return kept.theta

    def note(self, row: dict[str, Any]) -> None:
        """Add the row of a round, in place of an earlier one of the same round."""
        self.rounds = [*(each for each in self.rounds if each["round"] < row["round"]), row]
        self.save()


LOG = "participants.log"
REPLIES = 0.2  # seconds between two looks for replies
NODES = 2.0  # seconds between two looks for new nodes
AGAIN = 60.0  # seconds until a node that was refused is asked again; its operator may have mended what was wrong
SILENT = 3600.0  # seconds until a node that does not reply is asked again; it may train alone for so long
NOTICE = 3600.0  # seconds in which a node may fetch why it was refused


class TooFewError(RuntimeError):
    """Too few participants have introduced themselves or replied."""


@dataclass
class _Node:
    """Hold what is known of a connected node."""

    key: str
    activated: str  # when it connected, as Flower states it
    due: float = 0.0  # from when on it is asked to introduce itself; never again if infinite
    question: str = ""  # the message that asks it
    alone: bool = False  # whether it asks for the model trained alone, too
    reason: str = ""  # why it was refused


class ParticipantRegistry:
    """Send messages to participants and wait for replies until a deadline.

    With a roster a node's key decides which participant it is. Without one its own statement does, and the first node
    keeps the number, unless `allow_replacement` gives it to the newest. A node is asked once who it is; again if it was
    refused, does not reply, or has left and returned. `participants.log` keeps what became of it.

    Args:
        grid: Flower's connection to the nodes.
        state: Of the run.
        build: The network, for models trained alone.
        asked: What a node must know of the data to introduce itself, as numbers by name.
        keys: Participants by fingerprint, as `roster` returns them.
        allow_replacement: As in `Settings`.
    """

    def __init__(
        self, grid: Grid, state: RunState, build: Build, asked: Mapping[str, int],
        keys: Mapping[str, int] | None = None, allow_replacement: bool = False,
    ) -> None:  # fmt: skip
        self.grid, self.state, self.build, self.asked = grid, state, build, dict(asked)
        self.keys, self.allow_replacement = keys or {}, allow_replacement
        self.nodes: dict[int, int] = {}  # participant -> node
        self._known: dict[int, _Node] = {}
        self._looked = -NODES

    def gather(self, patience: float) -> None:
        """Wait until everybody has introduced itself, also known participants, for at most `patience` seconds.

        Raises:
            TooFewError: A participant has never introduced itself.
        """
        self.note(f"waiting for at most {patience:g} seconds{self._missing()}")
        list(self._replies(patience, lambda: len(self.nodes) == self.state.config.participants, {}))
        if self.state.missing:
            raise TooFewError(
                f"participants {', '.join(map(str, self.state.missing))} did not introduce themselves within "
                f"{patience:g} seconds; start their nodes, or raise patience; {LOG} says who was refused and why"
            )

    def _missing(self) -> str:
        """Who is not connected, as the end of a sentence."""
        away = [number for number in range(self.state.config.participants) if number not in self.nodes]
        return f"; missing: {', '.join(map(str, away)) or 'nobody'}"

    def exchange(
        self, kind: str, messages: Iterable[tuple[int, RecordDict]], deadline: float, group: str = ""
    ) -> dict[int, RecordDict]:
        """Send one message to each participant that is connected, and wait for the replies.

        New nodes introduce themselves meanwhile, and take part in the next exchange.

        Args:
            kind: Flower's type of the message, such as `train.round`.
            messages: Pairs of a participant and its message.
            deadline: Seconds after the last message was sent.
            group: Flower's name for the messages of one round.

        Returns:
            Replies by participant; without those that were late or report an error.
        """
        self._look()
        waiting: dict[str, int] = {}  # message -> participant
        replies: dict[int, RecordDict] = {}
        for number, content in messages:
            if (node := self.nodes.get(number)) is not None:
                waiting[self._push(content, node, kind, deadline, group)] = number
        for reply in self._replies(deadline, lambda: not waiting, waiting):
            number = waiting.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                print(f"participant {number}: {short_repr(reply.error.reason, 400)}", flush=True)
            else:
                replies[number] = reply.content
        return replies

    def _push(self, content: RecordDict, node: int, kind: str, deadline: float, group: str) -> str:
        """Send one message; Flower drops it if the node does not fetch it before the deadline."""
        (sent,) = self.grid.push_messages([Message(content, node, kind, ttl=deadline, group_id=group)])
        return sent

    def _look(self) -> None:
        """Ask nodes to introduce themselves where that is due."""
        if time.monotonic() < self._looked + NODES:
            return
        self._looked = time.monotonic()
        here = {each.node_id: each for each in self.grid.get_nodes()}
        for node, known in list(self._known.items()):
            same = node in here and here[node].last_activated_at == known.activated
            if not same and known.due < math.inf:  # it has left: asked anew when it is back
                del self._known[node]
        for node, each in here.items():
            known = self._known.setdefault(node, _Node(fingerprint(each.public_key), each.last_activated_at))
            if self._looked < known.due:
                continue
            if self.keys and known.key not in self.keys:
                self._refuse(node, "its key is not on the roster", math.inf)
            else:
                new = known.key not in [each["key"] for each in self.state.participants.values()]
                # who was refused is not to train for nothing again and again
                self._ask(node, known, alone=new and bool(self.state.missing) and not known.reason)

    def _ask(self, node: int, known: _Node, *, alone: bool) -> None:
        """Ask a node to introduce itself, also with the model trained alone."""
        known.alone = alone
        content = RecordDict({"asked": ConfigRecord({**self.asked, "alone": int(alone)})})
        known.question = self._push(content, node, "query.introduce", 86400, "introduction")
        known.due = time.monotonic() + SILENT

    def _refuse(self, node: int, sentence: str, pause: float, *, inform: bool = False) -> None:
        """Ask a node again after a pause; if the reason is news, note it, and inform the node's operator."""
        known = self._known[node]
        known.due, known.question = time.monotonic() + pause, ""
        if sentence == known.reason:
            return
        known.reason = sentence
        number = self.keys.get(known.key)
        who = f"node {node}" if number is None else f"participant {number} (node {node})"
        self.note(f"{who}: refused, {sentence}")
        if inform:
            content = RecordDict({"asked": ConfigRecord({"sentence": sentence})})
            self._push(content, node, "query.notice", NOTICE, "notice")

    def note(self, sentence: str) -> None:
        """Tell the operator a sentence and append it to the log, with the time."""
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {sentence}"
        tell(line)
        with suppress(OSError), (self.state.folder / LOG).open("a") as file:  # a full disk ends the run at its state
            file.write(f"{line}\n")

    def _replies(self, patience: float, done: Callable[[], bool], waiting: Mapping[str, int]) -> Iterator[Message]:
        """Replies as they arrive, until all is done or patience ends; nodes introduce themselves meanwhile."""
        until = time.monotonic() + patience
        while not done() and time.monotonic() < until:
            self._look()
            yield from self._arrived(waiting)
            time.sleep(REPLIES)

    def _arrived(self, waiting: Mapping[str, int]) -> Iterator[Message]:
        """Replies that have arrived; introductions are handled here."""
        questions = {known.question: node for node, known in self._known.items() if known.question}
        for reply in self.grid.pull_messages([*waiting, *questions]) if waiting or questions else []:
            node = questions.get(reply.metadata.reply_to_message_id)
            if node is None:
                yield reply
                continue
            try:
                self._admit(node, reply)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._refuse(node, error_text(error, 400), AGAIN, inform=not reply.has_error())  # else it knows why

    def _admit(self, node: int, reply: Message) -> None:
        """Take a node for the participant that it states, if its key allows it."""
        if reply.has_error():
            raise ValueError(reply.error.reason)
        key, stated = self._known[node].key, dict(reply.content["stated"])
        labels = stated.pop("labels", [])
        allowed = {"participant": (0, self.state.config.participants - 1), "samples": (1, MOST_SAMPLES)}
        number, samples = map(int, checked_metadata(stated, allowed).values())
        counted = self.asked["labels"]
        if not counts(labels, counted * self.asked["classes"]) or sum(labels) != counted * samples:
            raise ValueError(
                f"it must state how many of its {samples} samples are of each class, got {short_repr(labels)}"
            )
        if self.keys and self.keys[key] != number:
            raise ValueError(f"it states that it is participant {number}, but its key is that of {self.keys[key]}")
        first = self.state.participants.get(number)
        if first and not self.keys and first["key"] != key:
            if not self.allow_replacement:
                raise ValueError(
                    f"participant {number} has introduced itself with another key; give every participant a key "
                    "(`keys`), or set allow_replacement = true"
                )
            self.note(f"participant {number}: node {node} takes its place")
        if not (first or self._known[node].alone):  # all that it states is right now
            self._ask(node, self._known[node], alone=True)
            return
        alone = None if first else unpacked(reply.content["alone"], self.build, 1.0)
        self.state.admit(number, key, samples, alone, labels)
        self.nodes[number] = node
        self._known[node].due, self._known[node].question = math.inf, ""
        self.note(f"participant {number} (node {node}): admitted, with {samples} samples{self._missing()}")
