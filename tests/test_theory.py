"""What is proved, held against the loop that runs: bounds, slopes, unbiased gradients, and each assumption broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.slimmable import prefix, slice_of
from aequa_lite.theory.linear_models import LEAST_LOSS, _scores
from aequa_lite.theory.sampling import Distribution

PLAIN = {"momentum": 0.0, "lr_final": 1.0, "batch": 16}
FOUR = (1.0, 0.75, 0.5, 0.25)
DRAWS = [aq.full_only, aq.one_random, aq.full_and_random, aq.sandwich]


def one_of_four(widest: float) -> Distribution:
    return [((v * widest,), 0.25) for v in FOUR]


def every_width(widest: float) -> Distribution:
    return [(tuple(v * widest for v in FOUR), 1.0)]


def exact(draw: Callable, config: aq.Config) -> Callable[[float], Distribution]:
    return lambda widest: aq.theory.distribution_of(draw, config, widest)


def mean_moments(known: aq.theory.LinearFederation, paths: list[np.ndarray]) -> aq.theory.Moments:
    """The mean of each moment over the runs, (rounds, steps)."""
    return aq.theory.Moments(*np.mean([tuple(known.along(path)) for path in paths], axis=0))


def measured_and_bound(known: aq.theory.LinearFederation, seeds: int) -> tuple[float, aq.theory.Bound]:
    """The mean squared gradient over runs and local steps, and its bound."""
    paths = [known.run(seed) for seed in range(seeds)]
    m, r = mean_moments(known, paths), known.config
    gap = known.value(known.merged(paths[0][0])) - known.least[1]
    bound = aq.theory.stationarity_bound(
        gap, r.lr, known.smooth, noise=m.noise, scatter=m.scatter, heterogeneity=m.heterogeneity,
        rounds=r.rounds, steps=r.local_steps, unlike=known.unlike, convex=True,
    )  # fmt: skip
    return float(m.square.mean()), bound


def slope(x: object, y: object) -> float:
    """The slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def test_one_local_step_has_no_drift_and_its_bound_is_plain_sgds() -> None:
    assert aq.theory.drift(0.3, 1.0, 5.0, 7.0, steps=1).tolist() == [0.0]
    bound = aq.theory.stationarity_bound(2.0, 0.1, 3.0, noise=0.5, scatter=9, heterogeneity=9, rounds=50, steps=1)
    assert bound.total == pytest.approx(2 * 2.0 / (0.1 * 50) + 0.1 * 3.0 * 0.5)


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_recursion_of_the_drift_is_below_its_closed_form(steps: int, convex: bool) -> None:
    lr, smooth, scatter, apart = 1 / 40, 2.0, 3.0, 5.0  # lr * smooth * (steps - 1) <= 1
    noise, heterogeneity = (1.0, 1 / 3) if convex else (np.e**2, (np.e - 1) ** 2 / 3)
    closed = lr**2 * (steps - 1) * (noise * scatter + heterogeneity * (2 * steps - 1) * apart)
    assert aq.theory.drift(lr, smooth, scatter, apart, steps, convex=convex).mean() <= closed + 1e-15


@pytest.mark.parametrize(
    "bad", [{"lr": 0.6}, {"lr": 0.0}, {"smooth": -1.0}, {"steps": 0}, {"steps": 2.0}, {"lr": float("nan")}]
)
def test_a_bound_is_refused_where_nothing_is_proved(bad: dict) -> None:
    good = {"lr": 0.5, "smooth": 2.0, "noise": 0.0, "scatter": 0.0, "heterogeneity": 0.0, "rounds": 1, "steps": 1}
    with pytest.raises(ValueError, match=next(iter(bad)) + " is .* allowed is"):
        aq.theory.stationarity_bound(1.0, **{**good, **bad})


