"""Which GPUs a trainer of this process would see."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from services.devices import Gpu, list_gpus

UUIDS = ("GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333")
MEMORY = (100, 200, 300)


class Driver:
    """NVML of a machine with three GPUs. A handle is an index."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open = 0
        self.broken: str | None = None
        self.error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        for name in (
            "nvmlInit",
            "nvmlShutdown",
            "nvmlDeviceGetCount",
            "nvmlDeviceGetHandleByIndex",
            "nvmlDeviceGetUUID",
            "nvmlDeviceGetMemoryInfo",
            "nvmlDeviceGetName",
        ):
            patch.setattr(pynvml, name, self._call(name))

    def _call(self, name: str) -> object:
        answer = getattr(self, name)

        def call(*arguments: int) -> object:
            if name == self.broken:
                raise pynvml.NVMLError(self.error)
            return answer(*arguments)

        return call

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=1000, free=1000 - MEMORY[handle], used=MEMORY[handle])

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"Model {handle}"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Driver(monkeypatch)


def test_gpus_are_named_as_torch_names_them_with_the_memory_in_use(driver: Driver) -> None:
    assert list_gpus() == [
        Gpu("cuda:0", 100, 1000, "Model 0"),
        Gpu("cuda:1", 200, 1000, "Model 1"),
        Gpu("cuda:2", 300, 1000, "Model 2"),
    ]


def test_a_gpu_whose_driver_does_not_say_its_model_is_used_all_the_same(driver: Driver) -> None:
    driver.broken = "nvmlDeviceGetName"
    found = list_gpus()
    assert found is not None
    assert found[0] == Gpu("cuda:0", 100, 1000, None)


@pytest.mark.parametrize(
    ("visible", "memory"),
    [
        ("0,1,2", [100, 200, 300]),
        ("2,0", [300, 100]),
        (" 1 , 2 ", [200, 300]),
        ("1", [200]),
        ("GPU-bbbb3333,GPU-aaaa1111", [300, 100]),
        ("GPU-b", [300]),
        ("GPU-aaaa", []),
        ("GPU-cccc", []),
        ("0,7,1", [100]),
        ("0,-1,1", [100]),
        ("1,GPU-bbbb,nonsense,0", [200, 300]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_decides_which_gpus_there_are_and_in_which_order(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str, memory: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [(gpu.name, gpu.memory_used) for gpu in list_gpus() or ()] == [
        (f"cuda:{index}", used) for index, used in enumerate(memory)
    ]


@pytest.mark.parametrize(
    "broken",
    [None, "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetMemoryInfo"],
)
def test_the_driver_is_left_as_it_was_found(driver: Driver, broken: str | None) -> None:
    driver.broken = broken
    gpus = list_gpus()
    assert driver.open == 0
    assert (gpus is None) is (broken is not None)


def test_a_machine_without_a_driver_has_no_gpus(driver: Driver) -> None:
    driver.broken, driver.error = "nvmlInit", pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert list_gpus() == []
    assert driver.open == 0


def test_a_driver_that_is_not_ready_says_nothing_of_gpus(driver: Driver) -> None:
    driver.broken = "nvmlInit"
    assert list_gpus() is None
    assert driver.open == 0
