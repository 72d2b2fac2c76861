"""What each value of a config may be: a table of key -> range. Both ends of a range belong to it.

What depends on another value, such as sizes that must divide, is `config.validate`'s.
"""

import dataclasses
import math
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Number:
    """Finite numbers from `low` on; `high` is the greatest, where there is one."""

    low: float
    high: float = math.inf
    kind: type = float

    @property
    def said(self) -> str:
        what = "a whole number" if self.kind is int else "a number"
        return f"{what} from {self.low:,} on" if math.isinf(self.high) else f"{what} from {self.low:,} to {self.high:,}"

    def holds(self, value: Any) -> bool:
        right = isinstance(value, int | self.kind) and not isinstance(value, bool)
        return right and (isinstance(value, int) or math.isfinite(value)) and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Flag:
    said: str = "True or False"

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Choice:
    names: tuple[str, ...]

    @property
    def said(self) -> str:
        return f"one of {', '.join(map(repr, self.names))}"

    def holds(self, value: Any) -> bool:
        return value in self.names


@dataclasses.dataclass(frozen=True)
class Text:
    """Text of a pattern. With `many`, a tuple of `least` or more."""

    pattern: str
    said: str
    many: bool = False
    least: int = 0

    def holds(self, value: Any) -> bool:
        if self.many != isinstance(value, list | tuple):
            return False
        texts = list(value) if self.many else [value]
        return len(texts) >= self.least and all(isinstance(t, str) and re.fullmatch(self.pattern, t) for t in texts)


