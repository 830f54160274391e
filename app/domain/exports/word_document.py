"""A transcript as a Word document (Office Open XML), made by python-docx.

Times and speakers have styles of their own ("Time", "Speaker", "Note"), so that whoever edits the
document changes all of them at once.
"""

import io
from typing import TYPE_CHECKING

from app.domain.exports.document import Document, Passage, document
from app.domain.transcript import Transcript

if TYPE_CHECKING:
    from docx.document import Document as WordDocument
    from docx.text.paragraph import Paragraph

_TIME, _SPEAKER, _NOTE = "Time", "Speaker", "Note"
_QUIET = "595959"  # grey with a contrast of 7:1 on white
_LONGEST_PROPERTY = 255  # characters of a core property, as python-docx holds them


def docx_bytes(transcript: Transcript) -> bytes:
    """The document: a title, facts, what is missing, and paragraphs that begin with their time."""
    import docx  # here, as it takes a tenth of a second and is needed for this alone

    content = document(transcript)
    word = docx.Document()
    _set_properties(word, content)
    _set_language(word, content)
    _add_styles(word)
    word.add_heading(content.title, 0)
    if content.facts:
        _add_run(word.add_paragraph(), " · ".join(content.facts), _TIME)
    if content.incomplete:
        note = word.add_paragraph(style=_NOTE)
        note.add_run("This text is incomplete. ").bold = True
        note.add_run(content.incomplete)
    for text in content.notes:
        word.add_paragraph(text, style=_NOTE)
    for passage in content.passages:
        _add_passage(word, passage, rtl=content.right_to_left)
    file = io.BytesIO()
    word.save(file)
    return file.getvalue()


def _add_passage(word: "WordDocument", passage: Passage, *, rtl: bool) -> None:
    paragraph = word.add_paragraph()
    _add_run(paragraph, f"{passage.time}  ", _TIME)
    if passage.speaker:
        _add_run(paragraph, f"{passage.speaker}  ", _SPEAKER)
    text = paragraph.add_run(passage.text)
    if rtl:
        text.font.rtl = True


def _add_run(paragraph: "Paragraph", text: str, style: str) -> None:
    # By its id, which is its name: to find it by name python-docx goes through all styles, which
    # takes most of the time where there are a thousand paragraphs.
    paragraph.add_run(text).element.style = style


def _add_styles(word: "WordDocument") -> None:
    from docx.enum.style import WD_STYLE_TYPE
    from docx.shared import Pt, RGBColor

    quiet = RGBColor.from_string(_QUIET)
    for name in (_TIME, _SPEAKER):
        style = word.styles.add_style(name, WD_STYLE_TYPE.CHARACTER)
        style.font.bold = name == _SPEAKER
        style.font.size = Pt(9)
        style.font.color.rgb = quiet
    note = word.styles.add_style(_NOTE, WD_STYLE_TYPE.PARAGRAPH)
    note.base_style = word.styles["Normal"]
    note.font.italic = True
    note.paragraph_format.left_indent = Pt(18)


def _set_properties(word: "WordDocument", content: Document) -> None:
    """Says what the document is, in place of what python-docx's template says of itself."""
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.opc.part import XmlPart

    about = word.core_properties
    about.title = content.title[:_LONGEST_PROPERTY]
    about.author = ""
    about.comments = "Transcribed by Farscribe"
    about.language = content.language
    part = word.part.package.part_related_by(RELATIONSHIP_TYPE.CORE_PROPERTIES)
    if isinstance(part, XmlPart):  # the template is of 2013; when this is made the file says
        for date in part.element.xpath("dcterms:created | dcterms:modified"):
            part.element.remove(date)


def _set_language(word: "WordDocument", content: Document) -> None:
    """Tells Word which language to check the spelling in, and from where it is read."""
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    if content.language:
        for default in word.styles.element.xpath("w:docDefaults//w:lang"):
            for kind in ("w:val", "w:eastAsia", "w:bidi"):
                default.set(qn(kind), content.language)
    if content.right_to_left:
        word.styles["Normal"].element.get_or_add_pPr().append(OxmlElement("w:bidi"))
