"""Fill the tables, figures and verdicts of the book's page of results from the files under results/ and nothing else.

usage: python scripts/results.py [--check]     (--check: only say whether the page is up to date)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import choose_constants
import comparisons
import numpy as np
import pandas as pd
import result_figures as figures
from published import Claim, Verdict, check_claim, published, rows_for, wins

from aequa_lite._io import atomic_write
from aequa_lite.config import Config
from aequa_lite.experiments.sweep import plain_yaml, read_sweep

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = ("results", "published", "further_results", "intro", "conclusion", "run", "speed")
PAGES = [ROOT / "book" / f"{name}.md" for name in WRITTEN]
CORRECTED = ("cffl", "fedavg_finetuned", "fedsac")  # after version 0.1
TWO_SIZES = (
    "\n‡ Shards of two sizes only: contributions form two clusters, and a Pearson near 1 says little more than that the "
    "clusters are in the right order.\n"
)
SAME_GAIN = 0.01  # a best reward at most so far above the best model alone is about equal to it
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", flags=re.S)


def table_of(name: str) -> pd.DataFrame | None:
    """All rows of a sweep, or None where it has not been run here."""
    path = ROOT / "results" / name / "runs.csv"
    return pd.read_csv(path, dtype={"case": str}) if path.exists() else None


def rows_of(name: str) -> pd.DataFrame:
    """The finished rows of a sweep, without those of methods whose code was corrected since."""
    table = table_of(name)
    return pd.DataFrame() if table is None else table[(table["status"] == "done") & ~outdated(table)]


def outdated(table: pd.DataFrame) -> pd.Series:
    """Which rows are of a method whose code was corrected after they were measured."""
    if "method" not in table:
        return pd.Series(False, index=table.index)
    name = table["method"].astype(str).str.split("(").str[0]
    return name.isin(CORRECTED) & table["version_aequa-lite"].astype(str).str.startswith("0.1.")


def not_tried(name: str) -> str:
    """What stands where a table would, and how to fill it."""
    return f"Not tried here. `aequa sweep sweeps/{name}.yml` fills it.\n"


def spread(values: pd.Series, digits: int = 3) -> str:
    """Mean and standard deviation over the seeds, or the one value there is."""
    known = values.dropna()
    if known.empty:
        return "-"
    deviation = f"\u00a0±\u00a0{known.std():.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{deviation}"


def informative(runs: pd.DataFrame) -> pd.Series:
    """Which runs say anything about fairness: contributions differ by three standard errors or more."""
    return runs["informative"].astype(str) == "True"


def error_alone(runs: pd.DataFrame) -> pd.Series:
    """The standard error of the best accuracy alone, on the test split."""
    samples = runs["data"].map({"sst2": 1_821}).fillna(10_000) if "data" in runs else 10_000
    return np.sqrt(runs["alone_best"] * (1 - runs["alone_best"]) / samples)


def within_noise(told: pd.DataFrame) -> pd.Series:
    """Which runs have both Pearson and CGS within what noise allows."""
    return (told["pearson"] >= told["pearson_ceiling_low"]) & (told["cgs"] <= told["cgs_ceiling_high"])


def within(runs: pd.DataFrame) -> str:
    """In how many of the informative runs Pearson and CGS lie within what noise allows."""
    told = runs[informative(runs)]
    if told.empty:
        return "uninformative"
    return f"{int(within_noise(told).sum())} of {len(told)}"


def marked(partition: object) -> str:
    """A partition's name, with a mark if it has shards of two sizes only."""
    return f"{partition}\u00a0‡" if str(partition).startswith("imbalanced(") else str(partition)


def two_sizes(table: pd.DataFrame) -> str:
    """The footnote, where a table has such a partition."""
    return TWO_SIZES * bool(table["partition"].astype(str).str.startswith("imbalanced(").any())


def known(table: pd.DataFrame, measure: str) -> list[str]:
    """The measure, if all rows have it that have a Pearson: older rows lack some measures."""
    return [measure] if measure in table and table[measure][table["pearson"].notna()].notna().all() else []


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; a column in which every cell begins like a number stands to the right."""
    numbers = [
        all(re.match(r"[-+\u2212]?\d|-$|uninformative", cell) for cell in column) for column in zip(*rows, strict=True)
    ]
    numbers[0] = False  # what the row is about
    lines = [head, ["---:" if each else "---" for each in numbers], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def fairness(name: str, by: list[str]) -> str:
    """Our runs beside FedAvg's, a line for each cell of the grid."""
    table = rows_of(name)
    ours, plain = table[table["case"] == "ours"], table[table["case"] == "plain FedAvg"]
    rows = []
    for key, runs in ours.groupby(by, sort=False):
        same = (plain[by] == pd.Series(dict(zip(by, key)))).all(axis=1)
        columns = [spread(runs["alone_best"]), spread(runs["full"]), spread(plain[same]["full"])]
        columns += [spread(runs["pearson"]), within(runs), spread(runs["cgs"]), spread(runs["mcg"])]
        columns += [spread(runs["min_gain"]), str(int(runs["worse_off"].sum()))]
        rows.append([*map(marked, key), *columns])
    head = [*by, "best alone", "full width", "FedAvg", "Pearson", "within noise", "CGS", "MCG", "smallest gain"]
    return markdown([*head, "worse off"], rows) + two_sizes(ours)


def ways(name: str) -> str:
    """The finalists of the screening, our way of training and FedAvg."""
    table = rows_of(name)
    rows = []
    for (data, case), runs in table.groupby(["data", "case"], sort=False):
        columns = [spread(runs[each]) for each in ("full", "quarter", "pearson", "cgs", "min_gain", "mean_width")]
        rows.append([data, case, *columns])
    return markdown(
        ["data", "training", "full width", "width 0.25", "Pearson", "CGS", "smallest gain", "mean width"], rows
    )


def methods(name: str) -> str:
    """A line for each method: over all cells of a sweep, and Pearson over those that say something."""
    table, rows, fewer = rows_of(name), [], []
    counts, spearman = table["method"].value_counts(), known(table, "spearman")
    most, unequal = counts.max(), counts.nunique() > 1
    for method, runs in table.groupby("method", sort=False):
        told, (won, cells) = runs[informative(runs)], wins(table, str(method))
        columns = [spread(runs[each]) for each in ("reward_best", "reward_mean", "mcg", "cgs")]
        defined = f"{told['pearson'].notna().sum()} of {len(told)}"
        columns += [spread(told[each]) for each in ("pearson", *spearman)]
        rows.append([f"`{method}`", *[str(len(runs))] * unequal, f"{won} of {cells}", *columns, defined])
        rows[-1] += [f"{runs['min_gain'].min():+.3f}", str(int(runs["worse_off"].sum()))]
        if len(runs) < most:
            rows[-1][0] += "\u00a0§"
            fewer.append(beside(table, str(method)))
    head = ["method", "runs"] if unequal else [f"method, in {most} runs"]
    head += ["highest best reward", "best reward", "mean reward", "MCG", "CGS", "Pearson"]
    head += ["Spearman"] * len(spearman)
    notes = f"\n§ Not in all runs, so its means are of other cells. `aequa` in the same runs: {'; '.join(fewer)}.\n"
    notes *= bool(fewer)
    return markdown([*head, "defined in", "smallest gain", "worse off"], rows) + notes


def beside(table: pd.DataFrame, method: str) -> str:
    """Our means over the runs that another method has."""
    run = [each for each in ("data", "partition", "network", "seed") if each in table]
    same = table[table["method"] == method].set_index(run).index
    ours = table[table["method"] == "aequa"].set_index(run, drop=False).loc[same]
    told = ours[informative(ours)]["pearson"].mean()
    means = [f"best reward {ours['reward_best'].mean():.3f}", f"MCG {ours['mcg'].mean():.3f}"]
    means += [f"CGS {ours['cgs'].mean():.3f}", f"Pearson {told:.3f}"]
    return f"beside `{method}` ({len(ours)}) {', '.join(means)}"


