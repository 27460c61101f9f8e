"""From contributions and a curve to one width each: the exact rule, other rules, and what they are worth."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "_search": ["SearchProblem", "bounded_search", "exact_search"],
        "budgeted": ["leximin", "lp_welfare", "nash"],
        "continuous": ["at_bounds", "critical_weight", "equal_gains_possible", "smallest_spread", "water_filling"],
        "exact": [
            "Certificate",
            "Plan",
            "allocate",
            "gain_minus_variance",
            "plan_of",
            "spread_minus_gain",
            "spread_only",
            "spread_per_gain",
        ],
        "holdout": ["Confirmation", "Half", "confirm", "split"],
        "incentives": ["best_response", "misreport_gains"],
        "rules": ["anneal", "capped", "generous", "proportional", "thresholded"],
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
