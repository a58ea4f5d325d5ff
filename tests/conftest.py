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

settings.register_profile("pagewire", deadline=None)  # a busy machine is not a slow test
settings.load_profile("pagewire")
