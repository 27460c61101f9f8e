"""One run from its parameters: refused at once where they do not fit, and everything it needs by the word that names it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from .._io import atomic_write
from ..config import Config
from ..data.readers import NAMES, data_folder
from ..evaluation import accuracy_curve
from ..method import Algorithm, Outcome
from ..registry import folder_named
from ..report import Report, report
from ..slimmable import Build
from ..types import Dataset, Shard

__all__ = ["comparison", "compete", "located"]


def located(data: str, root: str | Path | None = None) -> str | Path:
    """Return where a data set lies: a folder or file of this name in the folder of data, else the name itself.

    So ``sst2`` means the folder ``sst2`` of AEQUA_DATA, on every machine.

    Example:
        >>> located("fashion-mini")
        'fashion-mini'
    """
    place = data_folder(root) / data
    return place if data and data not in NAMES and place.exists() else data


def compete(
    methods: Mapping[str, Algorithm],
    build: Build,
    shards: Sequence[Shard],
    config: Config,
    data: Dataset,
    alone: Sequence[nn.Module],
    contribution: Sequence[float],
    *,
    partition: str = "",
    out: str | Path,
    progress: bool = True,
) -> Iterator[tuple[str, Outcome, Report]]:
    """Run every method on the same shards, models alone and contributions; yield its word, its pay and its report.

    Reports are left in ``out/METHOD/report.json``. A method that fails leaves ``failed.txt`` there instead, and the
    others are run all the same.

    Raises:
        RuntimeError: in the end, when a method failed; the sentence says which and why.

    Example:
        >>> import tempfile
        >>> import aequa_lite as aq
        >>> data, config = aq.load("fashion-mini"), aq.Config(participants=2, rounds=1, local_steps=1)
        >>> given = aq.MLP, aq.data.homogeneous(data.train, config), config, data, [aq.MLP(), aq.MLP()], [0.1, 0.1]
        >>> [word for word, *_ in compete(aq.registry.algorithms("fedavg"), *given, out=tempfile.mkdtemp(), progress=False)]
        ['fedavg']
    """
    failed = {}
    for word, method in methods.items():
        folder, started = Path(out) / folder_named(word), time.perf_counter()
        (folder / "failed.txt").unlink(missing_ok=True)
        try:
            paid = method.run(build, shards, config, data, alone, contribution, progress=progress)
            found = _report_of(paid, word, build, config, data, alone, contribution, partition, started)
        except Exception as error:  # whatever it was, the other methods are still worth their run
            failed[word] = " ".join(f"{type(error).__name__}: {error}".split())
            with atomic_write(folder / "failed.txt") as half:
                half.write_text(failed[word] + "\n")
            continue
        found.save(folder)
        yield word, paid, found
    if failed:
        raise RuntimeError("; ".join(f"{word} failed, {reason}" for word, reason in failed.items()))


def _report_of(
    paid: Outcome,
    word: str,
    build: Build,
    config: Config,
    data: Dataset,
    alone: Sequence[nn.Module],
    contribution: Sequence[float],
    partition: str,
    started: float,
) -> Report:
    """The report of a method's final round."""
    curve = paid.curve
    test = (
        None
        if curve is None
        else accuracy_curve(build, paid.last.theta, data.test, grid=curve.widths, fraction_grid=curve.fraction_grid)
    )
    return report(
        paid.models,
        alone,
        paid.plan,
        curve,
        data,
        config,
        test_curve=test,
        contribution=contribution,
        partition=partition,
        method=word,
        seconds=time.perf_counter() - started,
        parameters_sent=paid.parameters_sent,
        left_out=paid.left_out,
    )


def comparison(reports: Mapping[str, Report]) -> str:
    """Lay the reports of several methods out as text, a line for each.

    Best and mean reward, gains in points (mean, spread, least), Pearson, how many are significantly worse off than alone,
    and millions of numbers sent.

    Example:
        >>> import aequa_lite as aq
        >>> data, nets = aq.load("fashion-mini"), [aq.MLP(), aq.MLP(0.5)]
        >>> print(comparison({"same": aq.report(nets, nets, None, None, data, aq.Config(participants=2))}).split()[0])
        method
    """
    wide = max(len(word) for word in ("method", *reports))
    lines = [f"{'method':<{wide}}   best   mean  Pearson    MCG    CGS  least gain  worse off  millions sent"]
    for word, found in reports.items():
        f, paid = found.fairness, found.test_accuracy
        pearson = "   none" if f["pearson"] is None else f"{f['pearson']:7.3f}"
        lines.append(
            f"{word:<{wide}}  {max(paid):5.3f}  {sum(paid) / len(paid):5.3f}  {pearson}  {100 * f['mcg']:5.2f}"
            f"  {100 * f['cgs']:5.2f}  {100 * f['min_gain']:10.2f}  {len(f['worse_off']):9}"
            f"  {found.parameters_sent / 1e6:13.1f}"
        )
    return "\n".join(lines)
