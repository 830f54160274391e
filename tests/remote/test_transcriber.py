"""A recording becomes text: real speech by a real model, and the rest by models made for it."""

import gc
import itertools
import os
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from remote.chunking import Detector, Window, WindowSettings
from remote.protocol import ErrorCode, KnownError, Options, Segment, Source, Summary
from remote.recording import LANGUAGE_WINDOWS
from remote.transcriber import ENCODE_WINDOWS, Transcriber
from remote.voice_activity import SpeechDetector
from remote.whisper import Whisper
from tests.remote.doubles import Cramped, Kept, Loud, LoudStream, Script, Scripted, says
from tests.remote.loaded_model import Loaded, loaded
from tests.remote.loopback_server import PATIENCE_S, held
from tests.remote.model_factory import write_model
from tests.remote.recordings import RATE, SAMPLE, bursts, speech, write

SPOKEN = "and so my fellow americans ask not what your country can do for you"
SHORT = WindowSettings(max_window_s=4.0, max_gap_s=3.0, cut_search_s=1.0)
GREEDY = Options(language="en", fallback=False)


def plain(text: str) -> str:
    return " ".join("".join(c if c.isalpha() else " " for c in text.lower()).split())


def path_of(path: Path | str) -> Source:
    return Source("url" if str(path).startswith("http") else "path", str(path))


def in_order(segments: list[Segment]) -> bool:
    return all(one.end_ms <= other.start_ms for one, other in pairwise(segments))


# ── real speech, a real model ────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def english(tiny_en: Loaded) -> Transcriber:
    return Transcriber(tiny_en.model, tiny_en.tokenizer, SpeechDetector.load("cpu"), rows=4)


@pytest.fixture(scope="module")
def sample(english: Transcriber) -> tuple[Kept, Summary]:
    sink = Kept()
    return sink, english.transcribe(path_of(SAMPLE), Options(), sink)


def test_a_recording_becomes_its_text(sample: tuple[Kept, Summary]) -> None:
    sink, _ = sample
    assert plain(sink.text) == f"{SPOKEN} ask what you can do for your country"
    assert in_order(sink.found)
    assert sink.found[0].start_ms == pytest.approx(320, abs=200)
    assert sink.found[-1].end_ms == pytest.approx(10_500, abs=300)
    for segment in sink.found:
        assert segment.text == segment.text.strip()
        assert (segment.words, segment.channel, segment.language) == ((), None, "en")
        assert -0.5 < segment.quality.avg_logprob < 0.0
        assert segment.quality.temperature == 0.0
        assert 0.5 < segment.quality.compression_ratio < 2.4
        assert segment.quality.no_speech_prob < 0.5


def test_the_summary_is_what_happened(sample: tuple[Kept, Summary]) -> None:
    sink, summary = sample
    assert summary.duration_ms == 11_000
    assert 7000 < summary.speech_ms < 11_000
    assert summary.coverage > 0.95
    assert summary.gaps == ()
    assert (summary.language, summary.language_probability) == ("en", 1.0)
    assert set(summary.stages.seconds) == {"decode", "vad", "mel", "encode", "generate"}
    assert min(summary.stages.seconds.values()) > 0
    assert sum(summary.stages.seconds.values()) < 1.2 * summary.wall_s
    assert summary.windows == 1
    assert summary.fallbacks == 0
    assert 25 < summary.tokens < 60
    assert summary.peak_memory_bytes > 100_000_000
    assert summary.device_memory_bytes == 0
    assert summary.warnings == ()
    assert sink.totals[-1] == 11_000
    assert sink.done_ms == sorted(sink.done_ms)
    assert 10_000 < sink.done_ms[-1] <= 11_000


