"""The lexical half of an embedding: which words a text holds, from a language model's token embeddings.

Whoever asks about Casimir Pulaski wants the passage that names him. A pooled hidden state tells such names badly apart,
the table of token embeddings very well, once two things are mended: a few directions in it carry almost all the
variance, and frequent tokens drown rare ones. So tokens are whitened (Su et al. 2021, https://arxiv.org/abs/2103.15316)
and weighted by how much each tells (Arora et al. 2017, https://openreview.net/forum?id=SyK00v5xx), repetitions counting
as in BM25 (Robertson & Zaragoza 2009, https://doi.org/10.1561/1500000019). Spellings of one word lie close together in
the table, which words as such do not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_MARKS = re.compile(r"[^\w\s']|_")
_SATURATION, _LENGTH, _USUAL = 1.2, 0.75, 120.0  # k1 and b of BM25, and tokens of a usual passage


@dataclass(frozen=True, slots=True)
class LexicalMap:
    """Maps tokens to the lexical half of a vector.

    Attributes:
        log_weights: float32, shape (vocabulary,): how much each token tells, as a natural logarithm.
        middle: float32, shape (width,): the mean token, which is taken off.
        whitening: float32, shape (width, width).
    """

    log_weights: torch.Tensor
    middle: torch.Tensor
    whitening: torch.Tensor

    def embed(self, table: torch.Tensor, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Lexical halves of some texts: float32, shape (n, width), rows of unit length.

        Args:
            table: The model's token embeddings, shape (vocabulary, width), in any dtype.
            tokens: Each text's tokens, at least one.
        """
        import torch

        rows, ids, counts = [], [], []
        for row, text in enumerate(tokens):
            relative = _SATURATION * (1 - _LENGTH + _LENGTH * len(text) / _USUAL)
            for token, count in Counter(text).items():
                rows.append(row)
                ids.append(token)
                counts.append(count / (count + relative))
        device = table.device
        token_ids = torch.tensor(ids, device=device)
        weights = torch.tensor(counts, device=device) * self.log_weights[token_ids].exp()
        summed = torch.zeros(len(tokens), table.shape[1], device=device).index_add(
            0, torch.tensor(rows, device=device), (table[token_ids].float() - self.middle) * weights[:, None]
        )
        return torch.nn.functional.normalize(summed @ self.whitening, dim=-1)


def spoken(text: str) -> str:
    """A text as a recogniser might have written it: in lower case, without marks, with a space before each word."""
    return " " + " ".join(_MARKS.sub(" ", text.lower()).split())


def fit_lexical(table: torch.Tensor, texts: Iterable[Sequence[int]]) -> LexicalMap:
    """Whitening and weights for the tokens of a model, from texts like those that will be searched.

    Tokens count as the square root of how often they occur, both for the mean and for the spread: a mean over the
    running text would be that of a few function words, one over the table that of tokens nobody uses.

    Args:
        table: The model's token embeddings, shape (vocabulary, width).
        texts: Each text's tokens.

    Returns:
        The map; a token's weight is the square root of its inverse document frequency.

    Raises:
        ValueError: If there is no token.
    """
    import torch

    embeddings: NDArray[np.float32] = table.detach().float().cpu().numpy()
    term_frequency = np.zeros(len(embeddings))
    document_frequency = np.zeros(len(embeddings))
    documents = 0
    for text in texts:
        ids, times = np.unique(np.asarray(text, np.int64), return_counts=True)
        term_frequency[ids] += times
        document_frequency[ids] += 1
        documents += 1
    share = np.sqrt(term_frequency)
    if not share.any():
        raise ValueError("a lexical map needs texts to be fitted to.")
    share /= share.sum()
    middle = share @ embeddings
    centred = embeddings - middle
    eigenvalues, eigenvectors = np.linalg.eigh((centred * share[:, None]).T @ centred)
    whitening = eigenvectors / np.sqrt(np.maximum(eigenvalues, 1e-6 * eigenvalues[-1]))
    idf = np.maximum(np.log((documents + 0.5) / (document_frequency + 0.5)), 1e-3)
    lengths = np.linalg.norm(centred @ whitening, axis=1)
    weights = np.sqrt(idf) / np.maximum(lengths, 1e-3)

    def tensor(values: NDArray[np.floating]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=table.device)

    return LexicalMap(tensor(np.log(weights)), tensor(middle), tensor(whitening))
