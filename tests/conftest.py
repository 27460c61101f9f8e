"""Small fixtures that every test may use: real images, few of them."""

from __future__ import annotations

import pytest

import aequa_lite as aq


def pytest_configure(config: pytest.Config) -> None:
    """Tests that take long or need something can be left out: ``pytest -m "not fleet and not whole"``."""
    config.addinivalue_line("markers", "fleet: starts servers and participants as processes (minutes)")
    config.addinivalue_line("markers", "gpu: uses a GPU, or where there is none the pretend one")
    config.addinivalue_line("markers", "whole: all docstrings and notebooks on it (half an hour)")


@pytest.fixture(scope="session")
def data() -> aq.Dataset:
    """The embedded data set, on the CPU."""
    return aq.load("fashion-mini", device="cpu")


@pytest.fixture(scope="session")
def few(data: aq.Dataset) -> aq.Dataset:
    """Its first few hundred samples: enough to see that something was learnt, and quick."""
    return aq.Dataset(
        name="few",
        train=data.train.take(slice(0, None, 10)),
        validation=data.validation.take(slice(0, None, 8)),
        test=data.test.take(slice(0, None, 10)),
        sha256="0" * 64,
    )


@pytest.fixture
def config() -> aq.Config:
    """Three participants, three short rounds."""
    return aq.Config(participants=3, rounds=3, local_steps=4, batch=16)
