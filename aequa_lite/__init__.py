"""Model rewards for collaborative learning: one slimmable network, each participant the width it earned.

The names stand in reading order: from the records, through data, training and contribution, to allocation and reward.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .trust import change_norm, checked_metadata, checked_update, opened_update, outsized
from .records import Data, Given, Recipe, Report, Round, Samples, Shard, Update
from .rng import stream
from .fairness import (
    bounded_fairness, cgs, fisher_interval, gini, holm, jain, mcg, measure, paired_gains, pearson,
    pearson_noise_interval, spearman, worse_off,
)  # fmt: skip
from .curve import Curve, range_report
from .allocate import Certificate, Plan, allocate, gain_minus_variance, spread_minus_gain, spread_only, spread_per_gain
from .continuum import at_bounds, closed_form, equal_gains_possible, smallest_spread, threshold
from .theory import Bound, bias_bound, drift, gap_bound, stationarity_bound
from .rules import anneal, capped, generous, proportional, thresholded
from .welfare import leximin, lp_welfare, nash
from .incentives import best_reply, temptations
from .noise import Ceiling, Intervals, ceiling, reward_intervals, samples_for, samples_needed
from .confirm import Confirmation, Half, confirm, split
from .text import tokens
from .data import load
from .partition import (
    by_size, class_imbalance, dirichlet, feature_noise, homogeneous, imbalanced, label_noise, label_skew, natural, power_law,
    quantity_dirichlet, table as class_counts,
)  # fmt: skip
from .workers import runtime, workers
from .slim import faded, faded_slice, merge, parameters, prefix, slice_of, slim, view
from .nets import MLP, LeNet, flops, initial, sized, units
from .convnets import BatchResNet18, ConvNet, ResNet18, restated
from .textnets import TextCNN, Transformer
from .linear import Logistic, Squares, TwoLayers
from .judge import accuracy, accuracy_curve, hits, network_at, reward_curve, widths
from .local import full_and_random, full_only, local_sgd, one_random, sandwich
from .stacked import half_precision, stacked_sgd
from .server import adaptive, averaged, by_validation, with_momentum
from .defences import clipped, epsilon, median, private, screened, trimmed
from .names import allocation_named, merging_named, draw_named, network_named, partition_named, server_named
from .policy import everyone_full
from .checkpoint import load_checkpoint, save_checkpoint
from .federate import Scheme, federate, merge_weights, slimmable, standalone
from .laws import drawn_from, law_of, stepwise
from .known import Known, Moments, regression
from .adversaries import absent, changed, flip_labels, free_rider, keeper, sign_flipper
from .shapley import Estimate, Remembered, leave_one_out, sampled_shapley, shapley
from .contribution import alignment, class_alignment, class_shapley, contributions, replayed, retrained, update_shapley
from .calibrate import affine_calibration, isotonic_calibration
from .earned import Held, arrived_accuracy, cautious, earned_widths, own_accuracy, trajectory, with_own
from .rivals import Entry, Method, Paid, Task, fedavg, finetuned, lg_fedavg
from .mixing import shapfed, shapfed_wa
from .doses import cffl, cgsv, iafl, sparse_numbers
from .submodels import compact, importance, submodels
from .methods import aequa, earned, method_named
from .attacks import against, inflated, merged_shards, regrown, sybils, voted
from .realise import Dose, by_noise, by_pruning, by_subset, by_width, by_zeroing, pooled, realise
from .report import report, table
from .trial import check_parameters, comparison, compete, contribution_named, folder_named, located, methods_named
from .reward import Manifest, load_reward, load_words, save_rewards
from .loader import write_loader
from .verify import Checked, verify_rewards
from .export import export_onnx
from .costs import Cost, cost, cost_table
from .show import show

if TYPE_CHECKING:  # at run time by __getattr__ below
    from .plots import (
        plot_curve,
        plot_curves,
        plot_partition,
        plot_prefix,
        plot_rewards,
        plot_widths,
        save_figure,
        style,
    )
    from .pictures import plot_held, plot_intervals, plot_range, plot_rules, plot_threshold, plot_water, plot_ways
    from .interactive import Sliders, sliders, stepper

__all__ = [
    "MLP", "BatchResNet18", "Bound", "Ceiling", "Certificate", "Checked", "Confirmation", "ConvNet", "Cost", "Curve",
    "Data", "Dose", "Entry", "Estimate", "Given", "Half", "Held", "Intervals", "Known", "LeNet", "Logistic",
    "Manifest", "Method", "Moments", "Paid", "Plan", "Recipe", "Remembered", "Report", "ResNet18", "Round", "Samples",
    "Scheme", "Shard", "Sliders", "Squares", "Task", "TextCNN", "Transformer", "TwoLayers", "Update", "absent",
    "accuracy", "accuracy_curve", "adaptive", "aequa", "affine_calibration", "against", "alignment", "allocate",
    "allocation_named", "anneal", "arrived_accuracy", "at_bounds", "averaged", "best_reply", "bias_bound",
    "bounded_fairness", "by_noise", "by_pruning", "by_size", "by_subset", "by_validation", "by_width", "by_zeroing",
    "capped", "cautious", "ceiling", "cffl", "cgs", "cgsv", "change_norm", "changed", "check_parameters",
    "checked_metadata", "checked_update", "class_alignment", "class_counts", "class_imbalance", "class_shapley",
    "clipped", "closed_form", "compact", "comparison", "compete", "confirm", "contribution_named", "contributions",
    "cost", "cost_table", "dirichlet", "draw_named", "drawn_from", "drift", "earned", "earned_widths", "epsilon",
    "equal_gains_possible", "everyone_full", "export_onnx", "faded", "faded_slice", "feature_noise", "fedavg",
    "federate", "finetuned", "fisher_interval", "flip_labels", "flops", "folder_named", "free_rider",
    "full_and_random", "full_only", "gain_minus_variance", "gap_bound", "generous", "gini", "half_precision", "hits",
    "holm", "homogeneous", "iafl", "imbalanced", "importance", "inflated", "initial", "isotonic_calibration", "jain",
    "keeper", "label_noise", "label_skew", "law_of", "leave_one_out", "leximin", "lg_fedavg", "load",
    "load_checkpoint", "load_reward", "load_words", "local_sgd", "located", "lp_welfare", "mcg", "measure", "median",
    "merge", "merge_weights", "merged_shards", "merging_named", "method_named", "methods_named", "nash", "natural",
    "network_at", "network_named", "one_random", "opened_update", "outsized", "own_accuracy", "paired_gains",
    "parameters", "partition_named", "pearson", "pearson_noise_interval", "plot_curve", "plot_curves", "plot_held",
    "plot_intervals", "plot_partition", "plot_prefix", "plot_range", "plot_rewards", "plot_rules", "plot_threshold",
    "plot_water", "plot_ways", "plot_widths", "pooled", "power_law", "prefix", "private", "proportional",
    "quantity_dirichlet", "range_report", "realise", "regression", "regrown", "replayed", "report", "restated",
    "retrained", "reward_curve", "reward_intervals", "runtime", "sampled_shapley", "samples_for", "samples_needed",
    "sandwich", "save_checkpoint", "save_figure", "save_rewards", "screened", "server_named", "shapfed", "shapfed_wa",
    "shapley", "show", "sign_flipper", "sized", "slice_of", "sliders", "slim", "slimmable", "smallest_spread",
    "sparse_numbers", "spearman", "split", "spread_minus_gain", "spread_only", "spread_per_gain", "stacked_sgd",
    "standalone", "stationarity_bound", "stepper", "stepwise", "stream", "style", "submodels", "sybils", "table",
    "temptations", "threshold", "thresholded", "tokens", "trajectory", "trimmed", "units", "update_shapley",
    "verify_rewards", "view", "voted", "widths", "with_momentum", "with_own", "workers", "worse_off", "write_loader",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load the rooms of figures, and with them matplotlib, when one of their names is asked for: workers never do."""
    drawing = ("plots", "pictures", "interactive")
    if name not in (*__all__, *drawing):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    rooms = [import_module(f".{room}", __name__) for room in drawing]
    return (
        rooms[drawing.index(name)]
        if name in drawing
        else next(vars(room)[name] for room in rooms if name in vars(room))
    )
