"""`python -m client.commands` is `trainctl`."""

import sys

from client.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
