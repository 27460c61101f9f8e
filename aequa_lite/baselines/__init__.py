"""Published methods, each an algorithm `(problem, *, train) -> Outcome` over the one training loop."""

# not lazily: a file and its function share a name, and the function must win
from .fedavg import fedavg, fedavg_finetuned, lg_fedavg
from .personal import cffl, cgsv, iafl, shapfed, shapfed_wa
from .reward_mechanisms import PartialModel, by_noise, by_pruning, by_subset, by_width, by_zeroing, pooled, realize
from .subnetworks import fedrac, fedsac

__all__ = [
    "PartialModel", "by_noise", "by_pruning", "by_subset", "by_width", "by_zeroing", "cffl", "cgsv", "fedavg",
    "fedavg_finetuned", "fedrac", "fedsac", "iafl", "lg_fedavg", "pooled", "realize", "shapfed",
    "shapfed_wa",
]  # fmt: skip
