"""Any OpenAI-compatible endpoint (vLLM, Ollama, llama.cpp, a hosted service) as a chat model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, EndpointError, GenerationError
from .chat import FirstToken, without_sentinel
from .prompts import SENTINEL, Message, ask_for_sentinel


class OpenAIChatModel:
    """A model behind an endpoint, told by its instructions to write ``<RET>`` when it wants to look something up.

    One streamed request is both the decision and the start of the answer. Where the endpoint gives log-probabilities,
    P(``<RET>``) is the probability of the tokens that spell the sentinel; else it is 1 or 0 by what the model wrote.
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
            timeout: Seconds to wait for the endpoint, each time it is to send something.
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
        """Send the prompt, and read until the answer is known to be the sentinel or not; see ``ChatModel.begin``."""
        if not messages:
            raise GenerationError("A prompt needs at least one message", stage="answer")
        return RemoteGeneration(self, messages)

    def request(self, messages: Sequence[Message], max_tokens: int = 256) -> Any:
        """Open a streamed completion: greedy, with log-probabilities and usage where the endpoint gives them.

        Args:
            messages: The chat so far, the user's turn last.
            max_tokens: The longest answer.

        Returns:
            The client's stream of chunks; whoever asked closes it.

        Raises:
            EndpointError: If the endpoint does not answer.
        """
        import openai

        extras = dict(_EXTRAS)
        while True:
            request = {name: value for options in extras.values() for name, value in options.items()}
            try:
                return self._client.chat.completions.create(
                    model=self.name,
                    messages=list(messages),
                    stream=True,
                    temperature=0,
                    max_tokens=max_tokens,
                    **request,
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                # Some endpoints refuse requests that ask for log-probabilities or usage; they are asked again without.
                refused = [word for word in extras if word in str(error).lower()]
                if not refused:
                    raise EndpointError(f"{self.name} refused the request: {error}", stage="answer") from error
                for word in refused:
                    del extras[word]
            except openai.OpenAIError as error:
                retryable = isinstance(
                    error, openai.APIConnectionError | openai.RateLimitError | openai.InternalServerError
                )
                raise EndpointError(
                    f"{self.name} does not answer: {error}. Is the endpoint running, and base_url right?",
                    stage="answer",
                    retryable=retryable,
                ) from error


_EXTRAS: dict[str, dict[str, Any]] = {
    "logprob": {"logprobs": True, "top_logprobs": 5},
    "stream_options": {"stream_options": {"include_usage": True}},
}
"""What is asked for beside the answer, by the word with which endpoints that do not know it refuse."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that an endpoint wrote, its log-probability in nats, and the likeliest ones in its place with theirs."""

    text: str
    log_prob: float
    top: dict[str, float] = field(default_factory=dict)


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
        """Send the chat with more messages; the endpoint's own prefix cache decides what is read again.

        Raises:
            GenerationError: If the generation is closed.
            EndpointError: If the endpoint does not answer; the generation is closed then.
        """
        self._check_open()
        self.close()
        self._messages += messages
        self._ask(offering=False)

    def stream(self, max_tokens: int = 96) -> Iterator[str]:
        """What the endpoint writes, at most about `max_tokens` pieces; see ``Generation.stream``."""
        self._check_open()
        for n, piece in enumerate(without_sentinel(self._pieces or iter(()))):
            if n >= max_tokens:
                break
            self._check_open()  # what has come already is not handed on once somebody hung up
            yield piece

    def close(self) -> None:
        """Hang up."""
        response, self._response, self._pieces = self._response, None, None
        if response is not None:
            response.close()

    def _check_open(self) -> None:
        if self._response is None:
            raise _closed()

    def _ask(self, *, offering: bool) -> FirstToken:
        """Send the chat, and read as much of the answer as tells the sentinel from any other answer."""
        self._response = self._model.request(self._offered() if offering else self._messages)
        try:
            chunks = self._chunks(self._response)
            written = ""
            tokens: list[_Token] = []
            # After the sentinel, too, one more chunk is awaited: a model that does as it is told ends there, and the
            # end brings the usage.
            for text, new_tokens in chunks:
                written += text
                tokens += new_tokens
                if not SENTINEL.startswith(written.strip()):
                    break
        except BaseException:  # nobody else could hang up: without this generation there is nothing to close
            self.close()
            raise
        self._pieces = _chained(written, chunks)
        return _first_token(written, tokens)

    def _offered(self) -> list[Message]:
        """The chat, with the offer to look something up in its instructions."""
        system = self._messages[0]["role"] == "system"
        instructions = self._messages[0]["content"] if system else "You are a voice assistant."
        return [{"role": "system", "content": ask_for_sentinel(instructions)}, *self._messages[int(system) :]]

    def _chunks(self, response: Any) -> Iterator[tuple[str, list[_Token]]]:
        """Pieces of the answer, each with its tokens where the endpoint tells them."""
        import openai

        already_prefilled = self.prefilled
        try:
            for chunk in response:
                if chunk.usage:
                    self.prefilled = already_prefilled + _prompt_tokens(chunk.usage)
                if chunk.choices:
                    choice = chunk.choices[0]
                    text = choice.delta.content or ""
                    entries = (choice.logprobs and choice.logprobs.content) or ()
                    # Tokens without text are of the role, or of what a model thinks before it answers.
                    yield text, [_token(entry) for entry in entries] if text else []
                    if self._response is not response:  # hung up meanwhile: there is nothing to read from any more
                        raise _closed()
        # The last three: what came is no JSON, or JSON of another kind.
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:
            raise EndpointError(f"{self._model.name} broke off: {error}", stage="answer", retryable=True) from error


def _closed() -> GenerationError:
    return GenerationError("This generation is closed: begin another one", stage="answer")


def _prompt_tokens(usage: Any) -> int:
    """Tokens of the prompt that the endpoint read, without those that it says it had in its cache."""
    details = getattr(usage, "prompt_tokens_details", None)
    return int(usage.prompt_tokens) - int(getattr(details, "cached_tokens", None) or 0)


def _token(entry: Any) -> _Token:
    return _Token(entry.token, entry.logprob, {other.token: other.logprob for other in entry.top_logprobs or ()})


def _chained(begun: str, chunks: Iterator[tuple[str, Any]]) -> Iterator[str]:
    yield begun
    for text, _ in chunks:
        yield text


def _first_token(written: str, tokens: Sequence[_Token]) -> FirstToken:
    """What the beginning of an answer says, from its text and, where the endpoint tells them, its tokens."""
    if not tokens or not tokens[0].top:
        return FirstToken(1.0 if _is_sentinel(written) else 0.0)
    ranked = sorted(tokens[0].top.values(), reverse=True)
    return FirstToken(
        ret_probability=_ret_probability(written, tokens),
        top_probability=math.exp(ranked[0]),
        margin=ranked[0] - ranked[1] if len(ranked) > 1 else math.nan,
    )


def _ret_probability(written: str, tokens: Sequence[_Token]) -> float:
    """P(``<RET>``) as far as it is known: over all spellings seen, the product of their tokens' probabilities.

    A spelling is either what was written, or branches off from it with a token that completes the word. A bare "<"
    that was not written counts for nothing: it begins "<b>" as well.
    """
    total, along, path = 0.0, 1.0, ""
    for token in tokens:
        for other, log_prob in token.top.items():
            if other != token.text and _is_unmistakable(path + other):
                total += along * math.exp(log_prob)
        along *= math.exp(token.log_prob)
        path += token.text
        if _is_sentinel(path) or not SENTINEL.startswith(path.lstrip()):
            break
    return min(1.0, total + (along if _is_sentinel(written) else 0.0))


def _is_sentinel(text: str) -> bool:
    return text.lstrip().startswith(SENTINEL)


def _is_unmistakable(text: str) -> bool:
    """Whether a text is the sentinel, or can hardly become anything else: all that it lacks is the bracket."""
    return _is_sentinel(text) or text.strip() == SENTINEL[:-1]
