"""The state machine of a turn.

::

    transcribe ──┬─ nobody spoke ──→ excuse ──→ END
                 └─→ understand ──┬─ it is ignored ──→ END
                                  ├─ a skill replies ──→ reply ──→ remember ──→ END
                                  └─→ decide ──┬─ <RET> ──→ retrieve ──→ answer ──→ remember ──→ END
                                               └─ no ──────────────────→ answer
"""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from . import nodes
from .state import TurnState, Walk


def build() -> CompiledStateGraph[TurnState, Walk, TurnState, TurnState]:
    """Compile the graph. No state outlives a turn: a conversation goes on from the record."""
    graph = StateGraph(TurnState, context_schema=Walk)
    for node in (
        nodes.transcribe,
        nodes.excuse,
        nodes.understand,
        nodes.reply,
        nodes.decide,
        nodes.retrieve,
        nodes.answer,
        nodes.remember,
    ):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "transcribe")
    graph.add_conditional_edges("transcribe", nodes.anybody_spoke, {True: "understand", False: "excuse"})
    graph.add_conditional_edges("understand", nodes.who_answers, {"nobody": END, "skill": "reply", "model": "decide"})
    graph.add_edge("reply", "remember")
    graph.add_conditional_edges("decide", nodes.wants_retrieval, {True: "retrieve", False: "answer"})
    graph.add_edge("retrieve", "answer")
    graph.add_edge("answer", "remember")
    graph.add_edge("remember", END)
    graph.add_edge("excuse", END)
    return graph.compile()
