"""Laws of tables: the training rows alone decide the features."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aequa_lite as aq
from aequa_lite.data import Encoder, csv_table, natural, tabular
from aequa_lite.data.tabular import Column, cell, fit_column

quick = settings(derandomize=True, deadline=None, max_examples=150)
ROWS = 120


def columns(rows: int = ROWS, seed: int = 0) -> dict[str, list[object]]:
    """Patients of three hospitals: numbers, categories, gaps in both."""
    rng = np.random.default_rng(seed)
    age = rng.integers(30, 80, rows).astype(str).astype(object)
    pain = rng.choice(["none", "mild", "severe"], rows).astype(object)
    age[::7], pain[::11] = "", "?"
    hospital = rng.choice(["Zug", "Basel", "Bern"], rows, p=[0.2, 0.3, 0.5])
    ill = np.where(rng.random(rows) < 0.4, "yes", "no")
    return {
        "age": list(age),
        "pressure": list(rng.permutation(np.arange(rows) / 2 + 90)),  # all differ
        "pain": list(pain),
        "hospital": list(hospital),
        "ill": list(ill),
    }


def write(path: Path, table: Mapping[str, Sequence[object]]) -> Path:
    """Write a table as a CSV file."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows([table, *zip(*table.values(), strict=True)])
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "patients.csv", columns())


def read(path: Path, **options: object) -> aq.Dataset:
    """Load a table of patients on the CPU."""
    roles = {"label": "ill", "participant": "hospital"} | options
    return aq.load(path, device="cpu", **roles)


