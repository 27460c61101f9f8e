"""The theorems compared with the training loop: bounds, slopes, unbiased gradients, and each assumption broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import aequa_lite as aq
from aequa_lite.local import logit_offsets
from aequa_lite.slimmable import prefix, slice_of
from aequa_lite.theory import (
    LEAST_LOSS,
    Bound,
    Changes,
    Distribution,
    GemanMcClure,
    LeastSquares,
    LinearFederation,
    Logistic,
    Moments,
    bias_bound,
    changing_widths,
    distribution_of,
    drift,
    gap_bound,
    logits_of,
    momentum_bound,
    recorded_steps,
    regression,
    sampled_from,
    stationarity_bound,
)

PLAIN = {"momentum": 0.0, "lr_final": 1.0, "batch": 16}
FOUR = (1.0, 0.75, 0.5, 0.25)
SAMPLERS = [aq.full_only, aq.one_random, aq.full_and_random, aq.sandwich]


def one_of_four(widest: float) -> Distribution:
    return [((v * widest,), 0.25) for v in FOUR]


def every_width(widest: float) -> Distribution:
    return [(tuple(v * widest for v in FOUR), 1.0)]


def exact(sampler: Callable, config: aq.Config) -> Callable[[float], Distribution]:
    return lambda widest: distribution_of(sampler, config, widest)


def mean_moments(federation: LinearFederation, paths: list[np.ndarray]) -> Moments:
    """The mean of each moment over the runs, (rounds, steps)."""
    return Moments(*np.mean([tuple(federation.moments_along(path)) for path in paths], axis=0))


def measured_and_bound(federation: LinearFederation, seeds: int) -> tuple[float, Bound]:
    """The mean squared gradient over runs and local steps, and its bound."""
    paths = [federation.run(seed) for seed in range(seeds)]
    m, c = mean_moments(federation, paths), federation.config
    gap = federation.gap(federation.average(paths[0][0]))
    bound = stationarity_bound(
        gap, c.lr, federation.smoothness, noise=m.noise, scatter=m.scatter, heterogeneity=m.heterogeneity,
        rounds=c.rounds, steps=c.local_steps, dissimilarity=federation.dissimilarity, convex=federation.model.convex,
    )  # fmt: skip
    return float(m.squared_gradient.mean()), bound


def slope(x: object, y: object) -> float:
    """The slope of the straight line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def test_one_local_step_has_no_drift_and_the_bound_of_plain_sgd() -> None:
    assert drift(0.3, 1.0, 5.0, 7.0, steps=1).tolist() == [0.0]
    bound = stationarity_bound(2.0, 0.1, 3.0, noise=0.5, scatter=9, heterogeneity=9, rounds=50, steps=1)
    assert bound.total == pytest.approx(2 * 2.0 / (0.1 * 50) + 0.1 * 3.0 * 0.5)


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_recursion_of_the_drift_is_below_its_closed_form(steps: int, convex: bool) -> None:
    lr, smoothness, scatter, apart = 1 / 40, 2.0, 3.0, 5.0  # lr * smoothness * (steps - 1) <= 1
    noise, heterogeneity = (1.0, 1 / 3) if convex else (np.e**2, (np.e - 1) ** 2 / 3)
    closed = lr**2 * (steps - 1) * (noise * scatter + heterogeneity * (2 * steps - 1) * apart)
    assert drift(lr, smoothness, scatter, apart, steps, convex=convex).mean() <= closed + 1e-15


ALLOWED = {"lr": 0.5, "smoothness": 2.0, "noise": 0.0, "scatter": 0.0, "heterogeneity": 0.0, "rounds": 3, "steps": 2}


