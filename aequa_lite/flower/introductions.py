"""Which nodes are asked to introduce themselves and when, and what is noted of their introductions."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .keys import fingerprint

AGAIN = 60.0  # seconds until a node that was refused is asked again; its operator may have mended what was wrong
SILENT = 3600.0  # seconds until a node that does not reply is asked again; it may train alone for so long
LOG = "participants.log"


@dataclass
class _Node:
    """What is known of a node that has been seen."""

    key: str
    activated: str  # when it connected, as Flower states it
    due: float = 0.0  # from when on it is asked; never again if infinite
    question: str = ""  # the newest message that asks it
    reason: str = ""  # why it was refused

    def forget(self) -> None:
        """Ask it anew when it is there, unless it is never asked again."""
        if self.due < math.inf:
            self.due, self.question, self.reason = 0.0, "", ""


class Introductions:
    """Keep whom to ask and whose reply counts, and append what became of it to `participants.log`.

    A node is asked once; again after `AGAIN` seconds if it was refused, after `SILENT` seconds if it does not reply, and
    at once if it has left and returned. The first valid reply counts, also to an older question; then no other does.

    Args:
        folder: Of the run.
        keys: Participants by fingerprint, if they are known.

    Example:
        >>> import tempfile
        >>> own = Introductions(tempfile.mkdtemp())
        >>> own.note("participant 2: admitted")
        participant 2: admitted
        >>> own.path.read_text().partition(" ")[2]
        'participant 2: admitted\\n'
    """

    def __init__(self, folder: Path | str, keys: Mapping[str, int] | None = None) -> None:
        self.path, self._keys = Path(folder) / LOG, keys or {}
        self._nodes: dict[int, _Node] = {}
        self._questions: dict[str, int] = {}  # message -> node

    def due(self, connected: Iterable[Any]) -> list[int]:
        """Return the nodes to ask now, of those that Flower states are connected."""
        here = {each.node_id: each for each in connected}
        for node in self._nodes.keys() - here.keys():
            self._nodes[node].forget()
        for node, each in here.items():
            activated = str(getattr(each, "last_activated_at", ""))
            known = self._nodes.setdefault(node, _Node(fingerprint(each.public_key), activated))
            if known.activated != activated:  # it has left and returned between two looks
                known.activated = activated
                known.forget()
        return [node for node in here if time.monotonic() >= self._nodes[node].due]

    def key(self, node: int) -> str:
        """Return the fingerprint of the key of a node that has been seen."""
        return self._nodes[node].key

    def asked(self, node: int, message: str) -> None:
        """Note the message that asks a node."""
        self._questions[message] = node
        self._nodes[node].question, self._nodes[node].due = message, time.monotonic() + SILENT

    @property
    def questions(self) -> list[str]:
        """The messages whose replies count."""
        return list(self._questions)

    def answered(self, message: str) -> int | None:
        """Return the node that a message has asked, once; None if its reply no longer counts."""
        return self._questions.pop(message, None)

    def admitted(self, node: int, sentence: str) -> None:
        """Never ask this node again, and take no other reply of it."""
        self._nodes[node].due = math.inf
        self._questions = {message: asked for message, asked in self._questions.items() if asked != node}
        self.note(sentence)

    def refused(self, node: int, sentence: str, *, question: str = "", pause: float | None = None) -> bool:
        """Ask a node again after a pause, and note why it was refused, once for the same reason.

        Args:
            node: The node.
            sentence: Why.
            question: The message that it has replied to; if the node was asked anew since, nothing happens.
            pause: In seconds (default: `AGAIN`); infinite for never.

        Returns:
            Whether it was noted now.
        """
        known = self._nodes[node]
        if question != known.question:  # Flower replies for a node that has left
            return False
        known.due = time.monotonic() + (AGAIN if pause is None else pause)
        if new := sentence != known.reason:
            known.reason = sentence
            number = self._keys.get(known.key)
            who = f"node {node}" if number is None else f"participant {number} (node {node})"
            self.note(f"{who}: refused, {sentence}")
        return new

    def note(self, sentence: str) -> None:
        """Print a sentence and append it to the log with the time."""
        print(sentence, flush=True)
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError), self.path.open("a") as file:  # on a full disk the run ends where it saves its state
            file.write(f"{stamp} {sentence}\n")


def reason_of(text: str) -> str:
    """Return the sentence in what Flower replies for an app that raised an error.

    Example:
        >>> reason_of("<class 'ValueError'>:<'participant 2 has 8 features, the run has 4'>")
        'participant 2 has 8 features, the run has 4'
    """
    found = re.fullmatch(r"<class '(?:ValueError|OSError|FileNotFoundError)'>:<'(.*)'>", text, flags=re.S)
    return found[1] if found else text
