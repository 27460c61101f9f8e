"""Network constructors: functions `width -> nn.Module`."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {
    "base": ["flops", "for_dataset", "init_params", "n_units"],
    "models": ["BatchResNet18", "ConvNet", "LeNet", "MLP", "ResNet18", "TabularMLP", "TextCNN", "Transformer",
               "check_network", "recalibrate_batchnorm"],
})  # fmt: skip
