"""A pretend CUDA device for a machine without one: numbers on the CPU, CUDA's rules about which tensors may meet.

    with pretend_cuda() as device:
        data = aq.load("fashion-mini")    # data.train.x.device is cuda:0
    device.launches, device.waits         # kernels asked for; how often the host waited for the device

A `Pretend` tensor holds an ordinary CPU tensor, `inner`. Python sees the device cuda:0. PyTorch's C++ sees the device
meta:1, because autograd would ask a CUDA tensor for streams that do not exist. Every operation on such tensors arrives
in `_run`, below autograd and vmap: it compares the devices of the arguments, counts, and computes on the inner tensors.

Not modelled: time, memory, rounding of GPU kernels, operations that a GPU lacks. Neither is autocast: inside it all is
computed in float32 as outside, so half precision has neither its rounding here nor the launches of its conversions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA, INSIDE = torch.device("cuda", 0), torch.device("meta", 1)
COPIES = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
FILLING = {"fill", "fill_", "masked_fill", "masked_fill_"}  # with their last argument
# the host reads numbers: to know the size of the result, to answer, or to see that an algorithm worked
WAITS = {
    "_local_scalar_dense", "nonzero", "bincount", "masked_select", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "allclose", "_linalg_check_errors", "_linalg_svd", "_linalg_eigh", "_linalg_eigvals", "linalg_eig",
    "linalg_pinv", "linalg_matrix_exp",
}  # fmt: skip
NO_KERNEL = {
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "lift_fresh", "alias",
    "_unsafe_view", "_reshape_alias", "_local_scalar_dense", "_linalg_check_errors",
}  # fmt: skip


class Device:
    """What was asked of the device: kernel launches, and the operations for which the host waited."""

    def __init__(self) -> None:
        self.launched: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        return self.launched.total()

    @property
    def waits(self) -> int:
        return self.waited.total()


DEVICE = Device()
_real_device, _real_to = torch._C.TensorBase.device, Tensor.to
_real_tensor, _real_as_tensor = torch.tensor, torch.as_tensor


class Pretend(Tensor):
    """A tensor on the pretend device."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretend:
        with torch.inference_mode(inner.is_inference()):
            found = Tensor._make_wrapper_subclass(
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
                dtype=inner.dtype, device=INSIDE,
            )  # fmt: skip
        found.inner = inner
        return found

    def __repr__(self) -> str:
        return f"Pretend({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return self.detach().cpu().numpy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.numpy()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return torch.tensor(data, **{"dtype": self.dtype, "device": CUDA, **options})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Catches operations that make a tensor on the device from none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Pool(ThreadPoolExecutor):
    """Worker threads that know of the device: a mode belongs to one thread."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        def inside() -> Any:
            with _Mode():
                return function(*args, **kwargs)

        return super().submit(inside)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation: check, count, compute."""
    name = func.overloadpacket.__name__
    if name == "is_pinned":
        return hasattr(args[0], "pinned")
    if name == "_pin_memory":
        if isinstance(args[0], Pretend):
            raise RuntimeError("cannot pin a tensor of cuda:0: only dense CPU tensors can be pinned")
        found = args[0].clone()
        found.pinned = True
        return found
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    here = [t for t in tensors if isinstance(t, Pretend)]
    target = kwargs.get("device")
    if target is not None:
        target = "cuda" if torch.device(target) == INSIDE else torch.device(target).type
    if not here and target != "cuda":
        return func(*args, **kwargs)
    if func._can_decompose() and name != "lift_fresh":  # inference mode hands over operations whole
        with _Mode():
            return func.decompose(*args, **kwargs)
    _check(func, name, args, kwargs, tensors)
    _count(func, name, args, kwargs, target)
    args, kwargs = tree_map_only(Pretend, lambda t: t.inner, (args, kwargs))
    if target == "cuda":
        kwargs |= {"device": "cpu"}
    if kwargs.get("pin_memory"):
        kwargs |= {"pin_memory": False}
    found = func(*args, **kwargs)
    if target not in (None, "cuda"):
        return found
    known = {id(t.inner): t for t in here}  # what was changed in place is the same tensor as before
    return tree_map_only(Tensor, lambda t: known.get(id(t)) if id(t) in known else Pretend(t), found)


