"""An OpenAI-compatible endpoint, played by a server on this machine that streams what a test tells it to."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from vivavoce.agent import (
    AlwaysRetrieve,
    AnswerOptions,
    ConfigError,
    EndpointError,
    GenerationError,
    NeverRetrieve,
    OpenAIChatModel,
    Parts,
    TokenGate,
    VoiceAgent,
)
from vivavoce.agent.model.prompts import DONT_KNOW, SENTINEL
from vivavoce.agent.testing import check_chat_model
from vivavoce.memory.testing import ListRecord
from vivavoce.retrieval.testing import FakeKnowledge

HELLO = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "hello"}]


@dataclass
class Endpoint:
    """What the server answers, and what it was asked."""

    url: str = ""
    pieces: Callable[[list[dict[str, str]]], list[str]] = lambda messages: ["Hello", " there", "."]
    logprobs: list[dict[str, float]] = field(default_factory=list)  # the likeliest in the place of each piece
    refuses: tuple[int, str] | None = None
    unknown: dict[str, int] = field(default_factory=dict)  # options that it refuses, and the status
    breaks_after: int | None = None
    cached: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        endpoint: Endpoint = self.server.endpoint
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        endpoint.requests.append(request)
        if endpoint.refuses:
            return self.refuse(*endpoint.refuses)
        for option, status in endpoint.unknown.items():
            if option in request:
                return self.refuse(status, f"{option} is not supported by this model")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(endpoint, request)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def stream(self, endpoint: Endpoint, request: dict[str, Any]) -> None:
        self.send({"role": "assistant", "content": ""})
        pieces = endpoint.pieces(request["messages"])
        for number, piece in enumerate(pieces):
            if number == endpoint.breaks_after:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)  # without the end that a chunked answer has
                return
            told = endpoint.logprobs[number : number + 1] if request.get("logprobs") else []
            self.send({"content": piece}, *told)
        if request.get("stream_options", {}).get("include_usage"):
            self.send(None)
        self.write("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def send(self, delta: dict[str, str] | None, logprobs: dict[str, float] | None = None) -> None:
        chunk: dict[str, Any] = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        if delta is None:
            chunk |= {"choices": [], "usage": {"prompt_tokens": 17, "completion_tokens": 3, "total_tokens": 20}}
            chunk["usage"]["prompt_tokens_details"] = {"cached_tokens": self.server.endpoint.cached}
        else:
            choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
            if logprobs is not None:
                top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
                [written] = [entry for entry in top if entry["token"] == delta["content"]]
                choice["logprobs"] = {"content": [{**written, "top_logprobs": top}]}
            chunk["choices"] = [choice]
        self.write(json.dumps(chunk))

    def write(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")

    def refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # a client may hang up
    server.endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.endpoint
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(endpoint) -> Iterator[OpenAIChatModel]:
    with openai.OpenAI(base_url=endpoint.url, api_key="none", timeout=10, max_retries=0) as client:
        yield OpenAIChatModel("served", client=client)


def test_it_keeps_the_contract(endpoint, model):
    endpoint.pieces = lambda messages: [messages[-1]["content"][:3], " says", " <RE", "T> hi"]
    check_chat_model(model)


def test_an_answer_is_streamed(endpoint, model):
    generation = model.begin(HELLO)
    assert "".join(generation.stream()) == "Hello there."
    assert generation.prefilled == 17, "as the endpoint counts"
    [request] = endpoint.requests
    assert (request["model"], request["stream"], request["temperature"]) == ("served", True, 0)
    assert (
        request["messages"][0]["content"].startswith("You are brief.\n")
        and SENTINEL in request["messages"][0]["content"]
    )
    assert request["messages"][1:] == HELLO[1:]


def test_instructions_are_added_where_there_are_none(endpoint, model):
    model.begin(HELLO[1:]).close()
    assert [message["role"] for message in endpoint.requests[0]["messages"]] == ["system", "user"]
    assert SENTINEL in endpoint.requests[0]["messages"][0]["content"]


def test_only_so_many_pieces_are_taken(model):
    assert list(model.begin(HELLO).stream(2)) == ["Hello", " there"]


def log(**probabilities: float) -> dict[str, float]:
    return {text: math.log(value) for text, value in probabilities.items()}


def test_log_probabilities_are_read(endpoint, model):
    endpoint.logprobs = [log(**{"Hello": 0.6, "<": 0.25, "<RET": 0.1, " ": 0.05})]
    first = model.begin(HELLO).first
    assert first.ret_probability == pytest.approx(0.1), "a bare bracket may begin anything"
    assert first.top_probability == pytest.approx(0.6)
    assert first.margin == pytest.approx(math.log(0.6 / 0.25))
    assert math.isnan(first.entropy)


@pytest.mark.parametrize(
    ("pieces", "logprobs", "expected"),
    [
        (["<", "b", ">"], [{"<": 0.9}, {"b": 0.7}, {">": 1.0}], 0.0),
        (["<", "b", ">"], [{"<": 0.9}, {"b": 0.7, "RET": 0.2}, {">": 1.0}], 0.9 * 0.2),
        (["<", "RET", ">"], [{"<": 0.9}, {"RET": 0.8}, {">": 0.5}], 0.9 * 0.8 * 0.5),
        (["<", "RET", "URN", ">"], [{"<": 0.9}, {"RET": 0.8}, {"URN": 0.5, ">": 0.3}, {">": 1.0}], 0.9 * 0.8 * 0.3),
        (["<", "RET", ">"], [{"<": 0.6, "<RET>": 0.1}, {"RET": 0.8, "RET>": 0.2}, {">": 0.5}], 0.1 + 0.6 * (0.2 + 0.4)),
        (["<", "RET", ">"], [{"<": 0.9}], 0.9),
        ([" ", "<RET>"], [{" ": 0.5, "<RET>": 0.4}, {"<RET>": 0.6}], 0.4 + 0.5 * 0.6),
        (["<RET>", " opening", " hours"], [{"<RET>": 0.7}, {" opening": 0.1}, {" hours": 0.1}], 0.7),
        (["Hello", "<RET>"], [{"Hello": 0.9, "<": 0.1}, {"<RET>": 0.9}], 0.0),
        (["<", "RET"], [{"<": 0.9}, {"RET": 0.8}], 0.0),
    ],
)
def test_the_sentinel_is_as_likely_as_the_tokens_that_spell_it(endpoint, model, pieces, logprobs, expected):
    endpoint.pieces, endpoint.logprobs = lambda messages: pieces, [log(**top) for top in logprobs]
    generation = model.begin(HELLO)
    assert generation.first.ret_probability == pytest.approx(expected)
    assert "".join(generation.stream()) == "".join(pieces).replace(SENTINEL, "")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["Hello"], 0.0),
        (["<RET>"], 1.0),
        (["<", "RE", "T", ">"], 1.0),
        ([" <RET>", " opening hours"], 1.0),
        (["<b>"], 0.0),
        (["Say <RET>"], 0.0),
        ([], 0.0),
    ],
)
def test_without_log_probabilities_the_text_decides(endpoint, model, pieces, expected):
    endpoint.pieces = lambda messages: pieces
    generation = model.begin(HELLO)
    assert generation.first.ret_probability == expected
    assert math.isnan(generation.first.margin)
    assert SENTINEL not in "".join(generation.stream())


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("unknown", [("logprobs",), ("stream_options",), ("logprobs", "stream_options")])
def test_an_endpoint_is_asked_again_without_what_it_refuses(endpoint, model, unknown, status):
    endpoint.unknown = dict.fromkeys(unknown, status)
    endpoint.logprobs = [{"Hello": math.log(0.5)}]
    generation = model.begin(HELLO)
    assert "".join(generation.stream()) == "Hello there."
    assert len(endpoint.requests) == 1 + len(unknown)
    assert math.isnan(generation.first.top_probability) == ("logprobs" in unknown)
    assert generation.prefilled == (0 if "stream_options" in unknown else 17)


def test_what_the_endpoint_had_in_its_cache_was_not_read(endpoint, model):
    endpoint.cached = 12
    generation = model.begin(HELLO)
    "".join(generation.stream())
    assert generation.prefilled == 5


def test_extending_counts_on(endpoint, model):
    endpoint.pieces = lambda messages: ["<RET>"]
    generation = model.begin(HELLO)
    assert generation.prefilled == 17
    generation.extend(HELLO[1:])
    assert generation.prefilled == 34


def test_extending_sends_the_chat_without_the_offer(endpoint, model):
    endpoint.pieces = lambda messages: ["<RET>"] if len(messages) == 2 else ["At", " 7."]
    generation = model.begin(HELLO)
    more = [{"role": "assistant", "content": "Let me look."}, {"role": "user", "content": "- We open at 7."}]
    generation.extend(more)
    assert "".join(generation.stream()) == "At 7."
    assert endpoint.requests[1]["messages"] == [*HELLO, *more]


# -- when it does not work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "retryable"),
    [
        (400, "context is too long", False),
        (401, "bad key", False),
        (404, "no such model", False),
        (429, "slow down", True),
        (500, "out of memory", True),
    ],
)
def test_a_refusal_is_told(endpoint, model, status, message, retryable):
    endpoint.refuses = (status, message)
    with pytest.raises(EndpointError, match=message) as caught:
        model.begin(HELLO)
    assert caught.value.retryable == retryable and caught.value.stage == "answer"
    assert len(endpoint.requests) == 1


def test_nobody_listens(model, endpoint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(EndpointError, match=r"served does not answer.*base_url right") as caught:
            OpenAIChatModel("served", client=client).begin(HELLO)
    assert caught.value.retryable


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_connection_that_breaks_in_the_middle(endpoint, model, after):
    endpoint.breaks_after = after
    with pytest.raises(EndpointError, match="served broke off") as caught:
        "".join(model.begin(HELLO).stream())
    assert caught.value.retryable


def test_an_error_in_the_middle(endpoint, model, monkeypatch):
    send = Handler.send

    def failing(self, delta, logprobs=None):
        if delta and delta.get("content") == " there":
            self.write(json.dumps({"error": {"message": "out of memory", "code": 500}}))
        else:
            send(self, delta, logprobs)

    monkeypatch.setattr(Handler, "send", failing)
    with pytest.raises(EndpointError, match=r"broke off.*out of memory"):
        "".join(model.begin(HELLO).stream())


def test_something_that_is_no_chat_endpoint(endpoint, model, monkeypatch):
    monkeypatch.setattr(Handler, "send", lambda self, delta, logprobs=None: self.write("<html>It works!</html>"))
    with pytest.raises(EndpointError, match="broke off"):
        model.begin(HELLO)


class Watched(OpenAIChatModel):
    """Keeps the responses that it got."""

    def request(self, messages, max_tokens=256):
        self.responses = [*getattr(self, "responses", []), super().request(messages, max_tokens)]
        return self.responses[-1]


@pytest.mark.parametrize("odd", [{}, {"delta": None}, {"delta": {"content": "Hello"}, "logprobs": {"content": [1]}}])
@pytest.mark.parametrize("extending", [False, True])
def test_a_generation_that_fails_hangs_up(endpoint, model, monkeypatch, odd, extending):
    send = Handler.send

    def failing(self, delta, logprobs=None):
        if len(endpoint.requests) == 1 + extending:
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            self.write(json.dumps({**chunk, "choices": [{"index": 0, **odd}]}))
        else:
            send(self, delta, logprobs)

    monkeypatch.setattr(Handler, "send", failing)
    watched = Watched("served", client=model._client)
    generation = watched.begin(HELLO) if extending else None
    with pytest.raises(EndpointError, match="served broke off") as caught:
        generation.extend(HELLO) if generation else watched.begin(HELLO)
    assert caught.value.retryable, "and the traceback still holds all that was read"
    assert len(watched.responses) == 1 + extending
    assert all(response.response.is_closed for response in watched.responses)
    if generation:
        with pytest.raises(GenerationError, match="closed"):
            generation.extend(HELLO)


def test_a_closed_generation_is_not_revived(endpoint, model):
    generation = model.begin(HELLO)
    pieces = generation.stream()
    assert next(pieces) == "Hello"
    generation.close()
    for call in (lambda: next(pieces), lambda: generation.extend(HELLO), lambda: next(generation.stream())):
        with pytest.raises(GenerationError, match="closed"):
            call()
    assert len(endpoint.requests) == 1


def test_it_is_closed_and_empty_as_any_other(model):
    generation = model.begin(HELLO)
    generation.close()
    generation.close()
    with pytest.raises(GenerationError, match="closed"):
        list(generation.stream())
    with pytest.raises(GenerationError, match="at least one message"):
        model.begin([])


def test_a_client_needs_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_ADMIN_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"client for served.*(?i:key)"):
        OpenAIChatModel("served")


def test_a_client_is_made_of_settings(endpoint):
    model = OpenAIChatModel("served", base_url=endpoint.url, api_key="none", timeout=10)
    assert "".join(model.begin(HELLO).stream()) == "Hello there."
    model._client.close()


# -- in a turn ------------------------------------------------------------------------------------------------------


def ask(model, question: str, gate=None, knowledge=None):
    parts = Parts(model, gate or TokenGate(0.5), ListRecord(), knowledge=knowledge, options=AnswerOptions(quote=False))
    with VoiceAgent(parts) as agent:
        return agent.ask(question)


def test_a_model_that_asks_for_a_look_up_gets_one(endpoint, model):
    endpoint.pieces = lambda messages: ["<RE", "T>"] if SENTINEL in messages[0]["content"] else ["At", " 7."]
    turn = ask(model, "when do you open", knowledge=FakeKnowledge(["We open at 7."]))
    assert (turn.text, turn.sources, turn.decision.probability) == ("At 7.", ("fake-0.md",), 1.0)
    assert "- We open at 7." in endpoint.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize("gate", [NeverRetrieve(), TokenGate(0.5)])
def test_a_look_up_that_cannot_be_had_is_not_read_out(endpoint, model, gate):
    endpoint.pieces = lambda messages: ["<RET>"]
    turn = ask(model, "when do you open", gate=gate)
    assert turn.text == DONT_KNOW


def test_what_the_endpoint_writes_is_the_answer(endpoint, model):
    assert ask(model, "hello", knowledge=FakeKnowledge(["We open at 7."])).text == "Hello there."
    assert ask(
        model, "when do you open", gate=AlwaysRetrieve(), knowledge=FakeKnowledge(["We open at 7."])
    ).sources == ("fake-0.md",)