def cells(name: str) -> str:
    """A line for each cell: alone, ours, FedAvg, the best other baseline by its best reward and by its Pearson."""
    table = rows_of(name)
    by = [each for each in ("data", "partition", "network") if each in table]
    rows = []
    for key, runs in table.groupby(by, sort=False):
        ours, others = runs[runs["method"] == "aequa"], runs[~runs["method"].str.match(r"aequa\b|fedavg$")]
        told = others if bool(informative(runs).all()) else others[:0]
        columns = [spread(ours["alone_best"]), spread(ours["reward_best"])]
        columns += [spread(runs[runs["method"] == "fedavg"]["reward_best"]), highest(others, "reward_best")]
        columns += [spread(ours["pearson"]), within(ours), highest(told, "pearson"), str(int(ours["worse_off"].sum()))]
        rows.append([*(marked(each).split("(embedding")[0] for each in key), *columns])
    head = [
        *by,
        "best alone",
        "ours, best",
        "FedAvg",
        "highest other",
        "ours, Pearson",
        "within noise",
        "fairest other",
    ]
    return markdown([*head, "worse off, ours"], rows) + two_sizes(table)


def methods_and_cells(name: str) -> str:
    """Both tables of a comparison: over all cells, and by cell."""
    return methods(name) + "\n" + cells(name)


def highest(runs: pd.DataFrame, measure: str) -> str:
    """The method with the highest mean, and that mean."""
    if runs.empty or (means := runs.groupby("method")[measure].mean().dropna()).empty:
        return "-"
    name = str(means.idxmax()).replace("(", "(\u200b")  # may break there, in a narrow column
    return f"{means.max():.3f} (`{name}`)"


def protocol(name: str) -> str:
    """FedRAC's protocol: a line for each partition and method, with Pearson ours and their way."""
    table, rows = rows_of(name), []
    ranks = known(table, "spearman")
    measures = ("alone_best", "reward_best", "pearson", *ranks, "pearson_circular", "min_gain")
    for (case, method), runs in table.groupby(["case", "method"], sort=False):
        columns = [spread(runs[each]) for each in measures]
        rows.append([case, f"`{method}`", *columns, str(int(runs["worse_off"].sum())), str(runs["seed"].nunique())])
    head = ["partition", "method", "best alone", "best reward", "Pearson", *["Spearman"] * len(ranks)]
    head += ["circular Pearson", "smallest gain"]
    return markdown([*head, "worse off", "seeds"], rows)


def summary_of_cells(name: str) -> str:
    """In how many runs of a sweep `aequa` is as fair as noise allows, is beaten, and leaves somebody worse off."""
    table = rows_of(name)
    run = [each for each in ("data", "partition", "network", "seed") if each in table]
    best = table.pivot(index=run, columns="method", values="reward_best")
    ours = table[table["method"] == "aequa"].set_index(run, drop=False).loc[best.index]
    fair, beaten = within_noise(ours[informative(ours)]), best.drop(columns="aequa").max(axis=1) > best["aequa"] + 0.005
    gains = best["fedavg"] > ours["alone_best"] + 0.01 + 2 * error_alone(ours)
    unhurt = ours["worse_off"][gains] == 0
    return (
        f"\nPearson and CGS of `aequa` both lie within what noise allows in {fair.sum()} of {len(fair)} informative runs. "
        f"Some baseline's best reward is more than half a point above ours in {beaten.sum()} of {len(beaten)} runs. Nobody is "
        f"worse off in {unhurt.sum()} of the {len(unhurt)} runs in which FedAvg beats the best participant alone by more than "
        f"a point and two standard errors.\n"
    )


def others(name: str) -> str:
    """The rows without a figure, by their reasons."""
    table = table_of(name)
    if table is None or (left := table[table["status"] != "done"]).empty:
        return ""
    by = [each for each in ("case", "data", "partition", "network") if each in left]
    rows = [
        [", ".join(map(str, key)), str(runs["method"].nunique()), str(runs["status"].iloc[0])]
        for key, runs in left.groupby(by, sort=False)
    ]
    return folded(
        f"{len(rows)} cell{'s' * (len(rows) > 1)} without a figure", markdown(["cell", "methods", "why"], rows)
    )


def folded(title: str, table: str) -> str:
    """A table that opens when asked."""
    return f"\n<details>\n<summary>{title}</summary>\n\n{table}\n</details>\n"


def rows_to_fill(name: str) -> str:
    """The cells of a sweep that has not been run here, each data set a line, with the command that fills them."""
    table, sweep = table_of(name), read_sweep(ROOT / "sweeps" / f"{name}.yml")
    done = set() if table is None else set(table[table["status"] == "done"]["data"])
    wanted: dict[str, set[str]] = {}
    for run in sweep.runs():
        wanted.setdefault(run.label["data"], set()).add(run.parameters["partition"])
    rows = [
        [data, str(len(parts)), "tried" if data in done else "not tried here", f"`aequa sweep sweeps/{name}.yml`"]
        for data, parts in wanted.items()
    ]
    return markdown(["data", "partitions", "paper scale", "filled by"], rows)


def all_tried() -> dict[str, list[tuple[Claim, str, Verdict]]]:
    """Every published figure that was tried, by subject, with the scale and the verdict of each trial."""
    found: dict[str, list[tuple[Claim, str, Verdict]]] = {}
    for subject, each in published(ROOT / "results" / "published.yml").items():
        verdicts = [
            (claim, scale, checked(claim, table_of(sweep))) for claim in each for scale, sweep in claim.sweeps.items()
        ]
        found[subject] = [trial for trial in verdicts if trial[2].runs]
    return found


