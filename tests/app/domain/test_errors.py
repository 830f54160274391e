from app.domain.errors import paragraph
from remote.protocol import ErrorCode, KnownError


def test_a_short_error_is_one_line():
    error = KnownError(ErrorCode.MODEL_MISSING, "There is no model x.", "Add it.")
    assert paragraph("farscribe", error) == "farscribe: There is no model x. Add it."


def test_the_next_step_of_a_long_one_begins_a_line_of_its_own():
    error = KnownError(ErrorCode.HOST_UNKNOWN, "Unknown: " + "x" * 99, "Run it with --trust-host.")
    first, second = paragraph("farscribe", error).splitlines()
    assert first.startswith("farscribe: Unknown: ")
    assert second == "    Run it with --trust-host."


def test_a_long_one_without_a_next_step_stays_as_it_is():
    error = KnownError(ErrorCode.BUG, "x" * 200)
    assert paragraph("a", error) == f"a: {'x' * 200}"
