"""Model rewards for collaborative learning: one slimmable network, each participant the width it earned.

The names stand in reading order: data, networks, training, evaluation, contribution, allocation, the method, rewards.
What is used less often lies in namespaces: `aq.baselines.cgsv`, `aq.allocation.proportional`, `aq.plotting.curve`.
"""

from . import aggregation, allocation, attacks, baselines, data, networks, plotting, theory
from .config import Config, stream
from .types import Dataset, Round, Samples, Shard, Update, ServerState
from ._parallel import runtime
from .data.load import load
from .networks.base import for_dataset, init_params
from .networks.models import MLP, LeNet
from .slimmable import aggregate, fractional_slim, n_parameters, prefix, slice_of, slim, view
from .local import full_and_random, full_only, local_sgd, one_random, sandwich
from .federate import Strategy, aggregation_weights, federate, federate_many, full_width, slimmable, standalone
from .evaluation import Curve, accuracy, accuracy_curve, correct, model_at, reward_curve, widths
from .contribution import alignment, contributions, shapley
from .allocation.exact import Plan, allocate
from .metrics import cgs, mcg, pearson, worse_off
from .training_time import training_time
from .method import Algorithm, Outcome, Problem, aequa
from .allocation.uncertainty import curve_diagnostics
from .report import Report, report, table
from .rewards import load_reward, save_rewards
from . import contribution, experiments, metrics, registry, rewards

__all__ = [
    "Algorithm", "Config", "Curve", "Dataset", "LeNet", "MLP", "Outcome",
    "Plan", "Problem", "Report", "Round", "Samples", "ServerState",
    "Shard", "Strategy", "Update", "accuracy", "accuracy_curve", "aequa",
    "aggregate", "aggregation_weights", "alignment", "allocate", "cgs",
    "contributions", "correct", "curve_diagnostics", "federate", "federate_many",
    "for_dataset", "fractional_slim", "full_and_random", "full_only",
    "full_width", "init_params", "load", "load_reward", "local_sgd", "mcg",
    "model_at", "n_parameters", "one_random", "pearson", "prefix",
    "report", "reward_curve", "runtime", "sandwich", "save_rewards",
    "shapley", "slice_of", "slim", "slimmable", "standalone", "stream",
    "table", "training_time", "view", "widths", "worse_off",
]  # fmt: skip
