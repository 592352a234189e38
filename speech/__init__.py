"""Hears and speaks; knows nothing of meaning.

`Audio` goes in, a `Transcript` (a distribution over what was said) comes out; text goes in, `Audio` comes out.
Models are loaded when their class is constructed, never at import.
"""

from .asr import Hypothesis, Recognizer, Transcript, Word
from .audio import SPEECH_RATE, Audio
from .errors import AudioError, ModelError, SpeechError, SynthesisError
from .nbest import distinct, normalizer
from .sentences import sentences
from .sink import WavSink
from .source import frames
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
    "HibariSynthesizer",
    "Hypothesis",
    "ModelError",
    "Recognizer",
    "Segment",
    "Segmenter",
    "SileroDetector",
    "SpeechEnded",
    "SpeechError",
    "SpeechEvent",
    "SpeechStarted",
    "SynthesisError",
    "Synthesizer",
    "Transcript",
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
]
