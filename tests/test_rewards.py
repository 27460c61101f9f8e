"""The model that goes home: the same network after a round trip, and nothing else is ever loaded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.cli import main


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """One reward on disk."""
    theta = aq.init_params(aq.LeNet, seed=0)
    (path,) = aq.save_rewards(tmp_path, aq.LeNet, [aq.slim(aq.LeNet, theta, 0.3)], [0.3], aq.Config())
    return path


@pytest.mark.parametrize(("network", "options"), [(aq.LeNet, {"multiple": 2}), (aq.MLP, {"ahead": 3})])
def test_a_reward_comes_back_as_the_network_it_was(tmp_path: Path, few: aq.Dataset, network, options: dict) -> None:
    build = aq.for_dataset(network, few, **options)
    theta = aq.init_params(build, seed=0)
    models = [aq.slim(build, theta, w) for w in (0.1, 0.77)]
    for path, model in zip(aq.save_rewards(tmp_path, build, models, [0.1, 0.77], aq.Config()), models, strict=True):
        found = aq.load_reward(path)
        assert torch.equal(found(few.test.x[:9]), model(few.test.x[:9]))
        assert aq.n_parameters(found) == aq.n_parameters(model)
        assert path.stat().st_size < 4 * aq.n_parameters(model) + 2000


def test_a_reward_between_two_sizes_comes_back_as_the_network_it_was(tmp_path: Path, few: aq.Dataset) -> None:
    theta, held = aq.init_params(aq.MLP, seed=0), [0.1, 0.1024, 0.105]
    models = [aq.fractional_slim(aq.MLP, theta, w, grid=200) for w in held]
    paths = aq.save_rewards(tmp_path, aq.MLP, models, held, aq.Config(), fraction_grid=200)
    for path, model in zip(paths, models, strict=True):
        assert torch.equal(aq.load_reward(path)(few.test.x[:9]), model(few.test.x[:9]))
    assert [json.loads(path.with_suffix(".json").read_text())["width"] for path in paths] == [0.1, 0.105, 0.105]


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
    (path,) = aq.save_rewards(tmp_path, aq.MLP, [model], [0.1], aq.Config())
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
        aq.save_rewards(tmp_path, torch.nn.Linear, [torch.nn.Linear(1, 1)], [1.0], aq.Config())
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rewards and their loader."""
    theta = aq.init_params(aq.LeNet, seed=0)
    aq.save_rewards(tmp_path, aq.LeNet, [aq.slim(aq.LeNet, theta, w) for w in (0.3, 1.0)], [0.3, 1.0], aq.Config())
    aq.rewards.write_loader(tmp_path, aq.LeNet)
    return tmp_path


def faults(folder: Path) -> dict[str, str]:
    """What is wrong, by file."""
    return {each.file: each.fault for each in aq.rewards.verify_rewards(folder) if each.fault is not None}


def test_a_folder_as_it_was_written_has_no_fault(folder: Path) -> None:
    assert faults(folder) == {}
    assert len(aq.rewards.verify_rewards(folder)) == 5


def test_every_damage_is_a_line_of_its_own(folder: Path) -> None:
    loader, first, second = (
        folder / "load_reward.py",
        "participant-00.safetensors",
        folder / "participant-01.safetensors",
    )
    loader.write_text(loader.read_text() + "print('evil')\n")
    edited(folder / first, sha256="0" * 64)
    second.unlink()
    (folder / "notes.txt").write_text("hello")
    found = faults(folder)
    assert list(found) == ["load_reward.py", "notes.txt", first, "participant-01.json"]
    for name, said in zip(found, ("do not run it", "does not belong", "SHA-256", "missing"), strict=True):
        assert said in found[name]


def test_a_reward_of_another_run_is_noticed(folder: Path) -> None:
    edited(folder / "participant-01.safetensors", config="1" * 64)
    assert "another run" in faults(folder)["participant-01.safetensors"]


def test_the_command_line_says_the_same_and_fails_on_a_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["aequa_lite", "verify", str(folder)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "WRONG" not in capsys.readouterr().out
    edited(folder / "participant-00.safetensors", sha256="0" * 64)
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "WRONG  participant-00.safetensors" in capsys.readouterr().out


def test_a_folder_without_rewards_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="folder is"):
            aq.rewards.verify_rewards(wrong)


