"""A GGUF file becomes a folder that transformers loads."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

from ..errors import ModelUnavailable
from .download import STAGE, SourceFailed

logger = logging.getLogger(__name__)


def require_converter() -> None:
    """Import what transformers reads GGUF files with.

    Raises:
        ImportError: If the `gguf` extra is not installed.
    """
    try:
        import gguf  # noqa: F401, I001 -- the quicker one first
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ImportError("Converting a GGUF file needs accelerate and gguf: pip install 'vivavoce[gguf]'") from error


def convert_fetched(gguf: Path, folder: Path) -> Path:
    """Turn a GGUF file into a folder that transformers loads in a second; reading the GGUF itself takes 16 s.

    It happens in a process of its own: the memory that it needs is given back, and the progress bars that transformers
    draws on stderr are kept off the user's screen.
    """
    code = f"import sys; from {__name__} import convert_gguf; convert_gguf(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, str(gguf), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode == 0:
        return folder
    logger.debug("converting %s: %s", gguf, done.stderr)
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reason = (done.stderr.strip() or f"it ended with status {done.returncode}").splitlines()[-1]
    raise SourceFailed(f"{gguf.name} could not be converted: {reason}")


def convert_gguf(gguf: str, folder: str) -> None:
    """Write a GGUF file's weights (dequantized to bfloat16), tokenizer and chat template as a transformers folder.

    Args:
        gguf: The file to read.
        folder: The folder to write.

    Raises:
        ModelUnavailable: The chat template, or a token that it uses, did not survive.
        ImportError: If the `gguf` extra is not installed.
    """
    require_converter()
    import torch
    import transformers

    source = Path(gguf)
    # Newer releases keep the weights packed, which cannot be saved, unless told not to; older ones always unpack.
    unpack = {}
    if hasattr(transformers, "GgufConfig"):
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16, **unpack
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if not tokenizer.chat_template:
        tokenizer.chat_template = _chat_template(source)
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise ModelUnavailable(f"the token {token} is lost; use a newer `transformers`", stage=STAGE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _chat_template(gguf: Path) -> str:
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.chat_template")
    if field is None:
        raise ModelUnavailable(f"{gguf.name} has no chat template; use an instruction-tuned model", stage=STAGE)
    return str(field.contents())
