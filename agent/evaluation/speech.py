"""Measures recognition: error rates of lists, refusals, calibration."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from vivavoce.speech import Audio, Calibration, Recognizer, Transcript, WhisperRecognizer, normalizer
from vivavoce.speech.lists.choosing import Chooser

from ..weights import Progress
from .metrics import Errors, calibration_error, error_after_refusing, errors
from .noise import Noise
from .rows import Clip, watched

_SHARE = 0.2
"""Of the items, the least certain, that are refused on trial."""


class Rival(Protocol):
    """Another recogniser, timed on the same clips in the same run."""

    def __call__(self, audio: Audio) -> str:
        """The one transcript of a clip."""
        ...


def faster_whisper(folder: str, language: str | None = None) -> Rival:
    """faster-whisper's single best with its own defaults (`beam_size=5`) on the same weights, int8, on a CPU.

    Args:
        folder: Of the model.
        language: ISO 639-1 code; None detects it.
    """
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type="int8")

    def transcribe(audio: Audio) -> str:
        segments, _ = model.transcribe(audio.samples, beam_size=5, language=language)
        return " ".join(segment.text for segment in segments)

    return transcribe


def evaluate_wer(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    *,
    n_best: int = 5,
    noise: Noise | None = None,
    chooser: Chooser | None = None,
    rival: Rival | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Word error rates of the first, the chosen and the best hypothesis of each list; time; calibration.

    Args:
        clips: With the field `text`.
        recognizer: What is measured.
        n_best: Length of the lists.
        noise: Mixed into each clip.
        chooser: Default: the first hypothesis.
        rival: Timed on the same clips; the two take turns in going first.
        progress: Told after each clip.

    Returns:
        The summary, and one row per clip. Seconds are medians over clips: `seconds` of everything, `seconds_encode` of
        the encoder and `seconds_decode` of what is done with its output (language, searches, times of words); the two
        are None for recognisers other than `WhisperRecognizer`.
    """
    stages = _Stages(recognizer) if isinstance(recognizer, WhisperRecognizer) else None
    recognizer = stages.recognizer if stages is not None else recognizer
    first = clips[0].audio()
    recognizer.transcribe(first)
    if rival is not None:
        rival(first)
    rows = []
    for number, clip in enumerate(watched(clips, progress, "recognising")):
        audio = clip.audio() if noise is None else noise.over(clip.audio(), number)
        if stages is not None:
            stages.begin()
        seconds, heard, rival_result = _timed(audio, recognizer, rival, n_best, rival_first=number % 2 == 0)
        chosen = chooser.choose(heard).text if chooser is not None and heard.is_speech else heard.text
        row = _row(clip, audio, heard, chosen, seconds, rival_result)
        rows.append(row if stages is None else {**row, **stages.spent()})
    return _summary(rows, n_best), rows


