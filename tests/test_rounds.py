"""The final round, the best one and the mean of the last ones: on figures by hand, and on a short training."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from toys import quiet

import aequa_lite as aq
from aequa_lite.baselines import cgsv, fedrac
from aequa_lite.method import assess

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import rounds


def test_three_figures_of_seven_rounds_worked_by_hand() -> None:
    found = rounds.three(np.array([0.0, 0.9, 0.1, 0.2, 0.3, 0.4, 0.5]), "pearson")
    assert found == pytest.approx({"pearson_final": 0.5, "pearson_best_round": 0.9, "pearson_last_mean": 0.3})


def test_a_round_without_variance_has_no_pearson() -> None:
    rewards = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]])
    found = rounds.figures(rewards, alone=np.array([0.2, 0.3, 0.4]))
    assert found["pearson_best_round"] == pytest.approx(1.0)
    assert np.isnan(found["pearson_final"])
    assert (found["reward_final"], found["reward_best_round"], found["measured_rounds"]) == (0.5, 0.5, 2)


@pytest.mark.parametrize("algorithm", [cgsv, partial(fedrac, widths=3)])
def test_the_last_rewards_are_those_of_the_method_and_the_earlier_ones_are_others(few, config, algorithm) -> None:
    config = replace(config, rounds=5)
    shards = aq.data.by_size(few.train, config, sizes=(40, 120, 360))
    problem = assess(aq.MLP, shards, config, few, progress=False)
    found = rounds.rewards_by_round(algorithm, problem, every=2)
    assert found.shape == (3, 3)  # after rounds 2, 4 and the last one
    assert found[-1].tolist() == pytest.approx(list(algorithm(problem, train=quiet).report.test_accuracy))
    assert not np.allclose(found[0], found[-1])
