"""The steps of a turn. Each reads the state, emits events as things happen, and returns what is new in the state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from langgraph.runtime import Runtime

from vivavoce.memory import Episode
from vivavoce.retrieval import Passage, Query, as_query_knowledge
from vivavoce.speech import Hypothesis, Transcript, sentences

from ..errors import TurnCancelled
from ..model.prompts import DONT_KNOW, NOTHING_HEARD, Message, looked_up, user_turn
from ..understanding.skills import Outcome
from .events import Decided, Heard, Retrieved, Said, Saying, Understood
from .quoting import quote
from .state import Parts, TurnState, Walk


def transcribe(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Turn audio into an N-best list; typed text becomes one certain hypothesis, and a transcript is a list already."""
    walk = runtime.context
    if isinstance(walk.question, Transcript):
        heard = walk.question
    elif isinstance(walk.question, str):
        heard = _typed_transcript(walk.question.strip())
    else:
        recognizer = walk.parts.require_recognizer()
        with walk.watch.measure("asr"):
            heard = recognizer.transcribe(walk.question, n_best=walk.parts.options.n_best)
    _raise_if_cancelled(walk)
    runtime.stream_writer(Heard(heard))
    return {"recognized": heard, "heard": heard}


def anybody_spoke(state: TurnState) -> bool:
    """Whether the recogniser heard speech; decides between `understand` and `excuse`."""
    return state["heard"].is_speech


