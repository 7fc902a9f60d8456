"""`python -m benchmarks.documented`: are the figures of the documents those of the rows?"""

import argparse
import sys
from pathlib import Path

from benchmarks.documented.checkout import bad_documents, bad_rows, write_tables
from benchmarks.documented.tables import TABLES
from loaders.errors import FastvitError

__all__ = ["main"]

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Write the tables into the documents if wanted, and check everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documented", description="Figures of the documents.")
    parser.add_argument("--write", action="store_true", help="write the tables into the documents")
    options = parser.parse_args()
    try:
        if problems := list(bad_rows(_ROOT)):
            sys.exit("\n".join(problems))
        if options.write:
            write_tables(_ROOT, TABLES)
        if problems := list(bad_documents(_ROOT, TABLES)):
            sys.exit("\n".join(problems))
    except FastvitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
