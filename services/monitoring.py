"""What Prometheus is told of the service.

Whoever does the work counts it (`Writer.lines`, `Lifecycle.queue_waits`, `Outbox.attempts`, `api.observing`) in metrics
that belong to no registry; here they are put together, with what is only looked at when somebody asks. A registry is
made for each application: two in one process know nothing of each other.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from models.schemas import TaskStatus
from services.devices import CPU, Gpu
from services.errors import ServiceError
from services.storage.tables import SCHEMA_REVISION
from services.training_service import TrainingService


def build_registry(service: TrainingService, version: str, counted: Iterable[Collector]) -> CollectorRegistry:
    """Args: counted: what other owners count, beside those of the service itself."""
    registry = CollectorRegistry()
    own: tuple[Collector, ...] = (service.writer.lines, service.writer.commits, service.queue_waits)
    for collector in (*own, *counted, _State(service, version)):
        registry.register(collector)
    ProcessCollector(registry=registry)
    return registry


class _State(Collector):
    """What is so at the moment of the question. What cannot be found out then is left out, and the rest is told."""

    def __init__(self, service: TrainingService, version: str) -> None:
        self._service = service
        self._version = version

    def describe(self) -> list[Metric]:
        """Nothing, so that to register it asks nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        service = self._service
        labels = {"version": self._version, "schema": SCHEMA_REVISION, "python": platform.python_version()}
        yield _gauge("training_build_info", "Which release this is", labels, [(tuple(labels.values()), 1)])
        yield GaugeMetricFamily("training_queue_length", "Tasks that wait for a device", service.queued)
        yield GaugeMetricFamily("training_writer_queue_depth", "Lines and changes not committed yet", _depth(service))
        degraded = service.storage_degraded is not None
        yield GaugeMetricFamily("training_storage_degraded", "1 while the store refuses writes", float(degraded))
        yield GaugeMetricFamily("training_service_closing", "1 while the service ends", float(service.is_closing))
        followers = [(("logs",), service.followers), (("events",), service.events.followers)]
        yield _gauge("training_followers", "Viewers of streams", ("stream",), followers)
        yield from self._of_the_store()
        yield from _devices(service)

    def _of_the_store(self) -> Iterator[Metric]:
        try:
            found = self._service.store.count_by_status()
            size = self._service.database.size()
        except (ServiceError, SQLAlchemyError, OSError):
            return
        yield GaugeMetricFamily("training_database_bytes", "Size of the store on its disk", size)
        if not self._service.is_owner:  # or a sum over all services of a store would count each task several times
            return
        tasks = [((status.value,), found.get(status.value, 0)) for status in TaskStatus]
        yield _gauge("training_tasks", "Tasks in the store by status", ("status",), tasks)


def _depth(service: TrainingService) -> int:
    return service.writer.depth


def _devices(service: TrainingService) -> Iterator[Metric]:
    use, gpus = service.device_use()
    label = ("device",)
    yield _gauge("training_device_tasks", "Tasks that run", label, [((d.device,), len(d.running)) for d in use])
    yield _gauge("training_device_limit", "Tasks that may run", label, [((d.device,), d.limit) for d in use])
    yield _gauge("training_gpu_memory_used_bytes", "By whomever", label, _known(gpus, "memory_used"))
    yield _gauge("training_gpu_memory_total_bytes", "Of the card", label, _known(gpus, "memory_total"))
    yield _gauge("training_gpu_utilization_ratio", "Share of time at work", label, _known(gpus, "utilization"))


def _known(gpus: Sequence[Gpu], what: str) -> list[tuple[tuple[str], float]]:
    return [((gpu.name,), getattr(gpu, what)) for gpu in gpus if gpu.name != CPU and getattr(gpu, what) is not None]


def _gauge(
    name: str, text: str, labels: Iterable[str], values: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for key, value in values:
        family.add_metric(key, value)
    return family
