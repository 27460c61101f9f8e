"""Each network: what it shares with published ones, its operations, and that it trains."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from formats import write_sst2
from programs import program
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

import aequa_lite as aq
from aequa_lite.registry import NETWORKS

IMAGE = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
SMALL = {"ResNet18": {"channels": 8}, "BatchResNet18": {"channels": 8}, "Transformer": {"heads": 2}}
FOR_TEXT = ("TextCNN", "Transformer")
FOR_TABLES = ("TabularMLP",)


def dataset_for(name: str, images: aq.Dataset, texts: aq.Dataset) -> aq.Dataset:
    """A small data set that a network reads."""
    if name in FOR_TABLES:
        return aq.load("hospitals", device="cpu")
    return texts if name in FOR_TEXT else images


def our_name(name: str) -> str:
    """Our name of a tensor of torchvision's network."""
    return name.replace("bn", "norm")


def test_a_resnet_with_batchnorm_computes_what_torchvisions_does() -> None:
    theirs = resnet18(weights=None).eval()
    ours = aq.networks.BatchResNet18(1.0, shape=(3, 224, 224), classes=1000, stem=7).eval()
    ours.load_state_dict({our_name(name): t for name, t in theirs.state_dict().items()})
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))
    assert aq.n_parameters(ours) == aq.n_parameters(theirs) == 11_689_512


@pytest.mark.parametrize("build", [aq.networks.ResNet18, aq.networks.BatchResNet18])
def test_a_resnet_for_small_images_differs_from_torchvisions_in_its_stem_alone(build) -> None:
    with torch.device("meta"):
        theirs = {our_name(name): tuple(p.shape) for name, p in resnet18(num_classes=10).named_parameters()}
        ours = {name: tuple(p.shape) for name, p in build(1.0).named_parameters()}
    assert ours.pop("conv1.weight") == (64, 3, 3, 3)
    assert theirs.pop("conv1.weight") == (64, 3, 7, 7)
    assert ours == theirs


@pytest.mark.parametrize(("width", "millions"), [(0.2, 23), (0.4, 91), (0.6, 203), (0.8, 360), (1.0, 555)])
def test_its_multiply_adds_are_those_that_fjord_publishes(width: float, millions: int) -> None:
    assert round(aq.networks.flops(aq.networks.BatchResNet18, width, IMAGE) / 2e6) == millions


