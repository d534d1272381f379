"""Token ids of class words: built in for the default words, by the tokenizer for others."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from sapl_jax.clip.model import CLIP, RANDOM, CLIPSource
from sapl_jax.errors import UserError

_LOG = logging.getLogger(__name__)

# In OpenAI's vocabulary of 49,408 entries.
_OPENAI_SIZE = 49408
BUILT_IN_IDS = {"real": [1532], "fake": [5777]}


def class_token_ids(clip: CLIP, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each class word, e.g. of ["real", "fake"], without start and end of text.

    Words that are not built in go through the tokenizer files beside the weights of `clip`, as do
    all words of a CLIP that has another vocabulary than OpenAI's and a tokenizer for it. Where the
    vocabulary is too small to hold an id (tiny test models), it is taken modulo vocab_size - 2,
    with a warning.

    Raises:
        UserError: a word is not built in and there is no tokenizer for it, or a word is empty.
    """
    size, folder = clip.config.text.vocab_size, Path(clip.source.name.removeprefix(RANDOM))
    ids = {} if size < _OPENAI_SIZE and _has_tokenizer(folder) else dict(BUILT_IN_IDS)
    if others := [word for word in words if word not in ids]:
        ids |= _tokenize(clip.source, others)
    limit = size - 2
    for word in words:
        for token in [token for token in ids[word] if token >= limit]:
            text = "the vocabulary of this CLIP has no id %d (%r); using %d"
            _LOG.warning(text, token, word, token % limit)
    return [[token % limit for token in ids[word]] for word in words]


def _tokenize(source: CLIPSource, words: list[str]) -> dict[str, list[int]]:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    name = source.name.removeprefix(RANDOM)
    try:
        if Path(name).is_dir() and not _has_tokenizer(Path(name)):
            raise OSError(f"no tokenizer files in {name}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=source.revision)
        ids = {word: list(tokenizer(word, add_special_tokens=False).input_ids) for word in words}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"class words {words} need the tokenizer of {name}, which is not available "
            f"({str(error).splitlines()[0]}). Put its tokenizer files (vocab.json, merges.txt) "
            f"into the CLIP folder, or use the built-in words {sorted(BUILT_IN_IDS)}."
        ) from error
    if empty := [word for word in words if not ids[word]]:
        raise UserError(f"class words {empty} have no tokens; choose other words.")
    return ids


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()
