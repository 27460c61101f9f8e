"""The server's post: which node is which participant, what was sent to it, and who has answered before the deadline."""

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
from ..slimmable import Build
from .state import MOST_SAMPLES, RunState
from .wire import unpacked

__all__ = ["ParticipantRegistry", "TooFewError", "roster"]


MOST_KEY_BYTES = 1 << 16


PAUSE = 0.2  # seconds between two looks into the letter box


DOOR = 2.0  # seconds between two looks for newcomers


class TooFewError(RuntimeError):
    """Too few participants are there."""


def fingerprint(key: bytes) -> str:
    """SHA-256 of a node's public key, in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def roster(folder: Path | str, participants: int) -> dict[str, int]:
    """Return whose key is whose, {fingerprint: participant}, from ``participant-NN.pub`` files in OpenSSH's form.

    Raises:
        ValueError: a participant's file is missing or is no public key.

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
            raise ValueError(f"keys: {path} is also the key of participant {found[own]}; allowed is one for each")
        found[own] = number
    return found


class ParticipantRegistry:
    """Send to each participant what is its own, and wait for the answers until a deadline.

    A node is known by its key. Which participant it is, it says itself; where there is a roster, the key says it, and
    whoever claims another's number is refused.
    """

    def __init__(
        self, grid: Grid, ledger: RunState, build: Build, classes: int, keys: Mapping[str, int] | None = None
    ) -> None:
        self.grid, self.ledger, self.build, self.classes, self.keys = grid, ledger, build, classes, keys
        self.nodes: dict[int, int] = {}  # participant -> node
        self._key: dict[int, str] = {}  # node -> fingerprint
        self._asked: dict[str, int] = {}  # introductions under way: message -> node
        self._looked = -DOOR

    def gather(self, patience: float) -> None:
        """Wait until everybody has introduced itself; after a restart, until patience is over for those known before.

        Raises:
            TooFewError: somebody has never been here.
        """
        until = time.monotonic() + patience
        while time.monotonic() < until and len(self.nodes) < self.ledger.config.participants:
            self._look()
            list(self._replies({}))
            time.sleep(PAUSE)
        if self.ledger.missing:
            raise TooFewError(
                f"participants {', '.join(map(str, self.ledger.missing))} did not introduce themselves within "
                f"{patience:g} seconds; start their nodes, or raise patience"
            )

    def exchange(
        self, kind: str, letters: Iterable[tuple[int, RecordDict]], deadline: float, group: str = ""
    ) -> dict[int, RecordDict]:
        """Send one letter to each participant that is here and return the answers that came before the deadline.

        Newcomers are asked to introduce themselves meanwhile; they take part from the next exchange on.
        """
        self._look()
        waiting: dict[str, int] = {}
        answers: dict[int, RecordDict] = {}
        for number, content in letters:
            if (node := self.nodes.get(number)) is not None:
                waiting[self._push(content, node, kind, deadline, group)] = number
        until = time.monotonic() + deadline  # from the moment when everybody has been sent its letter
        while waiting and time.monotonic() < until:
            self._look()
            for reply in self._replies(waiting):
                number = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    print(f"participant {number}: {short_repr(reply.error.reason, 400)}", flush=True)
                else:
                    answers[number] = reply.content
            if waiting:
                time.sleep(PAUSE)
        return answers

    def _push(self, content: RecordDict, node: int, kind: str, deadline: float, group: str) -> str:
        """Send one letter; one that nobody fetches before the deadline is thrown away by Flower."""
        (sent,) = self.grid.push_messages([Message(content, node, kind, ttl=deadline, group_id=group)])
        return sent

    def _look(self) -> None:
        """Ask every node that is new to introduce itself, with the network it trained alone if that is still missing."""
        if time.monotonic() < self._looked + DOOR:
            return
        self._looked = time.monotonic()
        for each in self.grid.get_nodes():
            if each.node_id in self._key:
                continue
            key = self._key[each.node_id] = fingerprint(each.public_key)
            if self.keys is not None and key not in self.keys:
                print(f"node {each.node_id}: refused, its key is not on the roster", flush=True)
                continue
            alone = bool(self.ledger.missing) and self.ledger.known(key) is None
            asked = RecordDict({"asked": ConfigRecord({"alone": int(alone), "classes": self.classes})})
            self._asked[self._push(asked, each.node_id, "query.introduce", 86400, "introduction")] = each.node_id

    def _replies(self, waiting: Mapping[str, int]) -> Iterator[Message]:
        """The answers that have come to what is waited for; introductions are dealt with here."""
        if not waiting and not self._asked:
            return
        for reply in self.grid.pull_messages([*waiting, *self._asked]):
            if reply.metadata.reply_to_message_id in waiting:
                yield reply
            elif (node := self._asked.pop(reply.metadata.reply_to_message_id, None)) is not None:
                try:
                    self._admit(node, reply)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    print(f"node {node}: refused, {error_text(error, 400)}", flush=True)

    def _admit(self, node: int, reply: Message) -> None:
        """Take a node for the participant that it says it is, if its key allows it."""
        if reply.has_error():
            raise ValueError(reply.error.reason)
        asked = {"participant": (0, self.ledger.config.participants - 1), "samples": (1, MOST_SAMPLES)}
        told, key = checked_metadata(dict(reply.content["said"]), asked), self._key[node]
        number, samples = int(told["participant"]), int(told["samples"])
        if self.keys is not None and self.keys[key] != number:
            raise ValueError(f"it says it is participant {number}, but its key is that of {self.keys[key]}")
        alone = None
        if number not in self.ledger.participants:
            alone = unpacked(reply.content["alone"], self.build, 1.0)
        self.ledger.admit(number, key, samples, alone)
        self.nodes[number] = node
