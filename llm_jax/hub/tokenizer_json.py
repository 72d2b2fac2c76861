"""Our SentencePiece model as `tokenizer.json`, the file that Transformers and its kin load; the same ids.

Two things are theirs: a special token that is spelled out in a text becomes that token, and a literal U+2581 a space.
"""

from typing import Any

from llm_jax.tokenizer import Tokenizer
from llm_jax.tokenizer.sentencepiece import MARK

CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """SentencePiece merges the pair whose union has the best score; merges are ranked by that score here."""
    sp = tokenizer._sp
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    plain = [i for i in ids.values() if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i) or sp.is_unused(i))]
    known = {pieces[i] for i in plain}
    merges = []
    for piece in (pieces[i] for i in sorted(plain, key=lambda i: -sp.get_score(i))):
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        whole = [pair for pair in halves if known.issuperset(pair)]
        merges += sorted(whole, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    model = {"type": "BPE", "unk_token": pieces[sp.unk_id()], "fuse_unk": True, "byte_fallback": True}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    back = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], **kind} for i in ids.values() if sp.is_control(i)],
        "normalizer": space,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {**model, "vocab": ids, "merges": merges},
    }
