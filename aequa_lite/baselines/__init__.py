"""Published methods, each an algorithm `(problem, *, train) -> Outcome` over the one training loop."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cffl": ["cffl"],
        "cgsv": ["cgsv"],
        "fedavg": ["fedavg", "fedavg_finetuned"],
        "fedsac": ["compact", "fedsac", "importance"],
        "iafl": ["iafl"],
        "lg_fedavg": ["lg_fedavg"],
        "reward_mechanisms": [
            "PartialModel",
            "by_noise",
            "by_pruning",
            "by_subset",
            "by_width",
            "by_zeroing",
            "pooled",
            "realize",
        ],
        "shapfed": ["shapfed", "shapfed_wa"],
        "sparsify": ["sparse_numbers"],
    },
)
