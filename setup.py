"""Installs llm_jax; `pip install -e .[test]` is what the Makefile runs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
WEB = [  # from a crawl to documents
    "datatrove>=0.10,<0.11",
    "resiliparse>=2,<3",
    "warcio>=1.7,<2",
    "webencodings>=0.6.1,<0.7",
    "phonenumbers>=9,<10",
    "py3langid>=0.4,<0.5",
    "xxhash>=3.5",
    "tldextract>=5.1,<6",
    # What the parts of datatrove in use ask for.
    "pyahocorasick>=2.2",
    "fasteners>=0.19",
    "regex>=2024.11",
    "tokenizers>=0.22",
    "pyarrow>=18",
]
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "llm_jax/__init__.py").read_text()).group(1)

setup(
    name="llm_jax",
    version=VERSION,
    description="From raw pages to a thinking model with tools, in one small JAX codebase.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["llm_jax", "llm_jax.*", "data_pipelines", "data_pipelines.*"]),
    package_data={"llm_jax.report": ["*.html"], "llm_jax.serve": ["static/*"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "array-record>=0.8.3",
        "sentencepiece>=0.2.1,<0.3",
        "llguidance>=1.9,<2",
        "ml_collections>=1.1,<2",
        "absl-py>=2.3,<3",
        "numpy>=2.0",
        "rich>=14",
        "tensorboardX>=2.6.4,<3",
        "jinja2>=3.1,<4",
        "matplotlib>=3.10,<4",
        "pydantic-monty>=1.4,<2",
        "fastapi>=0.120",
        "pydantic>=2.8",
        "uvicorn>=0.38",
        "prometheus-client>=0.21",
        *WEB,
    ],
    entry_points={"lm_eval.models": ["llm_jax = llm_jax.evals.harness:Model"]},
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "gpu": ["jax[cuda13]>=0.10.2,<0.13"],
        "hf": ["safetensors>=0.6", "gguf>=0.17"],  # models of others, in and out
        "lm_eval": ["lm_eval>=0.4.13,<0.5"],  # the field's harness; brings no PyTorch
        "gym": ["reasoning-gym>=0.1.25,<0.2"],  # its datasets as families to practise on
        "math": ["math-verify>=0.9,<0.10"],  # compares answers as expressions
        "clients": [  # what tests/serve/test_clients.py talks with
            "openai>=2,<3",  # llama-index has none newer
            "instructor>=1.13",
            "langchain-openai>=1",
            "litellm>=1.90",
            "lm_eval[api]>=0.4.13,<0.5",
            "llama-index-llms-openai-like>=0.8",
            "pydantic-ai-slim[openai]>=2",
        ],
        "test": [
            "psutil>=6",
            "pytest>=8",
            "safetensors>=0.6",
            "gguf>=0.17",
            "pytest-xdist>=3.7",
            "hypothesis>=6.130",
            "ruff>=0.14",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "openai>=1.60",
            "httpx",
            "jsonschema>=4.23",
            "playwright>=1.50",
            "pexpect>=4.9",
        ],
    },
)
