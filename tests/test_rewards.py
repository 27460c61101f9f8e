"""Rewards as files: the same network after a round trip, every change is noticed, and nothing else is ever loaded."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

import aequa_lite as aq
from aequa_lite.cli import main
from aequa_lite.rewards import digest


def own(width: float = 1.0, *, hidden: int = 6) -> nn.Module:
    """A network that is not one of the package."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4, max(1, round(width * hidden))))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """One reward on disk."""
    theta = aq.init_params(aq.LeNet, seed=0)
    (path,) = aq.save_rewards(tmp_path, aq.LeNet, [aq.slim(aq.LeNet, theta, 0.3)], [0.3], aq.Config())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three rewards of one run."""
    theta, widths = aq.init_params(aq.MLP, seed=0), [0.05, 0.1, 0.05]
    aq.save_rewards(tmp_path, aq.MLP, [aq.slim(aq.MLP, theta, w) for w in widths], widths, aq.Config())
    return tmp_path


def edited(path: Path, **changes: object) -> Path:
    """Change a reward's manifest."""
    manifest = path.with_suffix(".json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changes}))
    return path


def forged(path: Path, state: dict[str, torch.Tensor] | None = None, **changes: object) -> Path:
    """Change a manifest, and the reward's header and SHA-256 with it; or the tensors."""
    stated = {**json.loads(path.with_suffix(".json").read_text()), **changes}
    header = json.dumps({k: v for k, v in stated.items() if k != "sha256" and (v or k != "encoder")}, sort_keys=True)
    path.write_bytes(save(load(path.read_bytes()) if state is None else state, {"reward": header}))
    return edited(path, **changes, sha256=digest(path.read_bytes()))


def listed_again(folder: Path) -> None:
    """Write the folder's list anew, for the files as they are now."""
    stated = json.loads((folder / "rewards.json").read_text())
    for entry in stated["files"]:
        content = (folder / entry["name"]).read_bytes()
        entry |= {"size": len(content), "sha256": digest(content)}
    (folder / "rewards.json").write_text(json.dumps(stated))


def faults(folder: Path, build: Any = None) -> dict[str, str]:
    """What is wrong, by file."""
    return {each.file: each.fault for each in aq.rewards.verify(folder, build) if each.fault is not None}


# ---- writing and loading


@pytest.mark.parametrize(("network", "options"), [(aq.LeNet, {"multiple": 2}), (aq.MLP, {"ahead": 3})])
def test_a_reward_comes_back_as_the_network_it_was(tmp_path: Path, few: aq.Dataset, network, options: dict) -> None:
    build = aq.for_dataset(network, few, **options)
    theta = aq.init_params(build, seed=0)
    models = [aq.slim(build, theta, w) for w in (0.1, 0.77)]
    for path, model in zip(aq.save_rewards(tmp_path, build, models, [0.1, 0.77], aq.Config()), models, strict=True):
        for found in (aq.load_reward(path), aq.load_reward(path, build)):
            assert torch.equal(found(few.test.x[:9]), model(few.test.x[:9]))
            assert aq.n_parameters(found) == aq.n_parameters(model)
        assert path.stat().st_size < 4 * aq.n_parameters(model) + 2000


def test_a_reward_between_two_sizes_comes_back_as_the_network_it_was(tmp_path: Path, few: aq.Dataset) -> None:
    theta, rewarded = aq.init_params(aq.MLP, seed=0), [0.1, 0.1024, 0.105]
    models = [aq.fractional_slim(aq.MLP, theta, w, grid=200) for w in rewarded]
    paths = aq.save_rewards(tmp_path, aq.MLP, models, rewarded, aq.Config(), fraction_grid=200)
    for path, model in zip(paths, models, strict=True):
        assert torch.equal(aq.load_reward(path)(few.test.x[:9]), model(few.test.x[:9]))
    stated = [json.loads(path.with_suffix(".json").read_text()) for path in paths]
    assert [each["width"] for each in stated] == [0.1, 0.105, 0.105]
    assert [each["fractional_width"] for each in stated] == rewarded


def test_a_width_that_rounding_puts_just_above_its_grid_is_saved(tmp_path: Path) -> None:
    width = np.arange(0, 1.0001, 1 / 200)[191]
    assert width > 191 / 200  # by one floating-point step
    model = aq.fractional_slim(aq.MLP, aq.init_params(aq.MLP, seed=0), width, grid=200)
    (path,) = aq.save_rewards(tmp_path, aq.MLP, [model], [width], aq.Config(), fraction_grid=200)
    assert aq.n_parameters(aq.load_reward(path)) == aq.n_parameters(model)


def test_loading_leaves_the_random_numbers_of_the_process_alone(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    aq.load_reward(saved)
    assert torch.equal(torch.rand(3), expected)


def test_any_network_can_be_saved_and_is_loaded_with_its_constructor(tmp_path: Path) -> None:
    build = partial(own, hidden=8)
    (path,) = aq.save_rewards(tmp_path, build, [build(0.5)], [0.5], aq.Config())
    assert json.loads(path.with_suffix(".json").read_text())["architecture"].endswith("test_rewards:own")
    assert aq.n_parameters(aq.load_reward(path, build)) == aq.n_parameters(build(0.5))
    with pytest.raises(ValueError, match=r"`build` must be passed for '.*own', which is not a network of this package"):
        aq.load_reward(path)
    for other in (own, partial(own, hidden=9), aq.MLP, lambda width: own(width, hidden=8)):
        with pytest.raises(ValueError, match=r"`build` must be .*own with options \{'hidden': 8\}, got"):
            aq.load_reward(path, other)


def test_a_constructor_without_import_path_is_known_by_its_name(tmp_path: Path) -> None:
    def local(width: float) -> nn.Module:
        return own(width)

    (path,) = aq.save_rewards(tmp_path / "own", local, [local(0.5)], [0.5], aq.Config())
    assert isinstance(aq.load_reward(path, local), nn.Module)
    (path,) = aq.save_rewards(tmp_path / "named", local, [local(0.5)], [0.5], aq.Config(), name="mine")
    assert isinstance(aq.load_reward(path, lambda width: own(width), name="mine"), nn.Module)
    with pytest.raises(ValueError, match="`build` must be named:mine"):
        aq.load_reward(path, local)


def test_a_stored_import_path_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (path,) = aq.save_rewards(tmp_path / "rewards", own, [own(0.5)], [0.5], aq.Config())
    forged(path, architecture="evil:build")
    for build in (None, own):
        with pytest.raises(ValueError, match="`build` must be"):
            aq.load_reward(path, build)
    assert "evil" not in sys.modules


def test_constants_outside_the_state_are_there_after_loading(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self, width: float) -> None:
            super().__init__()
            self.layer = nn.Linear(2, max(1, round(4 * width)))
            self.register_buffer("shift", torch.full((2,), 3.0), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x + self.shift)

    net, x = Shifted(0.5), torch.ones(1, 2)
    (path,) = aq.save_rewards(tmp_path, Shifted, [net], [0.5], aq.Config())
    assert torch.equal(aq.load_reward(path, Shifted)(x), net(x))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": [aq.LeNet(0.5)]}, r"models\[0\] does not fit what `build` makes at width 0.5: tensor"),
        ({"models": [aq.MLP(0.4)]}, r"models\[0\] does not fit"),
        ({"models": [aq.MLP(0.5).double()]}, r"models\[0\] does not fit"),
        ({"models": []}, "`models` must be a sequence, each part a Module"),
        ({"models": aq.MLP(0.5)}, "`widths` must hold one entry for each of the 7 models"),
        ({"models": [aq.MLP(0.5).state_dict()]}, "`models` must be a sequence, each part a Module"),
        ({"config": {}}, "`config` must be a Config"),
        ({"vocabulary": "film"}, "`vocabulary` must be a sequence, each part text"),
        ({"vocabulary": [1]}, "`vocabulary` must be a sequence, each part text"),
        ({"widths": None}, "`widths` must be a sequence, each part a finite number, got None"),
        ({"widths": [0.5, 0.5]}, "`widths` must hold one entry for each of the 1 models, got 2 entries"),
        ({"widths": [7]}, r"`widths\[0\]` must be a number in \(0, 1\], got 7"),
        ({"widths": [float("nan")]}, r"`widths` must be a sequence, each part a finite number, got \[nan\]"),
        ({"build": 3}, "`build` must be a function, got 3"),
        ({"build": partial(aq.MLP, 0.5)}, "`build` must be a function of the width"),
        ({"build": partial(aq.MLP, hidden=0)}, "MLP cannot be built"),
        ({"build": partial(aq.MLP, classes=10.0)}, "MLP cannot be built|`options` must be names with"),
    ],
)
def test_what_could_not_be_loaded_is_not_written(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    asked = {"build": aq.MLP, "models": [aq.MLP(0.5)], "widths": [0.5], "config": aq.Config(), **changes}
    with pytest.raises(ValueError, match=sentence):
        aq.save_rewards(tmp_path / "rewards", **asked)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    model, path = aq.MLP(0.1), folder / "participant-01.safetensors"
    with torch.no_grad():
        model[2].bias[0] = float("inf")
    with pytest.raises(ValueError, match=r"models\[0\] does not fit .*: tensor .* holds a number that is not finite"):
        aq.save_rewards(tmp_path, aq.MLP, [model], [0.1], aq.Config())
    with pytest.raises(ValueError, match="finite"):
        aq.load_reward(forged(path, model.state_dict()))


def test_a_reward_of_another_version_is_refused_by_name(folder: Path) -> None:
    stated = folder / "participant-01.json"
    manifest = json.loads(stated.read_text())
    stated.write_text(json.dumps({"recipe" if k == "run" else k: v for k, v in manifest.items()}))
    with pytest.raises(ValueError, match=r"manifest .*participant-01.json was written by aequa-lite 0\.1$"):
        aq.load_reward(folder / "participant-01.safetensors")


# ---- a manifest or a file that was changed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "os.system"}, "differs from the header"),
        ({"architecture": "MLP"}, "differs from the header"),
        ({"width": 0.5}, "differs from the header"),
        ({"options": {"multiple": 2}}, "differs from the header"),
        ({"participant": 1}, "differs from the header"),
        ({"run": "1" * 64}, "differs from the header"),
        ({"fractional_width": 0.2}, "differs from the header"),
        ({"n_parameters": 5}, "differs from the header"),
        ({"vocabulary": "1" * 64}, "differs from the header"),
        ({"architecture": 3}, "`architecture` must be"),
        ({"width": 7}, "`width` must be"),
        ({"width": 10**400}, "`width` must be"),
        ({"fractional_width": 0.31}, "`fractional_width` must be"),
        ({"participant": -1}, "`participant` must be"),
        ({"n_parameters": 10**12}, "`n_parameters` must be"),
        ({"options": {"multiple": 10**9}}, "`options` must be"),
        ({"options": {"shape": "evil"}}, "`options` must be"),
        ({"options": [1]}, "`options` must be"),
        ({"run": "x"}, "`run` must be 64 hexadecimal digits"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"sha256": 3}, "`sha256` must be"),
        ({"more": 1}, "damaged"),
    ],
)
def test_a_changed_manifest_is_refused(saved: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        aq.load_reward(edited(saved, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "os.system"}, "`build` must be passed"),
        ({"architecture": "MLP"}, "parameters|cannot be built"),
        ({"width": 0.5}, "parameters"),
        ({"n_parameters": 5}, "states 5 parameters"),
        ({"options": {"nosuch": 3}}, "cannot be built"),
        ({"options": {"multiple": 60_000}}, "cannot be built"),
    ],
)
def test_a_forged_reward_is_still_a_network_that_fits(saved: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        aq.load_reward(forged(saved, **changes))


@pytest.mark.parametrize("options", [{"heads": 4}, {"size": 8}, {"group": 8}])
def test_an_option_that_changes_no_shape_cannot_be_changed_in_the_manifest(tmp_path: Path, options: dict) -> None:
    build = partial(aq.networks.ConvNet, group=4) if "group" in options else partial(aq.networks.Transformer, words=9)
    (path,) = aq.save_rewards(tmp_path, build, [build(1.0)], [1.0], aq.Config())
    stated = json.loads(path.with_suffix(".json").read_text())["options"]
    edited(path, options={**stated, **options})
    with pytest.raises(ValueError, match="differs from the header"):
        aq.load_reward(path)
    assert set(faults(tmp_path)) == {path.name, path.with_suffix(".json").name}


def test_a_changed_file_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="SHA-256"):
        aq.load_reward(saved)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        aq.load_reward(tmp_path / "nowhere.safetensors")


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=400))
def test_a_damaged_manifest_is_a_clear_error_and_nothing_else(saved: Path, noise: bytes) -> None:
    manifest = saved.with_suffix(".json")
    intact = manifest.read_bytes()
    manifest.write_bytes(noise)
    with pytest.raises(ValueError, match="manifest"):
        aq.load_reward(saved)
    manifest.write_bytes(intact)


