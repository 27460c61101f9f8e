"""Widths that are earned while training: what leaves the server, how fast it may change, who ends where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.slim import prefix


@pytest.fixture
def recipe() -> aq.Recipe:
    """Four participants, a dozen short rounds."""
    return aq.Recipe(participants=4, rounds=12, local_steps=5, lr=0.03)


@pytest.fixture
def shards(few: aq.Data, recipe: aq.Recipe) -> list[aq.Shard]:
    """Shards of very different size."""
    return aq.power_law(few.train, recipe)


def by_own(few: aq.Data, **options: float) -> aq.earned_widths:
    """Widths by the accuracy of networks that were trained alone."""
    return aq.earned_widths(aq.own_accuracy(aq.MLP, few.validation), aq.MLP, few.validation, **options)


def rounds_of(few: aq.Data, shards, recipe, **options) -> Iterator[aq.Round]:
    """A federation whose widths are earned."""
    scheme = aq.with_own(aq.slimmable(aq.MLP), aq.MLP, steps=30, every=6)
    policy = options.pop("policy", None) or by_own(few)
    return aq.federate(aq.MLP, shards, recipe, scheme=scheme, policy=policy, progress=False, **options)


def test_nothing_leaves_the_server_that_lies_outside_a_participants_width(few, shards, recipe) -> None:
    inner, sent = aq.slimmable(aq.MLP), []

    def watched(state, participant, width):
        sent.append((participant, width, inner.broadcast(state, participant, width)))
        return sent[-1][2]

    rounds = list(aq.federate(aq.MLP, shards, recipe, scheme=replace(inner, broadcast=watched),
                              policy=aq.earned_widths(aq.alignment), progress=False))  # fmt: skip
    for k, rnd in enumerate(rounds):
        for participant, width, state in sent[4 * k : 4 * k + 4]:
            assert width == rnd.widths[participant]
            for name, t in aq.MLP(width).state_dict().items():
                assert torch.equal(state[name], rnd.before[name][prefix(t.shape)])
            assert set(state) == set(aq.MLP(width).state_dict())


def test_all_start_narrow_and_afterwards_somebody_always_holds_everything(few, shards, recipe) -> None:
    rounds = list(rounds_of(few, shards, recipe))
    assert all(set(rnd.widths) == {0.25} for rnd in rounds[:3])
    assert all(max(rnd.widths) == 1.0 for rnd in rounds[3:])
    assert all(min(rnd.widths) >= 0.03 for rnd in rounds)


def test_a_width_moves_by_no_more_than_a_step_but_for_the_one_that_must_be_full(few, shards, recipe) -> None:
    rounds = list(rounds_of(few, shards, recipe, policy=by_own(few, step=0.07)))
    for before, after in zip(rounds[:-1], rounds[1:], strict=True):
        far = [abs(a - b) > 0.07 + 1e-9 for a, b in zip(before.widths, after.widths, strict=True)]
        assert sum(far) <= 1
        assert all(after.widths[i] == 1.0 for i in np.flatnonzero(far))


def test_who_brings_more_ends_wider(few, shards, recipe) -> None:
    *_, last = rounds_of(few, shards, recipe)
    brought = np.array(last.scores)
    assert int(np.argmax(last.widths)) == int(np.argmax(brought))
    assert last.widths[int(np.argmin(brought))] == min(last.widths)


def test_a_run_that_was_killed_goes_on_to_the_same_bits(few, shards, recipe, tmp_path: Path) -> None:
    *_, whole = rounds_of(few, shards, recipe)
    path = tmp_path / "theta.safetensors"
    for rnd in rounds_of(few, shards, recipe, checkpoint=path):
        if rnd.index == 7:
            break
    rest = list(rounds_of(few, shards, recipe, checkpoint=path))
    assert rest[0].index == 8
    assert rest[-1].widths == whole.widths
    assert rest[-1].scores == whole.scores
    assert all(torch.equal(t, whole.theta[name]) for name, t in rest[-1].theta.items())


def test_a_score_stays_where_nothing_new_comes(few, shards, recipe) -> None:
    score = aq.own_accuracy(aq.MLP, few.validation)
    (first,) = list(rounds_of(few, shards, replace(recipe, rounds=1)))
    found = score(first.before, first, None)
    silent = replace(first, updates=tuple(replace(u, own=None) for u in first.updates))
    assert score(first.before, silent, found).tolist() == found.tolist()


def test_who_comes_late_starts_at_the_floor(few, shards, recipe) -> None:
    policy = aq.absent(by_own(few), {2}, range(6))
    rounds = list(rounds_of(few, shards, recipe, policy=policy))
    assert all(rnd.widths[2] == 0.0 for rnd in rounds[:6])
    assert rounds[6].widths[2] == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"floor": 0.0}, "floor is 0.0"), ({"start": 1.5}, "start is 1.5"), ({"step": -1.0}, "step is -1.0"),
     ({"warm_up": 0}, "warm_up is 0")],
)  # fmt: skip
def test_what_makes_no_schedule_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.earned_widths(aq.alignment, **options)