def records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file by column."""
    return list(csv.DictReader(path.read_text().splitlines()))


def split_of(data: aq.Dataset, path: Path) -> np.ndarray:
    """Return the split of each row of the file, found by its pressure."""
    table = records(path)
    column = next(c for c in data.encoder.columns if c.name == "pressure")
    position = data.encoder.features.index("pressure")
    z = [(float(row["pressure"]) - column.mean) / column.sd for row in table]
    splits = (data.train, data.validation, data.test)
    near = [abs(s.x[:, position].numpy() - np.array(z)[:, None]) for s in splits]
    return np.argmin([each.min(axis=1) for each in near], axis=0)


def test_a_table_becomes_three_splits_with_names(path):
    data = read(path)
    assert sum(data.sizes.values()) == ROWS
    assert data.train.x.dtype == torch.float32
    assert data.labels == ("no", "yes")
    assert data.participants == ("Basel", "Bern", "Zug")
    assert data.encoder.features == (
        *("age", "age missing", "pressure"),
        *("pain=mild", "pain=none", "pain=severe", "pain missing"),
    )


def test_training_features_are_standardised_and_one_hot(path):
    x = read(path).train.x.double()
    torch.testing.assert_close(x[:, [0, 2]].mean(0), x.new_zeros(2), atol=1e-6, rtol=0)
    deviation = x[:, [0, 2]].std(0, correction=0)
    torch.testing.assert_close(deviation, x.new_ones(2), atol=1e-6, rtol=0)
    assert torch.equal(x[:, 3:6].sum(1), x.new_ones(len(x)))
    assert set(x[:, [1, 3, 4, 5, 6]].unique().tolist()) == {0.0, 1.0}


def test_missing_values_become_the_training_median_and_the_commonest(path):
    data, table = read(path), columns()
    here = np.flatnonzero(split_of(data, path) == 0)
    ages = [float(table["age"][i]) for i in here if table["age"][i]]
    pains = [table["pain"][i] for i in here if table["pain"][i] != "?"]
    age, _, pain = data.encoder.columns
    assert float(age.fill) == np.median(ages)
    assert pains.count(pain.fill) == max(map(pains.count, pains))
    gaps = data.train.x[:, 1] == 1
    assert int(gaps.sum()) == len(here) - len(ages)
    assert len(data.train.x[gaps, 0].unique()) == 1


def test_rows_outside_training_change_no_training_feature(path, tmp_path):
    data, table = read(path), columns()
    for i in np.flatnonzero(split_of(data, path) > 0):
        table["age"][i] = 999 if i % 2 else "NA"
        table["pain"][i] = "unheard of" if i % 2 else ""
        table["pressure"][i] = -1e9
    other = read(write(tmp_path / "patients.csv", table))
    assert torch.equal(data.train.x, other.train.x)
    assert torch.equal(data.train.y, other.train.y)
    assert data.encoder == other.encoder
    assert data.sha256 != other.sha256
    assert not torch.equal(data.test.x, other.test.x)


def test_an_unseen_category_is_zero_and_a_far_number_finite(path):
    record = {"age": 1e30, "pressure": "-1e30", "pain": "dull"}
    x = read(path).encoder([record])[0]
    assert torch.isfinite(x).all()
    assert x[3:].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_new_patients_are_encoded_as_the_rows_of_the_file_were(path):
    data = read(path)
    x = data.encoder(records(path))
    split = torch.from_numpy(split_of(data, path))
    for k, samples in enumerate((data.train, data.validation, data.test)):
        assert torch.equal(x[split == k], samples.x)
    kept = json.loads(json.dumps(data.encoder.to_dict()))
    assert torch.equal(Encoder.from_dict(kept)(records(path)), x)


def test_numbers_and_none_of_python_mean_the_same_as_cells(path):
    encoder = read(path).encoder
    python = {"age": 44.0, "pressure": 120, "pain": None}
    cells = {"age": "44", "pressure": "120.0", "pain": "", "further": "x"}
    assert torch.equal(encoder([python]), encoder([cells]))


def test_a_whole_number_of_pandas_is_the_same_category(tmp_path):
    plain = columns() | {"ward": [i % 3 for i in range(ROWS)]}
    floats = plain | {"ward": [f"{i % 3}.0" for i in range(ROWS)]}
    one, other = (read(write(tmp_path / "a.csv", each), categorical=["ward"]) for each in (plain, floats))
    assert other.encoder.features == one.encoder.features
    assert torch.equal(other.train.x, one.train.x)
    record = {"age": 44, "pressure": 120, "pain": None}
    for ward in (2, 2.0, "2", "2.0"):  # none of them is an unseen category
        assert other.encoder([record | {"ward": ward}])[0, -1] == 1


@pytest.mark.parametrize("wrong", [{}, {"columns": [{}]}, {"columns": 3}, []])
def test_an_encoder_is_read_from_its_own_values_only(wrong):
    with pytest.raises(ValueError, match="`values` must be what"):
        Encoder.from_dict(wrong)


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda each: st.one_of(
        st.lists(each, max_size=3), st.dictionaries(st.sampled_from(["name", "fill", "categories", "mean", "sd"]), each)
    ),
)


@quick
@given(JSON)
def test_any_json_is_an_encoder_or_refused(value):
    for each in (value, {"columns": value}, {"columns": [value]}):
        try:
            encoder = Encoder.from_dict(each)
        except ValueError:
            continue
        assert Encoder.from_dict(encoder.to_dict()) == encoder


def test_a_record_has_all_columns_and_numbers_for_numbers(path):
    encoder = read(path).encoder
    with pytest.raises(ValueError, match="mappings that have 'pain'"):
        encoder([{"age": 1, "pressure": 2}])
    with pytest.raises(ValueError, match="column 'age' must hold finite numbers"):
        encoder([{"age": "old", "pressure": 2, "pain": "mild"}])


def test_numbers_can_be_categories(tmp_path):
    table = columns() | {"ward": [i % 12 for i in range(ROWS)]}
    path = write(tmp_path / "wards.csv", table)
    assert "ward" in read(path).encoder.features
    features = read(path, categorical=["ward"]).encoder.features
    assert features[-12:] == tuple(f"ward={i}" for i in range(12))
    assert "ward" not in " ".join(read(path, drop=("ward",)).encoder.features)


def test_the_columns_of_label_and_participant_are_no_features(path):
    assert not {"ill", "hospital"} & {c.name for c in read(path).encoder.columns}


def test_labels_are_numbered_in_order(tmp_path):
    table = columns() | {"ill": [("10", "9", "mild")[i % 3] for i in range(ROWS)]}
    data = read(write(tmp_path / "a.csv", table))
    assert data.labels == ("9", "10", "mild")
    assert data.classes == 3


def test_each_hospital_is_a_participant_in_the_order_of_names(path):
    data = read(path)
    shards = natural(data.train, aq.Config(participants=3))
    owners = [set(shard.samples.groups.tolist()) for shard in shards]
    assert owners == [{0}, {1}, {2}]
    assert sum(map(len, shards)) == len(data.train)
    few = natural(data.train, aq.Config(participants=2))
    assert {min(s.samples.groups.tolist()) for s in few} < {0, 1, 2}


def test_every_split_says_whose_its_rows_are(path):
    data, table = read(path), columns()
    names = np.array(data.participants)
    split = split_of(data, path)
    for k, samples in enumerate((data.train, data.validation, data.test)):
        expected = np.array(table["hospital"])[split == k]
        assert names[samples.groups.numpy()].tolist() == expected.tolist()


def test_without_participants_a_table_is_partitioned_like_any_other(path):
    data = read(path, participant=None, drop=["hospital"])
    assert data.participants == ()
    with pytest.raises(ValueError, match="`train` must be samples with"):
        natural(data.train, aq.Config(participants=3))


def test_the_split_follows_from_the_seed_alone(path):
    one, same, other = read(path), read(path), read(path, seed=1)
    assert torch.equal(one.train.x, same.train.x)
    assert one.train.x.shape != other.train.x.shape or not torch.equal(one.train.x, other.train.x)
    assert one.sha256 == same.sha256 == other.sha256
    assert one.sha256 != read(path, drop=["age"]).sha256


@quick
@given(
    sizes=st.lists(st.integers(1, 40), min_size=4, max_size=12),
    out=st.floats(0.02, 0.9),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
def test_splits_are_proportional_within_each_label_and_participant(sizes, out, share, seed):
    y = np.repeat(np.arange(len(sizes)) % 2, sizes)
    owner = np.repeat(np.arange(len(sizes)) // 2, sizes)
    fractions = (1 - out, out * (1 - share), out * share)
    split = tabular._split(y, owner, fractions, seed)
    for k, size in enumerate(sizes):
        mine = split[(y == k % 2) & (owner == k // 2)]
        train = int((mine == 0).sum())
        assert train >= 1
        assert train == 1 or abs(train - size * (1 - out)) <= 1
    aside = int((split > 0).sum())
    assert abs(int((split == 2).sum()) - aside * share) <= 1


def test_fractions_say_how_many_rows_a_split_has(path):
    sizes = read(path, fractions=(0.5, 0.1, 0.4)).sizes
    assert abs(sizes["train"] - 60) <= 1
    assert abs(sizes["validation"] - 12) <= 1


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_quotes_and_a_byte_order_mark_are_understood(path, separator):
    data = read(path)
    rows = list(csv.reader(path.read_text().splitlines()))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
    assert torch.equal(read(path).train.x, data.train.x)


def changed(**changes: object):
    """A change of the table that a refusal is about."""
    return lambda table: table | changes


def first(name: str, value: object):
    """A change of the first row only."""
    return lambda table: table | {name: [value, *table[name][1:]]}


def single(table):
    """Zug has ill patients only."""
    ill = ["yes" if h == "Zug" else i for h, i in zip(table["hospital"], table["ill"])]
    return table | {"ill": ill}


REFUSED = {
    "`label` must be one of the columns age, pressure, pain, hospital, ill, got 'il'; the nearest is 'ill'": (
        {"label": "il"},
        None,
    ),
    "`label` must be one of the columns .*, got None$": ({"label": None}, None),
    "`participant` must be one of the columns .*, got 'ill'": ({"participant": "ill"}, None),
    "`drop` must be a sequence, each part text, got 'age'": ({"drop": "age"}, None),
    "`drop` must be one of the columns age, .*, got 'Age'; the nearest is 'age'": ({"drop": ["Age"]}, None),
    "`categorical` must be one of the columns": ({"categorical": ["ill"]}, None),
    "must have a column besides `label`": ({"drop": ["age", "pressure", "pain"]}, None),
    "`fractions` must be 3 numbers above 0 that sum to 1": ({"fractions": (0.5, 0.5)}, None),
    r"`fractions` must be .*, got \(1.2, -0.1, -0.1\)": ({"fractions": (1.2, -0.1, -0.1)}, None),
    "`allow_single_class` must be True or False": ({"allow_single_class": 1}, None),
    "line 2 of patients.csv must have a value in column 'ill', got none": ({}, first("ill", "")),
    "line 2 of patients.csv must have a value in column 'hospital'": ({}, first("hospital", "NA")),
    "column 'pressure' must hold finite numbers, got 'high' in line 2; if it holds": ({}, first("pressure", "high")),
    "column 'pressure' must hold finite numbers, got 'inf' in line 2": ({}, first("pressure", "inf")),
    "column 'age' must have a training value, got none; name it in `drop`": ({}, changed(age=[""] * ROWS)),
    "column 'pain' must have at most 36 categories in 7. training rows, got": (
        {},
        changed(pain=[f"patient {i}" for i in range(ROWS)]),
    ),
    "must have at least 2 labels, got only 'no'": ({}, changed(ill=["no"] * ROWS)),
    "label 'maybe' of patients.csv must have at least 5 rows, got 1": ({}, first("ill", "maybe")),
    "participant 'Chur' of patients.csv must have at least 5 rows, got 1": ({}, first("hospital", "Chur")),
    "participant 'Zug' of patients.csv must have rows of at least 2 labels, got 1": ({}, single),
    "must have at least 20 rows, got 3": ({}, lambda t: {k: v[:3] for k, v in t.items()}),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, sentence):
    options, change = REFUSED[sentence]
    table = change(columns()) if change else columns()
    with pytest.raises(ValueError, match=sentence) as error:
        read(write(tmp_path / "patients.csv", table), **options)
    assert "\n" not in str(error.value)


def test_a_participant_with_one_label_can_be_kept(tmp_path):
    path = write(tmp_path / "patients.csv", single(columns()))
    assert len(read(path, allow_single_class=True).participants) == 3


def test_a_split_that_would_lack_a_label_is_refused(tmp_path):
    rows = 200
    table = {
        "x": range(rows),
        "ill": ["rare" if i % 20 == 0 else i % 2 for i in range(rows)],
        "hospital": [i // 20 for i in range(rows)],
    }
    with pytest.raises(ValueError, match="label 'rare' must have a validation row"):
        read(write(tmp_path / "a.csv", table), allow_single_class=True)


FILES = {
    "empty.csv must have 1 to 1000 columns, got 0": b"",
    "column 1 of empty.csv must have a name of 1 to 100 characters": b",b\n1,2\n",
    "the columns of empty.csv must have one name each, got 'a' twice": b"a,b,a\n",
    "line 3 of empty.csv must have 2 fields, got 3": b"a,b\n1,2\n1,2,3\n",
    "must be in UTF-8, got .*; save it again as 'CSV UTF-8'": b"a,b\n\xe9,2\n",
    "line 2 of empty.csv must be CSV": b'a,b\n"1,2\n',
    "must have at least 20 rows, got 0": b"a,ill\n",
}


@pytest.mark.parametrize("sentence", FILES)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path, sentence):
    (tmp_path / "empty.csv").write_bytes(FILES[sentence])
    with pytest.raises(ValueError, match=sentence) as error:
        aq.load(tmp_path / "empty.csv", label="ill")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_and_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a.csv is missing"):
        aq.load(tmp_path / "a.csv", label="ill")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(ValueError, match=r"b.csv cannot be read"):
        aq.load(tmp_path / "b.csv", label="ill")


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ("MOST_CSV_BYTES", "more than 50 bytes"),
        ("MOST_ROWS", "at most 50 rows"),
        ("MOST_VALUES", "at most 50 values"),
        ("MOST_COLUMNS", "1 to 4 columns"),
    ],
)
def test_a_table_that_is_too_large_is_refused(path, monkeypatch, limit, sentence):
    monkeypatch.setattr(tabular, limit, 4 if limit == "MOST_COLUMNS" else 50)
    with pytest.raises(ValueError, match=sentence):
        read(path)


def test_an_option_of_another_reader_is_refused(path):
    with pytest.raises(ValueError, match=r"`options of .*` must be .*, got 'labl'; .*'label'"):
        aq.load(path, labl="ill")
    with pytest.raises(ValueError, match="`options of 'fashion-mini'` must be left out"):
        aq.load("fashion-mini", label="ill")
    with pytest.raises(ValueError, match="`validation` must be left out"):
        read(path, validation=10)


def refuses_or_reads(content: bytes, **options: object) -> None:
    """Read any bytes as a table: they are read or refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.csv"
        path.write_bytes(content)
        try:
            arrays = csv_table(path, **options)
        except (ValueError, FileNotFoundError):
            return
    for x, y in arrays.splits.values():
        assert np.isfinite(x).all()
        assert len(x) == len(y) > 0