# ---- a folder of rewards


def test_a_folder_as_it_was_written_has_no_fault(folder: Path) -> None:
    assert faults(folder) == {}
    assert len(aq.rewards.verify(folder)) == 7  # three rewards, three manifests, the list


def test_a_network_of_another_package_is_verified_with_its_constructor(tmp_path: Path) -> None:
    aq.save_rewards(tmp_path, own, [own(0.5)], [0.5], aq.Config())
    assert faults(tmp_path) == faults(tmp_path, own) == {}
    assert "not rebuilt" in "".join(map(str, aq.rewards.verify(tmp_path)))
    assert "not rebuilt" not in "".join(map(str, aq.rewards.verify(tmp_path, own)))
    assert "`build` must be" in faults(tmp_path, aq.MLP)["participant-00.safetensors"]


def test_every_damage_is_a_line_of_its_own(folder: Path) -> None:
    first, second = "participant-00.safetensors", folder / "participant-01.safetensors"
    edited(folder / first, sha256="0" * 64)
    second.unlink()
    (folder / "notes.txt").write_text("hello")
    (folder / "participant-00.onnx").write_bytes(b"garbage")
    (folder / "participant-09.safetensors").write_bytes((folder / first).read_bytes())
    found = faults(folder)
    sentences = {
        "notes.txt": "not on the list",
        "participant-00.json": "SHA-256 of rewards.json",
        "participant-00.onnx": "not on the list",
        first: "SHA-256",
        second.name: "missing",
        "participant-09.safetensors": "not on the list",
    }
    assert list(found) == sorted(sentences)
    for name, sentence in sentences.items():
        assert sentence in found[name]


