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
from .turn.events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded
from .turn.state import AnswerOptions, Parts
from .understanding.directed import DirectedSpeech
from .understanding.grammar import Grammar
from .understanding.intents import IntentClassifier
from .understanding.keywords import KeywordSpotter, WakePhrase
from .understanding.slots import SlotFiller

__all__ = [
    "AgentError",
    "AlwaysRetrieve",
    "AnswerOptions",
    "ChatModel",
    "ConfigError",
    "Decided",
    "Decision",
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
    "KeywordSpotter",
    "LanguageScorer",
    "LocalModelOptions",
    "Message",
    "ModelUnavailable",
    "NeverRetrieve",
    "OpenAIChatModel",
    "Parts",
    "Persona",
    "ReadOut",
    "Retrieved",
    "Said",
    "Saying",
    "SlotFiller",
    "Speaking",
    "Spoke",
    "TokenGate",
    "TransformersChatModel",
    "Turn",
    "TurnCancelled",
    "TurnEnded",
    "VoiceAgent",
    "WakePhrase",
    "open_chooser",
    "open_knowledge",
    "open_recognizer",
]
