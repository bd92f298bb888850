"""A process that owns a store whenever it can, and writes its epoch into it as often as it can, slowly.

    python -m tests.services.storage.lease_holder URL LEASE_S

Says `own` when it has written, `lost` or `error`, one a line.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.errors import OwnershipLost
from services.storage.database import Database
from services.storage.ownership import Terms, may_take

HOLD_S = 0.02
"""Between a look at the epoch and the commit, so that many a pause hits that."""


def main() -> None:
    url, lease_s = sys.argv[1], float(sys.argv[2])
    while True:
        with closing(Database(url, terms=Terms(lease_s), may_follow=True)) as database:
            while not database.is_owner:
                time.sleep(lease_s / 10)
                if may_take(database.look()):
                    database.take_over()
            written = 0
            assert database.ownership is not None
            write = text("INSERT INTO writes (epoch) VALUES (:epoch)").bindparams(epoch=database.ownership.epoch)
            try:
                while True:
                    try:
                        with database.writing() as connection:
                            connection.execute(write)
                            time.sleep(HOLD_S)
                        written += 1
                        if written == 1:
                            print("own", flush=True)
                    except DBAPIError:
                        print("error", flush=True)
            except OwnershipLost:
                print("lost", flush=True)


if __name__ == "__main__":
    main()
