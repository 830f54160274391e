"""A host is looked at, through a real sshd on loopback."""

import asyncio
import sys
from dataclasses import replace

import pytest

from app.adapters.ssh.examination import HostExamination, found
from app.domain.checkup import Finding, Health
from remote import protocol
from remote.protocol import ErrorCode, Heartbeat, Hello, JobPlace, Jobs
from tests.app.adapters.ssh_host import greeted, machine, talk
from tests.helpers.sshd import needs_sshd


def examine(sshd, *, known: bool = True, **changes) -> list[Finding]:
    if known:
        (sshd.client / "known_hosts").write_text(sshd.known(sshd.port))
    examination = HostExamination(
        f"ssh://127.0.0.1:{sshd.port}?python={sys.executable}",
        sshd.engine,
        sshd.folder / "own" / "known_hosts",
        ask=lambda question: None,
        ssh_folder=sshd.client,
        recall=lambda name: None,
    )

    async def run() -> list[Finding]:
        async with asyncio.timeout(30):
            return [finding async for finding in replace(examination, **changes)()]

    return asyncio.run(run())


def marks(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.subject, finding.health.value) for finding in findings]


@needs_sshd
def test_a_host_that_is_fit_is_told_step_by_step_and_nothing_is_changed_there(fresh):
    before = sorted(fresh.home.rglob("*"))
    findings = examine(fresh)
    assert marks(findings)[:4] == [
        ("reach", "ok"),
        ("host key", "ok"),
        ("login", "ok"),
        ("python", "ok"),
    ]
    by = {finding.subject: finding for finding in findings}
    assert "GB free" in by["disk"].message
    assert "sent at the first use" in by["engine"].message
    assert by["worker"].health is Health.OK
    assert sorted(fresh.home.rglob("*")) == before


@needs_sshd
def test_an_engine_that_is_there_is_seen(fresh):
    talk(machine(fresh), greeted)
    by = {finding.subject: finding for finding in examine(fresh)}
    assert by["engine"].message == "installed, of this version"


@needs_sshd
def test_an_unknown_key_is_told_with_its_fingerprint_and_trusted_when_it_is_given(fresh):
    findings = examine(fresh, known=False)
    assert marks(findings) == [("reach", "ok"), ("host key", "bad")]
    fingerprint = findings[-1].hint.split()[-1]
    assert fingerprint.startswith("SHA256:")
    assert ("login", "ok") in marks(examine(fresh, known=False, trust=fingerprint))


@needs_sshd
def test_a_host_that_lets_nobody_in_and_one_that_does_not_answer_are_told_apart(fresh):
    fresh.key.unlink()
    refused = examine(fresh)
    assert marks(refused) == [("reach", "ok"), ("host key", "ok"), ("login", "bad")]
    fresh.kill()
    (unreachable,) = examine(fresh)
    assert (unreachable.subject, unreachable.code) == ("reach", ErrorCode.HOST_UNREACHABLE)


@needs_sshd
def test_a_host_without_a_new_python_is_told_with_the_way_out(fresh):
    address = f"ssh://127.0.0.1:{fresh.port}?python=/nowhere/python3"
    findings = examine(fresh, address=address)
    assert marks(findings)[-1] == ("python", "bad")
    assert "?python=" in findings[-1].hint


def test_an_address_that_is_none_is_found_first(tmp_path):
    examination = HostExamination("ssh://", tmp_path, tmp_path, lambda question: None)

    async def run() -> list[Finding]:
        return [finding async for finding in examination()]

    (finding,) = asyncio.run(run())
    assert (finding.subject, finding.code) == ("address", ErrorCode.UNKNOWN_OPTION)


SEEN = {
    "python": "3.12.1",
    "system": "Linux x86_64",
    "home": "/h",
    "free_bytes": 50 * 2**30,
    "writable": True,
    "fit": True,
    "engine": True,
    "gpus": ["NVIDIA H100, 81559 MiB"],
    "worker": [],
}


@pytest.mark.parametrize(
    ("changes", "subject", "health", "word"),
    [
        ({}, "gpu", Health.OK, "H100"),
        ({"gpus": []}, "gpu", Health.WARN, "processor"),
        ({"free_bytes": 2**30}, "disk", Health.OK, "1.0 GB free"),
        ({"free_bytes": 2**30, "fit": False}, "disk", Health.WARN, "1.0 GB free"),
        ({"free_bytes": 2**20}, "disk", Health.BAD, "0.0 GB free"),
        ({"writable": False}, "disk", Health.BAD, "cannot be written"),
        ({"fit": False}, "engine", Health.WARN, "first transcription sets it up"),
        ({"engine": False}, "engine", Health.OK, "sent at the first use"),
        ({"worker": []}, "worker", Health.OK, "does not run now"),
    ],
)
def test_what_a_host_has_is_told_by_what_it_means(changes, subject, health, word):
    by = {finding.subject: finding for finding in found("ssh://far", {**SEEN, **changes})}
    assert by[subject].health is health
    assert word in by[subject].message


def test_a_worker_that_runs_is_told_with_what_it_does():
    messages = [
        Hello(1, 1, "0", "base", "cuda:0", "bfloat16", "gpu-state", 0.5),
        Jobs((JobPlace("a", "running", 3),)),
        Heartbeat(1, 2**31),
    ]
    lines = [protocol.encode(message).decode().strip() for message in messages]
    worker = found("ssh://far", {**SEEN, "worker": lines})[-1]
    assert worker.message == "runs base on cuda:0, bfloat16, 1 job, 2.0 GB of memory"