@pytest.mark.parametrize("net", [aq.theory.Squares, aq.theory.Logistic])
@pytest.mark.parametrize("draw", DRAWS)
def test_the_mean_step_of_the_code_is_the_gradient_of_the_width_averaged_loss(net: type, draw: Callable) -> None:
    config = aq.Config(participants=1, local_steps=1, rounds=1, lr=1.0, min_width=0.1, **PLAIN)
    known = aq.theory.regression(config, exact(draw, config), net=net)
    theta = aq.stream(0, "anywhere").normal(size=8)
    state, (shard,) = {"weight": torch.from_numpy(theta)}, known.shards
    steps = []
    for chosen, chance in known.law(1.0):
        update = aq.local_sgd(
            known.build, state, shard, 1.0, config, aq.stream(0, "x"), width_sampler=lambda *_, w=chosen: w
        )
        steps.append(chance * (theta - update.state["weight"].numpy()))
    np.testing.assert_allclose(np.sum(steps, axis=0), known.gradient(theta), atol=1e-9)


def test_the_constants_are_those_of_the_objective() -> None:
    config = aq.Config(participants=3, **PLAIN)
    known = aq.theory.regression(config, one_of_four, steepness=(0.5, 1.0, 2.0), given=(0.25, 0.5, 1.0))
    theta, other = aq.stream(0, "two points").normal(size=(2, 8))
    ends = [known.value(theta + e * (other - theta)) for e in (-1e-4, 1e-4)]
    assert (ends[1] - ends[0]) / 2e-4 == pytest.approx(known.gradient(theta) @ (other - theta), rel=1e-6)
    root = np.sqrt(known.mass)
    gap, steep = known.value(theta) - known.least[1], float(((known.gradient(theta) / root) ** 2).sum())
    assert 2 * known.curvature * gap <= steep <= 2 * known.smooth * gap
    assert known.unlike <= known.smooth * (1 + 1e-12)
    states = aq.stream(0, "apart").normal(size=(3, 8)) * known.held
    each, middle = known.gradients(states), known.merged(states)
    missed = ((known.gradient(middle) - known.a @ each) / root) ** 2
    moved = known.a @ ((states - known.held * middle) ** 2).sum(1)
    assert missed.sum() <= known.unlike**2 * moved * (1 + 1e-9)


@pytest.mark.parametrize("batch", [16, 4])
def test_the_variance_is_the_one_that_many_steps_have(batch: int) -> None:
    config = aq.Config(participants=1, local_steps=1, rounds=1, lr=1.0, **{**PLAIN, "batch": batch})
    known = aq.theory.regression(config, one_of_four, correlation=0.4)
    theta, (shard,), draws = np.full(8, 0.5), known.shards, aq.stream(0, "many")
    state, draw = {"weight": torch.from_numpy(theta)}, aq.theory.sampled_from(one_of_four)
    seen = [
        aq.local_sgd(known.build, state, shard, 1.0, config, draws, width_sampler=draw).state["weight"].numpy()
        for _ in range(800)
    ]
    said = known.variances(theta[None])[0].sum()
    assert np.var(seen, axis=0).sum() == pytest.approx(said, rel=0.15)


@pytest.mark.parametrize("net", [aq.theory.Squares, aq.theory.Logistic])
@pytest.mark.parametrize("draw", [aq.one_random, aq.full_and_random, aq.sandwich])
@pytest.mark.parametrize("given", [None, (0.25, 0.5, 1.0, 1.0)])
def test_the_measured_gradient_stays_under_the_bound_and_near_it(net: type, draw: Callable, given: object) -> None:
    lr = 0.2 if net is aq.theory.Squares else 1.0
    config = aq.Config(participants=4, rounds=20, local_steps=4, lr=lr, min_width=0.1, **{**PLAIN, "batch": 8})
    measured, bound = measured_and_bound(
        aq.theory.regression(config, exact(draw, config), net=net, apart=0.3, given=given), seeds=4
    )
    assert measured <= bound.total <= 10 * measured  # not below, and not so far above that it says nothing


