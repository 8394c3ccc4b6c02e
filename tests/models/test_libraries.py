"""What a process of the package is told before it imports its libraries."""

from __future__ import annotations

import gc
import logging
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ftlab.basics.processes import (
    ALLOCATOR_SETTINGS,
    WITHOUT_HUB_CODE,
    python_environment,
    worker_environment,
)
from ftlab.models import openmp
from ftlab.models.libraries import (
    CPU_SETTINGS,
    cpu_settings,
    lasting_imports,
    prepare_for_libraries,
)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts the environment back after the test, whatever it did. Returns the threads started."""
    found: list[str] = []
    monkeypatch.setattr(openmp, "yield_cores", lambda: found.append("cores"))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in (*CPU_SETTINGS, *ALLOCATOR_SETTINGS, "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        os.environ.pop(name, None)
    return found


def test_the_settings_chosen_by_measurement_are_set_and_recorded() -> None:
    assert cpu_settings().keys().isdisjoint(CPU_SETTINGS)
    prepare_for_libraries("cpu")
    assert cpu_settings().items() >= CPU_SETTINGS.items()


def test_a_persons_own_settings_come_first_and_are_recorded_too() -> None:
    os.environ |= {"GOMP_SPINCOUNT": "7", "OMP_NUM_THREADS": "1"}
    prepare_for_libraries("cpu")
    settings = cpu_settings()
    assert settings["GOMP_SPINCOUNT"] == "7"
    assert settings["OMP_NUM_THREADS"] == "1"


def test_the_users_omp_wait_policy_is_kept() -> None:
    os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
    prepare_for_libraries("cpu")
    assert cpu_settings()["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in cpu_settings()


def test_waiting_threads_leave_the_cores_to_others_unless_the_process_forks_or_has_a_gpu(
    started: list[str],
) -> None:
    prepare_for_libraries("cpu", forks=True)
    prepare_for_libraries("cuda:0")
    assert not started
    prepare_for_libraries("cpu")
    assert started == ["cores"]


def test_bitsandbytes_does_not_ask_for_kernels_of_the_hub() -> None:
    """It does so on a CPU with AVX512-BF16 alone, in every log."""
    module = "bitsandbytes.backends.cpu.ops"
    assert find_spec(module)
    prepare_for_libraries("cpu")
    assert not logging.getLogger(module).isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("place", ["cpu", "mps"])
def test_bitsandbytes_gets_no_code_from_the_hub(place: str) -> None:
    """Also not from what another program downloaded: the same run would compute something else."""
    kernels = pytest.importorskip("kernels")  # needed by transformers from 5.25 on
    backend = find_spec(f"bitsandbytes.backends.{place}.ops")
    assert backend
    assert backend.origin
    source = Path(backend.origin).read_text(encoding="utf-8")
    asked = re.findall(r'get_kernel\(\s*"([^"]+)", version=1', source)
    assert asked
    prepare_for_libraries("cpu")
    for name in asked:
        with pytest.raises(FileNotFoundError, match=os.devnull):
            kernels.get_kernel(name, version=1)


@pytest.mark.parametrize("needs_hub", [True, False])
def test_no_process_takes_code_from_the_hub(needs_hub: bool) -> None:
    os.environ["USE_HUB_KERNELS"] = "YES"
    assert worker_environment(needs_hub).items() >= WITHOUT_HUB_CODE.items()


def test_a_worker_starts_with_the_allocators_settings_unless_the_person_has_their_own() -> None:
    assert worker_environment(needs_hub=False).items() >= ALLOCATOR_SETTINGS.items()
    os.environ["MALLOC_TOP_PAD_"] = "1"
    assert worker_environment(needs_hub=False)["MALLOC_TOP_PAD_"] == "1"


def test_a_started_process_finds_this_very_package_from_anywhere() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ftlab.models.libraries as s; print(s.__file__)"],
        cwd="/",
        env=python_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sys.modules["ftlab.models.libraries"].__file__


def test_lasting_imports_are_never_searched_for_garbage_and_later_objects_are() -> None:
    before = gc.get_freeze_count()
    try:
        with lasting_imports():
            lasting = [[] for _ in range(1000)]
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(lasting)
        assert not any(candidate is lasting[0] for candidate in gc.get_objects())
        later: list[object] = []
        assert any(candidate is later for candidate in gc.get_objects())
    finally:
        gc.unfreeze()
