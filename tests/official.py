"""The small model of the parity tests, and what the official code said of it in words."""

import json
from pathlib import Path

FIXTURE = Path(__file__).parent / "fixtures" / "pixellm-a"
META = json.loads((FIXTURE / "meta.json").read_text())