def swap(folder: Path) -> None:
    """Exchange the files of two participants."""
    for kind in ("safetensors", "json"):
        first, second = (folder / f"participant-0{i}.{kind}" for i in (0, 1))
        first.rename(folder / "aside")
        second.rename(first)
        (folder / "aside").rename(second)


def test_swapped_participants_are_noticed_even_with_a_new_list(folder: Path) -> None:
    swap(folder)
    assert len(faults(folder)) == 4
    listed_again(folder)
    assert set(faults(folder)) == {"participant-00.safetensors", "participant-01.safetensors"}
    assert all("another participant" in each for each in faults(folder).values())


def test_a_copied_reward_is_noticed_even_with_a_new_list(folder: Path) -> None:
    for kind in ("safetensors", "json"):
        copied = (folder / f"participant-01.{kind}").read_bytes()
        (folder / f"participant-00.{kind}").write_bytes(copied)
    assert set(faults(folder)) == {"participant-00.safetensors", "participant-00.json"}
    listed_again(folder)
    assert "another participant" in faults(folder)["participant-00.safetensors"]


def test_a_reward_of_another_run_is_noticed_even_with_a_new_list(folder: Path) -> None:
    forged(folder / "participant-01.safetensors", run="1" * 64)
    listed_again(folder)
    assert "another participant or run" in faults(folder)["participant-01.safetensors"]


