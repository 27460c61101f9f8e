"""The report of a run: rewards measured on the test split."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ._check import checked
from ._io import (
    explaining,
    opened,
    parse_json,
    printable,
    read_limited,
    seal,
    tuples,
    write_whole,
)
from .allocation.exact import Plan
from .allocation.uncertainty import noise_ceiling
from .evaluation import Curve, accuracy_curve, correct
from .method import Outcome, Problem
from .metrics import measure
from .slimmable import n_parameters
from .types import Dataset, Shard

MEASURES = {
    "pearson": "Pearson",
    "pearson_interval": "  over participants, 95%",
    "pearson_noise_interval": "  over test samples, 95%",
    "pearson_ceiling": "  noise allows",
    "ideal_pearson_ceiling": "  on a perfect curve",
    "spearman": "Spearman",
    "mcg": "mean gain (MCG)",
    "cgs": "spread of gains (CGS)",
    "min_gain": "smallest gain",
}
MOST_BYTES = 1 << 26  # thousands of widths, a thousand participants


@checked
@dataclass(frozen=True)
class Report:
    """Hold everything about a run; the keys of `report.json`.

    Accuracies are fractions in [0, 1]. `contribution` is measured on the
    validation split, `standalone` and `test_accuracy` on the test split. A
    method without widths has `widths = None`. `plan` says why each has
    its width: the common gain, and what the plan's certificate proves.
    `identity` is what was trained, `rewarding` what changes rewards only.

    Example:
        >>> list(Report.__dataclass_fields__)[:3]
        ['config', 'data', 'partition']
    """

    config: Mapping[str, Any]
    data: Mapping[str, Any]
    partition: str
    method: str
    versions: Mapping[str, str]
    device: str
    seconds: float
    parameters_sent: int
    contribution: tuple[float, ...]
    standalone: tuple[float, ...]
    widths: tuple[float, ...] | None
    parameters: tuple[int, ...]
    predicted_accuracy: tuple[float, ...] | None
    test_accuracy: tuple[float, ...]
    fairness: Mapping[str, Any]
    curve: Mapping[str, Any] | None
    warnings: tuple[str, ...] = ()
    plan: Mapping[str, Any] | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    rewarding: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str) -> Path:
        """Write `report.json`, whole or not at all; return its path."""
        path = Path(folder) / "report.json"
        text = json.dumps(seal(asdict(self)), indent=1, allow_nan=False)
        write_whole(path, text + "\n")
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """Read the report of a folder.

        Raises:
            ValueError: There is none, it is damaged, or of version 0.1.
        """
        path = Path(folder) / "report.json"
        what = f"{path} is not a report that can be read"
        with explaining(what, OSError, TypeError, ValueError):
            read = parse_json(read_limited(path, MOST_BYTES))
            if not isinstance(read, dict) or "config" not in read:
                raise ValueError("it was written by aequa-lite 0.1")
            fields = {k: v for k, v in read.items() if k != "sha256"}
            found = cls(**tuples(fields))
            opened(read)
            return found


@checked
def report(outcome: Outcome) -> Report:
    r"""Measure the rewards on the test split.

    Gain $G_i = A_i - B_i$, with $A_i$ the reward's and $B_i$ the own
    model's test accuracy; $\mathrm{MCG} = \bar G$, $\mathrm{CGS} =
    \sqrt{\overline{(G - \bar G)^2}}$, Pearson between $B$ and $A$. The
    Pearson that sampling noise allows is simulated from the curve, and from
    a perfect curve (`ideal_`).

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> outcome = aq.aequa(aq.MLP, shards, config, data, progress=False)
        >>> report(outcome).method
        'aequa'

    References:
        MCG and CGS as in CYCle (formulas from memory); the rest is ours.
    """
    problem, curve = outcome.problem, outcome.curve
    plan, last, data = outcome.plan, outcome.last, problem.data
    own = _correct(problem.alone, data)  # (participants, samples)
    rewarded = _correct(outcome.models, data)  # (participants, samples)
    test = None
    if curve is not None:
        test = accuracy_curve(
            problem.build, last.theta, data.test,
            grid=curve.widths, fraction_grid=curve.fraction_grid,
        )  # fmt: skip
    fairness = measure(own, rewarded, seed=problem.config.seed)
    fairness |= _ceilings(own, test, data, problem.config.seed)
    worse_off = fairness["worse_off"]
    return Report(
        config=problem.config.to_dict(),
        data={
            "name": data.name, "sha256": data.sha256, "sizes": data.sizes,
            "labels": list(data.labels),
            "participants": owners(data, problem.shards),
            "samples": [len(shard) for shard in problem.shards],
        },
        partition=outcome.partition,
        method=outcome.method,
        versions=versions(),
        device=device_name(data.test.y.device),
        seconds=round(outcome.seconds, 1),
        parameters_sent=last.total_sent,
        contribution=_floats(problem.contribution),
        standalone=_floats(own.mean(1)),
        widths=plan and _floats(plan.widths),
        parameters=tuple(map(n_parameters, outcome.models)),
        predicted_accuracy=plan and _floats(plan.predicted_accuracy),
        test_accuracy=_floats(rewarded.mean(1)),
        fairness=fairness,
        curve=curve and _curve(curve, test),
        plan=plan and _plan(plan),
        warnings=(
            *_about_updates(last.total_left_out),
            *_about_contributions(problem, plan),
            *_about_rewards(own, rewarded, plan, data.classes, worse_off),
            *_about_plan(plan),
        ),
        identity=last.identity,
        rewarding=outcome.rewarding,
    )  # fmt: skip


def owners(data: Dataset, shards: Sequence[Shard]) -> list[str]:
    """The name of each participant; "" where its data has not one owner."""
    names, found = data.participants, []
    for shard in shards:
        groups = shard.samples.groups
        whose = [] if groups is None else groups.unique().tolist()
        one = len(whose) == 1 and whose[0] < len(names)
        found.append(names[whose[0]] if one else "")
    return found


def _correct(nets: Sequence[Any], data: Dataset) -> NDArray[np.bool_]:
    return np.stack([correct(net.eval(), data.test) for net in nets])


def _floats(values: Any) -> tuple[float, ...]:
    """Plain numbers with six digits."""
    return tuple(round(float(v), 6) for v in values)


def _ceilings(
    own: NDArray[np.bool_], test: Curve | None, data: Dataset, seed: int
) -> dict[str, Any]:
    """What a faultless allocation reaches, on this and a perfect curve."""
    if test is None or len(own) < 2:
        return {"pearson_ceiling": None}
    simulated = partial(
        noise_ceiling, own, test.correct, test.widths,
        validation_samples=len(data.validation),
        test_samples=len(data.test), seed=seed,
    )  # fmt: skip
    perfect = simulated(ideal=True)
    return simulated() | {f"ideal_{k}": v for k, v in perfect.items()}


def _curve(curve: Curve, test: Curve) -> dict[str, Any]:
    return {
        "widths": _floats(curve.widths),
        "validation": _floats(curve.accuracy),
        "test": _floats(test.accuracy),
        "standard_error": _floats(curve.standard_error),
    }


def _plan(plan: Plan) -> dict[str, Any]:
    """Why each has its width; None where a plan has no such number."""
    found = plan.certificate
    return {
        "tau": _finite(plan.tau),
        "value": _finite(found.value),
        "bound": _finite(found.bound),
        "exact": found.exact,
        "at_least": list(found.at_least),
        "at_full": list(found.at_full),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


# --- warnings: what a reader should know before trusting the table ---


def _about_updates(left_out: Sequence[int]) -> Iterator[str]:
    """Whose updates were refused, and how often."""
    for i in sorted(set(left_out)):
        times = left_out.count(i)
        yield f"participant {i}: its update was refused in {times} rounds"


def _about_contributions(
    problem: Problem, plan: Plan | None
) -> Iterator[str]:
    """Whether widths were chosen by contributions that may be equal."""
    b, samples = np.asarray(problem.contribution), len(problem.validation)
    error = float(np.sqrt(np.clip(b * (1 - b), 0, 1).mean() / samples))
    if plan is not None and b.std() < 3 * error:
        yield (
            "contributions differ by less than three standard errors of an "
            f"accuracy on {samples} validation samples ({error:.3f} each): "
            "who receives more may be chance"
        )


def _about_rewards(
    own: NDArray[np.bool_], rewarded: NDArray[np.bool_], plan: Plan | None,
    classes: int, worse_off: Sequence[int],
) -> Iterator[str]:  # fmt: skip
    """Whose reward is poor, and whose are alike."""
    accuracy, samples = rewarded.mean(1), rewarded.shape[1]
    variance = np.maximum(accuracy * (1 - accuracy), 1 / samples)
    error = np.sqrt(variance / samples)
    for i in np.flatnonzero(accuracy - 1 / classes < 2 * error):
        yield f"participant {i}: the reward is within noise of chance"
    below = "the reward is significantly below what it reached alone"
    for i in worse_off:
        yield f"participant {i}: {below}"
    alike = "their rewards are within noise of each other"
    for i, j in pairwise(np.argsort(own.mean(1), kind="stable")):
        apart = rewarded[j].astype(float) - rewarded[i]
        if plan is not None and plan.widths[i] == plan.widths[j]:
            yield f"participants {i} and {j}: the same reward"
        elif abs(apart.mean()) <= 2 * apart.std() / np.sqrt(samples):
            yield f"participants {i} and {j}: {alike}"


def _about_plan(plan: Plan | None) -> Iterator[str]:
    """What the plan's certificate says."""
    certificate = plan and plan.certificate
    if certificate and certificate.worse_off:
        yield certificate.statement
    if certificate and not certificate.covers:
        yield (
            "the curve spans less than the contributions do: lower "
            "min_width, or train longer"
        )
    if certificate and not certificate.top_reaches:
        yield (
            "the full network is below the best participant's own: train "
            "longer together"
        )