def test_group_sizes_stay_and_group_numbers_grow() -> None:
    for build in (aq.networks.ConvNet, partial(aq.networks.ResNet18, channels=32)):
        for width in (0.02, 0.3, 0.7, 1.0):
            norms = [each for each in build(width).modules() if isinstance(each, torch.nn.GroupNorm)]
            assert {norm.num_channels // norm.num_groups for norm in norms} == {4}


@pytest.mark.parametrize("stem", [1, 5, 0, 7.5])
def test_a_stem_of_another_size_is_refused(stem: object) -> None:
    with pytest.raises(ValueError, match=r"`stem` must be (3 .* or 7 .*|a whole number), got "):
        aq.networks.ResNet18(stem=stem)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("width", [0, -1.0, 1.2])
def test_a_width_outside_zero_to_one_is_refused(name: str, width: float) -> None:
    with pytest.raises(ValueError, match=r"`width` must be a number in \(0, 1\], got "):
        NETWORKS[name](width)


@pytest.mark.parametrize("build", [aq.networks.TextCNN, aq.networks.Transformer])
def test_more_padding_changes_nothing(build) -> None:
    net = build(0.5, words=30, shape=(12,))
    ids = torch.randint(1, 30, (4, 6), generator=torch.Generator().manual_seed(0))
    more = torch.cat([ids, torch.zeros(4, 6, dtype=torch.int64)], 1)
    torch.testing.assert_close(net(ids), net(more))
    assert torch.isfinite(net(torch.zeros(1, 12, dtype=torch.int64))).all()  # not even a sentence without words


def test_the_embedding_of_padding_stays_zero(texts: aq.Dataset) -> None:
    config = aq.Config(local_steps=3, batch=8, weight_decay=0.1)
    build = aq.for_dataset(aq.networks.TextCNN, texts)
    update = aq.local_sgd(build, aq.init_params(build, 0), aq.Shard(0, texts.train, []), 1.0, config, aq.stream(0, "t"))
    assert not update.state["embedding.weight"][0].any()


def test_word_order_matters_to_the_transformer_once_positions_are_learnt() -> None:
    net = aq.networks.Transformer(words=30, shape=(12,))
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(net(ids), net(ids.flip(1)))
    torch.nn.init.normal_(net.positions)
    assert not torch.allclose(net(ids), net(ids.flip(1)), atol=1e-3)


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="`x` must be up to 12 tokens for each sample, got 13"):
        aq.networks.Transformer(0.5, words=30, shape=(12,))(torch.ones(1, 13, dtype=torch.int64))


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_of_a_real_pass_and_grow_with_the_width(name: str) -> None:
    build = partial(NETWORKS[name], **SMALL.get(name, {}))
    x = torch.ones(2, 56, dtype=torch.int64) if name in FOR_TEXT else torch.zeros(2, 3, 28, 28, dtype=torch.uint8)
    x = torch.zeros(2, 15) if name in FOR_TABLES else x
    build = build if name in FOR_TEXT + FOR_TABLES else partial(build, shape=(3, 28, 28))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build(0.5).eval()(x)
    assert aq.networks.flops(build, 0.5, x) == counter.get_total_flops() / 2
    assert 0 < aq.networks.flops(build, 0.05, x) < aq.networks.flops(build, 0.5, x) < aq.networks.flops(build, 1.0, x)
    assert aq.n_parameters(build(0.05)) < aq.n_parameters(build(0.5)) < aq.n_parameters(build(1.0))


