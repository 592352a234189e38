"""The state machine of a turn.

::

    transcribe ──┬─ nobody spoke ──→ excuse ──→ END
                 └─→ decide ──┬─ <RET> ──→ retrieve ──→ answer ──→ remember ──→ END
                              └─ no ──────────────────→ answer
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from . import nodes
from .state import TurnState, Walk


def build(
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> CompiledStateGraph[TurnState, Walk, TurnState, TurnState]:
    """Compile the graph.

    Args:
        checkpointer: Keeps the state of the last turn of every conversation; None keeps nothing.
    """
    graph = StateGraph(TurnState, context_schema=Walk)
    for node in (nodes.transcribe, nodes.excuse, nodes.decide, nodes.retrieve, nodes.answer, nodes.remember):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "transcribe")
    graph.add_conditional_edges("transcribe", nodes.anybody_spoke, {True: "decide", False: "excuse"})
    graph.add_conditional_edges("decide", nodes.wants_retrieval, {True: "retrieve", False: "answer"})
    graph.add_edge("retrieve", "answer")
    graph.add_edge("answer", "remember")
    graph.add_edge("remember", END)
    graph.add_edge("excuse", END)
    return graph.compile(checkpointer=checkpointer)
