"""Python client of the training service: start trainings, follow their logs, read their metrics.

    from client import TrainingClient

    with TrainingClient("http://127.0.0.1:8000") as client:
        task = client.start(model="resnet18", num_classes=37, train_path="/data/train",
                            val_path="/data/val", save_path="/checkpoints", num_epochs=10)
        for entry in client.follow(task.task_id):
            print(entry.id, entry.stage, entry.message)
        print(client.status(task.task_id).latest_metrics)

It knows the wire contract (`models`) and httpx, nothing else of the service, so it can be installed and
imported where no trainer is. `client.demo` holds what only the demonstration script needs.
"""

from client.errors import ServiceError, ServiceUnreachable
from client.follow import ServiceEvent
from client.training_client import TrainingClient

__all__ = ["ServiceError", "ServiceEvent", "ServiceUnreachable", "TrainingClient"]
