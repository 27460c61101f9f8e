"""One figure style, and the figures of the book."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "figures": ["comparison", "critical_weight", "curve", "curve_range", "curves", "intervals", "partition", "prefix",
                "rewards", "rules", "water_filling", "width_schedule", "widths"],
    "interactive": ["Page", "sliders", "stepper"],
    "theme": ["save_figure", "style"],
})  # fmt: skip
