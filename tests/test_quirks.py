import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pixellm"
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in (PACKAGE / "QUIRKS.md").read_text().splitlines()
    if line.startswith("| Q")
]


def test_every_quirk_has_one_row_and_a_verdict():
    assert [row[0] for row in ROWS] == [f"Q{number}" for number in range(1, 27)]
    assert {row[2] for row in ROWS} == {"reproduced", "fixed", "both", "not here"}
    assert all(len(row) == 5 for row in ROWS)


@pytest.mark.parametrize("row", [row for row in ROWS if row[2] != "not here"], ids=lambda r: r[0])
def test_what_a_row_points_to_is_there(row):
    places = re.findall(r"`([\w/]+\.py)` `(\w+)`", row[3])
    assert places
    for file, name in places:
        text = ((ROOT if file.startswith("workers/") else PACKAGE) / file).read_text()
        assert re.search(rf"^ *(def|class) {name}\b|^{name} = ", text, re.MULTILINE), (file, name)
