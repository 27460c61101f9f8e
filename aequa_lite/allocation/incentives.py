"""What a false claim pays, alone or together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from .._check import Accuracies, Count, Index, accuracies, checked, flag, number, refusal
from ..evaluation import Curve
from .exact import Rule, allocate, check_inputs

REPORTS = np.linspace(0, 1, 101)


COARSE = np.linspace(0, 1, 21)  # reports of each member of a group


JOINT_REPORTS = 200_000  # joint reports up to which every one is tried


@checked
def best_response(
    contribution: Accuracies, curve: Curve, participant: Index, rule: Rule = allocate, reports: Accuracies | None = None
) -> tuple[float, float]:
    """Return the report that earns a participant most while all others are truthful, and what it adds.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        participant: Whose report, from 0.
        rule: Allocation rule of contributions and curve.
        reports: Possible reports in [0, 1] (default: 0.00, 0.01, ..., 1.00). A report for which the rule is undefined
            earns nothing.

    Returns:
        The report, of equals the one nearest to the truth, and the accuracy that it adds.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> best_response([0.4, 0.5, 0.7], curve, 0)[1] > 0
        True

    References:
        The best response of game theory, by brute force. Our choice.
    """
    b = check_inputs(contribution, curve)
    number("participant", participant, 0, len(b) - 1, whole=True)
    tries = REPORTS if reports is None else accuracies("reports", reports)

    def earned(report: float) -> float:
        reported = b.copy()
        reported[participant] = report
        return float(rule(reported, curve).predicted_accuracy[participant])

    def attempt(report: float) -> float:
        try:
            return earned(report)
        except ValueError:  # the rule is undefined for this report
            return -np.inf

    honest = earned(float(b[participant]))
    rewards = np.array([attempt(float(r)) for r in tries])
    if rewards.max() <= honest + 1e-12:
        return float(b[participant]), 0.0
    best = np.flatnonzero(rewards >= rewards.max() - 1e-12)
    nearest = best[np.abs(tries[best] - b[participant]).argmin()]
    return float(tries[nearest]), float(rewards[nearest] - honest)


@checked
def misreport_gains(
    contribution: Accuracies,
    curve: Curve,
    rule: Rule = allocate,
    *,
    measured: bool = False,
    together: Count = 1,
    reports: Accuracies | None = None,
) -> NDArray[np.float64]:
    r"""Return what the best false report adds to the accuracy of each participant, or of each group that reports together.

    All others are truthful. A group $S$ chooses the joint report $r_S$ that adds most in sum, and no member may lose by
    it: $\max_{r_S} \sum_{i \in S} a_i(r_S) - a_i(B_S)$ with $a_i(r_S) \ge a_i(B_S)$ for all $i \in S$.

    Args:
        contribution: (n,) true contributions, accuracies in [0, 1].
        curve: Attainable accuracies and their widths.
        rule: Allocation rule of contributions and curve.
        measured: Whether contributions are measured, so that they can only be lowered.
        together: Participants of a group. Every joint report is tried.
        reports: Possible reports in [0, 1], beside the true one (default: 0.00, 0.01, ..., 1.00, and of a group 0.00,
            0.05, ..., 1.00). A report for which the rule is undefined earns nothing.

    Returns:
        One accuracy for each group, in the order of `itertools.combinations(range(n), together)`: (n,) for groups of one.

    Raises:
        ValueError: There are fewer participants than a group has, or more than 200,000 joint reports of all groups.

    Example:
        >>> curve = Curve((0.1, 0.3, 0.6, 1.0), (0.5, 0.6, 0.7, 0.8), samples=100)
        >>> misreport_gains([0.4, 0.5, 0.7], curve).round(2).tolist()
        [0.3, 0.2, 0.0]
        >>> misreport_gains([0.4, 0.5, 0.7], curve, measured=True, together=2).round(2).tolist()
        [0.2, 0.2, 0.2]

    References:
        Best responses, and group strategy-proofness, by brute force. Our choice.
    """
    b, flagged = check_inputs(contribution, curve), flag("measured", measured)
    number("together", together, 1, len(b), whole=True)
    tries = REPORTS if together == 1 else COARSE
    tries = tries if reports is None else accuracies("reports", reports)
    options = [tries[tries <= own] if flagged else tries for own in b]
    if together == 1:
        return np.array([best_response(b, curve, i, rule, np.append(each, b[i]))[1] for i, each in enumerate(options)])
    groups = list(combinations(range(len(b)), together))
    if (count := sum(math.prod(len(options[i]) + 1 for i in each) for each in groups)) > JOINT_REPORTS:
        raise refusal("together", f"such that all groups have at most {JOINT_REPORTS:,} joint reports", f"{count:,}")
    return np.array([_joint_gain(b, curve, each, rule, [options[i] for i in each]) for each in groups])


def _joint_gain(
    b: NDArray[np.float64], curve: Curve, members: tuple[int, ...], rule: Rule, options: Sequence[NDArray[np.float64]]
) -> float:
    """What the best joint report of these members adds to their accuracies in sum; none of them loses by it."""
    who, best = list(members), 0.0
    honest = rule(b, curve).predicted_accuracy[who]
    for joint in product(*(np.append(each, own) for each, own in zip(options, b[who]))):
        reported = b.copy()
        reported[who] = joint
        try:
            more = rule(reported, curve).predicted_accuracy[who] - honest
        except ValueError:  # the rule is undefined for this report
            continue
        if more.min() > -1e-12:
            best = max(best, float(more.sum()))
    return best if best > 1e-12 else 0.0
