"""The one loop: broadcast, local training, merge; whatever is paid differently is another scheme or another policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ._parallel import workers
from .aggregation.robust import Aggregator
from .aggregation.server_optimizers import Reweight, ServerOptimizer, fedavg, networks_own
from .checkpoint import fitted, load_checkpoint, load_given, save_checkpoint
from .config import Config
from .local import WidthSampler, checked_logit_adjustment, full_and_random, full_only, local_sgd
from .networks.base import init_params
from .rng import stream
from .slimmable import Build, State, aggregate, slice_of, slim, template
from .types import Round, Shard, Update, WidthAssignment
from .vectorized import vectorized_sgd

__all__ = ["Strategy", "aggregation_weights", "federate", "full_width", "slimmable", "standalone"]


Policy = Callable[[Config, Round | None], Sequence[float] | WidthAssignment]


def full_width(config: Config, last: Round | None) -> tuple[float, ...]:
    """Give everyone the full network in every round; the rewards are cut after training.

    ``last``: the round before this one, None at the start. Returns (participants,) widths.

    Example:
        >>> full_width(Config(participants=3), None)
        (1.0, 1.0, 1.0)

    Source: Algorithm 1 of Aequa sends the full network during training (seen in its reviews).
    """
    return (1.0,) * config.participants


def given_to(given: Sequence[float] | WidthAssignment) -> WidthAssignment:
    """What a policy has decided, with what it wants to remember: nothing, where it returned widths alone."""
    return given if isinstance(given, WidthAssignment) else WidthAssignment(tuple(float(w) for w in given))


@dataclass(frozen=True)
class Strategy:
    """Hold the three functions that a way of training together consists of.

    ``broadcast(state, participant, width)`` -> what that participant receives; ``local(slice, shard, width, recipe,
    draws)`` -> its :class:`~aequa_lite.Update`; ``merge(state, updates)`` -> the next state. ``together``, where there is one, does the
    local part of all participants at once, for a GPU. ``sent(state, updates)``, where not all that is held travels: how
    many numbers did in this round, from the state after the merge and all answers.

    Example:
        >>> import aequa_lite as aq
        >>> fedavg = aq.slimmable(aq.MLP, width_sampler=aq.full_only)
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> len(list(aq.federate(aq.MLP, shards, config, strategy=fedavg, progress=False)))
        1
    """

    broadcast: Callable[[State, int, float], State]
    local: Callable[..., Update]
    aggregate: Callable[[State, Sequence[Update]], State]
    together: Callable[..., list[Update]] | None = None
    sent: Callable[[State, Sequence[Update]], int] | None = None


def slimmable(
    build: Build,
    width_sampler: WidthSampler = full_and_random,
    *,
    server: ServerOptimizer = fedavg,
    reweight: Reweight | None = None,
    aggregate: Aggregator = aggregate,
    precision: torch.dtype | None = None,
    logit_adjustment: float = 0.0,
) -> Strategy:
    """Train one network at every width: each receives its slice, each entry is merged over those who hold it.

    ``width_sampler``: the widths of a local step; ``server``: what is made of the merge; ``reweight``: how much each answer counts
    (default: as :func:`~aequa_lite.federate` was told); ``aggregate``: how the answers become one network, such as :func:`~aequa_lite.aggregation.coordinate_median`
    where not everyone can be trusted; ``precision``: of the passes on a GPU (:func:`~aequa_lite.vectorized.vectorized_sgd`); ``logit_adjustment``: how far
    local training discounts that a shard shows some classes more often than others (:func:`~aequa_lite.local_sgd`).

    Raises:
        ValueError: ``logit_adjustment`` is outside [0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> sorted(slimmable(aq.MLP).broadcast(aq.init_params(aq.MLP, 0), 0, 0.5))[0]
        '2.bias'

    Source: ordered dropout (FjORD) with full participation; the draw of widths is ours.
    """

    checked_logit_adjustment(logit_adjustment)

    def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
        counts = reweight(updates) if reweight else [u.weight for u in updates]
        return server(
            state, aggregate(slice_of(build, state, 1.0), zip([u.state for u in updates], counts, strict=True))
        )

    return Strategy(
        broadcast=lambda state, participant, width: slice_of(build, state, width),
        local=partial(local_sgd, build, width_sampler=width_sampler, logit_adjustment=logit_adjustment),
        merge=merged,
        together=partial(
            vectorized_sgd, build, width_sampler=width_sampler, precision=precision, logit_adjustment=logit_adjustment
        ),
    )


def aggregation_weights(
    shards: Sequence[Shard], config: Config, contribution: Sequence[float] | None = None
) -> np.ndarray:
    r"""Return how much each participant's answer counts in the merge, (participants,), summing to one.

    $a_i \propto |D_i|^{p}\, B_i^{q}$ with $p$ = ``size_power``, $q$ = ``contribution_power`` and $B_i$ the contribution, which
    is taken as at least 0.001.

    Raises:
        ValueError: ``contribution_power`` is above 0 and there is no contribution, or not one for each participant.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, contribution_power=1.0)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> aggregation_weights(shards, config, [0.2, 0.6]).round(6).tolist()
        [0.25, 0.75]

    Source: FedAvg weighs by size, ShapFed-WA by contribution; their product is ours.
    """
    mass = np.array([float(len(shard)) for shard in shards]) ** config.size_power
    if config.contribution_power:
        contribution = np.asarray([] if contribution is None else contribution, dtype=float)
        if contribution.shape != mass.shape or not np.isfinite(contribution).all():
            raise ValueError(
                f"contribution is {contribution!r}; where contribution_power is above 0, allowed are {len(mass)} finite "
                "numbers: federate(..., weights=merge_weights(shards, recipe, contribution))"
            )
        mass *= np.maximum(contribution, 1e-3) ** config.contribution_power
    return mass / mass.sum()


def _one_each(shards: Sequence[Shard], config: Config) -> None:
    """Refuse shards that are not the recipe's participants."""
    if len(shards) != config.participants:
        raise ValueError(
            f"shards holds {len(shards)}; allowed is one for each of the {config.participants} participants"
        )


