"""Which node is which participant, what each is sent, and who replies before the deadline."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from .._io import error_text, read_limited, short_repr
from .._validation import checked_metadata
from ..types import Build
from .state import MOST_SAMPLES, RunState
from .wire import unpacked

__all__ = ["ParticipantRegistry", "TooFewError", "roster"]


MOST_KEY_BYTES = 1 << 16


REPLIES = 0.2  # seconds between two looks for replies


NODES = 2.0  # seconds between two looks for new nodes


class TooFewError(RuntimeError):
    """Too few participants have introduced themselves or replied."""


def fingerprint(key: bytes) -> str:
    """SHA-256 of a node's public key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def roster(folder: Path | str, participants: int) -> dict[str, int]:
    """Read whose key is whose from the files `participant-NN.pub`, in OpenSSH's format.

    Returns:
        The participant's number by the key's fingerprint.

    Raises:
        ValueError: A participant's file is missing or holds no public key, or two hold the same.

    Example:
        >>> roster("nowhere", participants=0)
        {}
    """
    found: dict[str, int] = {}
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for number in range(participants):
        path = Path(folder) / f"participant-{number:02d}.pub"
        try:
            key = serialization.load_ssh_public_key(read_limited(path, MOST_KEY_BYTES))
            own = fingerprint(key.public_bytes(*form))
        except (OSError, ValueError, UnsupportedAlgorithm, AttributeError) as error:  # some keys have no such form
            raise ValueError(f"keys: {path} is not a public key that can be read ({error_text(error)})") from error
        if own in found:
            raise ValueError(f"keys: {path} is also the key of participant {found[own]}; each needs its own")
        found[own] = number
    return found


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
        self,
        grid: Grid,
        state: RunState,
        build: Build,
        asked: Mapping[str, int],
        keys: Mapping[str, int] | None = None,
        allow_replacement: bool = False,
    ) -> None:
        self.grid, self.state, self.build, self.asked = grid, state, build, dict(asked)
        self.keys, self.allow_replacement = keys, allow_replacement
        self.nodes: dict[int, int] = {}  # participant -> node
        self._key: dict[int, str] = {}  # node -> fingerprint
        self._introductions: dict[str, int] = {}  # message -> node
        self._looked = -NODES

    def gather(self, patience: float) -> None:
        """Wait until everybody has introduced itself; known participants are waited for until patience ends.

        Args:
            patience: Seconds.

        Raises:
            TooFewError: A participant has never introduced itself.
        """
        until = time.monotonic() + patience
        while time.monotonic() < until and len(self.nodes) < self.state.config.participants:
            self._look()
            list(self._replies({}))
            time.sleep(REPLIES)
        if self.state.missing:
            raise TooFewError(
                f"participants {', '.join(map(str, self.state.missing))} did not introduce themselves within "
                f"{patience:g} seconds; start their nodes, or raise patience"
            )

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
        """Ask new nodes to introduce themselves, with the model trained alone if one is still missing."""
        if time.monotonic() < self._looked + NODES:
            return
        self._looked = time.monotonic()
        for each in self.grid.get_nodes():
            if each.node_id in self._key:
                continue
            key = self._key[each.node_id] = fingerprint(each.public_key)
            if self.keys is not None and key not in self.keys:
                print(f"node {each.node_id}: refused, its key is not on the roster", flush=True)
                continue
            alone = bool(self.state.missing) and self.state.owner(key) is None
            asked = RecordDict({"asked": ConfigRecord({**self.asked, "alone": int(alone)})})
            message = self._push(asked, each.node_id, "query.introduce", 86400, "introduction")
            self._introductions[message] = each.node_id

    def _replies(self, waiting: Mapping[str, int]) -> Iterator[Message]:
        """Replies that have arrived; introductions are handled here."""
        if not waiting and not self._introductions:
            return
        for reply in self.grid.pull_messages([*waiting, *self._introductions]):
            if reply.metadata.reply_to_message_id in waiting:
                yield reply
            elif (node := self._introductions.pop(reply.metadata.reply_to_message_id, None)) is not None:
                try:
                    self._admit(node, reply)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    print(f"node {node}: refused, {error_text(error, 400)}", flush=True)

    def _admit(self, node: int, reply: Message) -> None:
        """Take a node for the participant that it states, if its key allows it."""
        if reply.has_error():
            raise ValueError(reply.error.reason)
        allowed = {"participant": (0, self.state.config.participants - 1), "samples": (1, MOST_SAMPLES)}
        stated, key = checked_metadata(dict(reply.content["stated"]), allowed), self._key[node]
        number, samples = int(stated["participant"]), int(stated["samples"])
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
        self.state.admit(number, key, samples, alone)
        self.nodes[number] = node
