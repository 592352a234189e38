"""An embedding adapter: LoRA and a projection that turn a causal language model into a text embedder.

A folder of three files::

    ADAPTER/
      embedder.json         which layers are read, how tokens are pooled, instructions; which model it fits
      adapter.safetensors   LoRA matrices (Hu et al. 2021, https://arxiv.org/abs/2106.09685), the projection, and what
                            the lexical half of a vector is made with
      card.json             the data and the command it was made with, and figures
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..errors import EmbeddingError
from .lexical import LexicalMap, spoken

if TYPE_CHECKING:
    import torch

CONFIG = "embedder.json"
WEIGHTS = "adapter.safetensors"
CARD = "card.json"
PROJECTION, OFFSET = "projection", "offset"
LEXICAL = ("lexical.log_weights", "lexical.middle", "lexical.whitening")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Attention = Literal["causal", "bidirectional"]
Task = Literal["knowledge", "memory", "tool", "example"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True, slots=True)
class Reading:
    """Instruction and lexical share of a task (LLM-Embedder, Zhang et al. 2023, https://arxiv.org/abs/2310.07554).

    Attributes:
        instruction: What is put before a query. Its tokens are seen by the others, and are no part of the mean.
        lexical: How much of a cosine the lexical part decides, in [0, 1); None for what the adapter says.
    """

    instruction: str = ""
    lexical: float | None = None

    def __post_init__(self) -> None:
        if self.lexical is not None and not 0 <= self.lexical < 1:
            raise ValueError(f"lexical is a share, in [0, 1), not {self.lexical}.")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Configuration of an adapted model.

    Attributes:
        hidden_size: Width of the language model that the adapter fits.
        layers: How many of its first layers are read; the others play no part and cost nothing. Layers in the middle
            carry more of a text's meaning than the last ones, which turn to the next word (Skean et al. 2025,
            https://arxiv.org/abs/2502.02013).
        dim: Length of the part of the vectors that is pooled from hidden states. The lexical part, where there is one,
            is as long as the model is wide, and stands behind it.
        rank: Of the LoRA matrices, which are scaled by `alpha / rank`.
        alpha: See there.
        attention: Whether a token sees only what stands before it, or all (LLM2Vec, https://arxiv.org/abs/2404.05961).
        max_tokens: Longer texts are cut to this.
        lexical: How much of a cosine the lexical part decides, in [0, 1); with 0 there is none.
        spoken: Whether all texts are read as a recogniser might have written them: in lower case, without marks.
        tasks: What is read in another way for a task.
    """

    hidden_size: int
    layers: int
    dim: int
    rank: int
    alpha: float
    attention: Attention = "causal"
    max_tokens: int = 256
    lexical: float = 0.0
    spoken: bool = False
    tasks: Mapping[str, Reading] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "dim", "rank", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.attention not in ("causal", "bidirectional"):
            raise ValueError(f"attention must be 'causal' or 'bidirectional', not {self.attention!r}.")
        if not 0 <= self.lexical < 1:
            raise ValueError(f"lexical is a share, in [0, 1), not {self.lexical}.")
        if unknown := sorted(set(self.tasks) - set(TASKS)):
            raise ValueError(f"tasks are {', '.join(TASKS)}, not {unknown[0]!r}.")

    @property
    def length(self) -> int:
        """Length of the whole vectors."""
        return self.dim + (self.hidden_size if self.lexical else 0)

    def share(self, task: Task) -> float:
        """How much of a cosine the lexical part decides for a task."""
        override = self.tasks.get(task, Reading()).lexical
        return self.lexical if override is None or not self.lexical else override

    def tokens(
        self, tokenizer: Any, texts: Sequence[str], kind: str, task: Task, *, cut: int | None = None
    ) -> tuple[list[int], list[list[int]]]:
        """Tokens of the instruction, which is put before each text, and of the texts.

        Args:
            tokenizer: The model's.
            texts: Of one kind.
            kind: `query` or `passage`; only before a query is there an instruction.
            task: What for.
            cut: Most tokens of a text; by default `max_tokens`.
        """
        instruction = self.tasks.get(task, Reading()).instruction if kind == "query" else ""
        head = list(tokenizer(instruction, add_special_tokens=True, verbose=False).input_ids) if instruction else []
        normalised = [spoken(text) for text in texts] if self.spoken else list(texts)
        encoded = tokenizer(normalised, add_special_tokens=not head, verbose=False)
        filler = tokenizer.eos_token_id or 0  # stands for a text without any token
        return head, [list(ids[: cut or self.max_tokens]) or [filler] for ids in encoded["input_ids"]]


@dataclass(frozen=True, slots=True)
class Adapted:
    """A language model with an adapter, ready to embed.

    Attributes:
        decoder: The lower layers, with the adapter merged into a copy of them.
        projection: float32, shape (hidden_size, dim).
        offset: float32, shape (dim,).
        lexical: What the lexical part is made with, if there is one.
        config: How all of it is read.
    """

    decoder: Any
    projection: torch.Tensor
    offset: torch.Tensor
    lexical: LexicalMap | None
    config: AdapterConfig

    def finish(self, pooled: torch.Tensor, tokens: Sequence[Sequence[int]], task: Task) -> torch.Tensor:
        """Whole vectors of texts from their pooled states, (n, hidden_size), and tokens: shape (n, config.length)."""
        import torch

        meaning = torch.nn.functional.normalize(pooled @ self.projection + self.offset, dim=-1)
        if self.lexical is None:
            return meaning
        words = self.lexical.embed(self.decoder.get_input_embeddings().weight, tokens)
        return both_parts(meaning, words, self.config.share(task))


def both_parts(meaning: torch.Tensor, words: torch.Tensor, lexical: float) -> torch.Tensor:
    """Join unit vectors so that the cosine of the whole is the weighted mean of both parts' cosines."""
    import torch

    return torch.cat([(1 - lexical) ** 0.5 * meaning, lexical**0.5 * words], dim=1)


def lower_layers(model: Any, layers: int, *, own: bool) -> Any:
    """The first layers of a causal language model as a model of its own; the one given is left as it is.

    Args:
        model: A transformers causal language model.
        layers: How many.
        own: Whether the layers are copied (they may then be changed), or share their weights with the model. The
            table of token embeddings is always shared.

    Raises:
        EmbeddingError: If the model has fewer layers.
    """
    from torch import nn

    decoder = model.get_decoder()
    if layers > len(decoder.layers):
        raise EmbeddingError(f"The adapter reads {layers} layers, the model has {len(decoder.layers)}: name its model.")
    reused = decoder.get_input_embeddings().parameters() if own else decoder.parameters()
    # The same numbers in the same place, but frozen: whether the model itself is trained elsewhere is its own affair.
    shared: dict[int, Any] = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in reused}
    shared[id(decoder.layers)] = nn.ModuleList(copy.deepcopy(layer, dict(shared)) for layer in decoder.layers[:layers])
    lower = copy.deepcopy(decoder, shared)
    lower.config.num_hidden_layers = layers
    for parent in list(lower.modules()):  # a chat model may have put a quicker map for single tokens around each
        for name, child in list(parent.named_children()):
            if isinstance(getattr(child, "full", None), nn.Linear):
                setattr(parent, name, child.full)
    return lower


