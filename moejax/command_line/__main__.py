"""`python -m moejax.command_line` is `moejax`, where the folder of scripts is not on the path."""

import sys

from moejax.command_line.main import main

if __name__ == "__main__":
    sys.exit(main())
