"""Makes the spoken questions of the demo: the built-in voice, mixed with a recorded kitchen at 10 dB.

    python examples/coffeehouse/make_questions.py --noise kitchen.flac

The four orders beside them are real recordings; see questions/README.md for where they come from.
"""

import argparse
import json
from pathlib import Path

from vivavoce.speech import Audio, HibariSynthesizer

HERE = Path(__file__).parent
SNR_DB = 10.0
VOICE = "heart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=Path, required=True, help="a recorded noise")
    noise = Audio.read(parser.parse_args().noise, rate=16_000)
    synthesizer = HibariSynthesizer(VOICE)
    rows = [json.loads(line) for line in (HERE / "questions" / "manifest.jsonl").read_text().splitlines()]
    for number, row in enumerate(row for row in rows if row["kind"] != "order"):
        voice = Audio.join(synthesizer.speak(row["text"])).resampled(16_000)
        spoken = Audio.join([Audio.silence(0.3), voice, Audio.silence(0.3)])
        # Another stretch of the noise for every question.
        mixed = spoken.mixed_with(noise.slice(10.0 * number), SNR_DB)
        mixed.write(HERE / "questions" / row["audio_filepath"])


if __name__ == "__main__":
    main()
