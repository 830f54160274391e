"""The choice of a dtype: what the device can, what it does fastest, and that this is remembered."""

import json
from pathlib import Path

import pytest
import torch

from remote import dtype_choice
from remote.dtype_choice import cpu_dtypes, fastest_dtype, probe_size, window_seconds
from remote.layout import WhisperShape
from remote.linear import int8_works

TINY = WhisperShape(80, 1500, 384, 6, 4, 1536, 448, 6, 4, 1536, 51864)
TURBO = WhisperShape(128, 1500, 1280, 20, 32, 5120, 448, 20, 4, 5120, 51866)


def test_a_gpu_computes_in_float16() -> None:
    assert fastest_dtype(TINY, "cuda:0") == "float16"


def test_the_cpu_is_measured_once_and_the_choice_remembered(tmp_path: Path) -> None:
    chosen = fastest_dtype(TINY, "cpu", cache=tmp_path)
    assert chosen in cpu_dtypes()
    path = tmp_path / "fastest_dtype.json"
    (key,) = json.loads(path.read_text())
    other = "float32" if chosen != "float32" else cpu_dtypes()[-1]
    path.write_text(json.dumps({key: other}))
    assert fastest_dtype(TINY, "cpu", cache=tmp_path) == other


@pytest.mark.parametrize("content", ["", "[]", '{"another processor": "int8"}', "\0"])
def test_a_damaged_or_foreign_memory_is_measured_anew(content: str, tmp_path: Path) -> None:
    (tmp_path / "fastest_dtype.json").write_text(content)
    assert fastest_dtype(TINY, "cpu", cache=tmp_path) in cpu_dtypes()


def test_a_dtype_that_no_longer_works_is_not_taken_from_memory(tmp_path: Path) -> None:
    fastest_dtype(TINY, "cpu", cache=tmp_path)
    path = tmp_path / "fastest_dtype.json"
    (key,) = json.loads(path.read_text())
    path.write_text(json.dumps({key: "float8"}))
    assert fastest_dtype(TINY, "cpu", cache=tmp_path) in cpu_dtypes()


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fastest_dtype(TINY, "cpu", cache=tmp_path / "file") in cpu_dtypes()


def test_the_number_of_threads_is_as_it_was(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    fastest_dtype(TINY, "cpu", cache=tmp_path)
    assert torch.get_num_threads() == before


def test_float32_is_always_a_choice_and_int8_where_it_works() -> None:
    assert cpu_dtypes()[0] == "float32"
    assert ("int8" in cpu_dtypes()) == int8_works()


def test_large_models_are_measured_on_products_of_bounded_size() -> None:
    assert probe_size(TURBO) == (768, 3072)
    assert probe_size(TINY) == (384, 1536)


def test_a_larger_model_is_expected_to_take_longer() -> None:
    width, ffn = probe_size(TINY)
    assert window_seconds(TURBO, "float32", width, ffn) > window_seconds(
        TINY, "float32", width, ffn
    )


def test_the_processor_is_named_with_its_instructions() -> None:
    assert torch.backends.cpu.get_cpu_capability() in dtype_choice.processor()
