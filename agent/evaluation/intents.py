"""How often an intent is understood, beside the usual baseline in the same run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vivavoce.retrieval import Embedder

from .. import weights
from ..errors import ConfigError
from ..understanding.intents import Heard, IntentClassifier, plainly, readings


def evaluate_intents(
    classifier: IntentClassifier,
    train: Sequence[dict[str, Any]],
    test: Sequence[dict[str, Any]],
    field: str = "text",
    *,
    baseline: Embedder | None = None,
    progress: weights.Progress | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit on some rows, predict others.

    Args:
        classifier: It learns from `train` here.
        train: Rows with `intent` and, `text`, or `hypotheses`, or `asr`.
        test: Rows with `intent` and the field.
        field: ``asr``, ``text`` or ``hypotheses`` (strings, or objects with `text` and `posterior`).
        baseline: Its vectors of the text, or of the best hypothesis, are classified by logistic regression too.
        progress: Told how many texts are read.

    Returns:
        A summary, in which labels that no training row has count as errors, and one row per item. `accuracy_left_out`
        is of training rows, `tuned` says whether encoders were fine-tuned.

    Raises:
        ConfigError: If a row has no such field.
    """
    try:
        from sklearn.metrics import f1_score
    except ImportError as error:
        raise ImportError("Measuring intents needs scikit-learn: pip install 'vivavoce[train]'") from error

    learned, labels = training_items(train)
    heard, wanted = [heard_in(row, field) for row in test], [str(row["intent"]) for row in test]
    began = time.perf_counter()
    classifier.fit(learned, labels, progress=progress)
    fitted = time.perf_counter()
    predictions = classifier.predict_many(heard, progress=progress)
    done = time.perf_counter()
    given = [prediction.intent for prediction in predictions]
    summary: dict[str, Any] = {
        "n": len(test),
        "accuracy": _share(given, wanted),
        "macro_f1": round(float(f1_score(wanted, given, average="macro", zero_division=0)), 4),
        "baseline_accuracy": None,
        "train": len(train),
        "labels": len(classifier.labels),
        "unseen_label_share": round(sum(label not in classifier.labels for label in wanted) / len(wanted), 4),
        "accuracy_left_out": round(classifier.left_out, 4),
        "tuned": classifier.mixture is not None,
        "seconds_fit": round(fitted - began, 2),
        "ms_per_prediction": round(1000 * (done - fitted) / len(test), 2),
    }
    if baseline is not None:
        guessed = _baseline(baseline, [_best(item) for item in learned], labels, [_best(item) for item in heard])
        summary["baseline_accuracy"] = _share(guessed, wanted)
    rows = [
        {"heard": row[field], "intent": label, "predicted": prediction.intent, "probability": prediction.probability}
        for row, label, prediction in zip(test, wanted, predictions, strict=True)
    ]
    return summary, rows


def training_items(rows: Sequence[dict[str, Any]]) -> tuple[list[Heard], list[str]]:
    """What was said, or else what was heard, and the labels.

    Raises:
        ConfigError: If a row has none of the fields.
    """
    fields = [next((name for name in ("text", "hypotheses", "asr") if name in row), "text") for row in rows]
    heard = [heard_in(row, field) for row, field in zip(rows, fields, strict=True)]
    return heard, [str(row["intent"]) for row in rows]


def heard_in(row: dict[str, Any], field: str) -> Heard:
    """What a row says was heard.

    Raises:
        ConfigError: If it has no such field, or it is of another form.
    """
    value = row.get(field)
    if field != "hypotheses" and isinstance(value, str):
        return value
    if field == "hypotheses" and isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, dict) and {"text", "posterior"} <= item.keys() for item in value):
            return [(str(item["text"]), float(item["posterior"])) for item in value]
    form = "a list of strings, or of objects with text and posterior" if field == "hypotheses" else "a string"
    raise ConfigError(f'a row has no "{field}" that is {form}: {", ".join(row)}', stage="eval")


def _baseline(embedder: Embedder, texts: Sequence[str], labels: Sequence[str], test: Sequence[str]) -> list[str]:
    """Logistic regression on sentence vectors: the usual one."""
    from sklearn.linear_model import LogisticRegression

    vectors, at = _once(embedder, [plainly(text) for text in (*texts, *test)])
    head = LogisticRegression(C=10.0, max_iter=1000).fit(vectors[at[: len(texts)]], labels)
    return [str(label) for label in head.predict(vectors[at[len(texts) :]])]


def _once(embedder: Embedder, texts: Sequence[str]) -> tuple[Any, list[int]]:
    """Vectors of all different texts, and the place of each text among them."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return embedder.embed(list(places)), [places[text] for text in texts]


def _best(heard: Heard) -> str:
    return max(readings(heard), key=lambda reading: reading[1])[0]


def _share(given: Sequence[str], wanted: Sequence[str]) -> float:
    return round(float(np.mean([a == b for a, b in zip(given, wanted, strict=True)])), 4)
