"""Commands in an N-best list: each hypothesis is aligned with the grammar by its phonemes."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivavoce.speech import Transcript, WhisperOptions
from vivavoce.speech.lists.phonetics import alignments, omissions, phonemes, pronounce

from ..errors import ConfigError
from .grammar import Grammar, Step

Costs: TypeAlias = NDArray[np.float64]

COMMAND_HEARING = WhisperOptions(
    language="en", beams_per_hypothesis=3, tails=(6.0, 10.0), completeness=0.8, word_times=False
)
"""How to hear commands: in noise, short orders are taken for another language, and hypotheses with half of the order
are likelier than those with all of it."""


@dataclass(frozen=True, slots=True)
class SlotOptions:
    """Costs of the alignment between a hypothesis and the grammar.

    Attributes:
        sharpness: Nats that one misheard phoneme costs.
        temperature: Of the list's log-probabilities; above 1 the rank in the list matters less.
        missed: What a phoneme costs that was said and not heard, as a share of one that was heard and not said: noise
            hides sounds more often than it makes some up.
        filler: What a word outside the grammar costs, as a share of its phonemes, and
        loose_filler: the same where the grammar lists values only, so that most words are outside.
        omission: What it costs to leave out words of the grammar that fill no slot, as a share of their phonemes.
        refusal: What it costs to take the whole for no command, as a share of its phonemes.
        candidates: How many commands are kept for each hypothesis.

    Raises:
        ConfigError: If a value is out of range.
    """

    sharpness: float = 3.0
    temperature: float = 1.0
    missed: float = 0.65
    filler: float = 0.7
    loose_filler: float = 0.2
    omission: float = 0.3
    refusal: float = 0.35
    candidates: int = 8

    def __post_init__(self) -> None:
        if min(self.sharpness, self.temperature) <= 0:
            raise ConfigError("sharpness and temperature must be positive", stage="config")
        shares = (self.missed, self.filler, self.loose_filler, self.omission, self.refusal)
        if not all(0 < share <= 1 for share in shares):
            raise ConfigError(
                "missed, filler, loose_filler, omission and refusal are shares between 0 and 1", stage="config"
            )
        if self.candidates < 1:
            raise ConfigError(f"candidates must be at least 1, not {self.candidates}; use 8", stage="config")


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its slots, or a refusal.

    Attributes:
        intent: Name in the grammar; "" if it was no command.
        slots: Values as the grammar writes them.
        confidence: Probability among all candidates, that it was no command at all included.
        alternatives: The next best commands, best first; those of a refused one too.
        reason: Why it was no command; "" if it was one.
    """

    intent: str
    slots: Mapping[str, str]
    confidence: float
    alternatives: tuple[Command, ...] = ()
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether a command was recognised."""
        return bool(self.intent)


_Key: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
_NOTHING: _Key = ("", frozenset())


class SlotFiller:
    """Finds the command of a grammar that was most probably said.

    Each hypothesis is aligned, phoneme by phoneme, with all paths of the grammar at once; what a path costs is how far
    its sound lies from the hypothesis. The probability of a command is the sum over the list: a hypothesis counts as
    much as the recogniser believes in it, and less the further the command lies from it. So a command can win that is
    the second best of several hypotheses and the best of none.

    Args:
        grammar: The commands there are.
        options: How to weigh.
    """

    def __init__(self, grammar: Grammar, options: SlotOptions | None = None) -> None:
        self.grammar = grammar
        self.options = options or SlotOptions()
        self._sounds = {phrase: phonemes(phrase) for step in grammar.steps for phrase in step.phrases}
        silent = [phrase for phrase, sound in self._sounds.items() if not sound]
        if silent:
            raise ConfigError(f"{silent[0]!r} has no sound; write it as it is said", stage="grammar")

    @property
    def prompt(self) -> str:
        """The values of all slots as a context for the recogniser, for `Recognizer.transcribe(prompt=…)`."""
        return ", ".join(dict.fromkeys(value for values in self.grammar.values.values() for value in values)) + "."

    def fill(self, heard: Transcript | str) -> Command:
        """Find the command in a list of hypotheses, or in a text.

        Returns:
            The best command, or a refusal with its reason if nobody spoke or no command sounds like it.
        """
        if isinstance(heard, str):
            listed = [(heard, 0.0)]
        elif not heard.is_speech:
            return Command("", {}, 0.0, (), heard.reason)
        else:
            listed = [(h.text, h.log_prob) for h in heard.hypotheses]
        evidence: dict[_Key, list[float]] = defaultdict(list)
        for text, log_prob in listed:
            for cost, key in self._candidates(text):
                evidence[key].append(log_prob / self.options.temperature - self.options.sharpness * cost)
        if not evidence:
            return Command("", {}, 0.0, (), f"there are no words in {listed[0][0]!r}")
        scores = {key: float(np.logaddexp.reduce(values)) for key, values in evidence.items()}
        total = float(np.logaddexp.reduce(list(scores.values())))
        ranked = sorted(scores, key=lambda key: -scores[key])
        commands = [
            Command(intent, dict(sorted(slots)), math.exp(scores[intent, slots] - total)) for intent, slots in ranked
        ]
        alternatives = tuple(command for command in commands[1:] if command.intent)
        if commands[0].accepted:
            return replace(commands[0], alternatives=alternatives)
        return replace(commands[0], alternatives=alternatives, reason=_refusal(listed[0][0], alternatives))

    def _candidates(self, text: str) -> Iterator[tuple[float, _Key]]:
        """Yield the best commands for one hypothesis with their costs, and the cost of no command."""
        heard = pronounce(text)
        if not heard:
            return
        sounds = [phoneme for word in heard for phoneme in word.phonemes]
        skipped = np.concatenate([[0.0], np.cumsum(omissions()[sounds])])
        breaks = np.cumsum([0, *(len(word.phonemes) for word in heard)])
        loose = self.grammar.loose
        filler = self.options.loose_filler if loose else self.options.filler
        # Where most words are fillers, a command without any slot would cost as much as fillers do.
        yield float((filler if loose else self.options.refusal) * skipped[-1]), _NOTHING
        costs = alignments(list(self._sounds.values()), sounds, breaks, missed=self.options.missed)[:, :, breaks]
        place = {phrase: number for number, phrase in enumerate(self._sounds)}
        steps = {step: costs[[place[phrase] for phrase in step.phrases]] for step in self.grammar.steps}
        for step, cost in steps.items():
            if not step.slot:
                cost[:, range(len(breaks)), range(len(breaks))] *= self.options.omission
        yield from _Lattice(self.grammar, steps, filler * skipped[breaks]).best(self.options.candidates)


class _Lattice:
    """The grammar laid over one hypothesis.

    Positions are the b breaks between its words. `steps` holds what each phrase of a step costs between any two of
    them, shape (phrases, b, b); `filler` what the words up to a break cost as fillers, shape (b,).
    """

    def __init__(self, grammar: Grammar, steps: Mapping[Step, Costs], filler: Costs) -> None:
        self._grammar, self._steps, self._filler = grammar, steps, filler
        cheapest = {step: cost.min(axis=0) for step, cost in steps.items()}
        # The least cost from each node and break to the end: the search's lower bound.
        self._ahead: list[Costs] = []
        for node, edges in enumerate(grammar.edges):
            options = [(cheapest[step] + self._ahead[target]).min(axis=1) for step, target in edges]
            if node in grammar.ends:
                options.append(np.where(np.arange(len(filler)) < len(filler) - 1, np.inf, 0.0))
            ahead = np.minimum.reduce(options)
            # Fillers before it: the same running minimum as in `alignments`, from the right.
            self._ahead.append(np.minimum.accumulate((ahead + filler)[::-1])[::-1] - filler)

    def best(self, n: int) -> Iterator[tuple[float, _Key]]:
        """The n cheapest commands, cheapest first: best-first search under exact lower bounds (A*)."""
        ties = itertools.count()
        queue: list[tuple[float, int, str, int, frozenset[tuple[str, str]], Costs]] = []
        for intent, root in self._grammar.roots.items():
            start = self._filler.copy()
            heapq.heappush(queue, (float(self._ahead[root][0]), next(ties), intent, root, frozenset(), start))
        emitted: set[_Key] = set()
        while queue and len(emitted) < n:
            bound, _, intent, node, slots, spent = heapq.heappop(queue)
            if node < 0:
                if (intent, slots) not in emitted:
                    emitted.add((intent, slots))
                    yield bound, (intent, slots)
                continue
            if node in self._grammar.ends:
                heapq.heappush(queue, (float(spent[-1]), next(ties), intent, -1, slots, spent))
            for target, filled, cost in self._continuations(node, slots, spent):
                least = float((cost + self._ahead[target]).min())
                heapq.heappush(queue, (least, next(ties), intent, target, filled, cost))

    def _continuations(
        self, node: int, slots: frozenset[tuple[str, str]], spent: Costs
    ) -> Iterator[tuple[int, frozenset[tuple[str, str]], Costs]]:
        for step, target in self._grammar.edges[node]:
            if any(slot == step.slot for slot, _ in slots):
                continue
            reached = (spent[:, None] + self._steps[step]).min(axis=1)
            if not step.slot:
                reached = reached.min(axis=0, keepdims=True)
            reached = np.minimum.accumulate(reached - self._filler, axis=1) + self._filler
            for phrase, cost in zip(step.phrases, reached, strict=False):
                yield target, slots | {(step.slot, phrase)} if step.slot else slots, cost


def _refusal(text: str, alternatives: tuple[Command, ...]) -> str:
    nearest = " ".join([alternatives[0].intent, *alternatives[0].slots.values()]) if alternatives else ""
    return f"no command of the grammar sounds like {text!r}" + (f"; the nearest is {nearest}" if nearest else "")
