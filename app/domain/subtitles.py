"""Segments cut into subtitles: what stands on the screen, when, and where its lines break.

Pure rules. A segment becomes pieces (words, or single characters where a script has no spaces);
pieces become cues, and each cue becomes lines, both by the cheapest cut (dynamic programming as
in Knuth and Plass, "Breaking Paragraphs into Lines", 1981): best after a sentence, else after a
clause or a pause, else between words; rather where what was said fast has a silence after it to be
read in. No text is lost or changed but for its white space.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import ceil, inf

from app.domain.settings import SubtitleRules
from app.domain.transcript import channel_label
from remote.protocol import Segment

# What a cut costs, in columns of unevenness that a better one is worth.
_CUT_SENTENCE = 0.0
_CUT_CLAUSE = 8.0
_CUT_WORD = 25.0
_CUT_INSIDE_WORD = 200.0
_CUE = 30.0  # each cue, so that there are no more than needed
_SHORT_CUE = 20.0  # a cue of a word or two flickers
_SHORT_COLUMNS = 10
_EVEN = 300.0  # columns squared that cost one: where any cut is as good, halves are better
_TOO_LONG = 60.0  # a cue that stands longer than the rules say
_SILENCE = 60.0  # a silence within a cue shows words long before they are said
_UNREAD = 0.1  # each millisecond that a cue is too short to be read: half a second for a cue more

_PAUSE_MS = 350
"""Silence between two words that separates like a comma: pauses within a phrase are shorter."""

_SILENCE_MS = 1000

_SHORTEST_MS = 40
"""One frame of film (25 a second): a cue that stands for less is never seen."""

_CLOSERS = "\"'”’»)]}」』）】》"
_SENTENCE_ENDS = (".", "?", "!", "…", "。", "！", "？", "｡", "؟", "।", "։")
_CLAUSE_ENDS = (",", ";", ":", "—", "–", "、", "，", "；", "：", "،", "؛")
_Span = tuple[int, int]
_TimedSpan = tuple[int, int, int, int]
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]")


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: its lines from ``start_ms`` up to ``end_ms`` of the file."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """Text that is never cut; ``spaced`` where a space stands before it."""

    text: str
    spaced: bool
    start_ms: int
    end_ms: int
    columns: int
    cut: float = _CUT_WORD  # what a cut after it costs
    bridge: float = 0.0  # what it costs to go on in the same cue


def cues(segments: Iterable[Segment], rules: SubtitleRules) -> tuple[Cue, ...]:
    """The subtitles of a recording in time order.

    Within a channel no two overlap, starts grow, and each stands for at least a frame of film, and
    for as long as it takes to read unless the next one begins before. Each line is at most
    ``rules.max_chars`` columns wide, label of the channel included.
    """
    by_channel: dict[int | None, list[Segment]] = {}
    for segment in segments:
        if segment.text.strip():
            by_channel.setdefault(segment.channel, []).append(segment)
    timed = [cue for said in by_channel.values() for cue in _channel_cues(said, rules)]
    return tuple(sorted(timed, key=lambda cue: (cue.start_ms, cue.channel or 0)))


def columns(text: str) -> int:
    """Width of the text: a wide or full-width character takes two columns, a mark on it none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def ends_sentence(text: str) -> bool:
    """Whether the text closes with a full stop or its like, quotes and brackets after it aside."""
    return text.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS)


def _channel_cues(said: list[Segment], rules: SubtitleRules) -> Iterator[Cue]:
    said.sort(key=lambda segment: segment.start_ms)
    until = [*(segment.start_ms for segment in said[1:]), inf]
    found = zip(said, until, strict=True)
    return _apart([cue for item in found for cue in _segment_cues(*item, rules)], rules)


def _segment_cues(segment: Segment, until_ms: float, rules: SubtitleRules) -> Iterator[Cue]:
    """The cues of a segment; the last of them may stand up to ``until_ms``."""
    label = channel_label(segment)
    width = rules.max_chars - len(label)
    pieces = _pieces(segment, width)
    for start, end in _cut_cues(pieces, rules, width, until_ms):
        part = pieces[start:end]
        lines = [_joined(part[a:b]) for a, b in _cut_lines(part, width)]
        lines[0] = label + lines[0]
        yield Cue(part[0].start_ms, part[-1].end_ms, tuple(lines), segment.channel)


