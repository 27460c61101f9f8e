"""What a run is judged by: contribution, plan, curve and models put together on data the plan never saw."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ._io import atomic_write, error_text, parse_json, read_limited
from .allocation.exact import Plan
from .allocation.uncertainty import noise_ceiling
from .config import Config
from .evaluation import Curve, correct
from .metrics import measure
from .slimmable import n_parameters
from .types import Dataset

__all__ = ["Report", "report", "table"]


def report(
    models: Sequence[nn.Module],
    alone: Sequence[nn.Module],
    plan: Plan | None,
    curve: Curve | None,
    data: Dataset,
    config: Config,
    *,
    test_curve: Curve | None = None,
    contribution: Sequence[float] | None = None,
    partition: str = "",
    method: str = "aequa",
    seconds: float = 0.0,
    parameters_sent: int = 0,
    left_out: Sequence[int] = (),
) -> Report:
    r"""Judge the rewarded models on the test split.

    Gain $G_i = A_i - B_i$ with $A_i$ the reward's and $B_i$ the own network's test accuracy; $\mathrm{MCG} = \bar G$,
    $\mathrm{CGS} = \sqrt{\overline{(G - \bar G)^2}}$, Pearson between $B$ and $A$. ``models`` and ``alone``: the rewards and
    the networks trained alone; ``curve``: measured on the validation split; ``test_curve``: the same widths on the test
    split, from which the Pearson that noise allows is simulated. A method without widths has ``plan`` and ``curve`` None.
    ``left_out``: a participant for each of its answers that was not finite (``Round.left_out``).

    Raises:
        ValueError: the numbers of models and of networks trained alone differ.

    Example:
        >>> import aequa_lite as aq
        >>> data, nets = aq.load("fashion-mini"), [aq.MLP(), aq.MLP(0.5)]
        >>> found = report(nets, nets, None, None, data, aq.Config(participants=2))
        >>> found.fairness["mcg"], found.widths
        (0.0, None)

    Source: MCG and CGS from CYCle (formulas from memory); the rest is ours.
    """
    if len(models) != len(alone):
        raise ValueError(
            f"models holds {len(models)} and alone {len(alone)}; allowed is one of each for each participant"
        )
    own = np.stack([correct(net.eval(), data.test) for net in alone])  # (participants, samples)
    paid = np.stack([correct(net.eval(), data.test) for net in models])  # (participants, samples)
    if contribution is None:
        contribution = [float(correct(net.eval(), data.validation).mean()) for net in alone]
    fairness = {**measure(own, paid, seed=config.seed), **_ceiling(own, test_curve, data, config)}
    return Report(
        config=config.to_dict(),
        data={"name": data.name, "sha256": data.sha256, "sizes": data.sizes},
        partition=partition,
        method=method,
        versions=versions_of_run(),
        device=device_in_words(data.test.y.device),
        seconds=round(float(seconds), 1),
        parameters_sent=int(parameters_sent),
        contribution=_floats(contribution),
        standalone=_floats(own.mean(1)),
        widths=None if plan is None else _floats(plan.widths),
        parameters=tuple(n_parameters(net) for net in models),
        predicted_accuracy=None if plan is None else _floats(plan.predicted_accuracy),
        test_accuracy=_floats(paid.mean(1)),
        fairness=fairness,
        curve=None if curve is None else _curve_dict(curve, test_curve),
        warnings=(*_spoilt(left_out), *_warnings(own, paid, plan, data.classes, fairness)),
    )


def _floats(values: Any) -> tuple[float, ...]:
    """Plain numbers with six digits, as they stand in the file."""
    return tuple(round(float(v), 6) for v in values)


def _ceiling(own: np.ndarray, test_curve: Curve | None, data: Dataset, config: Config) -> dict[str, Any]:
    """The Pearson that a faultless allocation reaches on average in spite of sampling noise."""
    if test_curve is None or test_curve.correct is None or len(own) < 2:
        return {"pearson_ceiling": None}
    bound = noise_ceiling(
        own,
        test_curve.correct,
        test_curve.widths,
        validation_samples=len(data.validation),
        test_samples=len(data.test),
        seed=config.seed,
    )
    return {
        "pearson_ceiling": bound.pearson,
        "pearson_ceiling_interval": bound.pearson_interval,
        "cgs_ceiling_interval": bound.cgs_interval,
    }


def _curve_dict(curve: Curve, test_curve: Curve | None) -> dict[str, Any]:
    """The curve as the report keeps it."""
    return {
        "widths": _floats(curve.widths),
        "validation": _floats(curve.accuracy),
        "test": None if test_curve is None else _floats(test_curve.accuracy),
        "standard_error": _floats(curve.standard_error),
    }


def _warnings(
    own: np.ndarray, paid: np.ndarray, plan: Plan | None, classes: int, fairness: dict[str, Any]
) -> list[str]:
    """What a reader should know before believing the table."""
    said = []
    accuracy, samples = paid.mean(1), paid.shape[1]
    error = np.sqrt(np.maximum(accuracy * (1 - accuracy), 1 / samples) / samples)
    for i in np.flatnonzero(accuracy - 1 / classes < 2 * error):
        said.append(f"participant {i}: the reward is within noise of chance")
    for i in fairness["worse_off"]:
        said.append(f"participant {i}: the reward is significantly below what it reached alone")
    order = np.argsort(own.mean(1), kind="stable")
    for i, j in zip(order[:-1], order[1:], strict=True):
        apart = paid[j].astype(float) - paid[i]
        if abs(apart.mean()) <= 2 * apart.std() / np.sqrt(samples):
            said.append(f"participants {i} and {j}: their rewards are within noise of each other")
    if plan is not None and plan.certificate.worse_off:
        said.append(plan.certificate.statement)
    if plan is not None and not plan.certificate.covers:
        said.append("the curve spans less than the contributions do: lower min_width, or train longer")
    if plan is not None and not plan.certificate.top_reaches:
        said.append("the full network is below the best participant's own: train together longer")
    return said


def _spoilt(left_out: Sequence[int]) -> list[str]:
    """Whose answers were left out of the merge, and how often."""
    return [
        f"participant {i}: not finite and left out in {list(left_out).count(i)} rounds" for i in sorted(set(left_out))
    ]


def versions_of_run() -> dict[str, str]:
    """The versions that the numbers depend on."""
    names = ("aequa-lite", "torch", "numpy", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def device_in_words(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _line(name: str, value: Any) -> str:
    """One figure of the report in words."""
    if value is None:
        return f"{name:<28} none (no variance, or too few participants)"
    many = value if isinstance(value, (list, tuple)) else [value]
    return f"{name:<28} {' to '.join(f'{v:.3f}' for v in many)}"


def table(found: Report) -> str:
    """Lay a report out as text: a line for each participant, then the measures of fairness and the warnings.

    Example:
        >>> import aequa_lite as aq
        >>> data, nets = aq.load("fashion-mini"), [aq.MLP(), aq.MLP(0.5)]
        >>> print(table(report(nets, nets, None, None, data, aq.Config(participants=2))).split()[0])
        participant
    """
    n = len(found.standalone)
    none = ("-",) * n
    widths = none if found.widths is None else tuple(f"{w:.3f}" for w in found.widths)
    predicted = none if found.predicted_accuracy is None else tuple(f"{a:.3f}" for a in found.predicted_accuracy)
    lines = ["participant  contribution   width  parameters  predicted    test   alone    gain"]
    for i in range(n):
        gain = found.test_accuracy[i] - found.standalone[i]
        lines.append(
            f"{i:>11}  {found.contribution[i]:>12.3f}  {widths[i]:>6}  {found.parameters[i]:>10,}  {predicted[i]:>9}"
            f"  {found.test_accuracy[i]:>6.3f}  {found.standalone[i]:>6.3f}  {gain:>+6.3f}"
        )
    f = found.fairness
    lines += ["", _line("Pearson", f["pearson"]), _line("  over participants, 95%", f["pearson_interval"])]
    lines += [
        _line("  over test samples, 95%", f["pearson_noise_interval"]),
        _line("  noise allows", f["pearson_ceiling"]),
    ]
    lines += [_line("mean gain (MCG)", f["mcg"]), _line("spread of gains (CGS)", f["cgs"])]
    lines += [_line("smallest gain", f["min_gain"]), "", *(f"warning: {each}" for each in found.warnings)]
    return "\n".join(lines).rstrip()


MOST_REPORT_BYTES = 1 << 26  # a curve of thousands of widths, a thousand participants


@dataclass(frozen=True)
class Report:
    """Everything a run is judged by; the keys of ``report.json`` are its fields.

    Accuracies are fractions in [0, 1]. ``contribution`` is measured on the validation split, ``standalone`` and
    ``test_accuracy`` on the test split; a method without widths has ``widths = None``.

    Example:
        >>> import aequa_lite as aq
        >>> [each for each in aq.Report.__dataclass_fields__][:3]
        ['recipe', 'data', 'partition']
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

    def save(self, folder: Path | str) -> Path:
        """Write ``report.json`` into a folder, whole or not at all, and return its path."""
        path = Path(folder) / "report.json"
        with atomic_write(path) as half:
            half.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """Read the report of a folder.

        Raises:
            ValueError: there is none, or it is damaged; the sentence names the file.
        """
        from .trust import checked_report  # late: a record needs nothing but Python

        path = Path(folder) / "report.json"
        try:
            found = checked_report(parse_json(read_limited(path, MOST_REPORT_BYTES)))
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in found.items()})
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a report that can be read: {error_text(error)}") from error
