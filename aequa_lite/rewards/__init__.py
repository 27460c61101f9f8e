"""Rewards as files: written, verified, exported."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "costs": ["Cost", "cost", "cost_table"],
        "export": ["export_onnx", "write_loader"],
        "files": ["Manifest", "load_reward", "load_words", "save_rewards"],
        "verify": ["Checked", "verify_rewards"],
    },
)
