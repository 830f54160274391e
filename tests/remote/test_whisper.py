"""The lean Whisper: the numbers of transformers' own, rows that do not know each other, slots."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from remote.layout import ALIGN, WhisperShape, buffer_size, layout, pack
from remote.linear import int8_works
from remote.protocol import ErrorCode, KnownError
from remote.whisper import Slots, Whisper, cross_attention
from tests.remote.conftest import Loaded

FRAMES = 100
"""Of mel in these tests, for 50 positions of audio: the length is a size like any other."""

needs_int8 = pytest.mark.skipif(not int8_works(), reason="torch has no int8 products here")

KINDS = {
    "tiny-like": {},
    "128 mels": {"num_mel_bins": 128},
    "turbo-like": {"num_mel_bins": 128, "encoder_layers": 6, "decoder_layers": 1},
    "distil-like": {"encoder_layers": 4, "decoder_layers": 2},
    "deep decoder": {"encoder_layers": 1, "decoder_layers": 5},
    "unequal heads": {"encoder_attention_heads": 2, "decoder_attention_heads": 8},
    "unequal widths inside": {"encoder_ffn_dim": 96, "decoder_ffn_dim": 40},
}


@dataclass(frozen=True, slots=True)
class Pair:
    """The same weights twice: transformers' model and ours."""

    theirs: WhisperForConditionalGeneration
    ours: Whisper

    @property
    def shape(self) -> WhisperShape:
        return self.ours.shape

    def mel(self, rows: int = 2, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((rows, self.shape.n_mels, 2 * self.shape.audio_ctx), generator=generator)

    def tokens(self, rows: int = 2, length: int = 6, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.shape.vocab, (rows, length), generator=generator)


def config(**changes: int) -> WhisperConfig:
    sizes = {
        "num_mel_bins": 80,
        "max_source_positions": FRAMES // 2,
        "d_model": 32,
        "encoder_attention_heads": 4,
        "encoder_layers": 2,
        "encoder_ffn_dim": 64,
        "max_target_positions": 40,
        "decoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_ffn_dim": 64,
        "vocab_size": 203,
    }
    ids = dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0
    )
    return WhisperConfig(**{**sizes, **changes}, **ids)


