"""Laws of text: the training split alone decides the words, padding is 0, whatever is wrong is named with its line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from formats import write_sst2

import aequa_lite as aq
from aequa_lite.data import readers


def sentences(path) -> list[str]:
    return [line.split("\t")[0] for line in path.read_text().splitlines()]


def test_sentences_become_token_ids_and_splits_are_kept(tmp_path) -> None:
    data = aq.load(write_sst2(tmp_path / "sst2"), device="cpu")
    assert (data.name, data.labels, data.classes) == ("sst2", ("negative", "positive"), 2)
    assert data.sizes == {"train": 60, "validation": 12, "test": 12}
    for split, file in ((data.train, "train"), (data.validation, "dev"), (data.test, "test")):
        assert split.x.dtype == split.y.dtype == torch.int64
        assert torch.equal(split.x, aq.data.tokens(sentences(tmp_path / "sst2" / f"{file}.tsv"), data.words))
        assert split.x.max() < len(data.words)


def test_words_are_the_frequent_ones_of_the_training_split_in_order(tmp_path) -> None:
    folder = write_sst2(tmp_path / "sst2", dev=[("zzz zzz zzz good", 1), ("bad", 0)])
    data = aq.load(folder)
    counts = Counter(word for each in sentences(folder / "train.tsv") for word in each.split())
    expected = sorted((w for w in counts if counts[w] >= 2), key=lambda w: (-counts[w], w))
    assert data.words == ("<padding>", "<unknown>", *expected)
    assert any(count == 1 for count in counts.values())
    assert data.validation.x[0, :5].tolist() == [1, 1, 1, data.words.index("good"), 0]


def test_without_a_dev_file_validation_is_set_aside_by_the_seed_and_adds_no_word(tmp_path) -> None:
    rows = [(f"film twin{i // 2}", i % 2) for i in range(40)]  # twins whose other half is set aside are known once
    folder = write_sst2(tmp_path / "sst2", dev=None, train=rows)
    one, same, other = (aq.load(folder, seed=seed, validation=10, device="cpu") for seed in (1, 1, 2))
    assert one.sizes == {"train": 30, "validation": 10, "test": 12}
    assert one.words == same.words != other.words
    assert one.sha256 == other.sha256
    counts = one.train.x.flatten().bincount(minlength=len(one.words))
    assert (counts[2:] >= 2).all()
    alone = counts[1].item()  # their twin is in the validation split; the other twins there left together
    assert len(one.words) == len(("<padding>", "<unknown>", "film")) + 20 - alone - (10 - alone) // 2


def test_only_the_most_frequent_words_are_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "MOST_WORDS", 3)
    assert len(aq.load(write_sst2(tmp_path / "sst2")).words) == 5


def test_other_words_are_another_data_set(tmp_path) -> None:
    one = aq.load(write_sst2(tmp_path / "a", train=[("good film", 1), ("bad film", 0)]))
    other = aq.load(write_sst2(tmp_path / "b", train=[("gooe film", 1), ("bad film", 0)]))
    assert one.sha256 != other.sha256


def test_a_reward_reads_a_sentence_as_the_data_set_does(tmp_path) -> None:
    data = aq.load(write_sst2(tmp_path / "sst2"), device="cpu")
    first = sentences(tmp_path / "sst2" / "test.tsv")[0]
    net = aq.for_dataset(aq.networks.TextCNN, data)(0.3)
    assert torch.equal(net(aq.data.tokens([f"  {first.upper()} "], data.words)), net(data.test.x[:1]))


def test_tokens_are_padded_cut_and_unknown_words_are_one() -> None:
    words = ("<padding>", "<unknown>", "a", "b")
    assert aq.data.tokens(["a b c", "b", ""], words, length=2).tolist() == [[2, 3], [3, 0], [0, 0]]
    assert aq.data.tokens(["<padding> a"], words, length=3).tolist() == [[1, 2, 0]]
    assert aq.data.tokens([], words, length=3).shape == (0, 3)


@pytest.mark.parametrize(("sentences", "length"), [("a b", 5), (["a"], 0), (["a"], 2.0), (["a"], True)])
def test_what_is_no_list_of_sentences_or_no_length_is_refused(sentences, length) -> None:
    with pytest.raises(ValueError, match=r"`(sentences|length)` must be .*, got "):
        aq.data.tokens(sentences, ("<padding>", "<unknown>"), length=length)


def test_a_heading_is_skipped(tmp_path) -> None:
    folder = write_sst2(tmp_path / "sst2")
    plain = aq.load(folder)
    for file in folder.iterdir():
        file.write_text("sentence\tlabel\n" + file.read_text())
    assert aq.load(folder).sha256 == plain.sha256


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_missing_file_is_named(tmp_path, name: str) -> None:
    folder = write_sst2(tmp_path / "sst2")
    (folder / f"{name}.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}.tsv is missing; check the path"):
        aq.load(folder)


WRONG = {
    "no tab": b"a fine film 1",
    "three columns": b"0\ta fine film\t1",
    "no words": b"  \t1",
    "label 2": b"a fine film\t2",
    "no label": b"a fine film\t",
    "label in words": b"a fine film\tpositive",
    "no text": b"\xff\xfe\x00",
    "an empty line": b"a fine film\t1\n\nanother\t0",
    "nothing": b"",
    "a heading alone": b"sentence\tlabel\n",
}


@pytest.mark.parametrize("name", ["train", "dev", "test"])
@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG.keys())
def test_a_damaged_file_is_one_clear_sentence(tmp_path, name: str, content: bytes) -> None:
    folder = write_sst2(tmp_path / "sst2")
    (folder / f"{name}.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.tsv .*(must (be|hold) a sentence|cannot be read)") as error:
        aq.load(folder)
    assert "\n" not in str(error.value)


def test_a_mark_of_unicode_is_no_part_of_a_word_and_no_end_of_a_line(tmp_path: Path) -> None:
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).write_bytes("\ufeffsentence\tlabel\r\na fine\u0085 film\t1\r\na bad film\t0\r\n".encode())
    assert readers.tsv(tmp_path).train[1].tolist() == [1, 0]


def test_padding_changes_nothing_even_if_its_embedding_is_noisy() -> None:
    net = aq.networks.TextCNN(words=5, shape=(9,), classes=2)
    with torch.no_grad():
        net.embedding.weight[0] = 7.0
    short, long = torch.tensor([[2, 3, 0, 0, 0, 0]]), torch.tensor([[2, 3, 0, 0, 0, 0, 0, 0, 0]])
    assert torch.allclose(net(short), net(long), atol=1e-6)
