"""Many reports as one tidy table, a row for each run and method, with its summary and its origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._check import Count, accuracies, checked
from .._io import atomic_write, error_text, parse_json, printable, read_limited, write_whole
from ..allocation.exact import allocate
from ..allocation.uncertainty import curve_diagnostics
from ..evaluation import Curve
from ..metrics import pearson
from ..report import Report

if TYPE_CHECKING:
    from .sweep import Run, Sweep


Rows = Mapping[tuple[str, str], dict[str, Any]]  # by a run's digest and the method


MEANT = ("pearson", "pearson_ceiling", "ideal_pearson_ceiling", "spearman", "mcg", "cgs", "min_gain", "alone_best",
         "reward_best", "reward_mean", "full", "half", "quarter", "largest_step", "largest_whole_step")  # fmt: skip


MOST_NOTE_BYTES = 1 << 20
WIDTHS = (0.0625, 0.125, 0.2, 0.25, 0.4, 0.5, 0.6, 0.75, 0.8, 1.0)  # those of published curves


def write_tables(sweep: Sweep, kept: Rows, root: Path, results: Path) -> pd.DataFrame:
    """Write the tables of a sweep to `results/NAME`; return the table of all runs.

    `runs.csv` has a row for each run and method, also for those that failed, were refused or have not run yet;
    `summary.csv` has means, spreads and seeds; `about.json` command,
    minutes, devices, versions and dates; `sweep.yml` is the file that was run. Rows of `kept` that this machine has not
    run stay.
    """
    here, place = root / sweep.name, results / sweep.name
    table = pd.DataFrame([row for run in sweep.runs() for row in rows_of(run, here, kept)])
    exact = table.astype(dict.fromkeys(sweep.runs()[0].label, object))  # labels keep all their digits
    content = exact.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
    found = {**about(table, sweep.name), "sha256_runs": hashlib.sha256(content).hexdigest()}
    before = checksum(place / "runs.csv") if (place / "runs.csv").exists() else ""
    note = json.dumps({**found, "sha256_before": before}, indent=1)  # whichever of the two a kill leaves, it is known
    write_whole(place / "about.json", note + "\n")
    write_whole(place / "runs.csv", content)
    by = [name for name in sweep.runs()[0].label if name != "seed"]
    with atomic_write(place / "summary.csv") as half:
        summary(table, by).to_csv(half, index=False, float_format="%.5g")
    write_whole(place / "sweep.yml", sweep.text)
    write_whole(place / "about.json", json.dumps(found, indent=1) + "\n")
    return table


def checksum(file: Path) -> str:
    """SHA-256 of a table as text, whatever ends its lines."""
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def check_table(place: Path) -> None:
    """Refuse a table that was damaged or edited after it was written.

    Raises:
        ValueError: The checksum in `about.json` is of another table.
    """
    about = parse_json(read_limited(place / "about.json", MOST_NOTE_BYTES).decode())
    if checksum(place / "runs.csv") not in (about.get("sha256_runs"), about.get("sha256_before")):
        remedy = "restore it, or delete the folder and run the sweep again"
        raise ValueError(f"{place / 'runs.csv'} is not the table that {place / 'about.json'} describes; {remedy}")


def rows_of(run: Run, root: Path, kept: Rows = MappingProxyType({})) -> list[dict[str, Any]]:
    """One run as rows, one for each method: run here, or elsewhere (`kept`)."""
    extra, rows = _notes(run.folder(root) / "run.json"), []
    for word, folder in run.reports(root).items():
        label = {**run.label, "method": word} if word else run.label
        report, row = folder / "report.json", kept.get((run.digest, word))
        reasons = [each for each in (folder / "failed.txt", run.folder(root) / "failed.txt") if each.exists()]
        if report.exists():
            when = datetime.fromtimestamp(report.stat().st_mtime, UTC).date().isoformat()
            try:
                rows.append({**label, "status": "done", **_figures(Report.load(folder)), **extra, "date": when})
            except (KeyError, ValueError) as error:  # one that is damaged is a row, not the end of the table
                rows.append({**label, "status": f"damaged: {error_text(error)}"})
        elif row and (row["status"] == "done" or not reasons):
            rows.append({**row, **label})
        else:
            status = read_limited(reasons[0], MOST_NOTE_BYTES).decode(errors="replace") if reasons else "not run yet"
            rows.append({**label, "status": printable(status)})
    return rows


def _notes(notes: Path) -> dict[str, Any]:
    """What a run noted beside its reports; nothing if that is missing or damaged."""
    kinds = {"scale": str, "seconds_alone": (int, float)}
    try:
        found = parse_json(read_limited(notes, MOST_NOTE_BYTES))
        return {name: found[name] for name, kind in kinds.items() if isinstance(found.get(name), kind)}
    except (OSError, ValueError, AttributeError):
        return {}


def _figures(found: Report) -> dict[str, Any]:
    """The measures of a report as columns."""
    fair, alone, rewards = found.fairness, np.array(found.standalone), np.array(found.test_accuracy)
    low, high = fair.get("pearson_ceiling_interval") or (None, None)
    accurate = min(found.contribution) >= 0 and max(found.contribution) <= 1
    curve = found.curve and Curve(found.curve["widths"], found.curve["validation"], found.data["sizes"]["validation"])
    return {
        **{name: fair.get(name) for name in ("pearson", "pearson_ceiling", "spearman", "ideal_pearson_ceiling")},
        "pearson_ceiling_low": low,
        "pearson_ceiling_high": high,
        "pearson_circular": _circular_pearson(found, curve) if curve else None,
        "informative": informative(found.contribution, found.data["sizes"]["validation"]) if accurate else None,
        **{name: fair[name] for name in ("mcg", "cgs")},
        "cgs_ceiling_high": (fair.get("cgs_ceiling_interval") or (None, None))[1],
        "min_gain": fair["min_gain"],
        "worse_off": len(fair["worse_off"]),
        "non_inferior": len(fair["non_inferior"]) if "non_inferior" in fair else None,
        "alone_best": alone.max(),
        "alone_worst": alone.min(),
        "alone_sd": alone.std(),
        "reward_best": rewards.max(),
        "reward_mean": rewards.mean(),
        **(_curve_measures(found, curve) if curve else {}),
        "mean_width": None if found.widths is None else float(np.mean(found.widths)),
        "parameters_sent": found.parameters_sent,
        "seconds": found.seconds,
        "device": found.device,
        **{f"version_{name}": v for name, v in found.versions.items()},
        "data_sha256": found.data["sha256"][:12],
    }


@checked
def informative(contribution: ArrayLike, samples: Count) -> bool:
    r"""Return whether contributions differ by more than noise, so that a run says something about fairness.

    $\mathrm{sd}(B) \ge 3 \sqrt{\overline{B (1 - B)} / m}$ with $m$ validation samples. The test split has no say in it.

    Args:
        contribution: (n,) accuracies in [0, 1].
        samples: Number $m$ of validation samples.

    Raises:
        ValueError: A contribution is not an accuracy.

    Example:
        >>> informative([0.5, 0.6, 0.7], 1000), informative([0.5, 0.51, 0.52], 1000)
        (True, False)

    References:
        Our choice.
    """
    b = accuracies("contribution", contribution)
    return bool(b.std() >= max(3 * np.sqrt((b * (1 - b)).mean() / samples), 1e-12))


def _circular_pearson(found: Report, curve: Curve) -> float | None:
    """Pearson as in FedRAC's code: contributions are the test accuracies that it is measured against."""
    if not found.curve["test"]:
        return None
    plan = allocate(found.standalone, curve)
    return pearson(found.standalone, np.array(found.curve["test"])[np.searchsorted(curve.widths, plan.widths)])


