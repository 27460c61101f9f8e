"""Data sets, partitions and noise."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "encoding": ["Column", "Encoder"],
        "hospitals": [],  # read by load("hospitals")
        "load": ["default_device", "load"],
        "noise": ["label_noise"],
        "partition": [
            "by_size",
            "class_counts",
            "class_imbalance",
            "dirichlet",
            "fedrac_dirichlet",
            "homogeneous",
            "imbalanced",
            "label_skew",
            "natural",
            "power_law",
        ],
        "readers": ["NAMES", "Arrays", "data_folder", "embedded", "leaf", "npz", "torchvision_set"],
        "tabular": ["Table", "csv_table"],
        "text": ["frequent", "tokens", "tsv"],
    },
)
