"""Participants side by side: worker threads with one arithmetic thread each, so that their number changes no bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from threading import Lock
from typing import Any

import torch

from ._check import number, refusal

__all__ = ["arithmetic", "default_device", "runtime", "tf32", "usable_device", "workers"]

# cuBLAS gives the same bits twice with this only, and PyTorch reads it once, at the first product of matrices on a GPU:
# set in `arithmetic` it would come too late. It takes 32 MB of the GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def available() -> int:
    """The processors this process may use; fewer where AEQUA_WORKERS says so."""
    if asked := os.environ.get("AEQUA_WORKERS"):
        if not asked.isdecimal() or int(asked) < 1:
            raise refusal("AEQUA_WORKERS", "a whole number from 1", asked)
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> torch.device:
    """Return the device of data sets, and of networks that no data came with.

    It is AEQUA_DEVICE if that is set, else the first CUDA GPU, else Apple's GPU (MPS) if it
    works, else the CPU.

    Raises:
        ValueError: AEQUA_DEVICE is no device that torch can use here.

    Example:
        >>> default_device().type in ("cuda", "mps", "cpu")
        True
    """
    if name := os.environ.get("AEQUA_DEVICE"):
        return usable_device(name, "AEQUA_DEVICE")
    if torch.cuda.is_available():
        return torch.device("cuda")
    try:
        return usable_device("mps")
    except ValueError:
        return torch.device("cpu")


def usable_device(device: str | torch.device | None, name: str = "device") -> torch.device:
    """The device that was asked for, or the default; refused if torch cannot add two numbers on it."""
    if device is None:
        return default_device()
    try:
        place = torch.device(device)
        torch.ones(2, device=place).sum().item()
    except (RuntimeError, TypeError, AssertionError) as error:
        allowed = "a device that torch can use here, such as 'cpu', or 'cuda:0' with a GPU"
        raise refusal(name, allowed, device) from error
    return place


@contextmanager
def workers(count: int | None = None, device: Any = "cpu") -> Iterator[Callable[..., Iterator[Any]]]:
    """Open a pool and return its ordered ``map``: results come in the order of the items, whoever is done first.

    Each thread computes with one intra-op thread, also when there is one worker only: the same sums in the same
    order whatever ``count`` is. On a GPU one worker is the default, since its kernels queue behind one another.

    Raises:
        ValueError: ``count`` is not a whole number from 1.

    Example:
        >>> with workers(2) as spread:
        ...     list(spread(abs, [-1, -2, -3]))
        [1, 2, 3]
    """
    if count is not None:
        number("workers", count, 1, whole=True)
    count = count or (available() if torch.device(device).type == "cpu" else 1)
    torch.get_num_threads()  # sets this thread up, before a worker sets another number for all that come after it
    pool, patient = ThreadPoolExecutor(count, initializer=_compute_with_one_thread), True

    def spread(work: Callable[..., Any], *columns: Iterable[Any]) -> Iterator[Any]:
        begun = [pool.submit(work, *each) for each in zip(*columns)]
        return (_result(begun.pop(0)) for _ in range(len(begun)))  # none is kept

    try:
        yield spread
    except KeyboardInterrupt:  # a thread that trains may take long, and writes nothing
        patient = False
        raise
    finally:
        pool.shutdown(wait=patient, cancel_futures=True)
        # threads that start later have the caller's number, not a worker's
        torch.set_num_threads(torch.get_num_threads())


def _result(future: Future[Any]) -> Any:
    """What a thread returns; waits in steps, since Python overlooks a Ctrl-C that arrives just before a wait begins."""
    while not wait([future], timeout=0.5).done:
        pass
    return future.result()


def _compute_with_one_thread() -> None:
    """Let this new thread compute with one intra-op thread, whatever others set later."""
    torch.get_num_threads()  # PyTorch sets a thread up when it first asks, and would overwrite what was set before
    torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one intra-op thread within the block.

    A short operation of many threads waits until the system has woken all of them, which on busy cores takes longer than the
    operation.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tf32() -> bool:
    """Whether a GPU multiplies float32 numbers with ten bits of mantissa: PyTorch's switch for matrices, usually off.

    Example:
        >>> tf32()
        False
    """
    matrices = torch.backends.cuda.matmul
    words = getattr(matrices, "fp32_precision", None)  # since torch 2.9; there, reading the old switch may fail
    return bool(matrices.allow_tf32) if words is None else words == "tf32"


_LOCK = Lock()
_INSIDE: list[list[tuple[Any, str, Any]]] = []  # for each thread that is inside: the user's settings
_STRICT: list[tuple[bool, bool, bool]] = []  # the same, of deterministic algorithms


@contextmanager
def arithmetic(deterministic: bool = False) -> Iterator[None]:
    """Set how this process computes within the block, and set it back.

    Convolutions use TF32 only where matrices do (`tf32`); PyTorch alone would use it. With ``deterministic``, operations
    use deterministic algorithms; PyTorch warns of an operation that has none. Threads of one process share the settings.

    Example:
        >>> with arithmetic(deterministic=True):
        ...     torch.are_deterministic_algorithms_enabled()
        True
        >>> torch.are_deterministic_algorithms_enabled()
        False
    """
    with _LOCK:
        _INSIDE.append(before := _INSIDE[0] if _INSIDE else _convolutions())
        fast = tf32()
        _set((where, name, fast if name == "allow_tf32" else ("ieee", "tf32")[fast]) for where, name, _ in before)
    try:
        with _deterministic() if deterministic else nullcontext():
            yield
    finally:
        with _LOCK:  # the last to leave sets back what the first found
            before = _INSIDE.pop()
            if not _INSIDE:
                _set(before)


def _convolutions() -> list[tuple[Any, str, Any]]:
    """The switches of TF32 in cuDNN, each with its value; the older one first, since it changes the newer ones too.

    The older one cannot be read where a user has set the newer ones to different values.
    """
    cudnn = torch.backends.cudnn
    newer = [(getattr(cudnn, layer, None), "fp32_precision") for layer in ("conv", "rnn")]  # since torch 2.9
    switches = []
    for where, name in [(cudnn, "allow_tf32"), *newer]:
        with suppress(AttributeError, RuntimeError):
            switches.append((where, name, getattr(where, name)))
    return switches


def _set(switches: Iterable[tuple[Any, str, Any]]) -> None:
    """Give each switch its value."""
    for where, name, value in switches:
        setattr(where, name, value)


@contextmanager
def _deterministic() -> Iterator[None]:
    """PyTorch's deterministic algorithms, and no search for the quickest kernel."""
    cudnn = torch.backends.cudnn
    with _LOCK:
        now = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        _STRICT.append(_STRICT[0] if _STRICT else (*now, cudnn.benchmark))
        strict, warns, search = _STRICT[0]
        cudnn.benchmark = False  # it would choose algorithms by their speed
        torch.use_deterministic_algorithms(True, warn_only=warns or not strict)
    try:
        yield
    finally:
        with _LOCK:  # the last to leave sets back what the first found
            _STRICT.pop()
            if not _STRICT:
                torch.use_deterministic_algorithms(strict, warn_only=warns)
                cudnn.benchmark = search


def runtime() -> str:
    """Say what this process computes on, and what that means for the time a chapter takes.

    Raises:
        ValueError: AEQUA_WORKERS is no whole number from 1.

    Example:
        >>> "torch" in runtime()
        True
    """
    count = available()
    cores = f"{count} processor{'s' * (count > 1)}"
    if torch.cuda.is_available():
        return (
            f"{torch.cuda.get_device_name(0)} and {cores}, torch {torch.__version__}: data and networks go to the GPU by "
            "themselves, and there all participants train in one pass. On Colab a chapter then trains longer; for "
            'still more, open reproduce.ipynb, where data = "fashion" is ten times as many images.'
        )
    return (
        f"{cores} and no GPU, torch {torch.__version__}: a chapter takes about as long as it says at its top, which was "
        "measured on two processors; slower or fewer ones take longer."
    )
