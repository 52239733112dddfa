"""Put the sources first on the path, so that a job runs where Marey's dependencies are installed but not Marey."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))
