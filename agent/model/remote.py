"""Any OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp, a hosted service) as a chat model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ConfigError, EndpointError, GenerationError
from .chat import FirstToken, without_sentinel
from .prompts import SENTINEL, Message, ask_for_sentinel


class OpenAIChatModel:
    """A model behind an endpoint, told by its instructions to write ``<RET>`` when it wants to look something up.

    One streamed request is both the decision and the start of the answer. Where the endpoint gives log-probabilities,
    P(``<RET>``) is what its first token gives to beginnings of the sentinel; else it is 1 or 0 by what the model wrote.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        client: Any = None,
    ) -> None:
        """Name a model and where it is served.

        Args:
            model: As the endpoint names it.
            base_url: Of the endpoint; None asks the client's own settings.
            api_key: None asks the client's own settings.
            timeout: Seconds.
            client: A ready ``openai.OpenAI``; the three settings above are then not used.

        Raises:
            ImportError: If the `openai` extra is not installed.
            ConfigError: If the client cannot be made, for want of a key for instance.
        """
        if client is None:
            try:
                import openai
            except ImportError as error:
                raise ImportError("Remote models need the openai client: pip install 'vivavoce[openai]'") from error
            try:
                client = openai.OpenAI(base_url=base_url, api_key=api_key, timeout=timeout)
            except openai.OpenAIError as error:
                raise ConfigError(f"Cannot make a client for {model}: {error}", stage="config") from error
        self.name = model
        self._client = client

    def begin(self, messages: Sequence[Message]) -> RemoteGeneration:
        """Send the prompt and read the first token; see ``ChatModel.begin``."""
        if not messages:
            raise GenerationError("A prompt needs at least one message", stage="answer")
        return RemoteGeneration(self, messages)

    def request(self, messages: Sequence[Message], max_tokens: int = 256) -> Any:
        """Open a streamed completion; greedy.

        Raises:
            EndpointError: If the endpoint does not answer.
        """
        import openai

        wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": 5}
        for extra in (wanted, {}):
            try:
                return self._client.chat.completions.create(
                    model=self.name, messages=list(messages), stream=True, temperature=0, max_tokens=max_tokens, **extra
                )
            except openai.BadRequestError as error:
                # Some endpoints refuse to be asked for log-probabilities; they are asked again without.
                if extra and "logprob" in str(error).lower():
                    continue
                raise EndpointError(f"{self.name} refused the request: {error}", stage="answer") from error
            except openai.OpenAIError as error:
                retryable = isinstance(
                    error, openai.APIConnectionError | openai.RateLimitError | openai.InternalServerError
                )
                raise EndpointError(
                    f"{self.name} does not answer: {error}. Is the endpoint running, and base_url right?",
                    stage="answer",
                    retryable=retryable,
                ) from error
        raise EndpointError(f"{self.name} refused the request with and without logprobs", stage="answer")


class RemoteGeneration:
    """An answer of an ``OpenAIChatModel``; see ``Generation``."""

    def __init__(self, model: OpenAIChatModel, messages: Sequence[Message]) -> None:
        self._model = model
        self._messages = list(messages)
        self._pieces: Iterator[str] | None = None
        self._response: Any = None
        self.prefilled = 0
        self.first = self._ask(offering=True)

    def extend(self, messages: Sequence[Message]) -> None:
        """Send the chat with more messages; the endpoint's own prefix cache decides what is read again."""
        self.close()
        self._messages += messages
        self._ask(offering=False)

    def stream(self, max_tokens: int = 96) -> Iterator[str]:
        """What the endpoint writes, at most about `max_tokens` pieces."""
        if self._pieces is None:
            raise GenerationError("This generation is closed: begin another one", stage="answer")
        for n, piece in enumerate(without_sentinel(self._pieces)):
            if n >= max_tokens:
                break
            yield piece

    def close(self) -> None:
        """Hang up."""
        if self._response is not None:
            self._response.close()
        self._response = self._pieces = None

    def _ask(self, *, offering: bool) -> FirstToken:
        messages = list(self._messages)
        if offering and messages[0]["role"] == "system":
            messages[0] = {"role": "system", "content": ask_for_sentinel(messages[0]["content"])}
        elif offering:
            messages.insert(0, {"role": "system", "content": ask_for_sentinel("You are a voice assistant.")})
        self._response = self._model.request(messages)
        chunks = self._chunks(self._response)
        begun, top = "", None
        for text, logprobs in chunks:
            top = logprobs if top is None else top
            begun += text
            # Enough has come to tell the sentinel from any other answer.
            if begun.strip() and not SENTINEL.startswith(begun.strip()):
                break
        self._pieces = _chained(begun, chunks)
        return _first(begun, top)

    def _chunks(self, response: Any) -> Iterator[tuple[str, list[tuple[str, float]] | None]]:
        import openai

        try:
            for chunk in response:
                if not chunk.choices:
                    self.prefilled += chunk.usage.prompt_tokens if chunk.usage else 0
                    continue
                choice = chunk.choices[0]
                tokens = choice.logprobs.content if choice.logprobs and choice.logprobs.content else None
                top = [(entry.token, entry.logprob) for entry in tokens[0].top_logprobs] if tokens else None
                yield choice.delta.content or "", top
        except (openai.OpenAIError, ValueError) as error:  # ValueError: what came is no JSON
            raise EndpointError(f"{self._model.name} broke off: {error}", stage="answer", retryable=True) from error


def _chained(begun: str, chunks: Iterator[tuple[str, Any]]) -> Iterator[str]:
    yield begun
    for text, _ in chunks:
        yield text


def _first(begun: str, top: list[tuple[str, float]] | None) -> FirstToken:
    if not top:
        return FirstToken(1.0 if begun.strip().startswith(SENTINEL) else 0.0)
    ranked = sorted((log_prob for _, log_prob in top), reverse=True)
    ret = sum(math.exp(log_prob) for token, log_prob in top if token.strip() and SENTINEL.startswith(token.strip()))
    return FirstToken(
        ret_probability=min(1.0, ret),
        top_probability=math.exp(ranked[0]),
        margin=ranked[0] - ranked[1] if len(ranked) > 1 else math.nan,
    )
