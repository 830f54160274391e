"""What a program reads."""

import io
from pathlib import Path

from app.adapters.terminal.json_lines import JsonLines
from app.domain.events import EngineUnavailable, JobEnded, Silence, Wire
from app.domain.jobs import Job, JobState
from app.domain.transcript import Transcript
from remote import protocol
from remote.protocol import ErrorCode, KnownError, Progress, Source, Transcribe

ERROR = KnownError(ErrorCode.NOT_AUDIO, "It is no audio.", "Try another.")


def test_each_message_of_the_wire_is_one_line_and_nothing_else_is_printed():
    out, err = io.StringIO(), io.StringIO()
    display = JsonLines(out=out, err=err)
    messages = [Transcribe("1", Source("path", "/é.wav")), Progress("1", 1, "decode", 0)]
    for message in messages:
        display(Wire(message))
    display(Silence(20.0))
    display.table([])
    display.close()
    lines = out.getvalue().splitlines()
    assert [protocol.decode(line.encode()) for line in lines] == messages
    assert err.getvalue() == ""


def test_errors_are_told_in_words_as_well():
    out, err = io.StringIO(), io.StringIO()
    display = JsonLines(out=out, err=err)
    job = Job("1", Path("/x/a.wav"), JobState.FAILED, error=ERROR)
    display(JobEnded(job, Transcript(job.path, error=ERROR)))
    display(EngineUnavailable(ERROR))
    assert err.getvalue().splitlines() == [
        "a.wav: It is no audio. Try another.",
        "farscribe: It is no audio. Try another.",
    ]