def whole(low: int, high: float = math.inf) -> Number:
    return Number(low, high, int)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Of rotary angles: a name, then its numbers, all above 0."""

    said: str = "(), ('linear', factor) or ('llama3', factor, low, high, length)"

    def holds(self, value: Any) -> bool:
        if not isinstance(value, list | tuple):
            return False
        name, *numbers = value or ("",)
        right = all(Number(0).holds(n) and n > 0 for n in numbers)
        return right and {"": 0, "linear": 1, "llama3": 4}.get(name) == len(numbers)


@dataclasses.dataclass(frozen=True)
class Part:
    """Of an open section whose names have ranges of their own, which the table of what they are parts of knows."""

    said: str = "a finite number, True or False, or a word"

    def holds(self, value: Any) -> bool:
        if isinstance(value, str):
            return re.fullmatch(r"\w+", value) is not None
        return isinstance(value, bool) or Number(-math.inf).holds(value)


MODULE = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
ANY_TEXT = Text(r"[\s\S]*", "a text")
SHARE, FROM_0 = Number(0, 1), Number(0)
ARMS = Choice(("none", "probe", "random", "oracle", "confidence"))
LARGEST_SEED = 2**31 - 1
LEAST_VOCABULARY = 292  # special tokens, the 256 bytes, and one character

RANGES = {
    "seed": whole(0, LARGEST_SEED),
    "init_from": Text(r"|.+:[^:/]+", "WORKDIR:stage, as in runs/speedrun:pretrain, or empty"),
    "extensions": Text(MODULE, "names of modules, as in ('mine.tasks',)", many=True),
    "model.dim": whole(1),
    "model.layers": whole(1),
    "model.heads": whole(1),
    "model.kv_heads": whole(1),
    "model.head_dim": whole(2),
    "model.ff_dim": whole(1),
    "model.layer_pattern": Text(
        r"(full|window:0*[1-9]\d{0,8})(-norope)?(-experts)?",
        "of 'full' or 'window:N', then '-norope', then '-experts' if wanted",
        many=True,
        least=1,
    ),
    "model.experts": whole(0),
    "model.experts_per_token": whole(0),
    "model.expert_ff_dim": whole(0),
    "model.load_balance": FROM_0,
    "model.router_z": FROM_0,
    "model.rope_base": Number(1, 10**12),
    "model.window_rope_base": Number(0, 10**12),
    "model.rope_scaling": Scaling(),
    "model.norm_epsilon": Number(1e-12, 1),
    "model.tied_embedding": Flag(),
    "model.scaled_embedding": Flag(),
    "model.qk_norm": Flag(),
    "model.qkv_bias": Flag(),
    "model.norm_offset": SHARE,
    "model.post_norms": Flag(),
    "model.activation": Choice(("silu", "gelu")),
    "model.attention_scale": FROM_0,
    "model.attention_cap": FROM_0,
    "model.logit_cap": FROM_0,
    "model.attention": Choice(("auto", "xla", "splash", "cudnn")),
    "model.remat": Choice(("none", "dots", "full", "offload")),
    "model.float32_head": Flag(),
    "model.compute_dtype": Choice(("float32", "bfloat16")),
    "tokenizer.vocab_size": whole(LEAST_VOCABULARY),
    "data.prepare": Text(MODULE + r":[^\W\d]\w*", "'module:function'"),
    "data.documents": ANY_TEXT,
    "data.conversations": ANY_TEXT,
    "data.scale": Number(0.01),
    "data.sequence_length": whole(8),
    "data.python_docs_bytes": whole(0),
    "data.epochs": FROM_0,
    "data.weights": FROM_0,
    "data.first": Text(r"\S+", "names of sources, as in ('short_lists',)", many=True),
    "data.reading": FROM_0,
    "data.lessons": FROM_0,
    "data.pairs": whole(0),
    "data.pair_noise": Number(0, 0.5),
    "imported.source": ANY_TEXT,
    "imported.context": whole(0),
    "mesh.data": whole(1),
    "mesh.fsdp": whole(1),
    "mesh.expert": whole(1),
    "mesh.tensor": whole(1),
    "mesh.context": whole(1),
    "mesh.topology": ANY_TEXT,
    "mesh.slices": whole(1),
    "optimizer.name": Choice(("muon", "adamw")),
    "optimizer.muon_learning_rate": FROM_0,
    "optimizer.learning_rate": FROM_0,
    "optimizer.weight_decay": FROM_0,
    "optimizer.warmup": SHARE,
    "optimizer.schedule": Choice(("wsd", "cosine")),
    "optimizer.decay": SHARE,
    "optimizer.final": SHARE,
    "optimizer.clip": FROM_0,
    "train.loss_chunk": whole(1),
    "train.microbatch": whole(0),
    "pretrain.steps": whole(0),
    "pretrain.batch": whole(1),
    "pretrain.learning_rate_scale": FROM_0,
    "sft.steps": whole(0),
    "sft.batch": whole(1),
    "sft.learning_rate_scale": FROM_0,
    "sft.tables_scale": FROM_0,
    "sft.epochs": whole(1),
    "abstain.steps": whole(0),
    "abstain.batch": whole(1),
    "abstain.arm": ARMS,
    "abstain.questions": ANY_TEXT,
    "abstain.wordings": whole(1),
    "abstain.samples": whole(1, 1024),
    "abstain.max_new_tokens": whole(1),
    "abstain.replay": Number(0, 0.95),
    "abstain.epochs": whole(1),
    "abstain.learning_rate_scale": FROM_0,
    "abstain.tables_scale": FROM_0,
    "control.arm": ARMS,
    "pairs.files": ANY_TEXT,
    "pairs.most": whole(0),
    "reward.steps": whole(0),
    "reward.batch": whole(1),
    "reward.loss": Choice(("none", "bradley_terry")),
    "reward.epochs": whole(1),
    "reward.learning_rate": FROM_0,
    "reward.sum_to_zero": FROM_0,
    "reward.length_control": FROM_0,
    "preference.steps": whole(0),
    "preference.batch": whole(1),
    "preference.loss": Choice(("none", "dpo", "ipo")),
    "preference.beta": Number(1e-6),
    "preference.epochs": whole(1),
    "preference.learning_rate": FROM_0,
    "rl.steps": whole(1),
    "rl.batch": whole(2),
    "tools.python": Choice(("monty", "bwrap")),
    "rl.group": whole(1),
    "rl.slots": whole(1),
    "rl.tasks": FROM_0,
    "rl.reward_model": Text(r"|.+:[^:/]+", "WORKDIR:stage, as in runs/taste:reward, or empty"),
    "rl.prompts": ANY_TEXT,
    "rl.learning_rate": FROM_0,
    "rl.algorithm": ANY_TEXT,  # a row of a table, to which a module of `extensions` may add
    "rl.parts": Part(),
    "rl.max_new_tokens": whole(1),
    "rl.reward": Choice(("right", "ternary", "brier", "random", "format", "model")),
    "rl.call_price": FROM_0,
    "rl.resample": whole(0),
    "rl.updates": whole(1),
    "rl.minibatches": whole(1),
    "rl.lag": whole(0),
    "rl.eval_every": whole(0),
    "rl.eval_problems": whole(1),
    "rl.keep_best": Flag(),
    "rl.canaries": Choice(("warn", "stop", "off")),
    "rl.exact": Flag(),
    "rl.no_tools": Text(r"\S(.*\S)?", "names of task families", many=True),
    "lora.rank": whole(0),
    "lora.alpha": FROM_0,
    "lora.projections": Text(
        "q|k|v|o|gate|up|down", "of 'q', 'k', 'v', 'o', 'gate', 'up' and 'down', one or more", many=True, least=1
    ),
    "lora.frozen": Choice(("float32", "bfloat16", "int8")),
    "lora.learning_rate": FROM_0,
    "eval.problems": whole(1),
    "eval.map_items": whole(0),
    "eval.passk_problems": whole(1),
    "eval.passk_samples": whole(1, 64),
    "eval.slots": whole(1),
    "eval.max_new_tokens": whole(1),
    "eval.best_of": whole(0, 4096),
    "eval.texts": ANY_TEXT,
    "eval.questions": ANY_TEXT,
    "checkpoint.every": whole(1),
    "checkpoint.keep": whole(1),
    "log.eval_every": whole(1),
    "log.transcripts": whole(0),
}


def outside(key: str, value: Any) -> str:
    """What is wrong about a value in a few words; empty where nothing is, or where the key has no range.

    The keys of an open section, as `data.epochs.web`, have the range of the section.
    """
    allowed = RANGES.get(key) or RANGES.get(".".join(key.split(".")[:2]))
    return "" if allowed is None or allowed.holds(value) else f"{key} is {value!r}; it must be {allowed.said}"
