"""The verb that looks whether everything is as it should be: doctor."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from app.cli import loop, telling
from app.cli.options import add_verb
from app.domain.checkup import Finding, Health, exit_status
from app.domain.history import THIS_COMPUTER

if TYPE_CHECKING:
    from app.cli.options import Verbs
    from app.domain.checkup import Checkup


def add_to(verbs: "Verbs") -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs, "doctor", "check everything that is needed, and say what to do", _doctor,
        "Checks what farscribe needs: on this computer, and on a host with --on. It sets nothing"
        "\nup. The exit status is 0 unless something is bad.",
    )  # fmt: skip
    add = parser.add_argument
    add("--on", metavar="MACHINE", default=THIS_COMPUTER, help="ssh://user@host[:port]")
    add("--trust-host", metavar="SHA256:…", help="fingerprint of the host's key")
    add("--json", action="store_true", help="a line of JSON for each thing that was looked at")


def _doctor(given: argparse.Namespace) -> int:
    from app import compose

    checkups = compose.doctor(given.on, trust=given.trust_host, ask=telling.ask)
    findings = loop.run(_look(checkups, as_json=given.json))
    if not given.json:
        bad = sum(finding.health is Health.BAD for finding in findings)
        warned = sum(finding.health is Health.WARN for finding in findings)
        telling.say(_verdict(bad, warned))
    return exit_status(findings)


async def _look(checkups: "list[Checkup]", *, as_json: bool) -> list[Finding]:
    """Looks, and tells what was found as soon as it was."""
    findings = []
    for checkup in checkups:
        async for finding in checkup():
            findings.append(finding)
            if as_json:
                telling.give({**asdict(finding), "code": finding.code or ""})
            else:
                from app.cli.tables import finding_line

                telling.draw(finding_line(finding))
    return findings


def _verdict(bad: int, warned: int) -> str:
    if bad:
        return f"{bad} {'thing keeps' if bad == 1 else 'things keep'} farscribe from working."
    if warned:
        return "Farscribe can work; see what is marked warn."
    return "All is well."
