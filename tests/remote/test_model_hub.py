"""Adding models from the hub, by the real client library against a hub on loopback.

Each add is a process of its own: that is how it is used, and how a kill can be tested.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer as RawTokenizer

from remote import model_catalogue, model_folder
from remote.protocol import ErrorCode, ExitCode, KnownError
from remote.tokens import Tokenizer
from tests.remote.hub_server import Hub, serving
from tests.remote.model_factory import write_model

REPO = "someone/whisper-small-it"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def published(tmp_path: Path, hub: Hub) -> Path:
    """A complete model that the hub serves."""
    folder = write_model(tmp_path / "published")
    hub.add(REPO, folder)
    return folder


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k[:3] != "HF_"}
    cache = {"HF_HOME": str(home / "huggingface"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, "FARSCRIBE_HOME": str(home), "HF_ENDPOINT": endpoint, **cache, **more}


def start(home: Path, endpoint: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "remote.models", *arguments, "--json"],
        cwd=ROOT,
        env=environment(home, endpoint, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: Path, endpoint: str, *arguments: str, **more: str) -> tuple[int, dict[str, Any]]:
    with start(home, endpoint, *arguments, **more) as process:
        out, err = process.communicate(timeout=120)
    assert out, err
    return process.returncode, json.loads(out)


def added(home: Path, hub: Hub, name: str = REPO) -> Path:
    status, body = run(home, hub.url, "add", name)
    assert status == ExitCode.OK, body
    return Path(body["path"])


def test_a_hub_id_becomes_a_complete_verified_folder_with_its_record(
    home: Path, hub: Hub, published: Path
) -> None:
    folder = added(home, hub)
    record = model_folder.verify(folder)
    assert (record.source, record.repo, record.revision) == ("hub", REPO, "a" * 40)
    for name in model_folder.REQUIRED:
        assert (folder / name).read_bytes() == (published / name).read_bytes()
        assert name in record.files
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_only_the_files_that_are_needed_are_downloaded(
    home: Path, hub: Hub, published: Path
) -> None:
    for name in ("pytorch_model.bin", "README.md", "flax_model.msgpack", "vocab.json"):
        (published / name).write_bytes(b"not asked for")
    added(home, hub)
    asked = {path.rpartition("/")[2] for path, _ in hub.asked}
    wanted = {*model_folder.REQUIRED, "preprocessor_config.json", "tokenizer_config.json"}
    assert asked == wanted


def test_a_model_that_is_there_is_not_downloaded_again(
    home: Path, hub: Hub, published: Path
) -> None:
    added(home, hub)
    hub.looked_up.clear()
    added(home, hub)
    assert hub.looked_up == []


def test_a_named_model_is_asked_for_at_its_pinned_commit(
    home: Path, hub: Hub, published: Path
) -> None:
    entry = model_catalogue.CATALOGUE["small"]
    hub.add(entry.repo, published, entry.revision)
    hub.add(entry.repo, published, "b" * 40)
    folder = added(home, hub, "openai/whisper-small")
    assert folder == home / "models" / "small"
    assert hub.looked_up == [f"/api/models/{entry.repo}/revision/{entry.revision}"]
    assert model_folder.verify(folder).revision == entry.revision


def test_a_hub_id_stays_at_the_commit_it_was_first_added_at(
    home: Path, hub: Hub, published: Path, tmp_path: Path
) -> None:
    folder = added(home, hub)
    hub.add(REPO, write_model(tmp_path / "newer", seed=1), "b" * 40)
    (folder / model_folder.TOKENIZER).unlink()
    assert added(home, hub) == folder
    assert model_folder.verify(folder).revision == "a" * 40


def test_a_cut_connection_is_taken_up_where_it_broke(home: Path, hub: Hub, large: Path) -> None:
    hub.cut_at[model_folder.WEIGHTS] = 24_000_000
    folder = added(home, hub)
    starts = hub.starts(model_folder.WEIGHTS)
    assert starts[0] == 0
    assert starts[1] > 0
    assert len(starts) == 2
    assert model_folder.sha256(folder / model_folder.WEIGHTS) == model_folder.sha256(
        large / model_folder.WEIGHTS
    )


def test_a_killed_download_leaves_no_model_and_goes_on_next_time(
    home: Path, hub: Hub, large: Path
) -> None:
    hub.hold_at[model_folder.WEIGHTS] = 24_000_000
    with start(home, hub.url, "add", REPO) as process:
        assert hub.held.wait(60)
        partial = (
            home / "models" / f".{REPO.replace('/', '--')}.part" / "model.safetensors.incomplete"
        )
        while partial.stat().st_size == 0:  # what was sent is on its way through loopback
            assert process.poll() is None
        process.kill()
    listed = run(home, hub.url, "list")[1]
    assert REPO not in [model["name"] for model in listed]  # type: ignore[index]
    assert not (home / "models" / REPO.replace("/", "--")).exists()

    before = len(hub.asked)
    folder = added(home, hub)
    again = [path.rpartition("/")[2] for path, _ in hub.asked[before:]]
    assert again == [model_folder.WEIGHTS]
    assert hub.starts(model_folder.WEIGHTS)[-1] > 0
    model_folder.verify(folder)


@pytest.fixture
def large(tmp_path: Path, hub: Hub) -> Path:
    """A model of over 30 MB: the client library writes blocks of 10 MB."""
    folder = write_model(
        tmp_path / "large", d_model=256, ffn=1024, encoder_layers=4, decoder_layers=4
    )
    hub.add(REPO, folder)
    return folder


def test_a_file_that_arrives_spoiled_is_refused_and_fetched_alone_next_time(
    home: Path, hub: Hub, published: Path
) -> None:
    hub.spoiled.add(model_folder.WEIGHTS)
    status, body = run(home, hub.url, "add", REPO)
    assert status == ExitCode.MODEL
    assert body["error"]["code"] == ErrorCode.MODEL_CHECKSUM
    assert model_folder.WEIGHTS in body["error"]["message"]
    assert not (home / "models" / REPO.replace("/", "--")).exists()

    hub.spoiled.clear()
    hub.asked.clear()
    model_folder.verify(added(home, hub))
    assert [path.rpartition("/")[2] for path, _ in hub.asked] == [model_folder.WEIGHTS]


def test_a_small_file_that_arrives_spoiled_is_noticed_too(
    home: Path, hub: Hub, published: Path
) -> None:
    hub.spoiled.add("generation_config.json")
    _, body = run(home, hub.url, "add", REPO)
    assert body["error"]["code"] == ErrorCode.MODEL_CHECKSUM


def test_offline_is_said_plainly_with_the_next_step(home: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        status, body = run(home, endpoint, "add", "small")
    assert status == ExitCode.NETWORK
    assert body["error"]["code"] == ErrorCode.OFFLINE
    assert "could not be reached" in body["error"]["message"]
    assert "farscribe models add small" in body["error"]["hint"]


def test_a_hub_forbidden_by_the_environment_is_said_as_such(home: Path, hub: Hub) -> None:
    status, body = run(home, hub.url, "add", REPO, HF_HUB_OFFLINE="1")
    assert (status, body["error"]["code"]) == (ExitCode.NETWORK, ErrorCode.OFFLINE)
    assert "HF_HUB_OFFLINE" in body["error"]["message"]


@pytest.mark.parametrize(
    ("refusal", "code", "words"),
    [
        ((401, "RepoNotFound"), ErrorCode.MODEL_MISSING, "no model"),
        ((403, "GatedRepo"), ErrorCode.MODEL_MISSING, "accept terms"),
        ((404, "RevisionNotFound"), ErrorCode.MODEL_MISSING, "revision"),
        ((500, ""), ErrorCode.OFFLINE, "500"),
    ],
)
def test_each_refusal_of_the_hub_has_its_own_sentence(
    home: Path, hub: Hub, published: Path, refusal: tuple[int, str], code: ErrorCode, words: str
) -> None:
    hub.refuse[REPO] = refusal
    _, body = run(home, hub.url, "add", REPO)
    assert body["error"]["code"] == code
    assert words in body["error"]["message"]
    assert body["error"]["hint"]


def test_weights_only_as_a_pickle_are_refused(home: Path, hub: Hub, published: Path) -> None:
    (published / model_folder.WEIGHTS).rename(published / "pytorch_model.bin")
    status, body = run(home, hub.url, "add", REPO)
    assert (status, body["error"]["code"]) == (ExitCode.MODEL, ErrorCode.MODEL_UNSUPPORTED)
    assert "safetensors" in body["error"]["message"]
    assert hub.asked == []


def test_weights_in_several_files_become_one(home: Path, hub: Hub, published: Path) -> None:
    whole = load_file(published / model_folder.WEIGHTS)
    (published / model_folder.WEIGHTS).unlink()
    split(whole, published, "model.safetensors.index.fp32.json", "model.fp32-0000{}-of-00002")
    folder = added(home, hub)
    joined = load_file(folder / model_folder.WEIGHTS)
    assert joined.keys() == whole.keys()
    assert all(np.array_equal(joined[name], whole[name]) for name in whole)
    assert [path.name for path in folder.glob("*.safetensors*")] == [model_folder.WEIGHTS]


def split(whole: dict[str, np.ndarray], folder: Path, index: str, pattern: str) -> None:
    names, places = sorted(whole), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{pattern.format(number)}.safetensors"
        save_file({name: whole[name] for name in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_a_folder_of_the_time_before_tokenizer_json_is_completed(
    home: Path, hub: Hub, published: Path
) -> None:
    expected = Tokenizer.from_folder(published)
    make_old(published)
    tokenizer = Tokenizer.from_folder(added(home, hub))
    assert tokenizer.encode("there was nothing") == expected.encode("there was nothing")
    assert tokenizer.timestamp_begin == expected.timestamp_begin
    assert tokenizer.languages["de"] == expected.languages["de"]


def make_old(folder: Path) -> None:
    """The tokenizer as vocab.json, merges.txt and added_tokens.json, without timestamps."""
    body = json.loads((folder / "tokenizer.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(body["model"]["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in body["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    added_tokens = {t["content"]: t["id"] for t in body["added_tokens"] if t["special"]}
    (folder / "added_tokens.json").write_text(json.dumps(added_tokens))
    (folder / "tokenizer.json").unlink()


def test_a_tokenizer_without_timestamps_gets_all_of_them(
    home: Path, hub: Hub, published: Path
) -> None:
    path = published / "tokenizer.json"
    body = json.loads(path.read_text())
    body["added_tokens"] = [token for token in body["added_tokens"] if token["special"]]
    path.write_text(json.dumps(body))
    raw = RawTokenizer.from_file(str(added(home, hub) / "tokenizer.json"))
    first = raw.token_to_id("<|notimestamps|>") + 1
    assert [raw.token_to_id(f"<|{i * 0.02:.2f}|>") for i in range(1501)] == list(
        range(first, first + 1501)
    )


def test_a_model_that_is_no_whisper_is_refused(home: Path, hub: Hub, published: Path) -> None:
    body = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**body, "model_type": "bert"}))
    _, answer = run(home, hub.url, "add", REPO)
    assert answer["error"]["code"] == ErrorCode.MODEL_UNSUPPORTED
    assert "bert" in answer["error"]["message"]


def test_what_the_hubs_own_cache_holds_is_not_downloaded_again(
    home: Path, hub: Hub, published: Path
) -> None:
    commit = home / "huggingface/hub" / f"models--{REPO.replace('/', '--')}/snapshots" / ("a" * 40)
    commit.mkdir(parents=True)
    shutil.copyfile(published / model_folder.WEIGHTS, commit / model_folder.WEIGHTS)
    model_folder.verify(added(home, hub))
    assert hub.starts(model_folder.WEIGHTS) == []


def test_a_damaged_record_is_a_known_error(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / model_folder.RECORD).write_text('{"source": "elsewhere"}')
    with pytest.raises(KnownError) as caught:
        model_folder.check(folder)
    assert caught.value.code == ErrorCode.MODEL_INCOMPLETE


def test_progress_grows_to_the_size_of_the_weights(home: Path, hub: Hub, published: Path) -> None:
    program = (
        "import json, sys; from remote.models import resolve; seen = [];"
        "resolve(sys.argv[1], lambda done, total: seen.append((done, total)));"
        "print(json.dumps(seen))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, REPO],
        cwd=ROOT,
        env=environment(home, hub.url),
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    size = (published / model_folder.WEIGHTS).stat().st_size
    assert seen[-1] == [size, size]
    assert seen == sorted(seen)


def test_two_that_add_the_same_model_at_once_download_it_once(
    home: Path, hub: Hub, published: Path
) -> None:
    hub.hold_at[model_folder.WEIGHTS] = 1000
    with start(home, hub.url, "add", REPO) as first:
        assert hub.held.wait(60)
        with start(home, hub.url, "add", REPO) as second:
            hub.release.set()
            for process in (first, second):
                process.communicate(timeout=60)
                assert process.returncode == ExitCode.OK
    assert hub.starts(model_folder.WEIGHTS) == [0]
