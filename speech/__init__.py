"""Hears and speaks; knows nothing of meaning.

`Audio` goes in, a `Transcript` (a distribution over what was said) comes out; text goes in, `Audio` comes out.
Models are loaded when their class is constructed, never at import.
"""

from .asr import Calibration, Hypothesis, Recognizer, Transcript, Word
from .audio import SPEECH_RATE, Audio
from .confusion import ConfusionNetwork
from .correction import BayesChooser, Choice, Chooser, FirstChooser, LanguageChooser, RoverChooser, SentenceScorer
from .ctc import CTCRecognizer
from .endpointing import Endpointing, EndpointOptions
from .errors import AudioError, ModelError, SpeechError, SynthesisError
from .fulltext import FullTextCorrector
from .nbest import distinct, normalizer, varied
from .openai_whisper import OpenAIWhisperRecognizer
from .sentences import sentences
from .sink import WavSink
from .source import frames
from .streaming import Draft, Final, Partial, StreamingRecognizer
from .transformers_whisper import TransformersWhisperRecognizer
from .tts import HibariSynthesizer, Synthesizer, speakable
from .vad import (
    FRAME,
    Segment,
    Segmenter,
    SileroDetector,
    SpeechEnded,
    SpeechEvent,
    SpeechStarted,
    VadOptions,
    VoiceDetector,
    speech_segments,
)
from .whisper import WhisperOptions, WhisperRecognizer

__all__ = [
    "FRAME",
    "SPEECH_RATE",
    "Audio",
    "AudioError",
    "BayesChooser",
    "CTCRecognizer",
    "Calibration",
    "Choice",
    "Chooser",
    "ConfusionNetwork",
    "Draft",
    "EndpointOptions",
    "Endpointing",
    "Final",
    "FirstChooser",
    "FullTextCorrector",
    "HibariSynthesizer",
    "Hypothesis",
    "LanguageChooser",
    "ModelError",
    "OpenAIWhisperRecognizer",
    "Partial",
    "Recognizer",
    "RoverChooser",
    "Segment",
    "Segmenter",
    "SentenceScorer",
    "SileroDetector",
    "SpeechEnded",
    "SpeechError",
    "SpeechEvent",
    "SpeechStarted",
    "StreamingRecognizer",
    "SynthesisError",
    "Synthesizer",
    "Transcript",
    "TransformersWhisperRecognizer",
    "VadOptions",
    "VoiceDetector",
    "WavSink",
    "WhisperOptions",
    "WhisperRecognizer",
    "Word",
    "distinct",
    "frames",
    "normalizer",
    "sentences",
    "speakable",
    "speech_segments",
    "varied",
]
