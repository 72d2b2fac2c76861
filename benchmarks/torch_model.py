"""The peer: our shape of model, AdamW and Muon in PyTorch, as a good PyTorch user would write them.

    python -m benchmarks.torch_model     # copies our parameters into it and compares the logits

`m` is our `config.model` and `o` our `config.optimizer`; nothing else of ours is used by the model or its training.
"""

import numpy as np

from benchmarks.common import need_torch, random_batches

need_torch()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

IGNORED = -100  # a target that F.cross_entropy leaves out
# Coefficients and number of the Newton-Schulz steps in https://kellerjordan.github.io/posts/muon/.
QUINTIC, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5


class Attention(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = m.heads, m.kv_heads, m.head_dim
        self.q = nn.Linear(m.dim, m.heads * m.head_dim, bias=False)
        self.k = nn.Linear(m.dim, m.kv_heads * m.head_dim, bias=False)
        self.v = nn.Linear(m.dim, m.kv_heads * m.head_dim, bias=False)
        self.o = nn.Linear(m.heads * m.head_dim, m.dim, bias=False)
        self.q_norm = nn.RMSNorm(m.head_dim, eps=m.norm_epsilon)
        self.k_norm = nn.RMSNorm(m.head_dim, eps=m.norm_epsilon)

    def forward(self, x_BTD: Tensor, sin: Tensor, cos: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BNTH = self.q_norm(self.q(x_BTD).view(B, T, self.heads, self.head_dim)).transpose(1, 2)
        k_BKTH = self.k_norm(self.k(x_BTD).view(B, T, self.kv_heads, self.head_dim)).transpose(1, 2)
        v_BKTH = self.v(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q_BNTH, k_BKTH = rotated(q_BNTH, sin, cos), rotated(k_BKTH, sin, cos)
        out_BNTH = F.scaled_dot_product_attention(
            q_BNTH, k_BKTH, v_BKTH, attn_mask=mask_B1TT, is_causal=mask_B1TT is None, enable_gqa=True
        )
        return self.o(out_BNTH.transpose(1, 2).reshape(B, T, -1))


def rotated(x_BNTH: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    a, b = x_BNTH.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class SwiGLU(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.gate = nn.Linear(m.dim, m.ff_dim, bias=False)
        self.up = nn.Linear(m.dim, m.ff_dim, bias=False)
        self.down = nn.Linear(m.ff_dim, m.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    def __init__(self, m):
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(m.dim, eps=m.norm_epsilon), Attention(m)
        self.ff_norm, self.ff = nn.RMSNorm(m.dim, eps=m.norm_epsilon), SwiGLU(m)

    def forward(self, x_BTD: Tensor, sin: Tensor, cos: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), sin, cos, mask_B1TT)
        return x_BTD + self.ff(self.ff_norm(x_BTD))


class Model(nn.Module):
    """Token ids -> logits. `segments_BT` and `positions_BT` are for packed rows; without them a row is one document."""

    def __init__(self, m, vocab_size: int, max_length: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, m.dim)
        self.blocks = nn.ModuleList(Block(m) for _ in range(m.layers))
        self.norm = nn.RMSNorm(m.dim, eps=m.norm_epsilon)
        self.head = nn.Linear(m.dim, vocab_size, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("o.weight", "down.weight"))
                shrunk = (2 * m.layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5 * shrunk)
        if m.tied_embedding:
            self.head.weight = self.embedding.weight
        half = m.head_dim // 2
        angle_Th = torch.outer(torch.arange(max_length), m.rope_base ** (-torch.arange(half) / half))
        self.register_buffer("sin_Th", angle_Th.sin(), persistent=False)
        self.register_buffer("cos_Th", angle_Th.cos(), persistent=False)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None):
        T = tokens_BT.shape[1]
        if segments_BT is None:
            mask_B1TT, sin, cos = None, self.sin_Th[:T], self.cos_Th[:T]
        else:
            mask_B1TT = (segments_BT[:, :, None] == segments_BT[:, None, :]).tril()[:, None]
            sin, cos = self.sin_Th[positions_BT][:, None], self.cos_Th[positions_BT][:, None]
        x_BTD = self.embedding(tokens_BT) * self.embedding.embedding_dim**0.5
        for block in self.blocks:
            x_BTD = block(x_BTD, sin, cos, mask_B1TT)
        return self.head(self.norm(x_BTD))


def mean_loss(model: Model, tokens_BT, targets_BT, positions_BT=None, segments_BT=None) -> Tensor:
    logits_BTV = model(tokens_BT, positions_BT, segments_BT)
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORED)


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024: Nesterov momentum, then each matrix of it made about orthogonal."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight not in self.state:
                    self.state[weight]["average"] = torch.zeros_like(weight)
                average = self.state[weight]["average"]
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(average, group["momentum"]))
                longer = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * longer)


def orthogonal(g: Tensor) -> Tensor:
    """By Newton-Schulz: drives every singular value to about 1. The short side goes first, for the smaller square."""
    a, b, c = QUINTIC
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def make_optimizers(model: Model, o, scale: float = 1.0) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of the layers and AdamW for the rest; decay on matrices only."""
    matrices = [w for w in model.blocks.parameters() if w.ndim == 2]
    chosen = {id(w) for w in matrices}
    rest = [w for w in model.parameters() if id(w) not in chosen]
    groups = [{"params": rest, "weight_decay": 0.0}]
    optimizers = []
    if o.name == "muon":
        optimizers.append(Muon(matrices, o.muon_learning_rate * scale, weight_decay=o.weight_decay))
    else:
        groups.append({"params": matrices, "weight_decay": o.weight_decay})
    optimizers.append(torch.optim.AdamW(groups, o.learning_rate * scale, betas=(0.9, 0.95), eps=1e-10, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


class Trainer:
    """Forward, loss and backward compiled; the optimizers as they come."""

    def __init__(self, model: Model, o, scale: float = 1.0):
        self.model, self.optimizers, self.clip = model, make_optimizers(model, o, scale), o.clip
        self.loss = torch.compile(mean_loss)

    def step(self, batch: dict[str, Tensor], share: float = 1.0) -> Tensor:
        """One step at `share` of the peak rates -> the loss."""
        loss = self.loss(self.model, **batch)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad()
        return loss.detach()


def torch_batch(batch: dict[str, np.ndarray], packed: bool) -> dict[str, Tensor]:
    """A batch of `loader.targets` -> arguments of `mean_loss`."""
    targets_BT = np.where(batch["weights"] > 0, batch["targets"], IGNORED)
    out = {"tokens_BT": batch["tokens"], "targets_BT": targets_BT}
    if packed:
        out |= {"positions_BT": batch["positions"], "segments_BT": batch["segments"]}
    return {name: torch.from_numpy(x.astype(np.int64)) for name, x in out.items()}


@torch.no_grad()
def copy_params(params: dict, model: Model) -> None:
    """Our parameters into the model. Ours are stacked over layers, (in, out); the peer's are single, (out, in)."""
    V = model.embedding.num_embeddings  # without the rows that pad our vocabulary
    put = lambda weight, x: weight.copy_(torch.from_numpy(np.array(x)))  # noqa: E731
    put(model.embedding.weight, params["embedding"][:V])
    put(model.norm.weight, params["norm"]["scale"])
    if "head" in params:
        put(model.head.weight, params["head"][:, :V].T)
    stack = params["stack"]["blocks"]["layer_0"]
    for i, block in enumerate(model.blocks):
        D = model.embedding.embedding_dim
        for name in ("attention_norm", "ff_norm"):
            put(getattr(block, name).weight, stack[name]["scale"][i])
        for name in ("q_norm", "k_norm"):
            put(getattr(block.attention, name).weight, stack["attention"][name]["scale"][i])
        for name in ("q", "k", "v"):
            put(getattr(block.attention, name).weight, stack["attention"][name][i].reshape(D, -1).T)
        put(block.attention.o.weight, stack["attention"]["o"][i].reshape(-1, D).T)
        for name in ("gate", "up", "down"):
            put(getattr(block.ff, name).weight, stack["ff"][name][i].T)


def largest_difference(config, documents: int) -> float:
    """Between the logits of both sides, with the same parameters, on random rows of so many documents each."""
    import jax

    from benchmarks.ours import context_of
    from llm_jax.model import transformer
    from llm_jax.training.losses import logits_of

    context = context_of(config)
    m, V, T = context.model, context.vocab_size, config.data.sequence_length
    params = context.init_params()
    batch = next(random_batches(V, 2, T, documents))

    @jax.jit
    def logits(params, tokens, positions, segments):
        hidden_BTD = transformer.apply(m, V, params, tokens, positions, segments)[0]
        return logits_of(hidden_BTD, transformer.head_DV(m, params), V)

    model = Model(m, V, T)
    copy_params(params, model)
    theirs = torch_batch(batch, packed=documents > 1)
    del theirs["targets_BT"]
    with torch.no_grad():
        theirs_BTV = model(**theirs).numpy()
    ours_BTV = np.asarray(logits(params, batch["tokens"], batch["positions"], batch["segments"]))[..., :V]
    return float(np.abs(ours_BTV - theirs_BTV).max())


def main() -> None:
    from llm_jax.config import default

    worst = 0.0
    for tied in (False, True):
        for documents in (1, 4):
            config = default()
            config.model.tied_embedding = tied
            difference = largest_difference(config, documents)
            print(f"tied {tied!s:5}  documents a row {documents}  largest difference of logits {difference:.1e}")
            worst = max(worst, difference)
    if worst > 1e-4:
        raise SystemExit("error: the two models differ by more than 1e-4")


if __name__ == "__main__":
    main()
