"""Rewards while training: scores as they arrive become the widths of the next round; nobody holds what it has not earned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .aggregation.robust import Aggregator
from .config import Config
from .contribution import Score, affine_calibration
from .evaluation import accuracy, accuracy_curve, correct
from .federate import Policy, Strategy
from .local import full_only, local_sgd
from .networks.base import init_params
from .rng import stream
from .slimmable import Build, State, aggregate, prefix, slim
from .types import Round, Samples, Shard, Update, WidthAssignment

__all__ = [
    "HeldModels",
    "damped_aggregate",
    "held_models",
    "own_model_accuracy",
    "score_schedule",
    "update_accuracy",
    "with_own_model",
]


# coarse, since the curve is measured after every round
GRID = (0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.12, 0.15, 0.18, 0.21, *(k / 20 for k in range(5, 21)))


def score_schedule(
    score: Score,
    build: Build | None = None,
    validation: Samples | None = None,
    *,
    floor: float = 0.03,
    start: float = 0.25,
    warm_up: int = 3,
    step: float = 0.1,
    hands: float = 0.2,
    stretch: bool = True,
) -> Policy:
    r"""Send everyone, in every round, only the slice that its contribution has earned so far.

    ``score`` says after each round what everybody has brought (:func:`~aequa_lite.alignment`, :func:`~aequa_lite.training_time.own_model_accuracy`, ...), on the part
    that all present hold; an answer that was left out changes no score. With the server's ``validation`` samples the scores
    are stretched over the accuracies that the current network has between ``floor`` and full width, and each width is the
    least that reaches its own; without them $w_i = f + (1 - f)\, s_i / \max_j s_j$. ``stretch`` = False, for scores that are
    accuracies: they are only ever brought closer together, so that nobody's gain is smaller than the best one's. All hold
    ``start`` for ``warm_up`` rounds; then a width moves by at most ``step`` a round, except that a share of ``hands``
    of the participants, rounded up, always holds width 1: the widest ones, for one alone would train the outermost channels
    on its own data. Who comes in later starts at ``floor``.

    Raises:
        ValueError: a number is outside its range, or only one of ``build`` and ``validation`` is given.

    Example:
        >>> import aequa_lite as aq
        >>> score_schedule(aq.alignment)(aq.Config(participants=3), None).widths
        (0.25, 0.25, 0.25)

    Source: training-time rewards are Algorithm 2 of Aequa (seen by name); this schedule is ours.
    """
    for name, value in {"floor": floor, "start": start, "step": step, "hands": hands}.items():
        if not 1e-6 <= value <= 1:
            raise ValueError(f"{name} is {value!r}; allowed is a number in (0, 1]")
    if warm_up < 1 or (build is None) != (validation is None):
        raise ValueError(
            f"warm_up is {warm_up!r}; allowed is a number from 1, and build and validation both or neither"
        )

    def wanted(scores: np.ndarray, theta: State) -> np.ndarray:
        if build is None or validation is None:
            return floor + (1 - floor) * np.maximum(scores, 0) / max(float(scores.max()), 1e-12)
        grid = (floor, *(w for w in GRID if w > floor))
        curve = accuracy_curve(build, theta, validation, grid=grid)
        low = curve.least if stretch else max(curve.least, curve.full - float(np.ptp(scores)))
        stretched = affine_calibration(scores, low, curve.full)
        return np.array([curve.width_at(a) for a in np.minimum(stretched, curve.full)])

    def policy(config: Config, last: Round | None) -> WidthAssignment:
        if last is None:
            return WidthAssignment((start,) * config.participants)
        scores = carried_scores(score, last, config.participants)
        if last.index + 1 < warm_up:
            return WidthAssignment((start,) * config.participants, tuple(scores))
        held = np.array(last.widths)
        near = np.clip(wanted(scores, last.theta), held - step, held + step)
        widths = np.where(held > 0, np.clip(near, floor, 1), floor)
        order = sorted(range(len(widths)), key=lambda i: (widths[i], scores[i]), reverse=True)
        widths[order[: math.ceil(hands * len(widths) - 1e-9)]] = 1.0  # somebody always trains the outermost channels
        return WidthAssignment(tuple(widths.tolist()), tuple(scores.tolist()))

    return policy


def shared_part(before: State, rnd: Round) -> tuple[State, Round]:
    """A round as if all its participants held what the narrowest of them holds."""
    narrowest = min(rnd.updates, key=lambda u: u.width)
    blocks = {name: prefix(t.shape) for name, t in narrowest.state.items()}

    def cut(state: State) -> dict[str, Any]:
        return {name: state[name][block] for name, block in blocks.items()}

    same = tuple(replace(u, state=cut(u.state), width=narrowest.width) for u in rnd.updates)
    return cut(before), replace(rnd, updates=same)


def carried_scores(score: Score, last: Round, participants: int) -> np.ndarray:
    """Everybody's score after a round, (participants,): who was away or left out keeps its own, or has the lowest."""
    kept = tuple(u for u in last.updates if u.participant not in last.left_out)
    here = [u.participant for u in kept]
    known = np.array(last.scores) if last.scores else None
    found = score(*shared_part(last.before, replace(last, updates=kept)), None if known is None else known[here])
    scores = np.full(participants, found.min()) if known is None else known.copy()
    scores[here] = found
    return scores


