"""Parts by name, opened with their defaults: knowledge bases, recognisers, models, embedders, rerankers, choosers.

Every ``open_…`` loads what a name or a folder stands for, and fetches weights that are not on this machine yet.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from vivavoce.retrieval import (
    Embedder,
    LocalKnowledge,
    Reranker,
    is_index,
)
from vivavoce.speech import (
    Recognizer,
    WhisperOptions,
    WhisperRecognizer,
)
from vivavoce.speech.lists.choosing import (
    BayesChooser,
    Chooser,
    FirstChooser,
    LanguageChooser,
    LanguageOptions,
    RoverChooser,
)

from .errors import ConfigError
from .model.chat import ChatModel, Device
from .model.embedder import default_embedder, sentence_embedder
from .model.gate import Gate, TokenGate
from .model.local import TransformersChatModel
from .model.readout import ReadOut
from .model.scorer import LanguageScorer
from .weights import ASR, EMBEDDING, LLM, REGISTRY, Progress, resolve

DEFAULT = "ctranslate2"
"""The engine of a recogniser that names none."""

METHODS = ("1best", "rover", "mbr", "lm", "corrector", "auto")
"""What ``open_chooser`` knows: the recogniser's best, a vote over words, the fewest expected errors, rescoring with
the language model, the same with an adapter, and the one of these that measures best."""

ADAPTER = Path(__file__).parent / "data" / "embedder"
"""The embedding adapter of the default language model."""

_STAGE = "config"
_WITHOUT_MODEL: Mapping[str, Callable[[], Chooser]] = MappingProxyType(
    {"1best": FirstChooser, "rover": RoverChooser, "mbr": BayesChooser}
)
"""The methods of choosing that read the list alone."""

_Model: TypeAlias = str | Path | None
_Progress: TypeAlias = Progress | None


def open_knowledge(
    path: str | Path,
    embedder: Embedder | None = None,
    *,
    device: Device = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> LocalKnowledge:
    """Open an index, or index a folder of documents in memory.

    Args:
        path: A folder.
        embedder: What the index is made with; by default the default one.
        device: Where vectors are made and searched.
        progress: Called with passages embedded so far and in all.

    Raises:
        RetrievalError: If the folder is neither.
    """
    embedder = embedder or default_embedder(device)
    if is_index(path):
        return LocalKnowledge.open(path, embedder, device=device)
    return LocalKnowledge.from_folder(path, embedder, device=device, progress=progress)


def open_recognizer(
    engine: str = DEFAULT,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    language: str | None = None,
    progress: Progress | None = None,
) -> Recognizer:
    """Load a recogniser.

    Args:
        engine: A name in ``ENGINES``, or ``"package.module:Class"`` for a class of your own, which is made without
            arguments and brings its own model.
        model: What the engine runs. For ``ctranslate2`` a name of the registry (default: ``whisper-base``), a folder
            or ``owner/name`` on the Hugging Face hub; for ``transformers`` and ``ctc`` a folder or ``owner/name``; for
            ``openai`` a checkpoint (``.pt``), or a name that its package downloads, such as ``base``.
        device: ``auto``, ``cpu`` or ``cuda``.
        language: ISO 639-1 code of what is spoken; None lets Whisper detect it, which short recordings and strong
            accents mislead, and is English for ``ctc``. A class of your own knows its language itself.
        progress: Told how a download goes.

    Raises:
        ConfigError: There is no such engine, its package is not installed, or the model is missing or of another kind.
        ModelUnavailable: The weights could not be fetched.
        ModelError: The weights are broken, or there is no GPU for ``cuda``.
    """
    if ":" in engine:
        if model is not None:
            raise ConfigError(f"{engine} brings its own model, so leave out {str(model)!r}.", stage=_STAGE)
        return _own(engine)
    if engine not in ENGINES:
        raise ConfigError(
            f"There is no engine {engine!r}; choose one of {', '.join(ENGINES)}, or name a class of your own as "
            "package.module:Class.",
            stage=_STAGE,
        )
    try:
        return ENGINES[engine](model, device, progress, language)
    except (ImportError, ValueError) as error:  # the latter: a language that the model does not know
        raise ConfigError(f"{error}.", stage=_STAGE) from error


def open_whisper(
    model: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    language: str | None = None,
    *,
    options: WhisperOptions | None = None,
) -> WhisperRecognizer:
    """Load the default engine, to decode as `options` say, or in a language.

    Raises:
        ModelUnavailable: The weights could not be fetched.
        ModelError: The weights are broken, or there is no GPU for ``cuda``.
    """
    options = options or WhisperOptions(language=language)
    return WhisperRecognizer(resolve(model or ASR, progress=progress), options=options, device=device)


def open_conversation_recognizer(recognizer: Recognizer | str | None, device: Device) -> Recognizer | None:
    """The recogniser of an assistant: a ready one as it is, else Whisper, set for conversations in English.

    Args:
        recognizer: A recogniser; the name or folder of a Whisper model; None for an assistant that only reads.
        device: Where Whisper runs.

    Raises:
        ModelUnavailable: The weights could not be fetched.
        ModelError: The weights are broken, or there is no GPU for ``cuda``.
    """
    if not isinstance(recognizer, str):
        return recognizer
    return open_whisper(recognizer, device, options=WhisperOptions(language="en").quick())


def _openai(model: _Model, device: str, progress: _Progress, language: str | None) -> Recognizer:
    from vivavoce.speech.engines.openai_whisper import OpenAIWhisperRecognizer

    checkpoint = _named("openai", model, "a .pt checkpoint or a name such as base")
    return OpenAIWhisperRecognizer(checkpoint, options=WhisperOptions(language=language), device=device)


def _transformers(model: _Model, device: str, progress: _Progress, language: str | None) -> Recognizer:
    from vivavoce.speech.engines.transformers_whisper import TransformersWhisperRecognizer

    name = _named("transformers", model, "a folder, or owner/name such as openai/whisper-base")
    options = WhisperOptions(language=language)
    return TransformersWhisperRecognizer(_folder(name, progress), options=options, device=device)


def _ctc(model: _Model, device: str, progress: _Progress, language: str | None) -> Recognizer:
    from vivavoce.speech.engines.ctc import CTCOptions, CTCRecognizer

    name = _named("ctc", model, "a folder, or owner/name such as facebook/wav2vec2-base-960h")
    options = CTCOptions(language=language or CTCOptions().language)
    return CTCRecognizer(_folder(name, progress), options=options, device=device)


ENGINES: Mapping[str, Callable[[_Model, str, _Progress, str | None], Recognizer]] = MappingProxyType(
    {"ctranslate2": open_whisper, "openai": _openai, "transformers": _transformers, "ctc": _ctc}
)
"""Engines by name: each opens a recogniser, from a model, a device, who is told of downloads, and a language."""


def _named(engine: str, model: str | Path | None, what: str) -> str | Path:
    if model is None:
        raise ConfigError(f"The engine {engine} has no model of its own; name {what}.", stage=_STAGE)
    return model


def _folder(model: str | Path, progress: Progress | None) -> Path:
    """The folder of a model; the registry's recognisers are no folders of transformers."""
    if isinstance(model, str) and model in REGISTRY and REGISTRY[model].kind == "asr":
        raise ConfigError(
            f"{model} is in CTranslate2's format; use the engine {DEFAULT}, or name a model in transformers' format.",
            stage=_STAGE,
        )
    return resolve(model, progress=progress)


