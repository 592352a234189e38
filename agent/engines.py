"""Recognisers, embedders and rerankers by name: which engine hears, what makes vectors, and with which model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from vivavoce.retrieval import Embedder, Reranker
from vivavoce.speech import Recognizer, WhisperOptions, WhisperRecognizer

from . import models
from .errors import ConfigError

_Model: TypeAlias = str | Path | None
_Progress: TypeAlias = models.Progress | None
_STAGE = "config"
DEFAULT = "ctranslate2"


def open_recognizer(
    engine: str = DEFAULT,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    language: str | None = None,
    progress: models.Progress | None = None,
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
    progress: models.Progress | None = None,
    language: str | None = None,
    *,
    options: WhisperOptions | None = None,
) -> WhisperRecognizer:
    """Load the default engine, to decode as `options` say, or in a language.

    Raises:
        ModelUnavailable: The weights could not be fetched.
        ModelError: The weights are broken, or there is no GPU for ``cuda``.
    """
    from .assistant import ASR

    options = options or WhisperOptions(language=language)
    return WhisperRecognizer(models.resolve(model or ASR, progress=progress), options=options, device=device)


ADAPTER = Path(__file__).parent / "embedder"
"""The embedding adapter of the default language model."""


def open_embedder(
    name: str | Path = "",
    adapter: Path | None = None,
    *,
    task: str = "",
    device: str = "auto",
    progress: models.Progress | None = None,
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
    from vivavoce.retrieval import LLMEmbedder, SentenceTransformerEmbedder
    from vivavoce.retrieval.adapter import TASKS

    from .assistant import EMBEDDING, LLM
    from .llm import TransformersChatModel

    where: Any = device
    if str(name) == "llm":
        if task and task not in TASKS:
            raise ConfigError(f"A task is one of {', '.join(TASKS)}, not {task!r}.", stage=_STAGE)
        chat = TransformersChatModel(models.resolve(LLM, progress=progress), device=where)
        sought: Any = task or TASKS[0]
        return LLMEmbedder(chat.model, chat.tokenizer, adapter or ADAPTER, task=sought)
    if adapter is not None or task:
        given = "An adapter" if adapter is not None else "A task"
        raise ConfigError(f"{given} goes with the embedder llm, not with {name or EMBEDDING}.", stage=_STAGE)
    return SentenceTransformerEmbedder(models.resolve(name or EMBEDDING, progress=progress), device=where)


def open_reranker(name: str, *, device: str = "auto", progress: models.Progress | None = None) -> Reranker:
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

    from .assistant import LLM
    from .llm import TransformersChatModel

    where: Any = device
    if name not in ("likelihood", "first", "full"):
        return CrossEncoderReranker(models.resolve(name, progress=progress), device=where)
    chat = TransformersChatModel(models.resolve(LLM, progress=progress), device=where)
    if name == "likelihood":
        return LikelihoodReranker(chat.model, chat.tokenizer)
    return ListwiseReranker(chat.model, chat.tokenizer, window=20 if name == "first" else None)


def _openai(model: _Model, device: str, progress: _Progress, language: str | None) -> Recognizer:
    from vivavoce.speech.openai_whisper import OpenAIWhisperRecognizer

    checkpoint = _named("openai", model, "a .pt checkpoint or a name such as base")
    return OpenAIWhisperRecognizer(checkpoint, options=WhisperOptions(language=language), device=device)


def _transformers(model: _Model, device: str, progress: _Progress, language: str | None) -> Recognizer:
    from vivavoce.speech.transformers_whisper import TransformersWhisperRecognizer

    name = _named("transformers", model, "a folder, or owner/name such as openai/whisper-base")
    options = WhisperOptions(language=language)
    return TransformersWhisperRecognizer(_folder(name, progress), options=options, device=device)


def _ctc(model: _Model, device: str, progress: _Progress, language: str | None) -> Recognizer:
    from vivavoce.speech.ctc import CTCOptions, CTCRecognizer

    name = _named("ctc", model, "a folder, or owner/name such as facebook/wav2vec2-base-960h")
    options = CTCOptions(language=language or CTCOptions().language)
    return CTCRecognizer(_folder(name, progress), options=options, device=device)


ENGINES: Mapping[str, Callable[[_Model, str, _Progress, str | None], Recognizer]] = MappingProxyType(
    {"ctranslate2": open_whisper, "openai": _openai, "transformers": _transformers, "ctc": _ctc}
)
"""How each engine is opened: from a model, a device, who is told of downloads, and a language."""


def _named(engine: str, model: str | Path | None, what: str) -> str | Path:
    if model is None:
        raise ConfigError(f"The engine {engine} has no model of its own; name {what}.", stage=_STAGE)
    return model


def _folder(model: str | Path, progress: models.Progress | None) -> Path:
    """The folder of a model; the registry's recognisers are no folders of transformers."""
    if isinstance(model, str) and model in models.REGISTRY and models.REGISTRY[model].kind == "asr":
        raise ConfigError(
            f"{model} is in CTranslate2's format; use the engine {DEFAULT}, or name a model in transformers' format.",
            stage=_STAGE,
        )
    return models.resolve(model, progress=progress)


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