def test_two_runs_of_one_config_are_told_apart_by_their_identity(tmp_path: Path) -> None:
    paths = [
        aq.save_rewards(tmp_path / f"{k}", aq.MLP, [aq.MLP(0.1)], [0.1], aq.Config(), identity={"shards": k})[0]
        for k in range(2)
    ]
    first, second = (json.loads(path.with_suffix(".json").read_text())["run"] for path in paths)
    assert first != second


def test_a_link_is_noticed(folder: Path) -> None:
    path, aside = folder / "participant-00.safetensors", folder.parent / f"{folder.name}-aside"
    path.rename(aside)
    path.symlink_to(aside)
    assert "link" in faults(folder)[path.name]


def test_a_folder_that_was_not_written_to_its_end_has_no_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([None, None])

    def killed(*given: Any) -> None:
        if next(calls, "stop") == "stop":
            raise KeyboardInterrupt
        real(*given)

    real = aq.rewards.save_tensors
    monkeypatch.setattr(aq.rewards, "save_tensors", killed)
    with pytest.raises(KeyboardInterrupt):
        aq.save_rewards(folder, aq.MLP, [aq.MLP(0.1)] * 3, [0.1] * 3, aq.Config(seed=1))
    assert list(faults(folder)) == ["rewards.json"]
    assert "rewards.json is missing" in faults(folder)["rewards.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"run": 1, "files": []}',
        "[" * 100_000,
        '{"run": "%s", "files": [{"name": "../x"}]}' % ("0" * 64),
    ],
)
def test_a_damaged_list_is_a_fault(folder: Path, text: str) -> None:
    (folder / "rewards.json").write_text(text)
    assert list(faults(folder)) == ["rewards.json"]


