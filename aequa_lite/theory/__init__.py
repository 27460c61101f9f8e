"""What is proved about training: bounds, and linear federations whose constants are known."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bounds": ["Bound", "bias_bound", "drift", "gap_bound", "held_margin", "stationarity_bound"],
        "federations": ["LinearFederation", "Moments", "regression"],
        "linear_models": ["LeastSquares", "Logistic", "TwoLayers"],
        "sampling": ["Distribution", "distribution_of", "recorded_steps", "sampled_from"],
    },
)
