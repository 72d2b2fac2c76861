"""The held-out score inside a run: answers to problems of the trained tasks that training never sees."""

from llm_jax.config import UserError
from llm_jax.model import scalar_head
from llm_jax.prompts import prompts_for
from llm_jax.rl.episodes import play
from llm_jax.rl.rewards import held_out
from llm_jax.rl.rollouts import PromptStream
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request


class HeldOut:
    """`rl.eval_problems` of split `dev`, or as many as there are, in the shares of `rl.tasks`; answered greedily."""

    def __init__(self, run: Run, engine: Engine | None):
        """Raises UserError where a trained task has none."""
        rl, there = run.config.rl, prompts_for(run.config, run.workdir, "dev")
        try:
            stream = PromptStream(there, dict(rl.tasks), run.config.seed)
        except UserError as error:
            what = f"rl.eval_every asks for a score on the dev prompts of {run.workdir / 'data'}: {error}"
            raise UserError(f"{what}; or set rl.eval_every to 0") from error
        drawn = (stream.next()[1] for _ in range(rl.eval_problems))
        self.prompts = list({id(prompt): prompt for prompt in drawn}.values())
        self.engine, self.tokenizer, self.longest = engine, run.tokenizer, rl.max_new_tokens
        self.reward, self.no_tools = rl.reward, rl.no_tools

    def __call__(self, params) -> dict[str, float]:
        """`held_out`: the share that is right of `held_out_problems`; where an honest reward is trained, their mean of
        that, put between 0 and 1."""
        asked = [self.tokenizer.render(p["messages"], for_generation=True).ids for p in self.prompts]
        requests = [Request(ids, max_new_tokens=self.longest) for ids in asked]
        of_model, _ = scalar_head.parted(params)
        _, outcomes = play(self.engine, of_model, self.prompts, requests)
        scores = held_out(outcomes, self.reward, self.no_tools)
        return {"held_out": sum(scores) / len(scores), "held_out_problems": len(scores)}