def scorecard() -> str:
    """How many published figures are matched: those of the same method, those that ours is held against, the paper's own."""
    found, every = all_tried(), published(ROOT / "results" / "published.yml")
    tried = [each for subject in found.values() for each in subject]
    own = [verdict for _, _, verdict in found["aequa"]]
    against = [verdict for claim, _, verdict in tried if "held against ours" in claim.claim]
    same = [
        each for subject, group in found.items() for each in group
        if subject != "aequa" and "held against ours" not in each[0].claim
    ]  # fmt: skip
    matched = [caveat(c, c.sweeps[scale]) for c, scale, v in same if v.word == "matched"]
    weak = ", ".join(f"{matched.count(kind)} {words}" for kind, words in CAVEATS.items() if kind in matched)
    waiting = sum(
        not any(checked(c, table_of(s)).runs for s in c.sweeps.values()) for each in every.values() for c in each
    )
    return (
        f"\nWe hold {len(same)} published figures of other methods against our runs of the same method: "
        f"{counted([v for _, _, v in same])}. Of the {len(matched)} matched, {matched.count('')} are without "
        f"reservation; {weak}. {len(against)} more comparisons repeat nothing: they hold *our* method against FedRAC's figures: "
        f"{counted(against)}. Of the paper's own {len(own)}: {counted(own)}. {waiting} figures were not tried at any scale.\n"
    )


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts there are of each kind."""
    words = [verdict.word for verdict in verdicts]
    kinds = ("matched", "trend only", "not matched", "withdrawn")
    return ", ".join(f"**{words.count(kind)} {kind}**" for kind in kinds if kind in words)


CAVEATS = {  # label of a verdict -> what it means, in the plural
    "other draw": "are of shards that are drawn in another way than the published ones",
    "no gain at the top": "are correlations in runs whose best reward is about equal to the best model trained alone",
    "older code": "are of CGSV before its correction",
}


def caveat(claim: Claim, sweep: str) -> str:
    """Why a verdict says less than it seems to, as a label; empty if nothing is known against it."""
    rows = rows_for(rows_of(sweep), claim.rows)
    if drawn(sweep, str(claim.rows.get("case"))).startswith("dirichlet("):
        return "other draw"
    if (
        rows["method"].str.startswith("cgsv").any()
        and rows["version_aequa-lite"].astype(str).str.startswith("0.1.").any()
    ):
        return "older code"
    above = (rows["reward_best"] - rows["alone_best"]).mean()
    return "no gain at the top" if claim.measure == "pearson" and above <= SAME_GAIN else ""


@cache
def drawn(sweep: str, case: str) -> str:
    """The partition of a case in the sweep file that was run; empty where a sweep has no such case."""
    file = ROOT / "results" / sweep / "sweep.yml"
    return str(plain_yaml(file)[0].get("cases", {}).get(case, {}).get("partition", ""))


def headline() -> str:
    """One sentence about the run of chapter 1, over its seeds."""
    table = pd.read_csv(ROOT / "results" / "quickstart" / "seeds.csv")
    pearson, gain = table.groupby("seed")["pearson"].first(), table["gain"]
    below = gain[gain < 0]
    many = int(table["worse_off"].sum()) or "none"
    rest = (
        f"; the others are below it by at most {-100 * below.min():.1f} points, {many} significantly"
        if len(below)
        else ""
    )
    return (
        f"\n**Over {len(pearson)} seeds of the first chapter, rewards follow contributions with a correlation of "
        f"{pearson.mean():.3f} (least: {pearson.min():.4f}), and {len(gain) - len(below)} of {len(gain)} rewards are at least as "
        f"accurate as the model that the participant trains alone{rest}.**\n"
    )


def shown() -> str:
    """What the method does with its defaults, in numbers."""
    table = rows_of("nine_partitions")
    ours, plain = (table[table["case"] == case].set_index(["partition", "seed"]) for case in ("ours", "plain FedAvg"))
    told = ours[informative(ours)]
    lost = 100 * (plain["full"].reindex(ours.index) - ours["full"])
    tuned = comparisons.of_runs(tuned_rows())
    fair = tuned[tuned["informative"]]
    behind = (tuned["difference"] < 0).sum()
    return (
        f"{headline()}\nOn nine partitions of Fashion-MNIST with three seeds each, the full width lies "
        f"{lost.median():.1f} points below FedAvg in the median ({lost.max():.1f} at most), Pearson and CGS lie within what "
        f"noise allows on their own curve in {int(within_noise(told).sum())} of {len(told)} informative runs, and "
        f"{int(ours['worse_off'].sum())} of {10 * len(ours)} rewards are significantly worse than alone. "
        f"Against baselines whose constants were chosen on validation, no other method has both a higher best reward and more "
        f"equal gains in {how_many(fair['front'])} informative runs. FedAvg, which gives everybody the same model, has the more "
        f"accurate best reward in {behind} of {len(tuned)} runs; over all of them its best reward is "
        f"{-tuned['difference'].mean():.1f} points above ours in the mean. In an "
        f"older comparison on four data sets, LG-FedAvg has the higher Pearson in {ahead('lg_fedavg', 'pearson', told=True)} "
        f"informative runs, with a mean gain of zero, and FedAvg the more accurate best reward in "
        f"{ahead('fedavg', 'reward_best')} runs.\n"
    )


def glance() -> str:
    """What was aimed at, what was measured, and whether it is met."""
    sweep = rows_of("nine_partitions")
    ours = sweep[sweep["case"] == "ours"]
    rows = [
        share(
            "rewards follow contributions as closely as noise allows: nine partitions",
            within_noise(ours[informative(ours)]),
        )
    ]
    tuned = tuned_rows()
    runs = comparisons.of_runs(tuned)
    told = runs[runs["informative"]]
    rows += [
        share("no other method has both a higher best reward and more equal gains: tuned baselines", told["front"]),
        [
            "no other method has both a higher mean reward and a higher smallest gain: tuned baselines",
            "no aim",
            how_many(comparisons.on_front(tuned, "aequa", *comparisons.AXES[1])),
            "-",
        ],
        share("no method whose mean gain is as large has more equal gains: tuned baselines", told["lowest_at_gain"]),
        share("Pearson at most 0.01 below what a perfect curve would give: tuned baselines", told["ideal"].dropna()),
    ]
    mean, low, high = comparisons.interval(runs["difference"])
    rows.append(
        [
            "best reward less FedAvg's in the same run: tuned baselines",
            f"95% interval above {comparisons.TARGET} points",
            f"{mean:+.2f} points ({low:+.2f} to {high:+.2f}), {len(runs)} runs",
            yes(low > comparisons.TARGET),
        ]
    )
    worse, many = int(ours["worse_off"].sum()), 10 * len(ours)
    rows.append(
        ["rewards significantly worse than alone: nine partitions", "none", f"{worse} of {many}", yes(worse == 0)]
    )
    safe = tuned[tuned["method"] == "aequa"]["non_inferior"].dropna()  # older rows lack it
    shown_safe = f"{int(safe.sum())} of {10 * len(safe)}"
    what = "rewards shown to be at most a point worse than alone: tuned baselines"
    rows.append([what, "all", shown_safe, yes(bool(safe.sum() == 10 * len(safe)))])
    rows += while_training()
    lost = price(tuned)
    rows.append(
        [
            "price: mean reward below FedAvg's, which gives everybody the same model: tuned baselines",
            "no aim",
            f"{(lost > 0).sum()} of {len(lost)} runs, by {lost.mean():.1f} points in the mean",
            "-",
        ]
    )
    return "\n" + markdown(["what", "aim", "measured", "met"], rows)


def tuned_rows() -> pd.DataFrame:
    """The rows of all sweeps whose constants were chosen on validation."""
    networks = {"baselines_tuned": "MLP", "baselines_tuned_cifar10": "MLP", "baselines_tuned_lenet": "LeNet"}
    return pd.concat([rows_of(name).assign(network=network) for name, network in networks.items()])


def price(tuned: pd.DataFrame) -> pd.Series:
    """By how many points FedAvg's mean reward exceeds ours, for each run."""
    means = tuned.pivot(index=comparisons.RUN, columns="method", values="reward_mean")
    return 100 * (means["fedavg"] - means["aequa"])


def share(what: str, true: pd.Series) -> list[str]:
    """A line of the first table: something that shall be so in 90% of the informative runs."""
    return [what, "90% of informative runs", how_many(true), yes(bool(len(true)) and true.mean() >= 0.9)]


def yes(met: bool) -> str:
    """A word for the last column."""
    return "yes" if met else "**no**"


def while_training() -> list[list[str]]:
    """The lines about rewards while training, at the allowance that the aims are about."""
    path = ROOT / "results" / "training_time" / "allowances.csv"
    (row,) = [each for each in allowance_rows(pd.read_csv(path)) if each[0] == "1"]
    near, (behind, most), pearson = row[1], row[2].rstrip(")").split(" ("), row[3]
    (close, runs), (within, told) = (map(int, each.split(" of ")) for each in (near, pearson))
    far = f"{behind} of {runs} runs, {most} at most"
    what = "rewards while training: full width at most a point below rewards after training"
    return [
        [what, f"28 of {runs} runs", near, yes(close >= 28)],
        ["the same: more than three points below", "never", far, yes(behind == "0")],
        [
            "the same: Pearson as after training, up to noise",
            "90% of informative runs",
            pearson,
            yes(within >= 0.9 * told),
        ],
    ]


def ahead(method: str, column: str, told: bool = False) -> str:
    """In how many runs of the comparison with all methods another one is above ours, of how many (`told`: informative)."""
    table = rows_of("baselines_mini")
    table = table[informative(table)] if told else table
    run = ["data", "partition", "network", "seed"]
    both = table.pivot(index=run, columns="method", values=column)[["aequa", method]].dropna()
    return f"{(both[method] > both['aequa']).sum()} of {len(both)}"


