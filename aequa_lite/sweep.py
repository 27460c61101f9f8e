"""Many papermill runs into one tidy table: side by side, resumable, and a failed run stays a row with its reason.

usage: python -m aequa_lite.sweep sweeps/NAME.yml [--workers N] [--shard I/N] [--new] [--gather]

The file says which notebook is run, which parameters are fixed, and which are varied: every case at every combination of
the grid is a run, or of several grids, where ``grid`` is a list of them::

    notebook: notebooks/reproduce.ipynb
    fixed: {participants: 10, methods: "aequa, fedavg"}
    when:
      - {if: {data: sst2}, set: {network: TextCNN}}
    cases: {sandwich: {draw: sandwich}, ours: {}}
    grid: {data: [fashion, sst2], seed: [0, 1, 2]}

Each run leaves its executed notebook and a ``report.json`` of every method under ``runs/NAME/``. What is finished is not
repeated, what failed is; a method that is added later is run alone, on the same models trained alone. A run is claimed by
a lock on a file in its folder, which ends with the process: so several processes, also on several machines that share the
folder, work on one sweep, and a killed one goes on at once. The table goes to ``results/NAME/``; rows that it holds from
elsewhere stay, and ``--new`` does not repeat them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from pathlib import Path

import papermill
import torch
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from .files import whole
from .runs import Run, Sweep, read_sweep, share
from .tables import gather, known
from .workers import available

__all__ = ["gather", "read_sweep", "run_sweep"]

SHOWN = ("method", "status", "pearson", "pearson_ceiling", "cgs", "min_gain", "worse_off", "alone_best", "reward_best")


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Claim a run's folder for as long as the block lasts; False where another process holds it.

    The claim is a lock of the operating system, so it ends with the process, however that ends.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with claimed(folder) as mine, claimed(folder) as mine_too:
        ...     print(mine, mine_too)
        True False
    """
    import fcntl  # late: not on Windows, where only reading sweeps works

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claim").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def reason_of(error: BaseException, folder: Path) -> str:
    """Why there is no report: ``no data``, ``refused`` (before any work) or ``failed``, and what was said."""
    kind, said = type(error).__name__, str(error)
    if isinstance(error, PapermillExecutionError):
        kind, said = error.ename, error.evalue
    early = not (folder / "run.json").exists()
    word = "no data" if kind == "FileNotFoundError" else "refused" if kind == "ValueError" and early else "failed"
    return f"{word}: {'' if word != 'failed' else kind + ': '}{' '.join(said.split())}"


def lacking(run: Run, root: Path, kept: Collection[tuple[str, str]] = ()) -> list[str]:
    """The methods of a run that have left no report here and none elsewhere (``kept``: see :func:`known`)."""
    return [word for word in run.missing(root) if (run.digest, word) not in kept]


def run_one(notebook: Path, run: Run, root: Path, kept: Collection[tuple[str, str]] = ()) -> bool:
    """Run the notebook for the methods that are missing; a failure leaves its reason in the folder.

    Returns False, and does nothing, where another process has claimed the run.
    """
    folder = run.folder(root)
    with claimed(folder) as mine:
        if not mine:
            return False
        if missing := lacking(run, root, kept):
            (folder / "failed.txt").unlink(missing_ok=True)
            asked = {"methods": ", ".join(missing)} if run.methods else {}
            parameters = {**run.parameters, **asked, "out": str(folder)}
            try:
                papermill.execute_notebook(str(notebook), str(folder / "run.ipynb"), parameters, progress_bar=False)
            except Exception as error:  # whatever it was, the sweep goes on and the row says it
                with whole(folder / "failed.txt") as half:
                    half.write_text(reason_of(error, folder) + "\n")
            finally:
                asyncio.get_event_loop_policy().get_event_loop().close()  # the thread's own; papermill leaves it open
    return True


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let every kernel that starts in the block compute with one thread: many such are faster than one with many."""
    names = ("OMP_NUM_THREADS", "AEQUA_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= dict.fromkeys(names, "1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def run_sweep(
    sweep: Sweep,
    root: Path = Path("runs"),
    shard: tuple[int, int] = (0, 1),
    workers: int | None = None,
    kept: Collection[tuple[str, str]] = (),
) -> None:
    """Run what has not been finished yet, with a bar over the runs.

    ``shard``: (i, n) takes a balanced n-th of the runs, for machines that share no folder; ``workers``: how many run side
    by side (default: one for each processor, with one thread each; a single one where there is a GPU); ``kept``: what need
    not be run, being :func:`known`.

    Raises:
        ValueError: there is no such share, or ``workers`` is not a whole number from 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers!r}; allowed is a whole number from 1")
    here, chosen = root / sweep.name, share(sweep.runs(), *shard)
    todo = [run for run in chosen if lacking(run, here, kept)]
    count = workers or (1 if torch.cuda.is_available() else available())
    pool = ThreadPoolExecutor(count)
    with one_thread_each() if count > 1 else nullcontext():
        began = [pool.submit(run_one, sweep.notebook, run, here, kept) for run in todo]
        try:
            for each in tqdm(as_completed(began), sweep.name, len(chosen), initial=len(chosen) - len(todo)):
                each.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # all are done, or this was interrupted


def main(words: Sequence[str] | None = None) -> None:
    """Run a sweep file and print its table."""
    parser = argparse.ArgumentParser(prog="python -m aequa_lite.sweep", description="Run a sweep and gather its table.")
    parser.add_argument("file", help="sweeps/NAME.yml")
    parser.add_argument("--workers", type=int, help="runs side by side (default: one a processor; one on a GPU)")
    parser.add_argument("--shard", default="1/1", help="I/N: take the I-th of N balanced shares of the runs")
    parser.add_argument("--new", action="store_true", help="run only what the table in results/NAME does not hold yet")
    parser.add_argument("--gather", action="store_true", help="only gather the table of what has been run")
    asked = parser.parse_args(words)
    try:
        part, parts = (int(piece) for piece in asked.shard.split("/"))
        sweep = read_sweep(asked.file)
        if not asked.gather:
            kept = known(sweep) if asked.new else ()
            run_sweep(sweep, shard=(part - 1, parts), workers=asked.workers, kept=kept)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on with what is not finished", flush=True)
        os._exit(130)  # not waiting for the notebooks: their kernels end with this process
    table = gather(sweep)
    print(table[[name for name in (*sweep.runs()[0].label, *SHOWN) if name in table]].to_string(index=False))


if __name__ == "__main__":
    main()
