"""Store the values that pyDVL computes for its own games, for the tests to compare ours with.

pyDVL 0.10 needs numpy < 2 and this package numpy >= 2, so it runs in an environment of its own:

    python3 -m venv DIR && DIR/bin/pip install pydvl && DIR/bin/python scripts/pydvl_oracle.py
"""

from __future__ import annotations

import json
import warnings
from datetime import date
from importlib.metadata import version
from itertools import chain, combinations
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")  # pyDVL emits its own

from pydvl.valuation import DeterministicUniformSampler, NoStopping, ShapleyValuation  # noqa: E402
from pydvl.valuation.games import MinerGame, ShoesGame, SymmetricVotingGame  # noqa: E402


class Irregular(MinerGame):
    """A game without symmetry: the value of a coalition is the sine of its bit mask."""

    def _score(self, data: object) -> float:
        return float(np.sin(sum(1 << int(i) for i in data)))


GAMES = {
    "shoes 3 and 4": ShoesGame(3, 4),
    "shoes 1 and 5": ShoesGame(1, 5),
    "majority of 8": SymmetricVotingGame(8),
    "miners": MinerGame(7),
    "irregular": Irregular(7),
}


def solved(game: object) -> dict[str, object]:
    """The value of every coalition (by bit mask), and the Shapley values of pyDVL's exact solver."""
    n = game.n_players
    every = DeterministicUniformSampler()
    found = ShapleyValuation(game.u, every, NoStopping(every), progress=False).fit(game.data).result
    coalitions = chain.from_iterable(combinations(range(n), k) for k in range(n + 1))
    by_mask = {sum(1 << i for i in each): float(game._score(np.array(each, dtype=int))) for each in coalitions}
    values = np.asarray(found.values)[np.argsort(found.indices)]
    return {"participants": n, "worth": [by_mask[m] for m in range(1 << n)], "shapley": values.tolist()}


if __name__ == "__main__":
    results = {
        "pydvl": version("pydvl"),
        "date": date.today().isoformat(),
        "games": {k: solved(g) for k, g in GAMES.items()},
    }
    (Path(__file__).parents[1] / "tests" / "pydvl_oracle.json").write_text(json.dumps(results) + "\n")