def lost() -> str:
    """How often the method loses, in which respect, and where the rows are."""
    table, today = rows_of("baselines_mini"), rows_of("nine_partitions")
    ours = table[table["method"] == "aequa"]
    today = today[today["case"] == "ours"]
    behind, tuned = behind_others(table), tuned_rows()
    while_training = pd.read_csv(ROOT / "results" / "training_time" / "allowances.csv")
    default = while_training[(while_training["method"] == "training_time") & (while_training["factor"] == 1)]
    tried = [verdict.word for each in all_tried().values() for _, _, verdict in each]
    rows = [
        ["runs in which FedAvg's mean reward is above ours, tuned baselines", how_many(price(tuned) > 0)],
        ["the same in four data sets, older defaults", ahead("fedavg", "reward_mean")],
        [
            "runs in which a baseline's best reward is more than half a point above ours, tuned baselines",
            how_many(behind_others(tuned) > 0.5 + 1e-9),
        ],
        ["the same in four data sets, older defaults", how_many(behind > 0.5 + 1e-9)],
        [
            "rewards significantly worse than alone, four data sets, older defaults",
            f"{int(ours['worse_off'].sum())} of {10 * len(ours)}",
        ],
        ["the same in the sweep of nine partitions", f"{int(today['worse_off'].sum())} of {10 * len(today)}"],
        [
            "runs with rewards while training in which somebody is worse off",
            f"{(default['worse_off'] > 0).sum()} of {len(default)}",
        ],
        [
            "published figures whose value and trend we miss, without those that are withdrawn",
            f"{tried.count('not matched')} of {len(tried) - tried.count('withdrawn')}",
        ],
    ]
    return "\n" + markdown(["where we lose", "how often"], rows) + "\n{doc}`results` and {doc}`published` list them.\n"


def behind_others(table: pd.DataFrame) -> pd.Series:
    """By how many points the best reward of any other method exceeds ours, for each run."""
    run = [each for each in comparisons.RUN if each in table]
    best = table.pivot(index=run, columns="method", values="reward_best")
    return 100 * (best.drop(columns="aequa").max(axis=1) - best["aequa"])


def losses() -> str:
    """Every cell in which another method's best reward exceeds ours by more than half a point, the largest first."""
    table, cell = rows_of("baselines_mini"), ["data", "partition", "network"]
    means = table.groupby([*cell, "method"])["reward_best"].mean().unstack()
    worse = table[table["method"] == "aequa"].groupby(cell)["worse_off"].sum()
    others = means.drop(columns="aequa")
    points = (100 * (others.max(axis=1) - means["aequa"])).sort_values(ascending=False)
    rows = [
        [
            *key,
            f"{means['aequa'][key]:.3f}",
            f"`{others.loc[key].idxmax()}`",
            f"{others.loc[key].max():.3f}",
            f"{lead:.1f}",
            str(int(worse[key])),
        ]
        for key, lead in points[points > 0.5 + 1e-9].items()
    ]
    rows = [[r[0], marked(r[1]), r[2].split("(")[0], *r[3:]] for r in rows]
    head = ["data", "partition", "network", "ours, best", "highest", "its best", "points", "worse off, ours"]
    every = f"\n{len(rows)} of {len(points)} cells of the comparison with all methods, means over their seeds:\n\n"
    return every + markdown(head, rows) + two_sizes(table)


def compared() -> dict[str, pd.DataFrame]:
    """The runs of every comparison with all methods, by its name."""
    return {words: comparisons.of_runs(table) for words, table in comparison_rows().items()}


def comparison_rows() -> dict[str, pd.DataFrame]:
    """The rows of every comparison."""
    tables = {words: rows for sweep, words in COMPARISONS.items() if len(rows := rows_of(sweep))}
    natural = pd.read_csv(ROOT / "results" / "natural" / "runs.csv")
    return tables | {str(data): runs for data, runs in natural[natural["seed"] < 100].groupby("data", sort=False)}


COMPARISONS = {
    "baselines_mini": "four data sets, older defaults",
    "baselines_tuned": "Fashion-MNIST, constants chosen on validation",
    "baselines_tuned_cifar10": "CIFAR-10, constants chosen on validation",
    "baselines_tuned_lenet": "LeNet on Fashion-MNIST, constants chosen on validation",
    "training_time": "baselines that reward while training",
}


def front() -> str:
    """In how many runs ours is on the front of best reward and CGS, and has the lowest CGS among methods that reach as much."""
    rows = []
    for words, runs in compared().items():
        told, rest = runs[runs["informative"]], runs[~runs["informative"]]
        counts = [how_many(told[each]) for each in ("front", "lowest_at_gain", "lowest_at_best")]
        measured = told["ideal"].dropna()  # older rows lack it
        counts.append(how_many(measured) if len(measured) else "not measured")
        rows.append([words, str(len(told)), *counts, how_many(rest["front"])])
    head = ["comparison", "informative runs", "on the front", "lowest CGS at its mean gain"]
    head += ["lowest CGS at its best reward", "Pearson within 0.01 of the ideal ceiling"]
    return markdown([*head, "on the front, other runs"], rows)


def fronts() -> str:
    """On how many Pareto fronts other methods are, by our measures and by FedAvg's."""
    names, rows = ("aequa", "fedavg", "lg_fedavg"), []
    for words, table in comparison_rows().items():
        found = [comparisons.on_front(table, name, *axes) for axes in comparisons.AXES for name in names]
        if max(map(len, found)):
            rows.append([words, *map(how_many, found)])
    kinds = ("best reward, CGS", "mean reward, smallest gain")
    return markdown(
        ["comparison", *(f"{kind}: {name}" for kind in kinds for name in ("ours", "FedAvg", "LG-FedAvg"))], rows
    )


def how_many(true: pd.Series) -> str:
    """In how many of these runs."""
    return f"{int(true.sum())} of {len(true)}" if len(true) else "-"


def against_fedavg() -> str:
    """Our best reward less FedAvg's, paired by run, with its 95% interval."""
    table = rows_of("nine_partitions")
    ours, plain = (table[table["case"] == case].set_index(["partition", "seed"]) for case in ("ours", "plain FedAvg"))
    pairs = {
        f"nine partitions, {words}": 100 * (ours[each] - plain["full"].reindex(ours.index))
        for each, words in {"reward_best": "best reward", "full": "full width"}.items()
    }
    frames = {words: each.rename("difference").reset_index() for words, each in pairs.items()} | compared()
    rows = [[words, *difference_row(runs)] for words, runs in frames.items()]
    tuned = tuned_rows().pivot(index=comparisons.RUN, columns="method", values="reward_best")
    weighted = {
        f"`{ABLATION}` less FedAvg: what our weights cost": tuned[ABLATION] - tuned["fedavg"],
        f"ours less `{ABLATION}`: what training every width costs": tuned["aequa"] - tuned[ABLATION],
    }
    for words, differences in weighted.items():
        rows.append([words, *difference_row((100 * differences).rename("difference").reset_index())[:-1], "-"])
    head = ["comparison", "runs", "mean difference, points", "95% interval", "by data set or seed", "above -0.3"]
    return markdown(head, rows)


def difference_row(runs: pd.DataFrame) -> list[str]:
    """Count, mean, interval over the runs, interval over the means of data sets (or of seeds), and whether the aim is met."""
    if len(runs) < 2:
        return [str(len(runs)), f"{runs['difference'].mean():+.2f}", "-", "-", "not shown: one run"]
    mean, low, high = comparisons.interval(runs["difference"])
    group = next((name for name in ("data", "seed") if name in runs and runs[name].nunique() > 2), None)
    wide = "-"
    alike = group == "data" or (group and runs.groupby(group).size().nunique() == 1)  # seeds of the same cells
    if group and alike and runs[group].nunique() < len(runs):
        _, least, most = comparisons.interval(runs.groupby(group)["difference"].mean())
        wide = f"{least:+.2f} to {most:+.2f}"
    met = "no" if low <= comparisons.TARGET else "yes" if high > low else "not shown: equal in all runs"
    return [str(len(runs)), f"{mean:+.2f}", f"{low:+.2f} to {high:+.2f}", wide, met]


