"""Rewards as files: a safetensors file with a JSON manifest each, checked before it is used; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ._check import Count, Fraction, Index, Range, checked, number, one_each, refusal
from ._io import (
    abandoned,
    atomic_write,
    error_text,
    explaining,
    parse_json,
    printable,
    read_limited,
    short_repr,
    write_whole,
)
from ._validation import checked_update, save_tensors, tensors_of
from .checkpoint import describe
from .config import Config
from .data.tabular import Encoder
from .registry import MOST_PARAMETERS, NETWORKS, outline, plain_option
from .slimmable import grid_width, n_parameters
from .types import Build

__all__ = [
    "FileCheck", "Manifest", "export_onnx", "load_encoder", "load_reward", "load_vocabulary", "save_rewards", "verify",
]  # fmt: skip


LIST = "rewards.json"  # what belongs into the folder
VOCABULARY = "vocabulary.json"  # one for the whole folder: all rewards of a run read the same words
ENCODER = "encoder.json"  # and the same table
SHARED = (VOCABULARY, ENCODER)
NAME = re.compile(r"participant-(\d{2,7})\.(safetensors|json)")
MOST_BYTES = 1 << 30  # a reward is a small model; a larger file is not read
MOST_MANIFEST_BYTES, MOST_VOCABULARY_BYTES, MOST_LIST_BYTES = 1 << 16, 1 << 24, 1 << 26


def is_digest(value: object) -> bool:
    """Whether this is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def digest(content: bytes | str) -> str:
    """The SHA-256 of bytes or text in hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


@checked
@dataclass(frozen=True)
class Manifest:
    """Describe a reward, so that it can be rebuilt and checked before use.

    All fields but `sha256` stand in the header of the reward's file too, and are compared with it.

    Args:
        architecture: Name of a network of this package, or import path of another constructor.
        options: Its arguments besides the width.
        width: Width at which it is built.
        fractional_width: Width that was rewarded; below `width` for a reward between two sizes.
        participant: Whose reward it is.
        n_parameters: Number of its parameters.
        run: SHA-256 of what was trained and rewarded.
        vocabulary: SHA-256 of `vocabulary.json`, for text.
        encoder: SHA-256 of `encoder.json`, for tables.
        sha256: SHA-256 of the reward's file.

    Raises:
        ValueError: A field has another kind or is outside its range.

    Example:
        >>> Manifest("MLP", {"classes": 10}, 0.5, 0.5, 0, 89610, "0" * 64).width
        0.5
    """

    architecture: str
    options: dict[str, Any]
    width: Fraction
    fractional_width: float
    participant: Index
    n_parameters: Annotated[int, Range(1, MOST_PARAMETERS)]
    run: str
    vocabulary: str = ""
    encoder: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.architecture.isprintable():
            raise refusal("architecture", "a network's name or import path", self.architecture)
        if self.architecture in NETWORKS and not all(starmap(plain_option, self.options.items())):
            allowed = "names with True, False, numbers, whole ones from 1 (layers: to 64), or a few of them"
            raise refusal("options", allowed, self.options)
        number("fractional_width", self.fractional_width, 0, self.width, above=True)
        for name in ("run", "vocabulary", "encoder", "sha256"):
            if (value := getattr(self, name)) and not is_digest(value):
                raise refusal(name, "64 hexadecimal digits", value)

    def header(self) -> str:
        """Return all fields but the file's own SHA-256, and an encoder if there is none, as canonical JSON.

        Example:
            >>> "sha256" in Manifest("MLP", {}, 0.5, 0.5, 0, 89610, "0" * 64).header()
            False
        """
        stated = {k: v for k, v in asdict(self).items() if k != "sha256" and (v or k != "encoder")}
        return json.dumps(stated, sort_keys=True)


def described(build: Build, name: str = "") -> tuple[str, dict[str, Any]]:
    """The name or import path of a constructor, and the options of a partial of one."""
    function = getattr(build, "func", build)
    if not callable(build) or getattr(build, "args", ()):
        raise refusal("build", "a function of the width, or a partial of one with options by name", build)
    own = getattr(function, "__name__", "")
    path = own if NETWORKS.get(own) is function else describe(function, name or getattr(function, "__qualname__", ""))
    return path, describe(dict(getattr(build, "keywords", {})), "unnamed")


def _check_state(label: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors of other names, shapes or types than wanted, and numbers that are not finite."""
    with explaining(f"{label} does not fit {what}"):
        checked_update(state, wanted)


