"""The least program that prints the first text of a recording with another library.

``python -m tests.bench.first_text transformers|faster-whisper MODEL AUDIO``; a JSON line with the
text, and the seconds that loading and transcribing took. Only what it needs is imported.
"""

import json
import sys
import time


def main(library: str, model: str, audio: str) -> None:
    """Prints the line as soon as there is text."""
    run = _transformers if library == "transformers" else _faster_whisper
    text, load_s, text_s = run(model, audio)
    print(json.dumps({"text": text, "load_s": load_s, "text_s": text_s}), flush=True)


def _transformers(model: str, audio: str) -> tuple[str, float, float]:
    import av
    import numpy as np
    from transformers import (
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    begin = time.perf_counter()
    whisper = WhisperForConditionalGeneration.from_pretrained(model, dtype="float32")
    extractor = WhisperFeatureExtractor.from_pretrained(model)
    tokenizer = WhisperTokenizer.from_pretrained(model)
    loaded = time.perf_counter()
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
    with av.open(audio) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    features = extractor(samples, sampling_rate=16_000, return_tensors="pt").input_features
    ids = whisper.generate(features, num_beams=1, do_sample=False)
    text = tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    return str(text), loaded - begin, time.perf_counter() - loaded


def _faster_whisper(model: str, audio: str) -> tuple[str, float, float]:
    from faster_whisper import WhisperModel

    begin = time.perf_counter()
    whisper = WhisperModel(model, device="cpu", compute_type="int8")
    loaded = time.perf_counter()
    segments, _ = whisper.transcribe(audio, beam_size=1)
    text = next(iter(segments)).text
    return str(text), loaded - begin, time.perf_counter() - loaded


if __name__ == "__main__":
    main(*sys.argv[1:4])
