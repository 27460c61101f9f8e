"""Turn contributions and a curve into one width each: the exact rule, other rules, and their certificates."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "exact": ["Certificate", "Plan", "allocate", "default_objective", "gain_minus_variance", "plan_of",
              "spread_minus_gain", "spread_only", "spread_per_gain"],
    "uncertainty": ["Confirmation", "RewardIntervals", "ValidationPart", "confirm", "noise_ceiling",
                    "reward_intervals", "samples_for", "split_validation"],
    "rules": ["anneal", "at_bounds", "capped", "critical_weight", "equal_gains_possible", "generous", "leximin",
              "lp_welfare", "nash", "proportional", "smallest_spread", "thresholded", "water_filling"],
    "stability": ["PredictedGame", "Stability", "StablePlan", "blocking_coalitions", "marginal_value", "misreport_gains",
                  "predicted_game", "sampled_blocking", "stable", "trained_game"],
})  # fmt: skip
