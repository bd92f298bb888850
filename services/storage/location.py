"""Where the store is: the one rule, for the service and for the programs that are run beside it."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values


def store_url(database_url: str | None, state_dir: Path) -> str:
    """SQLAlchemy URL of the store that these settings name."""
    return database_url or f"sqlite:///{state_dir / 'training.db'}"


def settings_here() -> Mapping[str, str | None]:
    """The environment, and below it the `.env` file of this folder: what the service would read if started here."""
    return {**dotenv_values(".env"), **os.environ}


def add_store_option(parser: ArgumentParser) -> None:
    """`--store`: by default the store of a service that is started in this folder."""
    found = settings_here()
    default = store_url(found.get("DATABASE_URL"), Path(found.get("STATE_DIR") or "state"))
    parser.add_argument(
        "--store",
        default=default,
        metavar="URL",
        help="SQLAlchemy URL of the store; default: by DATABASE_URL and STATE_DIR, as the service finds it",
    )
