"""Says what the service would let go of, and changes nothing.

    python -m services.retention --dry-run [--keep-lines-days N] [--keep-checkpoints K] [--store URL]

By default with the settings that a service would have that is started in this folder. It may run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from services.errors import ServiceError
from services.retention.plans import Planner, Rules
from services.storage.location import add_store_option, settings_here
from services.storage.reading import ReadOnlyDatabase
from services.storage.retention import RetentionStore
from services.storage.series import SeriesStore
from services.storage.store import Store


def main() -> int:
    found = settings_here()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", required=True, help="the only thing that this program does")
    parser.add_argument("--keep-lines-days", type=float, default=found.get("KEEP_LINES_DAYS") or None)
    parser.add_argument("--keep-checkpoints", type=int, default=found.get("KEEP_CHECKPOINTS") or None)
    add_store_option(parser)
    arguments = parser.parse_args()
    rules = Rules(arguments.keep_lines_days, arguments.keep_checkpoints)
    roots = tuple(Path(part) for part in (found.get("SAVE_ROOTS") or "").split(os.pathsep) if part)
    try:
        print_plan(ReadOnlyDatabase(arguments.store), rules, roots)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def print_plan(database: ReadOnlyDatabase, rules: Rules, save_roots: tuple[Path, ...]) -> None:
    retention = RetentionStore(database)
    planner = Planner(Store(database), retention, SeriesStore(database), save_roots)
    if rules.keeps_everything:
        print("KEEP_LINES_DAYS and KEEP_CHECKPOINTS are unset: nothing would go.")
    lines = points = size = 0
    for old in planner.old_lines(rules):
        gone = retention.count(old.state.task_id, old.until, old.kept)
        lines, points = lines + gone[0], points + gone[1]
        print(f"{old.state.task_id}: {gone[0]:,} lines and {gone[1]:,} points would go, {len(old.kept):,} would stay")
    for checkpoint in planner.old_checkpoints(rules):
        size += checkpoint.size
        print(f"{Path(checkpoint.state.output_dir) / checkpoint.name}: {checkpoint.size:,} bytes would go")
    print(f"In all {lines:,} lines, {points:,} points and {size:,} bytes of checkpoints would go.")


if __name__ == "__main__":
    sys.exit(main())