class _Stages:
    """The same loaded recogniser with a clock at its encoder, and one around all that is done with a window."""

    def __init__(self, recognizer: WhisperRecognizer) -> None:
        self.recognizer = recognizer.with_options(recognizer.options)
        self._seconds = {"_encode": 0.0, "_decode_window": 0.0}
        for name in self._seconds:
            setattr(self.recognizer, name, self._clocked(name, getattr(self.recognizer, name)))

    def begin(self) -> None:
        """Set both clocks to zero."""
        self._seconds = dict.fromkeys(self._seconds, 0.0)

    def spent(self) -> dict[str, float]:
        """Seconds of each stage since `begin`."""
        encode = self._seconds["_encode"]
        return {"seconds_encode": encode, "seconds_decode": self._seconds["_decode_window"] - encode}

    def _clocked(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            seconds, done = _clock(lambda: work(*arguments))
            self._seconds[name] += seconds
            return done

        return run


def _timed(
    audio: Audio, recognizer: Recognizer, rival: Rival | None, n_best: int, *, rival_first: bool
) -> tuple[float, Transcript, tuple[float, str] | None]:
    rival_result = _clock(lambda: rival(audio)) if rival is not None and rival_first else None
    seconds, heard = _clock(lambda: recognizer.transcribe(audio, n_best=n_best))
    if rival is not None and rival_result is None:
        rival_result = _clock(lambda: rival(audio))
    return seconds, heard, rival_result


def _clock(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    done = work()
    return time.perf_counter() - begin, done


def _row(
    clip: Clip, audio: Audio, heard: Transcript, chosen: str, seconds: float, rival_result: tuple[float, str] | None
) -> dict[str, Any]:
    text = str(clip.row["text"])
    plain = normalizer(heard.language or "en")
    counts = [errors(text, hypothesis.text) for hypothesis in heard.hypotheses] or [errors(text, "")]
    row = {
        "audio_filepath": clip.name,
        "text": text,
        "hypotheses": [hypothesis.text for hypothesis in heard.hypotheses],
        "scores": [hypothesis.log_prob for hypothesis in heard.hypotheses],
        "chosen": chosen,
        "words": counts[0][1],
        "errors_1best": counts[0][0],
        "errors_chosen": errors(text, chosen)[0],
        "errors_oracle": min(wrong for wrong, _ in counts),
        "confidence": heard.confidence,
        "right": plain(heard.text) == plain(text),
        "seconds": seconds,
        "duration": audio.seconds,
    }
    if rival_result is not None:
        row |= {"seconds_rival": rival_result[0], "errors_rival": errors(text, rival_result[1])[0]}
    return row


def _summary(rows: Sequence[dict[str, Any]], n_best: int) -> dict[str, Any]:
    confidence, right = [row["confidence"] for row in rows], [row["right"] for row in rows]
    wrong = 1 - statistics.mean(right)
    long = [row["seconds"] / row["duration"] for row in rows if row["duration"] > 4]
    summary = {
        "n": len(rows),
        "wer_1best": _rate(rows, "errors_1best"),
        "wer_chosen": _rate(rows, "errors_chosen"),
        "wer_oracle": _rate(rows, "errors_oracle"),
        "distinct_share": statistics.mean(len(row["hypotheses"]) >= n_best for row in rows),
        "refused": sum(not row["hypotheses"] for row in rows),
        "ece": calibration_error(confidence, right),
        "ece_10_bins": calibration_error(confidence, right, 10),
        "sentence_error": wrong,
        "sentence_error_80": error_after_refusing(confidence, right, _SHARE),
        "sentence_error_80_oracle": error_after_refusing([float(r) for r in right], right, _SHARE),
        "seconds": statistics.median(row["seconds"] for row in rows),
        "seconds_encode": _median(rows, "seconds_encode"),
        "seconds_decode": _median(rows, "seconds_decode"),
        "rtf": statistics.median(long) if long else None,
    }
    if "seconds_rival" in rows[0]:
        summary["ratio_faster_whisper"] = statistics.median(row["seconds"] / row["seconds_rival"] for row in rows)
        summary["wer_faster_whisper"] = _rate(rows, "errors_rival")
    return summary


def _median(rows: Sequence[dict[str, Any]], field: str) -> float | None:
    return statistics.median(row[field] for row in rows) if field in rows[0] else None


def _rate(rows: Sequence[dict[str, Any]], field: str) -> float:
    tally = Errors()
    for row in rows:
        tally.add(row[field], row["words"])
    return tally.rate


def evaluate_speech_gate(
    clips: Sequence[Clip], recognizer: Recognizer, *, expect_speech: bool, progress: Progress | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How many recordings pass for speech, and why the others are refused.

    Returns:
        The summary, and one row per clip.
    """
    rows = []
    for clip in watched(clips, progress, "listening"):
        heard = recognizer.transcribe(clip.audio(), n_best=1)
        rows.append(
            {"audio_filepath": clip.name, "is_speech": heard.is_speech, "text": heard.text, "reason": heard.reason}
        )
    passed = sum(row["is_speech"] for row in rows)
    wrong = len(rows) - passed if expect_speech else passed
    reasons = Counter(row["reason"].split(" (")[0] for row in rows if not row["is_speech"])
    summary = {
        "n": len(rows),
        "passed": passed,
        "refused": len(rows) - passed,
        "wrong": wrong,
        "reasons": dict(reasons),
    }
    return summary, rows


def evaluate_calibration(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    *,
    n_best: int = 5,
    noise: Noise | None = None,
    folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit how sure a list may be of its first hypothesis, on clips with the field `text`.

    Returns:
        The calibration fitted on all clips; the calibration error before, and after on held-out folds, None if these
        are too small.

    Raises:
        ValueError: If there are too few lists, or all are right or wrong.
    """
    heard, right = [], []
    for number, clip in enumerate(watched(clips, progress, "recognising")):
        transcript = recognizer.transcribe(
            clip.audio() if noise is None else noise.over(clip.audio(), number), n_best=n_best
        )
        if transcript.is_speech:
            plain = normalizer(transcript.language)
            heard.append(transcript)
            right.append(plain(transcript.text) == plain(str(clip.row["text"])))
    fitted = Calibration.fit(heard, right)
    return {
        "n": len(heard),
        "temperature": fitted.temperature,
        "other": fitted.other,
        "other_per_token": fitted.other_per_token,
        "ece_before": calibration_error([transcript.confidence for transcript in heard], right),
        "ece_held_out": _held_out_error(heard, right, folds, seed),
    }


def _held_out_error(heard: Sequence[Transcript], right: Sequence[bool], folds: int, seed: int) -> float | None:
    held_out = np.zeros(len(heard))
    for train, test in _folds(len(heard), folds, seed):
        try:
            fold = Calibration.fit([heard[i] for i in train], [right[i] for i in train])
        except ValueError:
            return None
        held_out[test] = [fold.confidence(heard[i]) for i in test]
    return calibration_error(held_out.tolist(), right)


def _folds(n: int, folds: int, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    order = np.random.default_rng(seed).permutation(n).tolist()
    for k in range(min(folds, n)):
        test = order[k::folds]
        yield sorted(set(order) - set(test)), test