@checked
def save_rewards(
    folder: Path | str,
    build: Build,
    models: Sequence[nn.Module],
    widths: Sequence[float],
    config: Config,
    *,
    identity: Mapping[str, Any] | None = None,
    vocabulary: Sequence[str] = (),
    encoder: Encoder | None = None,
    labels: Sequence[str] = (),
    fraction_grid: Count | None = None,
    name: str = "",
) -> list[Path]:
    """Write each participant's reward with its manifest, and the folder's list last.

    The files are `participant-NN.safetensors`, `participant-NN.json`, `vocabulary.json` for text, `encoder.json` for tables,
    and `rewards.json`: name, size, SHA-256 and participant of every other file.

    Args:
        folder: Made if it is missing.
        build: width -> network, or a `functools.partial` of such a function with options by name.
        models: (n,) rewards; participant $i$ gets `models[i]`.
        widths: (n,) their widths in (0, 1].
        config: Of the run.
        identity: What was trained and rewarded, as plain JSON (default: the config alone).
        vocabulary: For text, the data set's words; a reward reads sentences with them.
        encoder: For tables, the data set's encoder; a reward reads records with it.
        labels: Names of the classes, written beside the encoder.
        fraction_grid: The curve's. A model between two sizes is a network of the larger size.
        name: Stored for a `build` that cannot be imported (default: its own name).

    Returns:
        The rewards' paths.

    Raises:
        ValueError: There are no models, or not one width for each; or a model is not what `build` makes at its width.
        OSError: The folder cannot be written to.

    Example:
        >>> import tempfile, aequa_lite as aq
        >>> theta = aq.init_params(aq.MLP, seed=0)
        >>> path, = save_rewards(tempfile.mkdtemp(), aq.MLP, [aq.slim(aq.MLP, theta, 0.1)], [0.1], aq.Config())
        >>> aq.n_parameters(load_reward(path))
        16330

    References:
        Our choice.
    """
    architecture, options = described(build, name)
    one_each("widths", widths, len(models), of="models")
    texts = {}
    if vocabulary:
        texts[VOCABULARY] = json.dumps(list(vocabulary), ensure_ascii=False, indent=0) + "\n"
    if encoder is not None:
        stated = {**encoder.to_dict(), "labels": list(labels)}
        texts[ENCODER] = json.dumps(stated, ensure_ascii=False, indent=1) + "\n"
    run = digest(json.dumps(config.to_dict() if identity is None else identity, sort_keys=True))
    read_with = [digest(texts[each]) if each in texts else "" for each in SHARED]
    manifests = []
    for i, (model, width) in enumerate(zip(models, widths)):
        rewarded = float(number(f"widths[{i}]", width, 0, 1, above=True))
        size = grid_width(rewarded, fraction_grid) if fraction_grid else rewarded
        made = outline(build, size).state_dict()
        _check_state(f"models[{i}]", model.state_dict(), made, f"what `build` makes at width {size:g}")
        own = size, min(rewarded, size), i, n_parameters(model)  # rounding may exceed it
        manifests.append(Manifest(architecture, options, *own, run, *read_with))
    return _write(Path(folder), models, manifests, texts)


def clear(folder: Path) -> None:
    """Remove the rewards that an earlier run left in a folder, their list first; other files stay."""
    (folder / LIST).unlink(missing_ok=True)  # a folder that is not written to its end has no list
    for each in folder.iterdir() if folder.is_dir() else ():
        if NAME.fullmatch(each.name) or each.name in SHARED:
            each.unlink(missing_ok=True)


def _write(folder: Path, models: Sequence[nn.Module], manifests: Sequence[Manifest], texts: Mapping[str, str]
) -> list[Path]:  # fmt: skip
    """Write all files of a folder, its list last."""
    clear(folder)
    rewards = [folder / f"participant-{each.participant:02d}.safetensors" for each in manifests]
    for path, model, manifest in zip(rewards, models, manifests):
        save_tensors(path, model.state_dict(), {"reward": manifest.header()})
        stated = replace(manifest, sha256=digest(path.read_bytes()))
        write_whole(path.with_suffix(".json"), json.dumps(asdict(stated), indent=1) + "\n")
    for file, text in texts.items():
        write_whole(folder / file, text)
    written = [*rewards, *(path.with_suffix(".json") for path in rewards), *(folder / each for each in texts)]
    files = [_entry(each.name, each.read_bytes()) for each in written]
    write_whole(folder / LIST, json.dumps({"run": manifests[0].run, "files": files}, indent=1) + "\n")
    return rewards