@quick
@given(content=st.binary(max_size=400), label=st.sampled_from(["a", "", None]))
def test_any_bytes_are_read_or_refused(content, label):
    refuses_or_reads(content, label=label)
    refuses_or_reads(b"a,b\n" + content, label="a", participant="b")


CELLS = st.one_of(
    st.sampled_from(["", "?", "nan", "1", "2", "a", "b", "1e400", "1_0", "\x00", "-0"]),
    st.floats().map(repr),
    st.text(max_size=4),
)


@quick
@given(data=st.data(), width=st.integers(1, 4), rows=st.integers(20, 60))
def test_any_cells_are_read_or_refused(data, width, rows):
    some = data.draw(st.lists(CELLS, min_size=3, max_size=30))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    names = [f"c{i}" for i in range(width)]
    table = {name: rng.choice(some, rows) for name in names}
    table |= {"y": rng.choice(["0", "1"], rows), "who": rng.choice(["p", "q"], rows)}
    lines = "\n".join(",".join(row) for row in [table, *zip(*table.values())])
    options = {"participant": "who"} if data.draw(st.booleans()) else {}
    options |= {"categorical": names} if data.draw(st.booleans()) else {}
    content = lines.encode("utf-8", "surrogatepass")
    refuses_or_reads(content, label="y", **options)


