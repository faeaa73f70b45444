"""What the guide shows is what runs: the reading of its blocks."""

import subprocess

import pytest

from scripts.guide_blocks import GUIDE, MARK, blocks, missing, script

PAGE = """\
# Page

## One

```bash up compose
echo one
# a comment, not a heading
```

```text
o...e
```

```bash compose
echo two
```

## Two

```bash up go
echo three
```

```bash
for reading
```

```text
not what anything prints
```
"""


def commands(*run: str) -> list[str]:
    return [block.command.splitlines()[0] for block in blocks(PAGE, set(run))]


def test_a_run_has_the_blocks_of_its_way_and_its_guest():
    assert commands("up", "c") == ["echo one"]
    assert commands("up", "go") == ["echo one", "echo three"]
    assert commands("compose", "c") == ["echo one", "echo two"]


def test_a_block_knows_its_heading_and_what_it_prints():
    one, three = blocks(PAGE, {"up", "go"})
    assert (one.heading, one.expected) == ("One", ("o...e",))
    assert (three.heading, three.expected) == ("Two", ())


def test_the_script_ends_at_the_first_failure_and_says_which_block_printed_what():
    found = blocks("```bash up\necho a\n```\n```bash up\necho b; false; echo never\n```\n", {"up"})
    done = subprocess.run(["bash", "-c", script(found)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == f"{MARK} 0\na\n{MARK} 1\nb\n"


@pytest.mark.parametrize(
    ("expected", "printed", "absent"),
    [
        (("a...c",), "abc\n", []),
        (("a",), "ab\n", ["a"]),
        (("x...", "x..."), "xy\n", ["x..."]),
        (("b", "a"), "a\nb\n", []),
        (("{...}",), "{1}\n", []),
    ],
)
def test_each_expected_line_needs_a_printed_line_of_its_own(expected, printed, absent):
    assert missing(expected, printed) == absent


@pytest.mark.parametrize("run", [{"up", "c"}, {"up", "go"}, {"compose", "c"}, {"compose", "go"}])
def test_every_way_through_the_guide_is_a_script(run):
    found = blocks(GUIDE.read_text(), run)
    checked = subprocess.run(["bash", "-n", "-c", script(found)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    headings = {block.heading.partition(":")[0] for block in found}
    assert {f"Step {n}" for n in (3, 4, 5, 6, 9)} <= headings
