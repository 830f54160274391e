"""Blocks: how audio travels. A block is a file of its own, named by its content.

Pure values and the rule that chooses a codec; coding is the media adapter's work.
"""

from dataclasses import dataclass
from enum import StrEnum

from remote.protocol import Block

BLOCK_S = 30.0
"""Seconds in a block: 0.5 MB of FLAC or 0.12 MB of Opus, enough for one window of the model."""

FLAC_MBITS = 100.0
"""From this uplink on, FLAC (about 0.11 Mbit for each second of speech) is no hindrance: 900 times
real time. Below it Opus, a quarter of that or less, keeps the device busier than it costs."""


class Codec(StrEnum):
    """How the samples of a block are coded."""

    FLAC = "flac"
    """Without loss: the text is that of the file itself."""
    OPUS = "opus"
    """32 kbit/s a track."""


@dataclass(frozen=True, slots=True)
class CodedBlock:
    """A block with its bytes."""

    block: Block
    codec: Codec
    data: bytes


def codec_for(uplink_mbits: float | None, pinned: Codec | None = None) -> Codec:
    """What the next block is coded in.

    Args:
        uplink_mbits: measured, in Mbit/s; None while nothing was.
        pinned: what the user has decided.
    """
    if pinned is not None:
        return pinned
    return Codec.OPUS if uplink_mbits is not None and uplink_mbits < FLAC_MBITS else Codec.FLAC
