"""What comes out of the two streams of an engine: messages, and lines for people.

Pure: bytes in, values out. It must not know what carries them.
"""

import codecs
import logging
import re

from remote import protocol
from remote.protocol import ErrorCode, Up, WireError

log = logging.getLogger(__name__)


def message_in(line: bytes) -> Up | None:
    """The message in a line; None where there is none that concerns a client.

    Raises:
        WireError: the engine speaks another major version.
    """
    try:
        message = protocol.decode(line)
    except WireError as error:
        if error.code is ErrorCode.VERSION:
            raise
        # A message lost this way leaves a hole in the numbers, which the job notices.
        log.warning("skipped a line of the engine: %s", error)
        return None
    return message if isinstance(message, Up) else None


class LogLines:
    """Lines for people out of byte chunks cut anywhere.

    Progress bars of downloads end their lines with a carriage return: these are lines too.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that end in this chunk, without empty ones."""
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + self._decoder.decode(chunk))
        return [line for line in lines if line.strip()]

    def end(self) -> list[str]:
        """The last line, where it had no end."""
        rest, self._rest = self._rest, ""
        return [rest] if rest.strip() else []
