"""Skills: parts of a turn that may answer, change or ignore what was heard before the language model is asked.

VoiceAgent.load(knowledge, skills=[WakeSkill(WakePhrase("hey barista")), CommandSkill(till, lambda command: "Coming.")])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from vivavoce.memory import Episode
from vivavoce.speech import Choice, Chooser, Hypothesis, Transcript, normalizer

from ..errors import ConfigError
from .directed import DirectedSpeech
from .intents import IntentClassifier
from .keywords import WakePhrase
from .slots import Command, SlotFiller


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a skill made of an utterance.

    With neither a reply nor `ignored` the turn goes on: to the next skill, and after the last to the language model.

    Attributes:
        skill: Name of the skill.
        reason: One clause, for people.
        transcript: What the turn goes on with in place of what was heard; None leaves that as it is.
        reply: What is said in place of the language model's answer; None leaves the answer to others.
        ignored: Whether nothing is to be answered, as for speech that was not directed at the assistant. Such a turn is
            not recorded.
        intent: What was wanted, if the skill can tell; "" otherwise.
        slots: Values that belong to the intent, by the name of their slot.

    Raises:
        ValueError: If the values contradict each other, or the reply or the transcript is empty.
    """

    skill: str
    reason: str
    transcript: Transcript | None = None
    reply: str | None = None
    ignored: bool = False
    intent: str = ""
    slots: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.ignored and (self.reply is not None or self.transcript is not None):
            raise ValueError("an utterance that is ignored has neither a reply nor a transcript to go on with")
        if self.reply is not None and not self.reply.strip():
            raise ValueError("the reply is empty; None leaves the answer to the language model")
        if self.transcript is not None and not self.transcript.is_speech:
            raise ValueError("the transcript has no hypotheses; ignored=True ends a turn without an answer")

    @property
    def final(self) -> bool:
        """Whether the language model is not asked any more."""
        return self.ignored or self.reply is not None


class Skill(Protocol):
    """May answer, change or ignore what was heard, before the language model is asked."""

    def consider(self, heard: Transcript, history: Sequence[Episode]) -> Outcome | None:
        """Consider one utterance.

        Args:
            heard: What was said or typed, with at least one hypothesis; as the skills before this one left it.
            history: The last turns of the conversation, oldest first; as many as the language model reads.

        Returns:
            What is to happen, or None if this utterance is none of the skill's business.
        """
        ...


class ChooserSkill:
    """Puts the reading that a chooser prefers in the first place of the list.

    It gets the log-probability of the recogniser's best, so that the list stays sorted; the others keep theirs. What
    was said before is the chooser's context.

    Args:
        chooser: Any; ``open_chooser`` opens those that come with the package.
        name: Signs the outcomes.
    """

    def __init__(self, chooser: Chooser, *, name: str = "chooser") -> None:
        self.name = name
        self._chooser = chooser

    def consider(self, heard: Transcript, history: Sequence[Episode]) -> Outcome | None:
        """See ``Skill.consider``; None if the recogniser's best is chosen."""
        context = "\n".join(text for episode in history for text in (episode.heard, episode.said))
        choice = self._chooser.choose(heard, context=context)
        if choice.index == 0 or not choice.text.strip():
            return None
        reason = f"{choice.method} prefers another reading ({choice.confidence:.2f})"
        return Outcome(self.name, reason, transcript=_with_first(heard, choice))


class WakeSkill:
    """Ignores what does not begin by calling the assistant, and goes on with what is said behind the call.

    A call with nothing behind it is answered, and the next utterance, if it comes soon, needs no call.

    Args:
        wake: The phrase.
        reply: The answer to a call with nothing behind it.
        patience: Seconds after that answer for which no call is needed.
        name: Signs the outcomes.

    Raises:
        ConfigError: If the reply is empty or the patience negative.
    """

    def __init__(self, wake: WakePhrase, *, reply: str = "Yes?", patience: float = 10.0, name: str = "wake") -> None:
        if not reply.strip():
            raise ConfigError('the reply to a call is empty; use "Yes?"', stage="config")
        if patience < 0:
            raise ConfigError(f"patience must be 0 or more seconds, not {patience}", stage="config")
        self.name = name
        self._wake, self._reply, self._patience = wake, reply, patience

    def consider(self, heard: Transcript, history: Sequence[Episode]) -> Outcome | None:
        """See ``Skill.consider``; None if the assistant was called in the turn before."""
        wake = self._wake.listen(heard)
        if wake.called and wake.rest.is_speech:
            return Outcome(self.name, f"somebody said {self._wake.phrase!r}", transcript=wake.rest)
        if wake.called:
            return Outcome(self.name, wake.rest.reason, reply=self._reply)
        if history and history[-1].said == self._reply and time.time() - history[-1].at <= self._patience:
            return None
        return Outcome(self.name, wake.rest.reason, ignored=True)


