from app.domain.checkup import Finding, Health, exit_status, from_error
from remote.protocol import ErrorCode, ExitCode, KnownError


def test_warnings_do_not_make_it_fail():
    findings = [Finding("a", Health.OK, ""), Finding("b", Health.WARN, "")]
    assert exit_status(findings) == ExitCode.OK


def test_the_first_bad_thing_gives_the_exit_status():
    error = KnownError(ErrorCode.HOST_REFUSED, "No.", "Knock.")
    bad = from_error("login", error)
    assert (bad.message, bad.hint, bad.health) == ("No.", "Knock.", Health.BAD)
    later = Finding("b", Health.BAD, "", code=ErrorCode.DISK_FULL)
    assert exit_status([Finding("a", Health.OK, ""), bad, later]) == ExitCode.NETWORK
    assert exit_status([Finding("b", Health.BAD, "")]) == ExitCode.DEVICE
