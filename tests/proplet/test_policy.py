"""What the operator's policy makes of a task's wishes."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from proplet.policy.file import load
from proplet.policy.terms import RefusedError, resolved
from proplet.settings import PropletSettings
from swashplate.errors import ConfigurationError
from swashplate.messages import Start

MIB = 1 << 20
DIGEST = "sha256:" + "ab" * 32
SETTINGS = {"wall_s": 100.0, "cpu_s": 10.0, "memory_bytes": 512 * MIB, "output_files": 100, "stack_bytes": 65536}


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "scans").mkdir()

    def make(text="", *, isolation="warm", environ=None, settings=None):
        file = tmp_path / "policy.toml"
        file.write_text(text.replace("SCANS", str(tmp_path / "scans")))
        return load(file, settings or SETTINGS, isolation, environ or {}).policy

    return make


def start(**fields) -> Start:
    known = {"id": "t", "attempt": 1, "proplet_id": "p", "name": "n", "digest": DIGEST, "size": 1}
    return Start.model_validate({"image_url": "registry.example/team/app:1", **known, **fields})


def refusal(policy, **fields) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        resolved(start(**fields), policy)
    return caught.value


# Limits.


def test_who_asks_for_nothing_gets_the_settings(policy):
    terms = resolved(start(), policy())
    assert terms.allowed == SETTINGS
    assert (terms.limits.memory, terms.limits.files, terms.limits.cpu_s) == (512 * MIB, 100, 10.0)
    assert (terms.limits.wall_s, terms.limits.stack, terms.limits.fuel) == (100.0, 65536, 0)


def test_less_may_be_asked_for_and_more_is_refused_with_both_numbers(policy):
    terms = resolved(start(limits={"memory_bytes": MIB, "fuel": 5}), policy())
    assert (terms.limits.memory, terms.limits.fuel, terms.limits.files) == (MIB, 5, 100)
    error = refusal(policy(), limits={"memory_bytes": 1024 * MIB})
    assert error.code == "limit_over_ceiling"
    assert error.sentence == "limit memory: 1 GiB asked, at most 512 MiB allowed here (memory_bytes)"


def test_the_file_raises_ceilings_and_chooses_what_is_usual(policy):
    found = policy('[limits]\nmemory = "64MiB"\nfuel = 7\n[ceilings]\nmemory = "1GiB"\n')
    assert resolved(start(), found).limits.memory == 64 * MIB
    assert resolved(start(), found).limits.fuel == 7
    assert resolved(start(limits={"memory_bytes": 1024 * MIB}), found).limits.memory == 1024 * MIB
    assert refusal(found, limits={"memory_bytes": 1024 * MIB + 1}).code == "limit_over_ceiling"


def test_a_lowered_ceiling_lowers_what_is_usual_too(policy):
    found = policy('[ceilings]\nmemory = "32MiB"\nfuel = 9\n')
    assert resolved(start(), found).limits.memory == 32 * MIB
    assert resolved(start(), found).limits.fuel == 9


def test_a_daemon_has_any_time_unless_the_file_says_otherwise(policy):
    assert resolved(start(daemon=True), policy()).limits.wall_s == 0
    assert resolved(start(daemon=True, limits={"cpu_s": 1e6}), policy()).limits.cpu_s == 1e6
    held = policy('[ceilings]\ncpu = "1h"\n')
    assert resolved(start(daemon=True), held).limits.cpu_s == 3600
    assert refusal(held, daemon=True, limits={"cpu_s": 3601}).code == "limit_over_ceiling"


# Grants.

GRANTING = """
[directories.scans]
path = "SCANS"
write = true

[default]
env = ["SITE"]

[[grant]]
image = "registry.example/team/*"
directories = { scans = "read" }
isolation = "fork"