@quick
@given(value=st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.binary()))
def test_any_argument_is_accepted_or_refused(value):
    content = "\n".join(["a,y", *(f"{i},{i % 2}" for i in range(20))]).encode()
    for argument in ("label", "participant", "drop", "categorical", "fractions"):
        refuses_or_reads(content, **({"label": "y"} | {argument: value}))


def test_an_npz_file_names_its_participants(tmp_path):
    x, y = np.eye(24, dtype=np.float32), np.arange(24) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    names = np.array(["b", "a", "c"])[np.arange(24) // 2 % 3]
    np.savez(tmp_path / "a.npz", participant=names, **arrays)
    data = aq.load(tmp_path / "a.npz", device="cpu")
    assert data.participants == ("a", "b", "c")
    shards = natural(data.train, aq.Config(participants=3))
    for code, shard in enumerate(shards):
        rows = shard.samples.x.argmax(1).numpy()
        assert set(names[rows]) == {data.participants[code]}
    np.savez(tmp_path / "a.npz", participant=names[:5], **arrays)
    with pytest.raises(ValueError, match=r"`participant` of .* got <U1"):
        aq.load(tmp_path / "a.npz")


def test_truth_is_read_however_it_is_written_and_what_is_missing_stays_so() -> None:
    column = fit_column("smokes", ["TRUE", "FALSE", "TRUE", ""])
    encoder = Encoder((fit_column("smokes", [cell(each) for each in ("TRUE", "FALSE", "TRUE", "")]),))
    assert torch.equal(encoder([{"smokes": True}]), encoder([{"smokes": "true"}]))
    assert torch.equal(encoder([{"smokes": pd.NA}]), encoder([{"smokes": None}]))
    assert column.indicator


@pytest.mark.parametrize("wrong", [{"age": 65}, None, "age", pd.DataFrame({"age": [65]}), [65]])
def test_records_that_are_none_are_refused_in_one_sentence(wrong: object) -> None:
    encoder = Encoder((fit_column("age", ["50", "60"]),))
    with pytest.raises(ValueError, match="`records` must be a sequence of mappings"):
        encoder(wrong)


def test_a_decimal_comma_is_refused_and_not_taken_for_a_category() -> None:
    with pytest.raises(ValueError, match="column 'age' must hold numbers as 1234.5, without commas, got '50,5'"):
        fit_column("age", ["50,5", "60,25", "70"])
    assert fit_column("code", ["1,2", "1,3", "1,2", "1,3"], categorical=True).categories


def test_commas_between_thousands_are_refused_with_their_remedy() -> None:
    with pytest.raises(ValueError, match="column 'platelets' must hold numbers as 1234.5, without commas"):
        fit_column("platelets", ["150,000", "1,200,000", "90,500.5"])
    few = ["950", "980", "1,050"]
    remedy = "column 'income' must hold finite numbers, got '1,050' in line 4; write them as 1234.5, without commas"
    with pytest.raises(ValueError, match=remedy):
        fit_column("income", few).encode(few, lines=(2, 3, 4))


def test_a_spread_below_zero_is_no_column() -> None:
    with pytest.raises(ValueError, match="`sd` must be a number above 0, got -1.0"):
        Column("a", "x", ("x",), sd=-1.0)


def test_commas_inside_a_quoted_name_do_not_separate(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"bp (kg, cm, s)";ward;ill\n1.5;a;0\n2.5;b;1\n')
    assert tabular.read_csv(tmp_path / "a.csv").cells == {
        "bp (kg, cm, s)": ["1.5", "2.5"], "ward": ["a", "b"], "ill": ["0", "1"]
    }  # fmt: skip


def test_a_negative_zero_is_a_zero() -> None:
    assert [cell(each) for each in (-0.0, "-0.0", 0.0, "-1.0", "10.0")] == ["0", "0", "0", "-1", "10"]
