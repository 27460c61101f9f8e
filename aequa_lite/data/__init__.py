"""Data sets, partitions and noise."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "hospitals": [],  # read by load("hospitals")
    "load": ["default_device", "load"],
    "partition": ["by_size", "class_counts", "class_imbalance", "dirichlet", "fedrac_dirichlet", "homogeneous",
                  "imbalanced", "label_noise", "label_skew", "natural", "power_law"],
    "readers": ["NAMES", "Arrays", "data_folder", "embedded", "frequent", "leaf", "npz", "tokens", "torchvision_set", "tsv"],
    "tabular": ["Column", "Encoder", "csv_table"],
})  # fmt: skip
