"""The model that goes home: a smaller safetensors file and its manifest, read back without trusting either."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._io import atomic_write, error_text, parse_json, read_limited, short_repr
from .._validation import tensors_of
from ..checkpoint import save_tensors
from ..config import Config
from ..registry import MOST_PARAMETERS, NETWORKS, outline, plain_option
from ..slimmable import grid_width, n_parameters

__all__ = ["Manifest", "load_reward", "load_words", "save_rewards"]


WORDS = "words.json"  # one for the whole folder: all rewards of a run read the same words


MOST_BYTES = 1 << 30  # a reward is a small model; a larger file is not read


MOST_MANIFEST_BYTES, MOST_WORDS_BYTES = 1 << 16, 1 << 24


@dataclass(frozen=True)
class Manifest:
    """Say what a reward file holds, so that it can be rebuilt and checked before use.

    ``sha256``: of the reward's file; ``config``: the recipe's hash; ``words``: for text, the SHA-256 of its ``words.json``.

    Example:
        >>> Manifest("MLP", {"classes": 10}, 0.5, 89610, "0" * 64, "0" * 64).width
        0.5
    """

    architecture: str
    options: dict[str, Any]
    width: float
    n_parameters: int
    sha256: str
    config: str
    words: str = ""

    def __post_init__(self) -> None:
        _check_manifest(self)


def _check_manifest(m: Manifest) -> None:
    """Refuse a manifest that names no known network or carries values of the wrong kind."""
    if not isinstance(m.architecture, str) or m.architecture not in NETWORKS:
        raise ValueError(
            f"architecture is {short_repr(m.architecture)}; allowed is one of {', '.join(sorted(NETWORKS))}"
        )
    width_fits = isinstance(m.width, (int, float)) and not isinstance(m.width, bool) and 0 < m.width <= 1
    if not width_fits:
        raise ValueError(f"width is {short_repr(m.width)}; allowed is a number in (0, 1]")
    if type(m.parameters) is not int or not 0 < m.parameters <= MOST_PARAMETERS:
        raise ValueError(
            f"parameters is {short_repr(m.parameters)}; allowed is a whole number from 1 to {MOST_PARAMETERS}"
        )
    if not isinstance(m.options, dict) or not all(plain_option(k, v) for k, v in m.options.items()):
        raise ValueError(
            f"options is {short_repr(m.options)}; allowed are names with true, false, whole numbers from 1 to 65536 (layers: 64) "
            "or lists of them"
        )
    for name in ("sha256", "recipe", *(["words"] if m.words != "" else [])):
        value = getattr(m, name)
        if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
            raise ValueError(f"{name} is {short_repr(value)}; allowed are 64 hexadecimal digits")


def _described(build: Callable[..., nn.Module]) -> tuple[str, dict[str, Any]]:
    """The name and the options of a constructor or of a partial of one."""
    function, options = getattr(build, "func", build), dict(getattr(build, "keywords", {}))
    name = getattr(function, "__name__", repr(function))
    if NETWORKS.get(name) is not function:
        raise ValueError(f"build is {name!r}; a reward can be saved for {', '.join(sorted(NETWORKS))}")
    return name, {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def save_rewards(
    folder: Path | str,
    build: Callable[..., nn.Module],
    models: Sequence[nn.Module],
    widths: Sequence[float],
    config: Config,
    *,
    words: Sequence[str] = (),
    fraction_grid: int | None = None,
) -> list[Path]:
    """Write one ``participant-NN.safetensors`` and its ``.json`` manifest for each participant; return the files.

    ``words``: for text, the data set's (``data.words``), kept in ``words.json`` so that a reward can read sentences.
    ``fraction_grid``: the curve's; a model between two sizes is one of the larger size, and its manifest names that width.

    Raises:
        ValueError: ``build`` is not one of this package's networks, or models and widths differ in number.

    Example:
        >>> import tempfile, aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> path, = save_rewards(tempfile.mkdtemp(), aq.MLP, [aq.slim(aq.MLP, theta, 0.1)], [0.1], aq.Config())
        >>> aq.n_parameters(load_reward(path))
        16330
    """
    architecture, options = _described(build)
    if len(models) != len(widths):
        raise ValueError(f"models holds {len(models)} and widths {len(widths)}; allowed is one width for each model")
    paths, known = [], _save_words(Path(folder), words)
    for number, (model, width) in enumerate(zip(models, widths, strict=True)):
        path = Path(folder) / f"participant-{number:02d}.safetensors"
        size = grid_width(width, fraction_grid) if fraction_grid else float(width)
        save_tensors(path, model.state_dict(), {"width": repr(float(width))})
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest = Manifest(architecture, options, size, n_parameters(model), digest, config.hash, known)
        with atomic_write(path.with_suffix(".json")) as half:
            half.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
        paths.append(path)
    return paths


def _save_words(folder: Path, words: Sequence[str]) -> str:
    """Write the words of a run on text; their SHA-256, or nothing where there are none."""
    if not words:
        return ""
    text = json.dumps(list(words), ensure_ascii=False, indent=0) + "\n"
    with atomic_write(folder / WORDS) as half:
        half.write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def load_words(path: Path | str) -> tuple[str, ...]:
    """Return the words of a reward that reads text, in the order of their ids: ``net(tokens(sentences, words))``.

    Raises:
        ValueError: the reward or its ``words.json`` is missing or damaged, or it has no words because it reads pictures.

    Example:
        >>> import tempfile, aequa_lite as aq; from functools import partial
        >>> build, words = partial(aq.networks.TextCNN, words=3), ("<padding>", "<unknown>", "film")
        >>> path, = save_rewards(tempfile.mkdtemp(), build, [build(0.5)], [0.5], aq.Config(), words=words)
        >>> load_words(path)
        ('<padding>', '<unknown>', 'film')
    """
    manifest, _ = _read(Path(path))
    blob = _bytes(Path(path).with_name(WORDS), MOST_WORDS_BYTES)
    if hashlib.sha256(blob).hexdigest() != manifest.words:
        raise ValueError(f"{Path(path).with_name(WORDS)} is not the file of words that the manifest of {path} states")
    try:
        words = parse_json(blob)
    except ValueError as error:
        raise ValueError(f"{Path(path).with_name(WORDS)} is damaged: {error_text(error)}") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{Path(path).with_name(WORDS)} is damaged: allowed is a list of words")
    return tuple(words)


def load_reward(path: Path | str) -> nn.Module:
    """Rebuild a rewarded network from its file, after checking hash, architecture, names, shapes and types.

    Nothing is unpickled: the manifest is JSON, the tensors are safetensors, the network is one of this package's.

    Raises:
        ValueError: the file or its manifest is missing, damaged, too large, or does not fit the network it names.

    Example:
        >>> load_reward("nowhere.safetensors")
        Traceback (most recent call last):
        ValueError: reward nowhere.safetensors cannot be read: no such file
    """
    path = Path(path)
    manifest, blob = _read(path)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in manifest.options.items()}
    try:
        net = outline(partial(NETWORKS[manifest.architecture], **options), manifest.width)
    except ValueError as error:
        raise ValueError(f"reward {path} names a network that cannot be built: {error}") from error
    wanted = {name: (tuple(t.shape), t.dtype) for name, t in net.state_dict().items()}
    if n_parameters(net) != manifest.parameters:
        raise ValueError(
            f"reward {path} promises {manifest.parameters} parameters, its network has {n_parameters(net)}"
        )
    try:
        tensors = tensors_of(blob)
    except ValueError as error:
        raise ValueError(f"reward {path} is damaged: {error}") from error
    found = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    if found != wanted:
        odd = sorted(set(found.items()) ^ set(wanted.items()), key=str)[0][0]
        raise ValueError(
            f"reward {path} does not fit {manifest.architecture} at width {manifest.width:g}: tensor {short_repr(odd)}"
        )
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise ValueError(f"reward {path} holds a number that is not finite")
    net.load_state_dict(tensors, assign=True)
    return net.eval()


def _read(path: Path) -> tuple[Manifest, bytes]:
    """The manifest and the bytes that it vouches for."""
    blob, stated = _bytes(path, MOST_BYTES), _bytes(path.with_suffix(".json"), MOST_MANIFEST_BYTES)
    try:
        manifest = Manifest(**parse_json(stated))
    except (TypeError, ValueError) as error:  # no object of these names, or no values of these kinds
        raise ValueError(f"manifest {path.with_suffix('.json')} is damaged: {error_text(error, 400)}") from error
    if hashlib.sha256(blob).hexdigest() != manifest.sha256:
        raise ValueError(f"reward {path} does not have the SHA-256 that its manifest states; fetch both again")
    return manifest, blob


def _bytes(path: Path, most: int) -> bytes:
    """A file's bytes, unless there are too many."""
    if not path.is_file():
        raise ValueError(f"reward {path} cannot be read: no such file")
    try:
        return read_limited(path, most)
    except OSError as error:
        raise ValueError(f"reward {path} cannot be read: {error_text(error)}") from error
