"""Whisper through Hugging Face's transformers, with all the beams of its search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..sound.audio import Samples
from ..sound.segments import Window
from ..sound.vad import SileroDetector, VoiceDetector
from ..transcript import Hypothesis, Transcript
from .loading import pick_device, quiet_loading, torch_number_format
from .openai_whisper import torch_only
from .whisper import WhisperOptions
from .whisper_tokens import CONTEXT, MULTILINGUAL, WhisperTokens
from .windows import Hear, WindowedRecognizer, beam_transcript, log_mel, token_limit

if TYPE_CHECKING:
    import torch

_ADVICE = "name the folder of a Whisper model in transformers' format"
_IMPOSSIBLE = -1e6
"""Rows of a beam search that ended before they were filled have scores far below this one."""


class TransformersWhisperRecognizer(WindowedRecognizer[WhisperOptions]):
    """A `Recognizer` on a Whisper model in transformers' format: any size, and what was fine-tuned from it.

    The same windows, options and refusals as `WhisperRecognizer`. Whisper's own `generate` in transformers gives n
    copies of the best hypothesis (5.23); the search that all models share gives n hypotheses, so that one is called.

    Safe to use from several threads at once.

    Args:
        model_dir: Folder with `config.json`, weights and `tokenizer.json`.
        options: `tails` and `threads` are CTranslate2's and must keep their defaults. A patience of 1 stops when every
            beam has ended; any other goes on until no better hypothesis can follow. No samples are drawn, and words
            have no times.
        detector: Default: Silero.
        device: "cpu", "cuda", or "auto": a GPU where torch sees one.

    Raises:
        ModelError: If the folder is missing, incomplete or broken, or there is no GPU for "cuda".
        ValueError: If the model does not know the language, or an option is not for this engine.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        *,
        options: WhisperOptions | None = None,
        detector: VoiceDetector | None = None,
        device: str = "auto",
    ) -> None:
        self.options = options or WhisperOptions()
        torch_only(self.options)
        self.device = pick_device(device, "torch")
        self._dtype = torch_number_format(self.options.compute_type, self.device)
        self._model = _load(Path(model_dir), self._dtype, self.device)
        multilingual = self._model.config.vocab_size >= MULTILINGUAL
        self._tokens = WhisperTokens(Path(model_dir) / "tokenizer.json", multilingual=multilingual, advice=_ADVICE)
        if self.options.language is not None:
            self._tokens.start(self.options.language)  # refuses a language that the model does not know
        self._detector = detector or SileroDetector()

    def _hearing(self, n_best: int, prompt: str, hotwords: Sequence[str]) -> Hear:
        context = self._tokens.context(prompt, hotwords)
        return lambda window, language: self._hear(window, language, n_best, context)

    def _hear(self, window: Window, language: str | None, n_best: int, context: list[int]) -> Transcript:
        import torch

        with torch.inference_mode():
            encoded = self._encode(window.audio.samples)
            detected, no_speech_prob = self._first_look(encoded, context)
            language = language or detected
            prompt = [*context, *self._tokens.start(language)]
            heard = self._search(encoded, prompt, token_limit(window, language), n_best)
        return beam_transcript(
            window, heard, self.options, language=language, no_speech_prob=no_speech_prob, n_best=n_best
        )

    def _encode(self, samples: Samples) -> torch.Tensor:
        """Float32 (n,) to (1, 1500, width), on the device."""
        import torch

        mel = torch.from_numpy(log_mel(samples, self._model.config.num_mel_bins))
        encoded: torch.Tensor = self._model.get_encoder()(mel.to(self.device, self._dtype)).last_hidden_state
        return encoded

    def _first_look(self, encoded: torch.Tensor, context: list[int]) -> tuple[str, float]:
        """The likeliest language, and the probability that nobody spoke: both stand where the transcript begins."""
        tokens = self._tokens
        (end,) = self._logits(encoded, [*context, tokens.begin]).softmax(-1)[-1:]
        no_speech_prob = float(end[tokens.no_speech])
        if not tokens.languages:
            return "en", no_speech_prob
        # Words said before would lend their language, so the context does not take part in this.
        places = self._logits(encoded, [tokens.begin])[-1] if context else end
        return max(tokens.languages, key=lambda code: float(places[tokens.languages[code]])), no_speech_prob

    def _logits(self, encoded: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """Float32, shape (len(ids), vocabulary)."""
        import torch

        given = torch.tensor([ids], device=self.device)
        logits: torch.Tensor = self._model(encoder_outputs=(encoded,), decoder_input_ids=given, use_cache=False).logits
        return logits[0].float()

    def _search(self, encoded: torch.Tensor, prompt: list[int], limit: int, n_best: int) -> list[Hypothesis]:
        """Everything that the beam search finished, best per token first."""
        import torch
        import transformers

        library: Any = transformers
        beams = max(5, self.options.beams_per_hypothesis * n_best)
        theirs = self._model.generation_config
        found = library.GenerationMixin.generate(
            self._model,
            generation_config=library.GenerationConfig(
                num_beams=beams,
                num_return_sequences=beams,
                early_stopping=self.options.patience == 1.0,
                length_penalty=1.0,
                max_new_tokens=min(limit, CONTEXT - len(prompt)),
                suppress_tokens=theirs.suppress_tokens,
                begin_suppress_tokens=theirs.begin_suppress_tokens,
                renormalize_logits=True,
                return_dict_in_generate=True,
                output_scores=True,
                decoder_start_token_id=prompt[0],
                eos_token_id=self._tokens.end,
                pad_token_id=self._tokens.end,
            ),
            encoder_outputs=library.modeling_outputs.BaseModelOutput(last_hidden_state=encoded),
            decoder_input_ids=torch.tensor([prompt], device=self.device),
        )
        rows = found.sequences[:, len(prompt) :].tolist()
        heard = []
        # A score is the sum of log-probabilities, the end's included, divided by the tokens with the end.
        for row, score in zip(rows, found.sequences_scores.tolist(), strict=True):
            # One that was cut off has no end, and its sum does not compare.
            if score > _IMPOSSIBLE and self._tokens.end in row:
                n_tokens = row.index(self._tokens.end) + 1
                heard.append(Hypothesis(self._tokens.text(row[: n_tokens - 1]), min(0.0, score * n_tokens), n_tokens))
        return sorted(heard, key=lambda h: -h.log_prob / max(1, h.n_tokens - 1))


def _load(folder: Path, dtype: Any, device: str) -> Any:
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        what = "does not exist" if not folder.is_dir() else f"has no {', '.join(missing)}"
        raise ModelError(f"the Whisper model folder {folder} {what}; {_ADVICE}", stage="load")
    import transformers

    try:
        with quiet_loading():
            model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    except Exception as error:  # OSError, SafetensorError, RuntimeError and others, by what is broken
        raise ModelError(f"cannot load the Whisper model in {folder}: {error}; {_ADVICE}", stage="load") from error
    return model.to(device).eval()
