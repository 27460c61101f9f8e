"""One figure style, and the figures of the book."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "allocation": ["curve_range", "held", "intervals", "rules", "threshold", "water", "ways"],
        "figures": ["curve", "curves", "partition", "prefix", "rewards", "widths"],
        "interactive": ["Sliders", "sliders", "stepper"],
        "theme": ["save_figure", "style"],
    },
)