def linear_layers(lower: Any) -> dict[str, torch.nn.Linear]:
    """The linear layers that LoRA adapts, by name."""
    from torch import nn

    return {
        name: module
        for name, module in lower.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS
    }


def adapted(model: Any, folder: str | Path) -> Adapted:
    """Apply an adapter to a copy of a model's lower layers.

    Args:
        model: A loaded transformers causal language model; it is left as it is and keeps chatting.
        folder: The adapter.

    Raises:
        EmbeddingError: If there is no adapter, it is damaged, or it fits another model.
    """
    import torch

    config, weights = read(folder)
    width = int(model.config.hidden_size)
    if width != config.hidden_size:
        raise EmbeddingError(f"The adapter at {folder} fits a model of width {config.hidden_size}, not {width}.")
    lower = lower_layers(model, config.layers, own=True)
    maps = linear_layers(lower)
    adapted_names = {name.rpartition(".")[0] for name in weights if name not in (PROJECTION, OFFSET, *LEXICAL)}
    if adapted_names != set(maps):
        mismatched = sorted(adapted_names ^ set(maps))[0]
        raise EmbeddingError(
            f"The adapter at {folder} does not fit this model ({mismatched}): name the model it is for."
        )
    with torch.inference_mode():
        for name, linear in maps.items():
            down, up = weights[f"{name}.down"].float(), weights[f"{name}.up"].float()
            delta = (up @ down) * (config.alpha / config.rank)
            if delta.shape != linear.weight.shape:
                raise EmbeddingError(f"The adapter at {folder} does not fit this model ({name}).")
            linear.weight.add_(delta.to(linear.weight))
    device = next(lower.parameters()).device
    tensors = {name: weight.to(device, torch.float32) for name, weight in weights.items()}
    lexical = LexicalMap(*(tensors[name] for name in LEXICAL)) if config.lexical else None
    if lexical is not None and len(lexical.log_weights) != len(lower.get_input_embeddings().weight):
        raise EmbeddingError(f"The adapter at {folder} fits a model with another vocabulary: name its model.")
    return Adapted(lower.eval(), tensors[PROJECTION], tensors[OFFSET], lexical, config)


def read(folder: str | Path) -> tuple[AdapterConfig, dict[str, torch.Tensor]]:
    """Configuration and matrices of an adapter.

    Raises:
        EmbeddingError: If there is none, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder)
    try:
        content = json.loads((path / CONFIG).read_bytes())
        content["tasks"] = {task: Reading(**reading) for task, reading in content["tasks"].items()}
        config = AdapterConfig(**{name.name: content[name.name] for name in fields(AdapterConfig)})
        weights = load_file(path / WEIGHTS)
        if tuple(weights[PROJECTION].shape) != (config.hidden_size, config.dim) or len(weights[OFFSET]) != config.dim:
            raise ValueError("the projection has another shape")
        if config.lexical and tuple(weights[LEXICAL[2]].shape) != (config.hidden_size, config.hidden_size):
            raise ValueError("the whitening has another shape")
    except FileNotFoundError as error:
        raise EmbeddingError(f"There is no embedding adapter at {path}: {error.filename} is missing.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise EmbeddingError(
            f"The embedding adapter at {path} is damaged ({error}): train or fetch it again."
        ) from error
    return config, weights


def write(
    folder: str | Path, config: AdapterConfig, weights: Mapping[str, torch.Tensor], card: Mapping[str, Any]
) -> None:
    """Write an adapter, its matrices in half precision."""
    import torch
    from safetensors.torch import save_file

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    half = {name: weight.detach().to("cpu", torch.float16).contiguous() for name, weight in weights.items()}
    save_file(half, path / WEIGHTS)
    for name, content in ((CONFIG, asdict(config)), (CARD, dict(card))):
        (path / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
