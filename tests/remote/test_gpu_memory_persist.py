"""Making a GPU state: what it says of its model, that it is verified, and how it fails."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from remote import gpu_memory_persist, gpu_state, model_folder
from remote.gpu_memory_persist import (
    default_model,
    largest_difference,
    preload_gpu_model,
    probe,
    verify_gpu_state,
)
from remote.layout import WhisperShape, layout
from remote.optimized_loader import load_model
from remote.protocol import ErrorCode, KnownError
from tests.remote.model_factory import write_model


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No state or measurement reaches the user's folders."""
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("models") / "made")
    model_folder.write_record(folder, "hub", "someone/made", "abc123")
    preload_gpu_model(folder, device="cpu", dtype="float32")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "made"))


def state_of(folder: Path) -> Path:
    return gpu_state.state_path(folder, "float32")


def refused(call: Callable[[], object]) -> KnownError:
    with pytest.raises(KnownError) as caught:
        call()
    return caught.value


# ── what it says ─────────────────────────────────────────────────────────────────────────────


def test_the_manifest_says_what_the_buffer_is(made: Path) -> None:
    state = gpu_state.read_state(state_of(made))
    manifest = state.manifest
    shape = WhisperShape.from_config(model_folder.read_json(made / model_folder.CONFIG))
    assert (manifest.model, manifest.revision) == ("made", "abc123")
    assert manifest.weights == gpu_state.weights_identity(made)
    assert manifest.shape == shape
    assert [place.name for place in manifest.slots] == [slot.name for slot in layout(shape)]
    assert (manifest.dtype, state.buffer.dtype) == ("float32", torch.float32)
    assert (manifest.device_type, manifest.device_name, manifest.capability) == ("cpu", "cpu", "")
    assert manifest.torch == torch.__version__
    assert manifest.sha256 == gpu_state.sha256_of(state.buffer)
    assert len(manifest.logits) == gpu_memory_persist.PROBE_LOGITS


def test_the_file_is_plain_values_and_one_tensor(made: Path) -> None:
    content = torch.load(state_of(made), mmap=True, weights_only=True)
    assert set(content) == {"format", "manifest", "buffer"}
    assert content["buffer"].dim() == 1


def test_the_same_model_gives_the_same_state(folder: Path) -> None:
    first = gpu_state.read_state(state_of(folder)).manifest
    preload_gpu_model(folder, device="cpu", dtype="float32")
    assert gpu_state.read_state(state_of(folder)).manifest == first


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_each_dtype_has_a_file_of_its_own(dtype: str, folder: Path) -> None:
    path = preload_gpu_model(folder, device="cpu", dtype=dtype)
    assert path.name == f"gpu_state-{dtype}.pt"
    assert verify_gpu_state(path).manifest.dtype == dtype
    assert state_of(folder).exists()


def test_int8_is_quantised_from_the_float32_state(folder: Path) -> None:
    assert gpu_state.state_path(folder, "int8") == state_of(folder)


def test_without_a_dtype_the_state_is_that_of_the_fastest(folder: Path, home: Path) -> None:
    path = preload_gpu_model(folder, device="cpu")
    assert path.parent == folder
    assert (home / "cache" / "fastest_dtype.json").exists()


def test_a_state_does_not_make_the_model_folder_incomplete(made: Path) -> None:
    model_folder.check(made)
    model_folder.verify(made)


# ── which model ──────────────────────────────────────────────────────────────────────────────


def test_the_largest_model_that_is_here_is_the_default(home: Path) -> None:
    assert default_model() == "tiny.en"
    write_model(home / "models" / "small-one", decoder_layers=1)
    write_model(home / "models" / "large-one", decoder_layers=3)
    write_model(home / "models" / "broken", decoder_layers=4)
    (home / "models" / "broken" / "config.json").unlink()
    assert default_model() == "large-one"
    assert preload_gpu_model(device="cpu").parent == home / "models" / "large-one"


def test_a_model_that_is_not_there_is_told() -> None:
    assert refused(lambda: preload_gpu_model("./nowhere")).code == ErrorCode.MODEL_MISSING


def test_a_device_that_is_not_there_is_told(made: Path) -> None:
    error = refused(lambda: preload_gpu_model(made, device="cuda:99", dtype="float16"))
    assert error.code == ErrorCode.DEVICE_MISSING


# ── verification ─────────────────────────────────────────────────────────────────────────────