def damped_aggregate(power: float = 0.5) -> Aggregator:
    r"""Merge entry by entry over those who hold the entry, with a shorter step where few of them do.

    $\theta_e \leftarrow \theta_e + \bigl(\sum_{i \ni e} a_i / \sum_i a_i\bigr)^g\,(\mathrm{merge}(\theta)_e - \theta_e)$ with
    $g$ = ``power``: an entry that one participant holds follows its shard alone, so it may go less far. ``power`` = 0 is
    :func:`~aequa_lite.aggregate`, and where everybody holds everything so is every power, to the bit; at 1 all divide by everybody's mass.

    Raises:
        ValueError: ``power`` is outside [0, 1].

    Example:
        >>> theta, answers = {"w": torch.zeros(2)}, [({"w": torch.ones(2)}, 1.0), ({"w": torch.ones(1)}, 3.0)]
        >>> [damped_aggregate(power)(theta, answers)["w"].tolist() for power in (0.0, 0.5, 1.0)]
        [[1.0, 1.0], [1.0, 0.5], [1.0, 0.25]]

    Source: ours.
    """
    if not 0 <= power <= 1:
        raise ValueError(f"power is {power!r}; allowed is a number from 0 to 1")

    def aggregator(theta: State, updates: Iterable[tuple[State, float]]) -> dict[str, Tensor]:
        pairs = list(updates)
        after = aggregate(theta, pairs)
        if not power:
            return after

        def followed(name: str, t: Tensor) -> Tensor:
            mass = torch.zeros_like(t)
            for state, weight in pairs:
                if name in state:
                    mass[prefix(state[name].shape)] += weight
            everybody = mass.flatten()[:1].clamp_min(1e-30)  # slices are nested: the first entry is in all of them
            return torch.lerp(t, after[name], (mass / everybody) ** power)

        return {k: followed(k, t) if t.is_floating_point() else after[k] for k, t in theta.items()}

    return aggregator


@dataclass(frozen=True, eq=False)
class HeldModels:
    """Hold what everybody had in its hands in a round, before training on it.

    ``widths``, ``scores``, ``accuracy``: one for each participant, ``accuracy`` not a number for who was away;
    ``full``: the accuracy of the whole shared network; ``parameters_sent``: in this round, both ways.

    Example:
        >>> HeldModels(0, (0.5, 1.0), (), np.array([0.5, 0.7]), 0.7, 8).full
        0.7
    """

    index: int
    widths: tuple[float, ...]
    scores: tuple[float, ...]
    accuracy: np.ndarray
    full: float
    parameters_sent: int


def held_models(build: Build, rounds: Iterable[Round], samples: Samples) -> Iterator[HeldModels]:
    """Judge on samples, round after round, the slices that participants have received.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=2, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> rounds = aq.federate(aq.MLP, shards, config, policy=score_schedule(aq.alignment), progress=False)
        >>> [held.widths for held in held_models(aq.MLP, rounds, data.test)]
        [(0.25, 0.25), (0.25, 0.25)]

    Source: ours.
    """
    for rnd in rounds:
        sizes = sorted({1.0, *rnd.widths} - {0.0})
        found = dict(zip(sizes, accuracy([slim(build, rnd.before, w) for w in sizes], samples), strict=True))
        held = np.array([found.get(w, np.nan) for w in rnd.widths])
        yield HeldModels(rnd.index, rnd.widths, rnd.scores, held, float(found[1.0]), rnd.parameters_sent)


