"""Call every public name with one argument wrong: one sentence must name the argument, or a committed reason allows it.

usage: python scripts/campaigns/misuse.py [--seed N] [--share S] [--no-table]
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import inspect
import io
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common import FAILED, ROOT, Row, few, main

import aequa_lite as aq
from aequa_lite._io import short_repr

NAMESPACES = ("aggregation", "allocation", "attacks", "baselines", "contribution", "data", "experiments", "metrics",
              "networks", "plotting", "registry", "rewards", "theory")  # fmt: skip
LEGAL = Path(__file__).with_name("legal.yml")
NAN, INF = float("nan"), float("inf")
KINDS: dict[str, dict[str, list[Any]]] = {  # by the kind of parameter: what is wrong about a value, and values
    "int": {"type": ["two", [1], 2.5, {}, object()], "NaN": [NAN, INF, -INF], "range": [-3, -(10**6)]},
    "float": {"type": ["half", [0.5], {}, object()], "NaN": [NAN, INF, -INF], "range": [-0.5, -1e9, 1e9]},
    "bool": {"type": ["no", 2, [], NAN]},
    "text": {"type": [3, b"x", ["a"], object()], "empty text": [""], "text": ["no such thing", "x" * 300, "a\0b"]},
    "numbers": {"type": ["half", object(), {"a": 1}, ["a", "b"]], "empty": [[], [[]]],
                "NaN": [[NAN] * 3, [INF] * 3, [0.2, NAN, 0.5]], "range": [[-1e9] * 3], "length": [[0.5] * 17, [[1], [1, 2]]]},
    "sequence": {"type": [3, object(), NAN], "empty": [[]], "parts": [[None], ["a"] * 3, [object()] * 3]},
    "mapping": {"type": [3, "text", object()], "empty": [{}], "parts": [{"a": None}, {"": object()}, {3: 4}]},
    "function": {"type": [3, "text", [], {}]},
    "object": {"type": [3, "text", [], {}, object()]},
}  # fmt: skip
KIND_OF = [  # the first pattern that an annotation matches says its kind
    (r"(int|Count|Index|Some|Annotated\[int, .*\])( \| None)?", "int"),
    (r"(float|NotNegative|Positive|Share|Fraction|Decay|Level|Rate|Part|Shape|Power|Annotated\[float, .*\])( \| None)?", "float"),
    (r"bool( \| None)?", "bool"), (r".*(str|Path)\b(?!\]).*", "text"),
    (r".*(ArrayLike|NDArray|Array\b|Pairs).*", "numbers"), (r".*(Mapping|State\b|dict|Carried).*", "mapping"),
    (r".*Callable.*|Build|Policy|Rule|Game|Objective|Cost|Schedule|Score|WidthSampler|Aggregator|ServerOptimizer|Reweight|Train"
     r"|Algorithm|Attack|Mechanism|Contribution", "function"),
    (r".*(Sequence|Iterable|Collection|tuple|list).*", "sequence"), (r".*", "object"),
]  # fmt: skip


def kind_of(annotation: str) -> str:
    """The kind of a parameter."""
    plain = re.sub(r"ForwardRef\('(.*)'\)", r"\1", annotation)
    plain = re.sub(r"( \| None)+$", "", plain) if "Callable" not in plain else plain
    return next(kind for pattern, kind in KIND_OF if re.fullmatch(pattern, plain))


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and class, once."""
    seen = set()
    for space in ("", *NAMESPACES):
        module = importlib.import_module(f"aequa_lite.{space}".rstrip("."))
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing not in seen:
                seen.add(thing)
                yield f"{space}.{name}".lstrip("."), thing


class CalledError(Exception):
    """Carries the arguments with which an example calls a name; the call itself is not made."""


def example_call(name: str, thing: Callable[..., Any]) -> dict[str, Any]:
    """The arguments with which the example of a docstring calls its name: a valid call."""
    made = inspect.unwrap(thing.__init__ if inspect.isclass(thing) else thing)
    examples = doctest.DocTestParser().get_examples(EXAMPLES.get(name) or thing.__doc__)
    space = {"Path": Path, "ROOT": ROOT, **vars(importlib.import_module(thing.__module__))}

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is made.__code__:
            sys.setprofile(None)
            raise CalledError({k: v for k, v in frame.f_locals.items() if k != "self"})

    sys.setprofile(watch)
    try:
        exec("".join(each.source for each in examples), space)  # our own docstrings
    except CalledError as called:
        return {k: list(v) if isinstance(v, Iterator) else v for k, v in called.args[0].items()}
    finally:
        sys.setprofile(None)
    raise AssertionError(f"the example of {name} does not call it")


def contradicts(said: str, what: str, signature: inspect.Signature) -> bool:
    """Whether a value that is legal by itself is refused in the name of another argument, which it contradicts."""
    found = re.match(r"`(\w+)[^`]*` must ", said)
    return what in ("range", "length") and bool(found) and found[1] in signature.parameters


