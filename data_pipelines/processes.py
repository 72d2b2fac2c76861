"""What the worker processes of `pack` and `web` share."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """For a worker to call first. If its parent is killed it would go on writing files that the next run writes too."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
