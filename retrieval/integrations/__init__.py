"""Other libraries, both ways: chromadb, LangChain, LangGraph."""
