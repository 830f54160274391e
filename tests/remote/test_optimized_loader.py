"""The three ways to load a model: they agree, and a failure falls to the next with its reason."""

import dataclasses
import json
import shutil
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from remote import gpu_state, model_folder, optimized_loader
from remote.gpu_memory_persist import preload_gpu_model, probe
from remote.linear import int8_works
from remote.optimized_loader import STRATEGIES, LoadReport, load_model
from remote.protocol import ErrorCode, KnownError
from remote.timing import StageClock
from tests.remote.model_factory import write_model

needs_int8 = pytest.mark.skipif(not int8_works(), reason="torch has no int8 products here")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its record and its float32 state. Tests change a copy of it."""
    folder = write_model(tmp_path_factory.mktemp("models") / "made")
    model_folder.write_record(folder, "hub", "someone/made", "abc123")
    preload_gpu_model(folder, device="cpu", dtype="float32")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


def state_of(folder: Path) -> Path:
    return gpu_state.state_path(folder, "float32")


def reason(folder: Path, expected: tuple[float, ...]) -> str:
    """Why the state was passed over; what was loaded instead answers as expected all the same."""
    model, report = load_model(folder)
    assert report.strategy == "memory-mapped"
    assert probe(model) == expected
    (attempt,) = report.attempts
    assert attempt.strategy == "gpu-state"
    assert attempt.reason.endswith(".")
    return attempt.reason


def rewrite(folder: Path, **changes: object) -> None:
    """The state of the folder, with other words in its manifest."""
    state = gpu_state.read_state(state_of(folder))
    manifest = dataclasses.replace(state.manifest, **changes)  # type: ignore[arg-type]
    gpu_state.write_state(state.path, manifest, state.buffer.clone())


def refused(call: Callable[[], object]) -> KnownError:
    with pytest.raises(KnownError) as caught:
        call()
    return caught.value


@pytest.fixture(scope="module")
def answer(made: Path) -> tuple[float, ...]:
    return probe(load_model(made, strategies=("memory-mapped",))[0])


# ── agreement ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "kind",
    [
        {"mels": 80, "multilingual": False},
        {"mels": 128, "languages": 100, "encoder_layers": 4, "decoder_layers": 1},
        {"encoder_layers": 1, "decoder_layers": 3, "dtype": "float16"},
    ],
    ids=["en", "turbo-like", "float16 weights"],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_strategies_give_the_same_logits(
    kind: dict[str, object], dtype: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", **kind)  # type: ignore[arg-type]
    preload_gpu_model(folder, device="cpu", dtype=dtype)
    answers = set()
    for strategy in STRATEGIES:
        model, report = load_model(folder, dtype=dtype, strategies=(strategy,))
        assert (report.strategy, report.attempts) == (strategy, ())
        assert model.dtype_name == dtype
        answers.add(probe(model))
    assert len(answers) == 1


@needs_int8
def test_int8_runs_from_the_float32_state_and_agrees_too(made: Path) -> None:
    loaded = [load_model(made, dtype="int8", strategies=(strategy,)) for strategy in STRATEGIES]
    assert {model.dtype_name for model, _ in loaded} == {"int8"}
    assert len({probe(model) for model, _ in loaded}) == 1


def test_the_report_tells_what_was_done_and_what_it_took(made: Path) -> None:
    reports = {name: load_model(made, strategies=(name,))[1] for name in STRATEGIES}
    state, mapped, standard = (reports[name] for name in STRATEGIES)
    assert state.mapped
    assert not mapped.mapped
    assert not standard.mapped
    assert state.bytes_read == state_of(made).stat().st_size
    assert mapped.bytes_read == (made / model_folder.WEIGHTS).stat().st_size
    assert set(state.stages.seconds) == {"read", "build"}
    assert set(standard.stages.seconds) == {"import", "read", "to-device", "build"}
    for report in reports.values():
        assert 0 < sum(report.stages.seconds.values()) <= report.wall_s
        assert report.peak_memory_bytes > report.device_memory_bytes == 0
        assert (report.device, report.dtype) == ("cpu", "float32")


def test_writing_to_a_mapped_model_does_not_reach_the_state(folder: Path) -> None:
    before = state_of(folder).read_bytes()
    model, _ = load_model(folder, strategies=("gpu-state",))
    model.buffer.zero_()
    assert state_of(folder).read_bytes() == before


# ── the state is passed over, and why ────────────────────────────────────────────────────────


def test_no_state_is_a_reason(folder: Path, answer: tuple[float, ...]) -> None:
    state_of(folder).unlink()
    assert reason(folder, answer) == "There is no gpu_state-float32.pt."


def test_a_state_of_other_weights_is_passed_over(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=1)
    model_folder.write_record(other, "hub", "someone/made", "abc123")
    expected = probe(load_model(other)[0])
    shutil.copy(state_of(folder), other)
    assert "was not made from the model.safetensors beside it" in reason(other, expected)


def test_weights_that_were_exchanged_under_an_old_record_are_noticed(
    folder: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", seed=1)
    expected = probe(load_model(other)[0])
    shutil.copy(other / model_folder.WEIGHTS, folder)
    assert "was not made from" in reason(folder, expected)


def test_a_folder_without_a_record_has_states_too(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    preload_gpu_model(model, device="cpu", dtype="float32")
    assert load_model(model)[1].strategy == "gpu-state"


def test_a_state_of_another_revision_is_passed_over(
    folder: Path, answer: tuple[float, ...]
) -> None:
    rewrite(folder, revision="def456")
    assert "'def456'" in reason(folder, answer)


def test_a_state_of_another_size_is_passed_over(folder: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", decoder_layers=1)
    expected = probe(load_model(other)[0])
    shutil.copy(state_of(folder), other)
    assert "another size" in reason(other, expected)


def test_a_state_of_another_dtype_is_passed_over(folder: Path, answer: tuple[float, ...]) -> None:
    half = preload_gpu_model(folder, device="cpu", dtype="float16")
    half.replace(state_of(folder))
    assert "holds float16" in reason(folder, answer)


def test_a_state_of_another_torch_is_passed_over(folder: Path, answer: tuple[float, ...]) -> None:
    rewrite(folder, torch="1.0.0+cpu")
    assert "written by torch 1.0.0+cpu, this is" in reason(folder, answer)


def test_a_state_of_another_build_of_this_torch_is_used(folder: Path) -> None:
    rewrite(folder, torch=gpu_state.release(torch.__version__) + "+cu999")
    assert load_model(folder)[1].strategy == "gpu-state"


def test_a_state_made_on_another_device_is_used_and_told(
    folder: Path, answer: tuple[float, ...]
) -> None:
    rewrite(folder, device_type="cuda", device_name="NVIDIA L4", capability="8.9")
    model, report = load_model(folder)
    assert report.strategy == "gpu-state"
    assert probe(model) == answer
    assert report.notes == (
        "The GPU state was made on NVIDIA L4 (capability 8.9) and is used on cpu.",
    )


def test_a_state_of_another_layout_is_passed_over(folder: Path, answer: tuple[float, ...]) -> None:
    rewrite(folder, slots=())
    assert "another order" in reason(folder, answer)


def test_a_state_of_another_format_is_passed_over(folder: Path, answer: tuple[float, ...]) -> None:
    content = torch.load(state_of(folder), weights_only=True)
    torch.save({**content, "format": 2}, state_of(folder))
    assert "format 1" in reason(folder, answer)


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_state_is_passed_over(
    content: bytes, folder: Path, answer: tuple[float, ...]
) -> None:
    state_of(folder).write_bytes(content)
    assert "cut short or damaged" in reason(folder, answer)


def test_a_state_that_would_run_code_is_passed_over_and_runs_none(
    folder: Path, answer: tuple[float, ...], tmp_path: Path
) -> None:
    proof = tmp_path / "proof"

    class Call:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.mkdir, (proof,)

    buffer = torch.zeros(4)
    torch.save({"format": 1, "manifest": Call(), "buffer": buffer}, state_of(folder))
    with zipfile.ZipFile(state_of(folder)) as archive:
        assert b"mkdir" in archive.read(archive.namelist()[0])
    assert "cut short or damaged" in reason(folder, answer)
    assert not proof.exists()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_state_cut_short_anywhere_is_passed_over(
    share: float, made: Path, folder: Path, answer: tuple[float, ...]
) -> None:
    whole = state_of(made).read_bytes()
    state_of(folder).write_bytes(whole[: int(len(whole) * share)])
    assert "cut short or damaged" in reason(folder, answer)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_outside_the_weights_never_changes_the_answer(
    data: st.DataObject, made: Path, folder: Path, answer: tuple[float, ...]
) -> None:
    state = gpu_state.read_state(state_of(made))
    whole = bytearray(state_of(made).read_bytes())
    behind = state.offset + state.buffer.nbytes
    place = data.draw(st.integers(0, state.offset - 1) | st.integers(behind, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    state_of(folder).write_bytes(whole)
    assert probe(load_model(folder)[0]) == answer


def test_a_stretch_of_zeros_in_the_weights_is_found(
    folder: Path, answer: tuple[float, ...]
) -> None:
    state = gpu_state.read_state(state_of(folder))
    whole = bytearray(state_of(folder).read_bytes())
    length = state.buffer.nbytes // 60
    begin = state.offset + state.buffer.nbytes // 2
    whole[begin : begin + length] = bytes(length)
    state_of(folder).write_bytes(whole)
    assert "pages of it are not what was written" in reason(folder, answer)


# ── no strategy works ────────────────────────────────────────────────────────────────────────


def test_too_little_memory_is_told_with_the_next_step(folder: Path) -> None:
    packing = ("memory-mapped", "standard")
    error = refused(lambda: load_model(folder, strategies=packing, free_bytes=lambda _: 1000))
    assert error.code == ErrorCode.OUT_OF_MEMORY
    assert "too little memory" in error.message
    assert "smaller model" in error.hint


def test_a_model_that_no_computer_can_hold_is_told_as_such(folder: Path) -> None:
    config = model_folder.read_json(folder / model_folder.CONFIG)
    model_folder.write_json(folder / model_folder.CONFIG, {**config, "vocab_size": 1 << 46})
    error = refused(lambda: load_model(folder, strategies=("gpu-state", "memory-mapped")))
    assert error.code == ErrorCode.OUT_OF_MEMORY


def test_a_strategy_that_failed_keeps_no_buffer(folder: Path) -> None:
    tensors = load_file(folder / model_folder.WEIGHTS)
    name = "model.decoder.layer_norm.bias"  # the last that is packed
    del tensors[name]
    save_file(tensors, folder / model_folder.WEIGHTS, {"format": "pt"})
    error = refused(lambda: load_model(folder, strategies=("memory-mapped",)))
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert (name in error.message, "_from_mapped_weights" in frames) == (True, False)
    assert error.__cause__ is error.__context__ is None


def test_a_missing_tensor_is_told_and_never_made_up(folder: Path) -> None:
    state_of(folder).unlink()
    tensors = load_file(folder / model_folder.WEIGHTS)
    name = "model.decoder.layers.1.fc1.weight"
    del tensors[name]
    save_file(tensors, folder / model_folder.WEIGHTS, {"format": "pt"})
    for strategies in (STRATEGIES, ("standard",)):
        error = refused(lambda strategies=strategies: load_model(folder, strategies=strategies))
        assert error.code == ErrorCode.MODEL_INCOMPLETE
        assert name in error.message


def test_damaged_weights_are_told(folder: Path) -> None:
    state_of(folder).unlink()
    weights = folder / model_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refused(lambda: load_model(folder)).code == ErrorCode.MODEL_INCOMPLETE


@pytest.mark.parametrize(
    ("device", "dtype", "code"),
    [
        ("cpu", "float8", ErrorCode.UNKNOWN_OPTION),
        ("tpu", "float32", ErrorCode.DEVICE_MISSING),
        ("cuda:99", "float16", ErrorCode.DEVICE_MISSING),
        ("cuda:x", "float16", ErrorCode.DEVICE_MISSING),
    ],
)
def test_a_device_or_dtype_that_is_not_there_is_told(
    device: str, dtype: str, code: ErrorCode, made: Path
) -> None:
    assert refused(lambda: load_model(made, device=device, dtype=dtype)).code == code


# ── to the device ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("half_bytes", [64, 100_000, 1 << 26])
def test_a_state_streamed_through_small_buffers_arrives_whole(half_bytes: int, made: Path) -> None:
    state = gpu_state.read_state(state_of(made))
    target = torch.zeros_like(state.buffer)
    clock = StageClock()
    optimized_loader._stream(state, target, clock, half_bytes)
    assert torch.equal(target, state.buffer)
    assert set(clock.times().seconds) == {"read", "to-device"}


@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_on_a_gpu_all_strategies_give_the_same_logits(dtype: str, folder: Path) -> None:
    preload_gpu_model(folder, device="cuda", dtype=dtype)
    loaded = [
        load_model(folder, device="cuda", dtype=dtype, strategies=(name,)) for name in STRATEGIES
    ]
    assert len({probe(model) for model, _ in loaded}) == 1
    assert all(report.device_memory_bytes > 0 for _, report in loaded)


@needs_cuda
def test_a_gpu_with_too_little_memory_is_told(folder: Path) -> None:
    error = refused(lambda: load_model(folder, device="cuda", free_bytes=lambda _: 1000))
    assert error.code == ErrorCode.OUT_OF_MEMORY
    assert error.message.startswith("The GPU")


# ── the command ──────────────────────────────────────────────────────────────────────────────


def test_the_old_command_compares_the_strategies_from_inside_remote(folder: Path) -> None:
    state_of(folder).unlink()
    done = subprocess.run(
        [sys.executable, "optimized_loader.py", "test", "--model", folder, "--dtype", "float32"],
        cwd=Path(optimized_loader.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows if row[-1:] == ["equal"]] == list(STRATEGIES)
    assert "gpu-state is used" in done.stdout
    assert "Its state was temporary" in done.stdout
    assert not state_of(folder).exists()


def test_a_trial_that_fails_is_a_row_with_its_reason(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["trial", "--model", str(folder), "--strategy", "gpu-state", "--device", "cpu"]
    assert optimized_loader.main([*arguments, "--dtype", "float16"]) == 0
    trial = json.loads(capfd.readouterr().out)
    assert trial["error"] == "There is no gpu_state-float16.pt."
    assert trial["report"] is None


def test_the_command_tells_an_unknown_model(capfd: pytest.CaptureFixture[str]) -> None:
    assert optimized_loader.main(["test", "--model", "./nowhere"]) == 4
    assert "nowhere" in capfd.readouterr().err


def test_reports_are_frozen(made: Path) -> None:
    report = load_model(made)[1]
    assert isinstance(report, LoadReport)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.strategy = "other"  # type: ignore[misc]