def _entry(name: str, content: bytes) -> dict[str, Any]:
    """What the folder's list says of a file."""
    own = NAME.fullmatch(name)
    whose = int(own[1]) if own else None
    return {"name": name, "size": len(content), "sha256": digest(content), "participant": whose}


@checked
def load_vocabulary(path: Path | str) -> tuple[str, ...]:
    """Return the words of a reward for text in the order of their ids: `net(tokens(sentences, vocabulary))`.

    Args:
        path: The reward's file.

    Raises:
        ValueError: The reward or its `vocabulary.json` is missing or damaged, or the reward reads images.

    Example:
        >>> import tempfile, aequa_lite as aq; from functools import partial
        >>> build, words = partial(aq.networks.TextCNN, words=3), ("<padding>", "<unknown>", "film")
        >>> path, = save_rewards(tempfile.mkdtemp(), build, [build(0.5)], [0.5], aq.Config(), vocabulary=words)
        >>> load_vocabulary(path)
        ('<padding>', '<unknown>', 'film')
    """
    words = _read_beside(path, VOCABULARY)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{VOCABULARY} is damaged: it must hold a list of words")
    return tuple(words)


def _read_beside(path: Path | str, name: str) -> Any:
    """The content of a file beside a reward, for which the reward's manifest vouches."""
    manifest, _ = read_reward(path)
    stated = getattr(manifest, name.removesuffix(".json"))
    if not stated:
        raise refusal("path", f"a reward that is read with {name}", str(path))
    content = _bytes(Path(path).with_name(name), MOST_VOCABULARY_BYTES)
    if digest(content) != stated:
        raise ValueError(f"{name} does not have the SHA-256 that the manifest of {path} states")
    with explaining(f"{name} is damaged"):
        return parse_json(content)


@checked
def load_encoder(path: Path | str) -> tuple[Encoder, tuple[str, ...]]:
    """Return the encoder of a reward for tables, and the names of its classes: `net(encoder(records)).argmax(1)`.

    Args:
        path: The reward's file.

    Raises:
        ValueError: The reward or its `encoder.json` is missing or damaged, or the reward reads no table.

    Example:
        >>> import tempfile, aequa_lite as aq; from functools import partial
        >>> build = partial(aq.networks.TabularMLP, shape=(1,))
        >>> age = Encoder((aq.data.tabular.fit_column("age", ["50", "60"]),))
        >>> path, = save_rewards(tempfile.mkdtemp(), build, [build()], [1.0], aq.Config(), encoder=age, labels=["no", "yes"])
        >>> load_encoder(path)[1]
        ('no', 'yes')
    """
    found = _read_beside(path, ENCODER)
    with explaining(f"{ENCODER} is damaged", KeyError, TypeError, ValueError):
        return Encoder.from_dict(found), tuple(map(str, found["labels"]))


@checked
def load_reward(path: Path | str, build: Build | None = None, *, name: str = "") -> nn.Module:
    """Rebuild a rewarded network from its file and manifest, after checking both.

    SHA-256, header, architecture, number of parameters, names, shapes, types and finiteness are checked. The network is one
    of this package, or is made by the `build` that is passed: the stored import path is compared with it, never imported.

    A reward whose file and manifest were both rewritten, consistently, is accepted; only a signature could show that.

    Args:
        path: The reward's file; its manifest lies beside it, with the ending `.json`.
        build: As in `save_rewards`; needed for a network that is not one of this package.
        name: As in `save_rewards`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        ValueError: A file is missing, damaged or too large, does not fit the network, or was made with another `build`.

    Example:
        >>> load_reward("nowhere.safetensors")
        Traceback (most recent call last):
        ValueError: nowhere.safetensors cannot be read: No such file or directory

    References:
        Our choice.
    """
    manifest, tensors = read_reward(path)
    build = _constructor(manifest, build, name)
    with explaining(f"reward {path} names a network that cannot be built"):
        net = _typed(outline(build, manifest.width), tensors)
    own = n_parameters(net)
    if own != manifest.n_parameters:
        raise ValueError(f"reward {path} states {manifest.n_parameters} parameters, its network has {own}")
    what = f"{manifest.architecture} at width {manifest.width:g}"
    _check_state(f"reward {path}", tensors, net.state_dict(), what)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        net = _typed(build(manifest.width), tensors)  # not the outline: constants outside the state have their values
    net.load_state_dict(tensors)
    return net.eval()


