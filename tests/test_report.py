"""What the report says follows from the models, and it warns before anybody is misled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import aequa_lite as aq


class Oracle(nn.Module):
    """A network that is right on a chosen set of pictures: it looks the answer up."""

    def __init__(self, samples: aq.Samples, right: np.ndarray) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        wrong = (samples.y + 1) % samples.classes
        answer = torch.where(torch.as_tensor(right), samples.y, wrong)
        self.known = {x.numpy().tobytes(): int(a) for x, a in zip(samples.x, answer)}
        self.classes = samples.classes

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.tensor([self.known.get(each.numpy().tobytes(), 0) for each in x])
        return nn.functional.one_hot(answers, self.classes).float()


def first(data: aq.Dataset, share: float) -> Oracle:
    """A network that is right on the first part of the test split."""
    return Oracle(data.test, np.arange(len(data.test)) < share * len(data.test))


def judged(few: aq.Dataset, own: list[float], paid: list[float], **more: object) -> aq.Report:
    config = aq.Config(participants=len(own))
    return aq.report([first(few, p) for p in paid], [first(few, o) for o in own], None, None, few, config, **more)


def test_accuracies_gains_and_measures_are_those_of_the_test_split(few: aq.Dataset) -> None:
    found = judged(few, [0.4, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.8])
    assert found.standalone == pytest.approx((0.4, 0.5, 0.6, 0.7))
    assert found.test_accuracy == pytest.approx((0.5, 0.6, 0.7, 0.8))
    assert found.fairness["pearson"] == pytest.approx(1.0)
    assert found.fairness["mcg"] == pytest.approx(0.1)
    assert found.fairness["cgs"] == pytest.approx(0.0, abs=1e-9)
    assert found.fairness["better_off"] == 1.0
    assert found.warnings == ()


def test_nobody_is_paid_by_bookkeeping(few: aq.Dataset) -> None:
    found = judged(few, [0.4, 0.8], [0.5, 0.6])
    assert found.test_accuracy[1] == pytest.approx(0.6)  # and not max(alone, reward)
    assert found.fairness["min_gain"] == pytest.approx(-0.2)
    assert found.fairness["worse_off"] == (1,)
    assert any("participant 1" in each and "below what it reached alone" in each for each in found.warnings)


def test_rewards_at_chance_and_rewards_alike_are_warned_of(few: aq.Dataset) -> None:
    found = judged(few, [0.05, 0.4, 0.5], [0.1, 0.55, 0.552])
    assert any("within noise of chance" in each for each in found.warnings)
    assert any("participants 1 and 2" in each for each in found.warnings)


def test_no_variance_is_null_with_words_and_not_nan(few: aq.Dataset, tmp_path: Path) -> None:
    found = judged(few, [0.5, 0.5], [0.6, 0.6])
    assert found.fairness["pearson"] is None
    assert "none (no variance" in aq.table(found)
    assert json.loads(found.save(tmp_path).read_text())["fairness"]["pearson"] is None


def test_a_report_survives_the_way_to_disk_and_back(few: aq.Dataset, tmp_path: Path) -> None:
    found = judged(few, [0.4, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.8], partition="by hand", seconds=1.5)
    assert found.save(tmp_path).name == "report.json"
    again = aq.Report.load(tmp_path)
    assert aq.table(again) == aq.table(found)
    assert again.standalone == found.standalone
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def test_the_whole_system_in_one_small_run(few: aq.Dataset, tmp_path: Path) -> None:
    config = aq.Config(participants=3, rounds=10, local_steps=8, batch=32)
    shards = aq.data.by_size(few.train, config, (20, 80, 400))
    build = aq.for_dataset(aq.MLP, few)
    *_, last = aq.federate(build, shards, config, progress=False)
    alone = aq.standalone(build, shards, config, progress=False)
    curve = aq.accuracy_curve(build, last.theta, few.validation, least=config.min_width)
    plan = aq.allocate(aq.accuracy(alone, few.validation), curve)
    rewards = [aq.slim(build, last.theta, w) for w in plan.widths]
    test_curve = aq.accuracy_curve(build, last.theta, few.test, grid=curve.widths)
    found = aq.report(rewards, alone, plan, curve, few, config, test_curve=test_curve)
    at = [int(np.flatnonzero(curve.widths == w)[0]) for w in plan.widths]
    assert found.test_accuracy == pytest.approx(tuple(test_curve.accuracy[at]), abs=1e-6)
    assert found.fairness["pearson_ceiling"] is not None
    assert found.parameters == tuple(aq.n_parameters(net) for net in rewards)
    for path, net in zip(aq.save_rewards(tmp_path, build, rewards, plan.widths, config), rewards):
        assert torch.equal(aq.load_reward(path)(few.test.x), net(few.test.x))


def test_another_number_of_models_is_refused(few: aq.Dataset) -> None:
    with pytest.raises(ValueError, match="models holds 1 and alone 2"):
        judged(few, [0.4, 0.5], [0.5])