@pytest.mark.parametrize("bound", [stationarity_bound, partial(gap_bound, curvature=1.0)])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"lr": 0.6}, r"`lr` must be a number in \(0, 0.5\], got 0.6"),
        ({"lr": 0.0}, "`lr` must be a number above 0, got 0.0"),
        ({"lr": float("nan")}, r"`lr` must be a number (in \(0, 0.5\]|above 0), got nan"),
        ({"smoothness": -1.0}, "`smoothness` must be a number above 0, got -1.0"),
        ({"steps": 0}, "`steps` must be a whole number from 1, got 0"),
        ({"steps": 2.0}, "`steps` must be a whole number from 1, got 2.0"),
        ({"rounds": True}, "`rounds` must be a whole number from 1, got True"),
        ({"gap": -0.1}, "`gap` must be a number from 0, got -0.1"),
        ({"dissimilarity": -1.0}, "`dissimilarity` must be finite numbers from 0, got -1.0"),
        ({"convex": "yes"}, "`convex` must be True or False, got 'yes'"),
        ({"noise": -1.0}, "`noise` must be finite numbers from 0, got -1.0"),
        ({"scatter": float("nan")}, "`scatter` must be finite numbers from 0, got nan"),
        ({"heterogeneity": [1.0, 2.0, 3.0]}, r"`heterogeneity` must be a number or an array of shape \(3, 2\), got"),
        ({"noise": "none"}, r"`noise` must be (a number or an array of shape \(3, 2\)|numbers), got 'none'"),
    ],
)
def test_a_bound_is_refused_where_nothing_is_proved(bound: Callable, wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        bound(**{"gap": 1.0, **ALLOWED, **wrong})


@pytest.mark.parametrize("model", [LeastSquares, GemanMcClure, Logistic])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_mean_step_of_the_code_is_the_gradient_of_the_width_averaged_loss(model: type, sampler: Callable) -> None:
    config = aq.Config(participants=1, local_steps=1, rounds=1, lr=1.0, min_width=0.1, **PLAIN)
    federation = regression(config, exact(sampler, config), model=model)
    theta = aq.stream(0, "anywhere").normal(size=8)
    state, (shard,) = {"weight": torch.from_numpy(theta)}, federation.shards
    steps = []
    for chosen, probability in federation.distribution(1.0):
        update = aq.local_sgd(
            federation.build, state, shard, 1.0, config, aq.stream(0, "x"), width_sampler=lambda *_, w=chosen: w
        )
        steps.append(probability * (theta - update.state["weight"].numpy()))
    np.testing.assert_allclose(np.sum(steps, axis=0), federation.gradient(theta), atol=1e-9)


def test_the_constants_are_those_of_the_objective() -> None:
    config = aq.Config(participants=3, **PLAIN)
    federation = regression(config, one_of_four, scales=(0.5, 1.0, 2.0), widths=(0.25, 0.5, 1.0))
    theta, other = aq.stream(0, "two points").normal(size=(2, 8))
    ends = [federation.objective(theta + e * (other - theta)) for e in (-1e-4, 1e-4)]
    assert (ends[1] - ends[0]) / 2e-4 == pytest.approx(federation.gradient(theta) @ (other - theta), rel=1e-6)
    root = np.sqrt(federation.coverage)
    gap, steep = federation.gap(theta), float(((federation.gradient(theta) / root) ** 2).sum())
    assert 2 * federation.curvature * gap <= steep <= 2 * federation.smoothness * gap
    assert federation.dissimilarity <= federation.smoothness * (1 + 1e-12)
    states = aq.stream(0, "apart").normal(size=(3, 8)) * federation.holds
    each, middle = federation.gradients(states), federation.average(states)
    missed = ((federation.gradient(middle) - federation.a @ each) / root) ** 2
    moved = federation.a @ ((states - federation.holds * middle) ** 2).sum(1)
    assert missed.sum() <= federation.dissimilarity**2 * moved * (1 + 1e-9)


@pytest.mark.parametrize("batch", [16, 4])
def test_the_variance_is_that_of_many_steps(batch: int) -> None:
    config = aq.Config(participants=1, local_steps=1, rounds=1, lr=1.0, **{**PLAIN, "batch": batch})
    federation = regression(config, one_of_four, correlation=0.4)
    theta, (shard,), rng = np.full(8, 0.5), federation.shards, aq.stream(0, "many")
    state, sampler = {"weight": torch.from_numpy(theta)}, sampled_from(one_of_four)
    steps = [
        aq.local_sgd(federation.build, state, shard, 1.0, config, rng, width_sampler=sampler).state["weight"].numpy()
        for _ in range(800)
    ]
    assert np.var(steps, axis=0).sum() == pytest.approx(federation.variances(theta[None])[0].sum(), rel=0.15)


@pytest.mark.parametrize("model", [LeastSquares, Logistic])
@pytest.mark.parametrize("sampler", [aq.one_random, aq.full_and_random, aq.sandwich])
@pytest.mark.parametrize("widths", [None, (0.25, 0.5, 1.0, 1.0)])
def test_the_measured_gradient_stays_under_the_bound_and_near_it(
    model: type, sampler: Callable, widths: object
) -> None:
    lr = 0.2 if model is LeastSquares else 1.0
    config = aq.Config(participants=4, rounds=20, local_steps=4, lr=lr, min_width=0.1, **{**PLAIN, "batch": 8})
    measured, bound = measured_and_bound(
        regression(config, exact(sampler, config), model=model, heterogeneity=0.3, widths=widths), seeds=4
    )
    assert measured <= bound.total <= 10 * measured  # a bound, and an informative one


@pytest.mark.parametrize("sampler", [aq.one_random, aq.sandwich])
@pytest.mark.parametrize("widths", [None, (0.25, 0.5, 1.0, 1.0)])
def test_a_loss_that_is_not_convex_stays_under_its_bound(sampler: Callable, widths: object) -> None:
    config = aq.Config(participants=4, rounds=20, local_steps=4, lr=0.2, min_width=0.1, **{**PLAIN, "batch": 8})
    federation = regression(config, exact(sampler, config), model=GemanMcClure, heterogeneity=0.3, widths=widths)
    measured, bound = measured_and_bound(federation, seeds=3)
    second = np.linalg.eigvalsh(np.einsum("isd,ise->ide", federation.x, federation.x) / 16)[:, -1].max()
    assert measured <= bound.total <= 20 * measured
    assert (
        bound.total < 0.5 * 27 / 256 * second
    )  # what every gradient obeys, as the slope of the loss is at most sqrt(27) / 16


def test_the_second_derivative_of_a_loss_that_is_not_convex_has_both_signs() -> None:
    residual = np.linspace(-5, 5, 10_001)  # 0 and 1 are among them
    slopes, apart = GemanMcClure.derivative(residual, 0.0), 1e-6
    second = (GemanMcClure.derivative(residual + apart, 0.0) - GemanMcClure.derivative(residual - apart, 0.0)) / 2e-6
    assert (second.max(), second.min()) == pytest.approx((1.0, -0.25), abs=1e-6)
    assert GemanMcClure.max_second_derivative == 1.0
    assert (slopes**2).max() == pytest.approx(27 / 256, rel=1e-6)
    assert GemanMcClure.loss(residual, 0.0).min() == GemanMcClure.least_loss
    with pytest.raises(ValueError, match="`model` must be convex, or its minimum is not known"):
        _ = replace(ONE, model=GemanMcClure).minimizer


def one_feature(targets: list[float], weights: object = None, **settings: object) -> LinearFederation:
    """Participants with one sample each: a step has no noise."""
    config = aq.Config(participants=len(targets), **{**PLAIN, **settings})
    y = np.array(targets)[:, None]
    return LinearFederation(GemanMcClure, np.ones((*y.shape, 1)), y, config, lambda w: [((w,), 1.0)], weights=weights)


def only_start() -> LinearFederation:
    return one_feature([1.0], rounds=30, local_steps=1, lr=0.2)


def only_noise() -> LinearFederation:
    config = aq.Config(participants=1, rounds=200, local_steps=1, lr=0.5, **{**PLAIN, "batch": 1})
    one = regression(config, lambda w: [((w,), 0.5), ((w / 2,), 0.5)], model=GemanMcClure, features=2, heterogeneity=0)
    return replace(one, start=replace(one, model=LeastSquares).minimizer)


def only_drift() -> LinearFederation:
    apart = one_feature([1.2, -0.2], (1.0, 2.0), rounds=60, local_steps=3, lr=1.0)
    return replace(apart, start=[-0.11])  # where the gradient is almost 0


@pytest.mark.parametrize("make", [only_start, only_noise, only_drift])
def test_without_any_of_its_parts_the_bound_would_be_false(make: Callable) -> None:
    measured, bound = measured_and_bound(make(), seeds=2)
    part = getattr(bound, make.__name__.removeprefix("only_"))
    assert bound.total - part < 0.5 * measured
    assert measured <= bound.total <= 30 * measured


def test_the_drift_of_a_loss_that_is_not_convex_is_beyond_that_of_convex_losses() -> None:
    federation = one_feature([1.2, -1.2], rounds=1, local_steps=6, lr=0.5)  # beyond r = 0.6 the loss curves downwards
    path = federation.run()
    m = federation.moments_along(path)
    known = 0.5, federation.smoothness, m.scatter[0], m.heterogeneity[0], 6
    apart = np.array([federation.a @ ((s - federation.average(s)) ** 2).sum(1) for s in path[:-1]])
    assert (apart[2:] > 1.05 * drift(*known, convex=True)[2:]).all()
    assert (apart <= drift(*known, convex=False) + 1e-12).all()


FIXED = [(1.0, 1.0, 0.5, 0.25)]
TURNS = [(1.0, 0.25, 0.25, 0.25), (0.25, 1.0, 0.5, 0.25), (0.5, 0.25, 0.5, 0.5)]  # in the last, nobody holds all


def changing(
    federation: LinearFederation, schedule: list, seeds: int, server: object = None
) -> tuple[float, Bound, list[Changes]]:
    """The mean squared gradient of the rounds' own objectives, its bound, and the runs."""
    runs = [changing_widths(federation, schedule, seed, server=server) for seed in range(seeds)]
    m = Moments(*np.mean([tuple(run.moments) for run in runs], axis=0))
    c, one = federation.config, runs[0]
    bound = stationarity_bound(
        one.gap, c.lr, one.smoothness, noise=m.noise, scatter=m.scatter, heterogeneity=m.heterogeneity, rounds=c.rounds,
        steps=c.local_steps, dissimilarity=one.dissimilarity, convex=federation.model.convex,
        change=float(np.mean([run.change for run in runs])),
    )  # fmt: skip
    return float(m.squared_gradient.mean()), bound, runs


@pytest.mark.parametrize(("model", "lr"), [(LeastSquares, 0.2), (GemanMcClure, 0.4)])
@pytest.mark.parametrize("schedule", [TURNS * 8, TURNS + FIXED * 21], ids=["always", "at first"])
def test_widths_that_change_stay_under_their_bound(model: type, lr: float, schedule: list) -> None:
    config = aq.Config(participants=4, rounds=24, local_steps=3, lr=lr, **{**PLAIN, "batch": 8})
    federation = regression(config, one_of_four, model=model, heterogeneity=0.3)
    measured, bound, runs = changing(federation, schedule, seeds=2)
    assert measured <= bound.total <= 20 * measured
    assert all(run.change != 0 for run in runs)


def test_widths_that_stay_make_it_the_theorem_of_fixed_widths() -> None:
    config = aq.Config(participants=4, rounds=5, local_steps=3, lr=0.2, **{**PLAIN, "batch": 8})
    federation = regression(config, every_width, widths=FIXED[0])
    measured, bound, (run, *_) = changing(federation, FIXED * 5, seeds=2)
    known, other = measured_and_bound(federation, seeds=2)
    assert (measured, bound.total) == pytest.approx((known, other.total))
    assert run.change == pytest.approx(0, abs=1e-12)


def stay(state: aq.types.ServerState, theta: dict) -> aq.types.ServerState:
    """A server that learns nothing."""
    return state


@pytest.mark.parametrize(("schedule", "server"), [(TURNS * 10, None), (FIXED * 30, stay)])
def test_without_what_changes_of_widths_and_the_server_add_the_bound_would_be_false(
    schedule: list, server: Callable
) -> None:
    config = aq.Config(participants=4, rounds=30, local_steps=1, lr=0.4, **PLAIN)  # no noise and no drift
    federation = regression(config, every_width, heterogeneity=1.0)
    measured, bound, (run,) = changing(federation, schedule, seeds=1, server=server)
    assert bound.noise + bound.drift == pytest.approx(0, abs=1e-12)
    assert 2 * run.gap / (0.4 * 30) < 0.7 * measured
    assert measured <= bound.total <= 3 * measured


def test_logit_offsets_of_a_participant_whose_width_stays_change_with_the_widths_of_others() -> None:
    shares = [torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])]
    before, after = (logit_offsets(shares, (1.0, other), 1.0)[-1] for other in (0.5, 1.0))
    assert before[0] == after[0] == 1.0
    assert np.abs(np.subtract(before[1], after[1])).min() > 0.1


