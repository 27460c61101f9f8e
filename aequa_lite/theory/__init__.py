"""What is proved about training: bounds, and linear federations whose constants are known."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "bounds": ["Bound", "bias_bound", "drift", "gap_bound", "held_margin", "momentum_bound", "stationarity_bound"],
    "federations": ["Changes", "Distribution", "GemanMcClure", "LeastSquares", "LinearFederation", "Logistic", "Moments",
                    "TwoLayers", "changing_widths", "distribution_of", "recorded_steps", "regression", "sampled_from"],
})  # fmt: skip
