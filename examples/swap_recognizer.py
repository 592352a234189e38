"""A recogniser of one's own: any object with a method `transcribe`."""

from collections.abc import Sequence
from pathlib import Path

from vivavoce.agent import VoiceAgent, weights
from vivavoce.speech import Audio, Recognizer, Transcript, WhisperOptions, WhisperRecognizer


class SecondThoughts:
    """Listens quickly, and again with care when in doubt."""

    def __init__(self, quick: Recognizer, careful: Recognizer) -> None:
        self.quick, self.careful = quick, careful

    def transcribe(
        self, audio: Audio, *, n_best: int = 5, prompt: str = "", hotwords: Sequence[str] = ()
    ) -> Transcript:
        """The quick one's list if its best hypothesis stands out, else the careful one's."""
        heard = self.quick.transcribe(audio, n_best=n_best, prompt=prompt, hotwords=hotwords)
        if heard.confidence > 0.8:
            return heard
        return self.careful.transcribe(audio, n_best=n_best, prompt=prompt, hotwords=hotwords)


if __name__ == "__main__":
    whisper = weights.resolve("whisper-base")
    quick = WhisperRecognizer(whisper, options=WhisperOptions().quick())
    careful = WhisperRecognizer(whisper, options=WhisperOptions(tails=(6.0, 10.0)))  # looks twice
    recognizer = SecondThoughts(quick, careful)
    with VoiceAgent.load(recognizer=recognizer, synthesizer=None) as agent:
        turn = agent.ask(Audio.read(Path(__file__).parent / "coffeehouse/questions/1-order-medium-mocha.flac"))
        for hypothesis, posterior in zip(turn.heard.hypotheses, turn.heard.posteriors(), strict=True):
            print(f"{posterior:.2f}  {hypothesis.text}")
