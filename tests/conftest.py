"""One thread a process: in tests the idle helper threads of small matrix products cost the most."""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_CACHE = tempfile.mkdtemp(prefix="pagewire-test-cache-")
os.environ["PAGEWIRE_CACHE"] = _CACHE
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

# A busy machine is not a slow test. The gate draws the same examples each time; `make search` draws others.
settings.register_profile("gate", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("PAGEWIRE_EXAMPLES", "gate"))