def excuse(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Nobody spoke: say so without asking the language model, and record nothing."""
    runtime.stream_writer(Saying(NOTHING_HEARD))
    runtime.stream_writer(said := Said(NOTHING_HEARD))
    return {"said": said}


def understand(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Ask the skills in order, each with the transcript that the one before left, until one answers or ignores it."""
    walk, parts, heard = runtime.context, runtime.context.parts, state["heard"]
    outcomes: list[Outcome] = []
    if not parts.skills:
        return {"outcomes": ()}
    with walk.watch.measure("understand"):
        history = parts.record.history(state["thread_id"], parts.options.history)
        for skill in parts.skills:
            outcome = skill.consider(heard, history)
            _raise_if_cancelled(walk)
            if outcome is None:
                continue
            outcomes.append(outcome)
            runtime.stream_writer(Understood(outcome))
            if outcome.transcript is not None:
                heard = outcome.transcript
            if outcome.final:
                break
    return {"heard": heard, "outcomes": tuple(outcomes)}


def who_answers(state: TurnState) -> Literal["nobody", "skill", "model"]:
    """Who answers after the skills: nobody, the last skill, or the language model."""
    if not state["outcomes"] or not state["outcomes"][-1].final:
        return "model"
    return "nobody" if state["outcomes"][-1].ignored else "skill"


def reply(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Say the reply of the last skill, without asking the language model."""
    text = state["outcomes"][-1].reply
    assert text is not None, "who_answers asks before"
    runtime.stream_writer(said := _say_at_once(runtime, Said(text)))
    return {"said": said}


def decide(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Run one forward pass over the prompt, which begins the answer and gives P(<RET>), and let the gate decide."""
    walk, parts = runtime.context, runtime.context.parts
    with walk.watch.measure("decide"):
        walk.generation = parts.model.begin(_prompt(parts, state))
        decision = parts.gate.decide(walk.generation.first, state["heard"])
    if decision.retrieve and parts.knowledge is None:
        decision = replace(decision, retrieve=False, reason=f"{decision.reason}, but there is nothing to look it up in")
    _raise_if_cancelled(walk)
    runtime.stream_writer(Decided(decision))
    return {"decision": decision}


def wants_retrieval(state: TurnState) -> bool:
    """Whether the gate decided to retrieve."""
    return state["decision"].retrieve


def retrieve(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Search with every hypothesis and its posterior, so that the documents may pick the right one."""
    walk, parts = runtime.context, runtime.context.parts
    with walk.watch.measure("search"):
        passages = _search(parts, state)
    _raise_if_cancelled(walk)
    runtime.stream_writer(Retrieved(passages))
    return {"passages": passages}


def answer(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Write the answer sentence by sentence, or quote it; after retrieval only the passages are prefilled before it."""
    walk, parts = runtime.context, runtime.context.parts
    generation = walk.generation
    assert generation is not None, "decide runs before answer"
    passages = state.get("passages")
    try:
        if passages is None:
            said = _write_sentences(walk, runtime, Said(""))
        elif not passages:
            said = _say_at_once(runtime, Said(DONT_KNOW))
        elif parts.options.quote and parts.embedder is not None:
            with walk.watch.measure("read"):
                said = quote(generation, state["heard"], passages, parts.embedder)
            said = _say_at_once(runtime, said)
        else:
            with walk.watch.measure("read"):
                generation.extend(looked_up(user_turn(state["heard"]), passages))
            said = _write_sentences(walk, runtime, Said("", _sources(passages)))
        walk.watch.timings["prefilled_tokens"] = generation.prefilled
    finally:
        generation.close()
    runtime.stream_writer(said)
    return {"said": said}


def remember(state: TurnState, runtime: Runtime[Walk]) -> TurnState:
    """Write the finished turn to the record; from here on it survives a crash."""
    said, decision = state["said"], state.get("decision")
    # The list is the recogniser's, whatever skills made of it: a record is what everything else is rebuilt from.
    details: dict[str, Any] = {
        "hypotheses": [[hypothesis.text, hypothesis.log_prob] for hypothesis in state["recognized"].hypotheses],
        "sources": list(said.sources),
    }
    if decision is not None:
        details |= {"retrieve": decision.retrieve, "probability": decision.probability}
    if state["outcomes"]:
        details["skills"] = [
            {"skill": outcome.skill, "intent": outcome.intent, "slots": dict(outcome.slots), "reason": outcome.reason}
            for outcome in state["outcomes"]
        ]
    episode = Episode(state["turn_id"], state["thread_id"], state["heard"].text, said.text, time.time(), details)
    with runtime.context.watch.measure("remember"):
        runtime.context.parts.record.remember(episode)
    return {}


def _typed_transcript(text: str) -> Transcript:
    if not text:
        return Transcript.nothing("nothing was typed", 0)
    return Transcript((Hypothesis(text, 0.0, 1),), "", 0.0, 0.0)


def _prompt(parts: Parts, state: TurnState) -> list[Message]:
    prompt = parts.persona.messages()
    history = parts.record.history(state["thread_id"], parts.options.history)
    for episode in _recent(history, parts.options.history_chars):
        prompt += [{"role": "user", "content": episode.heard}, {"role": "assistant", "content": episode.said}]
    prompt.append({"role": "user", "content": user_turn(state["heard"])})
    return prompt


def _recent(history: Sequence[Episode], chars: int) -> Sequence[Episode]:
    """The latest turns that have at most so many characters together: one long turn must not end a conversation."""
    start = len(history)
    while start > 0 and (chars := chars - len(history[start - 1].heard) - len(history[start - 1].said)) >= 0:
        start -= 1
    return history[start:]


def _search(parts: Parts, state: TurnState) -> tuple[Passage, ...]:
    assert parts.knowledge is not None, "decide asks before"
    heard, history = state["heard"], parts.record.history(state["thread_id"], parts.options.history)
    query = Query.of(
        [hypothesis.text for hypothesis in heard.hypotheses],
        heard.posteriors(),
        history=[text for episode in history for text in (episode.heard, episode.said)],
    )
    return tuple(as_query_knowledge(parts.knowledge).search_query(query, parts.options.passages))


def _write_sentences(walk: Walk, runtime: Runtime[Walk], said: Said) -> Said:
    """Say sentences as the model writes them; stop where it begins to repeat itself, as small models do."""
    assert walk.generation is not None
    written: list[str] = []
    with walk.watch.measure("write"):
        for sentence in sentences(walk.generation.stream(walk.parts.options.max_tokens)):
            _raise_if_cancelled(walk)
            if sentence in written:
                break
            walk.watch.mark("first_sentence")
            written.append(sentence)
            runtime.stream_writer(Saying(sentence))
            if len(written) == walk.parts.options.max_sentences:
                break
    text = " ".join(written)
    if not text:
        return _say_at_once(runtime, Said(DONT_KNOW))
    return Said(text, () if _is_dont_know(text) else said.sources)


def _say_at_once(runtime: Runtime[Walk], said: Said) -> Said:
    runtime.stream_writer(Saying(said.text))
    return said


def _is_dont_know(text: str) -> bool:
    return text.lower().replace("’", "'").startswith(DONT_KNOW[:-1].lower())


def _sources(passages: Sequence[Passage]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(passage.source for passage in passages))


def _raise_if_cancelled(walk: Walk) -> None:
    if walk.cancelled.is_set():
        raise TurnCancelled("The turn was cancelled", stage="answer")