def test_operations_counted_by_hand() -> None:
    hand = 32 * 32 * 9 * 3 * 32 + 16 * 16 * 9 * 32 * 64 + 8 * 8 * 9 * 64 * 128 + 4 * 4 * 9 * 128 * 256 + 256 * 10
    assert aq.networks.flops(aq.networks.ConvNet, 1.0, IMAGE) == 2 * hand
    linear, attention = 2 * (4 * 128 * 128 + 2 * 128 * 256), 2 * 2 * 56 * 128  # for each token, over both layers
    text = torch.ones(1, 56, dtype=torch.int64)
    assert aq.networks.flops(aq.networks.Transformer, 1.0, text) == 2 * (56 * (linear + attention) + 128 * 2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> aq.Dataset:
    """A small data set of sentences."""
    return aq.load(write_sst2(tmp_path_factory.mktemp("sst2")), device="cpu")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_trained_saved_and_loaded(
    name: str, few: aq.Dataset, texts: aq.Dataset, tmp_path: Path
) -> None:
    dataset = dataset_for(name, few, texts)
    build = aq.for_dataset(NETWORKS[name], dataset, **SMALL.get(name, {}))
    config = aq.Config(participants=2, rounds=2, local_steps=2, batch=8)
    shards = aq.data.homogeneous(dataset.train, config)
    first, last = aq.federate(build, shards, config, progress=False)
    assert first.left_out == last.left_out == ()
    assert not all(torch.equal(first.theta[k], t) for k, t in last.theta.items())
    curve = aq.accuracy_curve(build, last.theta, dataset.validation.take(slice(0, 50)), grid=(0.3, 1.0))
    assert curve.widths.tolist() == [0.3, 1.0]
    models = [
        aq.networks.recalibrate_batchnorm(aq.slim(build, last.theta, w), dataset.train.take(slice(0, 100)))
        for w in curve.widths
    ]
    for path, model in zip(aq.save_rewards(tmp_path, build, models, curve.widths, config), models, strict=True):
        loaded = aq.load_reward(path)
        assert torch.equal(loaded(dataset.test.x[:9]), model(dataset.test.x[:9]))


@pytest.mark.parametrize("name", NETWORKS)
def test_several_workers_compute_what_one_computes(name: str, few: aq.Dataset, texts: aq.Dataset) -> None:
    dataset = dataset_for(name, few, texts)
    build = aq.for_dataset(NETWORKS[name], dataset, **SMALL.get(name, {}))
    config = aq.Config(participants=3, rounds=1, local_steps=2, batch=8)
    shards = aq.data.homogeneous(dataset.train, config)
    (one,), (three,) = (aq.federate(build, shards, config, progress=False, workers=workers) for workers in (1, 3))
    assert all(torch.equal(one.theta[k], t) for k, t in three.theta.items())


def test_a_network_that_does_not_read_the_data_set_is_refused(few: aq.Dataset, texts: aq.Dataset) -> None:
    assert aq.for_dataset(aq.networks.TextCNN, texts)(0.5).embedding.num_embeddings == len(texts.words)
    with pytest.raises(ValueError, match="`build` must be .* 'sst2.*', that is for text, such as TextCNN, got 'LeNet'"):
        aq.for_dataset(aq.LeNet, texts)
    with pytest.raises(
        ValueError, match=r"`build` must be .* 'few', .* shape \(1, 28, 28\), such as MLP, got 'TextCNN'"
    ):
        aq.for_dataset(partial(aq.networks.TextCNN, maps=4), few)
    with pytest.raises(ValueError, match=r"`shape` must be \(channels, height, width\) .*, got \(15,\)"):
        aq.for_dataset(aq.LeNet, aq.load("hospitals", device="cpu"))
    with pytest.raises(ValueError, match=r"`shape` must be \(features,\), .*, got \(1, 28, 28\)"):
        aq.for_dataset(aq.networks.TabularMLP, few)
    with pytest.raises(ValueError, match="`dataset` must be a Dataset"):
        aq.for_dataset(aq.MLP, few.train)
    with pytest.raises(ValueError, match="`build` must be a function"):
        aq.for_dataset("MLP", few)


@pytest.mark.parametrize("name", ["LeNet", "ConvNet", "ResNet18", "BatchResNet18"])
@pytest.mark.parametrize("shape", [(10,), (28, 28), (1, 0, 0), "3"])
def test_what_is_no_image_is_refused(name: str, shape: object) -> None:
    with pytest.raises(
        ValueError,
        match=r"`shape` must be (\(channels, height, width\) of at least|a sequence, each part a whole number, got '3')",
    ):
        NETWORKS[name](0.5, shape=shape)


def test_operations_of_no_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="`x` must be a tensor of one sample or more"):
        aq.networks.flops(aq.MLP, 0.5, torch.zeros(0, 1, 28, 28))


def test_the_books_table_is_the_one_that_the_package_gives() -> None:
    module = program("scripts/networks.py")
    assert module.page_parts()[1].startswith(module.tables())


def test_a_network_of_features_refuses_bytes() -> None:
    x, y = torch.zeros(6, 15, dtype=torch.uint8), torch.zeros(6, dtype=torch.long)
    parts = [aq.Samples(x, y, 2)] * 3
    with pytest.raises(ValueError, match="`dataset` must be one of float32 features"):
        aq.for_dataset(aq.networks.TabularMLP, aq.Dataset("bytes", *parts, sha256="0" * 64))
    assert aq.for_dataset(aq.MLP, aq.Dataset("bytes", *parts, sha256="0" * 64))(1.0)(x).shape == (6, 2)


@pytest.mark.parametrize(
    "draw", [lambda: aq.init_params(aq.MLP, 0), lambda: aq.networks.check_network(aq.MLP, torch.zeros(2, 1, 28, 28))]
)
def test_making_a_network_leaves_all_generators_alone(draw, monkeypatch) -> None:
    seeded, before = [], torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)  # the generators of GPUs, which nobody restores
    draw()
    assert not seeded
    assert torch.equal(torch.get_rng_state(), before)
