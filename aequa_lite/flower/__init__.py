"""The same rounds over Flower, for participants on many machines: the in-process loop with messages in place of threads.

Flower carries the messages; policy, local training, merge, contribution and allocation are the functions that run in one
process too. Nothing else in this package imports this folder, and nothing in it is needed on one machine.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    version("flwr")
except PackageNotFoundError as error:
    raise ImportError(
        'aequa_lite.flower needs Flower, which is not installed here: pip install "aequa-lite[flower]"'
    ) from error