def test_the_loader_needs_torch_and_safetensors_and_nothing_else(folder: Path, few: aq.Dataset) -> None:
    banned = ["aequa_lite", "scipy", "pandas", "matplotlib", "seaborn", "torchvision", "tqdm"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({banned!r}))\n"
        "import torch; from load_reward import load_reward\n"
        "x = torch.arange(3 * 784, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(3, 1, 28, 28)\n"
        "with torch.no_grad(): print(load_reward('participant-00.safetensors')(x).flatten().tolist())"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
    x = torch.arange(3 * 784, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(3, 1, 28, 28)
    with torch.no_grad():
        expected = aq.load_reward(folder / "participant-00.safetensors")(x).flatten().tolist()
    assert json.loads(said) == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A reward that reads sentences, with its words and its loader."""
    build, words = (
        partial(aq.networks.TextCNN, words=4, shape=(6,), classes=2),
        ("<padding>", "<unknown>", "film", "fine"),
    )
    aq.save_rewards(tmp_path, build, [aq.slim(build, aq.init_params(build, 0), 0.5)], [0.5], aq.Config(), words=words)
    aq.rewards.write_loader(tmp_path, build)
    return tmp_path


def test_a_reward_for_text_brings_its_words(text_folder: Path) -> None:
    path = text_folder / "participant-00.safetensors"
    assert aq.rewards.load_words(path) == ("<padding>", "<unknown>", "film", "fine")
    assert faults(text_folder) == {}
    code = (
        "import sys; sys.modules['aequa_lite'] = None\n"
        "from load_reward import load_reward, load_words, tokens\n"
        f"net, words = load_reward({path.name!r}), load_words({path.name!r})\n"
        "print(net(tokens(['A fine film'], words, length=6)).tolist())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=text_folder, capture_output=True, text=True, check=True
    ).stdout
    with torch.no_grad():
        expected = aq.load_reward(path)(aq.data.tokens(["a fine film"], aq.rewards.load_words(path), length=6)).tolist()
    assert json.loads(said)[0] == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("text", ['["<padding>", "<unknown>", "fine", "film"]', "[" * 100_000, "", "{}"])
def test_words_that_are_not_those_of_the_reward_are_refused(text_folder: Path, text: str) -> None:
    (text_folder / "words.json").write_text(text)
    with pytest.raises(ValueError, match="words.json is not the file of words"):
        aq.rewards.load_words(text_folder / "participant-00.safetensors")
    assert set(faults(text_folder)) == {"participant-00.safetensors", "words.json"}


@pytest.mark.parametrize("text", ["[" * 100_000, "", "{}", "[1]"])
def test_words_that_a_manifest_vouches_for_are_read_with_care(text_folder: Path, text: str) -> None:
    path = text_folder / "participant-00.safetensors"
    (text_folder / "words.json").write_text(text)
    edited(path, words=hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(ValueError, match="words.json is damaged"):
        aq.rewards.load_words(path)


def test_a_reward_for_pictures_has_no_words(saved: Path) -> None:
    with pytest.raises(ValueError, match="words.json cannot be read: no such file"):
        aq.rewards.load_words(saved)


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


def test_a_smaller_reward_costs_less(few: aq.Dataset) -> None:
    nets = [aq.LeNet(w) for w in (0.2, 0.5, 1.0)]
    found = [aq.rewards.cost(net, few.test.x, repeats=3) for net in nets]
    assert [each.parameters for each in found] == [aq.n_parameters(net) for net in nets]
    assert found[0].flops < found[1].flops < found[2].flops
    assert found[2].flops == 2 * (784 * 6 * 25 + 100 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10)  # counted by hand
    assert found[2].bytes == 4 * aq.n_parameters(nets[2])
    assert len(aq.rewards.cost_table(nets, few.test.x, [0.2, 0.5, 1.0]).splitlines()) == 4
    with pytest.raises(ValueError, match="repeats"):
        aq.rewards.cost(nets[0], few.test.x, repeats=0)