class DirectedSkill:
    """Ignores what was not said to the assistant.

    Args:
        directed: Tells one from the other.
        name: Signs the outcomes.
    """

    def __init__(self, directed: DirectedSpeech | None = None, *, name: str = "directed") -> None:
        self.name = name
        self._directed = directed or DirectedSpeech()

    def consider(self, heard: Transcript, history: Sequence[Episode]) -> Outcome | None:
        """See ``Skill.consider``; None for what was said to the assistant."""
        verdict = self._directed.judge(heard)
        if verdict.directed:
            return None
        return Outcome(self.name, f"{verdict.reason} ({verdict.probability:.2f})", ignored=True)


class CommandSkill:
    """Finds the command of a grammar in what was heard, and has it carried out.

    Args:
        filler: Knows the commands.
        handle: Carries a command out and returns what to say; None leaves the answer to the language model. It is
            called in the thread of the turn. What it has done stays done if the turn is cancelled afterwards.
        threshold: Confidence from which on a command is carried out.
        name: Signs the outcomes.

    Raises:
        ConfigError: If the threshold is out of range.
    """

    def __init__(
        self,
        filler: SlotFiller,
        handle: Callable[[Command], str | None],
        *,
        threshold: float = 0.5,
        name: str = "commands",
    ) -> None:
        self.name = name
        self._filler, self._handle, self._threshold = filler, handle, _probability(threshold)

    def consider(self, heard: Transcript, history: Sequence[Episode]) -> Outcome | None:
        """See ``Skill.consider``; None if no command was heard, or none that is sure enough."""
        command = self._filler.fill(heard)
        if not command.accepted or command.confidence < self._threshold:
            return None
        return Outcome(
            self.name,
            f"it is a command ({command.confidence:.2f})",
            reply=self._handle(command),
            intent=command.intent,
            slots=command.slots,
        )


class IntentSkill:
    """Classifies what somebody wants, and has it handled.

    Args:
        classifier: A fitted one.
        handlers: For some of its labels, what handles an utterance and returns what to say; None leaves the answer to
            the language model. They are called in the thread of the turn. What they have done stays done if the turn is
            cancelled afterwards.
        threshold: Probability from which on an intent is handled.
        name: Signs the outcomes.

    Raises:
        ConfigError: If the classifier is not fitted, does not know a label, or the threshold is out of range.
    """

    def __init__(
        self,
        classifier: IntentClassifier,
        handlers: Mapping[str, Callable[[Transcript], str | None]],
        *,
        threshold: float = 0.5,
        name: str = "intents",
    ) -> None:
        unknown = [label for label in handlers if label not in classifier.labels]
        if unknown:
            raise ConfigError(
                f"the classifier has no label {unknown[0]!r}, so nothing would ever call its handler; it has "
                f"{', '.join(classifier.labels)}",
                stage="config",
            )
        self.name = name
        self._classifier, self._handlers, self._threshold = classifier, dict(handlers), _probability(threshold)

    def consider(self, heard: Transcript, history: Sequence[Episode]) -> Outcome | None:
        """See ``Skill.consider``; None for an intent that has no handler, or is not sure enough."""
        prediction = self._classifier.predict(heard)
        handle = self._handlers.get(prediction.intent)
        if handle is None or prediction.probability < self._threshold:
            return None
        reason = f"it is classified as {prediction.intent} ({prediction.probability:.2f})"
        return Outcome(self.name, reason, reply=handle(heard), intent=prediction.intent)


def _with_first(heard: Transcript, choice: Choice) -> Transcript:
    """The list with the chosen reading in the first place, with the score of the one that was there."""
    best = heard.hypotheses[0]
    if choice.index is None:
        chosen = Hypothesis(choice.text, best.log_prob, best.n_tokens)
    else:
        chosen = replace(heard.hypotheses[choice.index], log_prob=best.log_prob)
    words = normalizer(heard.language or "en")
    others = [hypothesis for hypothesis in heard.hypotheses if words(hypothesis.text) != words(chosen.text)]
    return replace(heard, hypotheses=(chosen, *others))


def _probability(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is a probability, 0 to 1, not {threshold}; use 0.5", stage="config")
    return threshold
