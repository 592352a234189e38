"""What happens in a turn, in the past tense, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivavoce.retrieval import Passage
from vivavoce.speech import Audio, Transcript

from ..model.gate import Decision
from ..understanding.skills import Outcome


@dataclass(frozen=True, slots=True)
class Heard:
    """The recogniser is done (or the text was typed)."""

    transcript: Transcript

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        heard = self.transcript
        hypotheses = [
            {"text": hypothesis.text, "log_prob": hypothesis.log_prob, "posterior": posterior}
            for hypothesis, posterior in zip(heard.hypotheses, heard.posteriors(), strict=True)
        ]
        line: dict[str, Any] = {
            "event": "heard",
            "hypotheses": hypotheses,
            "no_speech_prob": heard.no_speech_prob,
            "language": heard.language,
        }
        return line if heard.is_speech else {**line, "reason": heard.reason}


@dataclass(frozen=True, slots=True)
class Understood:
    """A skill has answered, changed or ignored what was heard, or has found an intent in it."""

    outcome: Outcome

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        outcome = self.outcome
        return {
            "event": "understood",
            "skill": outcome.skill,
            "reason": outcome.reason,
            "intent": outcome.intent,
            "slots": dict(outcome.slots),
            "ignored": outcome.ignored,
            "text": None if outcome.transcript is None else outcome.transcript.text,
            "reply": outcome.reply,
        }


@dataclass(frozen=True, slots=True)
class Decided:
    """The gate has decided whether to look something up."""

    decision: Decision

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        decision = self.decision
        return {
            "event": "decided",
            "retrieve": decision.retrieve,
            "probability": decision.probability,
            "gate": decision.gate,
            "reason": decision.reason,
        }


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The knowledge base has answered; best passage first, none if nothing was found."""

    passages: tuple[Passage, ...]

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        passages = [
            {"id": passage.id, "text": passage.text, "source": passage.source, "score": passage.score}
            for passage in self.passages
        ]
        return {"event": "retrieved", "passages": passages}


@dataclass(frozen=True, slots=True)
class Saying:
    """A sentence of the answer is written; the rest may still be on its way."""

    text: str


@dataclass(frozen=True, slots=True)
class Speaking:
    """A piece of the answer is ready to be played; the rest may still be on its way."""

    audio: Audio
    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """The answer is written to its end.

    Attributes:
        text: What was said.
        sources: Where it was looked up; empty if it was not, or if it is that nothing is known.
    """

    text: str
    sources: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        return {"event": "said", "text": self.text, "sources": list(self.sources)}


@dataclass(frozen=True, slots=True)
class Spoke:
    """The answer is spoken to its end."""

    audio: Audio
    path: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        return {
            "event": "spoke",
            "path": str(self.path) if self.path else None,
            "seconds": round(self.audio.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is over, and recorded, unless nobody spoke or a skill has ignored what was heard.

    Attributes:
        turn_id: Its name in the record.
        timings: Milliseconds by stage; ``first_audio_ms`` counts from when the question was there: the audio, or the
            list that a stream has made of it.
    """

    turn_id: str
    timings: Mapping[str, float] = field(default_factory=dict, hash=False)

    def as_json(self) -> dict[str, Any]:
        """The event as the command line prints it."""
        return {
            "event": "turn_ended",
            "turn_id": self.turn_id,
            "timings": {k: round(v, 1) for k, v in self.timings.items()},
        }


Event = Heard | Understood | Decided | Retrieved | Saying | Speaking | Said | Spoke | TurnEnded