def _typed(net: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network in the type of these tensors, whatever the process builds by default."""
    types = {t.dtype for t in tensors.values() if t.is_floating_point()}
    return net.to(types.pop()) if len(types) == 1 else net


def _constructor(manifest: Manifest, build: Build | None, name: str) -> Build:
    """The constructor that a manifest names: one of this package, or the one that is passed."""
    stated = manifest.architecture, manifest.options
    if build is None and manifest.architecture in NETWORKS:
        return partial(NETWORKS[manifest.architecture], **manifest.options)
    if build is None:
        raise refusal("build", f"passed for {short_repr(stated[0])}, which is not a network of this package", build)
    if described(build, name) != stated:
        raise refusal("build", f"{stated[0]} with options {short_repr(stated[1])}", described(build, name))
    return build


def read_reward(path: Path | str) -> tuple[Manifest, dict[str, Tensor]]:
    """The manifest of a reward and its tensors, after all checks that need no network."""
    path = Path(path)
    content = _bytes(path, MOST_BYTES)
    beside = path.with_suffix(".json")
    stated = _bytes(beside, MOST_MANIFEST_BYTES)
    damage = TypeError, ValueError  # no object of these names, or no values of these kinds
    with explaining(f"manifest {beside} is damaged", *damage):
        found = parse_json(stated)
        manifest = None if "recipe" in found else Manifest(**found)
    if manifest is None:
        raise ValueError(f"manifest {beside} was written by aequa-lite 0.1")
    if digest(content) != manifest.sha256:
        raise ValueError(f"reward {path} does not have the SHA-256 that its manifest states; fetch both again")
    with explaining(f"reward {path} is damaged"):
        tensors, metadata = tensors_of(content)
    if metadata.get("reward") != manifest.header():
        raise ValueError(f"manifest {beside} differs from the header of its reward; fetch both again")
    return manifest, tensors


def _bytes(path: Path, most: int) -> bytes:
    """A file's bytes, unless there are too many."""
    try:
        return read_limited(path, most)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error_text(error)}") from error


@checked
@dataclass(frozen=True)
class FileCheck:
    """Hold what was found in one file.

    Args:
        file: Its name.
        description: What it is.
        fault: What is wrong with it; None where nothing is.

    Example:
        >>> print(FileCheck("participant-00.safetensors", "MLP at width 0.5: 89,610 parameters"))
        ok     participant-00.safetensors: MLP at width 0.5: 89,610 parameters
    """

    file: str
    description: str
    fault: str | None = None

    def __str__(self) -> str:
        text = self.description if self.fault is None else self.fault
        return f"{'ok' if self.fault is None else 'WRONG':<6} " + printable(f"{self.file}: {text}")  # nothing is forged


@checked
def verify(folder: Path | str, build: Build | None = None, *, name: str = "") -> list[FileCheck]:
    """Check every file of a folder of rewards against the folder's list, and rebuild every reward.

    Faults are: a file that is changed, missing, a link, or not on the list; a reward of another run or participant; a
    reward that `load_reward` refuses. Temporary files of a killed process are ignored.

    Whoever rewrites the whole folder consistently, list included, is not noticed; only a signature could show that.

    Args:
        folder: A folder that `save_rewards` wrote, or one reward, such as a participant's own: it is checked with its
            manifest, without a list.
        build: As in `load_reward`. Without it, a network that is not one of this package is not rebuilt, and the line says
            so.
        name: As in `load_reward`.

    Returns:
        One entry for each file, in the order of their names.

    Raises:
        ValueError: There is no such folder, or no rewards in it.

    Example:
        >>> import tempfile, aequa_lite as aq
        >>> path, = aq.save_rewards(tempfile.mkdtemp(), aq.MLP, [aq.MLP(0.5)], [0.5], aq.Config())
        >>> [each.file for each in verify(path.parent) if each.fault is None]
        ['participant-00.json', 'participant-00.safetensors', 'rewards.json']

    References:
        Our choice.
    """
    folder = Path(folder)
    if folder.suffix == ".safetensors":
        return [_line(folder.name, lambda: _check_reward(folder, build, name))]
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not any(each == LIST or NAME.fullmatch(each) for each in present):
        raise refusal("folder", f"a folder of rewards, with {LIST}", str(folder))
    try:
        run, listed = _read_list(folder / LIST)
    except (OSError, ValueError) as error:
        return [FileCheck(LIST, "", f"the folder cannot be verified: {error_text(error)}")]
    present -= {half.name for each in [LIST, *listed] for half in abandoned(folder / each)}
    checks = [FileCheck(LIST, f"the list of {len(listed)} files")]
    checks += [FileCheck(each, "", f"it is not on the list of {LIST}") for each in present - {LIST, *listed}]
    checks += [_line(each, partial(_check, folder / each, listed[each], run, build, name)) for each in listed]
    return sorted(checks, key=lambda each: each.file)


