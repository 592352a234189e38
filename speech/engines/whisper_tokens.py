"""Whisper's tokenizer: its special tokens by name, and text to and from the others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from ..errors import ModelError

CONTEXT = 448
"""Tokens that Whisper's decoder takes, prompt included (Radford et al. 2022, https://arxiv.org/abs/2212.04356)."""

MULTILINGUAL = 51_865
"""Entries in the smallest multilingual vocabulary; English-only models have fewer."""

_MAX_PROMPT = CONTEXT // 2 - 1
"""Tokens of what was said before: half of the context, less the one that announces them."""


class WhisperTokens:
    """The vocabulary of a Whisper model, from its `tokenizer.json`.

    Args:
        path: The file.
        multilingual: Whether the model knows more than English.
        advice: What to do if the file is broken, for the message.

    Attributes:
        begin: The token that opens a transcript.
        end: The one that closes it; those below are text.
        no_speech: The one that says that nobody spoke.
        languages: Tokens by ISO 639-1 code; empty for an English-only model.

    Raises:
        ModelError: If the file is broken, or not Whisper's.
    """

    def __init__(self, path: str | os.PathLike[str], *, multilingual: bool, advice: str) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(_with_first_merge(Path(path).read_text(encoding="utf-8")))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"the tokenizer {path} is broken ({error}); {advice}", stage="load") from error
        special = {token.content: number for number, token in self._tokenizer.get_added_tokens_decoder().items()}
        try:
            self.begin, self.end = special["<|startoftranscript|>"], special["<|endoftext|>"]
            self._previous, self._transcribe = special["<|startofprev|>"], special["<|transcribe|>"]
            self._no_timestamps = special["<|notimestamps|>"]
            # The same token has had two names.
            self.no_speech = special["<|nospeech|>" if "<|nospeech|>" in special else "<|nocaptions|>"]
        except KeyError as error:
            raise ModelError(
                f"the tokenizer {path} has no {error}, so this is no Whisper model; {advice}", stage="load"
            ) from error
        languages = {name[2:-2]: number for name, number in special.items() if re.fullmatch(r"<\|[a-z]{2,3}\|>", name)}
        self.languages = languages if multilingual else {}

    def start(self, language: str) -> list[int]:
        """Tokens that ask for a transcript without timestamps.

        Raises:
            ValueError: If the model does not know the language.
        """
        check_language(language, self.languages)
        if not self.languages:
            return [self.begin, self._no_timestamps]
        return [self.begin, self.languages[language], self._transcribe, self._no_timestamps]

    def context(self, prompt: str, hotwords: Sequence[str] = ()) -> list[int]:
        """Tokens of hotwords and `prompt` as what was said before; see `context_ids`."""
        ids = context_ids(lambda text: self._tokenizer.encode(text, add_special_tokens=False).ids, prompt, hotwords)
        return [self._previous, *ids] if ids else []

    def text(self, ids: Iterable[int]) -> str:
        """The text of tokens; special ones have none."""
        return str(self._tokenizer.decode([i for i in ids if i < self.end])).strip()

    def words(self, ids: Sequence[int]) -> list[tuple[str, int, int]]:
        """The words of text tokens, each with the index of its first token and the index after its last.

        A word begins at a token that begins with a blank; in scripts without blanks the whole text is one word.
        """
        pieces = [self._tokenizer.decode([i]) for i in ids]
        firsts = [n for n, piece in enumerate(pieces) if n == 0 or piece.startswith(" ")]
        spans = zip(firsts, [*firsts[1:], len(ids)], strict=True)
        return [(self.text(ids[first:last]), first, last) for first, last in spans if self.text(ids[first:last])]


def _with_first_merge(tokenizer: str) -> str:
    """A tokenizer's JSON, with the first of Whisper's BPE merges inserted if it is missing.

    It makes " t": without it, as in the files that faster-whisper's models come with, " the" and all words that begin
    with t fall into pieces that Whisper has never read.
    """
    content = json.loads(tokenizer)
    merges = content["model"].get("merges")
    if merges and "Ġt" in content["model"]["vocab"] and merges[0] not in ("Ġ t", ["Ġ", "t"]):
        merges.insert(0, "Ġ t" if isinstance(merges[0], str) else ["Ġ", "t"])
    return json.dumps(content, ensure_ascii=False)


def context_ids(encode: Callable[[str], list[int]], prompt: str, hotwords: Sequence[str]) -> list[int]:
    """Tokens of the text that Whisper takes as said before: the hotwords ("flat white, Nairobi."), then the prompt.

    Args:
        encode: Text to tokens.
        prompt: Its beginning gives way if there is too much.
        hotwords: The last ones give way if they fill more than half of the 223 tokens.
    """
    listed = ", ".join(word.strip() for word in hotwords if word.strip())
    hotword_ids = encode(f" {listed}.")[: _MAX_PROMPT // 2] if listed else []
    prompt_ids = encode(f" {prompt.strip()}") if prompt.strip() else []
    return [*hotword_ids, *prompt_ids[max(0, len(prompt_ids) - _MAX_PROMPT + len(hotword_ids)) :]]


def check_language(language: str, known: Collection[str]) -> None:
    """Refuse a language that a Whisper model does not know.

    Args:
        language: ISO 639-1 code.
        known: The codes that it knows; empty for an English-only model.

    Raises:
        ValueError: If it does not know this one.
    """
    if not known and language != "en":
        raise ValueError(f"this is an English-only model; it cannot hear {language!r}: use a multilingual one")
    if known and language not in known:
        raise ValueError(f"Whisper knows no language {language!r}; use a code such as 'en', 'de' or 'zh'")
