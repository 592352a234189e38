import subprocess
import sys

import vivavoce.retrieval as retrieval
from vivavoce.retrieval import errors


def test_public_names_are_sorted_and_there():
    assert retrieval.__all__ == sorted(retrieval.__all__)
    assert all(hasattr(retrieval, name) for name in retrieval.__all__)


def test_importing_loads_no_model_library():
    code = "import sys, vivavoce.retrieval, vivavoce.retrieval.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "sentence_transformers", "faiss", "markdown_it"} & set(loaded)


def test_every_error_is_in_the_tree_and_carries_its_fields():
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    for one in classes:
        assert one.__name__ in (errors.__doc__ or "")
        error = one("A sentence.", stage="here", retryable=True)
        assert isinstance(error, errors.RetrievalError)
        assert (str(error), error.stage, error.retryable) == ("A sentence.", "here", True)
        assert one("A sentence.").stage and not one("A sentence.").retryable
