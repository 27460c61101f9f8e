"""Rewards as files: written, loaded, verified, exported."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "export": ["export_onnx"],
        "files": ["Manifest", "load_reward", "load_vocabulary", "save_outcome", "save_rewards"],
        "verification": ["FileCheck", "verify"],
    },
)
