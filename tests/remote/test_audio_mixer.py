"""Any coding and any number of channels become 16 kHz rows; silence is silent in all of them."""

import numpy as np
import pytest
from av.audio.frame import AudioFrame

from remote.audio_mixer import SAMPLE_RATE, Mixer, silence_like

RATE = 44_100
CODINGS = ["u8", "u8p", "s16", "s16p", "s32p", "flt", "fltp", "dblp"]
LAYOUTS = [("mono", 1), ("stereo", 2), ("7.1", 8), ("12 channels", 12), ("40 channels", 40)]


def frame(coding: str, layout: str) -> AudioFrame:
    made = AudioFrame(format=coding, layout=layout, samples=10)
    made.sample_rate = RATE
    return made


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("layout", "channels"), LAYOUTS)
def test_silence_is_silent_and_of_the_same_kind(coding: str, layout: str, channels: int) -> None:
    like = frame(coding, layout)
    silence = silence_like(like, RATE)
    assert (silence.samples, silence.sample_rate) == (RATE, RATE)
    mixer = Mixer(like, SAMPLE_RATE, split=True)
    assert mixer.takes(silence)
    mixer.push(silence)
    heard = np.concatenate(list(mixer.finish()), axis=1)
    assert heard.shape == (channels, SAMPLE_RATE)
    assert not heard.any()


@pytest.mark.parametrize(("layout", "channels"), LAYOUTS)
def test_channels_keep_their_order(layout: str, channels: int) -> None:
    levels = np.arange(channels, dtype=np.int16) * 100
    sound = np.repeat(levels[None], SAMPLE_RATE, axis=0).reshape(1, -1)
    made = AudioFrame.from_ndarray(sound, format="s16", layout=layout)
    made.sample_rate = SAMPLE_RATE
    mixer = Mixer(made, SAMPLE_RATE, split=True)
    mixer.push(made)
    (rows,) = mixer.finish()
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, np.repeat(levels[:, None], SAMPLE_RATE, axis=1))
