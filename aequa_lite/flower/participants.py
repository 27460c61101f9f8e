"""What the server keeps of participants and rounds; which node is which participant, what each is sent, and who replies."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from .._io import error_text, opened, parse_json, read_limited, seal, short_repr, write_whole
from .._validation import checked_metadata, checked_update, numbers, save_tensors, tensors_at
from ..checkpoint import digest
from ..config import Config
from ..slimmable import template
from ..types import Build, State
from .introductions import LOG, Introductions, reason_of
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
        classes: How many label counts each participant states; 0 if none are asked for.

    Raises:
        ValueError: `run.json` is damaged, or belongs to another run.

    Example:
        >>> import tempfile
        >>> state = RunState(tempfile.mkdtemp(), Config(participants=2))
        >>> state.admit(0, "aa", 40)
        >>> state.missing
        [1]
    """

    def __init__(
        self, folder: Path | str, config: Config, about: Mapping[str, str] | None = None, classes: int = 0
    ) -> None:
        self.folder, self.config, self.classes = Path(folder), config, classes
        self.identity = {**config.to_dict(), **(about or {})}
        self.path = self.folder / "run.json"
        self.participants: dict[int, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        """Go on from what an earlier start has written."""
        try:
            found = parse_json(read_limited(self.path, MOST_BYTES))
            self.participants = {int(i): self._participant(int(i), each) for i, each in found["participants"].items()}
            self.rounds = [self._row(each) for each in found["rounds"]]
            theirs = dict(opened(found)["identity"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} is damaged ({error_text(error)}); delete the folder to start afresh"
            ) from error
        for name, value in self.identity.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{self.path} belongs to a run with {name} = {short_repr(theirs.get(name))}, this run has "
                    f"{short_repr(value)}; use the same run or another folder"
                )

    def _participant(self, number: int, each: Any) -> dict[str, Any]:
        """What is known of a participant, checked."""
        right = isinstance(each["key"], str) and numbers([each["samples"]], 1, 1, MOST_SAMPLES, whole=True)
        if labels := each.get("labels"):
            right = right and numbers(labels, len(labels), 0, whole=True) and sum(labels) == each["samples"]
        if not right or not 0 <= number < self.config.participants:
            raise ValueError(f"participant {number} is {short_repr(each)}")
        return dict(each)

    def _row(self, row: Any) -> dict[str, Any]:
        """The row of a round, checked."""
        received, out = row["participants"], row.get("left_out", [])
        right = numbers([row["round"], row.get("numbers", 0)], 2, 0, whole=True)
        right = right and numbers(out, len(out), 0, self.config.participants - 1, whole=True)
        if not right or not numbers([received[i]["width"] for i in received], len(received), 0, 1):
            raise ValueError(f"a round is {short_repr(row)}")
        return dict(row)

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
        """Participants that have never introduced themselves, or have not stated their labels."""
        known = {i for i, each in self.participants.items() if len(each.get("labels", ())) >= self.classes}
        return [number for number in range(self.config.participants) if number not in known]

    def owner(self, key: str) -> int | None:
        """Return the participant that has introduced itself with this key, if there is one."""
        return next((number for number, each in self.participants.items() if each["key"] == key), None)

    def admit(
        self, number: int, key: str, samples: int, alone: State | None = None, labels: Sequence[int] = ()
    ) -> None:
        """Store a participant's key; its number of samples, labels and model stay those of the first time."""
        if alone is not None and number not in self.participants:
            save_tensors(self._file(number), alone, {"sha256": digest([alone[k] for k in sorted(alone)])})
        known = self.participants.setdefault(number, {"samples": samples})
        known["key"] = key
        if labels and sum(labels) == known["samples"]:
            known.setdefault("labels", list(labels))
        self.save()

    def _file(self, number: int) -> Path:
        """The file of the model that a participant trained alone."""
        return self.folder / "alone" / f"participant-{number:02d}.safetensors"

    def alone(self, number: int, build: Build) -> dict[str, Tensor]:
        """Return the state of the model that a participant trained alone.

        Raises:
            ValueError: Its file is missing, damaged, or not of this network.
        """
        try:
            tensors, words = tensors_at(self._file(number))
            if words.get("sha256") != digest([tensors[k] for k in sorted(tensors)]):
                raise ValueError("its checksum does not fit its contents")
            return checked_update(tensors, template(build, 1.0).state_dict())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self._file(number)} cannot be read ({error_text(error)}); delete the folder to start afresh"
            ) from error

    def note(self, row: dict[str, Any]) -> None:
        """Add the row of a round, in place of an earlier one of the same round."""
        self.rounds = [*(each for each in self.rounds if each["round"] < row["round"]), row]
        self.save()


REPLIES = 0.2  # seconds between two looks for replies
NODES = 2.0  # seconds between two looks for new nodes
NOTICE = 3600.0  # seconds in which a node may fetch why it was refused


class TooFewError(RuntimeError):
    """Too few participants have introduced themselves or replied."""


