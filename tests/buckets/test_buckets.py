"""What the emulators of S3 and of Google's store hold, seen through a second client."""

import fsspec
import pytest

from jfreq.buckets import Bucket, url_of
from jfreq.types import InputError

pytestmark = pytest.mark.interop


def seen(url):
    """Objects below a URL by name, as another client reads them."""
    scheme, _, root = url.partition("://")
    store = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)
    return {name[len(root) + 1 :]: store.cat_file(name) for name in store.find(root)}


@pytest.mark.parametrize(
    ("text", "url"),
    [("s3://b/x/", "s3://b/x"), ("gs:/b/x", "gs://b/x"), ("s3://b", "s3://b"), ("s3/b", None),
     ("az://b", None), ("/s3://b", None), ("s3://", None)],
)  # fmt: skip
def test_which_texts_are_urls(text, url):
    assert url_of(text) == url


def test_objects_come_back_as_they_went(url, tmp_path):
    bucket = Bucket(url, "workdir")
    assert bucket.sizes() == {} and bucket.read("a") is None
    bucket.write("a/1", b"one")
    bucket.write("ab", b"")
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 50_000)
    bucket.upload({"a/big": big})
    assert bucket.sizes() == {"a/1": 3, "ab": 0, "a/big": 12_800_000}
    assert bucket.sizes("a") == {"a/1": 3, "a/big": 12_800_000}
    assert (bucket / "a").sizes() == {"1": 3, "big": 12_800_000}
    bucket.download({"a/big": tmp_path / "x" / "copy", "gone": tmp_path / "gone"})
    assert (tmp_path / "x" / "copy").read_bytes() == big.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big", "x"]
    bucket.copy({"a/1": "b/1"})
    bucket.delete(["a/1", "a/big", "never"])
    assert seen(url) == {"ab": b"", "b/1": b"one"}


def test_one_of_two_creates(store, url):
    if store == "gs":
        pytest.skip("the emulator of Google's store does not know ifGenerationMatch")
    bucket = Bucket(url, "workdir")
    assert bucket.create("n", b"first")
    assert not bucket.create("n", b"second")
    assert bucket.create("n", b"first"), "asked again, it is told that it was the one"
    assert seen(url) == {"n": b"first"}


def test_a_bucket_that_does_not_exist(store):
    with pytest.raises(InputError, match=rf"^workdir: {store}://nowhere/x: there is no bucket no"):
        Bucket(f"{store}://nowhere/x", "workdir")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_driver_that_is_not_installed(scheme, package, monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install it")

    monkeypatch.setattr("fsspec.filesystem", missing)
    extra = {"s3": "s3", "gs": "gcs"}[scheme]
    with pytest.raises(
        InputError, match=rf"{package} is not installed; pip install 'jfreq\[{extra}"
    ):
        Bucket(f"{scheme}://bucket/x", "workdir")


class Refusing:
    """A store whose every answer is one error."""

    def __init__(self, error):
        self.error = error

    def exists(self, path):
        raise self.error


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (PermissionError("Access Denied"), "access to bucket b is denied, it cannot be read; give"),
        (NoCredentialsError("Unable to locate credentials"), "no credentials for it; run `aws con"),
        (ValueError("bad name"), "is not a name that the store takes"),
        (ConnectionError("refused"), r"the store does not answer \(refused\); try again later"),
    ],
)
def test_what_a_store_refuses(error, match, monkeypatch):
    monkeypatch.setattr("jfreq.buckets.PATIENCE_S", 0.0)
    monkeypatch.setattr("fsspec.filesystem", lambda *_, **__: Refusing(error))
    with pytest.raises(InputError, match=f"^out: s3://b/x: .*{match}"):
        Bucket("s3://b/x", "out")
