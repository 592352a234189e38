"""Trains the read-out of P(<RET>): a linear probe of one hidden state of a frozen language model."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..evaluation.rows import read_rows
from ..model.chat import Device
from ..model.local import TransformersChatModel
from ..model.prompts import Message, Persona
from ..model.readout import ReadOut
from ..weights import Progress, resolve

_PERSONAS = (
    Persona(),
    Persona("You are a helpful assistant that speaks with people on the phone. Be brief.", ()),
    Persona(
        "You are the voice assistant of a hotel. Keep your answers short and friendly.",
        (
            ("Good evening.", "Good evening! What can I do for you?"),
            ("I'd like a taxi to the station at 5.", "A taxi to the station at 5, I will arrange that."),
        ),
    ),
    Persona(
        "You are the friendly voice assistant of a shop. You chat with customers in one short sentence.",
        (
            ("Hi, good morning!", "Good morning! What can I get for you?"),
            ("I'd like two of the small ones, please.", "Two small ones, coming right up."),
            ("Make it three.", "Three it is."),
            ("That's all, thanks.", "You're welcome!"),
            ("Who are you?", "I'm the voice of this shop."),
        ),
    ),
)
"""The reader must not depend on one persona's prompt, so it is trained under several."""

_THRESHOLD = 0.35
"""Below one half, because a look-up too many costs a moment, and one too few an invented answer."""

_HELD_OUT = 0.2
"""Half of it calibrates, half of it is reported."""
_REGULARISATION = 3e-5
"""C of the logistic regression: strong shrinkage, because a reader is used in domains that it was not fitted on."""


@dataclass(frozen=True, slots=True)
class LabelledTurn:
    """A user's turn and whether it needs documents.

    Attributes:
        messages: The turn, and the turns before it, in a chat.
        needs_retrieval: The label.
    """

    messages: tuple[Message, ...]
    needs_retrieval: bool


