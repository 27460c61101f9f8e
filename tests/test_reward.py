"""The model that goes home: the same network after a round trip, and nothing else is ever loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aequa_lite as aq


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """One reward on disk."""
    theta = aq.initial(aq.LeNet, seed=0)
    (path,) = aq.save_rewards(tmp_path, aq.LeNet, [aq.slim(aq.LeNet, theta, 0.3)], [0.3], aq.Recipe())
    return path


def test_a_reward_comes_back_as_the_network_it_was(tmp_path: Path, few: aq.Data) -> None:
    build = aq.sized(aq.LeNet, few, multiple=2)
    theta = aq.initial(build, seed=0)
    models = [aq.slim(build, theta, w) for w in (0.1, 0.77)]
    for path, model in zip(aq.save_rewards(tmp_path, build, models, [0.1, 0.77], aq.Recipe()), models, strict=True):
        found = aq.load_reward(path)
        assert torch.equal(found(few.test.x[:9]), model(few.test.x[:9]))
        assert aq.parameters(found) == aq.parameters(model)
        assert path.stat().st_size < 4 * aq.parameters(model) + 2000


def edited(path: Path, **changes: object) -> Path:
    manifest = path.with_suffix(".json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "os.system"}, "architecture"),
        ({"architecture": "MLP"}, "parameters|cannot be built"),
        ({"width": 0.5}, "parameters"),
        ({"width": 7}, "width"),
        ({"parameters": 10**12}, "parameters"),
        ({"options": {"multiple": 10**9}}, "options"),
        ({"options": {"shape": "evil"}}, "options"),
        ({"options": {"nosuch": 3}}, "cannot be built"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"sha256": 3}, "sha256"),
        ({"more": 1}, "damaged"),
    ],
)
def test_a_manifest_that_lies_is_refused(saved: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aq.load_reward(edited(saved, **changes))


def test_a_changed_file_is_refused(saved: Path) -> None:
    blob = bytearray(saved.read_bytes())
    blob[-1] ^= 1
    saved.write_bytes(bytes(blob))
    with pytest.raises(ValueError, match="SHA-256"):
        aq.load_reward(saved)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = aq.MLP(0.1)
    with torch.no_grad():
        model[2].bias[0] = float("inf")
    (path,) = aq.save_rewards(tmp_path, aq.MLP, [model], [0.1], aq.Recipe())
    with pytest.raises(ValueError, match="finite"):
        aq.load_reward(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        aq.load_reward(tmp_path / "nowhere.safetensors")


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400))
def test_damaged_bytes_are_a_clear_error_and_nothing_else(saved: Path, noise: bytes) -> None:
    manifest = saved.with_suffix(".json")
    kept = manifest.read_bytes()
    manifest.write_bytes(noise)
    with pytest.raises(ValueError, match="manifest"):
        aq.load_reward(saved)
    manifest.write_bytes(kept)


def test_only_this_packages_networks_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="build is"):
        aq.save_rewards(tmp_path, torch.nn.Linear, [torch.nn.Linear(1, 1)], [1.0], aq.Recipe())
    assert not list(tmp_path.iterdir())
