"""What the report says follows from the models, and it warns before anybody is misled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import aequa_lite as aq
from aequa_lite.experiments import tables
from aequa_lite.types import ServerState


class Oracle(nn.Module):
    """A network that is correct on a chosen set of pictures: it looks the label up."""

    def __init__(self, samples: aq.Samples, right: np.ndarray) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        wrong = (samples.y + 1) % samples.classes
        label = torch.where(torch.as_tensor(right), samples.y, wrong)
        self.known = {x.numpy().tobytes(): int(c) for x, c in zip(samples.x, label)}
        self.classes = samples.classes

    def forward(self, x: Tensor) -> Tensor:
        labels = torch.tensor([self.known.get(each.numpy().tobytes(), 0) for each in x])
        return nn.functional.one_hot(labels, self.classes).float()


def first(data: aq.Dataset, share: float) -> Oracle:
    """A network that is right on the first part of the test split."""
    return Oracle(data.test, np.arange(len(data.test)) < share * len(data.test))


def report_of(few: aq.Dataset, own: list[float], rewards: list[float], **more: object) -> aq.Report:
    config = aq.Config(participants=len(own))
    alone = [first(few, share) for share in own]
    shards = [aq.Shard(i, few.train, range(len(few.train))) for i in range(len(own))]
    problem = aq.Problem(aq.MLP, shards, config, few, alone, np.array(own))
    last = aq.Round(0, ServerState({}), (1.0,) * len(own), 0.1, 0)
    return aq.report(aq.Outcome(problem, [first(few, share) for share in rewards], last, **more))


def test_accuracies_gains_and_measures_are_those_of_the_test_split(few: aq.Dataset) -> None:
    found = report_of(few, [0.4, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.8])
    assert found.standalone == pytest.approx((0.4, 0.5, 0.6, 0.7))
    assert found.test_accuracy == pytest.approx((0.5, 0.6, 0.7, 0.8))
    assert found.fairness["pearson"] == pytest.approx(1.0)
    assert found.fairness["mcg"] == pytest.approx(0.1)
    assert found.fairness["cgs"] == pytest.approx(0.0, abs=1e-9)
    assert found.fairness["better_off"] == 1.0
    assert found.warnings == ()


def test_a_reward_is_never_replaced_by_the_own_model(few: aq.Dataset) -> None:
    found = report_of(few, [0.4, 0.8], [0.5, 0.6])
    assert found.test_accuracy[1] == pytest.approx(0.6)  # and not max(alone, reward)
    assert found.fairness["min_gain"] == pytest.approx(-0.2)
    assert found.fairness["worse_off"] == (1,)
    assert any("participant 1" in each and "below what it reached alone" in each for each in found.warnings)


def test_rewards_at_chance_and_rewards_alike_are_warned_of(few: aq.Dataset) -> None:
    found = report_of(few, [0.05, 0.4, 0.5], [0.1, 0.55, 0.552])
    assert any("within noise of chance" in each for each in found.warnings)
    assert any("participants 1 and 2" in each for each in found.warnings)


def test_no_variance_is_null_with_words_and_not_nan(few: aq.Dataset, tmp_path: Path) -> None:
    found = report_of(few, [0.5, 0.5], [0.6, 0.6])
    assert found.fairness["pearson"] is None
    assert "none (no variance" in aq.table(found)
    assert json.loads(found.save(tmp_path).read_text())["fairness"]["pearson"] is None


def test_a_report_survives_the_way_to_disk_and_back(few: aq.Dataset, tmp_path: Path) -> None:
    found = report_of(few, [0.4, 0.5, 0.6, 0.7], [0.5, 0.6, 0.7, 0.8], partition="by hand", seconds=1.5)
    assert found.save(tmp_path).name == "report.json"
    again = aq.Report.load(tmp_path)
    assert aq.table(again) == aq.table(found)
    assert again.standalone == found.standalone
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


def small(few: aq.Dataset) -> tuple[aq.Config, list[aq.Shard], object]:
    config = aq.Config(participants=3, rounds=6, local_steps=8, batch=32)
    return config, aq.data.by_size(few.train, config, (20, 80, 400)), aq.for_dataset(aq.MLP, few)


def same(one: aq.Report, other: aq.Report) -> bool:
    return replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_the_method_is_its_public_steps_to_the_bit(few: aq.Dataset) -> None:
    config, shards, build = small(few)
    outcome = aq.aequa(build, shards, config, few, progress=False)
    alone = aq.standalone(build, shards, config, progress=False)
    contribution = aq.accuracy(alone, few.validation)
    weights = aq.aggregation_weights(shards, config, contribution)
    *_, last = aq.federate(build, shards, config, weights=weights, progress=False)
    curve = aq.reward_curve(build, last.theta, few.validation, config)
    plan = aq.allocate(contribution, curve, individually_rational=True)
    models = [aq.model_at(build, last.theta, curve, w) for w in plan.widths]
    problem = aq.Problem(build, shards, config, few, alone, contribution)
    by_steps = aq.report(aq.Outcome(problem, models, last, curve, plan, rewarding=outcome.rewarding))
    assert same(by_steps, outcome.report)
    assert json.dumps(by_steps.identity) == json.dumps(outcome.report.identity)
    for mine, theirs in zip(models, outcome.models, strict=True):
        assert all(torch.equal(t, theirs.state_dict()[k]) for k, t in mine.state_dict().items())


def test_every_step_can_be_replaced_by_a_function(few: aq.Dataset) -> None:
    config, shards, build = small(few)
    base = aq.aequa(build, shards, config, few, progress=False)
    ways = {
        "allocation": aq.allocation.proportional,
        "contribution": [0.2, 0.3, 0.4],
        "width_sampler": aq.full_only,
        "server": aq.aggregation.fedavgm(0.5),
        "aggregate": aq.aggregation.coordinate_median,
        "schedule": aq.training_time(0.0),
    }
    for name, value in ways.items():
        other = aq.aequa(build, shards, config, few, alone=base.problem.alone, progress=False, **{name: value})
        assert not same(other.report, base.report), name
        trained = name not in ("allocation",)
        assert (other.report.identity != base.report.identity) == trained, name
    finer = aq.aequa(build, shards, replace(config, fractions=8), few, alone=base.problem.alone, progress=False).report
    assert finer.identity == base.report.identity
    assert finer.rewarding != base.report.rewarding


def test_rewards_are_what_the_curve_states(few: aq.Dataset, tmp_path: Path) -> None:
    config, shards, build = small(few)
    outcome = aq.aequa(build, shards, config, few, progress=False)
    found, plan, curve = outcome.report, outcome.plan, outcome.curve
    at = np.searchsorted(curve.widths, plan.widths)
    nets = aq.accuracy(outcome.models, few.validation)
    assert nets.tolist() == pytest.approx(curve.accuracy[at].tolist())
    assert found.fairness["pearson_ceiling"] is not None
    assert found.fairness["ideal_pearson_ceiling"] >= found.fairness["pearson_ceiling"] - 0.02
    lines = {line[:28].strip(): line[28:].strip() for line in aq.table(found).splitlines()}
    assert lines["on a perfect curve"] == f"{found.fairness['ideal_pearson_ceiling']:.3f}"
    assert lines["Spearman"] == f"{found.fairness['spearman']:.3f}"
    assert found.parameters == tuple(aq.n_parameters(net) for net in outcome.models)


def test_another_number_of_models_is_refused(few: aq.Dataset) -> None:
    with pytest.raises(ValueError, match="`models` must hold one entry for each of the 2 participants, got 1"):
        report_of(few, [0.4, 0.5], [0.5])
    shards = [aq.Shard(i, few.train, range(len(few.train))) for i in range(3)]
    with pytest.raises(ValueError, match="`contribution` must"):
        aq.Problem(aq.MLP, shards, aq.Config(participants=3), few, [aq.MLP()] * 3, np.array([0.5]))


def test_a_row_of_a_table_says_on_validation_whether_a_run_is_informative(few: aq.Dataset) -> None:
    found = report_of(few, [0.5, 0.5, 0.5], [0.6, 0.7, 0.8])  # alike on the test split
    row = tables._figures(replace(found, contribution=(0.2, 0.5, 0.8)))
    assert row["informative"] is True
    assert tables._figures(found)["informative"] is False
    assert tables._figures(replace(found, contribution=(-0.2, 0.5, 0.8)))["informative"] is None  # no accuracies
    assert row["non_inferior"] == 3
    assert row["ideal_pearson_ceiling"] is None  # a method without widths has no curve
    older = {k: v for k, v in found.fairness.items() if k not in ("non_inferior", "spearman")}
    assert tables._figures(replace(found, fairness=older))["non_inferior"] is None


def test_a_report_says_why_each_has_its_width_and_when_contributions_are_within_noise(few: aq.Dataset) -> None:
    config = aq.Config(participants=2, rounds=1, local_steps=1)
    shards = aq.data.homogeneous(few.train, config)
    for contribution, noisy in (([0.5, 0.5 + 1e-3], True), ([0.2, 0.9], False)):
        outcome = aq.aequa(aq.for_dataset(aq.MLP, few), shards, config, few, contribution=contribution, progress=False)
        found, plan = aq.report(outcome), outcome.plan
        assert found.plan["tau"] == plan.tau
        assert found.plan["exact"] is plan.certificate.exact
        assert any("who receives more may be chance" in each for each in found.warnings) == noisy
        assert found.data["samples"] == [len(shard) for shard in shards]


@pytest.mark.parametrize("allocation", [None, aq.allocation.proportional, aq.allocation.capped, "schedule"])
def test_the_report_of_every_kind_of_plan_can_be_written_and_read(
    few: aq.Dataset, tmp_path: Path, allocation: object
) -> None:
    config = aq.Config(participants=2, rounds=2, local_steps=1)
    shards, build = aq.data.homogeneous(few.train, config), aq.for_dataset(aq.MLP, few)
    options: dict = {} if allocation is None else {"allocation": allocation}
    options = {"schedule": aq.training_time(0.02)} if allocation == "schedule" else options
    found = aq.aequa(build, shards, config, few, progress=False, **options).report
    found.save(tmp_path)
    assert aq.Report.load(tmp_path).plan == found.plan
