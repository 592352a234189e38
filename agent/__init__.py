"""Joins hearing, finding and remembering into an assistant; the only folder that imports the other three."""

from .assistant import Turn, VoiceAgent, open_knowledge
from .errors import AgentError, ConfigError, EndpointError, GenerationError, ModelUnavailable, TurnCancelled
from .events import Decided, Event, Heard, Retrieved, Said, Saying, Speaking, Spoke, TurnEnded
from .gate import AlwaysRetrieve, Decision, Gate, NeverRetrieve, TokenGate
from .llm import ChatModel, FirstToken, Generation, LocalModelOptions, TransformersChatModel
from .prompts import Message, Persona
from .readout import ReadOut
from .remote import OpenAIChatModel
from .state import AnswerOptions, Parts

__all__ = [
    "AgentError",
    "AlwaysRetrieve",
    "AnswerOptions",
    "ChatModel",
    "ConfigError",
    "Decided",
    "Decision",
    "EndpointError",
    "Event",
    "FirstToken",
    "Gate",
    "Generation",
    "GenerationError",
    "Heard",
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
    "Speaking",
    "Spoke",
    "TokenGate",
    "TransformersChatModel",
    "Turn",
    "TurnCancelled",
    "TurnEnded",
    "VoiceAgent",
    "open_knowledge",
]
