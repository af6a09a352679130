"""GGUF files, converted once to safetensors in the user's cache: half a minute to load becomes a second."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ltm.compat import gguf_architectures, tell_gguf_version
from ltm.console import quiet, working
from ltm.errors import LtmError, error_line

# Part of a converted model's directory name: raise it when the conversion gives other files than before.
FORMAT = 1
MANIFEST = "ltm_conversion.json"
_STALE_SECONDS = 3600

# Vocabularies of these kinds were learned with every digit on its own (llama.cpp: llama-vocab.cpp).
# transformers splits them like GPT-2's, so "  42" would come out in other pieces than in training.
_SINGLE_DIGIT_KINDS = {"smollm", "starcoder", "refact", "command-r"}


def cache_directory() -> Path:
    """Where converted models lie: LTM_CACHE, else XDG_CACHE_HOME/ltm, else ~/.cache/ltm. Not created."""
    if own := os.environ.get("LTM_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "ltm"


def converted_directory(gguf_file: Path, *, sha256: str | None = None) -> Path:
    """The directory with the safetensors copy of a GGUF file, made now if this is the first time.

    gguf_file: any path; the copy is found again by content, so that it may be moved or renamed.
    sha256: of the file, if known; else computed, and remembered for the file's path, size and time.
    Raises LtmError for a file that is missing, is no GGUF, or is of an unsupported kind, and for a full disk.
    """
    if not gguf_file.is_file():
        raise LtmError(f"{gguf_file} does not exist or is not a file; pass the path of a .gguf file.")
    target = directory_of(sha256 or _remembered_sha256(gguf_file))
    if not is_complete(target):
        with working(f"Converting {gguf_file.name} once; about half a minute for 100 MB"):
            _convert_into(target, gguf_file)
    return target


def directory_of(sha256: str) -> Path:
    """Where the copy of the GGUF file with this hash lies, or will."""
    return cache_directory() / "models" / f"gguf-{sha256[:16]}-v{FORMAT}"


def is_complete(directory: Path) -> bool:
    """Whether every file of a converted model is there with the size it was written with."""
    try:
        sizes = json.loads((directory / MANIFEST).read_text())["bytes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A temporary directory in the cache, removed at the end; what is made in it can be renamed into place.

    What a killed process left behind is removed by a later call, an hour on.
    Raises LtmError where the cache cannot be written or its disk is full.
    """
    parent = cache_directory() / "models"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(".partial-*"):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _convert_into(target: Path, gguf_file: Path) -> None:
    """Convert beside the target and rename: a half-made model is never seen under the target's name."""
    with scratch_directory() as scratch:
        made = scratch / "model"
        model, tokenizer = load_gguf(gguf_file)
        try:
            with quiet():
                model.save_pretrained(made)
                tokenizer.save_pretrained(made)
            put_in_place(made, target, gguf_file.name)
        except Exception as error:  # safetensors reports a full disk with an exception of its own
            if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
                raise _unwritable(target, error) from error
            raise


def put_in_place(made: Path, target: Path, source: str) -> None:
    """Note in a directory that was made what it came from and what belongs to it, and give it its name."""
    sizes = {path.name: path.stat().st_size for path in made.iterdir()}
    (made / MANIFEST).write_text(json.dumps({"source": source, "bytes": sizes}, indent=2))
    _move_into_place(made, target)


def _move_into_place(made: Path, target: Path) -> None:
    if target.exists() and not is_complete(target):
        shutil.rmtree(target)
    try:
        made.rename(target)
    except OSError:
        if not is_complete(target):  # else another process finished first, with the same content
            raise


def load_whole(source: str | Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """from_pretrained, but a tensor that is missing or of another size is a ValueError; transformers would put random
    numbers there. Code that comes with a model is not run."""
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, "trust_remote_code": False}
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} of the model's tensors are missing, such as {missing[0]}")
    if others := sorted(info["mismatched_keys"]):
        name, found, wanted = others[0]
        raise ValueError(
            f"{len(others)} of the model's tensors have another shape than its config says, such as {name}: "
            f"{list(found)}, not {list(wanted)}"
        )
    return model