def _curve_measures(found: Report, curve: Curve) -> dict[str, float]:
    """How good the global model's curve is: its ends, a quarter and half of it, its steps, where it is not monotone."""
    diagnostics = curve_diagnostics(curve, found.contribution)
    of_grid = curve.widths * found.config["grid"]
    departs, rewarded = np.abs(curve.fitted - curve.accuracy), curve.widths >= min(found.widths or (1.0,)) - 1e-9
    whole = (np.abs(of_grid - of_grid.round()) < 1e-3) | (curve.widths == curve.widths[0])  # the others are fractional
    of_whole = Curve(curve.widths[whole], curve.accuracy[whole], curve.samples)
    test = np.array(found.curve["test"] or found.curve["validation"])
    grown = np.searchsorted(curve.widths, np.array(WIDTHS) + 1e-9, side="right") - 1  # the size a width has
    return {
        "full": test[-1],
        "half": float(np.interp(0.5, curve.widths, test)),
        "quarter": float(np.interp(0.25, curve.widths, test)),
        "least": test[0],
        "largest_step": diagnostics["largest_step"],
        "largest_whole_step": curve_diagnostics(of_whole, found.contribution)["largest_step"],
        "noise": diagnostics["noise"],
        "not_monotone": float(departs.max()),
        "not_monotone_where_paid": float(departs[rewarded].max()),
        **{f"at_{width}": test[k] for width, k in zip(WIDTHS, grown) if k >= 0},
    }


@checked
def summary(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return means and standard deviations over the seeds, a row for each cell and method.

    Example:
        >>> runs = pd.DataFrame({"status": "done", "seed": [0, 1], "data": "mnist", "method": "aequa", "cgs": [0.01, 0.03]})
        >>> summary(runs, ["data"]).to_dict("records")[0]["cgs_mean"], summary(runs, ["data"])["seeds"][0]
        (0.02, '0 1')
    """
    done = table[table["status"] == "done"]
    keys = [name for name in (*by, "method") if name in done]
    rows = []
    for key, runs in done.groupby(keys, sort=False, dropna=False) if keys else [((), done)]:
        seeds = " ".join(map(str, sorted(set(runs["seed"])))) if "seed" in runs else ""
        row = {**dict(zip(keys, key)), "runs": len(runs), "seeds": seeds}
        for name in filter(runs.__contains__, MEANT):
            values = pd.to_numeric(runs[name])  # a hole is no figure
            row |= {f"{name}_mean": values.mean(), f"{name}_sd": values.std()}
        rows.append(row | {f"{name}_sum": runs[name].sum() for name in ("informative", "worse_off") if name in runs})
    return pd.DataFrame(rows)


@checked
def about(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return the origin of a table: command, counts, minutes, devices, versions and dates.

    Example:
        >>> about(pd.DataFrame({"status": ["done", "refused: no"], "seconds": [60.0, None]}), "mini")["minutes"]
        1.0
    """
    done, others = table[table["status"] == "done"], table[table["status"] != "done"]["status"]
    names = list(table)
    label = names[: names.index("method" if "method" in names else "status")]
    alone = done.drop_duplicates(label)["seconds_alone"].sum() if "seconds_alone" in done else 0.0
    seconds = alone + (done["seconds"].sum() if "seconds" in done else 0.0)

    def found(column: str) -> list[str]:
        return sorted({str(value) for value in done[column].dropna()}) if column in done else []

    return {
        "command": f"aequa sweep sweeps/{name}.yml",
        "rows": len(table),
        "done": len(done),
        "others": {status: int(count) for status, count in others.value_counts().items()},
        "minutes": round(float(seconds) / 60, 1),
        "devices": found("device"),
        "versions": {each.removeprefix("version_"): found(each) for each in done if each.startswith("version_")},
        "dates": found("date"),
    }
