"""Ask a recording, look it up in a handbook, speak the answer.

python examples/hello.py [RECORDING]
"""

import sys
from pathlib import Path

from vivavoce.agent import Persona, VoiceAgent
from vivavoce.speech import Audio

COFFEEHOUSE = Path(__file__).parent / "coffeehouse"


def main(recording: str | Path = COFFEEHOUSE / "questions" / "8-caramel-frappe.flac") -> None:
    persona = Persona.load(COFFEEHOUSE / "persona.json")
    with VoiceAgent.load(COFFEEHOUSE / "handbook", persona=persona) as agent:
        turn = agent.ask(Audio.read(recording))
    print("heard:", turn.heard.text or turn.heard.reason)
    print("said: ", turn.text, *turn.sources)
    out = Path("out")
    out.mkdir(exist_ok=True)
    if turn.audio is not None:
        print("spoke:", turn.audio.write(out / "hello.wav"))


if __name__ == "__main__":
    main(*sys.argv[1:])
