"""One layer, one call: every implementation, checked and then timed."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_benchmark.fixture import BenchmarkFixture

from bptt.benchmark import machine, problem, results
from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.rows import Row


def test_layer(
    benchmark: BenchmarkFixture,
    row: Row,
    name: str,
    implementations: Mapping[str, Implementation],
    about: dict[str, str],
) -> None:
    implementation = implementations[name]
    numbers = problem.make(row.task)
    run = implementation.build(numbers, row.threads)
    error = problem.check(name, numbers, run)
    benchmark.group = row.group
    benchmark.extra_info.update(
        results.extra_info(
            row, name, implementation.version, limits=machine.limits(row), error=error, machine=about
        )
    )
    benchmark(run.call)
