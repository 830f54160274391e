"""The models known by a short name: hub id, pinned commit, size. Data alone: no files, no hub."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A model known by a short name: its hub id, the pinned commit, and bytes of its weights."""

    repo: str
    revision: str
    size_bytes: int


# Commits and sizes as the hub served them in September 2026; sizes of float32 or float16 weights
# as published. A size of 0 was not looked up.
CATALOGUE: Mapping[str, Entry] = {
    "tiny": Entry("openai/whisper-tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af", 151_061_672),
    "tiny.en": Entry(
        "openai/whisper-tiny.en", "87c7102498dcde7456f24cfd30239ca606ed9063", 151_060_136
    ),
    "base": Entry("openai/whisper-base", "e37978b90ca9030d5170a5c07aadb050351a65bb", 290_403_936),
    "base.en": Entry(
        "openai/whisper-base.en", "911407f4214e0e1d82085af863093ec0b66f9cd6", 290_401_888
    ),
    "small": Entry("openai/whisper-small", "973afd24965f72e36ca33b3055d56a652f456b4d", 966_995_080),
    "small.en": Entry(
        "openai/whisper-small.en", "e8727524f962ee844a7319d92be39ac1bd25655a", 966_992_008
    ),
    "medium": Entry(
        "openai/whisper-medium", "abdf7c39ab9d0397620ccaea8974cc764cd0953e", 3_055_544_304
    ),
    "medium.en": Entry(
        "openai/whisper-medium.en", "2e98eb6279edf5095af0c8dedb36bdec0acd172b", 3_055_540_208
    ),
    "large-v1": Entry(
        "openai/whisper-large", "4ef9b41f0d4fe232daafdb5f76bb1dd8b23e01d7", 6_173_370_152
    ),
    "large-v2": Entry(
        "openai/whisper-large-v2", "ae4642769ce2ad8fc292556ccea8e901f1530655", 6_173_370_152
    ),
    "large-v3": Entry(
        "openai/whisper-large-v3", "06f233fe06e710322aca913c1bc4249a0d71fce1", 3_087_130_976
    ),
    "turbo": Entry(
        "openai/whisper-large-v3-turbo", "41f01f3fe87f28c78e2fbf8b568835947dd65ed9", 1_617_824_864
    ),
    "distil-small.en": Entry(
        "distil-whisper/distil-small.en", "9e4a67ca4569c30be43a3fe7fba1621e504f0093", 0
    ),
    "distil-medium.en": Entry(
        "distil-whisper/distil-medium.en", "6e61418885eaf4d5cc9f64e508e80ac5b4c052b7", 0
    ),
    "distil-large-v2": Entry(
        "distil-whisper/distil-large-v2", "97d2c8f9cae1b0f6c8fc2e173495ee4cedc05843", 0
    ),
    "distil-large-v3": Entry(
        "distil-whisper/distil-large-v3", "8031d2e6ce6631b7fc45629dddfc00271116d981", 0
    ),
    "distil-large-v3.5": Entry(
        "distil-whisper/distil-large-v3.5",
        "728a7691f3ff1d3d971528d3203a6e9559165d41",
        3_025_686_376,
    ),
}
ALIASES: Mapping[str, str] = {"large": "large-v3", "large-v3-turbo": "turbo"} | {
    entry.repo: name for name, entry in CATALOGUE.items()
}