@pytest.mark.parametrize("name", ["../aside.json", "participant-00.onnx", "participant-00.safetensors/../x", 3, None])
def test_a_list_names_rewards_and_nothing_else(folder: Path, name: object) -> None:
    stated = json.loads((folder / "rewards.json").read_text())
    stated["files"][0]["name"] = name
    (folder / "rewards.json").write_text(json.dumps(stated))
    assert "damaged" in faults(folder)["rewards.json"]


def test_what_a_killed_process_left_is_no_fault_and_goes_with_the_next_write(folder: Path) -> None:
    left = folder / ".participant-00.safetensors-0123abcd.safetensors"
    left.write_bytes(b"half")
    assert faults(folder) == {}
    aq.save_rewards(folder, aq.MLP, [aq.MLP(0.1)] * 3, [0.1] * 3, aq.Config())
    assert not left.exists()


def test_a_name_cannot_forge_a_line(folder: Path) -> None:
    (folder / "a\nok     b\x1b[2K.txt").write_text("")
    lines = [str(each) for each in aq.rewards.verify(folder)]
    assert all(line.isprintable() for line in lines)
    assert str(aq.rewards.FileCheck("a", "", "x\x1b[2K\ny")) == "WRONG  a: x [2K y"


def test_the_command_line_prints_the_same_and_fails_on_a_fault(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(each) for each in aq.rewards.verify(folder)]
    edited(folder / "participant-00.safetensors", sha256="0" * 64)
    assert main(["verify", str(folder)]) == 1
    assert "WRONG  participant-00.safetensors" in capsys.readouterr().out


def test_a_folder_without_rewards_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="`folder` must be a folder of rewards"):
            aq.rewards.verify(wrong)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="no folder refuses root here")
def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file" / "rewards", Path("/proc/self/rewards")):
        with pytest.raises(OSError, match=str(wrong.parent)):
            aq.save_rewards(wrong, aq.MLP, [aq.MLP(0.1)], [0.1], aq.Config())


