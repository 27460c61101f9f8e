"""How the server combines updates: server optimizers and robust aggregation."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "robust": ["coordinate_median", "dp_epsilon", "dp_gaussian", "norm_clipping", "norm_screening", "trimmed_mean"],
        "server_optimizers": ["fedadam", "fedavg", "fedavgm", "validation_weights"],
    },
)
