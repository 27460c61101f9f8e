"""Network constructors: functions `width -> nn.Module`."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "base": ["flops", "for_dataset", "init_params", "n_units"],
    "check": ["check_network"],
    "conv": ["BatchResNet18", "ConvNet", "LeNet", "ResNet18", "recalibrate_batchnorm"],
    "mlp": ["MLP", "TabularMLP"],
    "text": ["TextCNN", "Transformer"],
})  # fmt: skip
