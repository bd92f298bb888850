"""Makes `doc/watch.svg`: what `trainctl watch` shows of two real trainings.

    python doc/record_watch.py

Starts a service of its own, trains a ResNet-18 on a part of the demonstration's digits with two learning rates, feeds
their logs to the pictures that `watch` draws, and keeps those of the moment when the first one is in its last epoch.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import threading
from pathlib import Path

from rich.console import Console

from client import TrainingClient
from client.commands.several import overview
from client.demo.digits import digit_folders
from client.demo.local_service import free_url, service_at
from client.display import Board, LiveBoard

SVG = Path(__file__).with_name("watch.svg")
WIDTH = 96
EPOCHS = 5
PER_CLASS = {"train": 30, "val": 10}
RATES = {"digits": 1e-3, "digits-slow": 1e-4}


def small_digits(folder: Path) -> dict[str, str]:
    """A few images of each class, so that a laptop is done in a minute."""
    for split in digit_folders(folder / "all"):
        for part in split.iterdir():
            target = folder / "few" / split.name / part.name
            target.mkdir(parents=True)
            for image in sorted(part.iterdir())[: PER_CLASS[split.name]]:
                shutil.copy(image, target)
    return {f"{split}_path": str(folder / "few" / split) for split in PER_CLASS}


def follow(client: TrainingClient, board: Board, is_enough: threading.Event) -> None:
    for entry in client.follow(board.label):
        if is_enough.is_set():
            return
        board.update(client.status(board.label))
        board.add(entry)
        if board.label == "digits" and board.latest.get("epoch") == EPOCHS and entry.step:
            is_enough.set()


def main() -> None:
    console = Console(file=io.StringIO(), width=WIDTH, record=True, force_terminal=True, color_system="truecolor")
    boards = [LiveBoard(console, label=task_id) for task_id in RATES]
    is_enough = threading.Event()
    url = free_url()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = small_digits(folder)
        environment = {"MAX_TRAINING_CONCURRENT_CPU": "2"}
        with service_at(url, folder / "state", environment=environment), TrainingClient(url, timeout=60) as client:
            for task_id, rate in RATES.items():
                client.start(
                    **data,
                    task_id=task_id,
                    model="resnet18",
                    num_classes=10,
                    save_path=str(folder / "runs"),
                    num_epochs=EPOCHS,
                    image_size=32,
                    batch_size=32,
                    learning_rate=rate,
                    hflip=False,
                    pretrained=False,
                    device="cpu",
                )
            threads = [threading.Thread(target=follow, args=(client, board, is_enough)) for board in boards]
            for thread in threads:
                thread.start()
            is_enough.wait()
            console.print("[bold]$ trainctl watch digits digits-slow[/]", highlight=False)
            console.print(overview(boards, WIDTH))
            console.print("[bold]$ trainctl watch digits[/]", highlight=False)
            console.print(boards[0].picture())
            for task_id in RATES:
                client.stop(task_id)
            for thread in threads:
                thread.join()
    svg = console.export_svg(title="trainctl watch", unique_id="watch")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # nobody's picture asks other servers for fonts
    SVG.write_text(svg.replace("Fira Code", "Menlo, Consolas, DejaVu Sans Mono"), encoding="utf-8")


if __name__ == "__main__":
    main()