def load_gguf(gguf_file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GGUF file with transformers, dequantised, in the dtype it is to be stored in; slow."""
    try:
        tell_gguf_version()
        reader = GGUFReader(gguf_file)
        dtype, architecture = _storage_dtype(reader), _architecture(reader)
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        reason = error_line(error)
        raise LtmError(f"{gguf_file} cannot be read as a GGUF model ({reason}); pass a complete file.") from error
    try:
        with quiet():
            model = _load_finite(gguf_file, dtype)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    except MemoryError:
        raise
    except Exception as error:  # of transformers, whatever a foreign file makes it stumble over
        raise _unreadable(gguf_file, architecture, error) from error
    _repair_pre_tokenizer(tokenizer, reader)
    _forget_quantization(model)
    return model, tokenizer


def _unreadable(gguf_file: Path, architecture: str, error: Exception) -> LtmError:
    known = gguf_architectures()
    if architecture.replace("-", "_") not in {*known, *(name.replace("_", "") for name in known)}:
        return LtmError(
            f"{gguf_file} holds a model of architecture {architecture!r}, which transformers does not load from GGUF; "
            f"it does load {', '.join(known)}."
        )
    return LtmError(f"{gguf_file} cannot be read as a GGUF model ({error_line(error)}); pass a complete file.")


def _architecture(reader: GGUFReader) -> str:
    field = reader.get_field("general.architecture")
    return str(field.contents()) if field is not None else ""


def _load_finite(gguf_file: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load in the dtype asked for, or in bfloat16 where a value is too large for float16."""
    model = load_whole(gguf_file.parent, dtype, gguf_file=gguf_file.name)
    if dtype == torch.float16 and not all(p.isfinite().all() for p in model.parameters()):
        return _load_finite(gguf_file, torch.bfloat16)
    return model


def _storage_dtype(reader: GGUFReader) -> torch.dtype:
    """The dtype that most elements are kept in: as in the file, and float16 for quantised ones.

    float16 rounds by 1/2048, a hundredth of what 4 bits do. SmolLM2-135M Q4_1, 2,048 tokens, against
    float32: perplexity -0.01%, logits off by 0.007 (root mean square). In bfloat16: +0.04% and 0.054.
    """
    elements: Counter[str] = Counter()
    for tensor in reader.tensors:
        elements[tensor.tensor_type.name] += int(tensor.n_elements)
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    return kinds.get(elements.most_common(1)[0][0] if elements else "F32", torch.float16)


def _repair_pre_tokenizer(tokenizer: PreTrainedTokenizerBase, reader: GGUFReader) -> None:
    field = reader.get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in _SINGLE_DIGIT_KINDS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _forget_quantization(model: PreTrainedModel) -> None:
    """Drop what marks a dequantised model as a GGUF one; with it, transformers refuses to save."""
    for holder in (model, model.config):
        for name in ("hf_quantizer", "quantization_config", "is_quantized", "quantization_method"):
            if name in vars(holder):
                delattr(holder, name)


def _remembered_sha256(path: Path) -> str:
    """The file's sha256, kept for its path, size and modification time: hashing 5 GB takes seconds."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_directory() / "hashes" / key
    try:
        if len(known := memo.read_text().strip()) == 64:
            return known
    except OSError:
        pass
    digest = sha256_of(path)
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(digest)
    except OSError as error:
        raise _unwritable(memo.parent, error) from error
    return digest


def _unwritable(path: Path, error: BaseException) -> LtmError:
    reason = getattr(error, "strerror", None) or str(error)
    return LtmError(f"{path} cannot be written ({reason}); free some space, or set LTM_CACHE to another directory.")
