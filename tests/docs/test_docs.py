"""What the documentation says of the code is what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import make_docs

ROOT = Path(make_docs.__file__).parent.parent


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("process", "kind"), make_docs.PROCESSES)
def test_every_setting_has_a_help_text_and_a_name(process, kind):
    for name, field in kind.model_fields.items():
        assert field.description, (process, name)
        assert kind.names(name), (process, name)


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", *map(str, Path("docs").rglob("*.md"))]
)
def test_links_between_pages_lead_somewhere(page):
    import re

    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