def _check_inputs(shards: Sequence[Shard], config: Config, weights: Sequence[float] | None) -> np.ndarray:
    """Refuse what does not fit together before any work; return the merge weights."""
    _one_each(shards, config)
    chosen = aggregation_weights(shards, config) if weights is None else np.asarray(weights, dtype=float)
    if chosen.shape != (config.participants,) or not np.isfinite(chosen).all() or (chosen <= 0).any():
        raise ValueError(f"weights is {weights!r}; allowed are {config.participants} finite numbers above 0")
    return chosen


def _together(strategy: Strategy, build: Build, vectorized: bool | None, device: torch.device) -> bool:
    """Whether all participants are trained in one pass."""
    if vectorized and strategy.together is None:
        raise ValueError(
            "stacked is True, but the scheme has no way of training all together; allowed is False or None"
        )
    if vectorized is None:
        return device.type == "cuda" and strategy.together is not None and not list(template(build, 1.0).buffers())
    return vectorized


def _finite(update: Update) -> bool:
    """Whether an answer can be merged without spoiling the round.

    A sum that is finite has finite terms only; it is ten times cheaper to take than every term's test.
    """
    numbers = (t for t in update.state.values() if t.is_floating_point())
    return math.isfinite(update.loss) and all(math.isfinite(t.sum()) or bool(torch.isfinite(t).all()) for t in numbers)


def _size(state: Mapping[str, Tensor]) -> int:
    """How many numbers travel when this state is sent."""
    return sum(t.numel() for t in networks_own(state).values())


def federate(
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    *,
    policy: Policy = full_width,
    strategy: Strategy | None = None,
    weights: Sequence[float] | None = None,
    count: int | None = None,
    vectorized: bool | None = None,
    checkpoint: Path | str | None = None,
    every: int = 1,
    progress: bool = True,
) -> Iterator[Round]:
    """Train one network together and yield every :class:`~aequa_lite.Round`, which holds all answers: keep what you need of it.

    ``policy``: which width each participant receives; ``strategy``: broadcast, local and merge (default:
    :func:`~aequa_lite.slimmable`); ``weights``: (participants,) merge weights (default: from the recipe); ``count``: worker
    threads (the result does not depend on it); ``vectorized``: train all participants in one pass (default: on a GPU,
    where the network allows it; the same up to rounding); ``checkpoint``: a file from which a killed run goes on, written every
    ``every`` rounds.

    Raises:
        ValueError: shards, weights and recipe do not fit together.
        FloatingPointError: no participant's answer was finite.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, rounds=2, local_steps=1)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> [rnd.index for rnd in federate(aq.MLP, shards, config, progress=False)]
        [0, 1]

    Source: FedAvg's loop; everything else is in the scheme and the policy.
    """
    mass = _check_inputs(shards, config, weights)
    strategy = strategy or slimmable(build)
    device = shards[0].samples.y.device
    together = _together(strategy, build, vectorized, device)
    state: State = init_params(build, config.seed, device)
    start = 0
    if checkpoint and (found := load_checkpoint(Path(checkpoint), config)):
        read = fitted(found[0], state)  # in the network's order, whatever the file's
        state, start = {name: t.to(device) for name, t in read.items()}, found[1] + 1
    bar = tqdm(total=config.rounds, initial=start, desc="rounds", disable=not progress)
    given = load_given(Path(checkpoint), config.participants) if checkpoint and start else None
    given = given or given_to(policy(config, None))  # 1. who receives which width
    with bar, workers(count, device) as spread:
        for index in range(start, config.rounds):
            last, state = _round(strategy, state, shards, given, mass, config, index, spread, together)
            if index + 1 < config.rounds:
                given = given_to(policy(config, last))
            if checkpoint and ((index + 1) % every == 0 or index + 1 == config.rounds):
                save_checkpoint(Path(checkpoint), state, index, config, given)
            bar.set_postfix(loss=f"{last.loss:.3f}", refresh=False)
            bar.update()
            yield last


