"""The verb ``models``: what looks after model files is part of the engine, a program of its own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.cli.options import Verbs


def add_to(verbs: "Verbs") -> None:
    """Adds the verb; its options are the other program's."""
    verbs.add_parser("models", help="list, add, remove and verify model files", add_help=False)


def run(arguments: list[str]) -> int:
    """Runs the program; its exit status."""
    import subprocess

    from app import compose

    command = compose.models_command(arguments)
    with subprocess.Popen(command, env=compose.engine_environment()) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the child got it as well, and ends in its own way
                continue