def test_words_are_timed_on_request(english: Transcriber, sample: tuple[Kept, Summary]) -> None:
    sink = Kept()
    summary = english.transcribe(path_of(SAMPLE), Options(words=True), sink)
    assert [s.text for s in sink.found] == [s.text for s in sample[0].found]
    for segment in sink.found:
        assert "".join(word.text for word in segment.words).strip() == segment.text
        assert segment.start_ms == segment.words[0].start_ms
        assert segment.end_ms == segment.words[-1].end_ms
    words = [word for segment in sink.found for word in segment.words]
    assert all(one.end_ms <= other.start_ms for one, other in pairwise(words))
    assert all(0.0 <= word.probability <= 1.0 for word in words)
    times = {plain(word.text): (word.start_ms, word.end_ms) for word in words[:14]}
    assert times["country"] == pytest.approx((6000, 6340), abs=100)
    assert times["you"] == pytest.approx((7260, 7680), abs=100)  # it ends with the voice
    assert "align" in summary.stages.seconds


def test_words_do_not_run_into_what_is_left_of_their_window(
    english: Transcriber, tmp_path: Path
) -> None:
    samples = np.concatenate([speech(), np.zeros(6 * RATE, np.int16)])
    path = write(tmp_path / "long.wav", samples[None])
    for options in (Options(windows="off"), Options(windows="off", words=True)):
        sink = Kept()
        english.transcribe(path_of(path), options, sink)
        assert len(sink.found) > 2  # the end of the window was decoded by itself
        assert in_order(sink.found)


def test_channels_are_transcribed_apart_on_request(english: Transcriber, tmp_path: Path) -> None:
    clip, pause = speech(), np.zeros(3 * RATE, np.int16)
    left, right = np.concatenate([clip, pause]), np.concatenate([pause, clip])
    path = write(tmp_path / "call.wav", np.stack([left, right]))
    sink = Kept()
    summary = english.transcribe(path_of(path), Options(channels="split"), sink)
    sides = [[s for s in sink.found if s.channel == channel] for channel in (0, 1)]
    assert len(sink.found) == sum(map(len, sides))
    for side in sides:
        assert plain(" ".join(s.text for s in side)).startswith(SPOKEN)
        assert in_order(side)
    assert sides[1][0].start_ms == pytest.approx(sides[0][0].start_ms + 3000, abs=150)
    assert summary.windows == 2
    assert summary.duration_ms == 14_000
    assert summary.speech_ms > 14_000  # of both
    assert summary.coverage > 0.95


def test_silence_has_no_text(english: Transcriber, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 20, (1, 5 * RATE)).astype(np.int16)
    path = write(tmp_path / "silence.wav", noise)
    sink = Kept()
    summary = english.transcribe(path_of(path), Options(), sink)
    assert sink.found == []
    assert (summary.duration_ms, summary.speech_ms, summary.windows) == (5000, 0, 0)
    assert (summary.gaps, summary.coverage, summary.tokens) == ((), 1.0, 0)


def test_the_language_is_heard(base: Loaded) -> None:
    detecting = Transcriber(base.model, base.tokenizer, SpeechDetector.load("cpu"), rows=2)
    sink = Kept()
    summary = detecting.transcribe(path_of(SAMPLE), Options(), sink)
    assert summary.language == "en"
    assert 0.9 < summary.language_probability <= 1.0
    assert {segment.language for segment in sink.found} == {"en"}
    assert "ask what you can do for your country" in plain(sink.text)


# ── a small model with random weights ────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = write_model(tmp_path_factory.mktemp("model"), encoder_layers=1, decoder_layers=1)
    return loaded(folder)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("audio") / "noise.wav", bursts(32)[None])


def transcriber(
    small: Loaded, *, model: Whisper | None = None, rows: int = 3, detector: Detector | None = None
) -> Transcriber:
    model = model or small.model
    return Transcriber(model, small.tokenizer, detector or Loud(), rows=rows, settings=SHORT)


def heard(
    made: Transcriber, path: Path | str, options: Options = GREEDY
) -> tuple[list[Segment], Summary]:
    sink = Kept()
    summary = made.transcribe(path_of(path), options, sink)
    assert sink.done_ms == sorted(sink.done_ms)
    return sink.found, summary