def pearson_cells() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean Pearson of `aequa` by data set and partition, and whether most of a cell's runs are informative."""
    mini = rows_of("baselines_mini")
    mini = mini[(mini["method"] == "aequa") & (mini["network"] != "LeNet")]
    today = rows_of("nine_partitions")
    today = today[today["case"] == "ours"].assign(data="fashion, nine partitions")
    table = pd.concat([today, mini])
    table = table.assign(told=informative(table).astype(float))
    means = table.groupby(["data", "partition"], sort=False)[["pearson", "told"]].mean()
    order = list(today["partition"].unique())
    data = [today["data"].iloc[0], *mini["data"].unique()]
    values, told = (means[each].unstack().reindex(index=data, columns=order) for each in ("pearson", "told"))
    return values.rename(columns=marked), told.rename(columns=marked) >= 0.5


def fairness_and_accuracy(sweep: str) -> pd.DataFrame:
    """For each method its best reward above FedAvg's in the same run, in points, and its Pearson: means, standard errors."""
    table = rows_of(sweep)
    table = table[informative(table)]
    run = [each for each in comparisons.RUN if each in table]
    base = table[table["method"] == "fedavg"].set_index(run)["reward_best"]
    above = 100 * (table.set_index(run)["reward_best"] - base.reindex(pd.MultiIndex.from_frame(table[run])))
    table = table.assign(above=above.to_numpy(), name=table["method"])
    table = table[table["pearson"].notna()]
    by = table.groupby("name", sort=False)
    return pd.DataFrame(
        {
            "accuracy": by["above"].mean(),
            "accuracy_error": by["above"].sem(),
            "pearson": by["pearson"].mean(),
            "pearson_error": by["pearson"].sem(),
            "runs": by.size(),
        }
    )


def server_momentum(name: str) -> str:
    """Best reward, Pearson and CGS of ours and of FedAvg, without momentum of the server and with it."""
    table, rows = rows_of(name), []
    kind = table["method"].str.extract(r"(\w+)(?:\(server='fedavgm\((.+)\)'\))?")
    table = table.assign(method=kind[0], momentum=kind[1].fillna("none"))
    (momentum,) = set(table["momentum"]) - {"none"}
    for partition, runs in table.groupby("partition", sort=False):
        own = dict(iter(runs.groupby(["method", "momentum"])))
        ours, fedavg = ([own[method, each] for each in ("none", momentum)] for method in ("aequa", "fedavg"))
        columns = [spread(each["reward_best"]) for each in (*ours, *fedavg)]
        columns += [spread(each[measure]) for measure in ("pearson", "cgs") for each in ours]
        rows.append([marked(str(partition)), str(len(ours[0])), *columns])
    more = f"with {momentum}"
    head = ["partition", "runs", "best reward", more, "FedAvg", more, "Pearson", more, "CGS", more]
    return markdown(head, rows) + two_sizes(table)


ABLATION = "fedavg(by_contribution=True)"


def ablation() -> str:
    """FedAvg, FedAvg with our weights, and ours: what of the difference is due to the weights."""
    table = pd.read_csv(ROOT / "results" / "baseline_seeds" / "methods.csv")
    table = table.assign(gain=table["test"] - table["alone"])
    rows = []
    for partition, here in table.groupby("partition", sort=False):
        for method in ("fedavg", ABLATION, "aequa"):
            runs = here[here["method"] == method].groupby("seed")
            gain = runs["gain"]
            values = [spread(each) for each in (runs["alone"].max(), runs["test"].max(), gain.mean(), gain.std(ddof=0))]
            rows.append([str(partition).replace("_", " "), f"`{method}`", *values])
    about = json.loads((ROOT / "results" / "baseline_seeds" / "summary.json").read_text())
    seeds = ", ".join(map(str, about["seeds"]))
    count = f"{table['participant'].nunique()} participants; seeds {seeds}"
    link = f"{{download}}`{count} (CSV) <../results/baseline_seeds/methods.csv>`"
    told = (
        f"\nBy `python scripts/baseline_seeds.py`; {link}; measured with version {about['versions']['aequa-lite']}.\n"
    )
    return markdown(["partition", "method", "best alone", "best reward", "MCG", "CGS"], rows) + told


def participants_gains() -> pd.DataFrame:
    """The gain of each participant under each method, over the seeds of chapter 8."""
    table = pd.read_csv(ROOT / "results" / "baseline_seeds" / "methods.csv")
    table = table.assign(method=table["method"].replace(ABLATION, "fedavg, by contribution"))
    table = table[~table["method"].str.contains("(", regex=False)]
    return table.assign(gain=table["test"] - table["alone"])[
        ["partition", "seed", "method", "participant", "alone", "gain"]
    ]


def draw(check: bool = False) -> list[str]:
    """Draw the figures whose rows changed; with `check`, only name them."""
    found = {s: [t for t in each if t[2].word in figures.VERDICTS] for s, each in all_tried().items()}
    found = {TITLES[s]: each for s, each in found.items() if each}
    values, told = pearson_cells()
    trade, gains = fairness_and_accuracy("baselines_tuned"), participants_gains()
    wanted = {
        "forest": (lambda: figures.forest(found), [repr(found)]),
        "pearson": (lambda: figures.heat(values, told), [values, told]),
        "pareto": (lambda: figures.pareto(trade), [trade]),
        "gains": (lambda: figures.strips(gains), [gains]),
        "speed": (lambda: figures.bars(*speeds()), speeds()),
    }
    old = [name for name, (_, rows) in wanted.items() if not figures.is_current(name, rows)]
    if not check:
        for name in old:
            figures.save(name, *wanted[name])
    return old


def claims(name: str) -> str:
    """Every published figure of the subject beside ours, with its verdict; what was not tried is folded away."""
    tried, untried, labels = [], [], set()
    for each in published(ROOT / "results" / "published.yml")[name]:
        found = {scale: checked(each, table_of(sweep)) for scale, sweep in each.sweeps.items()}
        tried += [claim_row(each, scale, verdict) for scale, verdict in found.items() if verdict.runs]
        labels |= {caveat(each, each.sweeps[scale]) for scale, verdict in found.items() if verdict.runs}
        if waiting := [each.sweeps[scale] for scale, verdict in found.items() if not verdict.runs]:
            untried.append(untried_row(each, waiting))
    table = (
        markdown(["claim", "published", "tolerance", "ours", "verdict", "runs", "scale", "source"], tried)
        if tried
        else ""
    )
    if untried:
        rest = markdown(["claim", "published", "tolerance", "filled by", "source"], untried)
        many = f"{len(untried)} figure{'s' * (len(untried) > 1)} not tried{' at every scale' if tried else ''}"
        table += folded(f"{many}, and the sweeps that would", rest)
    reasons = dict.fromkeys((each.tolerance, each.why) for each in published(ROOT / "results" / "published.yml")[name])
    meant = [f"*{kind}*: the figures {words}" for kind, words in CAVEATS.items() if kind in labels]
    table += f"\nVerdicts with a reservation: {'; '.join(meant)}.\n" * bool(meant)
    return table + "\nTolerances: " + "; ".join(f"{tolerance:.3f}, {why}" for tolerance, why in reasons) + ".\n"


