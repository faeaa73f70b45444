"""``provision/provision_smq.py`` as people start it: any python3, any folder, nothing installed."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provision import env_file
from provision.credentials import complete
from tests.support.ports import free_port
from tests.support.supermq import identity

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "provision" / "provision_smq.py"
BARE = [sys.executable, "-I", "-S"]  # no environment, no site-packages: what `pip` installed is not there


async def run(command: list[str], cwd: Path, **environ: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_it_runs_bare_from_a_foreign_folder_and_again_changes_nothing(tmp_path):
    path, elsewhere = tmp_path / "my.env", tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with identity(tmp_path) as service:
        command = [*BARE, str(SCRIPT), *service.arguments, "--env-file", str(path)]
        status, out, err = await run(command, elsewhere)
        assert status == 0, err
        before = path.read_bytes()
        found = complete(env_file.read(path), 3)
        assert all(service.lets_in(client.id, client.key) for client in found.clients)
        assert all(client.key in out for client in found.clients)
        status, out, err = await run(command, elsewhere)
        assert (status, "Nothing changed" in out) == (0, True)
    assert path.read_bytes() == before
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(("folder", "script"), [(".", "provision/provision_smq.py"), ("provision", "provision_smq.py")])
async def test_the_env_file_is_the_one_beside_the_compose_file(tmp_path, folder, script):
    # A copy of the sources: through a link the script would find the env file of this working tree.
    root = tmp_path / "checkout"
    subprocess.run(["cp", "-r", str(ROOT / "provision"), str(ROOT / "swashplate"), str(tmp_path)], check=True)
    root.mkdir()
    for name in ("provision", "swashplate"):
        (tmp_path / name).rename(root / name)
    async with identity(tmp_path / "state") as service:
        urls = {f"SMQ_{name.upper()}_URL": url for name, url in service.urls.items()}
        status, _, err = await run([*BARE[:1], script], root / folder, **urls)
        assert status == 0, err
        assert (await service.clients())["manager"] == [env_file.read(root / ".env")["MANAGER_CLIENT_ID"]]


async def test_the_command_does_the_same_in_the_current_folder(tmp_path):
    async with identity(tmp_path) as service:
        command = [str(Path(sys.executable).with_name("swashplate")), "provision"]
        status, out, err = await run([*command, "supermq", *service.arguments, "--count", "1"], tmp_path)
        assert status == 0, err
        values = env_file.read(tmp_path / ".env")
        assert values["MANAGER_CLIENT_ID"] in out
        assert "PROPLET_2_CLIENT_ID" not in values
        status, out, err = await run([*command, "clear"], tmp_path)
        assert (status, "Blanked" in out) == (0, True), err
        status, out, err = await run([*command, "supermq", *service.arguments, "--password", "wrong"], tmp_path)
        assert status == 1
        assert err.splitlines()[-2].startswith("error: the users service")
        assert err.splitlines()[-1].startswith("hint: ")


async def test_a_mistake_is_a_sentence_and_a_hint_and_no_traceback(tmp_path):
    nowhere = f"http://127.0.0.1:{free_port()}"
    command = [*BARE, str(SCRIPT), "--wait", "0.1", "--env-file", ".env", "--users-url", nowhere]
    status, out, err = await run(command, tmp_path)
    assert (status, out) == (1, "")
    assert err.splitlines()[-2].startswith(f"error: the users service ({nowhere}) is not there after 0.1 s")
    assert err.splitlines()[-1].startswith("hint: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
async def test_killed_in_the_middle_and_started_again_it_makes_nothing_twice(tmp_path, sent):
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    async with identity(tmp_path, "hang@9") as service:
        command = [*BARE, str(SCRIPT), *service.arguments, "--env-file", str(path)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert process.stderr
        async with asyncio.timeout(30):
            while b"client proplet-3: made" not in await process.stderr.readline():
                pass
        process.send_signal(sent)
        err = (await process.stderr.read()).decode()
        assert await process.wait() != 0
        assert "Traceback" not in err
        assert path.read_text() == "A=1\n"
    async with identity(tmp_path) as service:
        status, _, err = await run([*command, *service.arguments], tmp_path)
        assert status == 0, err
        assert {len(ids) for ids in (await service.clients()).values()} == {1}
        assert {each.name for each in tmp_path.glob(".env*")} == {".env", ".env.bak"}


async def test_runs_at_once_wait_for_each_other_and_agree(tmp_path):
    async with identity(tmp_path, "delay@3=300") as service:
        command = [*BARE, str(SCRIPT), *service.arguments, "--env-file", str(tmp_path / ".env")]
        answers = await asyncio.gather(*(run(command, tmp_path) for _ in range(3)))
        assert [status for status, _, _ in answers] == [0, 0, 0]
        assert sorted("Nothing changed" in out for _, out, _ in answers) == [False, True, True]
        assert any("waiting for another run" in err for _, _, err in answers)
        assert {len(ids) for ids in (await service.clients()).values()} == {1}


async def test_who_stops_reading_the_output_is_no_error_to_shout_about(tmp_path):
    async with identity(tmp_path) as service:
        command = [*BARE, str(SCRIPT), *service.arguments, "--env-file", str(tmp_path / ".env")]
        reader, writer = os.pipe()
        os.close(reader)
        process = await asyncio.create_subprocess_exec(*command, stdout=writer, stderr=asyncio.subprocess.PIPE)
        os.close(writer)
        _, err = await process.communicate()
        assert b"Traceback" not in err
        assert env_file.read(tmp_path / ".env")["PROXY_CLIENT_KEY"]


def test_no_module_beside_the_script_has_the_name_of_one_of_pythons():
    names = {each.name.partition(".")[0] for each in (ROOT / "provision").iterdir()}
    assert not names & set(sys.stdlib_module_names)


def test_all_that_the_script_imports_is_understood_by_python_3_9():
    listing = "import sys, runpy, json; runpy.run_path(sys.argv[1]); "
    listing += "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('provision', 'swashplate')]))"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {listing}"
    files = json.loads(subprocess.check_output([*BARE, "-c", code, str(SCRIPT)], text=True))
    assert len(files) > 8
    for file in [*files, str(SCRIPT)]:
        text = Path(file).read_text()
        ast.parse(text, feature_version=(3, 9))
        assert "strict=" not in text  # zip() learned it in 3.10
        assert re.search(r"^from __future__ import annotations", text, re.MULTILINE) or "def " not in text


def test_pip_finds_nothing_to_install():
    command = [sys.executable, "-m", "pip", "install", "--no-index", "-r", str(ROOT / "provision" / "requirements.txt")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
