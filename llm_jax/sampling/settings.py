"""What other servers and libraries can be asked and this engine cannot: refused by name wherever settings are read."""

from collections.abc import Mapping
from typing import Any

# Setting -> the values that ask for nothing. Null always asks for nothing.
NOT_HERE: dict[str, tuple] = {
    # OpenAI
    "audio": (),
    "best_of": (1,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "reasoning": ({},),
    "reasoning_effort": (),
    "suffix": ("",),
    "text_format": (),
    "truncation": ("auto",),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM and SGLang
    "add_special_tokens": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "custom_logit_processor": (),
    "ebnf": ("",),
    "enable_thinking": (),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_new_tokens": (0,),
    "min_tokens": (0,),
    "no_stop_trim": (False,),
    "prompt_logprobs": (),
    "regex": ("",),
    "skip_special_tokens": (True,),
    "stop_regex": ([], ""),
    "stop_token_ids": ([],),
    "structured_outputs": ({},),
    "thinking_budget": (),
    "thinking_token_budget": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    # llama.cpp, Ollama, Transformers
    "do_sample": (True,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "encoder_repetition_penalty": (1,),
    "eta_cutoff": (0,),
    "epsilon_cutoff": (0,),
    "grammar": ("",),
    "guidance_scale": (1,),
    "mirostat": (0,),
    "n_predict": (-1,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_predict": (-1,),
    "penalty_alpha": (0,),
    "repeat_penalty": (1,),
    "samplers": ([],),
    "tfs_z": (1,),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "typical": (1,),
    "typical_p": (1,),
}
ALL = -1  # as many as there are, or as fit
FAMILIES = ("guided_", "dry_", "xtc_")  # how names of many settings begin, which ask for nothing only where null
HERE = ("guided_json", "guided_regex", "guided_choice")  # those of the families that are honoured


def not_here(fields: Mapping[str, Any], more: Mapping[str, tuple] | None = None) -> str:
    """The first setting that asks for what is not here, or in `more`; empty where there is none."""
    known = NOT_HERE | dict(more or {})
    for name, value in fields.items():
        refused = name in known or (name.startswith(FAMILIES) and name not in HERE)
        if refused and value is not None and not any(same(value, neutral) for neutral in known.get(name, ())):
            return name
    return ""


def same(value: Any, neutral: Any) -> bool:
    """Equal, and no number for a truth."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def whole(value: Any) -> Any:
    """3.0 as 3, as clients whose numbers are all floats send it. What is no whole number stays as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def some(value: Any) -> Any:
    """`whole`, and None for ALL."""
    return None if (number := whole(value)) == ALL else number