def _own(engine: str) -> Recognizer:
    module, _, name = engine.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"Cannot make the recogniser {engine} ({error}); name a class that needs no arguments, as "
            "package.module:Class, in a module that Python can import here.",
            stage=_STAGE,
        ) from error
    if not callable(getattr(made, "transcribe", None)):
        raise ConfigError(f"{engine} has no method transcribe, so it is no Recognizer.", stage=_STAGE)
    recognizer: Recognizer = made
    return recognizer


def open_chat_model(model: ChatModel | str, device: Device) -> ChatModel:
    """The model of an assistant: a ready one as it is, else a causal language model with the read-out made for it.

    Args:
        model: A chat model, or the name or folder of one of transformers.
        device: Where it runs.

    Raises:
        ModelUnavailable: The weights could not be fetched, or are no such model.
        ConfigError: If there is no such name, or no GPU for ``cuda``.
    """
    if not isinstance(model, str):
        return model
    return TransformersChatModel(resolve(model), read_out=ReadOut.shipped(model), device=device)


def default_gate(model: ChatModel) -> Gate:
    """P(``<RET>``) against the threshold fitted for the model, or one half for a model without a trained read-out."""
    read_out = getattr(model, "read_out", None)
    return TokenGate(read_out.threshold if isinstance(read_out, ReadOut) else 0.5)


def is_small(model: ChatModel) -> bool:
    """Whether a model has under a billion parameters; such a model answers look-ups by quoting."""
    inner = getattr(model, "model", None)
    return inner is not None and sum(parameter.numel() for parameter in inner.parameters()) < 1e9