[[grant]]
digest = "sha256:%s"
directories = { scans = "write" }
isolation = "warm"
clock = false
""" % ("cd" * 32)


def asks(*, write=False, env=()):
    return {"directories": [{"name": "scans", "path": "/data", "write": write}], "env": list(env)}


def test_a_variable_that_is_granted_and_not_there_is_told_as_that(policy):
    error = refusal(policy('[default]\nenv = ["TZ"]\n'), capabilities={"env": ["TZ", "SITE"]})
    assert error.sentence == "this proplet's policy does not grant env TZ, which is not set there, env SITE"


def test_without_a_file_nothing_is_granted():
    nothing = load(None, SETTINGS, "warm", {"SITE": "north"}).policy
    error = refusal(nothing, capabilities=asks(env=["SITE"]))
    assert error.code == "capability_refused"
    assert error.sentence == "this proplet's policy does not grant directory scans at /data, env SITE"


def test_what_is_granted_to_the_image_is_given(policy, tmp_path):
    terms = resolved(start(capabilities=asks(env=["SITE"])), policy(GRANTING, environ={"SITE": "north"}))
    assert terms.directories == [(str(tmp_path / "scans"), "/data", False)]
    assert terms.env == {"SITE": "north"}
    assert terms.granted.granted == terms.granted.asked == ["directory scans at /data", "env SITE"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"capabilities": asks(write=True)}, "directory scans at /data to write"),
        ({"capabilities": asks(), "image_url": "registry.example/other/app:1"}, "directory scans at /data"),
        ({"capabilities": asks(), "image_url": "registry.example/team/a/b:1"}, "directory scans at /data"),
        ({"capabilities": asks(), "image_url": ""}, "directory scans at /data"),
        ({"capabilities": {"env": ["SITE"]}}, "env SITE, which is not set there"),
        ({"isolation": "warm"}, "isolation warm"),
    ],
)
def test_what_is_not_granted_is_named(policy, fields, named):
    error = refusal(policy(GRANTING), **fields)  # SITE is granted, but not set
    assert (error.code, error.sentence) == ("capability_refused", f"this proplet's policy does not grant {named}")


def test_grants_add_up_and_the_last_word_decides(policy, tmp_path):
    terms = resolved(start(digest="sha256:" + "cd" * 32, capabilities=asks(write=True)), policy(GRANTING))
    assert terms.directories == [(str(tmp_path / "scans"), "/data", True)]
    assert terms.isolation == "warm"
    assert (terms.clock, terms.random) == (False, True)
    assert terms.granted.refused == ["clock"]


def test_a_process_of_its_own_is_never_refused(policy):
    assert resolved(start(isolation="fork"), policy()).isolation == "fork"
    assert resolved(start(), policy()).isolation == "warm"
    assert resolved(start(), policy(isolation="fork")).isolation == "fork"


def test_no_host_can_be_granted(policy):
    error = refusal(policy(), capabilities={"http": ["example.org"]})
    assert error.code == "http_unsupported"
    assert "example.org" in error.sentence


# Signers.


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    """As the documentation makes one: a private key, and what goes into the policy."""
    file = tmp_path_factory.mktemp("keys") / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True)
    public = subprocess.run(["openssl", "pkey", "-in", file, "-pubout"], check=True, capture_output=True, text=True)
    return file, public.stdout


def signed(key, digest, tmp_path) -> str:
    """By another program than ours."""
    (tmp_path / "digest").write_text(digest)
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key[0], "-in", tmp_path / "digest"]
    return base64.b64encode(subprocess.run(command, check=True, capture_output=True).stdout).decode()


def test_who_signed_the_binary_decides(policy, key, tmp_path):
    found = policy(f'[signers.team]\npublic_key = """{key[1]}"""\n[[grant]]\nsigner = "team"\nclock = false\n')
    good = signed(key, DIGEST, tmp_path)
    assert resolved(start(signatures={"team": good}), found).clock is False
    assert resolved(start(), found).clock is True
    assert resolved(start(signatures={"stranger": good}), found).clock is True
    for wrong in (signed(key, "sha256:" + "00" * 32, tmp_path), "", "no base64!", good[:-8] + "AAAAAA=="):
        assert refusal(found, signatures={"team": wrong}).code == "signature_invalid"


def test_the_key_may_be_its_bare_bytes(policy, key, tmp_path):
    der = base64.b64decode("".join(key[1].splitlines()[1:-1]))
    bare = base64.b64encode(der[-32:]).decode()
    found = policy(f'[signers.team]\npublic_key = "{bare}"\n')
    assert resolved(start(signatures={"team": signed(key, DIGEST, tmp_path)}), found)


# The example.


def test_the_example_is_a_policy():
    example = Path(__file__).parents[2] / "examples" / "policy.toml"
    usual = {**SETTINGS, "output_bytes": 64 * MIB, "wall_s": 86400.0, "cpu_s": 3600.0}
    found = load(example, usual, "warm", {"TZ": "UTC"}).policy
    terms = resolved(start(capabilities={"env": ["TZ"]}), found)
    assert (terms.env, terms.limits.memory, terms.limits.cpu_s) == ({"TZ": "UTC"}, 256 * MIB, 600.0)
    public = {"directories": [{"name": "public", "path": "/data"}]}
    assert resolved(start(capabilities=public), found).directories == [("/usr/share", "/data", False)]
    assert refusal(found, capabilities=public, image_url="registry.example/other/app:1").code == "capability_refused"


# A wrong file.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[directories.scans]\npath = 'data'", "field directories.scans.path: must be an absolute path"),
        ("[directories.scans]\npath = '/no/such'", "field directories.scans.path: /no/such is no directory"),
        ("[default]\nenv = 'SITE'", "field default.env: Input should be a valid list"),
        ("[default]\ndirectories = { scans = 'read' }", "default.directories: there is no [directories.scans]"),
        (
            "[directories.scans]\npath = 'SCANS'\n[default]\ndirectories = { scans = 'write' }",
            "default.directories.scans: [directories.scans] does not have write = true",
        ),
        ("[[grant]]\nenv = ['A']", "field grant.1: needs image, digest or signer"),
        ("[[grant]]\nimage = '*'", "field grant.1.image: its first part must be written out"),
        ("[[grant]]\nimage = 'a/b'\n[[grant]]\nsigner = 'x'", "grant 2.signer: there is no [signers.x]"),
        ("[[grant]]\ndigest = 'sha256:ab'", "field grant.1.digest: String should match"),
        ("[signers.team]\npublic_key = 'AAAA'", "field signers.team.public_key: is neither PEM nor"),
        ("[limits]\nmemory = '64 MB or so'", "field limits: memory: '64 MB or so' is not a size"),
        ("[limits]\nmemories = 1", "field limits: there is no limit 'memories'"),
        ("[limits]\nmemory = '1GiB'", "field limits.memory: 1 GiB is over the ceiling of 512 MiB"),
        ("[ceilings]\nstack = '1GiB'", "field ceilings: stack: must be at most 2 MiB"),
        ("[ceilings]\nfiles = 1.5", "field ceilings: files: 1.5 is not a whole number"),
        ("[ceilings]\ncpu = true", "field ceilings: cpu: True is not an amount"),
        ("[ceilings]\ncpu = 'nan'", "field ceilings: cpu: 'nan' is not a duration"),
        ("isolation = 'warm'", "field isolation: there is no such field"),
        ("[default", "is not TOML"),
        ("a = " + "[" * 1000, "is not TOML: TOML inline arrays/tables are nested"),
        ("a = " + "9" * 10_000, "is not TOML: Exceeds the limit"),
    ],
)
def test_a_wrong_file_is_told_by_field_and_reason(policy, tmp_path, text, said):
    with pytest.raises(ConfigurationError) as caught:
        policy(text)
    assert caught.value.sentence.startswith(f"policy {tmp_path / 'policy.toml'}: {said}"), caught.value.sentence


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        load(tmp_path / "policy.toml", SETTINGS, "warm", {})


def test_the_settings_are_the_limits_and_0_is_none():
    known = {"PROPLET_DOMAIN_ID": "d", "PROPLET_CHANNEL_ID": "c", "PROPLET_CLIENT_ID": "p", "PROPLET_CLIENT_KEY": "k"}
    usual = PropletSettings.load(known).limits()
    assert (usual["memory_bytes"], usual["cpu_s"], usual["wall_s"]) == (512 * MIB, 3600.0, 86400.0)
    assert "cpu_s" not in PropletSettings.load({**known, "PROPLET_CPU_LIMIT": "0"}).limits()


@pytest.mark.parametrize("path", ["/", "/proc/self", "/sys", "/dev", "STATE", "STATE/modules", "ABOVE", "LINK"])
def test_no_task_can_be_let_into_the_proplet_itself(tmp_path, path):
    state = tmp_path / "above" / "state"
    (state / "modules").mkdir(parents=True)
    (tmp_path / "link").symlink_to(state)
    for name, folder in (("STATE", state), ("ABOVE", tmp_path / "above"), ("LINK", tmp_path / "link")):
        path = path.replace(name, str(folder))
    file = tmp_path / "policy.toml"
    file.write_text(f"[directories.all]\npath = '{path}'")
    with pytest.raises(ConfigurationError, match=r"field directories\.all\.path: .* has .* in it, or lies in it"):
        load(file, SETTINGS, "warm", {}, [state])