def test_the_gap_stays_under_its_bound_after_every_round() -> None:
    config = aq.Config(participants=4, rounds=30, local_steps=4, lr=0.1, min_width=0.1, **PLAIN)
    known = aq.theory.regression(
        config, exact(aq.full_and_random, config), steepness=(0.5, 0.8, 1.2, 1.5), correlation=0.1
    )
    paths = [known.run(seed) for seed in range(4)]
    m = mean_moments(known, paths)
    gaps = np.mean([[known.value(known.merged(s)) - known.least[1] for s in path[::4]] for path in paths], axis=0)
    bound = aq.theory.gap_bound(
        gaps[0], config.lr, known.smooth, known.curvature, noise=m.noise, scatter=m.scatter,
        heterogeneity=m.heterogeneity, rounds=30, steps=4, unlike=known.unlike, convex=True,
    )  # fmt: skip
    assert (gaps <= bound + 1e-12).all()
    assert bound[-1] <= 100 * gaps[-1]


def test_the_noise_falls_with_the_participants_only_if_they_draw_apart() -> None:
    def noise(n: int, together: bool) -> float:
        config = aq.Config(participants=n, rounds=60, local_steps=1, lr=0.05, **PLAIN)
        one = aq.theory.regression(replace(config, participants=1), one_of_four, correlation=0.3)
        known = replace(one, config=config, x=np.repeat(one.x, n, 0), y=np.repeat(one.y, n, 0), start=one.least[0])
        if not together:
            return float(np.mean([known.along(known.run(seed)).square.mean() for seed in range(3)]))
        shared = iter(aq.stream(0, "shared").choice(FOUR, 60).repeat(n))
        strategy = aq.slimmable(known.build, lambda *_: (float(next(shared)),))
        rounds = aq.federate(known.build, known.shards, config, strategy=strategy, count=1, progress=False)
        return float(np.mean([(known.gradient(rnd.theta["weight"].numpy()) ** 2).sum() for rnd in rounds]))

    few, many = ([noise(n, together) for together in (False, True)] for n in (1, 16))
    assert few[0] / many[0] == pytest.approx(16, rel=0.5)
    assert few[1] / many[1] == pytest.approx(1)


