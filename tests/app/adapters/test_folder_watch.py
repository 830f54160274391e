import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.adapters.folder_watch import WatchedFolders, lies_elsewhere
from remote.protocol import ErrorCode, KnownError

Story = Callable[[WatchedFolders, tuple[Path, ...]], Awaitable[None]]

posix = pytest.mark.skipif(os.name != "posix", reason="links and permissions")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    watched = tmp_path / "in"
    watched.mkdir()
    return watched


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def watch(story: Story, *folders: Path, **settings) -> None:
    async def run() -> None:
        watched = WatchedFolders(folders, **settings)
        try:
            async with asyncio.timeout(30):
                await story(watched, await watched.open())
        finally:
            await watched.close()

    asyncio.run(run())


async def until(watched: WatchedFolders, *paths: Path) -> set[Path]:
    """What was told, up to when all these were."""
    told: set[Path] = set()
    while not told >= set(paths):
        told |= await watched.changed()
    return told


polling = pytest.mark.parametrize(
    "how", [{"poll": False}, {"poll": True, "poll_s": 0.05}], ids=["told", "polled"]
)


@polling
def test_recordings_that_are_written_renamed_or_moved_in_are_told(folder, tmp_path, how):
    outside = put(tmp_path / "moved.wav")

    async def story(watched, there):
        assert there == ()
        written = put(folder / "a.wav")
        download = put(folder / "b.wav.part")
        await until(watched, written)
        download.rename(folder / "b.wav")
        shutil.move(outside, folder / "moved.wav")
        told = await until(watched, folder / "b.wav", folder / "moved.wav")
        assert download not in told
        written.write_bytes(b"longer")
        assert await until(watched, written)

    watch(story, folder, **how)


@polling
def test_a_folder_that_is_made_or_moved_in_is_watched_with_all_below_it(folder, tmp_path, how):
    inner = put(tmp_path / "day" / "deep" / "a.wav")

    async def story(watched, there):
        (tmp_path / "day").rename(folder / "day")
        await until(watched, folder / "day" / "deep" / inner.name)
        await until(watched, put(folder / "day" / "deep" / "b.wav"))

    watch(story, folder, **how)


def test_what_is_there_already_is_given_and_nothing_that_is_no_recording(folder, tmp_path):
    wanted = {put(folder / "a.wav"), put(folder / "b" / "c.mp3"), put(tmp_path / "two" / "d.ogg")}
    for name in ("a.txt", ".b.wav", ".git/a.wav", "texts/a.wav", "c.wav.part"):
        put(folder / name)

    async def story(watched, there):
        assert set(there) == wanted
        put(folder / "texts" / "b.wav")
        put(folder / "b.srt")
        assert await until(watched, put(folder / "z.wav")) == {folder / "z.wav"}

    watch(story, folder, tmp_path / "two", left_out=[folder / "texts"])


@posix
def test_links_to_folders_are_not_followed_so_that_nothing_goes_in_circles(folder, tmp_path):
    put(tmp_path / "other" / "a.wav")
    (folder / "circle").symlink_to(folder)
    (folder / "other").symlink_to(tmp_path / "other")

    async def story(watched, there):
        assert there == ()

    watch(story, folder)


@posix
def test_a_look_sees_size_and_time_of_files_and_nothing_of_what_is_none(folder):
    async def story(watched, there):
        path = put(folder / "a.wav", b"abc")
        os.utime(path, ns=(1, 5))
        assert (watched.look(path).size_bytes, watched.look(path).mtime_ns) == (3, 5)
        (folder / "link.wav").symlink_to(path)
        (folder / "folder.wav").mkdir()
        for name in ("link.wav", "folder.wav", "absent.wav", "a\0.wav"):
            assert watched.look(folder / name) is None

    watch(story, folder)


@pytest.mark.parametrize(
    ("name", "code"), [("absent", ErrorCode.FILE_MISSING), ("file", ErrorCode.FILE_UNREADABLE)]
)
def test_what_is_no_folder_is_told_with_the_next_step(tmp_path, name, code):
    put(tmp_path / "file")

    async def story(watched, there):
        pytest.fail("it is watched")

    with pytest.raises(KnownError) as caught:
        watch(story, tmp_path / name)
    assert caught.value.code is code
    assert caught.value.hint


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/share /net/share\\040one nfs4 rw 0 0
/dev/sdb1 /net/share\\040one/local ext4 rw 0 0
//server/x /net/x cifs rw 0 0
"""


@posix
@pytest.mark.parametrize(
    ("folder", "elsewhere"),
    [
        ("/var/in", False),
        ("/net/share one", True),
        ("/net/share one/deep/er", True),
        ("/net/share one/local/in", False),
        ("/net/share", False),
        ("/net/x/in", True),
    ],
)
def test_drives_of_other_computers_are_known_by_their_file_system(folder, elsewhere):
    assert lies_elsewhere(Path(folder), MOUNTS) is elsewhere


@posix
def test_the_system_is_asked_where_a_folder_lies(tmp_path):
    assert not lies_elsewhere(tmp_path)