def test_a_whole_state_is_verified_by_its_bytes_and_its_answer(made: Path) -> None:
    found = verify_gpu_state(state_of(made))
    assert found.difference == 0
    assert found.manifest.model == "made"


def test_one_changed_byte_is_found_by_verifying(folder: Path) -> None:
    state = gpu_state.read_state(state_of(folder))
    whole = bytearray(state_of(folder).read_bytes())
    offsets = list(gpu_state.sample_offsets(state.buffer.nbytes, gpu_state.SAMPLES))
    whole[state.offset + (offsets[3] + offsets[4] + 4096) // 2] ^= 1  # between two samples
    state_of(folder).write_bytes(whole)
    gpu_state.read_state(state_of(folder))
    error = refused(lambda: verify_gpu_state(state_of(folder)))
    assert error.code == ErrorCode.MODEL_CHECKSUM
    assert "sha256" in error.message


def test_a_state_that_answers_otherwise_than_recorded_is_found(folder: Path) -> None:
    state = gpu_state.read_state(state_of(folder))
    changed = state.buffer.clone()
    changed[: len(changed) // 2] *= 1.1
    gpu_state.write_state(state.path, state.manifest, changed)
    error = refused(lambda: verify_gpu_state(state_of(folder)))
    assert error.code == ErrorCode.MODEL_CHECKSUM
    assert "answers a fixed input otherwise" in error.message


def test_a_model_that_answers_nan_matches_nothing(folder: Path) -> None:
    state = gpu_state.read_state(state_of(folder))
    broken = torch.full_like(state.buffer, torch.nan)
    gpu_state.write_state(state.path, state.manifest, broken)
    error = refused(lambda: verify_gpu_state(state_of(folder)))
    assert error.code == ErrorCode.MODEL_CHECKSUM


def test_a_state_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    error = refused(lambda: verify_gpu_state(tmp_path / "gpu_state-float32.pt"))
    assert error.code == ErrorCode.MODEL_MISSING
    assert "remote.gpu_memory_persist" in error.hint


def test_another_training_answers_the_fixed_input_otherwise(made: Path, tmp_path: Path) -> None:
    other, _ = load_model(write_model(tmp_path / "other", seed=1))
    manifest = gpu_state.read_state(state_of(made)).manifest
    assert largest_difference(probe(other), manifest.logits) > manifest.tolerance


def test_the_fixed_input_has_one_answer(made: Path) -> None:
    model, _ = load_model(made)
    assert probe(model) == probe(model)


# ── writing ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_a_disk_that_fills_up_while_writing_is_not_hidden_by_torch() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError) as caught:  # noqa: PT011
        gpu_state._save({"buffer": torch.zeros(1 << 20)}, file)
    assert caught.value.errno == errno.ENOSPC


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more than this to one file fails inside the block, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_state_that_cannot_be_written_whole_leaves_the_old_one(folder: Path) -> None:
    before = state_of(folder).read_bytes()
    names = sorted(path.name for path in folder.iterdir())
    with files_of_at_most(len(before) // 2), pytest.raises(OSError) as caught:  # noqa: PT011
        preload_gpu_model(folder, device="cpu", dtype="float32")
    assert caught.value.errno == errno.EFBIG
    assert state_of(folder).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == names


# ── the command ──────────────────────────────────────────────────────────────────────────────


def test_the_old_command_makes_a_state_from_inside_remote(folder: Path) -> None:
    state_of(folder).unlink()
    command = [sys.executable, "gpu_memory_persist.py", "--model", str(folder)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--dtype", "float32"],
        cwd=Path(gpu_memory_persist.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"GPU state of made in float32 written: {state_of(folder)}" in done.stdout
    assert "seconds by stage" in done.stderr
    assert load_model(folder)[1].strategy == "gpu-state"


def test_the_command_verifies_every_state_of_a_model(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    preload_gpu_model(folder, device="cpu", dtype="float16")
    assert gpu_memory_persist.main(["--model", str(folder), "--verify"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["gpu_state-float32.pt", "gpu_state-float16.pt"]
    assert all("is intact" in line for line in lines)


def test_the_command_tells_a_damaged_state(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state_of(folder).write_bytes(state_of(folder).read_bytes()[:-1000])
    assert gpu_memory_persist.main(["--model", str(folder), "--verify"]) == 4
    assert "cut short or damaged" in capfd.readouterr().err
