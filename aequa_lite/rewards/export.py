"""A reward for places without PyTorch: ONNX, with `pip install 'aequa-lite[onnx]'`."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from .._check import checked, refusal
from .._io import atomic_write

__all__ = ["export_onnx"]


def _importable(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@checked
def export_onnx(net: nn.Module, example: Tensor, path: Path | str) -> Path:
    """Write a network as one ONNX file, whole or not at all.

    Its input `x` (samples, ...) takes any number of samples; its output is `logits` (samples, classes). Write it outside a
    folder of rewards: `verify` reports every file that is not on the folder's list.

    Args:
        net: The network, such as a reward.
        example: Two or more inputs, such as `dataset.test.x[:2]`; only their shape and type matter.
        path: The file.

    Returns:
        The path.

    Raises:
        ValueError: `example` holds fewer than two samples, or onnx and onnxscript are not installed.
        OSError: The file cannot be written.

    Example:
        >>> export_onnx(nn.Linear(3, 2), torch.zeros(1, 3), "linear.onnx")
        Traceback (most recent call last):
        ValueError: `example` must be a tensor of two or more samples, got shape (1, 3)

    References:
        PyTorch's exporter.
    """
    if not isinstance(net, nn.Module):
        raise refusal("net", "a network", net)
    if not isinstance(example, Tensor) or not example.ndim or len(example) < 2:
        found = f"shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ValueError(f"`example` must be a tensor of two or more samples, got {found}")
    if missing := [name for name in ("onnx", "onnxscript") if not _importable(name)]:
        raise ValueError(f"{' and '.join(missing)} cannot be imported; pip install 'aequa-lite[onnx]'")
    program = torch.onnx.export(
        net.eval(), (example,), dynamo=True, verbose=False, input_names=["x"], output_names=["logits"],
        dynamic_shapes=({0: Dim("samples")},),
    )  # fmt: skip
    with atomic_write(path) as half:
        program.save(half, external_data=False)
    return Path(path)
