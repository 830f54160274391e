"""Going on with a recording: what was settled is not decoded again, and nothing is told twice."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from remote.chunking import WindowSettings
from remote.feed import open_source
from remote.inbox import Alone
from remote.protocol import ErrorCode, KnownError, Options, Segment, Source, Summary
from remote.recording import bug
from remote.sink import Past, Settled, Sink
from remote.transcriber import Transcriber
from tests.remote.doubles import Loud, Scripted, says
from tests.remote.loaded_model import Loaded, loaded
from tests.remote.model_factory import write_model
from tests.remote.recordings import bursts, write

SHORT = WindowSettings(max_window_s=4.0, max_gap_s=3.0, cut_search_s=1.0)
DETECTED = Options(fallback=False)
SPLIT = Options(language="en", fallback=False, channels="split")

Record = Settled | tuple[Segment, ...] | tuple[str, float]


class Counting(Scripted):
    """Counts the windows that it encodes."""

    encoded = 0

    def encode(self, mel: Tensor) -> Tensor:
        self.encoded += len(mel)
        return super().encode(mel)


class Records(Sink):
    """Keeps what a journal would, in its order."""

    def __init__(self) -> None:
        self.kept: list[Record] = []

    def segments(self, segments: tuple[Segment, ...]) -> None:
        self.kept.append(segments)

    def settled(self, part: Settled) -> None:
        self.kept.append(part)

    def language(self, code: str, probability: float) -> None:
        self.kept.append((code, probability))


def told(records: Sequence[Record]) -> list[Segment]:
    return [
        segment
        for record in records
        if isinstance(record, tuple)
        for segment in record
        if isinstance(segment, Segment)
    ]


def past_of(records: Sequence[Record]) -> Past:
    language, probability = "", 1.0
    settled: dict[int, Settled] = {}
    counts: dict[int | None, int] = {}
    for record in records:
        match record:
            case Settled(key):
                settled[key] = record
            case (str(code), float(sure)):
                language, probability = code, sure
    for segment in told(records):
        counts[segment.channel] = counts.get(segment.channel, 0) + 1
    return Past(language, probability, settled, counts, 10.0)


def in_words(segments: Sequence[Segment]) -> list[tuple[object, ...]]:
    """All but the last digits of probabilities."""
    return [(s.start_ms, s.end_ms, s.text, s.channel, s.language) for s in segments]


def by_channel(segments: Sequence[Segment]) -> dict[int | None, list[tuple[object, ...]]]:
    found = in_words(segments)
    return {channel: [s for s in found if s[3] == channel] for channel in {s[3] for s in found}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = write_model(tmp_path_factory.mktemp("model"), encoder_layers=1, decoder_layers=1)
    return loaded(folder)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    two = np.stack([bursts(13, seed=2), bursts(13, seed=1)])
    return write(tmp_path_factory.mktemp("audio") / "noise.wav", two)


def run(
    small: Loaded, noise: Path, options: Options, past: Past | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[list[Record], Summary | KnownError, int]:  # fmt: skip
    """What was kept, the outcome, and how many windows were encoded."""
    tokenizer = small.tokenizer
    script = says(tokenizer, 0.0, " the", 0.7, 0.7, " house", 1.5, 1.5)  # a rest is left
    model = Counting(tokenizer.vocab_size, [script])
    made = Transcriber(model, tokenizer, Loud(), rows=3, settings=SHORT)
    sink, clock = Records(), made.clock()
    outcome: list[Summary | KnownError] = []
    reader = open_source(Source("path", str(noise)), options, clock)
    with made.feed(reader, options, clock) as feed:
        recording = made.recording(
            feed, options, sink, clock, past=past, ended=outcome.append, cancelled=cancelled
        )
        made.run(Alone(recording))
        recording.end()  # once more changes nothing
        recording.fail(bug(ZeroDivisionError()))
    (end,) = outcome
    return sink.kept, end, model.encoded


@pytest.mark.parametrize("options", [DETECTED, SPLIT], ids=["detected", "split"])
def test_cut_off_anywhere_it_tells_the_rest_once_and_decodes_nothing_settled_again(
    small: Loaded, noise: Path, options: Options
) -> None:
    whole, summary, windows = run(small, noise, options)
    assert isinstance(summary, Summary)
    parts = [record for record in whole if isinstance(record, Settled)]
    assert windows == len(parts) > summary.windows > 2
    assert len(told(whole)) > 8
    for cut in range(1, len(whole) + 1):
        before = whole[:cut]
        after, end, encoded = run(small, noise, options, past_of(before))
        assert by_channel(told(before) + told(after)) == by_channel(told(whole))
        known = sum(isinstance(record, Settled) for record in before)
        assert encoded == windows - known
        assert isinstance(end, Summary)
        assert (end.language, end.windows, end.tokens) == (
            summary.language,
            summary.windows,
            summary.tokens,
        )
        assert (end.speech_ms, end.covered_ms) == (summary.speech_ms, summary.covered_ms)
        assert end.language_probability == pytest.approx(summary.language_probability, abs=1e-3)
        assert end.wall_s > 10.0  # with the seconds from before


def test_what_was_settled_before_its_turn_goes_out_in_its_turn(small: Loaded, noise: Path) -> None:
    whole, _, _ = run(small, noise, SPLIT)
    parts = [record for record in whole if isinstance(record, Settled)]
    settled = {part.key: part for part in parts[::2]}
    after, _, encoded = run(small, noise, SPLIT, Past(settled=settled))
    assert by_channel(told(after)) == by_channel(told(whole))
    assert encoded == len(parts) - len(settled)


def test_a_language_that_was_heard_is_not_detected_again(small: Loaded, noise: Path) -> None:
    after, end, _ = run(small, noise, DETECTED, Past("fr", 0.5))
    assert {segment.language for segment in told(after)} == {"fr"}
    assert isinstance(end, Summary)
    assert (end.language, end.language_probability) == ("fr", 0.5)
    assert ("fr", 0.5) not in after


def test_cancelled_it_ends_once_and_with_no_more_text(small: Loaded, noise: Path) -> None:
    kept, end, _ = run(small, noise, SPLIT, cancelled=lambda: True)
    assert kept == []
    assert isinstance(end, KnownError)
    assert end.code is ErrorCode.CANCELLED