def train_read_out(
    dialogues: Sequence[Path],
    out: Path,
    *,
    questions: Sequence[Path] = (),
    requests: Sequence[Path] = (),
    model: str,
    layer: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit a logistic reader of one hidden state, and calibrate it on turns that the fit did not see.

    Half of the turns are written as a recogniser without punctuation would: lower case, no marks.

    Args:
        dialogues: Files of turns ``{history, turn, needs_retrieval}``, one JSON object a line, gzipped or not.
        out: Where the reader goes, with its card.
        questions: Files of questions ``{text}`` that all need documents.
        requests: Files of requests ``{text}`` that need none.
        model: Name of the registry, or folder.
        layer: Which hidden state; by default the one at two thirds of the depth.
        limit: At most so many turns of each file, drawn at random.
        seed: Of shuffles, personas and styles.
        device: Where the model runs.
        progress: Called with turns read so far and in all.

    Returns:
        The card: data, settings, and figures on a tenth that neither the fit nor the calibration saw.

    Raises:
        ConfigError: If a file has another form, or holds one label only.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import f1_score, roc_auc_score
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("Training a read-out needs scikit-learn: pip install 'vivavoce[train]'") from error

    rng = random.Random(seed)
    sources = [_dialogues(path) for path in dialogues] + [_plain(path, True) for path in questions]
    sources += [_plain(path, False) for path in requests]
    turns = [turn for source in sources for turn in _sampled(source, limit, rng)]
    turns = _in_dialogues(turns, rng)
    fitted_n, calibrated_n = _split(turns, rng)
    labels = np.array([turn.needs_retrieval for turn in turns])
    if len(turns) < 50 or labels.all() or not labels.any():
        raise ConfigError(
            f"{len(turns)} turns, {labels.sum()} of which need a look-up: give at least 50 of both kinds",
            stage="train",
        )
    chat = TransformersChatModel(resolve(model), device=device)
    depth = int(chat.model.config.num_hidden_layers)
    layer = round(depth * 2 / 3) if layer is None else layer
    if not 0 <= layer <= depth:
        raise ConfigError(f"layer must be 0 to {depth}, not {layer}", stage="train")
    prompts = [
        rng.choice(_PERSONAS).messages() + [_styled(message, plain) for message in turn.messages]
        for turn in turns
        for plain in (rng.random() < 0.5,)
    ]
    states = _states(chat, prompts, layer, progress)
    cut, end = fitted_n, fitted_n + calibrated_n
    scaler = StandardScaler().fit(states[:cut])
    fitted = LogisticRegression(C=_REGULARISATION, max_iter=3000).fit(scaler.transform(states[:cut]), labels[:cut])
    # The standardisation is folded into the weights: w·(x - mean)/scale + b = (w/scale)·x + (b - (w/scale)·mean).
    weights = fitted.coef_[0] / scaler.scale_
    slope, bias = _platt(states[cut:end] @ weights, labels[cut:end])
    weights = (slope * weights).astype(np.float32)
    reader = ReadOut(chat.name, layer, weights, bias, _THRESHOLD)
    scored = np.array([reader.probability(state) for state in states[end:]])
    held = labels[end:]
    card = {
        "what": "logistic reader of P(<RET>) from one hidden state of a frozen model",
        "data": [path.name for path in (*dialogues, *questions, *requests)],
        "turns": {
            "fitted": cut,
            "calibrated": end - cut,
            "held_out": len(turns) - end,
            "need_retrieval": int(labels.sum()),
        },
        "settings": {"layer": layer, "C": _REGULARISATION, "seed": seed, "limit": limit},
        "held_out": {
            "auroc": round(float(roc_auc_score(held, scored)), 4),
            "f1": round(float(f1_score(held, scored >= reader.threshold)), 4),
            "accuracy": round(float(((scored >= reader.threshold) == held).mean()), 4),
        },
    }
    reader.save(out, card)
    return card


def _platt(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset that turn scores into calibrated log-odds (Platt 1999), fitted on turns that were held out."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6, class_weight="balanced").fit(scores[:, None], labels)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _states(
    chat: TransformersChatModel, prompts: Sequence[list[Message]], layer: int, progress: Progress | None
) -> NDArray[np.float32]:
    """The state that predicts the first token of each answer; float32, shape (n, hidden_size).

    Prompts of one persona begin alike, and the model's idle streams read that beginning once.
    """
    rows = []
    for number, prompt in enumerate(prompts, start=1):
        generation = chat.begin(prompt)
        rows.append(generation.state(layer))
        generation.close()
        if progress is not None:
            progress(number, len(prompts), "reading turns")
    return np.stack(rows)


def _in_dialogues(turns: list[LabelledTurn], rng: random.Random) -> list[LabelledTurn]:
    """Half of the turns that came alone are put behind the beginning of a dialogue: a history alone must not decide."""
    histories = [turn.messages[:-1] for turn in turns if len(turn.messages) > 2]
    placed = []
    for turn in turns:
        if len(turn.messages) == 1 and histories and rng.random() < 0.5:
            turn = LabelledTurn((*rng.choice(histories), *turn.messages), turn.needs_retrieval)
        placed.append(turn)
    return placed


def _split(turns: list[LabelledTurn], rng: random.Random) -> tuple[int, int]:
    """Sort turns, in place, into those to fit, to calibrate and to report on; how many are in the first two.

    A sentence that occurs several times falls into one part only.
    """
    sentences = sorted({turn.messages[-1]["content"] for turn in turns})
    rng.shuffle(sentences)
    place = {sentence: number / len(sentences) for number, sentence in enumerate(sentences)}
    rng.shuffle(turns)
    turns.sort(key=lambda turn: place[turn.messages[-1]["content"]])
    places = [place[turn.messages[-1]["content"]] for turn in turns]
    fitted = sum(at < 1 - _HELD_OUT for at in places)
    return fitted, sum(1 - _HELD_OUT <= at < 1 - _HELD_OUT / 2 for at in places)


def _sampled(turns: Iterator[LabelledTurn], limit: int | None, rng: random.Random) -> list[LabelledTurn]:
    listed = list(turns)
    rng.shuffle(listed)
    return listed[:limit]


def _dialogues(path: Path) -> Iterator[LabelledTurn]:
    for number, row in enumerate(read_rows(path, ("history", "turn", "needs_retrieval")), start=1):
        try:
            messages = [*row["history"][-4:], row["turn"]]
            chat = tuple(Message(role=message["role"], content=message["text"]) for message in messages)
            yield LabelledTurn(chat, bool(row["needs_retrieval"]))
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f'{path}, row {number}: "turn" and each of "history" are objects with role and text ({error!r})',
                stage="train",
            ) from error


def _plain(path: Path, needs_retrieval: bool) -> Iterator[LabelledTurn]:
    for row in read_rows(path, ("text",)):
        if not needs_retrieval and _ASKS.search(str(row.get("intent", ""))):
            continue
        yield LabelledTurn(({"role": "user", "content": str(row["text"])},), needs_retrieval)


_ASKS = re.compile(r"query|qa_|weather|news|datetime|recommendation|traffic|recipe|play_")
"""Intents that ask for information (or name a work, which reads like it): whether they need documents depends."""


def _styled(message: Message, plain: bool) -> Message:
    if not plain or message["role"] != "user":
        return message
    return {"role": "user", "content": re.sub(r"[^\w\s']", "", message["content"].lower())}
