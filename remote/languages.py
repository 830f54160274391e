"""The languages of Whisper: codes, names, and what a user may type for one.

Codes and names are openai/whisper's (tokenizer.py): ISO 639-1, where that has one. It must not
know which of them a model speaks; callers say so.
"""

import difflib
from collections.abc import Collection, Mapping
from functools import cache

from remote.protocol import ErrorCode, KnownError

NAMES: Mapping[str, str] = dict(
    pair.split(":")
    for pair in """
en:English zh:Chinese de:German es:Spanish ru:Russian ko:Korean fr:French ja:Japanese
pt:Portuguese tr:Turkish pl:Polish ca:Catalan nl:Dutch ar:Arabic sv:Swedish it:Italian
id:Indonesian hi:Hindi fi:Finnish vi:Vietnamese he:Hebrew uk:Ukrainian el:Greek ms:Malay cs:Czech
ro:Romanian da:Danish hu:Hungarian ta:Tamil no:Norwegian th:Thai ur:Urdu hr:Croatian bg:Bulgarian
lt:Lithuanian la:Latin mi:Maori ml:Malayalam cy:Welsh sk:Slovak te:Telugu fa:Persian lv:Latvian
bn:Bengali sr:Serbian az:Azerbaijani sl:Slovenian kn:Kannada et:Estonian mk:Macedonian br:Breton
eu:Basque is:Icelandic hy:Armenian ne:Nepali mn:Mongolian bs:Bosnian kk:Kazakh sq:Albanian
sw:Swahili gl:Galician mr:Marathi pa:Punjabi si:Sinhala km:Khmer sn:Shona yo:Yoruba so:Somali
af:Afrikaans oc:Occitan ka:Georgian be:Belarusian tg:Tajik sd:Sindhi gu:Gujarati am:Amharic
yi:Yiddish lo:Lao uz:Uzbek fo:Faroese ht:Haitian_Creole ps:Pashto tk:Turkmen nn:Nynorsk
mt:Maltese sa:Sanskrit lb:Luxembourgish my:Burmese bo:Tibetan tl:Tagalog mg:Malagasy as:Assamese
tt:Tatar haw:Hawaiian ln:Lingala ha:Hausa ba:Bashkir jw:Javanese su:Sundanese yue:Cantonese
""".split()
)

_OTHER_WORDS: Mapping[str, str] = dict(
    pair.split(":")
    for pair in """
myanmar:my valencian:ca flemish:nl haitian:ht letzeburgesch:lb pushto:ps panjabi:pa moldavian:ro
moldovan:ro sinhalese:si castilian:es mandarin:zh farsi:fa filipino:tl bokmål:no nb:no iw:he jv:jw
in:id fil:tl cmn:zh deutsch:de français:fr español:es italiano:it português:pt nederlands:nl
polski:pl русский:ru українська:uk 中文:zh 日本語:ja 한국어:ko العربية:ar türkçe:tr svenska:sv
dansk:da norsk:no suomi:fi čeština:cs ελληνικά:el magyar:hu română:ro हिन्दी:hi עברית:he
""".split()
)
"""openai/whisper's other names, codes of other standards, and names in the language itself."""


def name_of(code: str) -> str:
    """The English name for a code; the code itself where it has none."""
    return NAMES.get(code, code).replace("_", " ")


def language_code(typed: str, spoken: Collection[str] = NAMES.keys()) -> str:
    """The code for what a user typed: "German", "deutsch", "de", "DE", "de-AT".

    Args:
        typed: name or code, in any case.
        spoken: codes that the model knows.

    Raises:
        KnownError: UNKNOWN_LANGUAGE with near names, or with the name of a language that the
            model does not know.
    """
    code = _code(typed)
    if code in spoken:
        return code
    if code in NAMES:
        raise KnownError(
            ErrorCode.UNKNOWN_LANGUAGE,
            f"This model does not know {name_of(code)}.",
            "Choose a multilingual model, such as base or turbo."
            if len(spoken) <= 1
            else "Choose a newer model, such as turbo, or another language.",
        )
    near = [_told(word) for word in difflib.get_close_matches(_key(typed), _words(), n=3)]
    raise KnownError(
        ErrorCode.UNKNOWN_LANGUAGE,
        f"There is no language {typed!r}.",
        f"Did you mean {', '.join(dict.fromkeys(near))}?"
        if near
        else "Give a name such as German or a code such as de, or leave it out to detect it.",
    )


def _code(typed: str) -> str:
    """A known code, or what was typed where it is nothing known."""
    words = _words()
    key = _key(typed)
    return words.get(key) or words.get(key.replace("_", "-").partition("-")[0], key)


@cache
def _words() -> Mapping[str, str]:
    names = {name_of(code).casefold(): code for code in NAMES}
    return {**{code: code for code in NAMES}, **names, **_OTHER_WORDS}


def _key(typed: str) -> str:
    return " ".join(typed.casefold().split())


def _told(word: str) -> str:
    code = _words()[word]
    return f"{name_of(code)} ({code})"