def attempt(thing: Callable[..., Any], given: dict[str, Any], parameter: str = "", what: str = "") -> str:
    """Call; say what came of it. Good are `refused by name` and, as far as the allow-list goes, `accepted`."""
    signature = inspect.signature(thing)
    bound = inspect.BoundArguments(signature, {k: v for k, v in given.items() if k in signature.parameters})
    signal.alarm(20)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            found = thing(*bound.args, **bound.kwargs)
            if isinstance(found, Iterator):
                list(found)
    except TimeoutError:
        return FAILED + "no end within 20 seconds"
    except (ValueError, TypeError, OSError) as error:
        value = given.get(parameter)
        last, said = traceback.extract_tb(error.__traceback__)[-1].filename, str(error)
        clear = (
            (type(error) in (ValueError, TypeError) or isinstance(error, OSError))
            and said.isprintable()
            and 10 < len(said) < 2000
        )
        plain = parameter.rstrip("s").split("_")[-1]
        if not clear or ("aequa_lite" not in last and not isinstance(error, OSError)):
            return FAILED + f"raw {type(error).__name__}: {said[:90]!r}"
        shown = [short_repr(value), *map(short_repr, value if isinstance(value, list) else ()), f"{value or '.'}"]
        named = plain in said or any(each in said for each in shown)
        return (
            "refused" if named or contradicts(said, what, signature) else FAILED + f"argument not named: {said[:90]!r}"
        )
    except BaseException as error:
        return FAILED + f"raw {type(error).__name__}: {str(error)[:90]!r}"
    finally:
        signal.alarm(0)
    return "accepted"


# Valid calls of names whose own example shows a refusal, or calls something else.
REWARDS = (
    ">>> import aequa_lite as aq\n>>> path, = aq.save_rewards('rewards', aq.MLP, [aq.MLP(0.1)], [0.1], aq.Config())\n"
)
SWEEP = """
>>> import aequa_lite as aq
>>> where = ROOT / "notebooks" / "reproduce.ipynb"
>>> _ = Path("few.yml").write_text('{"notebook": "%s", "grid": {"seed": [0]}}' % where)
"""
EXAMPLES: dict[str, str] = {
    "aggregation.dp_epsilon": ">>> dp_epsilon(1.0, 10)\n",
    "rewards.export_onnx": ">>> export_onnx(nn.Linear(3, 2), torch.zeros(2, 3), 'linear.onnx')\n",
    "Dataset": ">>> import aequa_lite as aq\n>>> d = aq.load('x')\n>>> Dataset('few', d.train, d.validation, d.test, '0' * 64)\n",
    "Report": aq.report.__doc__ or "", "load_reward": REWARDS + ">>> load_reward(path)\n",
    "data.leaf": ">>> from formats import write_leaf\n>>> leaf(write_leaf(Path('leaf')))\n",
    "data.tsv": ">>> from formats import write_sst2\n>>> tsv(write_sst2(Path('sst2')))\n",
    "data.torchvision_set": ">>> from formats import write_mnist\n"
    ">>> write_mnist(Path('mnist'))\n>>> torchvision_set('mnist', 'mnist')\n",
    "experiments.read_sweep": SWEEP + ">>> read_sweep('few.yml')\n",
    "experiments.gather": SWEEP + ">>> gather(read_sweep('few.yml'))\n",
}  # fmt: skip
NO_CALL = ("experiments.Source", "theory.Changes", "theory.Moments")  # a text and tuples: they take what these take
# valid, but onnx may be missing; the example shows a refusal, since opacus may be missing
UNFINISHED = ("rewards.export_onnx", "aggregation.dp_epsilon")


def wrong(rng: np.random.Generator, annotation: str) -> Iterator[tuple[str, Any]]:
    """A value of every way in which an argument of this annotation can be wrong."""
    for what, values in KINDS[kind_of(annotation)].items():
        yield what, values[rng.integers(len(values))]
    if "None" not in annotation:
        yield "None", None


def late(*_: Any) -> None:
    """End a call that takes too long."""
    raise TimeoutError


def campaign(rng: np.random.Generator, share: float = 1.0) -> Iterator[Row]:
    """Every parameter of every public name, wrong in every way of its kind."""
    names, data, usual = [each for each in public() if each[0] not in NO_CALL], few(5), aq.load
    legal = yaml.safe_load(LEGAL.read_text())
    signal.signal(signal.SIGALRM, late)
    for name, thing in names:
        if share < 1 and rng.random() > share:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # what one call writes, no other reads
            aq.load = lambda *_, **__: data  # the examples' data set, so that what is accepted is quick
            valid = example_call(name, thing)
            aq.load = usual
            assert name in UNFINISHED or (found := attempt(thing, valid)) == "accepted", (name, found)
            for parameter, about in inspect.signature(thing).parameters.items():
                if about.kind in (about.VAR_POSITIONAL, about.VAR_KEYWORD):
                    continue  # refused by the function that takes them
                for what, value in wrong(rng, str(about.annotation)):
                    outcome = attempt(thing, {**valid, parameter: value}, parameter, what)
                    call = f"{name}({parameter}) {what}"
                    if outcome == "accepted":
                        reasons = [why for pattern, why in legal.items() if fnmatchcase(call, pattern)]
                        outcome = f"legal: {reasons[0]}" if reasons else f"{FAILED}accepted {short_repr(value, 40)}"
                    yield {"what": name, "argument": parameter, "wrong": what, "outcome": outcome}


if __name__ == "__main__":
    main({"misuse": campaign}, seed=20321)