@pytest.fixture(scope="module")
def alone(small: Loaded, noise: Path) -> list[Segment]:
    """What the noise becomes window by window."""
    return heard(transcriber(small, rows=1), noise)[0]


def same_text(found: list[Segment], expected: list[Segment]) -> bool:
    """Same but for the last digits of probabilities."""
    return [(s.start_ms, s.end_ms, s.text, s.language) for s in found] == [
        (s.start_ms, s.end_ms, s.text, s.language) for s in expected
    ]


@pytest.mark.parametrize("rows", [2, 5, 16])
def test_the_text_does_not_depend_on_how_many_windows_are_side_by_side(
    small: Loaded, noise: Path, alone: list[Segment], rows: int
) -> None:
    found, summary = heard(transcriber(small, rows=rows), noise)
    assert summary.windows > 7
    assert same_text(found, alone)


def test_words_do_not_change_the_text(small: Loaded, noise: Path, alone: list[Segment]) -> None:
    options = Options(language="en", fallback=False, words=True)
    found, _ = heard(transcriber(small, rows=5), noise, options)
    assert [segment.text for segment in found] == [segment.text for segment in alone]
    for segment in found:
        assert segment.words
        assert segment.start_ms <= segment.words[0].start_ms
        assert segment.words[-1].end_ms <= segment.end_ms


def test_a_forced_language_may_be_given_by_name(small: Loaded, noise: Path) -> None:
    options = Options(language="German", fallback=False)
    found, summary = heard(transcriber(small), noise, options)
    assert (summary.language, summary.language_probability) == ("de", 1.0)
    assert {segment.language for segment in found} == {"de"}


def test_a_translation_is_english(small: Loaded, noise: Path) -> None:
    options = Options(language="de", task="translate", fallback=False)
    found, summary = heard(transcriber(small), noise, options)
    assert summary.language == "de"
    assert {segment.language for segment in found} == {"en"}


def test_windows_vote_on_the_language(small: Loaded, noise: Path) -> None:
    counting = Cramped(small.model)
    _, summary = heard(transcriber(small, model=counting), noise, Options(fallback=False))
    assert summary.language in small.tokenizer.languages
    assert 0.0 < summary.language_probability < 1.0
    assert counting.most_encoded <= LANGUAGE_WINDOWS


def refusal(made: Transcriber, path: Path | str, options: Options = GREEDY) -> KnownError:
    with pytest.raises(KnownError) as caught:
        made.transcribe(path_of(path), options, Kept())
    return caught.value


