"""What a run over Flower is told beside its recipe: written into the app's configuration, read back on every machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._io import atomic_write, short_repr
from .._validation import numbers
from ..config import Config
from ..contribution import alignment, class_alignment
from ..federate import Policy, full_width
from ..local import checked_logit_adjustment
from ..registry import LONGEST, aggregation, called, network, server_optimizer, width_sampler
from ..slimmable import Build
from ..types import Round, Samples

__all__ = ["Settings", "fixed_widths", "policy", "read_config", "write_app"]


WELL = "the run ended well"


def fixed_widths(config: Config, last: Round | None, *, widths: tuple[float, ...]) -> tuple[float, ...]:
    """Give each participant the same width in every round: what its machine or its contract allows.

    Raises:
        ValueError: there is not one width in (0, 1] for each participant.

    Example:
        >>> fixed_widths(Config(participants=2), None, widths=(0.25, 1.0))
        (0.25, 1.0)

    Source: HeteroFL's fixed complexity levels (Diao et al. 2021).
    """
    if not numbers(widths, config.participants, 1e-6, 1):
        raise ValueError(f"widths is {short_repr(widths)}; allowed are {config.participants} numbers in (0, 1]")
    return tuple(float(w) for w in widths)


def policy(text: str, build: Build | None = None, validation: Samples | None = None) -> Policy:
    """Return the policy that is written as a name or a call, such as ``everyone_full`` or ``fixed_widths((0.5, 1.0))``.

    ``build`` and ``validation``: for policies that measure accuracies at the server.

    Raises:
        ValueError: the name is unknown (the nearest is given), or its values are not plain.

    Example:
        >>> policy("everyone_full")(Config(participants=2), None)
        (1.0, 1.0)
    """
    makers = {
        "everyone_full": lambda: full_width,
        "fixed_widths": lambda widths: partial(fixed_widths, widths=widths),
    }
    if find_spec("aequa_lite.earned"):  # the policies that pay during training, where this version has them
        makers["earned_widths"] = partial(_earned, build, validation)
    return called("policy", text, makers)()


def _earned(
    build: Build | None, validation: Samples | None, score: str = "alignment", floor: float = 0.03, start: float = 0.25,
    warm_up: int = 3, step: float = 0.1, hands: float = 0.2,
) -> Policy:  # fmt: skip
    """The widths earned during training, by a score of the answers as they arrive."""
    earned = import_module("aequa_lite.earned")
    scores: dict[str, Any] = {"alignment": alignment, "class_alignment": class_alignment}
    if build is not None and validation is not None:
        scores["arrived_accuracy"] = earned.arrived_accuracy(build, validation)
    elif score == "arrived_accuracy":
        return full_width  # the name is known; what it measures with is not here yet
    if score not in scores:
        raise ValueError(f"score is {score!r}; allowed is one of {', '.join(scores)}, arrived_accuracy")
    schedule = {"floor": floor, "start": start, "warm_up": warm_up, "step": step, "hands": hands}
    return earned.earned_widths(scores[score], build, validation, **schedule)


@dataclass(frozen=True)
class Settings:
    """Say which network is trained on what, who is waited for and where the server keeps its files.

    ``network``, ``policy``, ``width_sampler``, ``server``, ``aggregate``: words as on a command line; ``logit_adjustment``: as in
    :func:`~aequa_lite.slimmable`; ``outsized``: an answer whose change is larger than so many times the round's median is left out, and
    named (0: none is; else from 1); ``data``: the server's data set, of which it uses the validation and the test split;
    ``folder``: where it writes; ``keys``: a folder with one ``participant-NN.pub`` each, so that nobody can claim to be
    another (empty: a participant's own word is taken); ``quorum``: how many answers a round needs; ``deadline``: seconds that
    a round waits for them; ``patience``: seconds that the start waits for introductions.

    Raises:
        ValueError: a number is outside its range, or a name is unknown.

    Example:
        >>> Settings(quorum=2).network
        'MLP'
    """

    network: str = "MLP"
    data: str = "fashion-mini"
    policy: str = "everyone_full"
    width_sampler: str = "full_and_random"
    server: str = "averaged"
    aggregate: str = "merge"
    logit_adjustment: float = 0.0
    outsized: float = 0.0
    folder: str = "runs/fleet"
    keys: str = ""
    device: str = "cpu"
    quorum: int = 1
    deadline: float = 600.0
    patience: float = 3600.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type == "str" and not (isinstance(value, str) and len(value) <= LONGEST):
                raise ValueError(f"{each.name} is {short_repr(value)}; allowed is a word")
        if not numbers([self.quorum], 1, 1, whole=True):
            raise ValueError(
                f"quorum is {short_repr(self.quorum)}; allowed is a whole number from 1 to the number of participants"
            )
        for name in ("deadline", "patience"):
            if not numbers([getattr(self, name)], 1, 1, 86400):
                raise ValueError(f"{name} is {short_repr(getattr(self, name))}; allowed are 1 to 86400 seconds")
        checked_logit_adjustment(self.logit_adjustment)
        if not numbers([self.outsized], 1, 0) or 0 < self.outsized < 1:
            raise ValueError(f"outsized is {short_repr(self.outsized)}; allowed is 0, or a finite number from 1")
        named = (network, policy, width_sampler, server_optimizer, aggregation)
        for read, word in zip(named, (self.network, self.policy, self.width_sampler, self.server, self.aggregate)):
            read(word)


def read_config(config: Mapping[str, Any]) -> tuple[Settings, Config]:
    """Read settings and recipe from a run's configuration, in which a recipe's field is called ``recipe.rounds``.

    Raises:
        ValueError: an unknown name (the nearest is given), a value outside its range, or a quorum above the participants.

    Example:
        >>> read_config({"quorum": 2, "recipe.participants": 3})[1].participants
        3
    """
    config = Config.from_dict(
        {name.removeprefix("recipe."): v for name, v in config.items() if name.startswith("recipe.")}
    )
    known = [each.name for each in fields(Settings)]
    given = {name: v for name, v in config.items() if not name.startswith("recipe.")}
    for name in given:
        if name not in known:
            near = get_close_matches(str(name)[:100], known, n=1, cutoff=0.0)[0]
            raise ValueError(f"the run has no setting {short_repr(name)}; the nearest one is {near!r}")
    settings = Settings(**given)
    if settings.quorum > config.participants:
        raise ValueError(f"quorum is {settings.quorum}; allowed is a whole number from 1 to {config.participants}")
    return settings, config


def write_app(folder: Path | str, settings: Settings, config: Config) -> Path:
    """Write the app that ``flwr run`` takes: one pyproject.toml that names this package's two apps, and no code.

    Every machine runs the package that it installed itself; what travels is this configuration.

    Example:
        >>> import tempfile, tomllib
        >>> path = write_app(tempfile.mkdtemp(), Settings(), Config(rounds=3))
        >>> tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]["recipe"]["rounds"]
        3
    """
    path = Path(folder) / "pyproject.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in asdict(settings).items()]
    lines += ["", "[tool.flwr.app.config.recipe]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in config.to_dict().items()]
    with atomic_write(path) as half:
        half.write_text(APP + "\n".join(lines) + "\n")
    return path


APP = """\
# The app that `flwr run` sends around: no code, only which apps of the installed aequa-lite to run, and how.
[project]
name = "aequa-fleet"
version = "1.0.0"
description = "One slimmable network, each participant the width it earned"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "aequa-lite"

[tool.flwr.app.components]
serverapp = "aequa_lite.flower.server:app"
clientapp = "aequa_lite.flower.participant:app"

[tool.flwr.app.config]
"""