def replayed(federation: LinearFederation, beta: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean squared gradient at psi, the noise and the second moment of each step of a run with momentum."""
    config, drawn = replace(federation.config, momentum=beta, norm_limit=0.0, seed=seed), []

    def sampler(rng: np.random.Generator, widest: float, config: aq.Config) -> tuple[float, ...]:
        drawn.append(sampled_from(federation.distribution)(rng, widest, config))
        return drawn[-1]

    n, a, found = config.participants, federation.a, np.zeros((3, config.rounds, config.local_steps))
    powers = (1 - beta ** np.arange(config.local_steps, 0, -1)) / (1 - beta)
    strategy = aq.slimmable(federation.build, sampler)
    theta = np.zeros(federation.x.shape[2]) if federation.start is None else np.asarray(federation.start)
    for rnd in aq.federate(federation.build, federation.shards, config, strategy=strategy, workers=1, progress=False):
        widths = [drawn[i * config.local_steps : (i + 1) * config.local_steps] for i in range(n)]
        drawn.clear()
        states, memory, psi = np.tile(theta, (n, 1)), 0.0, theta
        for k in range(config.local_steps):
            each = [replace(federation, distribution=lambda _, w=w[k]: [(w, 1.0)]).gradients(states) for w in widths]
            g = np.array([each[i][i] for i in range(n)])
            found[:, rnd.index, k] = [
                (federation.gradient(psi) ** 2).sum(), federation.moments(states).noise, a @ (g**2).sum(1)
            ]  # fmt: skip
            memory = beta * memory + g
            states, psi = states - config.lr * memory, psi - config.lr * powers[k] * a @ g
        theta = rnd.theta["weight"].numpy()
        np.testing.assert_allclose(psi, theta, atol=1e-9)  # the loop's steps, and the end of the proof's path
    return found


def momentum_and_bound(federation: LinearFederation, beta: float, seeds: int) -> tuple[float, Bound]:
    """The weighted mean of the squared gradients along psi, and its bound."""
    squares, noise, second = np.mean([replayed(federation, beta, seed) for seed in range(seeds)], axis=0)
    c = federation.config
    weights = np.tile((1 - beta ** np.arange(c.local_steps, 0, -1)) / (1 - beta), (c.rounds, 1))
    gap = federation.gap(np.zeros(federation.x.shape[2]) if federation.start is None else federation.start)
    bound = momentum_bound(
        gap, c.lr, federation.smoothness, beta, noise=noise, second_moment=second, rounds=c.rounds, steps=c.local_steps
    )
    return float((weights * squares).sum() / weights.sum()), bound


def widest_and_another(widest: float) -> Distribution:
    return [((widest, v * widest), 0.25) for v in FOUR]


@pytest.mark.parametrize("beta", [0.5, 0.9])
@pytest.mark.parametrize(("model", "rounds"), [(LeastSquares, 20), (GemanMcClure, 60)])
def test_momentum_stays_under_its_bound(model: type, rounds: int, beta: float) -> None:
    config = aq.Config(participants=3, rounds=rounds, local_steps=3, lr=0.25 * (1 - beta), **PLAIN)
    federation = regression(config, widest_and_another, model=model, heterogeneity=0.3)
    measured, bound = momentum_and_bound(federation, beta, seeds=2)
    assert measured <= bound.total <= 20 * measured


@pytest.mark.parametrize("part", ["noise", "drift"])
def test_without_noise_or_drift_the_bound_of_momentum_would_be_false(part: str) -> None:
    n, lr, law = (1, 0.01, widest_and_another) if part == "noise" else (2, 0.1, both_halves)
    config = aq.Config(participants=n, rounds=100, local_steps=2 if n == 1 else 8, lr=lr, **PLAIN)
    federation = regression(config, law, features=2, scales=(1.0, 0.1)[:n], heterogeneity=2.0)
    federation = replace(federation, start=federation.minimizer)
    measured, bound = momentum_and_bound(federation, 0.5, seeds=2)
    assert bound.total - getattr(bound, part) < 0.8 * measured
    assert measured <= bound.total


def both_halves(widest: float) -> Distribution:
    return [((widest, 0.5 * widest), 1.0)]


def test_without_momentum_its_bound_starts_as_that_of_plain_steps() -> None:
    known = {"noise": 0.3, "rounds": 5, "steps": 4}
    plain = stationarity_bound(1.0, 0.1, 2.0, scatter=0.0, heterogeneity=0.0, **known)
    found = momentum_bound(1.0, 0.1, 2.0, 0.0, second_moment=1.0, **known)
    assert (found.start, found.noise) == pytest.approx((plain.start, plain.noise))
    assert found.drift == pytest.approx(4 * 4 * 0.01 * (0 + 1 + 4 + 9) / 4)  # k times the k steps before
    with pytest.raises(ValueError, match=r"`lr` must be a number in \(0, 0.05\], got 0.1"):
        momentum_bound(1.0, 0.1, 2.0, 0.9, second_moment=1.0, **known)


def test_the_gap_stays_under_its_bound_after_every_round() -> None:
    config = aq.Config(participants=4, rounds=30, local_steps=4, lr=0.1, min_width=0.1, **PLAIN)
    federation = regression(config, exact(aq.full_and_random, config), scales=(0.5, 0.8, 1.2, 1.5), correlation=0.1)
    paths = [federation.run(seed) for seed in range(4)]
    m = mean_moments(federation, paths)
    gaps = np.mean([[federation.gap(federation.average(s)) for s in path[::4]] for path in paths], axis=0)
    bound = gap_bound(
        gaps[0], config.lr, federation.smoothness, federation.curvature, noise=m.noise, scatter=m.scatter,
        heterogeneity=m.heterogeneity, rounds=30, steps=4, dissimilarity=federation.dissimilarity, convex=True,
    )  # fmt: skip
    assert (gaps <= bound + 1e-12).all()
    assert bound[-1] <= 100 * gaps[-1]


def test_the_noise_falls_with_the_participants_only_if_they_draw_independently() -> None:
    def noise(n: int, together: bool) -> float:
        config = aq.Config(participants=n, rounds=60, local_steps=1, lr=0.05, **PLAIN)
        one = regression(replace(config, participants=1), one_of_four, correlation=0.3)
        federation = replace(
            one, config=config, x=np.repeat(one.x, n, 0), y=np.repeat(one.y, n, 0), start=one.minimizer
        )
        if not together:
            return float(
                np.mean([federation.moments_along(federation.run(seed)).squared_gradient.mean() for seed in range(3)])
            )
        shared = iter(aq.stream(0, "shared").choice(FOUR, 60).repeat(n))
        strategy = aq.slimmable(federation.build, lambda *_: (float(next(shared)),))
        rounds = aq.federate(federation.build, federation.shards, config, strategy=strategy, workers=1, progress=False)
        return float(np.mean([(federation.gradient(rnd.theta["weight"].numpy()) ** 2).sum() for rnd in rounds]))

    few, many = ([noise(n, together) for together in (False, True)] for n in (1, 16))
    assert few[0] / many[0] == pytest.approx(16, rel=0.5)
    assert few[1] / many[1] == pytest.approx(1)


def test_the_drift_grows_with_the_square_of_further_steps_and_with_heterogeneity() -> None:
    def far(steps: int, apart: float) -> tuple[float, float, float]:
        config = aq.Config(participants=4, rounds=320 // steps, local_steps=steps, lr=0.02, **PLAIN)
        federation = regression(
            config, every_width, correlation=0.3, scales=(0.02, 0.02, 0.02, 1.0), heterogeneity=apart
        )
        federation = replace(federation, start=federation.minimizer)
        measured, bound = measured_and_bound(federation, seeds=1)
        return measured, bound.total, federation.moments(np.tile(federation.minimizer, (4, 1))).heterogeneity

    more = np.array([far(steps, 1.0) for steps in (2, 3, 5, 9, 17)])
    assert (more[:, 0] <= more[:, 1]).all()
    assert slope((1, 2, 4, 8, 16), more[:, 0]) == pytest.approx(2, abs=0.1)
    wider = np.array([far(5, apart) for apart in (0.5, 1.0, 2.0, 4.0)])
    assert slope(wider[:, 2], wider[:, 0]) == pytest.approx(1, abs=0.15)
    assert far(1, 1.0)[0] < 1e-12  # one local step stays at the minimum


def test_the_sandwich_has_less_variance_than_as_many_samples_of_its_mixture() -> None:
    rng = aq.stream(0, "gradients at widths")
    for _ in range(200):
        least, widest, *inner = rng.normal(size=(7, 5)) * rng.uniform(0.1, 3.0, (7, 1))
        middle = np.array(inner)
        sandwich = np.array([(least + widest + g) / 3 for g in middle])
        mixture = np.concatenate([middle, [least] * 5, [widest] * 5])  # a third each
        assert sandwich.var(0).sum() <= mixture.var(0).sum() / 3 + 1e-12


def test_widths_that_differ_bias_the_gradient_no_more_than_the_bound() -> None:
    config = aq.Config(participants=3, **PLAIN)
    widths = [(0.25,), (0.5,), (1.0,)]
    laws = {0.25: [(widths[0], 1.0)], 0.5: [(widths[0], 0.5), (widths[1], 0.5)], 1.0: [(w, 1 / 3) for w in widths]}
    federation = regression(config, laws.__getitem__, widths=(0.25, 0.5, 1.0), heterogeneity=2.0, correlation=0.3)
    shares = np.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3])
    mean = [(w, float(p)) for w, p in zip(widths, federation.a @ shares, strict=True)]
    unbiased = replace(federation, distribution=lambda widest: mean, widths=None)
    for seed in range(5):
        theta = aq.stream(seed, "theta").normal(size=8)
        at = [replace(unbiased, distribution=lambda widest, w=w: [(w, 1.0)]) for w in widths]
        each = np.array([one.gradients(np.tile(theta, (3, 1))) for one in at])  # (widths, participants, features)
        apart = np.sqrt(((each - each.mean(1, keepdims=True)) ** 2).sum(2).mean(1))
        bias = np.linalg.norm(federation.gradient(theta) - unbiased.gradient(theta))
        assert 1e-3 < bias <= bias_bound(shares, federation.a, apart)
    same = replace(federation, x=np.repeat(federation.x[:1], 3, 0), y=np.repeat(federation.y[:1], 3, 0))
    alike = replace(same, distribution=lambda widest: mean, widths=None)
    np.testing.assert_allclose(same.gradient(theta), alike.gradient(theta), atol=1e-12)  # the same data: no bias


def test_ordered_widths_of_a_linear_network_find_the_singular_directions() -> None:
    rng = aq.stream(0, "a matrix")
    left, right = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    matrix = left @ np.diag([3, 2.2, 1.5, 0.9, 0.3, 0.1]) @ right.T
    x = torch.from_numpy(np.sqrt(6) * np.concatenate([np.eye(6), matrix.T], 1))
    shard = aq.Shard(0, aq.Samples(x, torch.zeros(6, dtype=torch.int64), 2), np.arange(6))
    config = aq.Config(participants=1, rounds=1, local_steps=1500, lr=0.12, loss_power=0.0, **PLAIN)
    build = partial(aq.theory.TwoLayers, features=6, outputs=6, hidden=4)
    *_, last = aq.federate(
        build, [shard], config, strategy=aq.slimmable(build, lambda *_: FOUR), workers=1, progress=False
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


def test_partial_participation_adds_noise_that_the_bound_does_not_cover() -> None:
    """Broken: all take part. From the minimum, with one exact step a round, bound and gradient are 0 if they do."""
    config = aq.Config(participants=4, rounds=60, local_steps=1, lr=0.05, **PLAIN)
    federation = regression(config, exact(aq.full_only, config), correlation=0.3)
    federation = replace(federation, start=federation.minimizer)
    m = federation.moments(np.tile(federation.minimizer, (4, 1)))
    gap = federation.gap(federation.minimizer)
    assert m.noise == pytest.approx(0)
    assert m.heterogeneity > 1  # which does not matter to one step that all take
    bound = stationarity_bound(gap, 0.05, federation.smoothness, noise=m.noise, scatter=m.scatter,
                                  heterogeneity=m.heterogeneity, rounds=60, steps=1)  # fmt: skip

    def square(participation: float, lr: float = 0.05) -> float:
        strategy, found = aq.slimmable(federation.build, aq.full_only), []
        for seed in range(3):
            some = replace(config, participation=participation, lr=lr, rounds=int(3 / lr), seed=seed)
            rounds = aq.federate(
                federation.build, federation.shards, some, strategy=strategy, workers=1, progress=False
            )
            found += [(federation.gradient(rnd.theta["weight"].numpy()) ** 2).sum() for rnd in rounds]
        return float(np.mean(found))

    everybody, most, some = (square(share) for share in (1.0, 0.75, 0.25))
    assert everybody < 1e-12
    assert bound.total < 1e-12 < 1e-3 < some
    assert everybody < most < some  # the more participate, the less
    assert square(0.25, 0.0125) < 0.5 * some  # a smaller step size reduces it


class Kink(LeastSquares):
    """Two ReLUs, relu(z) + relu(-z) = |z|: its second derivative is 0 wherever it has one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x[:, :-1] @ self.weight - x[:, -1]
        return logits_of(torch.relu(z) + torch.relu(-z) + LEAST_LOSS)


def test_at_a_kink_no_step_size_is_small_enough() -> None:
    """Broken: smoothness. The measured curvature is 0, which allows every step size; the gradient never falls."""
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
        assert np.abs(path) == pytest.approx(lr / 2)  # it oscillates without end
        steps = np.diff([lr / 2, *path]) / lr
        bound = stationarity_bound(lr / 2, lr, 1e-9, noise=0, scatter=0, heterogeneity=0, rounds=400, steps=1)
        assert (steps**2).mean() == pytest.approx(1)
        assert bound.total < 0.01
        away = stationarity_bound(lr / 2, lr, 1 / lr, noise=0, scatter=0, heterogeneity=0, rounds=400, steps=1)
        assert away.total < 0.01  # nor does the largest curvature that the theorem allows


CONFIG = aq.Config(participants=2, **PLAIN)
ONE = regression(CONFIG, one_of_four)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"momentum": 0.9}, "`momentum` must be 0, as the theorems are about plain SGD, got 0.9"),
        ({"lr_final": 0.5}, "`lr_final` must be 1, as the theorems are about plain SGD, got 0.5"),
        ({"participation": 0.5}, "`participation` must be 1, as the theorems are about plain SGD, got 0.5"),
        ({"proximal": 0.1}, "`proximal` must be 0, as the theorems are about plain SGD, got 0.1"),
        ({"logit_adjustment": 1.0}, "`logit_adjustment` must be 0, as the theorems are about plain SGD, got 1.0"),
    ],
)
def test_a_config_outside_the_theorems_is_refused(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        regression(replace(CONFIG, **change), one_of_four)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": aq.MLP}, "`model` must be LeastSquares, GemanMcClure or Logistic, got"),
        ({"distribution": None}, "`distribution` must be a function, got None"),
        ({"x": ONE.x[0]}, r"`x and y` must be of shapes \(2, samples, features\) and \(2, samples\), got"),
        ({"y": ONE.y[:, 1:]}, r"`x and y` must be of shapes \(2, samples, features\) and \(2, samples\), got"),
        ({"x": ONE.x * np.nan}, "`x and y` must be finite numbers"),
        ({"widths": (0.5,)}, "`widths` must hold one entry for each of the 2 participants, got 1 entries"),
        ({"widths": (0.5, 1.5)}, r"`widths` must be a number in \(0, 1\], got 1.5"),
        ({"weights": (1.0, 0.0)}, "`weights` must be a number above 0, got 0.0"),
    ],
)
def test_data_that_are_no_federation_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(ONE, **change)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: gap_bound(1, curvature=0.0, **ALLOWED), r"`curvature` must be a number in \(0, 2\], got 0.0"),
        (lambda: gap_bound(1, curvature=2.1, **ALLOWED), r"`curvature` must be a number in \(0, 2\], got 2.1"),
        (lambda: drift(0.1, 0.0, 1, 1, 2), "`smoothness` must be a number above 0, got 0.0"),
        (lambda: drift(0.1, 1.0, [1, 2], 1, 3), r"`scatter` must be a number or an array of shape \(3,\), got"),
        (lambda: momentum_bound(1, 0.1, 2.0, 1.0, noise=0, second_moment=0, rounds=1, steps=1), "`momentum` must be"),
        (lambda: changing_widths(ONE, [(1.0, 1.0)]), "`schedule` must hold one entry for each of the"),
        (lambda: changing_widths(ONE, [(1.0,)] * CONFIG.rounds), "`widths` must hold one entry for each of the 2"),
        (lambda: bias_bound([0.5], [1.0], [1.0]), r"`shares` must be of shape \(1, 1\), as weights and spreads, got"),
        (lambda: bias_bound([[0.5]], [0.9], [1.0]), "`weights` must be numbers that sum to one, got"),
        (lambda: bias_bound([[0.5]], [1.0], [float("inf")]), "`spreads` must be finite numbers from 0, got"),
        (lambda: bias_bound("all", [1.0], [1.0]), "`shares` must be numbers, got 'all'"),
        (lambda: regression(CONFIG, one_of_four, features=0), "`features` must be a whole number from 1, got 0"),
        (lambda: regression(CONFIG, one_of_four, samples=7), "`samples` must be a whole number from 8, got 7"),
        (lambda: regression(CONFIG, one_of_four, correlation=1), r"`correlation` must be a number in \[0, 1\), got 1"),
        (lambda: regression(CONFIG, one_of_four, heterogeneity=-1), "`heterogeneity` must be a number from 0, got -1"),
        (lambda: regression(CONFIG, one_of_four, scales=[1.0]), "`scales` must hold one entry for each of the 2"),
        (lambda: regression(CONFIG, one_of_four, scales=[1.0, 0.0]), "`scales` must be a number above 0, got 0.0"),
        (lambda: LeastSquares(features=0), "`features` must be a whole number from 1, got 0"),
        (lambda: Logistic(features=2, start=[1.0]), "`start` must be 2 finite numbers, got"),
        (
            lambda: aq.theory.TwoLayers(features=2, outputs=0, hidden=1),
            "`outputs` must be a whole number from 1, got 0",
        ),
        (lambda: sampled_from(0.5), "`distribution` must be a function, got 0.5"),
        (lambda: sampled_from(lambda w: [((w,), 0.5)])(aq.stream(0), 1.0, CONFIG), "with probabilities that sum to 1"),
        (lambda: distribution_of("sandwich", CONFIG), "`width_sampler` must be a function, got"),
        (lambda: distribution_of(aq.sandwich, replace(CONFIG, widths_per_step=2)), "`widths_per_step` must be 1, for"),
        (lambda: distribution_of(aq.sandwich, CONFIG, 1.5), r"`widest` must be a number in \(0, 1\], got 1.5"),
        (lambda: recorded_steps(None, {}), r"`strategy` must be a Strategy, got None"),
        (
            lambda: recorded_steps(aq.slimmable(aq.MLP), []),
            r"`path` must be a mapping, each value tensors by name, got \[\]",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make: Callable, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_recorded_steps_refuse_a_config_with_memory() -> None:
    strategy, config = recorded_steps(aq.slimmable(ONE.build), {}), replace(CONFIG, momentum=0.9)
    with pytest.raises(ValueError, match="`config` must be without momentum and proximal term"):
        list(aq.federate(ONE.build, ONE.shards, config, strategy=strategy, progress=False))


def test_rounding_takes_nobody_from_a_bound() -> None:
    assert aq.allocation.at_bounds([0.1, 0.1, 0.2], 0.0, 0.9) == ((), (2,))


def test_drift_without_convexity_needs_no_small_step_and_with_it_does() -> None:
    assert (np.diff(aq.theory.drift(3.0, 1.0, 0.0, 1.0, 5)) > 0).all()
    with pytest.raises(ValueError, match="`lr` must be at most 2 / smoothness = 2 where losses are convex, got 3"):
        aq.theory.drift(3.0, 1.0, 0.0, 1.0, 5, convex=True)
    ones = aq.theory.drift(0.1, 1.0, np.ones((1, 3)), np.ones((2, 3)), 3)
    assert np.array_equal(ones, aq.theory.drift(0.1, 1.0, np.ones((2, 3)), np.ones((1, 3)), 3))