def checked(claim: Claim, table: pd.DataFrame | None) -> Verdict:
    """The verdict; withdrawn where the claim's rows are of a method whose code was corrected since."""
    if table is None:
        return check_claim(claim, table)
    if outdated(rows_for(table, claim.rows)).any():
        return replace(check_claim(claim, table), word="withdrawn")
    return check_claim(claim, table[~outdated(table)])


def source_of(claim: Claim) -> str:
    """Where a figure stands, and how it was read."""
    return claim.source if claim.mark == "seen" else f"{claim.source} ({claim.mark})"


def untried_row(claim: Claim, sweeps: list[str]) -> list[str]:
    """A claim that waits for its sweeps as a line of the table."""
    filled = ", ".join(f"`sweeps/{sweep}.yml`" for sweep in sweeps)
    return [claim.claim, f"{claim.value:.3f}", f"{claim.tolerance:.3f}", filled, source_of(claim)]


def claim_row(claim: Claim, scale: str, found: Verdict) -> list[str]:
    """One claim as a line of the table."""
    mean = f"{found.mean:.3f}" + ("" if found.spread is None else f"\u00a0±\u00a0{found.spread:.3f}")
    word = ", ".join([f"**{found.word}**", *filter(None, [caveat(claim, claim.sweeps[scale])])])
    columns = [f"{claim.value:.3f}", f"{claim.tolerance:.3f}", mean, word, str(found.runs), scale]
    return [claim.claim, *columns, source_of(claim)]


def stamp(name: str) -> str:
    """Seeds, versions, device, date and minutes of a sweep's rows."""
    table = rows_of(name)
    if table.empty:
        return ""
    said = [f"seeds {', '.join(map(str, sorted(table['seed'].unique())))}", *origin(table)]
    about = ROOT / "results" / name / "about.json"
    if about.exists():
        said.append(f"{json.loads(about.read_text())['minutes']:.0f} minutes by the clock")
    count = f"{len(table)} rows" if "method" in table else f"{len(table)} runs"
    return f"\n{{download}}`{count} (CSV) <../results/{name}/runs.csv>`; {'; '.join(said)}.\n" + not_run(name)


def not_run(name: str) -> str:
    """How many rows of a sweep are not there yet, and the command that goes on."""
    table = table_of(name)
    missing = 0 if table is None else int((table["status"] == "not run yet").sum())
    if not missing:
        return ""
    return f"\n{missing} of {len(table)} rows are not run; `aequa sweep --new sweeps/{name}.yml` runs them.\n"


def origin(table: pd.DataFrame) -> list[str]:
    """Versions, device and date of rows."""
    said = []
    for column in ("version_aequa-lite", "version_torch", "version_numpy", "version_python", "device", "date"):
        values = ", ".join(sorted(map(str, table[column].unique())))
        name = {"version_aequa-lite": "measured with version"}.get(column, column.removeprefix("version_"))
        said.append(f"{name} {values}" if column.startswith("version") else values)
    return said


NAMES = {  # of runs in the tables of allowances
    "aequa": "after training", "certified": "{:g}, certified at 95%", "falling": "{:g}, after four times that falls",
}  # fmt: skip


def allowances(name: str) -> str:
    """Rewards while training beside rewards after it: a line for each cell and allowance."""
    path = ROOT / "results" / name / "allowances.csv"
    if not path.exists():
        return "Not tried here. `python scripts/training_time.py` fills it.\n"
    table, rows = pd.read_csv(path), []
    for (data, partition), cell in table.groupby(["data", "partition"], sort=False):
        after, runs = cell[cell["method"] == "aequa"], cell[(cell["method"] == "training_time") & (cell["factor"] == 1)]
        pairs = [(after[each], runs[each]) for each in ("full", "pearson", "mcg", "cgs")]
        both = [f"{one.mean():.3f} / {other.mean():.3f}" for one, other in pairs]
        lowest = f"{100 * after['min_gain'].min():.1f} / {100 * runs['min_gain'].min():.1f}"
        best_held = f"{runs['pearson_best_held'].mean():.3f}"
        scale = " / ".join(f"{100 * runs[each].mean():.1f}" for each in ("allowance", "contribution_sd", "tau"))
        rows.append([data, marked(partition), str(len(runs)), scale, *both, lowest, best_held])
    head = ["data", "partition", "seeds", "allowance / sd(B) / gain", "full width", "Pearson", "MCG", "CGS"]
    head += ["smallest gain", "Pearson, best held"]
    count = f"{len(table)} runs; seeds {', '.join(map(str, sorted(table['seed'].unique())))}"
    rows_link = f"{{download}}`{count} (CSV) <../results/{name}/allowances.csv>`"
    stamp = f"\nBy `python scripts/training_time.py`; {'; '.join([rows_link, *origin(table)])}.\n"
    return allowance_aims(table) + worth(table) + "\n" + markdown(head, rows) + two_sizes(table) + stamp


def worth(table: pd.DataFrame) -> str:
    """What participants can make of the slices that they were sent: points above what is earned and allowed."""
    kinds, rows = ("received", "refitted", "finetuned", "averaged", "combined"), []
    for (method, factor), runs in table.groupby(["method", "factor"], dropna=False, sort=False):
        name = NAMES.get(method, "{:g} times").format(factor)
        found = [100 * runs[f"excess_{kind}"].where(runs[f"excess_{kind}"] > -1) for kind in kinds]
        columns = [f"{each.median():.1f} ({each.max():.1f})" if each.notna().any() else "-" for each in found]
        rows.append([name, *columns, f"{runs['above'].mean():.1f}"])
    return "\n" + markdown(["allowance", *kinds, "participants above, mean"], rows)


def confidence() -> str:
    """How often slices exceed what is earned and allowed, with and without certification."""
    path = ROOT / "results" / "training_time" / "confidence.csv"
    if not path.exists():
        return "Not measured here. `python scripts/confidence.py` fills it.\n"
    table, rows = pd.read_csv(path), []
    for (partition, level), runs in table.groupby(["partition", "confidence"], sort=False, dropna=False):
        sent, after_first = int(runs["sent"].sum()), 10 * 39 * len(runs)  # ten participants, forty rounds
        columns = [f"{runs[each].sum() / sent:.1%}" for each in ("above", "certain", "beyond")]
        columns[2] = columns[2] if pd.isna(level) else "-"
        columns += [f"{100 * runs['excess'].max():.1f}", f"{100 * runs['margin'].max():.1f}" if pd.isna(level) else "-"]
        least = f"{1 - sent / after_first:.0%}", f"{100 * runs['excess_least'].max():.1f}"
        columns += [f"{100 * runs['excess_own'].max():.1f}", *(least if sent < after_first else ("0%", "-"))]
        columns += [spread(runs["full"]), spread(runs["pearson"]), spread(runs["width_held"], 2)]
        rows.append([partition, "none" if pd.isna(level) else f"{level:.0%}", f"{sent:,}", *columns])
    head = ["partition", "confidence", "slices sent", "above", "certainly above", "beyond the margin", "largest excess"]
    head += ["stated margin", "excess over own test accuracy", "of the least width", "largest excess there"]
    head += ["full width", "Pearson", "width held"]
    told = f"{len(table)} runs; seeds {', '.join(map(str, sorted(table['seed'].unique())))}"
    link = f"{{download}}`{told} (CSV) <../results/training_time/confidence.csv>`"
    return markdown(head, rows) + f"\nBy `python scripts/confidence.py`; {'; '.join([link, *origin(table)])}.\n"


def rounds() -> str:
    """Pearson and best reward of the final round, of the best one and of the last ones."""
    table = pd.read_csv(ROOT / "results" / "rounds" / "runs.csv")
    parts = ("final", "best_round", "last_mean")
    rows = [
        [f"`{r['method']}`", *(f"{r[f'{what}_{part}']:.3f}" for what in ("pearson", "reward") for part in parts)]
        for _, r in table.iterrows()
    ]
    head = ["method", "Pearson: final", "best", "last", "best reward: final", "best", "last"]
    link = f"{{download}}`{len(table)} rows (CSV) <../results/rounds/runs.csv>`"
    return markdown(head, rows) + f"\nBy `python scripts/rounds.py`; {'; '.join([link, *origin(table)])}.\n"


