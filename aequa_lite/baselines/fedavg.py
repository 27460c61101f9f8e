"""FedAvg, and FedAvg fine-tuned on each participant's own shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .._check import number
from ..federate import slimmable, Strategy
from ..local import full_only
from ..method import Outcome, Problem, Train, train
from ..types import ServerState, Update
from .common import ROUNDS, global_models, outcome, own_networks, remember_network, send_own, size_of

__all__ = ["fedavg", "fedavg_finetuned"]


def fedavg(problem: Problem, *, train: Train = train) -> Outcome:
    last = train(problem, slimmable(problem.build, full_only), weights=problem.by_size)
    return outcome(problem, global_models(problem, last), last, "fedavg")


def fedavg_finetuned(problem: Problem, *, share: float = 0.1, train: Train = train) -> Outcome:
    number("share", share, 0, 1, below=True)
    plain, rounds = slimmable(problem.build, full_only), problem.config.rounds
    together = rounds - round(share * rounds)  # so many rounds are FedAvg's
    strategy = replace(
        plain,
        broadcast=send_own,
        aggregate=partial(_agg, plain=plain, together=together),
        sent=partial(_sent, together=together),
    )
    last = train(problem, strategy, weights=problem.by_size)
    return outcome(problem, own_networks(problem, last), last, "fedavg_finetuned")


def _agg(state, updates, *, plain, together):
    index = int(state.memory.get(ROUNDS, 0))
    memory = {**state.memory, ROUNDS: torch.tensor(index + 1)}
    if index < together:
        return ServerState(plain.aggregate(state, updates).theta, memory)
    for u in updates:
        memory |= remember_network(u.participant, u.state)
    return ServerState(state.theta, memory)


def _sent(state, updates, *, together):
    index = int(state.memory[ROUNDS]) - 1
    return (2 if index < together else int(index == together)) * len(updates) * size_of(state.theta)