def _apart(found: list[Cue], rules: SubtitleRules) -> Iterator[Cue]:
    """The cues of one channel with times that grow and do not overlap, long enough to be read."""
    found.sort(key=lambda cue: cue.start_ms)
    starts: list[int] = []
    for cue in found:
        starts.append(max(cue.start_ms, starts[-1] + _SHORTEST_MS if starts else 0))
    for place, (cue, start) in enumerate(zip(found, starts, strict=True)):
        reading_ms = ceil(sum(map(columns, cue.lines)) * _column_ms(rules))
        end = max(cue.end_ms, start + max(_SHORTEST_MS, rules.min_ms, reading_ms))
        yield replace(cue, start_ms=start, end_ms=min([end, *starts[place + 1 : place + 2]]))


def _column_ms(rules: SubtitleRules) -> float:
    """Time that it takes to read a column of text."""
    return 1000 / rules.max_cps


# ── pieces ───────────────────────────────────────────────────────────────────────────────────


def _pieces(segment: Segment, width: int) -> list[_Piece]:
    text = " ".join(segment.text.split())
    spans = _word_spans(segment, text)
    time_at = _char_times(spans or [(0, len(text), segment.start_ms, segment.end_ms)])
    pieces: list[_Piece] = []
    latest = segment.start_ms
    for start, end in _unbreakable(text, width):
        begin = max(latest, time_at(start, False))
        # Without word times nothing is known of pauses: a piece lasts up to the next one.
        latest = max(begin, time_at(end - 1, True) if spans else time_at(end, False))
        spaced = start > 0 and text[start - 1] == " "
        shown = text[start:end]
        pieces.append(_Piece(shown, spaced, begin, latest, columns(shown)))
    return [_with_cut(piece, later) for piece, later in pairwise(pieces)] + pieces[-1:]


def _with_cut(piece: _Piece, later: _Piece) -> _Piece:
    pause_ms = later.start_ms - piece.end_ms
    if pause_ms >= _SILENCE_MS:
        piece = replace(piece, bridge=_SILENCE)
    if ends_sentence(piece.text):
        return replace(piece, cut=_CUT_SENTENCE)
    if piece.text.rstrip(_CLOSERS).endswith(_CLAUSE_ENDS) or pause_ms >= _PAUSE_MS:
        return replace(piece, cut=_CUT_CLAUSE)
    inside = not later.spaced and not (_unspaced(piece.text[-1]) or _unspaced(later.text[0]))
    return replace(piece, cut=_CUT_INSIDE_WORD) if inside else piece


def _char_times(spans: Sequence[_TimedSpan]) -> Callable[[int, bool], int]:
    """A function from a character's place in the text to its start (or end) in the file.

    Within a span time runs evenly over the characters.
    """
    firsts = [span[0] for span in spans]

    def time_at(place: int, end: bool) -> int:
        at = bisect_right(firsts, place) - 1
        if at < 0:
            return spans[0][2]
        first, last, start_ms, end_ms = spans[at]
        share = min(1.0, (place + end - first) / (last - first))
        return round(start_ms + share * (max(start_ms, end_ms) - start_ms))

    return time_at


def _word_spans(segment: Segment, text: str) -> list[_TimedSpan]:
    """Where the words stand in the text, and when; nothing where they are of another text."""
    spans = []
    place = 0
    for word in segment.words:
        bare = " ".join(word.text.split())
        found = text.find(bare, place)
        if found < 0:
            return []
        if bare:
            place = found + len(bare)
            spans.append((found, place, word.start_ms, word.end_ms))
    return spans


