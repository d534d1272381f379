"""Token ids of class words: built in for the default words, by the tokenizer for others."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from sapl_jax.clip.model import CLIP, CLIPSource
from sapl_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_RANDOM = "random:"

# In OpenAI's vocabulary of 49,408 entries.
_OPENAI_SIZE = 49408
BUILT_IN_IDS = {"real": [1532], "fake": [5777]}


def class_token_ids(clip_or_source: CLIP | CLIPSource, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each class word, without start and end of text.

    Args:
        clip_or_source: a CLIP, or only where its weights came from. Words that are not built in
            go through the tokenizer files beside those weights.
        words: class names, e.g. ["real", "fake"].

    Returns:
        One list of ids for each word. With a CLIP whose vocabulary is too small to hold an id
        (tiny test models), the id is taken modulo vocab_size - 2, with a warning.

    Raises:
        UserError: a word is not built in and there is no tokenizer for it, or a word is empty.
    """
    source = clip_or_source.source if isinstance(clip_or_source, CLIP) else clip_or_source
    ids = dict(BUILT_IN_IDS)
    if isinstance(clip_or_source, CLIP) and _has_own_words(clip_or_source):
        ids = {}
    others = [word for word in words if word not in ids]
    if others:
        ids |= _tokenize(source, others)
    if not isinstance(clip_or_source, CLIP):
        return [list(ids[word]) for word in words]
    limit = clip_or_source.config.text.vocab_size - 2
    return [[_fit(word, token, limit) for token in ids[word]] for word in words]


def _has_own_words(clip: CLIP) -> bool:
    """Whether this CLIP has another vocabulary than OpenAI's, and a tokenizer for it."""
    folder = Path(clip.source.name.removeprefix(_RANDOM))
    return clip.config.text.vocab_size < _OPENAI_SIZE and _has_tokenizer(folder)


def _fit(word: str, token: int, limit: int) -> int:
    if token < limit:
        return token
    _LOG.warning(
        "the vocabulary of this CLIP has no id %d (%r); using %d", token, word, token % limit
    )
    return token % limit


def _tokenize(source: CLIPSource, words: list[str]) -> dict[str, list[int]]:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    name = source.name.removeprefix(_RANDOM)
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
    empty = [word for word in words if not ids[word]]
    if empty:
        raise UserError(f"class words {empty} have no tokens; choose other words.")
    return ids


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()