def present(config: Config, index: int) -> np.ndarray:
    """Who takes part in a round, in rising order: a share of all, at least one, drawn anew for every round."""
    count = max(1, round(config.participation * config.participants))
    if count == config.participants:
        return np.arange(config.participants)
    return np.sort(stream(config.seed, "participation", index).permutation(config.participants)[:count])


def _round(
    strategy: Strategy,
    state: State,
    shards: Sequence[Shard],
    given: WidthAssignment,
    mass: np.ndarray,
    config: Config,
    index: int,
    spread: Callable[..., Iterable[Update]],
    together: bool,
) -> tuple[Round, State]:
    """One round: send slices, train them side by side, merge the finite answers; the round and the next state."""
    widths = given.widths
    here = [i for i in present(config, index) if widths[i]]
    if not here:
        raise ValueError(f"round {index}: nobody takes part; allowed is a policy that gives somebody a width")
    sent = {i: strategy.broadcast(state, shards[i].participant, widths[i]) for i in here}  # 2. send

    taken = index * config.local_steps

    def rng(i: int) -> np.random.Generator:
        return stream(config.seed, "local", index, shards[i].participant)

    def answer(i: int) -> Update:
        return strategy.local(sent[i], shards[i], widths[i], config, rng(i), first=taken, weight=float(mass[i]))

    if together and strategy.together:  # 3. train
        theirs = [[each[i] for i in here] for each in (sent, shards, widths)]
        updates = strategy.together(*theirs, config, [rng(i) for i in here], first=taken, weights=mass[here].tolist())
    else:
        updates = list(spread(answer, here))
    finite = [_finite(u) for u in updates]
    kept = [u for u, fine in zip(updates, finite, strict=True) if fine]
    if not kept:
        raise FloatingPointError(f"round {index}: no participant's answer was finite; lower lr (now {config.lr:g})")
    after = strategy.merge(state, kept)  # 4. merge
    count = sum(_size(s) + _size(u.state) + _size(u.own or {}) for s, u in zip(sent.values(), updates, strict=True))
    found = Round(
        index=index,
        theta=networks_own(after),
        widths=tuple(float(widths[i]) if i in sent else 0.0 for i in range(len(shards))),
        loss=float(np.average([u.loss for u in kept], weights=[u.weight for u in kept])),
        parameters_sent=strategy.sent(after, updates) if strategy.sent else count,
        left_out=tuple(u.participant for u, fine in zip(updates, finite, strict=True) if not fine),
        updates=tuple(updates),
        before=networks_own(state),
        scores=given.scores,
        state=after,
    )
    return found, after


def standalone(
    build: Build, shards: Sequence[Shard], config: Config, *, count: int | None = None, progress: bool = True
) -> list[nn.Module]:
    """Train for each participant the full network it could have had alone.

    Everyone starts from the same initial network and takes rounds x local steps of its own, as many as it takes
    when training together; its shard is all it ever sees.

    Example:
        >>> import aequa_lite as aq
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(aq.load("fashion-mini").train, config)
        >>> len(standalone(aq.MLP, shards, config, progress=False))
        2

    Source: the stand-alone accuracy by which Aequa measures contribution (seen).
    """
    _one_each(shards, config)
    device = shards[0].samples.y.device
    theta = init_params(build, config.seed, device)

    def alone(shard: Shard) -> nn.Module:
        rng = stream(config.seed, "alone", shard.participant)
        steps = config.rounds * config.local_steps
        update = local_sgd(build, theta, shard, 1.0, config, rng, width_sampler=full_only, steps=steps)
        return slim(build, update.state, 1.0)

    with workers(count, device) as spread:
        return list(tqdm(spread(alone, shards), total=len(shards), desc="alone", disable=not progress))
