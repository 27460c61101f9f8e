"""One figure style, and the figures of the book."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "figures": ["Page", "comparison", "critical_weight", "curve", "curve_range", "curves", "intervals", "partition", "prefix",
                "rewards", "rules", "sliders", "stepper", "water_filling", "width_schedule", "widths"],
    "theme": ["save_figure", "style"],
})  # fmt: skip
