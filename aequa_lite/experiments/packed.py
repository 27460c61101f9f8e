"""Runs of a sweep side by side in one process: what they train at the same time shares vectorized passes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._check import refusal
from .._io import write_whole
from ..checkpoint import describe
from ..config import Config
from ..federate import Strategy, federation, side_by_side, standalone_many
from ..method import Problem, assess
from ..registry import lookup
from ..types import Build, Round, Shard
from .run import compete, prepare, split_parameters

Many = Callable[[list[Any]], list[Any]]  # requests of one kind -> what each gets


class RunGroup:
    """Where runs wait for one another; each is a thread, and one computes at a time.

    When all wait, what they ask for is trained together. If that fails, each is trained by itself, so that only the run
    whose fault it is fails.

    Args:
        runs: How many there are.
        options: Of `federate` and `standalone`.
    """

    def __init__(self, runs: int, **options: Any) -> None:
        self.turn, self.here, self.options = threading.Condition(), runs, {"progress": False, **options}
        self.asked: dict[int, tuple[Many, Any]] = {}
        self.found: dict[int, Any] = {}
        self.builds: dict[str, Build] = {}

    def execute(self, run: Callable[[], Any]) -> Any:
        """Run one of the runs in this thread."""
        with self.turn:
            try:
                return run()
            finally:
                self.here -= 1
                self._serve()

    def ask(self, many: Many, request: Any) -> Any:
        """Wait until the others wait too; return what this request gets."""
        me = threading.get_ident()
        self.asked[me] = many, request
        self._serve()
        self.turn.wait_for(lambda: me in self.found)
        got = self.found.pop(me)
        if isinstance(got, Exception):
            raise got
        return got

    def _serve(self) -> None:
        """Train what was asked for, if nobody is missing."""
        if len(self.asked) < self.here:
            return
        asked, self.asked = self.asked, {}
        for many in {each for each, _ in asked.values()}:
            who = [k for k, (each, _) in asked.items() if each == many]
            requests = [asked[k][1] for k in who]
            try:
                got = many(requests)
            except Exception:  # of one of them: each by itself
                got = [_caught(many, each) for each in requests]
            self.found |= zip(who, got)
        self.turn.notify_all()

    def _alone(self, requests: Sequence[tuple[Build, Sequence[Shard], Config]]) -> list[list[nn.Module]]:
        (build, _, config), *others = requests
        if any(each is not build or replace(own, seed=config.seed) != config for each, _, own in others):
            return [self._alone([each])[0] for each in requests]
        return standalone_many(build, [each for _, *each in requests], **self.options)

    def train(self, problem: Problem, strategy: Strategy, **options: Any) -> Round:
        """`method.train`, with the others."""
        return self.ask(self._train, (problem, {"strategy": strategy, **self.options, **options}))

    def _train(self, requests: Sequence[tuple[Problem, dict[str, Any]]]) -> list[Round]:
        runs = [federation(p.build, p.shards, p.config, **options) for p, options in requests]
        last = dict(side_by_side(runs, requests[0][0].validation.y.device))
        return [last[k] for k in range(len(runs))]

    def run(self, values: Mapping[str, Any]) -> None:
        """Do what `notebooks/reproduce.ipynb` does with these parameters, without its figures.

        Raises:
            ValueError: A parameter is unknown or does not fit.
            RuntimeError: A method failed.
        """
        scale, keep, out = (values[name] for name in ("scale", "keep", "out"))
        setup, config = split_parameters({k: v for k, v in values.items() if k not in ("scale", "keep", "out")})
        if scale == "paper" and not (setup.device or torch.cuda.is_available()):
            raise refusal("scale", "mini, or paper on a GPU", scale)
        data, build, shards = prepare(setup, config)
        build = self.builds.setdefault(json.dumps(describe(build)), build)  # one pass has one network
        started = time.perf_counter()
        alone = self.ask(self._alone, (build, shards, config))
        contribution = lookup("contribution", setup.contribution)
        problem = assess(build, shards, config, data, contribution=contribution, alone=alone)
        about = {**values, "seconds_alone": round(time.perf_counter() - started, 1)}
        write_whole(Path(out) / "run.json", json.dumps(about, indent=1) + "\n")
        for _ in compete(setup, problem, out, keep=keep, train=self.train):
            pass


def _caught(many: Many, request: Any) -> Any:
    """What a request gets by itself; the error if it fails."""
    try:
        return many([request])[0]
    except Exception as error:
        return error
