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

from .checkpoint import fitted, load_checkpoint, load_given, save_checkpoint
from .defences import Merging
from .local import Draw, checked_balance, full_and_random, full_only, local_sgd
from .nets import initial
from .policy import Policy, everyone_full, given_to
from .records import Given, Recipe, Round, Shard, Update
from .rng import stream
from .server import Server, Weigh, averaged, networks_own
from .slim import Build, State, merge, slice_of, slim, template
from .stacked import stacked_sgd
from .workers import workers

__all__ = ["Scheme", "federate", "merge_weights", "slimmable", "standalone"]


@dataclass(frozen=True)
class Scheme:
    """Hold the three functions that a way of training together consists of.

    ``broadcast(state, participant, width)`` -> what that participant receives; ``local(slice, shard, width, recipe,
    draws)`` -> its :class:`Update`; ``merge(state, updates)`` -> the next state. ``together``, where there is one, does the
    local part of all participants at once, for a GPU. ``sent(state, updates)``, where not all that is held travels: how
    many numbers did in this round, from the state after the merge and all answers.

    Example:
        >>> import aequa_lite as aq
        >>> fedavg = aq.slimmable(aq.MLP, draw=aq.full_only)
        >>> recipe = aq.Recipe(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.homogeneous(aq.load("fashion-mini").train, recipe)
        >>> len(list(aq.federate(aq.MLP, shards, recipe, scheme=fedavg, progress=False)))
        1
    """

    broadcast: Callable[[State, int, float], State]
    local: Callable[..., Update]
    merge: Callable[[State, Sequence[Update]], State]
    together: Callable[..., list[Update]] | None = None
    sent: Callable[[State, Sequence[Update]], int] | None = None


def slimmable(
    build: Build,
    draw: Draw = full_and_random,
    *,
    server: Server = averaged,
    weigh: Weigh | None = None,
    merging: Merging = merge,
    precision: torch.dtype | None = None,
    balance: float = 0.0,
) -> Scheme:
    """Train one network at every width: each receives its slice, each entry is merged over those who hold it.

    ``draw``: the widths of a local step; ``server``: what is made of the merge; ``weigh``: how much each answer counts
    (default: as :func:`federate` was told); ``merging``: how the answers become one network, such as :func:`median`
    where not everyone can be trusted; ``precision``: of the passes on a GPU (:func:`stacked_sgd`); ``balance``: how far
    local training discounts that a shard shows some classes more often than others (:func:`local_sgd`).

    Raises:
        ValueError: ``balance`` is outside [0, 1].

    Example:
        >>> import aequa_lite as aq
        >>> sorted(slimmable(aq.MLP).broadcast(aq.initial(aq.MLP, 0), 0, 0.5))[0]
        '2.bias'

    Source: ordered dropout (FjORD) with full participation; the draw of widths is ours.
    """

    checked_balance(balance)

    def merged(state: State, updates: Sequence[Update]) -> dict[str, Tensor]:
        counts = weigh(updates) if weigh else [u.weight for u in updates]
        return server(state, merging(slice_of(build, state, 1.0), zip([u.state for u in updates], counts, strict=True)))

    return Scheme(
        broadcast=lambda state, participant, width: slice_of(build, state, width),
        local=partial(local_sgd, build, draw=draw, balance=balance),
        merge=merged,
        together=partial(stacked_sgd, build, draw=draw, precision=precision, balance=balance),
    )


def merge_weights(shards: Sequence[Shard], recipe: Recipe, contribution: Sequence[float] | None = None) -> np.ndarray:
    r"""Return how much each participant's answer counts in the merge, (participants,), summing to one.

    $a_i \propto |D_i|^{p}\, B_i^{q}$ with $p$ = ``size_power``, $q$ = ``contribution_power`` and $B_i$ the contribution, which
    is taken as at least 0.001.

    Raises:
        ValueError: ``contribution_power`` is above 0 and there is no contribution, or not one for each participant.

    Example:
        >>> import aequa_lite as aq
        >>> recipe = aq.Recipe(participants=2, contribution_power=1.0)
        >>> shards = aq.homogeneous(aq.load("fashion-mini").train, recipe)
        >>> merge_weights(shards, recipe, [0.2, 0.6]).round(6).tolist()
        [0.25, 0.75]

    Source: FedAvg weighs by size, ShapFed-WA by contribution; their product is ours.
    """
    mass = np.array([float(len(shard)) for shard in shards]) ** recipe.size_power
    if recipe.contribution_power:
        brought = np.asarray([] if contribution is None else contribution, dtype=float)
        if brought.shape != mass.shape or not np.isfinite(brought).all():
            raise ValueError(
                f"contribution is {contribution!r}; where contribution_power is above 0, allowed are {len(mass)} finite "
                "numbers: federate(..., weights=merge_weights(shards, recipe, contribution))"
            )
        mass *= np.maximum(brought, 1e-3) ** recipe.contribution_power
    return mass / mass.sum()


