"""How many spoken commands and keywords are understood: from the whole list, and from its first hypothesis alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vivavoce.speech import Audio, Recognizer, Transcript, normalizer
from vivavoce.speech.lists.phonetics import phonemes

from ..errors import ConfigError
from ..understanding.keywords import KeywordSpotter
from ..understanding.slots import Command, SlotFiller
from ..weights import Progress
from .noise import Noise
from .rows import Clip, watched

_MARGIN = 0.5
"""Seconds of silence put on both sides of a keyword: Whisper mishears words that are cut tightly."""


def evaluate_commands(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    filler: SlotFiller,
    *,
    n_best: int,
    noise: Noise | None = None,
    prompt: str = "",
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Understand every recording twice with the same code: from the whole list, and from the list cut to one.

    Args:
        clips: Rows with ``intent`` and ``slots``.
        recognizer: Hears each recording once.
        filler: Finds the command.
        n_best: Length of the list.
        noise: Mixed into every recording, differently into each.
        prompt: Context for the recogniser.
        progress: Told how far it is.

    Returns:
        The summary: shares of commands with the right intent and all slots right; ``wrong_fewer`` is by which share the
        list lowers the number of wrong ones, 0 if there are none to lower. And one item per recording.

    Raises:
        ConfigError: If a row has no intent or no slots.
        AudioError: If a recording cannot be read.
    """
    items = []
    for number, clip in enumerate(watched(clips, progress, "commands")):
        audio = clip.audio() if noise is None else noise.over(clip.audio(), number)
        items.append(_command(clip, recognizer.transcribe(audio, n_best=n_best, prompt=prompt), filler))
    best, nbest = _share(items, "accepted_1best"), _share(items, "accepted_nbest")
    summary = {
        "n": len(items),
        "accepted_1best": best,
        "accepted_nbest": nbest,
        "wrong_fewer": (nbest - best) / (1 - best) if best < 1 else 0.0,
        "refused": sum(not item["understood"]["intent"] for item in items),
    }
    return summary, items


def evaluate_keywords(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    spotter: KeywordSpotter,
    field: str,
    *,
    n_best: int,
    prompt: str = "",
    progress: Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Name the keyword of every recording, from the whole list and from the list cut to one.

    Each recording says one keyword, and the most probable one counts. It is heard with half a second of silence on both
    sides.

    Args:
        clips: Rows that hold the keyword.
        recognizer: Hears each recording once.
        spotter: Knows the keywords.
        field: Where a row holds the keyword, as anything that sounds like it: 8 is "eight".
        n_best: Length of the list.
        prompt: Context for the recogniser, such as the spotter's own.
        progress: Told how far it is.

    Returns:
        The summary, in which ``refused`` counts the recordings where nothing was heard, and one item per recording.

    Raises:
        ConfigError: If a row has no such field, or it holds none of the keywords.
        AudioError: If a recording cannot be read.
    """
    silence = Audio.silence(_MARGIN)
    items = []
    for clip in watched(clips, progress, "keywords"):
        audio = Audio.join([silence, clip.audio(), silence])
        items.append(_keyword(clip, recognizer.transcribe(audio, n_best=n_best, prompt=prompt), spotter, field))
    summary = {
        "n": len(items),
        "accuracy_1best": _share(items, "right_1best"),
        "accuracy_nbest": _share(items, "right_nbest"),
        "refused": sum(not item["hypotheses"] for item in items),
    }
    return summary, items


def understood_examples(path: Path, filler: SlotFiller) -> float:
    """Share of sample utterances, one a line, that the grammar takes for a command.

    Raises:
        ConfigError: If the file cannot be read or holds no utterance.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the examples {path}: {error}", stage="eval") from error
    examples = [line for line in lines if phonemes(line)]
    if not examples:
        raise ConfigError(f"{path} has no examples; write one utterance a line", stage="eval")
    return sum(filler.fill(line).accepted for line in examples) / len(examples)


def _command(clip: Clip, heard: Transcript, filler: SlotFiller) -> dict[str, Any]:
    intent, slots = clip.row.get("intent"), clip.row.get("slots")
    if not isinstance(intent, str) or not isinstance(slots, Mapping):
        raise ConfigError(f'{clip.name}: the row needs an "intent" and "slots" to be compared with', stage="eval")
    nbest, best = filler.fill(heard), filler.fill(_best_only(heard))
    return {
        "audio_filepath": clip.name,
        "expected": {"intent": intent, "slots": dict(slots)},
        "hypotheses": [hypothesis.text for hypothesis in heard.hypotheses],
        "understood": {"intent": nbest.intent, "slots": dict(nbest.slots)},
        "confidence": nbest.confidence,
        "reason": nbest.reason,
        "accepted_1best": _is_right(best, intent, slots),
        "accepted_nbest": _is_right(nbest, intent, slots),
    }


def _keyword(clip: Clip, heard: Transcript, spotter: KeywordSpotter, field: str) -> dict[str, Any]:
    said = phonemes(str(clip.row.get(field, "")))
    expected = next((keyword for keyword in spotter.keywords if phonemes(keyword) == said), None)
    if expected is None:
        raise ConfigError(
            f"{clip.name}: {field} is {clip.row.get(field)!r}, none of the keywords; name it in --keywords",
            stage="eval",
        )
    ranked, best = spotter.ranked(heard), spotter.ranked(_best_only(heard))
    return {
        "audio_filepath": clip.name,
        "expected": expected,
        "hypotheses": [hypothesis.text for hypothesis in heard.hypotheses],
        "spotted": ranked[0].keyword if ranked else None,
        "probability": ranked[0].probability if ranked else 0.0,
        "reason": heard.reason,
        "right_1best": bool(best) and best[0].keyword == expected,
        "right_nbest": bool(ranked) and ranked[0].keyword == expected,
    }


def _best_only(heard: Transcript) -> Transcript:
    return replace(heard, hypotheses=heard.hypotheses[:1])


def _is_right(command: Command, intent: str, slots: Mapping[str, Any]) -> bool:
    return command.intent == intent and _normal(command.slots) == _normal(slots)


def _normal(slots: Mapping[str, Any]) -> dict[str, str]:
    """Values as words: case, marks and "16" for "sixteen" make no difference, "some milk" for "milk" does."""
    return {slot: normalizer()(str(value)) for slot, value in slots.items()}


def _share(items: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(bool(item[key]) for item in items) / len(items)
