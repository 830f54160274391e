"""Subtitles: what must hold for any text and any times."""

from itertools import groupby, pairwise, zip_longest

from hypothesis import example, given
from hypothesis import strategies as st

from app.domain.settings import SubtitleRules
from app.domain.subtitles import Cue, columns, cues
from remote.protocol import Segment, Word

RULES = SubtitleRules()
SENTENCE = (
    "And so, my fellow Americans: ask not what your country can do for you,"
    " ask what you can do for your country."
)

# Words of several scripts, long ones, punctuation, white space, marks, and whatever else.
letters = st.text(
    st.sampled_from("aZé,.?!-\"'() \n日本。、「」한국ประเทศहिन्दी\u0301"), max_size=120
)
texts = st.one_of(letters, st.text(max_size=60))
rules = st.builds(
    SubtitleRules,
    max_chars=st.integers(16, 60),
    max_lines=st.integers(1, 3),
    min_ms=st.integers(0, 2000),
    max_ms=st.integers(500, 10_000),
    max_cps=st.integers(5, 100),
)


@st.composite
def segments(draw) -> Segment:
    text = draw(texts)
    start = draw(st.integers(0, 20_000))
    length = draw(st.integers(0, 15_000))
    words = []
    if draw(st.booleans()):
        place = start
        for word in text.split():
            end = place + draw(st.integers(0, 700))
            words.append(Word(place, end, f" {word}"))
            place = end + draw(st.integers(-50, 500))
    channel = draw(st.sampled_from([None, 0, 1]))
    return Segment(start, start + length, text, tuple(words), channel)


def width(cue: Cue) -> int:
    return sum(map(columns, cue.lines))


def bare(text: str) -> str:
    return "".join(text.split())


@given(st.lists(segments(), max_size=6), rules)
def test_cues_of_a_channel_never_overlap_and_their_times_grow(found, rules):
    made = cues(found, rules)
    assert [cue.start_ms for cue in made] == sorted(cue.start_ms for cue in made)
    for channel in (None, 0, 1):
        mine = [cue for cue in made if cue.channel == channel]
        assert all(cue.end_ms >= cue.start_ms + 40 for cue in mine)
        assert all(a.end_ms <= b.start_ms for a, b in pairwise(mine))


@given(st.lists(segments(), max_size=6), rules)
def test_a_cue_stands_long_enough_to_be_read_unless_the_next_one_begins(found, rules):
    made = cues(found, rules)
    for channel in (None, 0, 1):
        mine = [cue for cue in made if cue.channel == channel]
        for cue, later in zip_longest(mine, mine[1:]):
            shown_ms = cue.end_ms - cue.start_ms
            enough = shown_ms * rules.max_cps >= width(cue) * 1000 and shown_ms >= rules.min_ms
            assert enough or (later and cue.end_ms == later.start_ms)


@st.composite
def spoken(draw) -> list[Segment]:
    """Segments with word times that are never faster than 100 characters per second."""
    found, place = [], 0
    for _ in range(draw(st.integers(1, 4))):
        words = []
        for word in draw(st.lists(st.text("ab", min_size=1, max_size=15), min_size=1, max_size=20)):
            begin = place + draw(st.sampled_from([0, 0, 0, 100, 500, 2000]))
            place = begin + 10 * (len(word) + 1) + draw(st.sampled_from([0, 100, 400]))
            mark = draw(st.sampled_from(["", "", "", ",", "."]))
            words.append(Word(begin, place, f" {word}{mark}"))
            place += 40
        text = "".join(word.text for word in words).strip()
        found.append(Segment(words[0].start_ms, place, text, tuple(words)))
    return found


def unread_ms(made: tuple[Cue, ...], max_cps: int) -> float:
    """Time that lacks to read each cue before the next begins, in all."""
    return sum(
        max(0.0, width(cue) * 1000 / max_cps - (later.start_ms - cue.start_ms))
        for cue, later in pairwise(made)
    )


@given(spoken(), st.integers(10, 25))
def test_cuts_that_mind_the_reading_speed_never_leave_less_time_to_read(found, max_cps):
    one_line = SubtitleRules(max_lines=1, max_cps=max_cps)
    heedless = SubtitleRules(max_lines=1, max_cps=100)
    minded = unread_ms(cues(found, one_line), max_cps)
    assert minded <= unread_ms(cues(found, heedless), max_cps) + 1e-6


@given(st.lists(segments(), max_size=4), rules)
def test_no_line_is_too_wide_none_is_empty_and_there_are_not_too_many(found, rules):
    for cue in cues(found, rules):
        assert 1 <= len(cue.lines) <= rules.max_lines
        assert all(line.strip() for line in cue.lines)
        assert all(columns(line) <= rules.max_chars for line in cue.lines)


@given(segments(), rules)
@example(Segment(0, 100, "x" * 200), SubtitleRules(16, 1))
def test_no_text_is_lost_doubled_or_changed(segment, rules):
    label = "" if segment.channel is None else f"[{segment.channel + 1}] "
    said = "".join(
        line.removeprefix(label if place == 0 else "")
        for cue in cues([segment], rules)
        for place, line in enumerate(cue.lines)
    )
    assert bare(said) == bare(segment.text)