def test_options_that_do_not_suit_are_refused_before_anything_is_read(
    small: Loaded, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere.wav"
    error = refusal(transcriber(small), nowhere, Options(language="klingon"))
    assert error.code is ErrorCode.UNKNOWN_LANGUAGE
    folder = write_model(tmp_path / "model.en", multilingual=False)
    only_english = transcriber(loaded(folder))
    for options in (Options(language="de"), Options(task="translate")):
        assert refusal(only_english, nowhere, options).code in {
            ErrorCode.UNKNOWN_LANGUAGE,
            ErrorCode.UNKNOWN_OPTION,
        }
    assert refusal(only_english, nowhere).code is ErrorCode.FILE_MISSING


# ── too little memory ────────────────────────────────────────────────────────────────────────


def test_where_memory_runs_out_half_as_many_windows_go_on(
    small: Loaded, noise: Path, alone: list[Segment], caplog: pytest.LogCaptureFixture
) -> None:
    cramped = Cramped(small.model, decoded=2)
    made = transcriber(small, model=cramped, rows=12)
    found, _ = heard(made, noise)
    assert same_text(found, alone)
    assert made.rows <= 2
    assert cramped.most_decoded == made.rows
    assert "out of memory" in caplog.text
    assert same_text(heard(made, noise)[0], alone)  # and the next recording starts with as many


def test_memory_that_runs_out_while_encoding_is_no_end_either(
    small: Loaded, noise: Path, alone: list[Segment]
) -> None:
    cramped = Cramped(small.model, encoded=1)
    assert same_text(heard(transcriber(small, model=cramped, rows=8), noise)[0], alone)


def test_memory_that_runs_out_while_the_language_is_detected_is_no_end_either(
    small: Loaded, noise: Path
) -> None:
    options = Options(fallback=False)
    cramped = Cramped(small.model, encoded=2, decoded=2)
    found, summary = heard(transcriber(small, model=cramped, rows=8), noise, options)
    expected, other = heard(transcriber(small), noise, options)
    assert same_text(found, expected)
    assert summary.language_probability == pytest.approx(other.language_probability, abs=1e-3)


def test_memory_that_lacks_for_the_caches_is_no_end_either(
    small: Loaded, noise: Path, alone: list[Segment]
) -> None:
    cramped = Cramped(small.model, caches=2)
    made = transcriber(small, model=cramped, rows=8)
    assert same_text(heard(made, noise)[0], alone)
    assert made.rows == 2


def test_the_old_caches_are_gone_when_smaller_ones_are_made(small: Loaded, noise: Path) -> None:
    class Later(Cramped):
        def decode(self, tokens: Tensor, *others: Any) -> Tensor:
            self._check(self.calls == 20 and not self.kept)
            return super().decode(tokens, *others)

    cramped = Later(small.model)
    heard(transcriber(small, model=cramped, rows=12), noise)
    assert cramped.kept == [0]


def test_too_little_memory_for_one_window_is_told(small: Loaded, noise: Path) -> None:
    made = transcriber(small, model=Cramped(small.model, decoded=0), rows=4)
    error = refusal(made, noise)
    assert error.code is ErrorCode.OUT_OF_MEMORY
    assert error.hint
    assert not reading()


class Forgetful(Loud):
    """A detector that runs out of memory at its second block."""

    def stream(self) -> LoudStream:
        blocks = itertools.count()

        class Stream(LoudStream):
            def push(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
                if next(blocks) == 1:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return super().push(samples)

        return Stream()


def test_memory_that_runs_out_in_voice_activity_does_not_cut_the_text_short(
    small: Loaded, noise: Path
) -> None:
    made = transcriber(small, detector=Forgetful())
    assert refusal(made, noise).code is ErrorCode.OUT_OF_MEMORY


def test_any_other_error_of_the_device_is_no_lack_of_memory(small: Loaded, noise: Path) -> None:
    class Broken(Cramped):
        def encode(self, mel: Tensor) -> Tensor:
            raise RuntimeError("device-side assert")

    made = transcriber(small, model=Broken(small.model), rows=4)
    with pytest.raises(RuntimeError, match="device-side"):
        made.transcribe(path_of(noise), GREEDY, Kept())
    assert made.rows == 4
    assert not reading()


# ── stopping midway ──────────────────────────────────────────────────────────────────────────


def reading() -> list[threading.Thread]:
    """Threads of feeds that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "audio"]


def cancel(made: Transcriber, path: Path | str, cancelled: Callable[[], bool], sink: Kept) -> None:
    with pytest.raises(KnownError) as caught:
        made.transcribe(path_of(path), GREEDY, sink, cancelled)
    assert caught.value.code is ErrorCode.CANCELLED


def test_a_cancelled_job_stops_and_the_next_one_is_none_the_worse(
    small: Loaded, noise: Path, alone: list[Segment]
) -> None:
    made = transcriber(small, rows=2)
    sink = Kept()
    cancel(made, noise, lambda: len(sink.found) > 0, sink)
    assert not reading()
    assert 0 < len(sink.found) < len(alone)
    assert same_text(sink.found, alone[: len(sink.found)])
    assert same_text(heard(made, noise)[0], alone)


def test_a_job_is_cancelled_between_two_tokens(small: Loaded, noise: Path) -> None:
    counting = Cramped(small.model)
    sink = Kept()
    cancel(transcriber(small, model=counting, rows=8), noise, lambda: counting.calls > 5, sink)
    assert counting.calls < 10
    assert sink.found == []


def test_a_job_is_cancelled_while_it_waits_for_the_recording(small: Loaded, noise: Path) -> None:
    asked = itertools.count()
    with held(noise, 2 * 10 * RATE) as hold:
        cancel(transcriber(small), hold.url, lambda: next(asked) > 3, Kept())
        assert not hold.lapsed
    for thread in reading():
        thread.join(PATIENCE_S)
    assert not reading()


def test_a_recording_that_is_cut_short_midway_keeps_what_was_said(
    small: Loaded, tmp_path: Path
) -> None:
    path = write(tmp_path / "long.wav", np.tile(bursts(30), 12)[None])
    sink = Kept(lambda: os.truncate(path, 1_000_000))
    with pytest.raises(KnownError) as caught:
        scripted(small, says(small.tokenizer, 0.0, " the")).transcribe(path_of(path), GREEDY, sink)
    assert caught.value.code is ErrorCode.FILE_VANISHED
    assert sink.found
    assert in_order(sink.found)


def test_text_goes_out_while_the_rest_is_awaited(small: Loaded, tmp_path: Path) -> None:
    """Words are timed several windows at once, but not at the price of holding text back."""
    path = write(tmp_path / "two.wav", bursts(34)[None])
    with held(path, 2 * 31 * RATE) as hold:  # the first block and a little more
        sink = Kept(hold.release.set)
        options = Options(language="en", fallback=False, words=True)
        made = Transcriber(
            small.model, small.tokenizer, Loud(), rows=5, settings=WindowSettings(max_window_s=12)
        )
        made.transcribe(path_of(hold.url), options, sink)
        assert not hold.lapsed
    assert len(sink.found) > 1


# ── a script for a model ─────────────────────────────────────────────────────────────────────


def scripted(small: Loaded, script: Script, *, rows: int = 3) -> Transcriber:
    model = Scripted(small.tokenizer.vocab_size, [script])
    return transcriber(small, model=model, rows=rows)


def test_sampled_text_does_not_depend_on_how_many_windows_are_side_by_side(
    small: Loaded, noise: Path
) -> None:
    begin, eot = small.tokenizer.timestamp_begin, small.tokenizer.eot
    words = [token for token in range(100, 300) if token not in small.tokenizer.suppress]

    def unsure(text: tuple[int, ...]) -> Mapping[int, float]:
        """Ten words, any of many, up to 2 s; the rest of the window is another text."""
        said = len(text) - 3
        if said == 0:
            return {begin: 0.0}
        if said > 10:
            return {begin + 100: 0.0} if said < 13 else {eot: 0.0}
        return dict.fromkeys(words, 0.0)

    options = Options(language="en")
    one, summary = heard(scripted(small, unsure, rows=1), noise, options)
    assert summary.fallbacks > 3
    many, _ = heard(scripted(small, unsure, rows=16), noise, options)
    assert same_text(many, one)
    assert len({segment.text for segment in one}) > len(one) // 2


def test_no_more_windows_are_encoded_at_once_than_planned(small: Loaded, noise: Path) -> None:
    made = scripted(small, says(small.tokenizer, 0.0, " the house", 1.0, 1.0), rows=16)
    heard(made, noise)
    assert isinstance(made.model, Scripted)
    assert made.model.most_encoded == ENCODE_WINDOWS


def test_no_second_of_this_thread_counts_for_two_stages(small: Loaded) -> None:
    model = Scripted(small.tokenizer.vocab_size, [says(small.tokenizer, 0.0, " the house", 4.0)])
    made = transcriber(small, model=model, detector=SpeechDetector.load("cpu"))
    _, summary = heard(made, SAMPLE)
    seconds = summary.stages.seconds
    assert sum(seconds[name] for name in ("vad", "mel", "encode", "generate")) <= summary.wall_s


@pytest.fixture
def ten_seconds(tmp_path: Path) -> Path:
    """Loud from 1 s to 11 s."""
    samples = np.zeros(12 * RATE, np.int16)
    samples[RATE : 11 * RATE] = bursts(1)[0] + 2000
    return write(tmp_path / "loud.wav", samples[None])


def test_what_a_window_leaves_unsaid_is_decoded_by_itself(small: Loaded, ten_seconds: Path) -> None:
    script = says(small.tokenizer, 0.0, " the house", 1.0, 1.0)
    found, summary = heard(scripted(small, script), ten_seconds)
    assert all(segment.text == "the house" for segment in found)
    assert in_order(found)
    assert summary.windows < len(found)
    assert summary.coverage > 0.8  # less than a second at the end of a window is let go
    assert summary.gaps == ()


def test_a_window_in_which_nothing_is_said_is_a_gap(small: Loaded, ten_seconds: Path) -> None:
    found, summary = heard(scripted(small, says(small.tokenizer, 0.0)), ten_seconds)
    assert found == []
    assert summary.covered_ms == 0
    assert summary.coverage == 0.0
    assert sum(gap.end_ms - gap.start_ms for gap in summary.gaps) == summary.speech_ms
    assert summary.gaps == tuple(sorted(summary.gaps, key=lambda gap: gap.start_ms))


def test_silence_of_the_models_own_hearing_is_no_text(small: Loaded, ten_seconds: Path) -> None:
    tokenizer = small.tokenizer

    def script(text: tuple[int, ...]) -> Mapping[int, float]:
        if text[-1] == tokenizer.sot:
            return {tokenizer.no_speech: 20.0}
        if len(text) == 3:
            return dict.fromkeys(range(tokenizer.timestamp_begin, tokenizer.timestamp_begin + 9), 0)
        return dict.fromkeys(range(100, 200), 0.0) if len(text) < 15 else {tokenizer.eot: 0.0}

    found, summary = heard(scripted(small, script), ten_seconds)
    assert found == []
    assert summary.gaps
    assert summary.fallbacks == 0


@pytest.mark.parametrize("windows", ["vad", "off"])
def test_coverage_is_of_the_speech_that_was_found(
    small: Loaded, tmp_path: Path, windows: str
) -> None:
    samples = np.zeros(24 * RATE, np.int16)
    samples[:RATE] = samples[8 * RATE : 9 * RATE] = 2000
    path = write(tmp_path / "two.wav", samples[None])
    options = Options(language="en", fallback=False, windows=windows)  # type: ignore[arg-type]
    found, summary = heard(scripted(small, says(small.tokenizer, 0.0, " the", 0.5)), path, options)
    assert found
    assert summary.covered_ms <= summary.speech_ms
    assert summary.covered_ms <= sum(s.end_ms - s.start_ms for s in found)


def test_gaps_of_several_channels_are_in_time_order(small: Loaded, tmp_path: Path) -> None:
    samples = np.zeros((2, 12 * RATE), np.int16)
    samples[0, 6 * RATE : 9 * RATE] = samples[1, 1 * RATE : 3 * RATE] = 2000
    path = write(tmp_path / "two.wav", samples)
    options = Options(language="en", fallback=False, channels="split")
    _, summary = heard(scripted(small, says(small.tokenizer, 0.0)), path, options)
    assert [(round(gap.start_ms / 1000), gap.channel) for gap in summary.gaps] == [(1, 1), (6, 0)]


def test_few_windows_are_held_however_long_the_recording_is(small: Loaded, tmp_path: Path) -> None:
    path = write(tmp_path / "long.wav", np.tile(bursts(60), 6)[None])
    told = itertools.count()
    held_at_once: list[int] = []

    def windows() -> int:
        return sum(type(thing) is Window for thing in gc.get_objects())

    def count() -> None:
        if next(told) % 8 == 0:  # counting takes a while
            held_at_once.append(windows() - others)

    gc.collect()
    others = windows()  # of tests before

    script = says(small.tokenizer, 0.0, " the house", 4.0, 4.0)
    made = scripted(small, script)
    summary = made.transcribe(path_of(path), GREEDY, Kept(count))
    assert summary.windows > 60
    in_a_block = 30 // 2
    assert max(held_at_once) <= in_a_block + made.rows + ENCODE_WINDOWS + 2