def test_the_drift_grows_with_the_square_of_further_steps_and_with_heterogeneity() -> None:
    def far(steps: int, apart: float) -> tuple[float, float, float]:
        config = aq.Config(participants=4, rounds=320 // steps, local_steps=steps, lr=0.02, **PLAIN)
        known = aq.theory.regression(
            config, every_width, correlation=0.3, steepness=(0.02, 0.02, 0.02, 1.0), apart=apart
        )
        known = replace(known, start=known.least[0])
        measured, bound = measured_and_bound(known, seeds=1)
        return measured, bound.total, known.moments(np.tile(known.least[0], (4, 1))).heterogeneity

    more = np.array([far(steps, 1.0) for steps in (2, 3, 5, 9, 17)])
    assert (more[:, 0] <= more[:, 1]).all()
    assert slope((1, 2, 4, 8, 16), more[:, 0]) == pytest.approx(2, abs=0.1)
    wider = np.array([far(5, apart) for apart in (0.5, 1.0, 2.0, 4.0)])
    assert slope(wider[:, 2], wider[:, 0]) == pytest.approx(1, abs=0.15)
    assert far(1, 1.0)[0] < 1e-12  # one local step stays at the minimum


def test_the_sandwich_has_less_variance_than_as_many_draws_of_its_mixture() -> None:
    draws = aq.stream(0, "gradients at widths")
    for _ in range(200):
        least, widest, *inner = draws.normal(size=(7, 5)) * draws.uniform(0.1, 3.0, (7, 1))
        middle = np.array(inner)
        sandwich = np.array([(least + widest + g) / 3 for g in middle])
        mixture = np.concatenate([middle, [least] * 5, [widest] * 5])  # a third each
        assert sandwich.var(0).sum() <= mixture.var(0).sum() / 3 + 1e-12


def test_widths_that_differ_bias_the_gradient_no_more_than_the_bound() -> None:
    config = aq.Config(participants=3, **PLAIN)
    widths = [(0.25,), (0.5,), (1.0,)]
    laws = {0.25: [(widths[0], 1.0)], 0.5: [(widths[0], 0.5), (widths[1], 0.5)], 1.0: [(w, 1 / 3) for w in widths]}
    known = aq.theory.regression(config, laws.__getitem__, given=(0.25, 0.5, 1.0), apart=2.0, correlation=0.3)
    shares = np.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3])
    mean = [(w, float(p)) for w, p in zip(widths, known.a @ shares, strict=True)]
    unbiased = replace(known, law=lambda widest: mean, given=None)
    for seed in range(5):
        theta = aq.stream(seed, "theta").normal(size=8)
        at = [replace(unbiased, law=lambda widest, w=w: [(w, 1.0)]) for w in widths]
        each = np.array([one.gradients(np.tile(theta, (3, 1))) for one in at])  # (widths, participants, features)
        apart = np.sqrt(((each - each.mean(1, keepdims=True)) ** 2).sum(2).mean(1))
        bias = np.linalg.norm(known.gradient(theta) - unbiased.gradient(theta))
        assert 1e-3 < bias <= aq.theory.bias_bound(shares, known.a, apart)
    same = replace(known, x=np.repeat(known.x[:1], 3, 0), y=np.repeat(known.y[:1], 3, 0))
    alike = replace(same, law=lambda widest: mean, given=None)
    np.testing.assert_allclose(same.gradient(theta), alike.gradient(theta), atol=1e-12)  # the same data: no bias


def test_ordered_widths_of_a_linear_network_find_the_singular_directions() -> None:
    draws = aq.stream(0, "a matrix")
    left, right = (np.linalg.qr(draws.normal(size=(6, 6)))[0] for _ in range(2))
    matrix = left @ np.diag([3, 2.2, 1.5, 0.9, 0.3, 0.1]) @ right.T
    x = torch.from_numpy(np.sqrt(6) * np.concatenate([np.eye(6), matrix.T], 1))
    shard = aq.Shard(0, aq.Samples(x, torch.zeros(6, dtype=torch.int64), 2), np.arange(6))
    config = aq.Config(participants=1, rounds=1, local_steps=1500, lr=0.12, loss_power=0.0, **PLAIN)
    build = partial(aq.theory.TwoLayers, features=6, outputs=6, hidden=4)
    *_, last = aq.federate(
        build, [shard], config, strategy=aq.slimmable(build, lambda *_: FOUR), count=1, progress=False
    )
    u, s, vt = np.linalg.svd(matrix)
    first, second = last.theta["first"].numpy(), last.theta["second"].numpy()
    for k in range(1, 5):
        np.testing.assert_allclose(second[:, :k] @ first[:k], (u[:, :k] * s[:k]) @ vt[:k], atol=1e-2)
        assert abs(first[k - 1] @ vt[k - 1]) / np.linalg.norm(first[k - 1]) > 0.9999


@pytest.mark.parametrize("build", [aq.MLP, aq.LeNet])
def test_a_coalition_holds_no_entry_beyond_its_widest_members(build: Callable) -> None:
    theta = aq.init_params(build, seed=0)
    for seed in range(10):
        widths = aq.stream(seed, "coalition").uniform(0.05, 1, 3)
        for name, t in theta.items():
            pooled = torch.zeros_like(t)
            for width in widths:
                pooled[prefix(slice_of(build, theta, width)[name].shape)] = 1
            assert pooled.sum() == slice_of(build, theta, max(widths))[name].numel()


