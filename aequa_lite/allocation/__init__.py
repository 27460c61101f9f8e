"""Turn contributions and a curve into one width each: the exact rule, other rules, and what can be said of them."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "budgeted": ["leximin", "lp_welfare", "nash"],
        "continuous": ["at_bounds", "critical_weight", "equal_gains_possible", "smallest_spread", "water_filling"],
        "exact": [
            "Certificate",
            "Plan",
            "allocate",
            "default_objective",
            "gain_minus_variance",
            "plan_of",
            "spread_minus_gain",
            "spread_only",
            "spread_per_gain",
        ],
        "holdout": ["Confirmation", "ValidationPart", "confirm", "split_validation"],
        "incentives": ["best_response", "misreport_gains"],
        "rules": ["anneal", "capped", "generous", "proportional", "thresholded"],
        "stability": ["blocking_coalitions", "joint_misreport", "stable"],
        "uncertainty": [
            "NoiseCeiling",
            "RewardIntervals",
            "noise_ceiling",
            "reward_intervals",
            "samples_for",
            "samples_needed",
        ],
    },
)