def update_accuracy(build: Build, validation: Samples, *, memory: float = 0.8) -> Score:
    r"""Score what comes back by its validation accuracy, as wide as the narrowest.

    $c \leftarrow \mu c + (1 - \mu)\,\mathrm{acc}_i$ with $\mu$ the ``memory``.

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> (rnd,) = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, progress=False)
        >>> update_accuracy(aq.MLP, data.validation)(rnd.before, rnd, None).shape
        (2,)

    Source: ours. A participant that sends back what it received scores what the network scores.
    """

    def score(before: State, rnd: Round, scores: np.ndarray | None) -> np.ndarray:
        found = np.array([correct(slim(build, u.state, u.width).eval(), validation).mean() for u in rnd.updates])
        return found if scores is None else memory * scores + (1 - memory) * found

    return score


def own_model_accuracy(build: Build, validation: Samples, *, memory: float = 0.3) -> Score:
    r"""Score the networks that participants trained on their own shards alone (:func:`~aequa_lite.training_time.with_own_model`), whenever they come.

    $c \leftarrow \mu c + (1 - \mu)\,\mathrm{acc}_i$ on validation, from $c = \mathrm{acc}_i$; without a new
    network, or with one that is not finite, $c$ stays (at first: 0).

    Example:
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> strategy = with_own_model(aq.slimmable(aq.MLP), aq.MLP, steps=1)
        >>> (rnd,) = aq.federate(aq.MLP, aq.data.homogeneous(data.train, config), config, strategy=strategy, progress=False)
        >>> bool((own_model_accuracy(aq.MLP, data.validation)(rnd.before, rnd, None) > 0).all())
        True

    Source: the accuracy alone of Aequa, as it arrives; the momentum is ours.
    """

    def score(before: State, rnd: Round, scores: np.ndarray | None) -> np.ndarray:
        known = np.zeros(len(rnd.updates)) if scores is None else scores.copy()
        for i, u in enumerate(rnd.updates):
            if u.own is not None and all(torch.isfinite(t).all() for t in u.own.values()):
                found = correct(slim(build, u.own, 1.0).eval(), validation).mean()
                known[i] = found if known[i] == 0 else memory * known[i] + (1 - memory) * found
        return known

    return score


def with_own_model(strategy: Strategy, build: Build, *, steps: int = 300, every: int = 20) -> Strategy:
    """Let participants also train, every few rounds, the full network on their own shard alone, and send it beside the answer.

    It starts from the initial network, which holds nothing of anybody's, so that nothing shared can be handed in as one's own
    work, and a killed run needs no memory of it. ``steps``: of training alone; ``every``: rounds from one to the next.

    Raises:
        ValueError: ``steps`` or ``every`` is below 1.

    Example:
        >>> import aequa_lite as aq
        >>> with_own_model(aq.slimmable(aq.MLP), aq.MLP, steps=60).together is None
        False

    Source: ours.
    """
    if steps < 1 or every < 1:
        raise ValueError(f"steps is {steps!r} and every {every!r}; allowed are whole numbers from 1")

    def own(update: Update, shard: Shard, config: Config, first: int) -> Update:
        if first // config.local_steps % every:
            return update
        short = replace(config, rounds=1, local_steps=steps)
        rng = stream(config.seed, "own", first, shard.participant)
        theta = init_params(build, config.seed, shard.samples.y.device)
        return replace(update, own=local_sgd(build, theta, shard, 1.0, short, rng, width_sampler=full_only).state)

    def local(
        sent: State, shard: Shard, width: float, config: Config, rng: Any, *, first: int = 0, **rest: Any
    ) -> Update:
        return own(strategy.local(sent, shard, width, config, rng, first=first, **rest), shard, config, first)

    def together(sent: Any, shards: Any, widths: Any, config: Config, rng: Any, *, first: int = 0, **rest: Any) -> Any:
        updates = strategy.together(sent, shards, widths, config, rng, first=first, **rest)  # type: ignore[misc]
        return [own(u, shard, config, first) for u, shard in zip(updates, shards, strict=True)]

    return replace(strategy, local=local, together=strategy.together and together)
