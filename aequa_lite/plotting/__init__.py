"""One figure style, and the figures of the book."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "allocation": ["comparison", "critical_weight", "curve_range", "intervals", "rules", "water_filling"],
        "figures": ["curve", "curves", "partition", "prefix", "rewards", "width_schedule", "widths"],
        "interactive": ["Page", "sliders", "stepper"],
        "theme": ["save_figure", "style"],
    },
)