def versions() -> dict[str, str]:
    """The versions that the numbers depend on."""
    names = ("aequa-lite", "torch", "numpy", "scipy")
    found = {name: version(name) for name in names}
    return {"python": platform.python_version(), **found}


def device_name(device: torch.device) -> str:
    """The device's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {threads} threads)"


def _line(name: str, value: Any) -> str:
    """One measure of the report as text."""
    if value is None:
        return f"{name:<28} none (no variance, or too few participants)"
    many = value if isinstance(value, (list, tuple)) else [value]
    return f"{name:<28} {' to '.join(f'{v:.3f}' for v in many)}"


@checked
def table(found: Report) -> str:
    """Lay a report out as text.

    A line for each participant, then fairness measures and warnings.

    Example:
        >>> import aequa_lite as aq
        >>> data = aq.load("fashion-mini")
        >>> config = aq.Config(participants=2, rounds=1, local_steps=1)
        >>> shards = aq.data.homogeneous(data.train, config)
        >>> outcome = aq.aequa(aq.MLP, shards, config, data, progress=False)
        >>> table(aq.report(outcome)).split()[0]
        'participant'
    """
    n = len(found.standalone)
    names = found.data.get("participants") or [""] * n
    widths, predicted = (
        ["-"] * n if values is None else [f"{v:.3f}" for v in values]
        for values in (found.widths, found.predicted_accuracy)
    )
    lines = [
        "participant  contribution   width  parameters  predicted    test"
        "   alone    gain"
    ]
    for i in range(n):
        test, alone = found.test_accuracy[i], found.standalone[i]
        lines.append(
            f"{i:>11}  {found.contribution[i]:>12.3f}  {widths[i]:>6}  "
            f"{found.parameters[i]:>10,}  {predicted[i]:>9}  {test:>6.3f}  "
            f"{alone:>6.3f}  {test - alone:>+6.3f}"
            f"  {printable(names[i])}".rstrip()
        )
    measures = [
        _line(name, found.fairness.get(key))
        for key, name in MEASURES.items()
    ]
    warnings = [f"warning: {printable(each)}" for each in found.warnings]
    return "\n".join([*lines, "", *measures, "", *warnings]).rstrip()
