"""What may answer before, or instead of, the language model: each skill alone, and in the turn."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from vivavoce.agent import (
    AlwaysRetrieve,
    ChooserSkill,
    CommandSkill,
    ConfigError,
    Decided,
    DirectedSkill,
    DirectedSpeech,
    Grammar,
    Heard,
    IntentClassifier,
    IntentSkill,
    Outcome,
    Parts,
    Said,
    Saying,
    SlotFiller,
    Speaking,
    Spoke,
    TokenGate,
    TurnEnded,
    Understood,
    VoiceAgent,
    WakePhrase,
    WakeSkill,
)
from vivavoce.agent.testing import ScriptedModel, check_skill
from vivavoce.agent.understanding.readers import EmbeddingReader
from vivavoce.memory import Episode
from vivavoce.memory.testing import ListRecord
from vivavoce.retrieval import Passage
from vivavoce.retrieval.testing import FakeKnowledge, HashEmbedder
from vivavoce.speech import Choice, Hypothesis, LanguageChooser, RoverChooser, Transcript
from vivavoce.speech.testing import FakeSynthesizer

TILL = SlotFiller(Grammar.from_values({"order": {"size": ["small", "medium"], "drink": ["latte", "mocha"]}}))
ORDER = "a medium mocha please"
BARISTA = WakePhrase("hey barista")
TEXTS = ["a large latte to go", "I'd like an espresso", "when do you open", "are you open on Monday"]
LABELS = ["order", "order", "hours", "hours"]
ANSWERED = [Heard, Understood, Saying, Speaking, Said, Spoke, TurnEnded]
IGNORED = [Heard, Understood, TurnEnded]
GONE_ON = [Heard, Understood, Decided, Saying, Speaking, Said, Spoke, TurnEnded]


def heard(*texts: str, language: str = "en") -> Transcript:
    """A list, each hypothesis a little less probable than the one before."""
    hypotheses = tuple(Hypothesis(text, -1.0 - 0.2 * rank, 5) for rank, text in enumerate(texts))
    return Transcript(hypotheses, language, 0.0, 1.0)


VOTED = heard("a small latte", "a medium mocha", "some medium mocha", "a medium mocker")
"""A list whose likeliest words stand together in its second hypothesis."""


@pytest.fixture(scope="module")
def classifier() -> IntentClassifier:
    return IntentClassifier([EmbeddingReader(HashEmbedder(512))]).fit(TEXTS, LABELS)


def assistant(*skills, **parts) -> VoiceAgent:
    parts = {"model": ScriptedModel(), "gate": TokenGate(0.5), "record": ListRecord(), **parts}
    return VoiceAgent(Parts(skills=skills, **parts), synthesizer=FakeSynthesizer())


def kinds(events) -> list[type]:
    return [type(event) for event in events]


def taken(command) -> str:
    return f"One {command.slots['size']} {command.slots['drink']}."


# -- the contract ---------------------------------------------------------------------------------------------------


def test_every_skill_keeps_the_contract(classifier):
    for skill in (
        ChooserSkill(RoverChooser()),
        WakeSkill(BARISTA),
        DirectedSkill(),
        CommandSkill(TILL, lambda command: "Coming."),
        CommandSkill(TILL, lambda command: None),
        IntentSkill(classifier, {"hours": lambda transcript: "From 8."}, threshold=0.1),
    ):
        check_skill(skill, VOTED, heard(ORDER), heard("hey barista"), heard(f"hey barista {ORDER}"))


@pytest.mark.parametrize(
    ("outcome", "broken"),
    [
        ("yes", "an Outcome or None"),
        (Outcome("", "why", reply="Yes."), "signed"),
        (Outcome("mine", "", reply="Yes."), "reason"),
        (Outcome("mine", "why"), "changes something"),
    ],
)
def test_the_contract_tells_what_is_broken(outcome, broken):
    class Broken:
        def consider(self, heard, history):
            return outcome

    with pytest.raises(AssertionError, match=broken):
        check_skill(Broken())


def test_the_contract_notices_who_does_not_answer_the_same_twice():
    class Moody:
        calls = 0

        def consider(self, heard, history):
            self.calls += 1
            return Outcome("moody", "why", reply=f"Answer {self.calls}.")

    with pytest.raises(AssertionError, match="same outcome"):
        check_skill(Moody())


@pytest.mark.parametrize(
    "wrong",
    [
        {"ignored": True, "reply": "Yes."},
        {"ignored": True, "transcript": heard("hello")},
        {"reply": "  "},
        {"transcript": Transcript.nothing("nobody spoke", 1.0)},
    ],
)
def test_an_outcome_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match=r"ignored|reply|transcript"):
        Outcome("mine", "why", **wrong)


# -- each alone -----------------------------------------------------------------------------------------------------


def test_a_chooser_puts_its_reading_first():
    outcome = ChooserSkill(RoverChooser()).consider(VOTED, ())
    texts = [hypothesis.text for hypothesis in outcome.transcript.hypotheses]
    assert texts == ["a medium mocha", "a small latte", "some medium mocha", "a medium mocker"]
    scores = [hypothesis.log_prob for hypothesis in outcome.transcript.hypotheses]
    assert scores[0] == VOTED.hypotheses[0].log_prob and scores == sorted(scores, reverse=True)
    assert outcome.reason.startswith("rover prefers") and not outcome.final
    assert ChooserSkill(RoverChooser()).consider(heard("a mocha", "a mocker"), ()) is None, "the first is chosen"


def test_a_reading_that_was_put_together_joins_the_list():
    class Together:
        def choose(self, transcript, *, context=""):
            return Choice("A small mocha!", "together", None, 0.9)

    listed = heard("a small latte", "a tall mocha")
    first, *others = ChooserSkill(Together()).consider(listed, ()).transcript.hypotheses
    assert (first.text, first.log_prob) == ("A small mocha!", -1.0) and tuple(others) == listed.hypotheses
    again = ChooserSkill(Together()).consider(heard("a small latte", "a small mocha"), ()).transcript
    assert [h.text for h in again.hypotheses] == ["A small mocha!", "a small latte"], "no reading is there twice"


def test_a_chooser_reads_what_was_said_before():
    class Reading:
        def score(self, texts, *, context=""):
            contexts.append(context)
            return [0.0] * len(texts)

        def lengths(self, texts):
            return [1] * len(texts)

    contexts: list[str] = []
    history = [Episode("1", "a", "Hello.", "What would you like?", 0.0)]
    ChooserSkill(LanguageChooser(Reading())).consider(heard("a mocha", "a mocker"), history)
    assert contexts == ["Hello.\nWhat would you like?"]


def test_who_is_not_called_ignores_what_is_said():
    skill = WakeSkill(BARISTA)
    outcome = skill.consider(heard("a small latte please"), ())
    assert outcome.ignored and "nobody said 'hey barista'" in outcome.reason
    called = skill.consider(heard("Hey barista, a small latte.", "Hay barista, a small lotto."), ())
    assert [h.text for h in called.transcript.hypotheses] == ["a small latte.", "a small lotto."]
    assert not called.final


def test_after_a_bare_call_no_call_is_needed_for_a_while():
    skill = WakeSkill(BARISTA, reply="I am listening.", patience=60)
    assert skill.consider(heard("hey barista"), ()).reply == "I am listening."
    call = Episode("1", "a", "hey barista", "I am listening.", time.time())
    assert skill.consider(heard("a small latte"), [call]) is None
    assert skill.consider(heard("a small latte"), [replace(call, at=time.time() - 61)]).ignored
    assert skill.consider(heard("a small latte"), [call, replace(call, said="Here it is.")]).ignored


def test_what_is_not_worded_like_a_request_is_ignored():
    skill = DirectedSkill(DirectedSpeech(commands=TILL))
    outcome = skill.consider(heard("he told her that they had left already"), ())
    assert outcome.ignored and "not worded like a request" in outcome.reason
    assert skill.consider(heard(ORDER), ()) is None


def test_a_command_is_carried_out_once_it_is_sure():
    commands = []
    skill = CommandSkill(TILL, lambda command: commands.append(command) or taken(command))
    outcome = skill.consider(heard("a medium mocker please", ORDER), ())
    assert (outcome.reply, outcome.intent) == ("One medium mocha.", "order")
    assert outcome.slots == {"size": "medium", "drink": "mocha"} == commands[0].slots
    assert skill.consider(heard("when do you open"), ()) is None
    assert CommandSkill(TILL, taken, threshold=1.0).consider(heard("a medium mocker please"), ()) is None
    assert len(commands) == 1


def test_an_intent_is_handled_by_its_label(classifier):
    asked = []
    skill = IntentSkill(classifier, {"hours": lambda transcript: asked.append(transcript) or "From 8."})
    outcome = skill.consider(question := heard("when do you open"), ())
    assert (outcome.reply, outcome.intent, asked) == ("From 8.", "hours", [question])
    assert skill.consider(heard("a large latte to go"), ()) is None, "nobody handles orders"
    sure = IntentSkill(classifier, {"hours": lambda transcript: "From 8."}, threshold=1.0)
    assert sure.consider(question, ()) is None


def test_bad_options_are_refused(classifier):
    with pytest.raises(ConfigError, match=r"no label 'weather'.*hours, order"):
        IntentSkill(classifier, {"weather": lambda transcript: "Sunny."})
    with pytest.raises(ConfigError, match="learned nothing"):
        IntentSkill(IntentClassifier([EmbeddingReader(HashEmbedder(64))]), {"hours": lambda transcript: "From 8."})
    with pytest.raises(ConfigError, match=r"0 to 1, not 1\.5"):
        CommandSkill(TILL, taken, threshold=1.5)
    with pytest.raises(ConfigError, match="reply to a call"):
        WakeSkill(BARISTA, reply=" ")
    with pytest.raises(ConfigError, match="patience"):
        WakeSkill(BARISTA, patience=-1)


# -- in the turn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [ORDER, heard("a medium mocker please", ORDER)], ids=["typed", "heard"])
def test_a_command_is_answered_without_the_language_model(question):
    with assistant(CommandSkill(TILL, taken)) as agent:
        events = list(agent.events(question))
        assert kinds(events) == ANSWERED and events[4] == Said("One medium mocha.")
        assert agent.parts.model.prompts == []
        [turn] = agent.parts.record.history("default")
        text = question if isinstance(question, str) else question.text
        assert (turn.turn_id, turn.heard, turn.said) == (events[-1].turn_id, text, "One medium mocha.")
        assert set(turn.details) == {"hypotheses", "sources", "skills"}, "nothing was decided"
        [entry] = turn.details["skills"]
        assert entry == {
            "skill": "commands",
            "intent": "order",
            "slots": {"size": "medium", "drink": "mocha"},
            "reason": events[1].outcome.reason,
        }
        assert events[1].as_json() == {
            "event": "understood",
            "ignored": False,
            "text": None,
            **entry,
            "reply": turn.said,
        }
        turn = agent.ask(question)
        assert (turn.text, turn.decision, turn.outcomes) == ("One medium mocha.", None, (events[1].outcome,))
        assert "understand_ms" in turn.timings


def test_a_command_may_leave_the_answer_to_the_model():
    with assistant(CommandSkill(TILL, lambda command: None)) as agent:
        events = list(agent.events(ORDER))
        assert kinds(events) == GONE_ON
        assert events[1].outcome.intent == "order" and events[5].text == ORDER
        [turn] = agent.parts.record.history("default")
        assert turn.details["retrieve"] is False and turn.details["skills"][0]["intent"] == "order"


def test_what_is_ignored_is_neither_answered_nor_recorded():
    with assistant(DirectedSkill(), CommandSkill(TILL, taken)) as agent:
        said = "he told her that they had left already"
        events = list(agent.events(said))
        assert kinds(events) == IGNORED and events[1].outcome.ignored
        assert agent.parts.model.prompts == [] and agent.parts.record.history("default") == ()
        turn = agent.ask(said)
        assert (turn.text, turn.sources, turn.audio, turn.decision) == ("", (), None, None)
        assert turn.outcomes[0].skill == "directed" and turn.heard.text == said
        assert agent.ask(f"can you give me {ORDER}").text == "One medium mocha."


def test_the_turn_goes_on_with_what_is_behind_the_wake_phrase():
    knowledge = FakeKnowledge([Passage("d", "Dogs may come in.", "dogs.md")])
    with assistant(WakeSkill(BARISTA), gate=AlwaysRetrieve(), knowledge=knowledge) as agent:
        question = heard("Hey barista, may dogs come in?", "Hey barista, may docks come in?")
        turn = agent.ask(question)
        assert turn.heard is question and turn.sources == ("dogs.md",)
        assert knowledge.queries == ["may dogs come in?"]
        assert "barista" not in agent.parts.model.prompts[0][-1]["content"]
        [episode] = agent.parts.record.history("default")
        assert episode.heard == "may dogs come in?"
        assert episode.details["hypotheses"] == [[h.text, h.log_prob] for h in question.hypotheses], "as it was heard"
        assert agent.ask("may dogs come in").text == ""
        assert agent.ask("hey barista").text == "Yes?"
        assert agent.ask("may dogs come in").sources == ("dogs.md",), "it was called a turn before"


def test_a_skill_gets_what_the_one_before_made_of_it():
    commands = CommandSkill(TILL, taken, threshold=0.2)
    with assistant(WakeSkill(BARISTA), ChooserSkill(RoverChooser()), commands) as agent:
        question = replace(VOTED, hypotheses=tuple(replace(h, text=f"hey barista {h.text}") for h in VOTED.hypotheses))
        turn = agent.ask(question)
        assert [outcome.skill for outcome in turn.outcomes] == ["wake", "chooser", "commands"]
        assert turn.outcomes[1].transcript.text == "a medium mocha" and turn.text == "One medium mocha."
        assert agent.parts.record.history("default")[0].heard == "a medium mocha"


def test_the_model_reads_what_a_chooser_prefers():
    with assistant(ChooserSkill(RoverChooser())) as agent:
        agent.ask(VOTED)
        assert agent.parts.model.prompts[0][-1]["content"].startswith("a medium mocha (or: a small latte")


def test_the_skills_after_an_answer_are_not_asked():
    class Counting:
        asked = 0

        def consider(self, heard, history):
            self.asked += 1

    counting = Counting()
    with assistant(counting, CommandSkill(TILL, taken), counting) as agent:
        agent.ask(ORDER)
        assert counting.asked == 1
        assert kinds(agent.events("", speak=False)) == [Heard, Saying, Said, TurnEnded]
        assert counting.asked == 1, "nobody asks them when nobody spoke"
        agent.ask("hello")
        assert counting.asked == 3


def test_skills_see_the_conversation_and_only_this_one():
    class Listening:
        def consider(self, heard, history):
            seen.append([episode.heard for episode in history])

    seen: list[list[str]] = []
    with assistant(Listening()) as agent:
        for thread in ("anna", "anna", "ben"):
            agent.ask("hello", thread_id=thread)
    assert seen == [[], ["hello"], []]


def test_an_intent_is_handled_in_the_turn(classifier):
    with assistant(IntentSkill(classifier, {"hours": lambda transcript: "From 8 to 5."})) as agent:
        assert agent.ask("when do you open").text == "From 8 to 5."
        assert agent.ask("a large latte to go").text == "a large latte to go", "the model answers"


def test_a_skill_that_fails_is_heard_of():
    def broken(command):
        raise ConnectionError("the till is off")

    with assistant(CommandSkill(TILL, broken)) as agent:
        with pytest.raises(ConnectionError, match="till is off"):
            agent.ask(ORDER)
        assert agent.parts.record.history("default") == ()


def test_who_stops_while_a_skill_works_leaves_no_turn_behind():
    working, let = threading.Event(), threading.Event()

    def slow(command):
        working.set()
        assert let.wait(60)
        return "Done."

    with assistant(CommandSkill(TILL, slow)) as agent:
        events = agent.events(ORDER)
        assert isinstance(next(events), Heard)
        assert working.wait(60)
        threading.Timer(0.05, let.set).start()
        events.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "vivavoce-turn"]
        assert agent.parts.record.history("default") == ()


def test_skills_are_loaded_with_the_agent():
    with VoiceAgent.load(
        model=ScriptedModel(), recognizer=None, synthesizer=None, skills=[CommandSkill(TILL, taken)]
    ) as agent:
        assert agent.ask(ORDER).text == "One medium mocha."
