"""Joins hearing, finding and remembering into an assistant; the only folder that imports the other three."""

from .assistant import Turn, VoiceAgent, open_knowledge
from .directed import DirectedSpeech
from .engines import open_recognizer
from .errors import AgentError, ConfigError, EndpointError, GenerationError, ModelUnavailable, TurnCancelled
from .events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded
from .gate import AlwaysRetrieve, Decision, Gate, NeverRetrieve, TokenGate
from .grammar import Grammar
from .intents import IntentClassifier
from .keywords import KeywordSpotter, WakePhrase
from .llm import ChatModel, FirstToken, Generation, LocalModelOptions, TransformersChatModel
from .prompts import Message, Persona
from .readout import ReadOut
from .remote import OpenAIChatModel
from .scoring import LanguageScorer, open_chooser
from .slots import SlotFiller
from .state import AnswerOptions, Parts

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
