"""Emulators of object stores on loopback, one for all tests of a scheme."""

import importlib.util
import uuid

import pytest

from jfreq.testing import object_store

NEEDED = {"s3": ("s3fs", "moto", "flask_cors"), "gs": ("gcsfs", "gcp_storage_emulator")}


@pytest.fixture(scope="session", params=["s3", "gs"])
def store(request, tmp_path_factory):
    """The scheme of a store that this process and its children reach; it has one bucket."""
    for package in NEEDED[request.param]:
        if importlib.util.find_spec(package) is None:  # drivers read the environment as they load
            pytest.skip(f"{package} is not installed: make interop")
    with pytest.MonkeyPatch.context() as patch, object_store(request.param) as env:
        patch.setenv("JFREQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, value in env.items():
            patch.setenv(name, value)
        import fsspec
        from fsspec.config import conf

        patch.setitem(conf, "gcs", {"token": "anon"})  # it read the environment
        fsspec.filesystem(request.param).clear_instance_cache()
        yield request.param


@pytest.fixture
def url(store):
    """A folder of its own."""
    return f"{store}://bucket/{uuid.uuid4().hex}"
