from app.adapters.claims import ProgramPlace
from remote.protocol import ExitCode
from tests.app.adapters.library_jobs import Shelf
from tests.app.cli.shelves import fill


def left(home) -> int:
    with Shelf(home / "library.sqlite") as shelf:
        return len(shelf.entries())


def test_what_is_removed_is_gone_and_named(farscribe, home, capsys):
    jobs = fill(home)
    assert farscribe("remove", jobs["done"][:10], jobs["running"]) == ExitCode.OK
    assert "whale song.mp3: forgotten" in capsys.readouterr().err
    assert left(home) == 1


def test_what_another_program_works_on_is_not_removed(farscribe, home, capsys):
    jobs = fill(home)
    other = ProgramPlace(home / "programs")
    other.take([jobs["running"]])
    assert farscribe("remove", jobs["running"], jobs["done"]) == ExitCode.OUTPUT
    assert "at work on Later.wav" in capsys.readouterr().err
    assert left(home) == 2
    other.close()
