"""A loader that a participant keeps: one Python file with the network's source, for which torch and safetensors are enough."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from .files import whole
from .text import tokens

__all__ = ["write_loader"]

PLAIN = (int, float, str, bool, bytes, tuple, list, dict, set, frozenset, type(None))
LOADER = "load_reward.py"
LOAD_WORDS = '''
def load_words(path):
    """Return the words that the reward reads: load_reward(path)(tokens(["A fine film"], load_words(path)))."""
    blob = Path(path).with_name("words.json").read_bytes()
    if hashlib.sha256(blob).hexdigest() != stated(Path(path)).get("words"):
        raise ValueError("words.json is not the file that the reward's manifest states; fetch both again")
    return parsed(blob, "words.json")

'''


def _names(node: ast.AST) -> Iterator[str]:
    """The names that a piece of source reads when it runs; annotations are left out."""
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    yield from _names(each)


def _gather(thing: Any, pieces: dict[str, str], imports: set[str]) -> None:
    """Put the source of a class or function of this package into ``pieces``, after all that it needs."""
    pieces[thing.__name__] = ""  # seen; a piece may refer to itself
    source = textwrap.dedent(inspect.getsource(thing))
    known = vars(sys.modules[thing.__module__])
    for name in dict.fromkeys(_names(ast.parse(source))):
        if name in pieces or name not in known or hasattr(builtins, name):
            continue
        value = known[name]
        home = getattr(value, "__module__", "") or ""
        if isinstance(value, ModuleType):
            if value.__name__.startswith(f"{__package__}."):
                raise ValueError(f"build reads {value.__name__} as a module; allowed is to import names from it")
            imports.add(f"import {value.__name__} as {name}")
        elif home.startswith(f"{__package__}."):
            _gather(value, pieces, imports)
        elif isinstance(value, PLAIN):
            pieces[name] = f"{name} = {value!r}"
        else:
            imports.add(f"from {home} import {name}")
    pieces[thing.__name__] = pieces.pop(thing.__name__) or source.strip()  # behind what it needs


def loader_text(function: Callable[..., nn.Module]) -> str:
    """The loader of this constructor as Python source."""
    pieces: dict[str, str] = {}
    imports: set[str] = set()
    _gather(function, pieces, imports)
    if reads_words := "words" in inspect.signature(function).parameters:
        _gather(tokens, pieces, imports)
    source = "\n".join(sorted(imports)) + "\n\n\n" + "\n\n\n".join(pieces.values())
    page = files(__package__).joinpath("embedded", "load_reward.txt").read_text(encoding="utf-8")
    page = page.replace("__WORDS__", LOAD_WORDS if reads_words else "")
    return page.replace("__SOURCE__", source).replace("__NAME__", function.__name__)


def write_loader(folder: Path | str, build: Callable[..., nn.Module]) -> Path:
    """Write ``load_reward.py`` beside the rewards: it loads them with torch and safetensors alone.

    It is made of this package's own source: the constructor and all that it calls. ``build``: as in ``save_rewards``.

    Raises:
        ValueError: ``build`` needs a module of this package that is not a name of it.

    Example:
        >>> import tempfile, aequa_lite as aq
        >>> text = write_loader(tempfile.mkdtemp(), aq.MLP).read_text()
        >>> "class MLP(nn.Sequential):" in text, "aequa_lite" in text
        (True, False)

    Source: ours.
    """
    path = Path(folder) / LOADER
    text = loader_text(getattr(build, "func", build))
    with whole(path) as half:
        half.write_text(text, encoding="utf-8")
    return path
