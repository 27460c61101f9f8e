"""A reward for places without PyTorch: ONNX, with ``pip install 'aequa-lite[onnx]'``."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from .._io import atomic_write
from ..data.text import tokens

__all__ = ["export_onnx", "write_loader"]


def _there(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def export_onnx(net: nn.Module, example: Tensor, path: Path | str) -> Path:
    """Write a network as an ONNX file: input ``x`` (samples, ...) for any number of samples, output ``logits``.

    ``example``: a few inputs of the kind that it takes, such as ``data.test.x[:2]``. Whole or not at all, one file.

    Raises:
        ValueError: onnx and onnxscript are not installed, or ``example`` holds fewer than two samples.

    Example:
        >>> export_onnx(nn.Linear(3, 2), torch.zeros(1, 3), "linear.onnx")
        Traceback (most recent call last):
        ValueError: example holds 1 sample; allowed are two or more, so that their number stays open

    Source: PyTorch's exporter.
    """
    missing = [name for name in ("onnx", "onnxscript") if not _there(name)]
    if len(example) < 2:
        raise ValueError(
            f"example holds {len(example)} sample; allowed are two or more, so that their number stays open"
        )
    if missing:
        raise ValueError(f"{' and '.join(missing)} cannot be imported; pip install 'aequa-lite[onnx]'")
    program = torch.onnx.export(
        net.eval(), (example,), dynamo=True, verbose=False, input_names=["x"], output_names=["logits"],
        dynamic_shapes=({0: Dim("samples")},),
    )  # fmt: skip
    with atomic_write(path) as half:
        program.save(half, external_data=False)
    return Path(path)


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


def _free_names(node: ast.AST) -> Iterator[str]:
    """The names that a piece of source reads when it runs; annotations are left out."""
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    yield from _free_names(each)


def _gather(thing: Any, pieces: dict[str, str], imports: set[str]) -> None:
    """Put the source of a class or function of this package into ``pieces``, after all that it needs."""
    pieces[thing.__name__] = ""  # seen; a piece may refer to itself
    source = textwrap.dedent(inspect.getsource(thing))
    known = vars(sys.modules[thing.__module__])
    for name in dict.fromkeys(_free_names(ast.parse(source))):
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
    with atomic_write(path) as half:
        half.write_text(text, encoding="utf-8")
    return path
