"""For authors of models, gates and skills: tiny ones that are scripted, and the contracts that all of them keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from vivavoce.memory import Episode
from vivavoce.speech import Hypothesis, Transcript

from .errors import GenerationError
from .model.chat import ChatModel, FirstToken, without_sentinel
from .model.gate import Decision, Gate
from .model.prompts import SENTINEL, Message
from .understanding.skills import Outcome, Skill


class ScriptedModel:
    """A chat model that answers by a table: what the user said last decides.

    Args:
        answers: What is said to each turn of the user; other turns are repeated back.
        lookups: Turns for which P(``<RET>``) is 0.9 instead of 0.1.
    """

    def __init__(self, answers: Mapping[str, str] | None = None, lookups: Sequence[str] = ()) -> None:
        self.name = "scripted"
        self.answers = dict(answers or {})
        self.lookups = frozenset(lookups)
        self.prompts: list[list[Message]] = []

    def begin(self, messages: Sequence[Message]) -> ScriptedGeneration:
        """Look the last message up in the table."""
        if not messages:
            raise GenerationError("A prompt needs at least one message", stage="answer")
        self.prompts.append(list(messages))
        return ScriptedGeneration(self, messages)


class ScriptedGeneration:
    """An answer of a ``ScriptedModel``, written word by word."""

    def __init__(self, model: ScriptedModel, messages: Sequence[Message]) -> None:
        said = messages[-1]["content"]
        self._model = model
        self._answer: str | None = model.answers.get(said, said)
        self.first = FirstToken(0.9 if said in model.lookups else 0.1)
        self.prefilled = sum(len(message["content"].split()) for message in messages)

    def extend(self, messages: Sequence[Message]) -> None:
        """Answer the last of these messages instead; by the table, or with its first fact."""
        self._words()
        said = messages[-1]["content"]
        facts = [line.removeprefix("- ") for line in said.splitlines() if line.startswith("- ")]
        self._answer = self._model.answers.get(said, facts[-1] if facts else said)
        self.prefilled += sum(len(message["content"].split()) for message in messages)

    def stream(self, max_tokens: int = 96) -> Iterator[str]:
        """One word at a time."""
        words = self._words()[:max_tokens]
        yield from without_sentinel(word if number == 0 else f" {word}" for number, word in enumerate(words))

    def close(self) -> None:
        """Let go."""
        self._answer = None

    def _words(self) -> list[str]:
        if self._answer is None:
            raise GenerationError("This generation is closed: begin another one", stage="answer")
        return self._answer.split()


def check_chat_model(model: ChatModel) -> None:
    """Hold a model against its contract.

    Raises:
        AssertionError: With the sentence that it breaks.
    """
    assert model.name, "a model has a name"
    prompt: list[Message] = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Say hello <RET> to Anna."},
    ]
    generation = model.begin(prompt)
    first = generation.first
    assert 0 <= first.ret_probability <= 1, f"P(<RET>) is a probability, not {first.ret_probability}"
    answer = "".join(generation.stream(12))
    assert SENTINEL not in answer, "the sentinel is never among the pieces"
    generation.close()
    generation.close()
    again = model.begin(prompt)
    assert "".join(again.stream(12)) == answer, "the same prompt gives the same answer"
    again.close()
    one, other = model.begin(prompt), model.begin([*prompt[:1], {"role": "user", "content": "What is two plus two?"}])
    before = one.prefilled
    one.extend([{"role": "assistant", "content": "Wait."}, {"role": "user", "content": "- Anna is here.\nGo on."}])
    assert one.prefilled >= before, "`prefilled` counts up"
    "".join(other.stream(3))
    assert isinstance("".join(one.stream(3)), str), "two generations may live at once"
    one.close()
    other.close()
    _check_refused(lambda: list(one.stream(1)), "a closed generation refuses to go on")
    _check_refused(lambda: one.extend(prompt[1:]), "a closed generation refuses to be extended")
    _check_refused(lambda: list(one.stream(1)), "a closed generation stays closed")
    _check_refused(lambda: model.begin([]), "an empty prompt is refused")


def _check_refused(call: Callable[[], object], sentence: str) -> None:
    try:
        call()
    except GenerationError:
        return
    raise AssertionError(sentence)


def check_gate(gate: Gate) -> None:
    """Hold a gate against its contract.

    Raises:
        AssertionError: With the sentence that it breaks.
    """
    assert gate.name, "a gate has a name"
    heard = Transcript((Hypothesis("when do you open", -1.0, 5),), "en", 0.0, 1.0)
    decisions = []
    for probability in (0.0, 0.25, 0.5, 0.75, 1.0):
        decision = gate.decide(FirstToken(probability), heard)
        assert isinstance(decision, Decision), "a gate returns a Decision"
        assert 0 <= decision.probability <= 1, "its probability is one"
        assert decision.gate == gate.name, "it signs with its name"
        assert decision.reason, "it gives a reason"
        decisions.append(decision.retrieve)
    assert decisions == sorted(decisions), "a more probable <RET> is never a reason against looking up"


def check_skill(skill: Skill, *heard: Transcript) -> None:
    """Hold a skill against its contract.

    Args:
        skill: What is checked. It is asked several times, so give it handlers that may be called.
        heard: Transcripts to try besides a list and a typed text: of things that the skill understands.

    Raises:
        AssertionError: With the sentence that it breaks.
    """
    listed = Transcript((Hypothesis("a small mocha", -1.0, 4), Hypothesis("a small mortar", -1.5, 4)), "en", 0.0, 1.0)
    typed = Transcript((Hypothesis("When do you open?", 0.0, 1),), "", 0.0, 0.0)
    history = (Episode("check", "check", "Good morning!", "Good morning.", 0.0),)
    for transcript in (listed, typed, *heard):
        for before in ((), history):
            outcome = skill.consider(transcript, before)
            assert outcome is None or isinstance(outcome, Outcome), (
                f"consider returns an Outcome or None, not {outcome!r}"
            )
            assert outcome == skill.consider(transcript, before), "the same question has the same outcome"
            if outcome is not None:
                assert outcome.skill, "an outcome is signed with the name of the skill"
                assert outcome.reason, "it gives a reason"
                assert outcome.ignored or outcome.reply or outcome.transcript or outcome.intent, "it changes something"
