"""Causal language models of transformers, run here."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vivavoce.retrieval import DeviceUnavailable
from vivavoce.retrieval.embedding.identity import model_name
from vivavoce.retrieval.embedding.loading import quiet_loading, torch_device

from ..concurrency import on_model_thread
from ..errors import ConfigError, GenerationError, ModelUnavailable
from .chat import Device, FirstToken, without_sentinel
from .prompts import SENTINEL, Message
from .readout import ReadOut


@dataclass(frozen=True, slots=True)
class LocalModelOptions:
    """How a local model runs.

    Attributes:
        dtype: ``auto`` is bfloat16 where the processor or GPU computes in it, else float32.
        decode: ``int8`` reads weights of one byte while single tokens are decoded, which is bound by memory: 2x on an
            AVX-512 CPU. Prefill, bound by arithmetic, keeps the full weights. ``auto`` is int8 on such a CPU.
        max_prompt_tokens: Longest prompt; None is what the model was trained on.
        idle_streams: How many finished key/value streams are kept for reuse by prompts that begin the same way.
    """

    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    decode: Literal["auto", "int8", "full"] = "auto"
    max_prompt_tokens: int | None = None
    idle_streams: int = 4

    def __post_init__(self) -> None:
        if self.idle_streams < 0:
            raise ConfigError(f"idle_streams must be 0 or more, not {self.idle_streams}", stage="config")
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ConfigError(f"max_prompt_tokens must be positive, not {self.max_prompt_tokens}", stage="config")


class _Stream:
    """A key/value cache and the tokens it holds."""

    def __init__(self, cache: Any, tokens: list[int]) -> None:
        self.cache = cache
        self.tokens = tokens

    def common(self, tokens: Sequence[int]) -> int:
        """How many leading tokens this stream shares with others."""
        n = 0
        for mine, theirs in zip(self.tokens, tokens, strict=False):
            if mine != theirs:
                break
            n += 1
        return n

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many leading tokens of a prompt need not be read again.

        The last is always read: the answer begins with its logits. So is the one before, because one token alone would
        be read with the weights of the decoder, and the same prompt must not be read in two ways.
        """
        return max(0, min(self.common(tokens), len(tokens) - 2))

    def crop(self, n: int) -> None:
        """Forget everything behind the first n tokens."""
        if n < len(self.tokens):
            self.cache.crop(n - len(self.tokens))  # a negative number: how many to remove
            del self.tokens[n:]


