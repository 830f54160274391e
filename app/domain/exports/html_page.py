"""A transcript as one HTML page that needs nothing but itself: no scripts, no fonts, no network.

Every paragraph has an address (its time), so that a link can point to it. Colours follow what the
reader's system asks for, light or dark, each with a contrast of 7:1 and more (WCAG 2.2, AAA); on
paper it is black on white.
"""

import html
from collections.abc import Iterator

from app.domain.exports.document import Document, Passage, document
from app.domain.transcript import Transcript

_STYLE = """\
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfb; --quiet: #4d4d4d;
  --mark: #fff1c2; --edge: #9a6a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9e9e6; --paper: #161616; --quiet: #b8b8b4; --mark: #3d3005; --edge: #d9a520; }
}
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
.facts { color: var(--quiet); margin: 0 0 1.5rem; }
.note { margin: 0 0 1rem; padding: .6rem .9rem; background: var(--mark);
  border-inline-start: .3rem solid var(--edge); }
article p { margin: 0 0 1rem; padding-inline-start: 6rem; overflow-wrap: break-word; }
article p:target { background: var(--mark); }
.time { float: inline-start; margin-inline-start: -6rem; color: var(--quiet);
  font-variant-numeric: tabular-nums; }
.speaker { margin-inline-end: .4em; }
@media print, (max-width: 36rem) {
  article p { padding-inline-start: 0; }
  .time { float: none; margin-inline: 0 .6em; }
}
@media print {
  :root { --ink: #000; --paper: #fff; --quiet: #333; --mark: #fff; --edge: #000; }
  main { max-width: none; padding: 0; }
  .time { text-decoration: none; }
  article p { orphans: 3; widows: 3; }
}
"""


def html_text(transcript: Transcript) -> str:
    """The page."""
    content = document(transcript)
    title = html.escape(content.title)
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Farscribe">
<title>{title}</title>
<style>
{_STYLE}</style>
</head>
<body>
<main>
<h1 dir="auto">{title}</h1>
{"".join(_head(content))}<article aria-label="Transcript"{_language(content)}>
{"".join(_passages(content))}</article>
</main>
</body>
</html>
"""


def _head(content: Document) -> Iterator[str]:
    if content.facts:
        yield f'<p class="facts">{html.escape(" · ".join(content.facts))}</p>\n'
    if content.incomplete:
        reason = html.escape(content.incomplete)
        yield f'<p class="note"><strong>This text is incomplete.</strong> {reason}</p>\n'
    for note in content.notes:
        yield f'<p class="note">{html.escape(note)}</p>\n'


def _language(content: Document) -> str:
    tag = f' lang="{html.escape(content.language)}"' if content.language else ""
    return tag + (' dir="rtl"' if content.right_to_left else "")


def _passages(content: Document) -> Iterator[str]:
    used: set[str] = set()
    for passage in content.passages:
        address = _address(passage, used)
        seconds = f"{passage.start_ms / 1000:.3f}".rstrip("0").rstrip(".")
        speaker = f'<b class="speaker" lang="en">{html.escape(passage.speaker)}</b> '
        yield (
            f'<p id="{address}"><a class="time" href="#{address}">'
            f'<time datetime="PT{seconds}S">{passage.time}</time></a> '
            f"{speaker if passage.speaker else ''}{html.escape(passage.text)}</p>\n"
        )


def _address(passage: Passage, used: set[str]) -> str:
    """The time, and a number where a paragraph of another channel begins in the same second."""
    first = address = f"t{passage.time}"
    number = 1
    while address in used:
        number += 1
        address = f"{first}-{number}"
    used.add(address)
    return address
