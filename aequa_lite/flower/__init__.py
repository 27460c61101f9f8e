"""Train over Flower, with participants on many machines: messages in place of the in-process loop's threads.

Only the transport is here. The training loop, the local step, the allocation and the report are the library's. Nothing
else in the package imports this folder.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    version("flwr")
except PackageNotFoundError as error:
    raise ImportError(
        'aequa_lite.flower needs Flower, which is not installed: pip install "aequa-lite[flower]"'
    ) from error
