"""What a participant can do to earn more than it contributed."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "identities": ["inflated_shard", "merged_shards", "sybils", "with_attack"],
    "rewards": ["ensemble", "refilled"],
    "updates": ["copying_rider", "data_change", "dropout", "flip_labels", "free_rider", "honest_but_curious",
                "noisy_rider", "sign_flipper", "stale_rider"],
})  # fmt: skip
