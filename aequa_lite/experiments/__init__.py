"""Notebooks, sweeps and tables; needs the extra `experiments`."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "notebook": ["Source", "check_parameters", "show_source"],
        "published": ["Claim", "Verdict", "check_claim", "published", "wins"],
        "run": ["Setup", "comparison", "compete", "folder_name", "locate", "prepare", "split_parameters"],
        "sweep": ["Run", "Sweep", "gather", "known", "read_sweep", "run_sweep", "share", "sweep_table"],
        "tables": ["about", "summary"],
    },
)
