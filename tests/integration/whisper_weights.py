"""Writes the packaged CTranslate2 Whisper as a checkpoint of openai-whisper and as a folder of transformers.

So one set of real weights runs in three engines, and what they hear can be compared.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
"""By the number that `model.bin` has for them."""
_HEAD = 64
"""Every Whisper's attention heads are this wide."""


def ctranslate2_variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 `model.bin` of format 6: a header, the variables one after the other, the aliases."""
    with path.open("rb") as file:
        version, spec = _number(file, "I"), _string(file)
        assert (version, spec) == (6, "WhisperSpec"), f"{path} is a {spec} in format {version}"
        _number(file, "I")  # the revision of the specification
        found = {}
        for _ in range(_number(file, "I")):
            name = _string(file)
            shape = tuple(_number(file, "I") for _ in range(_number(file, "B")))
            kind = _TYPES[_number(file, "B")]
            found[name] = np.frombuffer(file.read(_number(file, "I")), dtype=kind).reshape(shape)
        for _ in range(_number(file, "I")):
            alias = _string(file)
            found[alias] = found[_string(file)]
        assert not file.read(1), f"{path} has more in it than its header says"
    return found


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0])


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()


def write_openai(ctranslate2_folder: Path, path: Path) -> Path:
    """A checkpoint that `whisper.load_model` takes."""
    state = _openai_state(ctranslate2_variables(ctranslate2_folder / "model.bin"))
    torch.save({"dims": _dimensions(state), "model_state_dict": state}, path)
    return path


def write_transformers(ctranslate2_folder: Path, folder: Path) -> Path:
    """A folder that `WhisperForConditionalGeneration.from_pretrained` takes, with its tokenizer."""
    import transformers

    state = _openai_state(ctranslate2_variables(ctranslate2_folder / "model.bin"))
    dims = _dimensions(state)
    theirs = json.loads((ctranslate2_folder / "config.json").read_text())
    token = json.loads((ctranslate2_folder / "tokenizer.json").read_text())
    ids = {entry["content"]: entry["id"] for entry in token["added_tokens"]}
    config = transformers.WhisperConfig(
        vocab_size=dims["n_vocab"],
        num_mel_bins=dims["n_mels"],
        d_model=dims["n_audio_state"],
        encoder_layers=dims["n_audio_layer"],
        encoder_attention_heads=dims["n_audio_head"],
        encoder_ffn_dim=4 * dims["n_audio_state"],
        decoder_layers=dims["n_text_layer"],
        decoder_attention_heads=dims["n_text_head"],
        decoder_ffn_dim=4 * dims["n_text_state"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    model = transformers.WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(
        {_transformers_name(name): value for name, value in state.items()}, strict=False
    )
    assert missing == ["proj_out.weight"] and not unexpected, (missing, unexpected)  # tied to the embeddings
    model.generation_config.suppress_tokens = theirs["suppress_ids"]
    model.generation_config.begin_suppress_tokens = theirs["suppress_ids_begin"]
    model.half().save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=dims["n_mels"]).save_pretrained(folder)
    shutil.copy(ctranslate2_folder / "tokenizer.json", folder)
    return folder


_OPENAI_NAMES = (
    ("encoder/position_encodings/encodings", "encoder.positional_embedding"),
    ("decoder/position_encodings/encodings", "decoder.positional_embedding"),
    ("decoder/embeddings/weight", "decoder.token_embedding.weight"),
    (r"layer_(\d+)/", r"blocks.\1."),
    ("self_attention/layer_norm/", "attn_ln."),
    ("attention/layer_norm/", "cross_attn_ln."),
    ("ffn/layer_norm/", "mlp_ln."),
    ("encoder/layer_norm/", "encoder.ln_post."),
    ("decoder/layer_norm/", "decoder.ln."),
    ("ffn/linear_0/", "mlp.0."),
    ("ffn/linear_1/", "mlp.2."),
    ("self_attention/", "attn."),
    ("attention/", "cross_attn."),
    ("gamma$", "weight"),
    ("beta$", "bias"),
    ("/", "."),
)
_PARTS = {
    ("attn", 0): ("query", "key", "value"),
    ("attn", 1): ("out",),
    ("cross_attn", 0): ("query",),
    ("cross_attn", 1): ("key", "value"),
    ("cross_attn", 2): ("out",),
}
"""What CTranslate2 stacks into one matrix."""


def _openai_state(variables: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in variables.items():
        if value.ndim == 0 or "alignment" in name or "projection" in name:
            continue  # settings, and the output layer, which is the embeddings again
        for before, after in _OPENAI_NAMES:
            name = re.sub(before, after, name)
        if stacked := re.fullmatch(r"(.*\.(cross_attn|attn)\.)linear_(\d)\.(weight|bias)", name):
            parts = _PARTS[stacked[2], int(stacked[3])]
            for part, rows in zip(parts, np.split(value, len(parts)), strict=True):
                if (part, stacked[4]) != ("key", "bias"):
                    state[f"{stacked[1]}{part}.{stacked[4]}"] = torch.tensor(rows)
                else:
                    assert not rows.any(), "Whisper's keys have no bias"
        else:
            state[name] = torch.tensor(value)
    return state


def _dimensions(state: dict[str, torch.Tensor]) -> dict[str, int]:
    width, mels = state["encoder.conv1.weight"].shape[:2]

    def layers(part: str) -> int:
        return len([name for name in state if re.fullmatch(rf"{part}\.blocks\.\d+\.attn\.query\.bias", name)])

    sizes: dict[str, Any] = {"n_mels": mels, "n_audio_ctx": len(state["encoder.positional_embedding"])}
    sizes |= {"n_audio_state": width, "n_audio_head": width // _HEAD, "n_audio_layer": layers("encoder")}
    sizes |= {"n_vocab": len(state["decoder.token_embedding.weight"])}
    sizes |= {"n_text_ctx": len(state["decoder.positional_embedding"])}
    return sizes | {"n_text_state": width, "n_text_head": width // _HEAD, "n_text_layer": layers("decoder")}


_TRANSFORMERS_NAMES = (
    ("^", "model."),
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.ln(_post)?\.", ".layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn\.", ".self_attn."),
    (r"\.(q|k|v)(uery|ey|alue)\.", r".\1_proj."),
    (r"\.out\.", ".out_proj."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
    (r"\.token_embedding\.", ".embed_tokens."),
)


def _transformers_name(name: str) -> str:
    for before, after in _TRANSFORMERS_NAMES:
        name = re.sub(before, after, name)
    return name
