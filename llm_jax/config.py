"""Every config section with its default and one-line meaning; validation. What a value may be is in ranges.py.

A config file defines `get_config()`, which starts from `default()` and changes what it needs.
"""

import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from llm_jax.ranges import outside

OPEN = ("data.epochs.", "data.weights.", "rl.tasks.", "rl.parts.")  # sections in which any name is a key
OF_WORDS = ("rl.parts.",)  # those whose values may be words; the others have numbers
VOCAB_MULTIPLE = 128  # the embedding is padded to a multiple of it


class UserError(Exception):
    """A mistake the user can mend: printed as one line, exit code 2."""


def default() -> ConfigDict:
    """The defaults of every section. Lengths are in tokens, rates per step, times in seconds."""
    c = ConfigDict()
    c.seed = 0  # of the world, the initial parameters, the order of rows and every sample
    c.init_from = ""  # "WORKDIR:stage": start the first stage from that stage's parameters
    c.extensions = ()  # modules that add rows to the tables of stages, tasks, tools and measurements

    c.model = ConfigDict()
    c.model.dim = 128  # D, the residual stream
    c.model.layers = 6  # L
    c.model.heads = 2  # N, query heads
    c.model.kv_heads = 1  # K, key/value heads (grouped-query attention)
    c.model.head_dim = 64  # H
    c.model.ff_dim = 352  # F, of the SwiGLU feed-forward
    # Repeated over depth; each "full" or "window:N", then "-norope" for no rotary, then "-experts" for a mixture.
    c.model.layer_pattern = ("full",)
    c.model.experts = 0  # E, in a layer with experts
    c.model.experts_per_token = 0  # k, those that a token goes to
    c.model.expert_ff_dim = 0  # F of one expert
    c.model.load_balance = 0.01  # weight of the loss that keeps experts evenly used (Fedus et al. 2021)
    c.model.router_z = 0.001  # weight of the loss that keeps the router's logits small (Zoph et al. 2022)
    c.model.rope_base = 10_000.0  # theta of the rotary embedding
    c.model.window_rope_base = 0.0  # theta in layers with a window, which no scaling touches; 0: as in the others
    c.model.rope_scaling = ()  # ("linear", factor) or ("llama3", factor, low, high, length trained on); (): none
    c.model.norm_epsilon = 1e-6  # of every RMSNorm
    c.model.tied_embedding = False  # one table for input and output
    c.model.scaled_embedding = True  # looked-up rows are multiplied by sqrt(D)
    c.model.qk_norm = True  # RMSNorm of queries and keys
    c.model.qkv_bias = False  # queries, keys and values have a bias
    c.model.norm_offset = 0.0  # is added to every norm's scale
    c.model.post_norms = False  # what attention and feed-forward give is normed too, before it is added
    c.model.activation = "silu"  # of the feed-forward's gate; gelu: with tanh
    c.model.attention_scale = 0.0  # of queries x keys; 0: 1 / sqrt(H)
    c.model.attention_cap = 0.0  # attention's logits are c tanh(logit / c); 0: as they are
    c.model.logit_cap = 0.0  # so are those of the next token
    c.model.attention = "auto"  # kernel of training: xla, splash (TPU), cudnn (NVIDIA); auto: that of the backend
    c.model.remat = "full"  # what the backward pass recomputes: none, dots (all but matrix products), full, offload
    c.model.float32_head = False  # the last norm and the product with the head in float32, whatever compute_dtype is
    c.model.compute_dtype = "float32"  # of activations; parameters are float32

    c.tokenizer = ConfigDict()
    c.tokenizer.vocab_size = 2048  # pieces, special tokens included; the embedding is padded to a multiple of 128

    c.data = ConfigDict()
    c.data.prepare = "data_pipelines.speedrun:prepare"  # module:function that stage `data` calls with (config, workdir)
    c.data.documents = ""  # glob of .txt, .jsonl, .jsonl.gz or .parquet to pre-train on instead of the tiny web
    c.data.conversations = ""  # glob of .jsonl, .json, either .gz, or .parquet to fine-tune on, not the embedded ones
    c.data.scale = 1.0  # size of the embedded world and of everything made from it
    c.data.sequence_length = 256  # T, tokens in a row
    c.data.python_docs_bytes = 400_000  # how much prose and code to read from this Python's own documentation
    c.data.epochs = ConfigDict()  # how often one pass reads each source's rows; others as the data asks for, or once
    c.data.weights = ConfigDict()  # in place of epochs: share of the rows from each source; then all must be named
    c.data.first = ()  # sources that pre-training reads one after another before all others; (): as the data asks for
    c.data.reading = 0.0  # amount of texts to read, what leads there, and searches; with any, there is an index, too
    c.data.lessons = 1.0  # amount of worked lessons
    c.data.pairs = 0  # comparisons by a taste that is a function of the text (tasks/taste.py), and talk to go with them
    c.data.pair_noise = 0.2  # share of them that name the wrong answer

    c.imported = ConfigDict()
    c.imported.source = ""  # folder of Hugging Face or GGUF file to start from, not from pre-training
    c.imported.context = 0  # the longest context that its model was made for, in tokens; 0: it does not say

    c.tools = ConfigDict()
    c.tools.python = "monty"  # sandbox of the python tool: monty, or bwrap (all of CPython; Linux with bubblewrap)

    c.mesh = ConfigDict()
    c.mesh.data = 1  # replicas
    c.mesh.fsdp = 1  # shards of parameters and optimizer state; batches are split over data x fsdp x expert
    c.mesh.expert = 1  # shards of the experts
    c.mesh.tensor = 1  # shards of heads, feed-forward and vocabulary
    c.mesh.context = 1  # shards of a row's positions
    c.mesh.topology = ""  # TPU slice that compile_ahead compiles for, as in "v5p:4x4x4"
    c.mesh.slices = 1  # of that topology; `data` spans them

    c.optimizer = ConfigDict()
    c.optimizer.name = "muon"  # muon (matrices of the layers; AdamW for the rest) or adamw
    c.optimizer.muon_learning_rate = 0.02  # peak, for the matrices
    c.optimizer.learning_rate = 0.004  # peak, AdamW
    c.optimizer.weight_decay = 0.0  # decoupled, on matrices only
    c.optimizer.warmup = 0.02  # share of the steps
    c.optimizer.schedule = "wsd"  # after the warm-up: wsd (flat, then a linear decay) or cosine
    c.optimizer.decay = 0.5  # of wsd: share of the steps, at the end
    c.optimizer.final = 0.02  # of the peak, that the decay runs towards
    c.optimizer.clip = 1.0  # global norm of the gradient; 0 for none

    c.train = ConfigDict()
    c.train.loss_chunk = 2048  # tokens of a device whose logits exist at a time
    c.train.microbatch = 8  # rows whose gradient is computed at a time, over all devices; 0: the whole batch

    c.pretrain = stage_section(steps=0, batch=8)  # steps 0: one pass over the rows
    c.pretrain.learning_rate_scale = 1.0  # of the optimizer's peak rates
    c.sft = stage_section(steps=0, batch=8)
    c.sft.learning_rate_scale = 0.2
    c.sft.tables_scale = 0.1  # of that, for the vocabulary's tables; at 1 AdamW unlearns what conversations do not say
    c.sft.epochs = 2  # passes over the conversations when steps is 0

    c.abstain = stage_section(steps=0, batch=8)
    # What gets a refusal: what it does not know by "probe", "oracle" (exposure), "random"; nothing, but every answer
    # says how sure it is: "confidence"; "none": there is no such stage.
    c.abstain.arm = "none"
    c.abstain.questions = ""  # glob of .jsonl with questions of one's own; "": those that stage `data` has made
    c.abstain.wordings = 3  # in which a fact is asked
    c.abstain.samples = 16  # answers at temperature 1 to a fact, beside a greedy one to each wording
    c.abstain.max_new_tokens = 32  # of an answer
    c.abstain.replay = 0.5  # share of the conversations that are those of stage `sft`
    c.abstain.epochs = 2  # passes over the conversations when steps is 0
    c.abstain.learning_rate_scale = 0.1
    c.abstain.tables_scale = 0.1
    c.control = ConfigDict()  # a stage beside it, the same from the same parent but for
    c.control.arm = "none"  # this; nothing follows it

    c.pairs = ConfigDict()  # comparisons of two answers, which stages `reward` and `preference` learn from
    c.pairs.files = ""  # glob of .jsonl with `pair` records of one's own; "": those that stage `data` has made
    c.pairs.most = 0  # learn from the first so many only; 0: all

    c.reward = stage_section(steps=0, batch=8)  # batch: rows, of as many pairs as fit
    c.reward.loss = "none"  # "bradley_terry": log p(the better answer is preferred); none
    c.reward.epochs = 1  # passes over the pairs when steps is 0
    c.reward.learning_rate = 3e-4  # peak, AdamW
    c.reward.sum_to_zero = 0.0  # weight of the square of a microbatch's mean reward (Hong et al. 2025)
    c.reward.length_control = (
        0.0  # weight of the square of the correlation of rewards and lengths (after Chen et al. 2024)
    )

    c.preference = stage_section(steps=0, batch=8)
    c.preference.loss = "none"  # "dpo" (Rafailov et al. 2023), "ipo" (Azar et al. 2023); none
    c.preference.beta = 0.1  # how strongly it is held to its parent; tau of IPO
    c.preference.epochs = 1  # passes over the pairs when steps is 0
    c.preference.learning_rate = 2e-5  # peak, AdamW

    c.rl = stage_section(steps=36, batch=192)  # batch: rollouts a step
    c.rl.group = 8  # rollouts of one prompt
    c.rl.slots = 64  # rollouts decoded at a time
    c.rl.tasks = ConfigDict()  # share of the prompts from each "family" or "family/level"
    c.rl.reward_model = ""  # "WORKDIR:stage" of the reward model, where that is the reward; "": this run's own
    c.rl.prompts = ""  # glob of .jsonl with problems in the shapes of GSM8K or MATH, for the tasks `gsm8k` and `math`
    c.rl.learning_rate = 1e-4  # AdamW, constant after the warm-up
    c.rl.algorithm = "reinforce"  # or rloo, grpo, dr_grpo, dapo, gspo, cispo, ppo, maxrl: parts of the loss
    c.rl.parts = ConfigDict()  # parts that are other than the algorithm's, as advantage or clip_high
    c.rl.max_new_tokens = 80  # of a rollout
    # Or ternary (a refusal is better than a wrong answer), brier (so is a low confidence), model (rl.reward_model);
    # controls: format (a well-formed answer), random (a coin).
    c.rl.reward = "right"
    c.rl.exact = False  # sampler and trainer agree bit for bit, on one device; it costs time
    c.rl.no_tools = ("arithmetic",)  # families in which calling the python tool earns nothing
    c.rl.call_price = 0.0  # what a call of a tool costs
    c.rl.resample = 3  # times that groups all right or all wrong are replaced, where the algorithm is dynamic
    c.rl.updates = 1  # steps from one batch of rollouts
    c.rl.minibatches = 1  # parts of the batch, of which each step takes the next
    c.rl.lag = 0  # batches that rollouts are behind the parameters that are trained on them
    c.rl.eval_every = 12  # steps between scores on held-out problems; 0: none
    c.rl.eval_problems = 64  # dev prompts of the trained tasks, answered greedily
    c.rl.keep_best = True  # the checkpoint with the best such score is kept beside the newest
    c.rl.canaries = "warn"  # what they do that see a run go wrong: warn, stop, off

    c.lora = ConfigDict()  # of all stages after pre-training: an adapter in place of all parameters (Hu et al. 2021)
    c.lora.rank = 0  # of its matrices; 0: none, all parameters are trained
    c.lora.alpha = 16.0  # its output is multiplied by alpha / rank
    c.lora.projections = ("q", "k", "v", "o", "gate", "up", "down")  # those that it adapts
    c.lora.frozen = "float32"  # dtype of the parameters under it; int8: of layers' matrices, tables are bfloat16
    c.lora.learning_rate = 1e-3  # peak, AdamW, of them all; about ten times that of training all parameters

    c.eval = ConfigDict()
    c.eval.problems = 512  # held-out problems behind every rate
    c.eval.map_items = 64  # problems in a cell of the map of abilities; 0: no map
    c.eval.passk_problems = 128  # problems of the pass@k curve
    c.eval.passk_samples = 16  # samples of each
    c.eval.slots = 64  # prompts decoded at a time
    c.eval.max_new_tokens = 80
    c.eval.best_of = 0  # answers to a prompt, of which a reward model takes the best; 0: that is not measured
    c.eval.texts = ""  # glob of text files whose bits per byte are measured, of every stage
    c.eval.questions = ""  # glob of .jsonl files with questions of one's own, asked of every stage

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 500  # steps; the last step is always saved
    c.checkpoint.keep = 2  # newest checkpoints to keep

    c.log = ConfigDict()
    c.log.eval_every = 400  # steps between validation losses
    c.log.transcripts = 4  # rollouts of each batch of RL that are kept to be read, those of different prompts first
    return c


