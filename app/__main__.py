"""``python -m app``: the command line. It must import nothing that a verb does not ask for."""

from app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
