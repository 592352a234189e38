"""Every benchmark runs, small, so that none can rot; their figures are not judged here."""

import importlib
import math

import pytest
import run as benchmarks

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("name", benchmarks.NAMES)
def test_a_small_run_of_the_benchmark_gives_a_table(name):
    table = importlib.import_module(name).run(limit=2 if name != "footprint" else 1)
    markdown = table.markdown()
    assert table.title in markdown
    assert table.command in markdown
    numbers = [value for row in table.rows for value in row.values() if isinstance(value, float)]
    assert numbers or name == "latency"
    assert all(not math.isinf(value) for value in numbers)


def test_the_header_names_machine_and_versions():
    header = benchmarks.header()
    assert "CPUs" in header
    assert "ctranslate2" in header