def open_embedder(
    name: str | Path = "",
    adapter: Path | None = None,
    *,
    task: str = "",
    device: str = "auto",
    progress: Progress | None = None,
) -> Embedder:
    """Load what makes vectors.

    Args:
        name: ``llm`` for the default language model with an embedding adapter; else a sentence-transformers model of
            the registry, a folder, or ``owner/name`` on the hub. Default: the default one.
        adapter: The embedding adapter of ``llm``; by default the one that ships with the package.
        task: What ``llm`` is to look for: ``knowledge`` (the default), ``memory``, ``tool`` or ``example``.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Told how a download goes.

    Raises:
        ConfigError: If there is no such task, or an adapter or a task is named for something else.
        ModelUnavailable: The weights could not be fetched.
        EmbeddingError: The model or the adapter cannot be loaded.
    """
    from vivavoce.retrieval import LLMEmbedder
    from vivavoce.retrieval.embedding.adapter import TASKS

    where: Any = device
    if str(name) == "llm":
        if task and task not in TASKS:
            raise ConfigError(f"A task is one of {', '.join(TASKS)}, not {task!r}.", stage=_STAGE)
        chat = TransformersChatModel(resolve(LLM, progress=progress), device=where)
        sought: Any = task or TASKS[0]
        return LLMEmbedder(chat.model, chat.tokenizer, adapter or ADAPTER, task=sought)
    if adapter is not None or task:
        given = "An adapter" if adapter is not None else "A task"
        raise ConfigError(f"{given} goes with the embedder llm, not with {name or EMBEDDING}.", stage=_STAGE)
    return sentence_embedder(name or EMBEDDING, where, progress)


def open_reranker(name: str, *, device: str = "auto", progress: Progress | None = None) -> Reranker:
    """Load what puts passages into a better order.

    Args:
        name: ``likelihood``, ``first`` or ``full`` for the default language model; else a cross-encoder: a folder, or
            ``owner/name`` on the hub.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Told how a download goes.

    Raises:
        ModelUnavailable: The weights could not be fetched.
        EmbeddingError: The cross-encoder cannot be loaded.
    """
    from vivavoce.retrieval import CrossEncoderReranker, LikelihoodReranker, ListwiseReranker

    where: Any = device
    if name not in ("likelihood", "first", "full"):
        return CrossEncoderReranker(resolve(name, progress=progress), device=where)
    chat = TransformersChatModel(resolve(LLM, progress=progress), device=where)
    if name == "likelihood":
        return LikelihoodReranker(chat.model, chat.tokenizer)
    return ListwiseReranker(chat.model, chat.tokenizer, window=20 if name == "first" else None)


def open_chooser(
    method: str,
    *,
    model: TransformersChatModel | None = None,
    adapter: str | Path | None = None,
    weights: str | Path | None = None,
    device: Device = "auto",
    progress: Progress | None = None,
) -> Chooser:
    """A chooser by name.

    Args:
        method: ``1best``; ``rover`` and ``mbr``, which need no model; ``lm``, rescoring with the language model;
            ``corrector``, the same with an adapter; ``auto``, the one that measures best: ``lm``.
        model: The language model, if one is loaded already.
        adapter: Of ``corrector``.
        weights: File that `vivavoce train chooser` wrote; by default those set by hand.
        device: Where a model that is loaded here runs.
        progress: Told how a download goes.

    Raises:
        ConfigError: If there is no such method, the adapter is missing, or the method takes no weights.
        ModelUnavailable: If the weights could not be fetched.
    """
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}", stage="config")
    if (method == "corrector") != (adapter is not None):
        raise ConfigError(
            "corrector needs an adapter, and only corrector takes one: `vivavoce train corrector` makes it",
            stage="config",
        )
    if method in _WITHOUT_MODEL:
        if weights is not None:
            raise ConfigError(f"{method} weighs no evidence: --weights goes with lm, corrector or auto", stage="config")
        return _WITHOUT_MODEL[method]()
    chat = model or TransformersChatModel(resolve(LLM, progress=progress), device=device)
    options = None if weights is None else LanguageOptions(weights=read_weights(Path(weights)))
    scorer = LanguageScorer(chat, adapter=adapter)
    return LanguageChooser(scorer, options=options, method="lm" if method == "auto" else method)


def read_weights(path: Path) -> dict[str, float]:
    """Weights of the evidence that a ``LanguageChooser`` weighs, as `vivavoce train chooser` wrote them.

    Returns:
        Weight by name of the evidence, see ``LanguageOptions.weights``.

    Raises:
        ConfigError: If the file holds none.
    """
    try:
        weights = {str(name): float(weight) for name, weight in json.loads(path.read_text("utf-8"))["weights"].items()}
        LanguageOptions(weights=weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} holds no weights ({error!r}): `vivavoce train chooser` makes them", stage="config"
        ) from error
    return weights


def import_shared() -> None:
    """What several parts import: CTranslate2 and we transformers, the voice and the embedder scipy.

    Two threads that begin to at once may find it half imported.
    """
    with suppress(ImportError):  # the voice does without
        importlib.import_module("scipy.fft")
    from transformers import AutoModelForCausalLM  # noqa: F401