def test_a_run_is_saved_with_its_identity(tmp_path: Path) -> None:
    report = SimpleNamespace(save=lambda folder: Path(folder).mkdir(parents=True, exist_ok=True))
    problem = SimpleNamespace(build=aq.MLP, config=aq.Config(), data=SimpleNamespace(words=(), encoder=None, labels=()))
    plan, last = SimpleNamespace(widths=np.array([0.1])), SimpleNamespace(identity={"shards": "a"})
    outcome = SimpleNamespace(
        report=report, problem=problem, models=[aq.MLP(0.1)], plan=plan, curve=None, last=last, rewarding={}
    )
    assert aq.Outcome.save(outcome, tmp_path / "run") == tmp_path / "run"
    assert faults(tmp_path / "run" / "rewards") == {}
    stated = json.loads((tmp_path / "run" / "rewards" / "rewards.json").read_text())
    assert stated["run"] == digest(json.dumps({"trained": {"shards": "a"}, "rewarded": {}}, sort_keys=True))


# ---- text


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A reward that reads sentences, with its vocabulary."""
    build = partial(aq.networks.TextCNN, words=4, shape=(6,), classes=2)
    vocabulary = ("<padding>", "<unknown>", "film", "fine")
    model = aq.slim(build, aq.init_params(build, 0), 0.5)
    aq.save_rewards(tmp_path, build, [model], [0.5], aq.Config(), vocabulary=vocabulary)
    return tmp_path


def test_a_reward_for_text_comes_with_its_vocabulary(text_folder: Path) -> None:
    path = text_folder / "participant-00.safetensors"
    vocabulary = aq.rewards.load_vocabulary(path)
    assert vocabulary == ("<padding>", "<unknown>", "film", "fine")
    assert faults(text_folder) == {}
    assert aq.load_reward(path)(aq.data.tokens(["a fine film"], vocabulary, length=6)).shape == (1, 2)


@pytest.mark.parametrize("text", ['["<padding>", "<unknown>", "fine", "film"]', "[" * 100_000, "", "{}"])
def test_a_vocabulary_that_is_not_the_rewards_is_refused(text_folder: Path, text: str) -> None:
    (text_folder / "vocabulary.json").write_text(text)
    with pytest.raises(ValueError, match="vocabulary.json does not have the SHA-256"):
        aq.rewards.load_vocabulary(text_folder / "participant-00.safetensors")
    assert set(faults(text_folder)) == {"participant-00.safetensors", "vocabulary.json"}


@pytest.mark.parametrize("text", ["[" * 100_000, "", "{}", "[1]"])
def test_a_vocabulary_that_a_manifest_vouches_for_is_read_with_care(text_folder: Path, text: str) -> None:
    path = text_folder / "participant-00.safetensors"
    (text_folder / "vocabulary.json").write_text(text)
    forged(path, vocabulary=digest(text))
    with pytest.raises(ValueError, match="vocabulary.json is damaged"):
        aq.rewards.load_vocabulary(path)


def test_a_reward_for_images_has_no_vocabulary(saved: Path) -> None:
    with pytest.raises(ValueError, match="`path` must be a reward that is read with vocabulary.json"):
        aq.rewards.load_vocabulary(saved)


# ---- ONNX


def test_an_onnx_file_computes_what_the_reward_computes(tmp_path: Path, few: aq.Dataset) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net = aq.slim(aq.LeNet, aq.init_params(aq.LeNet, seed=0), 0.4).eval()
    path = aq.rewards.export_onnx(net, few.test.x[:2], tmp_path / "participant-00.onnx")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]  # one file, nothing beside it
    session = runtime.InferenceSession(path)
    for count in (1, 7):  # any number of samples
        (logits,) = session.run(None, {"x": few.test.x[:count].numpy()})
        with torch.no_grad():
            assert torch.tensor(logits) == pytest.approx(net(few.test.x[:count]), abs=1e-5)


@pytest.mark.parametrize(("net", "example"), [(3, torch.zeros(2, 3)), (nn.Linear(3, 2), "x"), (nn.Linear(3, 2), None)])
def test_what_cannot_be_exported_is_refused(tmp_path: Path, net: Any, example: Any) -> None:
    with pytest.raises(ValueError, match="`net` must be|`example` must be"):
        aq.rewards.export_onnx(net, example, tmp_path / "a.onnx")


def test_rewards_that_are_not_on_the_list_are_noticed(folder: Path) -> None:
    left = [f"participant-0{i}.{kind}" for i in (1, 2) for kind in ("safetensors", "json")]
    kept = {name: (folder / name).read_bytes() for name in left}
    aq.save_rewards(folder, aq.MLP, [aq.MLP(0.1)], [0.1], aq.Config(seed=1))
    for name, content in kept.items():  # as somebody may put them back
        (folder / name).write_bytes(content)
    assert set(faults(folder)) == set(left)


def test_rewards_of_an_earlier_run_leave_the_folder(tmp_path: Path) -> None:
    models = [aq.MLP(0.1) for _ in range(4)]
    aq.save_rewards(tmp_path, aq.MLP, models, [0.1] * 4, aq.Config())
    (tmp_path / "notes.txt").write_text("stays")
    aq.save_rewards(tmp_path, aq.MLP, models[:2], [0.1] * 2, aq.Config())
    names = {each.name for each in tmp_path.iterdir()}
    assert len(names) == 2 * 2 + 1 + 1
    assert "notes.txt" in names
    assert list(faults(tmp_path)) == ["notes.txt"]


def test_a_reward_is_read_whatever_the_process_builds_by_default(tmp_path: Path) -> None:
    theta = aq.init_params(aq.MLP, seed=0, device="cpu")
    model = aq.slim(aq.MLP, theta, 0.5)
    (path,) = aq.save_rewards(tmp_path, aq.MLP, [model], [0.5], aq.Config(participants=1))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found, drawn = aq.load_reward(path), aq.init_params(aq.MLP, seed=0, device="cpu")
        assert torch.get_default_dtype() == torch.float64  # as before
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in found.state_dict().items())
    assert {t.device.type for t in drawn.values()} == {"cpu"}


@pytest.fixture
def table_folder(tmp_path: Path) -> Path:
    """A reward that reads records, with its encoder."""
    columns = (aq.data.tabular.fit_column("age", ["50", "60"]), aq.data.tabular.fit_column("sex", ["f", "m"] * 9))
    encoder, build = aq.data.Encoder(columns), partial(aq.networks.TabularMLP, shape=(3,))
    aq.save_rewards(tmp_path, build, [build(0.5)], [0.5], aq.Config(), encoder=encoder, labels=("no", "yes"))
    return tmp_path


def test_a_reward_for_a_table_comes_with_its_encoder_and_the_names_of_its_classes(table_folder: Path) -> None:
    path = table_folder / "participant-00.safetensors"
    encoder, labels = aq.rewards.load_encoder(path)
    assert labels == ("no", "yes")
    assert faults(table_folder) == {}
    assert aq.load_reward(path)(encoder([{"age": 55, "sex": "m"}])).shape == (1, 2)
    (table_folder / "encoder.json").write_text("{}")
    assert set(faults(table_folder)) == {"participant-00.safetensors", "encoder.json"}
    forged(path, encoder=digest("{}"))
    with pytest.raises(ValueError, match="encoder.json is damaged"):
        aq.rewards.load_encoder(path)


def test_a_reward_for_images_has_no_encoder(saved: Path) -> None:
    with pytest.raises(ValueError, match="`path` must be a reward that is read with encoder.json"):
        aq.rewards.load_encoder(saved)


def test_a_participant_verifies_its_own_reward_without_the_list(saved: Path, tmp_path: Path) -> None:
    own, name = tmp_path / "own", saved.stem
    own.mkdir()
    for ending in (".safetensors", ".json"):
        (own / f"{name}{ending}").write_bytes(saved.with_suffix(ending).read_bytes())
    (found,) = aq.rewards.verify(own / saved.name)
    assert found.fault is None
    content = bytearray((own / saved.name).read_bytes())
    content[-1] ^= 1
    (own / saved.name).write_bytes(content)
    (found,) = aq.rewards.verify(own / saved.name)
    assert "SHA-256" in str(found.fault)
    assert main(["verify", str(own / saved.name)]) == 1


def test_an_export_without_onnx_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("aequa_lite.rewards.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^onnx and onnxscript cannot be imported; pip install 'aequa-lite\[onnx\]'$"):
        aq.rewards.export_onnx(torch.nn.Linear(3, 2), torch.zeros(2, 3), tmp_path / "a.onnx")
