"""Joins hearing, finding and remembering into an assistant; the only folder that imports the other three."""

from .assistant import Turn, VoiceAgent
from .errors import AgentError, ConfigError, EndpointError, GenerationError, ModelUnavailable, TurnCancelled
from .model.chat import ChatModel, FirstToken, Generation
from .model.gate import AlwaysRetrieve, Decision, Gate, NeverRetrieve, TokenGate
from .model.local import LocalModelOptions, TransformersChatModel
from .model.prompts import Message, Persona
from .model.readout import ReadOut
from .model.remote import OpenAIChatModel
from .model.scorer import LanguageScorer
from .opening import open_chooser, open_knowledge, open_recognizer
from .turn.events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded, Understood
from .turn.state import AnswerOptions, Parts
from .understanding.directed import DirectedSpeech
from .understanding.grammar import Grammar
from .understanding.intents import IntentClassifier
from .understanding.keywords import KeywordSpotter, WakePhrase
from .understanding.skills import (
    ChooserSkill,
    CommandSkill,
    DirectedSkill,
    IntentSkill,
    Outcome,
    Skill,
    WakeSkill,
)
from .understanding.slots import SlotFiller

__all__ = [
    "AgentError",
    "AlwaysRetrieve",
    "AnswerOptions",
    "ChatModel",
    "ChooserSkill",
    "CommandSkill",
    "ConfigError",
    "Decided",
    "Decision",
    "DirectedSkill",
    "DirectedSpeech",
    "EndpointError",
    "Event",
    "FirstToken",
    "Gate",
    "Generation",
    "GenerationError",
    "Grammar",
    "Heard",
    "IntentClassifier",
    "IntentSkill",
    "KeywordSpotter",
    "LanguageScorer",
    "LocalModelOptions",
    "Message",
    "ModelUnavailable",
    "NeverRetrieve",
    "OpenAIChatModel",
    "Outcome",
    "Parts",
    "Persona",
    "ReadOut",
    "Retrieved",
    "Said",
    "Saying",
    "Skill",
    "SlotFiller",
    "Speaking",
    "Spoke",
    "TokenGate",
    "TransformersChatModel",
    "Turn",
    "TurnCancelled",
    "TurnEnded",
    "Understood",
    "VoiceAgent",
    "WakePhrase",
    "WakeSkill",
    "open_chooser",
    "open_knowledge",
    "open_recognizer",
]
