"""``python -m app``: the command line. It must import nothing that a verb does not ask for."""

from app.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
