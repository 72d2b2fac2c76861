"""Real prose and code from the reader's own Python: language topics and the standard library's docstrings.

Read at run time, never copied; parsed, never imported.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.documents import split_of

MINIMUM = 200  # characters; shorter docstrings are not documents


def topics() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics as pages

    for name in sorted(pages):
        yield f"topic:{name}", pages[name]


def docstrings() -> Iterator[tuple[str, str]]:
    """One document for each module of the standard library: its docstrings, in order."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        yield f"module:{path.stem}", "\n\n".join(doc for doc in found if doc)


def python_documents(bytes_: int) -> Iterator[dict]:
    """Documents of at most about `bytes_` in all, half of them topics, half docstrings."""
    for pages in (topics(), docstrings()):
        left = bytes_ // 2
        for name, text in pages:
            text = text.strip().encode("utf-8", "ignore").decode()[: max(0, left)]
            if len(text) >= MINIMUM:
                yield {"id": name, "source": "python_docs", "text": text, "split": split_of(text)}
                left -= len(text.encode())