def _one_each(shards: Sequence[Shard], recipe: Recipe) -> None:
    """Refuse shards that are not the recipe's participants."""
    if len(shards) != recipe.participants:
        raise ValueError(
            f"shards holds {len(shards)}; allowed is one for each of the {recipe.participants} participants"
        )


def _check(shards: Sequence[Shard], recipe: Recipe, weights: Sequence[float] | None) -> np.ndarray:
    """Refuse what does not fit together before any work; return the merge weights."""
    _one_each(shards, recipe)
    chosen = merge_weights(shards, recipe) if weights is None else np.asarray(weights, dtype=float)
    if chosen.shape != (recipe.participants,) or not np.isfinite(chosen).all() or (chosen <= 0).any():
        raise ValueError(f"weights is {weights!r}; allowed are {recipe.participants} finite numbers above 0")
    return chosen


def _together(scheme: Scheme, build: Build, stacked: bool | None, device: torch.device) -> bool:
    """Whether all participants are trained in one pass."""
    if stacked and scheme.together is None:
        raise ValueError(
            "stacked is True, but the scheme has no way of training all together; allowed is False or None"
        )
    if stacked is None:
        return device.type == "cuda" and scheme.together is not None and not list(template(build, 1.0).buffers())
    return stacked


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
    recipe: Recipe,
    *,
    policy: Policy = everyone_full,
    scheme: Scheme | None = None,
    weights: Sequence[float] | None = None,
    count: int | None = None,
    stacked: bool | None = None,
    checkpoint: Path | str | None = None,
    every: int = 1,
    progress: bool = True,
) -> Iterator[Round]:
    """Train one network together and yield every :class:`Round`, which holds all answers: keep what you need of it.

    ``policy``: which width each participant receives; ``scheme``: broadcast, local and merge (default:
    :func:`slimmable`); ``weights``: (participants,) merge weights (default: from the recipe); ``count``: worker
    threads (the result does not depend on it); ``stacked``: train all participants in one pass (default: on a GPU,
    where the network allows it; the same up to rounding); ``checkpoint``: a file from which a killed run goes on, written every
    ``every`` rounds.

    Raises:
        ValueError: shards, weights and recipe do not fit together.
        FloatingPointError: no participant's answer was finite.

    Example:
        >>> import aequa_lite as aq
        >>> recipe = aq.Recipe(participants=2, rounds=2, local_steps=1)
        >>> shards = aq.homogeneous(aq.load("fashion-mini").train, recipe)
        >>> [rnd.index for rnd in federate(aq.MLP, shards, recipe, progress=False)]
        [0, 1]

    Source: FedAvg's loop; everything else is in the scheme and the policy.
    """
    mass = _check(shards, recipe, weights)
    scheme = scheme or slimmable(build)
    device = shards[0].samples.y.device
    together = _together(scheme, build, stacked, device)
    state: State = initial(build, recipe.seed, device)
    start = 0
    if checkpoint and (found := load_checkpoint(Path(checkpoint), recipe)):
        read = fitted(found[0], state)  # in the network's order, whatever the file's
        state, start = {name: t.to(device) for name, t in read.items()}, found[1] + 1
    bar = tqdm(total=recipe.rounds, initial=start, desc="rounds", disable=not progress)
    given = load_given(Path(checkpoint), recipe.participants) if checkpoint and start else None
    given = given or given_to(policy(recipe, None))  # 1. who receives which width
    with bar, workers(count, device) as spread:
        for index in range(start, recipe.rounds):
            last, state = _round(scheme, state, shards, given, mass, recipe, index, spread, together)
            if index + 1 < recipe.rounds:
                given = given_to(policy(recipe, last))
            if checkpoint and ((index + 1) % every == 0 or index + 1 == recipe.rounds):
                save_checkpoint(Path(checkpoint), state, index, recipe, given)
            bar.set_postfix(loss=f"{last.loss:.3f}", refresh=False)
            bar.update()
            yield last


