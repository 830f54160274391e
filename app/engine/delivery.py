"""Delivering: a transcript becomes files in the formats the user wants.

It renders everything before it writes anything. It must not know where files lie.
"""

from pathlib import Path

from app.domain.exports.rendering import render
from app.domain.ports import OutputFolder
from app.domain.settings import Format, SubtitleRules
from app.domain.transcript import Transcript


class Delivery:
    """Writes each transcript in every wanted format. It implements the port ``Deliver``."""

    def __init__(
        self, folder: OutputFolder, formats: tuple[Format, ...], rules: SubtitleRules
    ) -> None:
        self._folder = folder
        self._formats = formats
        self._rules = rules

    def __call__(self, transcript: Transcript) -> tuple[Path, ...]:
        """The files that were written: none for a failed job without any text, but its JSON.

        The JSON of a failed job carries the error, so that a script sees what became of the file.

        Raises:
            KnownError: disk-full or output-unwritable.
        """
        nothing = transcript.error is not None and not transcript.segments
        wanted = [kind for kind in self._formats if kind is Format.JSON or not nothing]
        contents = {kind.value: render(transcript, kind, self._rules) for kind in wanted}
        return self._folder.write(transcript.source, contents) if contents else ()