@given(segments(), rules)
def test_a_break_between_words_stands_for_one_space(segment, rules):
    if segment.channel is None and all(len(word) <= 16 for word in segment.text.split()):
        lines = [line for cue in cues([segment], rules) for line in cue.lines]
        if segment.text.isascii():
            assert " ".join(lines) == " ".join(segment.text.split())


def lines(*found: Segment, rules: SubtitleRules = RULES) -> list[tuple[str, ...]]:
    return [cue.lines for cue in cues(found, rules)]


def test_a_long_sentence_is_cut_where_its_clauses_end():
    assert lines(Segment(0, 9000, SENTENCE)) == [
        ("And so, my fellow Americans:", "ask not what your country can do for you,"),
        ("ask what you can do for your country.",),
    ]


def test_a_sentence_that_fits_is_one_line():
    assert lines(Segment(0, 900, "Ask not.")) == [("Ask not.",)]


def test_the_cut_follows_the_end_of_a_sentence_rather_than_the_width():
    text = "That is all I know. And now we come to something that is a good deal longer than that."
    assert lines(Segment(0, 9000, text))[0] == ("That is all I know.",)


def test_japanese_is_cut_between_characters_but_not_before_punctuation():
    text = "今日は天気がいいですね。散歩に行きましょうか、それとも家で本を読みましょうか。"
    made = [line for cue in lines(Segment(0, 9000, text)) for line in cue]
    assert "".join(made) == text
    assert all(line[0] not in "。、" for line in made)


def test_a_word_that_is_wider_than_a_line_is_cut():
    assert lines(Segment(0, 900, "a" * 20), rules=SubtitleRules(16, 2)) == [("a" * 16, "a" * 4)]


def timed(text: str, *starts: int) -> Segment:
    words = text.split()
    spoken = tuple(Word(s, s + 200, f" {w}") for s, w in zip(starts, words, strict=True))
    return Segment(starts[0], starts[-1] + 200, text, spoken)


def test_word_times_say_when_a_cue_begins_and_ends():
    text = "One two three. " + "Four five six seven eight nine ten eleven twelve thirteen fourteen."
    words = text.split()
    starts = [i * 300 if i < 3 else 5000 + i * 300 for i in range(len(words))]
    first, second = cues([timed(text, *starts)], SubtitleRules(40, 2, max_cps=30))
    assert first == Cue(0, 833, ("One two three.",))
    assert second.start_ms == starts[3]
    assert second.end_ms == starts[-1] + 200


def test_a_pause_separates_like_a_comma():
    text = "we went home early that day nobody said a word about it until the evening came"
    words = text.split()
    starts = [i * 250 + (2000 if i >= 6 else 0) for i in range(len(words))]
    made = cues([timed(text, *starts)], RULES)
    assert made[0].lines == ("we went home early that day",)


def test_words_of_another_text_are_not_trusted():
    segment = Segment(0, 1000, "one two", (Word(500, 600, "three"),))
    assert cues([segment], RULES) == (Cue(0, 1000, ("one two",)),)


def test_a_short_cue_stands_long_enough_to_be_read_where_there_is_room():
    made = cues(
        [Segment(0, 100, "Yes."), Segment(400, 500, "No."), Segment(9000, 9100, "So.")], RULES
    )
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [(0, 400), (400, 1233), (9000, 9833)]


def test_a_cue_is_shown_into_the_silence_after_it_until_it_is_read():
    fast = timed("ask not what your country can do for you", *range(0, 900, 100))
    (alone,) = cues([fast], RULES)
    assert alone == Cue(0, 2000, ("ask not what your country can do for you",))
    (slower,) = cues([fast], SubtitleRules(max_cps=10))
    assert slower.end_ms == 4000
    first, second = cues([fast, Segment(1500, 4000, "ask what you can do")], RULES)
    assert (first.end_ms, second.start_ms) == (1500, 1500)


def test_words_said_fast_share_a_cue_with_slow_ones_rather_than_stand_alone():
    text = " ".join(["aaaaaa"] * 16)
    starts = [*range(0, 1600, 200), *range(1600, 1600 + 8 * 800, 800)]
    made = cues([timed(text, *starts)], RULES)
    assert unread_ms(made, RULES.max_cps) == 0
    heedless = cues([timed(text, *starts)], SubtitleRules(max_cps=100))
    assert unread_ms(heedless, RULES.max_cps) > 500


def test_the_label_of_a_channel_is_read_as_well():
    (made,) = cues([Segment(0, 100, "a" * 36, channel=0)], RULES)
    assert made.end_ms == 2000


def test_cues_that_would_stand_too_long_are_cut():
    text = "one two three four five six seven eight"
    made = cues([timed(text, *range(0, 16_000, 2000))], RULES)
    assert len(made) > 1
    assert all(cue.end_ms - cue.start_ms <= RULES.max_ms for cue in made)


def test_channels_are_named_and_do_not_cut_each_other_off():
    made = cues(
        [Segment(0, 5000, "Hello?", channel=0), Segment(1000, 2000, "Yes.", channel=1)], RULES
    )
    assert [cue.lines for cue in made] == [("[1] Hello?",), ("[2] Yes.",)]
    assert made[0].end_ms == 5000


def test_nothing_said_gives_no_cue():
    assert cues([Segment(0, 1000, " \n")], RULES) == ()
    assert [key for key, _ in groupby(cues([], RULES))] == []