def present(recipe: Recipe, index: int) -> np.ndarray:
    """Who takes part in a round, in rising order: a share of all, at least one, drawn anew for every round."""
    count = max(1, round(recipe.participation * recipe.participants))
    if count == recipe.participants:
        return np.arange(recipe.participants)
    return np.sort(stream(recipe.seed, "participation", index).permutation(recipe.participants)[:count])


def _round(
    scheme: Scheme,
    state: State,
    shards: Sequence[Shard],
    given: Given,
    mass: np.ndarray,
    recipe: Recipe,
    index: int,
    spread: Callable[..., Iterable[Update]],
    together: bool,
) -> tuple[Round, State]:
    """One round: send slices, train them side by side, merge the finite answers; the round and the next state."""
    widths = given.widths
    here = [i for i in present(recipe, index) if widths[i]]
    if not here:
        raise ValueError(f"round {index}: nobody takes part; allowed is a policy that gives somebody a width")
    sent = {i: scheme.broadcast(state, shards[i].participant, widths[i]) for i in here}  # 2. send

    taken = index * recipe.local_steps

    def draws(i: int) -> np.random.Generator:
        return stream(recipe.seed, "local", index, shards[i].participant)

    def answer(i: int) -> Update:
        return scheme.local(sent[i], shards[i], widths[i], recipe, draws(i), first=taken, weight=float(mass[i]))

    if together and scheme.together:  # 3. train
        theirs = [[each[i] for i in here] for each in (sent, shards, widths)]
        updates = scheme.together(*theirs, recipe, [draws(i) for i in here], first=taken, weights=mass[here].tolist())
    else:
        updates = list(spread(answer, here))
    finite = [_finite(u) for u in updates]
    kept = [u for u, fine in zip(updates, finite, strict=True) if fine]
    if not kept:
        raise FloatingPointError(f"round {index}: no participant's answer was finite; lower lr (now {recipe.lr:g})")
    after = scheme.merge(state, kept)  # 4. merge
    count = sum(_size(s) + _size(u.state) + _size(u.own or {}) for s, u in zip(sent.values(), updates, strict=True))
    found = Round(
        index=index,
        theta=networks_own(after),
        widths=tuple(float(widths[i]) if i in sent else 0.0 for i in range(len(shards))),
        loss=float(np.average([u.loss for u in kept], weights=[u.weight for u in kept])),
        parameters_sent=scheme.sent(after, updates) if scheme.sent else count,
        left_out=tuple(u.participant for u, fine in zip(updates, finite, strict=True) if not fine),
        updates=tuple(updates),
        before=networks_own(state),
        scores=given.scores,
        state=after,
    )
    return found, after


def standalone(
    build: Build, shards: Sequence[Shard], recipe: Recipe, *, count: int | None = None, progress: bool = True
) -> list[nn.Module]:
    """Train for each participant the full network it could have had alone.

    Everyone starts from the same initial network and takes rounds x local steps of its own, as many as it takes
    when training together; its shard is all it ever sees.

    Example:
        >>> import aequa_lite as aq
        >>> recipe = aq.Recipe(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.homogeneous(aq.load("fashion-mini").train, recipe)
        >>> len(standalone(aq.MLP, shards, recipe, progress=False))
        2

    Source: the stand-alone accuracy by which Aequa measures contribution (seen).
    """
    _one_each(shards, recipe)
    device = shards[0].samples.y.device
    theta = initial(build, recipe.seed, device)

    def alone(shard: Shard) -> nn.Module:
        draws = stream(recipe.seed, "alone", shard.participant)
        steps = recipe.rounds * recipe.local_steps
        update = local_sgd(build, theta, shard, 1.0, recipe, draws, draw=full_only, steps=steps)
        return slim(build, update.state, 1.0)

    with workers(count, device) as spread:
        return list(tqdm(spread(alone, shards), total=len(shards), desc="alone", disable=not progress))