def _line(file: str, check: Callable[[], str]) -> FileCheck:
    """What a check of a file finds: a description, or what is wrong."""
    try:
        return FileCheck(file, check())
    except (OSError, ValueError) as error:
        return FileCheck(file, "", error_text(error, 1000))


def _read_list(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The run of a folder's list, and its entries by name."""
    if not path.is_file() or path.is_symlink():
        raise ValueError(
            f"{LIST} is missing; it is written last, so the folder is not complete; a reward of your own is verified by its file"
        )
    try:
        found = parse_json(read_limited(path, MOST_LIST_BYTES))
        run, listed = found["run"], {each["name"]: each for each in found["files"]}
        right = is_digest(run) and all(each in SHARED or NAME.fullmatch(each) for each in listed)
        right = right and len(listed) == len(found["files"])
    except (KeyError, TypeError):
        right = False
    if not right:
        raise ValueError(f"{LIST} is damaged: it must hold a run, and name each reward and each manifest once")
    return run, listed


def _check(path: Path, entry: dict[str, Any], run: str, build: Build | None, name: str) -> str:
    """Describe a listed file; a ValueError says what is wrong."""
    if path.is_symlink():
        raise ValueError("it is a link; a folder of rewards holds the files themselves")
    if not path.exists():
        raise ValueError("it is missing")
    content = read_limited(path, MOST_BYTES)
    if entry != _entry(path.name, content):
        raise ValueError(f"it does not have the size and SHA-256 of {LIST}")
    if path.name in SHARED:
        return f"{len(content):,} bytes, checked with each reward"
    if path.suffix == ".json":
        return f"the manifest of {path.with_suffix('.safetensors').name}"
    return _check_reward(path, build, name, (entry["participant"], run))


def _check_reward(path: Path, build: Build | None, name: str, stated: tuple[int, str] | None = None) -> str:
    """Describe a reward, rebuilt where its network is known; `stated`: whose it must be, and of which run."""
    manifest, _ = read_reward(path)
    if stated and stated != (manifest.participant, manifest.run):
        raise ValueError("it is the reward of another participant or run than its name and the list state")
    text = f"{manifest.architecture} at width {manifest.fractional_width:g}: {manifest.n_parameters:,} parameters"
    if manifest.vocabulary:
        text += f", {len(load_vocabulary(path)):,} words"
    if manifest.encoder:
        text += f", {len(load_encoder(path)[0].features):,} features"
    if build is None and manifest.architecture not in NETWORKS:
        return text + "; not rebuilt, since `build` was not passed"
    load_reward(path, build, name=name)
    return text


@checked
def export_onnx(net: nn.Module, example: Tensor, path: Path | str) -> Path:
    """Write a network as one ONNX file, whole or not at all.

    Its input `x` (samples, ...) takes any number of samples; its output is `logits` (samples, classes). Write it outside a
    folder of rewards: `verify` reports every file that is not on the folder's list.

    Args:
        net: The network, such as a reward; it is left in evaluation mode.
        example: Two or more inputs, such as `dataset.test.x[:2]`; only their shape and type matter.
        path: The file.

    Returns:
        The path.

    Raises:
        ValueError: `example` holds fewer than two samples, or onnx and onnxscript are not installed.
        OSError: The file cannot be written.

    Example:
        >>> export_onnx(nn.Linear(3, 2), torch.zeros(1, 3), "linear.onnx")
        Traceback (most recent call last):
        ValueError: `example` must hold two or more samples, got shape (1, 3)

    References:
        PyTorch's exporter.
    """
    if not example.ndim or len(example) < 2:
        raise ValueError(f"`example` must hold two or more samples, got shape {tuple(example.shape)}")
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ValueError(f"{' and '.join(missing)} cannot be imported; pip install 'aequa-lite[onnx]'")
    from torch.export import Dim  # late: it takes a second to import

    program = torch.onnx.export(
        net.eval(), (example,), dynamo=True, verbose=False, input_names=["x"], output_names=["logits"],
        dynamic_shapes=({0: Dim("samples")},),
    )  # fmt: skip
    with atomic_write(path) as half:
        program.save(half, external_data=False)
    return Path(path)
