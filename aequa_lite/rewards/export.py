"""A reward for places without PyTorch: ONNX, with ``pip install 'aequa-lite[onnx]'``."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from .files import whole

__all__ = ["export_onnx"]


def _there(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def export_onnx(net: nn.Module, example: Tensor, path: Path | str) -> Path:
    """Write a network as an ONNX file: input ``x`` (samples, ...) for any number of samples, output ``logits``.

    ``example``: a few inputs of the kind that it takes, such as ``data.test.x[:2]``. Whole or not at all, one file.

    Raises:
        ValueError: onnx and onnxscript are not installed, or ``example`` holds fewer than two samples.

    Example:
        >>> export_onnx(nn.Linear(3, 2), torch.zeros(1, 3), "linear.onnx")
        Traceback (most recent call last):
        ValueError: example holds 1 sample; allowed are two or more, so that their number stays open

    Source: PyTorch's exporter.
    """
    missing = [name for name in ("onnx", "onnxscript") if not _there(name)]
    if len(example) < 2:
        raise ValueError(
            f"example holds {len(example)} sample; allowed are two or more, so that their number stays open"
        )
    if missing:
        raise ValueError(f"{' and '.join(missing)} cannot be imported; pip install 'aequa-lite[onnx]'")
    program = torch.onnx.export(
        net.eval(), (example,), dynamo=True, verbose=False, input_names=["x"], output_names=["logits"],
        dynamic_shapes=({0: Dim("samples")},),
    )  # fmt: skip
    with whole(path) as half:
        program.save(half, external_data=False)
    return Path(path)