def test_who_is_away_brings_a_noise_that_the_bound_does_not_know() -> None:
    """Broken: all take part. From the minimum, one exact step a round: the bound is 0, and with all there so is the gradient."""
    config = aq.Config(participants=4, rounds=60, local_steps=1, lr=0.05, **PLAIN)
    known = aq.theory.regression(config, exact(aq.full_only, config), correlation=0.3)
    known = replace(known, start=known.least[0])
    m = known.moments(np.tile(known.least[0], (4, 1)))
    gap = max(known.value(known.least[0]) - known.least[1], 0.0)
    assert m.noise == pytest.approx(0)
    assert m.heterogeneity > 1  # which one step does not feel, as long as all take it
    bound = aq.theory.stationarity_bound(gap, 0.05, known.smooth, noise=m.noise, scatter=m.scatter,
                                  heterogeneity=m.heterogeneity, rounds=60, steps=1)  # fmt: skip

    def square(participation: float, lr: float = 0.05) -> float:
        strategy, found = aq.slimmable(known.build, aq.full_only), []
        for seed in range(3):
            some = replace(config, participation=participation, lr=lr, rounds=int(3 / lr), seed=seed)
            rounds = aq.federate(known.build, known.shards, some, strategy=strategy, count=1, progress=False)
            found += [(known.gradient(rnd.theta["weight"].numpy()) ** 2).sum() for rnd in rounds]
        return float(np.mean(found))

    everybody, most, some = (square(share) for share in (1.0, 0.75, 0.25))
    assert everybody < 1e-12
    assert bound.total < 1e-12 < 1e-3 < some
    assert everybody < most < some  # the more are there, the less
    assert square(0.25, 0.0125) < 0.5 * some  # and a shorter step is the remedy


class Kink(aq.theory.Squares):
    """Two ReLUs, relu(z) + relu(-z) = |z|: its second derivative is 0 wherever it has one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x[:, :-1] @ self.weight - x[:, -1]
        return _scores(torch.relu(z) + torch.relu(-z) + LEAST_LOSS)


def test_at_a_kink_no_step_is_short_enough() -> None:
    """Broken: smoothness. The curvature that can be measured is 0, so every step would do; the gradient never falls."""
    shard = aq.Shard(
        0, aq.Samples(torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64), torch.zeros(4).long(), 2), np.arange(4)
    )
    for lr in (0.1, 0.01):
        config = aq.Config(participants=1, rounds=400, local_steps=1, lr=lr, **PLAIN)
        build = partial(Kink, features=1, start=[lr / 2])  # a minimum half a step away
        strategy = aq.slimmable(build, aq.full_only)
        path = [
            rnd.theta["weight"].item() for rnd in aq.federate(build, [shard], config, strategy=strategy, progress=False)
        ]
        assert np.abs(path) == pytest.approx(lr / 2)  # from side to side, for ever
        steps = np.diff([lr / 2, *path]) / lr
        bound = aq.theory.stationarity_bound(lr / 2, lr, 1e-9, noise=0, scatter=0, heterogeneity=0, rounds=400, steps=1)
        assert (steps**2).mean() == pytest.approx(1)
        assert bound.total < 0.01
        away = aq.theory.stationarity_bound(
            lr / 2, lr, 1 / lr, noise=0, scatter=0, heterogeneity=0, rounds=400, steps=1
        )
        assert away.total < 0.01  # nor does the largest curvature that the theorem takes help


def test_a_recipe_outside_the_theorems_is_refused() -> None:
    with pytest.raises(ValueError, match="momentum set; allowed is plain SGD"):
        aq.theory.regression(aq.Config(participants=1), one_of_four)
    with pytest.raises(ValueError, match="widths_per_step is 2; allowed is 1"):
        aq.theory.distribution_of(aq.sandwich, aq.Config(widths_per_step=2))
    with pytest.raises(ValueError, match="curvature is 0.0"):
        aq.theory.gap_bound(1, 0.1, 1, 0.0, noise=0, scatter=0, heterogeneity=0, rounds=1, steps=1)