def stage_section(steps: int, batch: int) -> ConfigDict:
    c = ConfigDict()
    c.steps = steps  # optimizer steps
    c.batch = batch  # rows a step, over all devices
    return c


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{'model.dim': 128, ...}; tuples become lists, as in JSON."""
    if not hasattr(config, "items"):
        return {prefix: list(config) if isinstance(config, tuple) else config}
    flat = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else key))
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines 'key: old -> new' for the keys whose values differ."""
    keys = sorted(set(old) | set(new))
    return [f"{k}: {old.get(k, 'absent')} -> {new.get(k, 'absent')}" for k in keys if old.get(k) != new.get(k)]


def check_keys(config: ConfigDict, sections: tuple[str, ...]) -> None:
    """Raises UserError, naming the nearest known key, for a key that `default()` does not have."""
    known = set(flatten(default()))
    own = {key.split(".")[0] for key in known}
    free = (*OPEN, *(f"{section}." for section in sections if section and section not in own))
    for key in flatten(config):
        if key not in known and not key.startswith(free):
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise UserError(f"unknown config key {key!r}; did you mean {near!r}?")


# (key, those whose product must divide it): sizes that are split over the mesh, and others that must come out even.
SHARDS = ("mesh.data", "mesh.fsdp", "mesh.expert")
BATCHES = ("pretrain.batch", "sft.batch", "abstain.batch", "reward.batch", "preference.batch")
MULTIPLES = (
    ("model.heads", ("model.kv_heads",)),
    ("rl.batch", ("rl.group", "rl.minibatches")),
    ("rl.updates", ("rl.minibatches",)),
    *((key, SHARDS) for key in (*BATCHES, "rl.batch", "rl.slots", "eval.slots")),
    ("train.microbatch", SHARDS),
    *((f"model.{key}", ("mesh.tensor",)) for key in ("heads", "kv_heads", "ff_dim", "expert_ff_dim", "dim")),
    ("model.dim", ("mesh.fsdp",)),
    ("data.sequence_length", ("mesh.context",)),
    ("model.experts", ("mesh.expert",)),
)


