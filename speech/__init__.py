"""Hears and speaks; knows nothing of meaning.

`Audio` goes in, a `Transcript` (a distribution over what was said) comes out; text goes in, `Audio` comes out.
Models are loaded when their class is constructed, never at import.
"""

from .engines.ctc import CTCRecognizer
from .engines.openai_whisper import OpenAIWhisperRecognizer
from .engines.transformers_whisper import TransformersWhisperRecognizer
from .engines.whisper import WhisperOptions, WhisperRecognizer
from .errors import AudioError, ModelError, SpeechError, SynthesisError
from .lists.choosing import BayesChooser, Choice, Chooser, FirstChooser, LanguageChooser, RoverChooser, SentenceScorer
from .lists.confusion import ConfusionNetwork
from .lists.fulltext import FullTextCorrector
from .lists.nbest import distinct, normalizer, varied
from .live.events import Draft, Final, Partial
from .live.recognizer import StreamingRecognizer
from .sound.audio import SPEECH_RATE, Audio
from .sound.endpointing import Endpointing, EndpointOptions
from .sound.segments import Segment, Segmenter, SpeechEnded, SpeechEvent, SpeechStarted, VadOptions, speech_segments
from .sound.sink import WavSink
from .sound.source import frames
from .sound.vad import FRAME, SileroDetector, VoiceDetector
from .transcript import Calibration, Hypothesis, Recognizer, Transcript, Word
from .voice.sentences import sentences
from .voice.tts import HibariSynthesizer, Synthesizer, speakable

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
