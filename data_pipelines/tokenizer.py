"""Tokenizer training: python -m data_pipelines.tokenizer --input='texts/*' --output=FILE --vocab_size=2048"""

from pathlib import Path

from absl import flags

from data_pipelines.documents import read_documents
from llm_jax.cli import run_cli
from llm_jax.tokenizer import train_tokenizer


def define_flags() -> None:
    flags.DEFINE_string("input", None, "Glob of .txt or .jsonl documents.", required=True)
    flags.DEFINE_string("output", None, "Where to write the SentencePiece model.", required=True)
    flags.DEFINE_integer("vocab_size", 2048, "Pieces, special tokens included.", lower_bound=1)


def main() -> None:
    f = flags.FLAGS
    texts = [document["text"] for document in read_documents(f.input)]
    tokenizer = train_tokenizer(texts, f.vocab_size)
    Path(f.output).parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(f.output)
    bytes_, tokens = sum(len(t.encode()) for t in texts), sum(map(len, tokenizer.encode_batch(texts, threads=2)))
    print(f"{f.output}: {tokenizer.vocab_size} pieces, {bytes_ / tokens:.2f} bytes a token on its own text")


if __name__ == "__main__":
    run_cli(main, define_flags)