def validate(config: ConfigDict, sections: tuple[str, ...] = ()) -> None:
    """Raises UserError for the first value that cannot work, naming the key and the mend.

    `sections` are those of the stages; the values of one that a module of `extensions` adds are that module's to check.
    """
    check_keys(config, sections)
    flat = flatten(config)
    for key, value in flat.items():
        if wrong := outside(key, value):
            raise UserError(wrong)
    if config.data.weights and not sum(config.data.weights.values()):
        raise UserError("data.weights are all 0; give one source a share")
    check_layers(config.model)
    check_adapter(config)
    check_exact(config)
    idle = ["abstain.batch"] if config.abstain.arm == "none" else []
    idle += [f"{stage}.batch" for stage in ("reward", "preference") if config[stage].loss == "none"]
    for key, of in MULTIPLES:
        if key not in idle and flat[key] % (unit := math.prod(flat[name] for name in of)):
            equals = f" = {unit}" if len(of) > 1 else f" {unit}"
            raise UserError(f"{key} {flat[key]} must be a multiple of {' x '.join(of)}{equals}")
    rows = -(-config.tokenizer.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    if rows % config.mesh.tensor:
        raise UserError(f"the embedding's {rows} rows must be a multiple of mesh.tensor {config.mesh.tensor}")
    microbatch = config.train.microbatch
    for key in BATCHES:
        if key not in idle and microbatch and flat[key] > microbatch and flat[key] % microbatch:
            raise UserError(f"{key} {flat[key]} must be a multiple of train.microbatch {microbatch}")


def check_layers(m: ConfigDict) -> None:
    """What the model's values ask of each other. Raises UserError."""
    pattern = tuple(m.layer_pattern)
    if any(spec.endswith("-experts") for spec in pattern) != (m.experts > 0):
        raise UserError(
            f"model.experts is {m.experts}, but model.layer_pattern is {pattern}: layers end in "
            "'-experts' where, and only where, there are any"
        )
    if m.experts and not 1 <= m.experts_per_token <= m.experts:
        raise UserError(f"model.experts_per_token is {m.experts_per_token}; it must be 1 to model.experts {m.experts}")
    if m.experts and m.expert_ff_dim < 1:
        raise UserError(f"model.expert_ff_dim is {m.expert_ff_dim}; experts need at least 1")
    if m.experts and m.activation != "silu":
        raise UserError(f"model.activation is {m.activation!r}; experts have 'silu' only")
    if m.layers < len(pattern):
        raise UserError(f"model.layers is {m.layers}, less than the period {len(pattern)} of model.layer_pattern")
    if m.head_dim % 2:
        raise UserError(f"model.head_dim is {m.head_dim}; rotary embedding needs an even size")


def check_exact(config: ConfigDict) -> None:
    """Raises UserError where `rl.exact` is asked of what it cannot be had of."""
    if not config.rl.exact:
        return
    devices = math.prod(config.mesh[axis] for axis in ("data", "fsdp", "expert", "tensor", "context"))
    wrong = (
        (devices > 1, f"the mesh has {devices} devices, over which sums are split; set --config.mesh.*=1"),
        (config.model.compute_dtype != "float32", "it is for float32; set --config.model.compute_dtype=float32"),
        (config.model.experts > 0, "an expert's product is over whatever tokens chose it, a batch's or a row's"),
    )
    for is_wrong, why in wrong:
        if is_wrong:
            raise UserError(f"rl.exact is True, but {why}")


def check_adapter(config: ConfigDict) -> None:
    """Raises UserError where `lora` is to adapt experts' weights."""
    of_experts = [name for name in config.lora.projections if name in ("gate", "up", "down")]
    if config.lora.rank and config.model.experts and of_experts:
        what = f"lora.projections has {of_experts[0]!r}, which is of the experts here, and experts are not adapted"
        raise UserError(f"{what}; give some of ('q', 'k', 'v', 'o')")