def _check(func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
    """Refuse tensors of two devices in one operation, except numbers and indices from the CPU where CUDA takes them."""
    if any(isinstance(each, torch.Generator) and each.device.type == "cpu" for each in (*args, *kwargs.values())):
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({func})")
    if not any(isinstance(t, Pretend) for t in tensors):
        return  # made on the device after the like of another
    apart = [t for t in tensors if not isinstance(t, Pretend)]
    if name in INDEXING and isinstance(args[0], Pretend):
        apart = [t for t in args[2:] if isinstance(t, Tensor) and not isinstance(t, Pretend)]
    written = func._schema.is_mutable and apart and apart[0] is args[0]
    filled = name in FILLING and all(t is args[-1] for t in apart)
    numbers = not any(t.dim() for t in apart) and (name in INDEXING or filled or _pointwise(func))
    if name not in COPIES and (written or (apart and not numbers)):
        places = ", ".join(f"{t.device}{list(t.shape)}" for t in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device ({func}: {places})")


def _pointwise(func: Any) -> bool:
    """Whether an operation takes each number by itself; PyTorch does not tag all that write in place."""
    packet = getattr(torch.ops.aten, func.overloadpacket.__name__.removesuffix("_"), func.overloadpacket)
    plain = getattr(packet, func._overloadname, func)
    return torch.Tag.pointwise in (*func.tags, *plain.tags)


def _count(func: Any, name: str, args: Any, kwargs: Any, target: str | None) -> None:
    """Count the launches of an operation, and whether the host waits."""
    if name in COPIES:
        source, goal = (args[1], args[0]) if name == "copy_" else (args[0], None)
        ends = isinstance(source, Pretend), isinstance(goal, Pretend) if goal is not None else target in (None, "cuda")
        # a copy that crosses makes the host wait, unless it comes from pinned memory and was told not to block
        free = ends[1] and hasattr(source, "pinned") and (kwargs.get("non_blocking") or args[2:] == (True,))
        if ends[0] != ends[1] and not free:
            DEVICE.waited["copy to the device" if ends[1] else "copy to the host"] += 1
    if name in WAITS:
        DEVICE.waited[name] += 1
    if name in INDEXING and any(
        t is not None and (t.dtype == torch.bool or not isinstance(t, Pretend)) for t in args[1]
    ):
        DEVICE.waited[f"{name} by a mask, or by positions on the host"] += 1
    view = any(a.alias_info and not a.alias_info.is_write for a in func._schema.arguments)
    if name not in NO_KERNEL and not view:
        DEVICE.launched[name] += _kernels(args) if name.startswith("_foreach") else 1


def _kernels(args: Any) -> int:
    """A foreach operation is one kernel if all tensors are dense and laid out alike, else one for each."""
    lists = [each for each in args if isinstance(each, (list, tuple)) and isinstance(each[0], Tensor)]
    for group in zip(*lists, strict=True):
        dense = all(t.inner.is_contiguous() for t in group)
        if not dense or len({(t.stride(), t.dtype) for t in group}) > 1:
            return len(lists[0])
    return 1


def _device(t: Tensor) -> torch.device:
    """Where a tensor says that it is; also within vmap, whose wrappers have the device of what they hold."""
    found = _real_device.__get__(t)
    return CUDA if found == INSIDE else found


def _indexed(value: Any) -> Any:
    """cuda:0 for cuda: without an index PyTorch would ask the driver."""
    plain = isinstance(value, (str, torch.device)) and torch.device(value) == torch.device("cuda")
    return CUDA if plain else value


def _to(t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _real_to(t, *map(_indexed, args), **{k: _indexed(v) for k, v in kwargs.items()})


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    found = _real_tensor(data, **options)
    return found if device is None else found.to(device)


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    found = data if isinstance(data, Tensor) else _real_as_tensor(data)
    return found.to(device or found.device, dtype or found.dtype)


@contextmanager
def pretend_cuda(capability: tuple[int, int] = (8, 0)) -> Iterator[Device]:
    """Inside, this process has a CUDA device."""
    DEVICE.__init__()
    nothing = lambda *args, **kwargs: None
    patches = {
        "torch.Tensor.device": property(_device),
        "torch.Tensor.is_cuda": property(lambda t: _device(t).type == "cuda"),
        "torch.Tensor.to": _to,
        "torch.tensor": _tensor,
        "torch.as_tensor": _as_tensor,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda._lazy_init": nothing,
        "torch.cuda.get_device_name": lambda device=None: "Pretend",
        "torch.cuda.get_device_capability": lambda device=None: capability,
        "torch.cuda.is_bf16_supported": lambda *args: True,
        "torch.cuda.synchronize": nothing,
        "torch.cuda.get_device_properties": lambda device=None: mock.Mock(total_memory=16 << 30),
        "torch.cuda.empty_cache": nothing,
        "torch.cuda.reset_peak_memory_stats": nothing,
        "torch.cuda.max_memory_allocated": lambda device=None: 0,
        "aequa_lite._parallel.ThreadPoolExecutor": _Pool,
        "aequa_lite.experiments.sweep.ThreadPoolExecutor": _Pool,
    }
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # net.to("cuda") makes new parameters
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value, create=True))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        stack.enter_context(_Mode())
        yield DEVICE