class TransformersChatModel:
    """A causal language model of transformers, loaded once and never changed.

    Several generations may live at once, from several threads: each owns its stream, one forward pass runs at a time,
    on the model thread.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        read_out: ReadOut | None = None,
        device: Device = "auto",
        options: LocalModelOptions | None = None,
    ) -> None:
        """Load a model.

        Args:
            folder: With config, safetensors and a tokenizer that has a chat template.
            read_out: The trained reader of P(``<RET>``); without one it is the probability that the answer begins with
                the sentinel's text, all of its tokens.
            device: ``auto`` takes the GPU if there is one.
            options: How it runs.

        Raises:
            ModelUnavailable: If the folder is not such a model.
            ConfigError: If cuda is asked for and there is none.
        """
        self.options = options or LocalModelOptions()
        self.device = pick_device(device)
        self.tokenizer, self.model = on_model_thread(lambda: self._load(folder))
        self.name = model_name(folder)
        self.read_out = read_out
        if read_out is not None:
            read_out.check(self.model.config)
        self._limit = self.options.max_prompt_tokens or int(self.model.config.max_position_embeddings)
        self._special = sorted(
            {*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()}, key=len, reverse=True
        )
        self._ends = _end_tokens(self.model, self.tokenizer)
        self._idle: list[_Stream] = []
        self._idle_lock = threading.Lock()

    def begin(self, messages: Sequence[Message]) -> LocalGeneration:
        """Read a prompt, or as much of it as no idle stream has read already; see ``ChatModel.begin``."""
        if not messages:
            raise GenerationError("A prompt needs at least one message", stage="answer")
        tokens = self.tokens(messages)
        return on_model_thread(lambda: LocalGeneration(self, messages, tokens, self._take(tokens)))

    def warm(self, messages: Sequence[Message]) -> None:
        """Read the beginning that prompts will have, and decode once, so that the first turn waits for neither."""
        generation = self.begin([*messages, {"role": "user", "content": "Hello."}])
        next(generation.stream(2), None)
        generation.close()

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt as token ids, ending where the answer begins.

        Control tokens inside a message are broken up first: text from a user or a document cannot end its own message.

        Raises:
            GenerationError: If it is longer than the model can read.
        """
        harmless = [{"role": message["role"], "content": self._harmless(message["content"])} for message in messages]
        text = self.tokenizer.apply_chat_template(harmless, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) > self._limit:
            raise GenerationError(
                f"The prompt has {len(ids)} tokens, {self.name} reads {self._limit}: give it less to read",
                stage="answer",
            )
        return ids

    def forward(self, stream: _Stream, tokens: Sequence[int], *, states: bool = False) -> Any:
        """Run the model over new tokens of a stream, on the model thread; the last token's logits only."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([tokens], device=self.device)
            output = cached_forward(self.model, ids, stream.cache, logits_to_keep=1, output_hidden_states=states)
        stream.tokens.extend(tokens)
        return output

    def is_end(self, token: int) -> bool:
        """Whether a token ends the answer."""
        return token in self._ends

    def keep(self, stream: _Stream) -> None:
        """Take back the stream of a finished generation."""
        with self._idle_lock:
            self._idle.append(stream)
            del self._idle[: max(0, len(self._idle) - self.options.idle_streams)]

    def _take(self, tokens: Sequence[int]) -> _Stream:
        """A stream that holds as much of a prompt's beginning as any idle one does.

        It is a copy, so that the beginning stays there for other conversations: milliseconds for some hundred tokens.
        """
        from transformers import DynamicCache

        stream = _Stream(DynamicCache(config=self.model.config), [])
        if any(stream.cache.is_sliding):  # a sliding window has forgotten the beginning
            return stream
        with self._idle_lock:
            best = max(self._idle, key=lambda idle: idle.common(tokens), default=None)
            n = 0 if best is None else best.reusable(tokens)
            if best is not None and n > 0:
                self._idle.append(self._idle.pop(self._idle.index(best)))
                for number, layer in enumerate(best.cache.layers):
                    stream.cache.update(layer.keys[..., :n, :].clone(), layer.values[..., :n, :].clone(), number)
                stream.tokens.extend(tokens[:n])
        return stream

    def _load(self, folder: str | Path) -> tuple[Any, Any]:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        dtype = pick_dtype(self.options.dtype, self.device)
        try:
            with quiet_loading():
                tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
                model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelUnavailable(
                f"{folder} holds no language model that transformers can load ({error}); "
                "`vivavoce models verify` checks the weights, `vivavoce models fetch` fetches them again",
                stage="models",
            ) from error
        if not tokenizer.chat_template:
            raise ModelUnavailable(
                f"The tokenizer in {folder} has no chat template: take an instruct model", stage="models"
            )
        model = model.eval().to(self.device)
        model.requires_grad_(False)
        if decodes_in_int8(self.options.decode, self.device, dtype):
            _decode_in_int8(model, torch)
        return tokenizer, model

    def _harmless(self, text: str) -> str:
        for special in self._special:
            if len(special) > 1:
                text = text.replace(special, f"{special[0]} {special[1:]}")
        return text


class LocalGeneration:
    """An answer of a ``TransformersChatModel``; see ``Generation``."""

    def __init__(
        self, model: TransformersChatModel, messages: Sequence[Message], tokens: list[int], stream: _Stream
    ) -> None:
        self._model = model
        self._messages = list(messages)
        self._stream: _Stream | None = stream
        self._logits: Any = None  # of the next token, shape (1, vocabulary)
        self._next = -1  # the likeliest next token
        self._states: Any = None  # of the prompt's last token, shape (layers + 1, hidden size)
        self.prefilled = 0
        self._read(tokens, states=True)
        self.first = self._first()

    def extend(self, messages: Sequence[Message]) -> None:
        """Append messages to the stream.

        Raises:
            GenerationError: If the generation is closed, or the prompt gets longer than the model can read.
        """
        self._alive()
        longer = [*self._messages, *messages]
        tokens = self._model.tokens(longer)
        on_model_thread(lambda: self._read(tokens))
        self._messages = longer

    def stream(self, max_tokens: int = 96) -> Iterator[str]:
        """Greedy decoding; see ``Generation.stream``."""
        return without_sentinel(self._pieces(max_tokens))

    def score(self, answers: Sequence[str]) -> tuple[float, ...]:
        """How likely each text is as the whole answer from here: mean log-probability per token, nats.

        Raises:
            GenerationError: If the generation is closed.
        """
        return on_model_thread(lambda: tuple(self._score(answer) for answer in answers))

    def state(self, layer: int) -> NDArray[np.float32]:
        """The hidden state of one layer from which the first token is predicted; float32, shape (hidden_size,).

        Layers are counted as transformers does: 0 is the embedding.
        """
        state: NDArray[np.float32] = self._states[layer].float().cpu().numpy()
        return state

    def close(self) -> None:
        """Hand the stream back for reuse."""
        if self._stream is not None:
            self._model.keep(self._stream)
            self._stream = None

    def _read(self, tokens: list[int], *, states: bool = False) -> None:
        import torch

        stream = self._alive()
        stream.crop(stream.reusable(tokens))
        new = tokens[len(stream.tokens) :]
        output = self._model.forward(stream, new, states=states)
        self.prefilled += len(new)
        if states:
            self._states = torch.stack([layer[0, -1] for layer in output.hidden_states])
        self._set_next(output)

    def _first(self) -> FirstToken:
        log_probs = self._logits[0].float().log_softmax(-1)
        top = log_probs.topk(2).values
        return FirstToken(
            ret_probability=self._ret_probability(),
            top_probability=float(top[0].exp()),
            margin=float(top[0] - top[1]),
            entropy=float(-(log_probs.exp() * log_probs).nansum()),
        )

    def _ret_probability(self) -> float:
        read_out = self._model.read_out
        if read_out is not None:
            return read_out.probability(self.state(read_out.layer))
        # All of the sentinel's tokens: the first alone, "<" for many tokenizers, begins "<b>" as well.
        return float(self._log_probs(SENTINEL).sum().exp())

    def _score(self, answer: str) -> float:
        return float(self._log_probs(answer).mean())

    def _log_probs(self, answer: str) -> Any:
        """Log-probabilities of an answer's tokens from here; float32, shape (tokens,), nats. The stream stays."""
        import torch

        stream = self._alive()
        ids: list[int] = self._model.tokenizer(answer, add_special_tokens=False).input_ids
        logits = self._logits
        with torch.inference_mode():
            if len(ids) > 1:
                new = torch.tensor([ids[:-1]], device=self._model.device)
                # What slid out of a window does not come back by cropping: such a cache is read from in a copy.
                sliding = any(stream.cache.is_sliding)
                cache = copy.deepcopy(stream.cache) if sliding else stream.cache
                logits = torch.cat([logits, cached_forward(self._model.model, new, cache).logits[0]])
                if not sliding:
                    cache.crop(1 - len(ids))
            return logits.float().log_softmax(-1)[torch.arange(len(ids)), ids]

    def _pieces(self, max_tokens: int) -> Iterator[str]:
        self._alive()
        written: list[int] = []
        said = ""
        for _ in range(max_tokens):
            if self._model.is_end(self._next):
                return
            written.append(self._next)
            text = str(self._model.tokenizer.decode(written, skip_special_tokens=True))
            if not text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) > len(said):
                yield text[len(said) :]
                said = text
            on_model_thread(self._step)

    def _step(self) -> None:
        self._set_next(self._model.forward(self._alive(), [self._next]))

    def _set_next(self, output: Any) -> None:
        self._logits = output.logits[0, -1:]
        self._next = int(self._logits.argmax(-1))

    def _alive(self) -> _Stream:
        if self._stream is None:
            raise GenerationError("This generation is closed: begin another one", stage="answer")
        return self._stream