def variants() -> str:
    """What was tried on validation to bring training under the schedule nearer to rewards after training."""
    path = ROOT / "results" / "training_time" / "variants.csv"
    if not path.exists():
        return "Not tried here. `python scripts/training_time_variants.py` fills it.\n"
    table, rows = pd.read_csv(path), []
    after = table[table["variant"] == "after training"].set_index(["data", "partition"])["full"]
    cells = table.groupby("variant")["full"].count().max()
    for variant, runs in table.groupby("variant", sort=False):
        lost = 100 * (runs.set_index(["data", "partition"])["full"] - after).dropna()
        row = [variant, *(f"{each:+.1f}" for each in (lost.median(), lost.min(), lost.max()))]
        row += [
            f"{(lost >= -1).sum()} of {len(lost)}",
            f"{runs['pearson'].median():.3f}",
            f"{runs['pearson'].min():.3f}",
        ]
        rows.append([*row, f"{100 * runs['min_gain'].median():+.1f}", f"{100 * runs['min_gain'].min():+.1f}"])
    head = [
        "variant",
        "full width against after training: median",
        "worst",
        "best",
        "within a point",
        "Pearson: median",
    ]
    link = f"{{download}}`{len(table)} runs (CSV) <../results/training_time/variants.csv>`"
    told = f"up to {cells} cells, points; by `python scripts/training_time_variants.py`"
    return (
        markdown([*head, "worst", "smallest gain: median", "worst"], rows)
        + f"\n{told}; {'; '.join([link, *origin(table)])}.\n"
    )


def fractions() -> str:
    """What fractional rewards are worth before and after participants restore what they can."""
    path = ROOT / "results" / "fractions" / "restored.csv"
    table, rows = pd.read_csv(path), []
    columns = ("largest_step", "cgs", "cgs_restored", "cgs_together", "restoring_mean", "restoring_most")
    for (partition, kind), runs in table.groupby(["partition", "rewards"], sort=False):
        rows.append([partition, kind, *(spread(runs[each]) for each in columns)])
    head = [
        "partition",
        "rewards",
        "largest step",
        "CGS",
        "CGS, restored",
        "CGS, together",
        "restoring gains, mean",
        "most",
    ]
    count = f"{len(table)} rows; seeds {', '.join(map(str, sorted(table['seed'].unique())))}"
    link = f"{{download}}`{count} (CSV) <../results/fractions/restored.csv>`"
    return markdown(head, rows) + f"\nBy `python scripts/fractional_rewards.py`; {'; '.join([link, *origin(table)])}.\n"


def constants() -> str:
    """What was chosen on validation for the baselines, and what was tried."""
    paths = sorted((ROOT / "results" / "constants").glob("*.csv"), key=lambda path: path.stem != "runs")
    head = ["lr", "method", "best reward", "Pearson", "MCG", "CGS", "smallest gain", "worse off"]
    best, tried, links = {}, "", []
    for path in paths:
        table, network = pd.read_csv(path), "" if path.stem == "runs" else f", {path.stem}"
        name = table["method"].str.split("(").str[0]
        place = [*dict.fromkeys(["fedavg", "aequa", *name])].index
        table = table.assign(place=name.map(place)).sort_values(["data", "place", "lr"], kind="stable")
        best |= {f"{row['data']}{network}": row for row in choose_constants.chosen(table).to_dict("records")}
        for data, rows in table.groupby("data", sort=False):
            columns = ("best_reward", "pearson", "mcg", "cgs", "min_gain")
            lines = [
                [
                    f"{r.lr:g}",
                    f"`{r.method}`",
                    *(spread(pd.Series([getattr(r, each)])) for each in columns),
                    str(r.worse_off),
                ]
                for r in rows.itertuples()
            ]
            if not network:
                tried += folded(f"What was tried: {data}, {len(rows)} rows", markdown(head, lines))
        links += [f"{{download}}`{len(table)} rows (CSV) <../results/constants/{path.name}>`", *origin(table)]
    lines = [["learning rate", *(f"{each['lr']:g}" for each in best.values())]]
    names = ("cgsv", "cffl", "iafl", "fedsac", "fedrac")
    lines += [[name, *(f"`{each[name]}`" if name in each else "-" for each in best.values())] for name in names]
    return (
        f"\n{markdown(['chosen', *best], lines)}{tried}\nBy `python scripts/choose_constants.py`; {'; '.join(links)}.\n"
    )


def coalitions() -> str:
    """How far predicted coalitions are from trained ones."""
    path = ROOT / "results" / "coalitions" / "predicted.csv"
    if not path.exists():
        return "Not measured here. `python scripts/coalitions.py` fills it.\n"
    table, rows = pd.read_csv(path), []
    for partition, here in table.groupby("partition", sort=False):
        errors = [spread(here[each]) for each in ("error", "error_of_mean", "stated", "bias", "largest")]
        counts = [f"{here[each].sum()}" for each in ("blocking_trained", "blocking_predicted", "blocking_both")]
        least = [spread(here[each]) for each in ("epsilon_trained", "epsilon_predicted")]
        rows.append([partition, *errors, *counts, *least, str(len(here))])
    head = ["partition", "error", "of the mean", "stated", "bias", "largest", "block, trained", "predicted", "in both",
            "epsilon, trained", "predicted", "seeds"]  # fmt: skip
    link = f"{{download}}`{len(table)} rows (CSV) <../results/coalitions/predicted.csv>`"
    return markdown(head, rows) + f"\nBy `python scripts/coalitions.py`; {'; '.join([link, *origin(table)])}.\n"


def natural() -> str:
    """All methods on participants that exist: accuracies, and for two classes the area under the curve."""
    table = pd.read_csv(ROOT / "results" / "natural" / "runs.csv")
    chosen = {row["data"]: f"{row['lr']:g}" for row in table[table["seed"] < 100].to_dict("records")}
    table, parts = table[table["seed"] < 100], []
    columns = ("reward_best", "mcg", "cgs", "pearson")
    for data, here in table.groupby("data", sort=False):
        alone = here.drop_duplicates("seed")
        told = f"{int(alone['informative'].sum())} of {len(alone)} runs informative"
        seeds = "one seed" if len(alone) == 1 else f"{len(alone)} seeds"
        head = [
            f"**{data}**: {here['participants'].iloc[0]} participants; alone they reach {spread(alone['alone_worst'])} to "
            f"{spread(alone['alone_best'])}; {seeds}; {alone['test_samples'].iloc[0]:,} test samples; {told}; "
            f"learning rate {chosen[data]}"
        ]
        rows, two = [], here["auc_reward_best"].notna().any() if "auc_reward_best" in here else False
        for method, runs in here.groupby("method", sort=False):
            values = [spread(runs[each]) for each in columns]
            values += [f"{runs['min_gain'].min():+.3f}", str(int(runs["worse_off"].sum()))]
            if two:
                values += [spread(runs["auc_reward_best"]), spread(runs["auc_reward_mean"])]
            rows.append(
                [f"`{method}`".replace("`aequa(schedule='training_time')`", "`aequa`, while training"), *values]
            )
        names = ["method", "best reward", "MCG", "CGS", "Pearson", "smallest gain", "worse off"]
        if two:
            aucs = f"; the best alone has an AUC of {spread(alone['auc_alone_best'])}, their mean is "
            head.append(aucs + spread(alone["auc_alone_mean"]))
            names += ["AUC, best", "AUC, mean"]
        parts.append("".join(head) + ".\n\n" + markdown(names, rows))
    count = f"{len(table)} rows; seeds {', '.join(map(str, sorted(table['seed'].unique())))}"
    link = f"{{download}}`{count} (CSV) <../results/natural/runs.csv>`"
    return "\n".join(parts) + f"\nBy `python scripts/natural.py`; {'; '.join([link, *origin(table)])}.\n"


