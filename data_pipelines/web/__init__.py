"""A web crawl becomes clean documents: the FineWeb recipe on datatrove, counted at every step."""

import os

from loguru import logger

# Its workers would print every pipeline and every task; what went wrong reaches the user as an exception.
logger.disable("datatrove")
os.environ.setdefault("TQDM_DISABLE", "1")
