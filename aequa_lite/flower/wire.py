"""What travels: the settings of a run, and tensors as safetensors bytes in Flower's records; checked on arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomli_w
import torch
from flwr.app import Array, ArrayRecord
from safetensors.torch import save
from torch import Tensor

from .._check import Count, Range, checked, one_of
from .._io import write_whole
from .._validation import parse_update
from ..config import Config
from ..local import Offsets, row_at
from ..registry import algorithm, lookup
from ..slimmable import template
from ..types import Build, State

COMPLETED = "completed"  # what `outcome.json` says of a run that ended without an error
PREFIX = "config."  # of the fields of `Config` in a run's configuration
KIND = "safetensors"
Seconds = Annotated[float, Range(1, 86400)]


@checked
@dataclass(frozen=True)
class Settings:
    """Hold what a run over Flower needs besides its `Config`.

    `network` and `algorithm` are names as in `registry`, such as `LeNet(multiple=2)` and
    `aequa(schedule='training_time(0.02)', server='fedavgm(0.5)')`. Without `keys`, a node's own statement decides which
    participant it is.

    Args:
        network: Name of a network.
        data: Name of the server's data set; its validation and test splits are used.
        algorithm: Name of an algorithm.
        partition: Name of the partition, for the report.
        folder: Where the server writes.
        keys: Folder with a public key participant-NN.pub for each participant.
        allow_replacement: Without keys, the newest node that claims a number takes its place.
        device: Device of the server.
        quorum: Updates that a round needs.
        deadline: Seconds that a round waits for updates.
        patience: Seconds that the start waits for participants.

    Raises:
        ValueError: A field is outside its range, or a name is unknown.

    Example:
        >>> Settings(quorum=2).algorithm
        'aequa'
    """

    network: str = "MLP"
    data: str = "fashion-mini"
    algorithm: str = "aequa"
    partition: str = ""
    folder: str = "runs/fleet"
    keys: str = ""
    allow_replacement: bool = False
    device: str = "cpu"
    quorum: Count = 1
    deadline: Seconds = 600.0
    patience: Seconds = 3600.0

    def __post_init__(self) -> None:
        lookup("network", self.network)
        algorithm(self.algorithm)


def read_config(values: Mapping[str, Any]) -> tuple[Settings, Config]:
    """Read settings and config from a run's configuration, in which the config's fields are named `config.rounds` etc.

    Raises:
        ValueError: A name is unknown, or a value is outside its range.

    Example:
        >>> read_config({"quorum": 2, "config.participants": 3})[1].participants
        3
    """
    config = Config.from_dict({k.removeprefix(PREFIX): v for k, v in values.items() if k.startswith(PREFIX)})
    own = {k: v for k, v in values.items() if not k.startswith(PREFIX)}
    for name in own:
        one_of("setting", name, Settings.__dataclass_fields__)
    return Settings(**own), config


def write_app(folder: Path | str, settings: Settings, config: Config) -> Path:
    """Write the app for `flwr run`: one pyproject.toml that names this package's two apps, and no code.

    Every machine runs the package that it has installed; only this configuration travels.

    Returns:
        The file's path.

    Example:
        >>> import tempfile, tomllib
        >>> path = write_app(tempfile.mkdtemp(), Settings(), Config(rounds=3))
        >>> tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]["config"]["rounds"]
        3
    """
    app = {
        "publisher": "aequa-lite",
        "components": {"serverapp": "aequa_lite.flower.server:app", "clientapp": "aequa_lite.flower.participant:app"},
        "config": {**asdict(settings), "config": config.to_dict()},
    }
    project = {"name": "aequa-fleet", "version": "1.0.0", "license": "MIT", "dependencies": []}
    path = Path(folder) / "pyproject.toml"
    write_whole(path, tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))
    return path


def packed(state: State) -> ArrayRecord:
    """Pack a state as one array of safetensors bytes, which Flower sends in chunks.

    Example:
        >>> len(packed({"w": torch.ones(2)})["state"].data) < 200
        True
    """
    return packed_bytes(save({name: t.detach().cpu().contiguous() for name, t in state.items()}))


def packed_bytes(content: bytes) -> ArrayRecord:
    """Pack bytes as the one array of a record.

    Example:
        >>> packed_bytes(b"abc")["state"].shape
        (3,)
    """
    return ArrayRecord({"state": Array("uint8", (len(content),), KIND, content)})


def unpacked_bytes(record: Any) -> bytes:
    """Return the bytes of a record that holds one array of them.

    Raises:
        ValueError: It holds anything else.

    Example:
        >>> unpacked_bytes(packed_bytes(b"abc"))
        b'abc'
    """
    if not isinstance(record, ArrayRecord) or list(record) != ["state"] or record["state"].stype != KIND:
        raise ValueError("the record must hold one array of safetensors bytes")
    return record["state"].data


def unpacked(record: Any, build: Build, width: float, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the state of a record, if it is a finite slice of this width.

    Raises:
        ValueError: It is too large, damaged, or no slice of this width.

    Example:
        >>> import aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> sorted(unpacked(packed(aq.slice_of(aq.MLP, theta, 0.5)), aq.MLP, 0.5))[0]
        '2.bias'
    """
    state = parse_update(unpacked_bytes(record), template(build, width).state_dict())
    return {name: t.to(device) for name, t in state.items()}


def packed_offsets(offsets: Offsets, width: float) -> dict[str, list[float]]:
    """Pack the offsets of the logits up to a width as two flat lists; nothing where there are none.

    Example:
        >>> packed_offsets([(0.5, [0.1, 0.2]), (1.0, [0.3, 0.4])], 0.5)
        {'offset_widths': [0.5], 'offsets': [0.1, 0.2]}
    """
    rows = offsets[: row_at(offsets, width) + 1]
    flat = [float(each) for _, row in rows for each in row]
    return {"offset_widths": [float(w) for w, _ in rows], "offsets": flat} if rows else {}


def unpacked_offsets(values: Mapping[str, Any], classes: int) -> Offsets:
    """Return the offsets that `packed_offsets` has packed; `local_sgd` checks them.

    Raises:
        ValueError: There is not one number for each class and width.

    Example:
        >>> unpacked_offsets({"offset_widths": [0.5], "offsets": [0.1, 0.2]}, classes=2)
        [(0.5, [0.1, 0.2])]
    """
    widths, flat = values.get("offset_widths", []), values.get("offsets", [])
    return list(zip(widths, np.reshape(flat, (len(widths), classes)).tolist()))
