"""Notebooks, sweeps and tables; needs the extra `experiments`."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "run": ["Setup", "Source", "check_parameters", "comparison", "compete", "folder_name", "locate", "prepare",
            "show_source", "split_parameters"],
    "sweep": ["Run", "Sweep", "finished", "gather", "read_sweep", "run_sweep", "share"],
    "tables": ["about", "summary"],
})  # fmt: skip