def random_pair(**changes: int) -> Pair:
    """Weights scaled by fan-in, so that logits are as far apart as those of a trained model."""
    theirs = WhisperForConditionalGeneration(config(**changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            fan_in = weight[0].numel() if weight.dim() > 1 else 100
            noise = torch.randn(weight.shape, generator=generator) / fan_in**0.5
            weight.copy_(1 + noise if "norm.weight" in name else noise)
        theirs.model.decoder.embed_tokens.weight.mul_(3)
    return Pair(theirs, ours_of(theirs))


def ours_of(theirs: WhisperForConditionalGeneration, *, int8: bool = False) -> Whisper:
    shape = WhisperShape.from_config(theirs.config.to_dict())
    buffer = torch.empty(buffer_size(shape))
    pack(shape, theirs.state_dict(), buffer)
    return Whisper(shape, buffer, int8=int8)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return random_pair(**KINDS[request.param])


@pytest.fixture(scope="module")
def tiny() -> Pair:
    return random_pair()


def decoded(model: Whisper, audio: Tensor, tokens: Tensor, start: int = 0) -> Tensor:
    """Logits of all tokens in one pass."""
    n, t = tokens.shape
    slots = Slots(model, n, start + t)
    slots.fill(slice(0, n), model.cross(audio))
    return model.logits(model.decode(tokens, span(start, t, n), slots, slice(0, n), start + t))


def span(start: int, length: int, rows: int) -> Tensor:
    return torch.arange(start, start + length)[None].expand(rows, -1)


def close(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# ── the same numbers as transformers ─────────────────────────────────────────────────────────


def test_the_encoder_gives_what_transformers_gives(pair: Pair) -> None:
    mel = pair.mel()
    close(pair.ours.encode(mel), pair.theirs.model.encoder(mel).last_hidden_state)


def test_logits_are_those_of_transformers(pair: Pair) -> None:
    mel, tokens = pair.mel(), pair.tokens()
    expected = pair.theirs(input_features=mel, decoder_input_ids=tokens).logits
    assert expected.std() > 0.5, "logits all alike would prove nothing"
    close(decoded(pair.ours, pair.ours.encode(mel), tokens), expected)


def test_logits_of_token_after_token_are_those_of_one_pass(pair: Pair) -> None:
    audio, tokens = pair.ours.encode(pair.mel()), pair.tokens(length=7)
    together = decoded(pair.ours, audio, tokens)
    slots = Slots(pair.ours, 2, 40)
    rows = slice(0, 2)
    slots.fill(rows, pair.ours.cross(audio))
    prompt = pair.ours.decode(tokens[:, :3], span(0, 3, 2), slots, rows, 3)
    steps = [pair.ours.logits(prompt)]
    for at in range(3, 7):
        step = pair.ours.decode(tokens[:, at : at + 1], span(at, 1, 2), slots, rows, at + 1)
        steps.append(pair.ours.logits(step))
    close(torch.cat(steps, 1), together, atol=1e-5)


def test_the_real_tiny_en_gives_the_numbers_of_transformers(tiny_en: Loaded) -> None:
    theirs = WhisperForConditionalGeneration.from_pretrained(tiny_en.folder, dtype=torch.float32)
    real = Pair(theirs.eval(), tiny_en.model)
    mel, tokens = real.mel(1) / 2, torch.tensor([[50257, 50362, 383, 2068, 7586]])
    audio = theirs.model.encoder(mel).last_hidden_state
    close(real.ours.encode(mel), audio, atol=2e-3)  # its activations reach the hundreds
    expected = theirs(encoder_outputs=(audio,), decoder_input_ids=tokens).logits
    close(decoded(real.ours, audio, tokens), expected, atol=2e-3)


@needs_int8
def test_int8_is_close_to_float32(tiny: Pair) -> None:
    quantised = ours_of(tiny.theirs, int8=True)
    assert quantised.dtype_name == "int8"
    mel, tokens = tiny.mel(), tiny.tokens()
    audio, expected_audio = quantised.encode(mel), tiny.ours.encode(mel)
    assert (audio - expected_audio).norm() < 0.05 * expected_audio.norm()
    found, expected = (decoded(m, expected_audio, tokens) for m in (quantised, tiny.ours))
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_are_close_to_float32(dtype: torch.dtype, tiny: Pair) -> None:
    narrow = Whisper(tiny.shape, tiny.ours.buffer.to(dtype))
    mel, tokens = tiny.mel(), tiny.tokens()
    audio = narrow.encode(mel.to(dtype))
    assert audio.dtype == dtype
    found = decoded(narrow, audio, tokens)
    expected = decoded(tiny.ours, tiny.ours.encode(mel), tokens)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm()


# ── rows and slots ───────────────────────────────────────────────────────────────────────────


def test_a_row_does_not_depend_on_the_rows_beside_it(tiny: Pair) -> None:
    audio, tokens = tiny.ours.encode(tiny.mel(4)), tiny.tokens(4)
    together = decoded(tiny.ours, audio, tokens)
    for row in range(4):
        alone = decoded(tiny.ours, audio[row : row + 1], tokens[row : row + 1])
        close(together[row : row + 1], alone, atol=1e-5)


@needs_int8
def test_in_int8_a_row_does_not_depend_on_the_rows_beside_it_either(tiny: Pair) -> None:
    model = ours_of(tiny.theirs, int8=True)
    audio, tokens = tiny.ours.encode(tiny.mel(4)), tiny.tokens(4)
    together = decoded(model, audio, tokens)
    alone = decoded(model, audio[2:3], tokens[2:3])
    # Cross-attention is summed in another order, which may tip a rounding to 8 bits.
    assert (together[2:3] - alone).norm() < 0.01 * alone.norm()


def test_rows_at_different_places_of_their_texts_decode_in_one_step(tiny: Pair) -> None:
    model, audio, tokens = tiny.ours, tiny.ours.encode(tiny.mel(2)), tiny.tokens(2, 6)
    first = decoded(model, audio[:1], tokens[:1, :3])[0, -1]
    second = decoded(model, audio[1:], tokens[1:])[0, -1]
    slots = Slots(model, 2, 10)
    slots.fill(slice(0, 2), model.cross(audio))
    model.decode(tokens[:1, :2], span(0, 2, 1), slots, slice(0, 1), 2)
    model.decode(tokens[1:, :5], span(0, 5, 1), slots, slice(1, 2), 5)
    step = torch.stack([tokens[0, 2:3], tokens[1, 5:6]])
    hidden = model.decode(step, torch.tensor([[2], [5]]), slots, slice(0, 2), 6)
    close(model.logits(hidden)[:, 0], torch.stack([first, second]), atol=1e-5)


def test_a_row_that_moved_goes_on_as_before(tiny: Pair) -> None:
    model, audio, tokens = tiny.ours, tiny.ours.encode(tiny.mel(3)), tiny.tokens(3, 5)
    expected = decoded(model, audio[2:], tokens[2:])[0, -1]
    slots = Slots(model, 3, 8)
    slots.fill(slice(0, 3), model.cross(audio))
    model.decode(tokens[:, :4], span(0, 4, 3), slots, slice(0, 3), 4)
    slots.move(2, 0)
    hidden = model.decode(tokens[2:, 4:], span(4, 1, 1), slots, slice(0, 1), 5)
    close(model.logits(hidden)[0, -1], expected, atol=1e-5)


def test_a_row_moved_onto_itself_stays(tiny: Pair) -> None:
    slots = Slots(tiny.ours, 2, 8)
    slots.fill(slice(0, 2), tiny.ours.cross(tiny.ours.encode(tiny.mel(2))))
    before = slots.cross_kv.clone()
    slots.move(1, 1)
    assert torch.equal(slots.cross_kv, before)


def test_what_a_slot_held_before_does_not_matter(tiny: Pair) -> None:
    model, audio, tokens = tiny.ours, tiny.ours.encode(tiny.mel(2)), tiny.tokens(2, 4)
    expected = decoded(model, audio[1:], tokens[1:])
    slots = Slots(model, 1, 30)
    rows = slice(0, 1)
    slots.fill(rows, model.cross(audio[:1]))
    model.decode(tiny.tokens(1, 25), span(0, 25, 1), slots, rows, 25)
    slots.fill(rows, model.cross(audio[1:]))
    hidden = model.decode(tokens[1:], span(0, 4, 1), slots, rows, 4)
    close(model.logits(hidden), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_attention_is_torchs_own_for_keys_of_any_width(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn((3, 4, 2, 8), generator=generator)
    keys_values = torch.randn((2, 3, 4, 50, 8), generator=generator).to(dtype)
    keys, values = keys_values.float()
    expected = torch.nn.functional.scaled_dot_product_attention(query, keys, values)
    found = cross_attention(query, keys_values)
    assert found.dtype == query.dtype
    close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.03)


# ── the buffer ───────────────────────────────────────────────────────────────────────────────


def test_slots_are_aligned_and_do_not_overlap(pair: Pair) -> None:
    end = 0
    for slot in layout(pair.shape):
        assert slot.offset % ALIGN == 0
        assert 0 <= slot.offset - end < ALIGN
        end = slot.offset + slot.size
    assert end <= buffer_size(pair.shape) < end + ALIGN


def test_every_weight_of_transformers_has_its_place_once(pair: Pair) -> None:
    sources = [name for slot in layout(pair.shape) for name in slot.sources if name[:2] != "0:"]
    names = {name for name, _ in pair.theirs.named_parameters()}  # the tied projection once
    assert sorted(sources) == sorted(names)
    zeros = sum(slot.size // 3 for slot in layout(pair.shape) if slot.name.endswith("qkv.bias"))
    zeros += pair.shape.d_model * pair.shape.text_layers  # of the keys of cross-attention
    theirs = sum(weight.numel() for weight in pair.theirs.parameters())
    assert pair.shape.parameters == theirs + zeros


def test_weights_are_views_into_the_buffer() -> None:
    model = random_pair().ours
    mel = torch.zeros(1, model.shape.n_mels, FRAMES)
    before = model.encode(mel)
    model.buffer.mul_(0.5)
    assert not torch.equal(model.encode(mel), before)


def test_a_missing_tensor_is_told_by_its_name(tiny: Pair) -> None:
    tensors = dict(tiny.theirs.state_dict())
    del tensors["model.decoder.layers.1.fc2.bias"]
    with pytest.raises(KnownError) as caught:
        pack(tiny.shape, tensors, torch.empty(buffer_size(tiny.shape)))
    assert caught.value.code == ErrorCode.MODEL_INCOMPLETE
    assert "model.decoder.layers.1.fc2.bias is missing" in caught.value.message


def test_a_tensor_of_another_shape_is_told_with_both(tiny: Pair) -> None:
    name = "model.encoder.layers.0.self_attn.k_proj.weight"
    tensors = {**tiny.theirs.state_dict(), name: torch.zeros(32, 31)}
    with pytest.raises(KnownError) as caught:
        pack(tiny.shape, tensors, torch.empty(buffer_size(tiny.shape)))
    assert caught.value.code == ErrorCode.MODEL_INCOMPLETE
    assert "(32, 31)" in caught.value.message
    assert "(32, 32)" in caught.value.message


def test_a_config_of_another_architecture_is_told_with_what_it_lacks() -> None:
    with pytest.raises(KnownError) as caught:
        WhisperShape.from_config({"model_type": "wav2vec2", "hidden_size": 768})
    assert caught.value.code == ErrorCode.MODEL_UNSUPPORTED
    assert "num_mel_bins" in caught.value.message