def defaults() -> str:
    """What other training constants change against the defaults, paired by data set, partition and seed."""
    table = pd.read_csv(ROOT / "results" / "defaults" / "runs.csv")
    constants, cell = ["loss_power", "contribution_power", "width_alpha"], ["data", "partition", "seed", "lr"]
    config = Config()
    table = table.set_index(cell)
    by_constants = dict(iter(table.groupby(constants)))
    ours = by_constants[tuple(getattr(config, name) for name in constants)]
    columns = ("full", "mean_width_accuracy", "min_gain", "pearson", "cgs")
    rows = []
    for values, runs in by_constants.items():
        for partition, here in runs[runs.index.isin(ours.index)].groupby("partition"):
            apart = 100 * (here[list(columns)] - ours.loc[here.index, list(columns)])
            changes = [f"{apart[each].mean():+.1f}" for each in columns]
            if runs is not ours:
                rows.append([*(f"{each:g}" for each in values), partition, str(len(here)), *changes])
    head = [*constants, "partition", "cells", "full width", "mean over widths", "smallest gain", "Pearson x 100", "CGS"]
    seeds = ", ".join(map(str, sorted(set(table.index.get_level_values("seed")))))
    link = f"{{download}}`{len(table)} rows; seeds {seeds} (CSV) <../results/defaults/runs.csv>`"
    torch, days = (", ".join(sorted(set(table[each].astype(str)))) for each in ("torch", "date"))
    return markdown(head, rows) + f"\nBy `python scripts/choose_defaults.py`; {link}; torch {torch}; {days}.\n"


def allowance_aims(table: pd.DataFrame) -> str:
    """In how many runs, by factor of the allowance, full width, Pearson and everybody's reward are as after training."""
    head = ["times the allowance", "full width within a point", "more than 3 behind (most)", "Pearson within noise"]
    head += ["nobody worse off", "above earned then", "above earned in the end"]
    return "\n" + markdown(head, allowance_rows(table))


def allowance_rows(table: pd.DataFrame) -> list[list[str]]:
    """The lines of that table."""
    cell, rows = ["data", "partition", "seed"], []
    after = table[table["method"] == "aequa"].set_index(cell)
    clear = (
        table.assign(told=informative(table)).groupby(cell)["told"].min()
    )  # of every row: earlier ones decided on test
    for (method, factor), runs in table.dropna(subset="factor").groupby(["method", "factor"], sort=False):
        runs = runs.set_index(cell)
        lost = 100 * (after["full"].reindex(runs.index) - runs["full"])
        told = runs[clear.reindex(runs.index).to_numpy()]
        columns = [f"{(lost <= 1).sum()} of {len(lost)}", f"{(lost > 3).sum()} ({lost.max():.1f})"]
        columns.append(f"{(told['pearson_lost_low'] <= 0).sum()} of {len(told)}")
        columns.append(f"{(runs['worse_off'] == 0).sum()} of {len(runs)}")
        over = [100 * runs[each] for each in ("overpaid_now", "overpaid_final")]
        name = NAMES.get(method, "{:g}").format(factor)
        rows.append([name, *columns, *(f"{each.median():.1f} ({each.max():.1f})" for each in over)])
    return rows


TABLES = {  # mark of the page -> what fills it, and the sweep that it needs
    "nine_partitions": (lambda name: fairness(name, ["partition"]), "nine_partitions"),
    "finalists": (ways, "finalists"),
    "methods": (methods, "baselines_mini"),
    "cells": (lambda name: cells(name) + summary_of_cells(name) + others(name), "baselines_mini"),
    "baselines_tuned": (methods_and_cells, "baselines_tuned"),
    "baselines_tuned_cifar10": (methods_and_cells, "baselines_tuned_cifar10"),
    "baselines_tuned_lenet": (methods_and_cells, "baselines_tuned_lenet"),
    "training_time": (
        lambda name: methods_and_cells(name).replace(
            "`aequa(schedule='training_time(0.02)')`", "`aequa`, while training"
        ),
        "training_time",
    ),
    "server_momentum": (server_momentum, "server_momentum"),
    "fedrac": (protocol, "fedrac"),
    "fedrac_long": (protocol, "fedrac_long"),
    "cffl": (protocol, "cffl"),
}
TITLES = {"aequa": "the paper", "cffl": "CFFL on MNIST", "fedrac": "FedRAC's protocol", "widths": "accuracy by width"}
CLAIMS = {f"claims_{subject}": subject for subject in ("aequa", "cffl", "fedrac", "widths")}


def run_times() -> str:
    """How long each notebook takes and what memory, as measured when its outputs were stored."""
    path = ROOT / "results" / "run_times" / "notebooks.csv"
    if not path.exists():
        return "Not measured here. `python scripts/refresh.py` runs all notebooks and fills it.\n"
    table = pd.read_csv(path)
    memory = table["gigabytes"] if "gigabytes" in table else pd.Series(np.nan, index=table.index)  # older rows lack it
    rows = [
        [
            f"{{doc}}`../notebooks/{r.notebook}`",
            f"{r.seconds:.0f}",
            spread(memory[[r.Index]], 1),
            f"{r.load:.1f}",
            r.date,
        ]
        for r in table.itertuples()
    ]
    where = f"{int(table['cores'].iloc[0])} cores, torch {', '.join(sorted(set(table['torch'])))}"
    return (
        markdown(["notebook", "seconds", "memory, GB", "load of the machine", "date"], rows)
        + f"\nOn one machine: {where}.\n"
    )


def speeds() -> list[pd.DataFrame]:
    """The tables of the page of speeds that its figure shows."""
    names = ("plain", "pfl", "flower", "workers")
    tables = [pd.read_csv(ROOT / "results" / "speed" / f"{name}.csv") for name in names]
    return [table[table["device"] == table["device"].iloc[0]] for table in tables]


SENTENCES = {"glance": glance, "scorecard": scorecard, "headline": headline, "shown": shown, "lost": lost, "losses": losses,
             "run_times": run_times, "constants": constants, "coalitions": coalitions, "variants": variants,
             "confidence": confidence, "natural": natural, "rounds": rounds, "front": front, "fronts": fronts,
             "against_fedavg": against_fedavg, "ablation": ablation}  # fmt: skip


def filled(mark: str) -> str:
    """What stands under a mark of the page."""
    if mark in CLAIMS:
        return claims(CLAIMS[mark])
    if mark in SENTENCES:
        return SENTENCES[mark]()
    if mark == "to_fill":
        return rows_to_fill("baselines_paper")
    if mark == "defaults":
        return defaults()
    if mark == "fractions":
        return fractions()
    if mark == "allowances":
        return allowances("training_time")
    table, sweep = TABLES[mark]
    return table(sweep) + stamp(sweep) if len(rows_of(sweep)) else not_tried(sweep)


def page(path: Path) -> str:
    """A page with its tables filled from the rows."""
    return MARK.sub(lambda m: m[1] + "\n" + filled(m[2]) + "\n" + m[3], path.read_text())


def main() -> None:
    """Write the pages and draw the figures, or check them."""
    wanted = {path: page(path) for path in PAGES}
    old = [path for path, text in wanted.items() if path.read_text() != text]
    if "--check" in sys.argv:
        names = [*draw(check=True), *(path.name for path in old)]
        sys.exit(f"out of date: {', '.join(names)}; run python scripts/results.py" if names else 0)
    draw()
    for path in old:
        with atomic_write(path) as half:
            half.write_text(wanted[path])


if __name__ == "__main__":
    main()
