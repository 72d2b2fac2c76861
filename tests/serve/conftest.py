"""One run and one server for all tests of this folder."""

import pytest

from tests.conftest import drawn_params, tiny_config
from tests.serve.servers import make_run, serving

CONTEXT = 128


@pytest.fixture(scope="session")
def workdir(tmp_path_factory, tokenizer):
    config = tiny_config()
    config.data.sequence_length = CONTEXT
    params = {
        stage: drawn_params(config.model, tokenizer.vocab_size, seed) for seed, stage in enumerate(("pretrain", "sft"))
    }
    return make_run(tmp_path_factory.mktemp("served") / "run", config, tokenizer, params)


@pytest.fixture(scope="session")
def server(workdir):
    with serving(workdir, "--slots=4", "--max_queue=100") as running:
        yield running.wait()


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(scope="session")
def endless(tokenizer):
    """A bias that lets no answer end by itself."""
    return {str(tokenizer.end): -100}
