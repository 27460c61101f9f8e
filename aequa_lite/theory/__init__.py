"""Bounds, linear models whose constants are known, and federations of them."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bounds": ["Bound", "bias_bound", "drift", "gap_bound", "stationarity_bound"],
        "federations": ["LinearFederation", "Moments", "regression"],
        "linear_models": ["Logistic", "Squares", "TwoLayers"],
        "sampling": ["distribution_of", "recorded_steps", "sampled_from"],
    },
)
