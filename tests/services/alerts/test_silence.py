"""What the service itself writes into a log breaks no silence of its trainer."""

from __future__ import annotations

from services.base_service import BaseService
from services.log_entry import RESOURCES
from services.storage.alerts import AlertStore
from tests.services.builders import task_state


def test_a_line_about_resources_is_not_the_last_that_the_trainer_said(base: BaseService) -> None:
    base.create_log_queue("t", task_state("t"))
    for message in ("Train Loss: 0.5", RESOURCES + "cpu_percent=12", RESOURCES + "cpu_percent=0"):
        base.add_log("t", "INFO", message)
    base.get_logs("t")
    found = AlertStore(base.database).last_line("t")
    assert found is not None
    assert found[0] == 1
