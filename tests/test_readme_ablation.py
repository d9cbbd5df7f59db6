"""The table of the ablations is the one that its numbers give."""

import json

from pixellm.drawn.arm_scores import ArmScores
from tests.readme_tree import ABLATION, ROOT, ablation
from workers.drawn.table import ArmResult, write_table
from workers.storage.memory import MemoryStore


def test_the_table_in_the_readme_has_the_means_of_the_numbers_beside_it():
    found = json.loads((ABLATION.parent / "table.json").read_text())
    results = [
        ArmResult(arm, int(seed), "", ArmScores(**scores), 0.0)
        for arm, seeds in found.items()
        for seed, scores in seeds.items()
    ]
    assert len(results) == 33
    assert write_table(MemoryStore(), "mem://b/study", results) == ablation()
    assert ablation() in (ROOT / "README.md").read_text(encoding="utf-8"), "run make docs"
