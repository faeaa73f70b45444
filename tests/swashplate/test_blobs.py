import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swashplate.blobs import BlobStore, sha256_digest
from swashplate.errors import IntegrityError, NotFoundError


@given(st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_put_is_read_back_under_its_digest(tmp_path, content):
    store = BlobStore(tmp_path)
    digest = store.put(content)
    assert digest == sha256_digest(content)
    assert store.read(digest) == content
    assert store.size(digest) == len(content)


def test_content_with_another_digest_is_refused_and_leaves_nothing(tmp_path):
    store = BlobStore(tmp_path)
    with pytest.raises(IntegrityError):
        store.put(b"abc", expected=sha256_digest(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_an_altered_file_is_noticed(tmp_path):
    store = BlobStore(tmp_path)
    digest = store.put(b"abc")
    store.path(digest).write_bytes(b"abd")
    with pytest.raises(IntegrityError):
        store.read(digest)


def test_what_is_there_is_not_written_again(tmp_path):
    store = BlobStore(tmp_path)
    digest = store.put(b"abc")
    written = store.path(digest).stat()
    assert BlobStore(tmp_path).put(b"abc") == digest
    assert store.put(b"abc") == digest
    assert store.path(digest).stat().st_ino == written.st_ino


def test_putting_it_again_repairs_what_was_altered_on_disk(tmp_path):
    store = BlobStore(tmp_path)
    digest = store.put(b"abc")
    assert store.holds(b"abc")
    store.path(digest).write_bytes(b"abd")
    assert not store.holds(b"abc")
    store.put(b"abc")
    assert store.read(digest) == b"abc"


def test_an_unknown_blob_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        BlobStore(tmp_path).read(sha256_digest(b"x"))


def test_a_writer_left_half_way_leaves_nothing(tmp_path):
    store = BlobStore(tmp_path)
    with store.writer() as writer:
        writer.write(b"half")
    assert store.digests() == []
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_crash_are_removed_at_the_next_start(tmp_path):
    (tmp_path / ".incoming-x").write_bytes(b"half")
    BlobStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
