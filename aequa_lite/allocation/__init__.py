"""Turn contributions and a curve into one width each: the exact rule, other rules, and their certificates."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "exact": ["Certificate", "Plan", "allocate", "default_objective", "gain_minus_variance", "plan_of",
              "spread_minus_gain", "spread_only", "spread_per_gain"],
    "continuous": ["at_bounds", "critical_weight", "equal_gains_possible", "smallest_spread", "water_filling"],
    "uncertainty": ["Confirmation", "RewardIntervals", "ValidationPart", "confirm", "noise_ceiling",
                    "reward_intervals", "samples_for", "samples_needed", "split_validation"],
    "rules": ["anneal", "capped", "generous", "leximin", "lp_welfare", "nash", "proportional", "thresholded"],
    "incentives": ["best_response", "misreport_gains"],
    "games": ["PredictedGame", "predicted_game", "trained_game"],
    "stability": ["Stability", "StablePlan", "blocking_coalitions", "marginal_value", "sampled_blocking", "stable"],
})  # fmt: skip