def cached_forward(model: Any, ids: Any, cache: Any, **options: Any) -> Any:
    """A model's output for token ids, shape (batch, tokens), behind those in a cache, which gets them too."""
    return model(ids, **{_cache_name(type(model).forward): cache}, **options)


@functools.cache
def _cache_name(forward: Any) -> str:
    # transformers calls it `cache` from 5.24 on and warns of the name that it had before. Looked up once, because
    # there is a call for each token.
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def pick_device(device: Device) -> str:
    """The device to run on.

    Raises:
        ConfigError: If cuda is asked for and there is none.
    """
    try:
        return torch_device(device)
    except DeviceUnavailable as error:
        raise ConfigError("There is no CUDA device here: take device auto or cpu", stage="config") from error
    except ValueError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, not {device!r}", stage="config") from error


def pick_dtype(dtype: str, device: str) -> Any:
    """The torch.dtype to compute in; see ``LocalModelOptions.dtype``."""
    import torch

    if dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, dtype)


def decodes_in_int8(decode: str, device: str, dtype: Any) -> bool:
    """Whether single tokens are decoded from one-byte weights; see ``LocalModelOptions.decode``."""
    import torch

    able = device == "cpu" and dtype == torch.bfloat16 and hasattr(torch, "_weight_int8pack_mm")
    if decode == "int8" and not able:
        raise ConfigError("int8 decoding needs a CPU and bfloat16 weights: take decode='auto'", stage="config")
    return able if decode != "full" else False


def _decode_in_int8(model: Any, torch: Any) -> None:
    """Give every linear layer a second, one-byte copy of its weights for single tokens.

    Symmetric, one scale per output row, activations untouched: |w - scale * q| <= scale / 2.
    """

    class Int8Decode(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, full: Any) -> None:
            super().__init__()
            self.full = full
            weight = full.weight.float()
            scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
            self.register_buffer("packed", (weight / scale[:, None]).round().to(torch.int8), persistent=False)
            self.register_buffer("scale", scale.to(full.weight.dtype), persistent=False)

        def forward(self, states: Any) -> Any:
            if states.shape[:-1].numel() > 1:
                return self.full(states)
            out = torch._weight_int8pack_mm(states.reshape(1, -1), self.packed, self.scale)
            if self.full.bias is not None:
                out = out + self.full.bias
            return out.view(*states.shape[:-1], -1)

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, Int8Decode(child))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
