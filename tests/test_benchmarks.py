"""The benchmarks: what they compare is the same work, and their tables are tidy. Nothing here looks at a clock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import measure  # noqa: E402
import page  # noqa: E402
import speed  # noqa: E402

TINY = speed.Scale(
    participants=2,
    rounds=2,
    local_steps=2,
    batch=8,
    repeats=1,
    threads=1,
    bare_steps=4,
    in_a_pass=(2,),
    crowds=(2, 3),
    widths=(0.1, 1.0),
    widths_per_step=(0,),
    batches=(1, 3),
)


@pytest.mark.parametrize("name", ["plain", "overhead", "workers", "passes", "reward"])
def test_every_way_of_a_comparison_ends_in_the_same_network(name: str) -> None:
    rows = speed.rows_of(name, TINY, "cpu")  # asserts it before it measures
    assert {row["net"] for row in rows} == set(speed.PASSES if name == "passes" else speed.NETS)
    assert all(row.get("difference", 0) < measure.TOLERANCE for row in rows)


def test_other_work_is_not_timed() -> None:
    with pytest.raises(AssertionError, match=r"differ by 0\.5"):
        measure.agree([torch.zeros(2)], [torch.full((2,), 0.5)])


def test_a_case_of_growth_runs_in_a_process_of_its_own() -> None:
    case = (
        '{"net": "MLP", "device": "cpu", "repeats": 1, "participants": 2, "local_steps": 1, "batch": 4, "width": 0.5}'
    )
    found = measure.alone("speed.py", "--case", case)
    assert 0 < found["own_mb"] <= found["peak_mb"]


def test_a_power_law_is_found() -> None:
    assert measure.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_a_machines_new_rows_replace_its_old_ones_and_no_others(tmp_path: Path) -> None:
    here = {"device": "a", "cores": 2, "torch": "1", "date": "2026-01-01"}
    there = {**here, "device": "b"}
    measure.store("t", [{"x": 1}], here, tmp_path)
    measure.store("t", [{"x": 2}], there, tmp_path)
    table = measure.store("t", [{"x": 3}], {**here, "date": "2026-01-02"}, tmp_path)
    assert sorted(zip(table["device"], table["x"], strict=True)) == [("a", 3), ("b", 2)]
    assert measure.measured("t", {**here, "date": "later"}, tmp_path)
    assert not measure.measured("t", {**here, "torch": "2"}, tmp_path)


def test_the_page_shows_the_committed_tables() -> None:
    assert page.PAGE.read_text() == page.filled(page.PAGE.read_text())


def test_the_page_shows_the_tables_of_a_gpu_or_says_that_there_was_none(tmp_path: Path) -> None:
    assert page.of_a_gpu(tmp_path / "gpu") == page.of_a_gpu(tmp_path)
    assert page.of_a_gpu(tmp_path).startswith("No GPU was at hand")
    here = {"device": "cuda (A)", "cores": 8, "python": "3.11", "torch": "2.14", "date": "2026-01-01"}
    rows = [{"net": "MLP", "way": "vectorised", "difference": 0.00001234, "launches_a_step": 65, "ok": True, **here}]
    pd.DataFrame(rows).to_csv(tmp_path / "launches.csv", index=False)
    text = page.of_a_gpu(tmp_path)
    assert "On cuda (A), 8 cores; Python 3.11, torch 2.14; 2026-01-01:" in text
    assert "| net | way | difference | launches a step | ok |" in text
    assert "| MLP | vectorised | 1.23e-05 | 65 | yes |" in text
    assert "<!-- gpu -->" in page.PAGE.read_text()


@pytest.mark.parametrize("path", sorted(measure.TABLES.glob("*.csv")), ids=lambda p: p.stem)
def test_every_row_says_where_and_when_it_was_measured(path: Path) -> None:
    table = pd.read_csv(path)
    for column in ("device", "cores", "python", "torch", "date"):
        assert table[column].notna().all()


def trained_with_graphs(monkeypatch: pytest.MonkeyPatch, compile: Callable[..., Any]) -> tuple[gpu.aq.Round, float]:
    """The last of three rounds with steps compiled for CUDA graphs by `compile`, and how far it is from plain steps."""
    build, (shards, config) = gpu.built("MLP", small=True), gpu.setting("MLP", "cpu", 3, rounds=3, local_steps=2)
    plain = gpu.final(build, shards, config, vectorized=True)
    monkeypatch.setattr(torch, "compile", compile)
    with gpu.compiled(gpu.MODES["CUDA graphs"]):
        last = gpu.final(build, shards, config, vectorized=True)
    return last, gpu.difference(last, plain)


def test_the_compiler_knows_that_all_which_a_step_changes_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], torch.compile

    def watching(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        known = torch._guards.TracingContext.get().fw_metadata
        changed = {i for i, each in enumerate(known.input_info) if each.mutates_data}
        seen.append((changed, set(known.static_input_indices)))
        torch._dynamo.utils.counters["inductor"]["cudagraph_recorded_non_static_inputs"] += 1
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=watching, keep_inference_input_mutations=True)
    _, apart = trained_with_graphs(monkeypatch, lambda step, *, mode, **options: real(step, backend=backend, **options))
    ((changed, still),) = seen  # compiled once for all rounds
    assert len(changed) == 2 * len(gpu.aq.init_params(gpu.built("MLP", small=True), 0, "cpu"))
    assert len(still) == len(changed) + 2  # the samples, which else were copied in every step
    assert changed < still
    assert apart < 1e-6


def test_a_replay_finds_everything_where_it_was_and_may_write_over_its_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    places, losses = [], []

    def recorded(step: Callable[..., torch.Tensor], **options: Any) -> Callable[..., torch.Tensor]:
        def replay(stack: Any, *own: Any) -> torch.Tensor:
            torch._dynamo.utils.counters["inductor"]["cudagraph_recorded_non_static_inputs"] += 1
            places.append([t.data_ptr() for t in (*stack.theta, *stack.velocity, stack.x, stack.y)])
            for t in losses:
                t.fill_(torch.nan)
            losses.append(step(stack, *own))
            return losses[-1]

        return replay

    last, apart = trained_with_graphs(monkeypatch, recorded)
    assert len(places) == 6
    assert all(each == places[0] for each in places)
    assert not last.total_left_out  # whose loss is not a number is left out
    assert apart == 0


@pytest.mark.parametrize("counted", [{}, {"cudagraph_recorded_non_static_inputs": 9, "cudagraph_skips": 1}])
def test_cuda_graphs_that_were_skipped_are_an_error(monkeypatch: pytest.MonkeyPatch, counted: dict[str, int]) -> None:
    def skipped(step: Callable[..., torch.Tensor], **options: Any) -> Callable[..., torch.Tensor]:
        return lambda *own: (torch._dynamo.utils.counters["inductor"].update(counted), step(*own))[1]

    with pytest.raises(RuntimeError, match="skipped or not recorded"):
        trained_with_graphs(monkeypatch, skipped)


def test_more_steps_are_compiled_than_pytorch_keeps_forms_of_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    build, real = gpu.built("MLP", small=True), torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, *, mode, **options: real(step, backend="eager", **options))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for participants in (2, 3, 4):
        shards, config = gpu.setting("MLP", "cpu", participants, rounds=1, local_steps=1)
        with gpu.compiled():
            assert not gpu.final(build, shards, config, vectorized=True).total_left_out


def test_a_part_that_fails_leaves_a_row_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "where", lambda device: {"device": device})

    def fails() -> Iterator[dict[str, Any]]:
        yield {"net": "MLP", "ok": True}
        raise RuntimeError("CUDA out of memory")

    parts = {"first": fails(), "second": iter([{"net": "LeNet", "ok": True}])}
    assert gpu.measured(parts, tmp_path, lambda: 1.0) == 1
    first = pd.read_csv(tmp_path / "first.csv")
    assert list(first["ok"]) == [True, False]
    assert first["error"][1] == "RuntimeError: CUDA out of memory"
    assert len(pd.read_csv(tmp_path / "second.csv")) == 1
