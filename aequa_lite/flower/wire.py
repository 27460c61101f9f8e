"""What travels: the settings of a run, and tensors as safetensors bytes in Flower's records; checked on arrival."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord
from safetensors.torch import save
from torch import Tensor

from .._check import flag, number, one_of, refusal
from .._io import write_whole
from .._validation import parse_update
from ..config import Config
from ..local import Offsets, row_at
from ..registry import LONGEST, algorithm, lookup
from ..slimmable import template
from ..types import Build, State

COMPLETED = "completed"  # what `outcome.json` says of a run that ended without an error
PREFIX = "config."  # of the fields of `Config` in a run's configuration


def _option(default: Any, about: str) -> Any:
    """A setting with its meaning."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Settings:
    """Hold what a run over Flower needs besides its `Config`.

    `network` and `algorithm` are names as in `registry`, such as `LeNet(multiple=2)` and
    `aequa(schedule='training_time(0.02)', server='fedavgm(0.5)')`. Without `keys`, a node's own statement decides which
    participant it is.

    Raises:
        ValueError: A field is outside its range, or a name is unknown.

    Example:
        >>> Settings(quorum=2).algorithm
        'aequa'
    """

    network: str = _option("MLP", "name of a network")
    data: str = _option("fashion-mini", "name of the server's data set; its validation and test splits are used")
    algorithm: str = _option("aequa", "name of an algorithm")
    partition: str = _option("", "name of the partition, for the report")
    folder: str = _option("runs/fleet", "where the server writes")
    keys: str = _option("", "folder with a public key participant-NN.pub for each participant")
    allow_replacement: bool = _option(False, "without keys, the newest node that claims a number takes its place")
    device: str = _option("cpu", "device of the server")
    quorum: int = _option(1, "updates that a round needs")
    deadline: float = _option(600.0, "seconds that a round waits for updates")
    patience: float = _option(3600.0, "seconds that the start waits for participants")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type == "str" and not (isinstance(value, str) and len(value) <= LONGEST):
                raise refusal(each.name, f"a text of at most {LONGEST} characters", value)
        flag("allow_replacement", self.allow_replacement)
        number("quorum", self.quorum, 1, whole=True)
        for name in ("deadline", "patience"):
            number(name, getattr(self, name), 1, 86400)
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


def writable(folder: Path | str) -> Path:
    """Make the folder if it is missing, and check that files can be written there.

    Returns:
        The folder.

    Raises:
        OSError: They cannot.

    Example:
        >>> import tempfile
        >>> writable(tempfile.mkdtemp()).is_dir()
        True
    """
    folder = Path(folder)
    try:
        write_whole(folder / "probe", bytes(1 << 16))
        (folder / "probe").unlink()
    except OSError as error:
        raise OSError(f"folder {folder} cannot be written to ({error}); make room there or name another") from error
    return folder


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
    path = Path(folder) / "pyproject.toml"
    lines = toml_lines(asdict(settings))
    lines += ["", "[tool.flwr.app.config.config]", *toml_lines(config.to_dict())]
    write_whole(path, APP + "\n".join(lines) + "\n")
    return path


def toml_lines(values: Mapping[str, Any]) -> list[str]:
    """Texts, numbers and flags as lines of TOML."""
    texts = {name: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for name, value in values.items()}
    return [f"{name} = {text}" for name, text in texts.items()]


APP = """\
# The app for `flwr run`. It holds no code: it names the apps of the installed aequa-lite and their configuration.
[project]
name = "aequa-fleet"
version = "1.0.0"
description = "Federated training with model rewards"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "aequa-lite"

[tool.flwr.app.components]
serverapp = "aequa_lite.flower.server:app"
clientapp = "aequa_lite.flower.participant:app"

[tool.flwr.app.config]
"""


KIND = "safetensors"


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


def unpacked_bytes(record: Any, most: float = math.inf) -> bytes:
    """Return the bytes of a record that holds one array of at most `most` bytes.

    Raises:
        ValueError: It holds anything else.

    Example:
        >>> unpacked_bytes(packed_bytes(b"abc"), most=3)
        b'abc'
    """
    if not isinstance(record, ArrayRecord) or list(record) != ["state"] or record["state"].stype != KIND:
        raise ValueError("the record must hold one array of safetensors bytes")
    content = record["state"].data
    if not isinstance(content, bytes) or len(content) > most:
        raise ValueError(f"the record must hold at most {most} bytes, got {len(content)}")
    return content


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
    if not isinstance(widths, Sequence) or not isinstance(flat, Sequence) or len(flat) != len(widths) * classes:
        raise refusal("offsets", f"{classes} numbers for each width", flat)
    return [(w, flat[i * classes : (i + 1) * classes]) for i, w in enumerate(widths)]