def _unbreakable(text: str, width: int) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of ``text`` that is not to be cut, none wider than a line."""
    for token in re.finditer(r"\S+", text):
        start = token.start()
        if token[0].isascii() and len(token[0]) <= width:  # most words of most languages
            yield token.span()
            continue
        for place in range(token.start() + 1, token.end()):
            wide = columns(text[start : place + 1]) > width
            if wide or _may_cut(text[place - 1], text[place]):
                yield start, place
                start = place
        yield start, token.end()


def _may_cut(left: str, right: str) -> bool:
    """Whether two neighbouring characters of a script without spaces may be parted."""
    if not (_unspaced(left) or _unspaced(right)):
        return False
    opening = unicodedata.category(left) in ("Ps", "Pi")
    closing = unicodedata.category(right) in ("Pe", "Pf", "Po", "Mn", "Mc", "Lm")
    return not (opening or closing)


def _unspaced(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF" and not _HANGUL.match(char)


def _joined(pieces: Sequence[_Piece]) -> str:
    return "".join(f" {p.text}" if p.spaced and i else p.text for i, p in enumerate(pieces))


# ── cuts ─────────────────────────────────────────────────────────────────────────────────────


def _cut_cues(
    pieces: Sequence[_Piece], rules: SubtitleRules, width: int, until_ms: float
) -> list[_Span]:
    """Places of the cues: fewest and best cuts so that each fits the lines it may have.

    Args:
        pieces: of one segment.
        rules: see there.
        width: columns of a line, without the label of the channel.
        until_ms: how long the last cue may stand.
    """
    count = len(pieces)
    label, column_ms = rules.max_chars - width, _column_ms(rules)
    bridges = list(accumulate((piece.bridge for piece in pieces), initial=0.0))
    best = [0.0] + [inf] * count
    origin = [0] * (count + 1)
    for end in range(1, count + 1):
        last = pieces[end - 1]
        anyway = _CUE + bridges[end - 1] + (last.cut if end < count else 0.0)
        latest_ms = last.end_ms - rules.max_ms
        next_ms = pieces[end].start_ms if end < count else max(until_ms, last.start_ms)
        for start, wide in _fitting(pieces, end, width, rules.max_lines):
            cost = best[start] + anyway - bridges[start] + wide * wide / _EVEN
            if wide < _SHORT_COLUMNS:
                cost += _SHORT_CUE
            start_ms = pieces[start].start_ms
            if start_ms < latest_ms and start < end - 1:
                cost += _TOO_LONG
            unread_ms = (label + wide) * column_ms - (next_ms - start_ms)
            if unread_ms > 0.0:
                cost += _UNREAD * unread_ms
            if cost < best[end]:
                best[end], origin[end] = cost, start
    spans = []
    while count:
        spans.append((origin[count], count))
        count = origin[count]
    return spans[::-1]


def _fitting(
    pieces: Sequence[_Piece], end: int, width: int, max_lines: int
) -> Iterator[tuple[int, int]]:
    """Each start from which pieces up to ``end`` fit in the lines, and their columns in all."""
    lines, line, total, gap = 1, 0, 0, 0
    for start in range(end - 1, -1, -1):
        piece = pieces[start]
        added = gap + piece.columns
        total += added
        line += added
        if line > width:
            lines, line = lines + 1, piece.columns
            if lines > max_lines:
                return
        yield start, total
        gap = int(piece.spaced)


def _cut_lines(pieces: Sequence[_Piece], width: int) -> list[_Span]:
    """Places of the lines of one cue: as few as it needs, even, cut where the sense is."""
    count = len(pieces)
    need = _lines_needed(pieces, width)
    if need == 1:
        return [(0, count)]
    even = sum(p.columns + p.spaced for p in pieces) / need
    best = [0.0] + [inf] * count
    origins: list[list[int]] = []  # for each line, by its end: where it best starts
    for _ in range(need):
        cost, origin = [inf] * (count + 1), [0] * (count + 1)
        for end in range(1, count + 1):
            after = pieces[end - 1].cut if end < count else 0.0
            for start, wide in _fitting(pieces, end, width, 1):
                found = best[start] + abs(wide - even) + after
                if found < cost[end]:
                    cost[end], origin[end] = found, start
        best = cost
        origins.append(origin)
    spans = []
    for origin in reversed(origins):
        spans.append((origin[count], count))
        count = origin[count]
    return spans[::-1]


def _lines_needed(pieces: Sequence[_Piece], width: int) -> int:
    lines, line = 1, 0
    for place, piece in enumerate(pieces):
        line += piece.columns + int(place > 0 and piece.spaced)
        if line > width:
            lines, line = lines + 1, piece.columns
    return lines