class ParticipantRegistry:
    """Send messages to participants and wait for replies until a deadline.

    A node is known by its key. With a roster the key decides which participant it is. Without one its own statement
    does, and the first node keeps the number, unless `allow_replacement` gives it to the newest.

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
        self.keys, self.allow_replacement = keys, allow_replacement
        self.nodes: dict[int, int] = {}  # participant -> node
        self._introductions = Introductions(state.folder, keys)
        self._looked = -NODES

    def gather(self, patience: float) -> None:
        """Wait until everybody has introduced itself; known participants are waited for until patience ends.

        Args:
            patience: Seconds.

        Raises:
            TooFewError: A participant has never introduced itself.
        """
        until = time.monotonic() + patience
        self._introductions.note(f"waiting for at most {patience:g} seconds{self._missing()}")
        while time.monotonic() < until and len(self.nodes) < self.state.config.participants:
            self._look()
            list(self._replies({}))
            time.sleep(REPLIES)
        if self.state.missing:
            raise TooFewError(
                f"participants {', '.join(map(str, self.state.missing))} did not introduce themselves within "
                f"{patience:g} seconds; start their nodes, or raise patience; {self.state.folder / LOG} says who was "
                "refused and why"
            )

    def _missing(self) -> str:
        """Who is not connected, as the end of a sentence."""
        away = [number for number in range(self.state.config.participants) if number not in self.nodes]
        return f"; missing: {', '.join(map(str, away)) or 'nobody'}"

    def exchange(
        self, kind: str, messages: Iterable[tuple[int, RecordDict]], deadline: float, group: str = ""
    ) -> dict[int, RecordDict]:
        """Send one message to each participant that is connected, and wait for the replies.

        New nodes introduce themselves meanwhile, and take part from the next exchange on.

        Args:
            kind: Flower's type of the message, such as `train.round`.
            messages: Pairs of a participant and its message.
            deadline: Seconds after the last message was sent.
            group: Flower's name for the messages of one round.

        Returns:
            Replies by participant; without those that were late or report an error.
        """
        self._look()
        waiting: dict[str, int] = {}
        replies: dict[int, RecordDict] = {}
        for number, content in messages:
            if (node := self.nodes.get(number)) is not None:
                waiting[self._push(content, node, kind, deadline, group)] = number
        until = time.monotonic() + deadline
        while waiting and time.monotonic() < until:
            self._look()
            for reply in self._replies(waiting):
                number = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    print(f"participant {number}: {short_repr(reply.error.reason, 400)}", flush=True)
                else:
                    replies[number] = reply.content
            if waiting:
                time.sleep(REPLIES)
        return replies

    def _push(self, content: RecordDict, node: int, kind: str, deadline: float, group: str) -> str:
        """Send one message; Flower drops it if the node does not fetch it before the deadline."""
        (sent,) = self.grid.push_messages([Message(content, node, kind, ttl=deadline, group_id=group)])
        return sent

    def _look(self) -> None:
        """Ask nodes to introduce themselves where that is due, with the model trained alone if one is still missing."""
        if time.monotonic() < self._looked + NODES:
            return
        self._looked = time.monotonic()
        for node in self._introductions.due(self.grid.get_nodes()):
            key = self._introductions.key(node)
            if self.keys is not None and key not in self.keys:
                self._introductions.refused(node, "its key is not on the roster", pause=math.inf)
                continue
            alone = bool(self.state.missing) and self.state.owner(key) is None
            own = {"alone": int(alone), "labels": int(self.state.classes > 0)}
            asked = RecordDict({"asked": ConfigRecord(self.asked | own)})
            self._introductions.asked(node, self._push(asked, node, "query.introduce", 86400, "introduction"))

    def _replies(self, waiting: Mapping[str, int]) -> Iterator[Message]:
        """Replies that have arrived; introductions are handled here."""
        questions = self._introductions.questions
        if not waiting and not questions:
            return
        for reply in self.grid.pull_messages([*waiting, *questions]):
            question = reply.metadata.reply_to_message_id
            if question in waiting:
                yield reply
            elif (node := self._introductions.answered(question)) is not None:
                try:
                    self._admit(node, reply)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    sentence = error_text(error, 400)
                    if self._introductions.refused(node, sentence, question=question) and not reply.has_error():
                        told = RecordDict({"asked": ConfigRecord({"sentence": sentence})})  # else the node knows why
                        self._push(told, node, "query.notice", NOTICE, "notice")

    def _admit(self, node: int, reply: Message) -> None:
        """Take a node for the participant that it states, if its key allows it."""
        if reply.has_error():
            raise ValueError(reason_of(reply.error.reason))
        allowed = {"participant": (0, self.state.config.participants - 1), "samples": (1, MOST_SAMPLES)}
        words, key = dict(reply.content["stated"]), self._introductions.key(node)
        labels = words.pop("labels", [])
        stated = checked_metadata(words, allowed)
        number, samples = int(stated["participant"]), int(stated["samples"])
        classes = self.state.classes
        if not numbers(labels, classes, 0, whole=True) or (classes and sum(labels) != samples):
            raise ValueError(
                f"it must state how many of its {samples} samples are of each class, got {short_repr(labels)}"
            )
        known = self.state.participants.get(number)
        if self.keys is not None and self.keys[key] != number:
            raise ValueError(f"it states that it is participant {number}, but its key is that of {self.keys[key]}")
        if self.keys is None and known and known["key"] != key:
            if not self.allow_replacement:
                raise ValueError(
                    f"participant {number} has introduced itself with another key; give every participant a key "
                    "(`keys`), or set allow_replacement = true"
                )
            print(f"participant {number}: node {node} takes its place", flush=True)
        alone = None if known else unpacked(reply.content["alone"], self.build, 1.0)
        self.state.admit(number, key, samples, alone, labels)
        self.nodes[number] = node
        sentence = f"participant {number} (node {node}): admitted, with {samples} samples"
        self._introductions.admitted(node, f"{sentence}{self._missing()}")
